"""transformers, by one thread at a time: it isn't made for two.

Its first import fails in a second thread that comes meanwhile. And while it loads a model it sets what is the process's: torch's
number format, the functions that initialise weights, its own verbosity. Of two threads the second would take the first one's
settings for those that were there before, and put them back for good.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()


@contextmanager
def alone() -> Iterator[None]:
    """Hold this while transformers is imported, and while it loads something."""
    with _lock:
        yield


def _forget() -> None:
    """In a forked child: whoever held the lock isn't there."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows, which doesn't fork
    os.register_at_fork(after_in_child=_forget)
