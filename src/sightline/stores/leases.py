"""One writer per collection on a server: a lease that names its holder, is renewed while it lives, and ends when it is dead.

A server has no lock that it frees by itself, so the lease is a record beside the collection. Its holder renews it every
`HEARTBEAT_S`; a holder of this machine whose process is gone is replaced at once, any other after `STALE_S` without a sign of
life (by the clocks of both machines) or when the caller says so. No server that we know makes taking over wholly safe, so a
holder reads the lease again (`check`) before everything that could hurt a successor.
"""

from __future__ import annotations

import logging
import os
import shlex
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from sightline.errors import StoreLocked
from sightline.patience import at_most

HEARTBEAT_S = 20.0
STALE_S = 300.0
# Who closes has done what he could: the lease runs out, or is taken over, where the server is away just then.
PARTING_S = 3.0

_log = logging.getLogger(__name__)
# Runs of this process. A restarted container often has the process id of the one before it, and that one is dead.
_OWN_RUNS: set[str] = set()

if sys.platform == "win32":
    import ctypes

    _QUERY_LIMITED_INFORMATION, _ACCESS_DENIED, _STILL_ACTIVE = 0x1000, 5, 259

    def is_running(pid: int) -> bool:
        """Whether this machine has a process of that id."""
        # Not os.kill: on Windows it ends the process.
        kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        handle = kernel.OpenProcess(_QUERY_LIMITED_INFORMATION, False, pid)
        if not handle:
            return ctypes.get_last_error() == _ACCESS_DENIED
        code = ctypes.c_ulong()
        kernel.GetExitCodeProcess(handle, ctypes.byref(code))
        kernel.CloseHandle(handle)
        return code.value == _STILL_ACTIVE

else:

    def is_running(pid: int) -> bool:
        """Whether this machine has a process of that id."""
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:
            return True
        return True


class LeaseTable(Protocol):
    """Where a server keeps the lease: a collection `NAME.writer`, whose creation fails when it exists.

    Records are flat: texts, integers and floats. All methods raise StoreError where the server can't be asked.
    """

    def create(self, record: Mapping[str, Any]) -> bool:
        """Put the record there; False when there is one already."""
    def read(self) -> Mapping[str, Any] | None:
        """The record that is there now."""
    def replace(self, record: Mapping[str, Any]) -> None:
        """Put this record in the place of the one that was read or created last."""
    def remove(self) -> None:
        """Remove the record that was read or created last; where the server can tell, no newer one. Gone already is fine."""


class Lease:
    """The right to write, held from `acquire` to `release`."""

    def __init__(
        self, table: LeaseTable, url: str, *, clock: Callable[[], float] = time.time, heartbeat_s: float = HEARTBEAT_S
    ) -> None:
        self._table = table
        self._url = url
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._run = uuid.uuid4().hex
        self._since = 0.0
        self._guard = threading.Lock()  # a table remembers what it read, so reading and acting on it is one step
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lost = False

    def acquire(self, *, take_over: bool = False) -> None:
        """Take the lease at once; taking it twice is fine and asks the server nothing.

        Raises:
            StoreLocked: another run holds it. `take_over` takes it all the same.
        """
        with self._guard:
            if self._lost:
                raise self._taken_over()
            if self._thread is not None:
                return
            self._since = self._clock()
            self._stop.clear()
            _OWN_RUNS.add(self._run)  # first: another thread that finds the lease must see that its run lives
            try:
                self._take(take_over)
            except BaseException:
                _OWN_RUNS.discard(self._run)
                raise
            self._thread = threading.Thread(target=self._beat, name=f"sightline-lease-{self._run[:8]}", daemon=True)
            self._thread.start()

    def check(self) -> None:
        """Raise StoreLocked when this run no longer holds the lease."""
        with self._guard:
            self._lost = self._lost or not self._is_mine(self._table.read())
            if self._lost:
                raise self._taken_over()

    def release(self) -> None:
        """Stop renewing and remove the lease, unless another run has it. Releasing twice is fine."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._stop.set()
        thread.join()
        _OWN_RUNS.discard(self._run)
        with self._guard:
            if self._is_mine(self._table.read()):
                self._table.remove()

    def _take(self, take_over: bool) -> None:
        """Put our record there, in the place of one that is over."""
        record = self._record()
        if self._table.create(record):
            return
        found = self._table.read()
        if self._is_mine(found):  # the answer to an earlier attempt got lost
            return
        if found is not None:  # None: it was released in between
            if not (take_over or self._is_over(found)):
                raise StoreLocked(self._held_by(found))
            _log.warning("taking over the lease of %s from %s", self._url, _name(found))
            self._table.remove()
        if not self._table.create(record):
            found = self._table.read()
            if not self._is_mine(found):  # somebody else was quicker
                raise StoreLocked(self._held_by(found or {}))

    def _beat(self) -> None:
        with at_most(0):  # the next beat is the next attempt; whoever needs the guard meanwhile has patience of his own
            self._beat_on()

    def _beat_on(self) -> None:
        while not self._stop.wait(self._heartbeat_s):
            try:
                with self._guard:
                    if not self._is_mine(self._table.read()):
                        self._lost = True
                        return
                    self._table.replace(self._record())
            except Exception as error:  # noqa: BLE001  # the network may be back at the next beat, and `check` asks for itself
                # What lies below: the error itself says what to do about a run that has ended.
                cause = error.__cause__ or error
                _log.warning("the lease of %s was not renewed, trying again in %g s: %s", self._url, self._heartbeat_s, cause)

    def _record(self) -> dict[str, Any]:
        return {
            "run": self._run, "host": socket.gethostname(), "machine": _machine(), "pid": os.getpid(),
            "since": self._since, "at": self._clock(),
        }  # fmt: skip

    def _is_mine(self, found: Mapping[str, Any] | None) -> bool:
        return found is not None and found.get("run") == self._run

    def _is_over(self, found: Mapping[str, Any]) -> bool:
        """Whether the holder is surely dead, or gave no sign of life for too long."""
        if self._clock() - float(found.get("at", 0)) > STALE_S:
            return True
        here = found.get("host") == socket.gethostname() and found.get("machine", _machine()) == _machine()
        pid = int(found.get("pid", 0))
        if not here or pid <= 0:
            return False
        return found.get("run") not in _OWN_RUNS if pid == os.getpid() else not is_running(pid)

    def _taken_over(self) -> StoreLocked:
        return StoreLocked(
            f"This run no longer holds the right to write to {self._url}: another run took it over. What was written is kept;"
            " let the other run finish, then start this one again."
        )

    def _held_by(self, found: Mapping[str, Any]) -> str:
        silent = max(0, round(self._clock() - float(found.get("at", self._clock()))))
        return (
            f"{self._url} is being written by {_name(found)}, last seen {silent} s ago. Wait until it is done; a dead one is"
            f" replaced after {STALE_S:g} s, or at once with: sightline index PATH --into {shlex.quote(self._url)} --take-over"
        )


def _name(found: Mapping[str, Any]) -> str:
    if found.get("run") in _OWN_RUNS:
        return "another store object of this process"
    since = datetime.fromtimestamp(float(found.get("since", found.get("at", 0))), UTC)
    return f"run {found.get('run')} (process {found.get('pid')} on {found.get('host')}, since {since:%Y-%m-%d %H:%M:%S} UTC)"


def _machine() -> str:
    """What tells machines and containers of one host name apart; a process id means something within one only."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return ""
