"""What signals do to a command: the first one ends it in order, the second sees that it takes seconds at most, a third ends it.

In order means that what is being written is finished, and that the store is closed and its lock or lease given up. Nothing is
lost by less than that either: the same command mends what was left.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

INTERRUPTED, TERMINATED = 130, 143
# What takes longer than this to end is told; and once more is not waited for longer than that.
_TELL_AFTER_S, _GRACE_S = 1.0, 5.0
_AGAIN_S = 0.05


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


def exit_code(error: BaseException | None) -> int:
    """The exit code of a command that was ended by a signal."""
    return TERMINATED if isinstance(error, Terminated) else INTERRUPTED


class Signals:
    """Turns SIGINT and SIGTERM into exceptions of the main thread. A context manager: leaving it puts back what was there.

    A signal that the caller ignores (as a shell does for what it starts in the background) or handles is left to it.
    """

    def __init__(self) -> None:
        self._count = 0
        self._is_over = False
        self._is_put_off = False
        self._kept: dict[int, Any] = {}
        self._timers: list[threading.Timer] = []

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
                    self._kept[number] = signal.signal(number, self._interrupt)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._is_over = True
        for timer in self._timers:
            timer.cancel()
        if not self._count:
            for number, handler in self._kept.items():
                signal.signal(number, handler)

    def leave(self, code: int) -> NoReturn:
        """End the process. After a signal all is closed, so nothing waits for an embedder that is in the middle of a batch."""
        if self._count:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError):  # nobody reads it any more
                    stream.flush()
            os._exit(code)
        sys.exit(code)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        error = Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
        if self._is_put_off:
            self._is_put_off = False
        else:
            self._count += 1
            if self._count == 2:
                _say("Interrupted once more: it ends within seconds. The same command goes on where this one stopped.")
                self._after(_GRACE_S, lambda: os._exit(exit_code(error)))
                return  # an exception now might end what the first one began: giving up the lease of a server, for one
            self._after(_TELL_AFTER_S, lambda: _say("Interrupted: what is in progress is finished first. Once more waits less."))
        if self._count > 2 or self._is_over:
            os._exit(exit_code(error))
        if _is_importing(frame):
            self._is_put_off = True
            self._after(_AGAIN_S, lambda: os.kill(os.getpid(), number))
            return
        raise error

    def _after(self, seconds: float, call: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, call)
        timer.daemon = True
        timer.start()
        self._timers.append(timer)


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported: torch ends the process when an exception comes in the middle of that."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _say(text: str) -> None:
    """A line to stderr, past Python's own buffers: a signal may come in the middle of one that is being written."""
    os.write(2, f"{text}\n".encode())
