"""Threads that wait for a server's answers: the most urgent request first, and one lane that bulk work never takes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from sightline.types import Priority

Job = Callable[[], None]


class Lanes:
    """At most `count` requests on their way at a time.

    Bulk work has all lanes but one, so that a lone question never waits for a lane; with a single lane it waits for one request.
    Jobs handle their own errors.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count, self._name = count, name
        self._bulk_lanes = max(1, count - 1)
        self._waiting: dict[Priority, deque[Job]] = {priority: deque() for priority in Priority}
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._idle = self._bulk_running = 0
        self._closed = False

    def put(self, priority: Priority, jobs: list[Job]) -> bool:
        """Queue jobs behind those of the same priority; False, and none is taken, once the lanes are closed."""
        with self._changed:
            if self._closed:
                return False
            self._waiting[priority].extend(jobs)
            waiting = sum(map(len, self._waiting.values()))  # all of them: who was woken for one is idle until he has taken it
            for _ in range(min(waiting - self._idle, self._count - len(self._threads))):
                thread = threading.Thread(target=self._run, name=f"{self._name}-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._changed.notify_all()
            return True

    def close(self) -> list[Job]:
        """Take no more, and give back what waited; what is on its way comes to its end by itself."""
        with self._changed:
            self._closed = True
            left = [job for waiting in self._waiting.values() for job in waiting]
            for waiting in self._waiting.values():
                waiting.clear()
            self._changed.notify_all()
            return left

    def _run(self) -> None:
        while True:
            with self._changed:
                while (next_one := self._next()) is None:
                    if self._closed:
                        return
                    self._idle += 1
                    self._changed.wait()
                    self._idle -= 1
                priority, job = next_one
                self._bulk_running += priority is Priority.BULK
            try:
                job()
            finally:
                with self._changed:
                    self._bulk_running -= priority is Priority.BULK
                    self._changed.notify_all()

    def _next(self) -> tuple[Priority, Job] | None:
        for priority in sorted(Priority):
            may_begin = priority is not Priority.BULK or self._bulk_running < self._bulk_lanes
            if self._waiting[priority] and may_begin:
                return priority, self._waiting[priority].popleft()
        return None
