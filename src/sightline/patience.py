"""How long a caller is ready to wait for a server that is away.

Between who decides (a run that is stopped, a lease that renews itself, a store that closes) and who waits (a request that is
tried again) lie many calls that have nothing to say about it, so it goes with the thread instead of with the arguments.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to try again: `seconds` at most, and no longer than until `over` is set."""

    seconds: float = math.inf
    over: threading.Event = field(default_factory=threading.Event)


_PATIENCE: ContextVar[Patience] = ContextVar("sightline_patience", default=Patience())  # noqa: B039  # that event is never set


def patience() -> Patience:
    """What holds for this thread now."""
    return _PATIENCE.get()


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Nothing in the block is tried again for longer than this; 0 is one attempt."""
    known = patience()
    with _set(replace(known, seconds=min(seconds, known.seconds))):
        yield


@contextmanager
def until(over: threading.Event) -> Iterator[None]:
    """Nothing in the block is tried again once `over` is set."""
    with _set(replace(patience(), over=over)):
        yield


@contextmanager
def _set(value: Patience) -> Iterator[None]:
    token = _PATIENCE.set(value)
    try:
        yield
    finally:
        _PATIENCE.reset(token)
