"""A copy of a database's directory, for who may write nothing: each of the databases writes as soon as it is opened.

The copy is of one moment: a directory that another process writes to is refused, as a second writer would be, and an Edge shard
is copied while it is our turn, as any reader would open it. No lock outlasts the copying.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from sightline.errors import StoreError, StoreLocked
from sightline.stores.locks import LOCK_NAME, held_by
from sightline.stores.turns import Turn

_BLOCK = 1 << 20
_TRIES = 3


def copy_database(url: str, directory: Path, into: Path, names: Sequence[str]) -> Path:
    """Copy a database to the new directory `into` and return that; `directory` itself where there is no database.

    Args:
        url: The store's, for messages.
        directory: Where the database is.
        into: Where its copy goes.
        names: Globs of what belongs to it; the first is the file without which there is none.

    Raises:
        StoreLocked: Another process writes to it.
        StoreError: It can't be read, or there is no room for a copy.
    """
    if not (directory / names[0]).is_file():
        return directory
    for _ in range(_TRIES):
        began = _last_write(url, directory)
        try:
            _copy(url, directory, into, names)
        except OSError as error:
            if _last_write(url, directory) == began:
                raise StoreError(
                    f"{url} can't be copied to {into.parent}: {error}. What only reads works on a copy, because the database"
                    " writes when it is opened; TMPDIR says where it goes."
                ) from error
        if _last_write(url, directory) == began:
            return into
        shutil.rmtree(into, ignore_errors=True)
    raise StoreLocked(f"{url} was written to again and again while it was copied. Wait until that is over, then try again.")


def _last_write(url: str, directory: Path) -> int:
    """When somebody last became the writer or ceased to be, in ns; raise StoreLocked while there is one."""
    holder = held_by(directory / LOCK_NAME)
    if holder is not None:
        raise StoreLocked(f"{url} is held by {holder}. Wait until it is done or close it, then try again.")
    try:
        return (directory / LOCK_NAME).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _copy(url: str, directory: Path, into: Path, names: Sequence[str]) -> None:
    found = sorted({entry for name in names for entry in directory.glob(name)} - {directory / LOCK_NAME})
    into.mkdir(parents=True)
    for entry in found:
        if entry.is_dir():
            with ExitStack() as held:
                # Where nothing may be written nobody can have a turn.
                if entry.with_name(f"{entry.name}.lock").exists() and os.access(directory, os.W_OK):
                    turn = Turn(entry, url, threading.RLock(), lambda: None)
                    turn.take()
                    held.callback(turn.release)
                shutil.copytree(entry, into / entry.name, copy_function=_copy_file)
        else:
            _copy_file(str(entry), str(into / entry.name))


def _copy_file(source: str, target: str) -> None:
    """Copy what a file holds; databases lay out files that are mostly holes, and those stay holes."""
    with open(source, "rb") as reading, open(target, "wb") as writing:
        size = os.fstat(reading.fileno()).st_size
        for start, end in _extents(reading.fileno(), size):
            reading.seek(start)
            writing.seek(start)
            while start < end:
                block = reading.read(min(_BLOCK, end - start))
                if not block:
                    break
                writing.write(block)
                start += len(block)
        writing.truncate(size)


def _extents(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a file has data, as far as the system says."""
    if not hasattr(os, "SEEK_DATA"):
        yield 0, size
        return
    end = 0
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError:  # no data behind here
            return
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, end
