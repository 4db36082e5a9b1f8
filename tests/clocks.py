"""A clock for tests that wait for nothing."""

from __future__ import annotations

import threading


class Clock:
    """Seconds that pass only when somebody sleeps: a minute's outage takes no time, and what was waited is noted."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        with self._lock:
            self.now += seconds
            self.waits.append(seconds)
