"""What a fork means for what is open: connections, locks and engines belong to the process that opened them.

A forked child has copies of them without the threads behind them: to use one waits for ever, or writes over what the parent
writes; to close one gives back what the parent still needs. So a child's copy refuses use, and closing it does nothing.
"""

from __future__ import annotations

import ctypes
import os

from sightline.errors import StoreError


class Opener:
    """The process that opened something: the one that makes this object."""

    def __init__(self) -> None:
        self._process = os.getpid()

    @property
    def is_here(self) -> bool:
        """Whether it is this process, and no child that was forked from it."""
        return self._process == os.getpid()

    def check(self, url: str) -> None:
        """Raise StoreError in a forked child."""
        if not self.is_here:
            raise StoreError(
                f"{url} was opened before this process was forked, so its connection and its locks are the parent's. Open it"
                " after the fork, in the child."
            )


def never_free(one: object) -> None:
    """Keep an object until the process is gone: what would free it waits for threads that a forked child doesn't have."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(one))
