"""What lets the stages overlap: threads joined by bounded queues, and one failure that stops them all."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from sightline.patience import until

T = TypeVar("T")


class Stopped(Exception):
    """Another stage failed, so this one ends."""


class Background:
    """Runs stages beside the caller's thread. On leaving, all of them are over; the first failure is raised as it was."""

    def __init__(self) -> None:
        self._channels: list[_Channel[Any]] = []
        self._threads: list[threading.Thread] = []
        self._callbacks: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._stopped = False
        self._over = threading.Event()
        self._patience = until(self._over)  # who waits for a server that is away must not keep a stopped run waiting

    def ahead(self, items: Iterable[T], *, depth: int) -> Iterator[T]:
        """Draw `items` in a thread of its own, at most `depth` of them ahead of the caller."""
        channel: _Channel[T] = self._channel(depth)

        def draw() -> None:
            for item in items:
                channel.put(item)
            channel.finish()

        self._start(draw, "sightline-reader")
        return iter(channel)

    def hand_over(self, items: Iterable[T], work: Callable[[T], None], *, depth: int) -> None:
        """Draw `items` in this thread and `work` on them in another, at most `depth` behind; returns when all is done."""
        channel: _Channel[T] = self._channel(depth)

        def consume() -> None:
            for item in channel:
                work(item)

        thread = self._start(consume, "sightline-writer")
        for item in items:
            channel.put(item)
        channel.finish()
        thread.join()

    def when_stopped(self, callback: Callable[[], None]) -> None:
        """Call `callback` when a stage fails, to wake a caller who waits on something else than a queue."""
        self._callbacks.append(callback)

    def __enter__(self) -> Self:
        self._patience.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._patience.__exit__(None, None, None)
        self._stop()
        for thread in self._threads:
            thread.join()
        # A stage's failure is the cause of what the caller's thread met, unless that is Ctrl-C or the like.
        if self._error is not None and (error is None or isinstance(error, Exception)):
            raise self._error

    def _channel(self, depth: int) -> _Channel[Any]:
        channel: _Channel[Any] = _Channel(depth)
        with self._lock:
            self._channels.append(channel)
            stopped = self._stopped
        if stopped:  # a stage failed before this one was begun
            channel.stop()
        return channel

    def _start(self, stage: Callable[[], None], name: str) -> threading.Thread:
        # Daemon: a second Ctrl-C while the first is waiting for a thread must not hang the interpreter's exit.
        thread = threading.Thread(target=self._guarded, args=(stage,), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _guarded(self, stage: Callable[[], None]) -> None:
        try:
            with until(self._over):
                stage()
        except Stopped:
            return
        except BaseException as error:  # noqa: BLE001 - a thread has nobody to raise to: __exit__ does it in the caller's
            with self._lock:
                self._error = self._error or error
            self._stop()

    def _stop(self) -> None:
        self._over.set()
        with self._lock:
            self._stopped = True
            channels = list(self._channels)
        for channel in channels:
            channel.stop()
        if self._error is not None:
            for callback in self._callbacks:
                callback()


class _Channel(Generic[T]):
    """A bounded queue with an end, which can be stopped from either side."""

    def __init__(self, depth: int) -> None:
        self._items: deque[T] = deque()
        self._depth = depth
        self._changed = threading.Condition()
        self._finished = False
        self._stopped = False

    def put(self, item: T) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or len(self._items) < self._depth)
            if self._stopped:
                raise Stopped
            self._items.append(item)
            self._changed.notify_all()

    def finish(self) -> None:
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._finished or bool(self._items))
                if self._stopped:
                    raise Stopped
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
