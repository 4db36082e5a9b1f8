"""A clock for tests that wait for nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Clock:
    """Seconds that pass only when somebody sleeps: a minute's outage takes no time, and what was waited is noted."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []
        self._due: list[tuple[float, Callable[[], None]]] = []
        self._lock = threading.RLock()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass, and what is due happen."""
        with self._lock:
            self.now += seconds
            self.waits.append(seconds)
            due = [what for moment, what in self._due if moment <= self.now]
            self._due = [(moment, what) for moment, what in self._due if moment > self.now]
            for what in due:
                what()

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        """Let something happen so many seconds from now."""
        self._due.append((self.now + seconds, what))
