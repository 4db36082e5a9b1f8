"""Taking turns with what lets only one process in at a time: whoever has it gives it up when somebody else wants it.

Two files beside the thing: `NAME.lock`, held by a system lock that ends with its process, and `NAME.wanted`, whose time of change
a waiting process keeps fresh. The holder looks at it before each operation, and from a thread of its own while it has none. So
a search needn't wait for the end of an index run, nor an index run for an application that keeps its collection open.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sightline.errors import StoreError, StoreLocked
from sightline.stores.locks import FileLock
from sightline.stores.room import disk_full, is_full

# A request that nobody has renewed for so long is of a process that is gone.
_STALE_S = 1.0
_POLL_S = 0.02
_WATCH_S = 0.05
# Whoever has just got in may do something before the next one is let in, however many are waiting.
_LEAST_HOLD_S = 0.25
_TELL_AFTER_S = 1.0
WAIT_S = 60.0

_log = logging.getLogger(__name__)


class Turn:
    """The right to have `path` open. `give_up` closes it; it is called with `guard` held, and at any time between operations."""

    def __init__(self, path: Path, url: str, guard: threading.RLock, give_up: Callable[[], None]) -> None:
        self._lock = FileLock(path.with_name(path.name + ".lock"))
        self._wanted = path.with_name(path.name + ".wanted")
        self._url = url
        self._guard = guard
        self._give_up = give_up
        self._since = 0.0
        self._stop = threading.Event()

    @property
    def is_held(self) -> bool:
        """Whether it is our turn."""
        return self._lock.is_held

    def take(self) -> None:
        """Wait until the other one gives up; raise StoreLocked, which names it, when that takes longer than a minute."""
        if self._lock.is_held:
            return
        began = time.monotonic()
        told = False
        while not self._try():
            waited = time.monotonic() - began
            if waited > WAIT_S:
                raise StoreLocked(
                    f"{self._url} is held by {self._lock.holder()}, which didn't let go for {waited:.0f} s. Wait until it is"
                    " done or close it, then try again."
                )
            if waited > _TELL_AFTER_S and not told:
                told = True
                _log.warning("waiting for %s, which has %s open", self._lock.holder(), self._url)
            self._wanted.touch()
            time.sleep(_POLL_S)
        # Ours is met; another one who waits renews his own at once.
        self._wanted.unlink(missing_ok=True)
        self._since = time.monotonic()
        self._stop = threading.Event()
        threading.Thread(target=self._watch, args=(self._stop,), name="sightline-turn", daemon=True).start()

    def _try(self) -> bool:
        try:
            return self._lock.try_acquire()
        except OSError as error:
            if is_full(error):
                raise disk_full(self._url, self._wanted.parent) from error
            raise StoreError(
                f"{self._url} can't be opened: {error}. Its directory must be writable, for readers too: they lock what they"
                " read. Make it so, or copy it to where it is."
            ) from error

    def is_over(self) -> bool:
        """Whether somebody waits, and we had our time."""
        return time.monotonic() - self._since >= _LEAST_HOLD_S and self._is_wanted()

    def release(self, *, yielding: bool = False) -> None:
        """Let the next one in; `yielding` waits a moment, so that it isn't us again."""
        self._stop.set()
        self._lock.release()
        if yielding:
            time.sleep(2 * _POLL_S)

    def _is_wanted(self) -> bool:
        try:
            return time.time() - self._wanted.stat().st_mtime < _STALE_S
        except FileNotFoundError:
            return False

    def _watch(self, stop: threading.Event) -> None:
        """Give up between operations, when nobody calls us."""
        while not stop.wait(_WATCH_S):
            with suppress(OSError):  # the directory may be gone; the next operation says so
                if self.is_over() and self._guard.acquire(blocking=False):
                    try:
                        if not stop.is_set():
                            self._give_up()
                    finally:
                        self._guard.release()
