"""One writer per directory: a lock file that names its holder and that the system frees when the holder dies."""

from __future__ import annotations

import json
import os
import socket
import sys
import weakref
from pathlib import Path

from sightline.errors import StoreError, StoreLocked
from sightline.stores.room import disk_full, is_full

LOCK_NAME = ".sightline.lock"
# What systems say of a lock that somebody has; anything else is a file system that can't lock.
_HELD = (BlockingIOError, PermissionError)

if sys.platform == "win32":
    import msvcrt

    # Windows locks bytes against reading too: a byte far behind the text leaves the holder's name readable.
    _BYTE = 1 << 30

    def _try_lock(descriptor: int) -> None:
        os.lseek(descriptor, _BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

    def _unlock(descriptor: int) -> None:
        os.lseek(descriptor, _BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(descriptor: int) -> None:
        # flock, not lockf: lockf belongs to the process, so a second store in the same process would get it too.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


class FileLock:
    """An exclusive lock on a file that names its holder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        _locks.add(self)

    @property
    def is_held(self) -> bool:
        """Whether this object has the lock."""
        return self._descriptor is not None

    def try_acquire(self) -> bool:
        """Take the lock if it is free; raise OSError where there can't be such a file, or no lock on it."""
        if self._descriptor is not None:
            return True
        # Not through a link: what it leads to would be emptied.
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            _try_lock(descriptor)
            _write_name(descriptor)
        except _HELD:
            os.close(descriptor)
            return False
        except BaseException:
            os.close(descriptor)  # which frees the lock
            raise
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Free the lock. The file stays: removing it would race with whoever waits for it. Releasing twice is fine."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        try:
            os.ftruncate(descriptor, 0)
            _unlock(descriptor)
        finally:
            os.close(descriptor)

    def holder(self) -> str:
        """Who has the lock, in words."""
        return _named_in(self._path)


def held_by(path: Path) -> str | None:
    """Who has the lock on a file, in words, found without taking or writing it; None is nobody."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        _try_lock(descriptor)
        _unlock(descriptor)
    except _HELD:
        return _named_in(path)
    finally:
        os.close(descriptor)
    return None


def _named_in(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        pid, host = holder["pid"], holder["host"]
        is_us = (pid, host) == tuple(_own_name().values())
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"  # it holds the lock but hasn't written its name yet
    return "another store object of this process" if is_us else f"process {pid} on {host}"


def _write_name(descriptor: int) -> None:
    """Say who holds the file. On a full disk nobody can; the lock holds without it, and who reads needs no more."""
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        os.write(descriptor, json.dumps(_own_name()).encode())
    except OSError as error:
        if not is_full(error):
            raise


def _own_name() -> dict[str, int | str]:
    return {"pid": os.getpid(), "host": socket.gethostname()}


_locks: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _forget() -> None:
    """In a forked child: the parent's locks are the parent's. To free one here would free it there; to keep it open, never."""
    for lock in _locks:
        if lock._descriptor is not None:
            os.close(lock._descriptor)
            lock._descriptor = None


if hasattr(os, "register_at_fork"):  # not on Windows, which doesn't fork
    os.register_at_fork(after_in_child=_forget)


class DirectoryLock:
    """The only writer of a directory that exists. Taking or releasing it twice is fine."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = FileLock(directory / LOCK_NAME)

    @property
    def is_held(self) -> bool:
        """Whether this object has the lock."""
        return self._lock.is_held

    def acquire(self, url: str) -> None:
        """Take the lock at once or raise StoreLocked, which names the holder."""
        try:
            taken = self._lock.try_acquire()
        except OSError as error:
            if is_full(error):
                raise disk_full(url, self._directory) from error
            raise StoreError(
                f"{url} can't be locked: {error}. The directory must be writable, on a file system that has locks."
            ) from error
        if not taken:
            raise StoreLocked(f"{url} is held by {self._lock.holder()}. Wait until it is done or close it, then try again.")

    def release(self) -> None:
        """Free the lock."""
        self._lock.release()
