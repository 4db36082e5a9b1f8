"""qdrant-client's local mode: one process at a time, one call at a time, and only in directories that bear our mark.

It unpickles what it finds, so what somebody else put there is not opened; and as anybody could copy our mark, what bears it is
looked through before the client gets it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from qdrant_client import QdrantClient

from sightline.errors import StoreError, StoreLocked, UsageError
from sightline.stores.checks import directory_bytes, make_directory, store_closed
from sightline.stores.forks import never_free
from sightline.stores.locks import LOCK_NAME, DirectoryLock
from sightline.stores.qdrant_database import Call, Database, T
from sightline.stores.qdrant_errors import named_errors, without_client_warnings
from sightline.stores.qdrant_pickles import refuse_code
from sightline.stores.room import disk_full, is_full

_log = logging.getLogger(__name__)
MARK_NAME = "sightline-qdrant.json"
_TEMPORARY = f"{MARK_NAME}.tmp"
_FORMAT = 1
_META_NAME, _COLLECTIONS_NAME = "meta.json", "collection"
# What an alias stands for, and what a rebuild fills.
_PHYSICAL_NAME = re.compile(r".+__[0-9a-f]{12}")
_LOCAL_MODE_POINTS = 20_000
_CLIENTS_LOCK = ".lock"


class Directory(Database):
    """A directory in qdrant-client's local mode, opened at the first request and held until it is closed."""

    is_server = False

    def __init__(self, url: str, directory: Path) -> None:
        super().__init__(url)
        self._url = url
        self._path = directory
        self._lock = DirectoryLock(directory)
        self._client: QdrantClient | None = None
        self._is_large = False
        _directories.add(self)

    def is_present(self) -> bool:
        return is_marked(self._path, self._url)

    def disk_bytes(self) -> int | None:
        return directory_bytes(self._path)

    def request(self, url: str, what: str, call: Call[T]) -> T:
        with self.guard, named_errors(url, str(self._path)):
            client = self._connected()
            if not self._is_large:
                return call(client)
            with without_client_warnings():
                return call(client)

    def acquire(self, *, take_over: bool) -> None:
        """Readers of local mode are alone too, so the lock may be held already."""
        self.is_present()  # what lies there and isn't ours is refused before anything is written beside it
        make_directory(self._path, self._url)
        self._lock.acquire(self._url)
        self.is_held = True

    def release(self) -> None:
        self.is_held = False
        if self._client is None:
            self._lock.release()

    def check(self) -> None:
        """The system frees the lock with the process only, so it can't be lost."""

    def prepare(self) -> None:
        if not self.is_present():
            write_mark_file(self._path, self._url)

    def index_payload(self, physical: str) -> None:
        """Local mode has no indexes."""

    def expect(self, physical: str, points: int) -> None:
        if not self._is_large:
            self._warn_if_large(self.request(self._url, "counting", lambda client: client.count(physical)).count + points)

    def drop(self, physical: str) -> Call[Any]:
        def drop(client: QdrantClient) -> bool:
            # The client forgets its file without closing it, of which Python warns from 3.13 on.
            found = client._client.collections.get(physical)  # type: ignore[attr-defined]
            if found is not None:
                found.close()
            return client.delete_collection(physical)

        return drop

    def each(self, calls: Sequence[Callable[[], None]]) -> None:
        for call in calls:
            call()

    def close(self) -> None:
        with self.guard:
            if self.is_closed:
                return
            self.is_closed = True
            self.is_held = False
            try:
                if self._client is not None:
                    self._client.close()
            finally:
                self._lock.release()

    def _connected(self) -> QdrantClient:
        if self.is_closed:
            raise store_closed(self._url)
        if self._client is None:
            self._lock.acquire(self._url)
            try:
                self._client = self._open()
            finally:
                if self._client is None and not self.is_held:
                    self._lock.release()
        return self._client

    def _open(self) -> QdrantClient:
        remove_half_made(self._path)
        refuse_code(self._path, self._url)
        self._refuse_other_program()  # before the client finds it out: it would leave its lock file open
        with without_client_warnings():
            client = QdrantClient(path=str(self._path), force_disable_check_same_thread=True)
        sizes = [client.count(one.name).count for one in client.get_collections().collections]
        self._warn_if_large(max(sizes, default=0))
        return client

    def _refuse_other_program(self) -> None:
        import portalocker  # as the client does: it looks for writable directories when it is imported

        try:
            with (self._path / _CLIENTS_LOCK).open("r+") as file:
                portalocker.lock(file, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
                portalocker.unlock(file)
        except FileNotFoundError:
            return
        except portalocker.exceptions.LockException as error:
            raise StoreLocked(
                f"{self._url} is held by a program that uses qdrant-client without Sightline: local mode lets one in at a time."
                " Close it, then try again."
            ) from error

    def _warn_if_large(self, points: int) -> None:
        if points > _LOCAL_MODE_POINTS and not self._is_large:
            self._is_large = True
            _log.warning(
                "%s holds %d points; local mode reads all of them into memory and searches them one by one. For more than"
                " %d use a Qdrant server (qdrant://HOST:PORT/NAME) or edge:DIR.", self._url, points, _LOCAL_MODE_POINTS,
            )  # fmt: skip


_directories: weakref.WeakSet[Directory] = weakref.WeakSet()


def _forget() -> None:
    """In a forked child: the client's lock is the parent's, which would lose it when the client is closed or freed here."""
    for directory in _directories:
        if directory._client is not None:
            never_free(directory._client)
            # The client has no call for it.
            directory._client._client._flock_file.close()  # type: ignore[attr-defined]


if hasattr(os, "register_at_fork"):  # not on Windows, which doesn't fork
    os.register_at_fork(after_in_child=_forget)


def is_marked(directory: Path, url: str) -> bool:
    """Whether the directory holds a database of ours; False where there is none yet.

    Raises:
        UsageError: something else lies there.
        StoreError: the mark is another version's, or can't be read.
    """
    try:
        data = json.loads((directory / MARK_NAME).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        _refuse_contents(directory, url)
        return False
    except (OSError, ValueError) as error:
        raise StoreError(f"{directory / MARK_NAME} can't be read: {error}. Restore it, or use a new directory.") from error
    found = data.get("format") if isinstance(data, dict) else None
    if found != _FORMAT:
        raise StoreError(
            f"{directory / MARK_NAME} says format {found!r}; this Sightline knows {_FORMAT}. Upgrade with:"
            " pip install --upgrade sightline, or index again into a new directory."
        )
    return True


def write_mark_file(directory: Path, url: str) -> None:
    """Mark an empty directory as ours, at once and for good."""
    temporary = directory / _TEMPORARY
    try:
        temporary.unlink(missing_ok=True)  # a link of that name would lead elsewhere
        with temporary.open("x", encoding="utf-8") as file:
            json.dump({"format": _FORMAT}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, directory / MARK_NAME)
    except OSError as error:
        if is_full(error):
            raise disk_full(url, directory) from error
        raise StoreError(f"The directory of {url} can't be written: {error}. Give a writable directory.") from error


def remove_half_made(directory: Path) -> None:
    """Remove what a killed process left: files of collections of ours that the list doesn't name yet or any more.

    And the list itself, where a start was killed at its first write and left it empty: the client couldn't read it.
    """
    meta = directory / _META_NAME
    if not meta.is_file():
        return
    if meta.stat().st_size == 0:
        meta.unlink()
        return
    try:
        listed = json.loads(meta.read_text(encoding="utf-8"))["collections"]
    except (ValueError, KeyError, TypeError):
        return  # the client says so when it opens it
    for path in (directory / _COLLECTIONS_NAME).glob("*"):
        if path.name not in listed and _PHYSICAL_NAME.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def _refuse_contents(directory: Path, url: str) -> None:
    if not directory.exists():
        return
    if not directory.is_dir():
        raise UsageError(f"{url} lies in {directory}, which is a file; give a directory that is new or empty.")
    others = sorted(entry.name for entry in directory.iterdir() if entry.name not in (LOCK_NAME, _TEMPORARY))
    if not others:
        return
    more = ", ..." if len(others) > 3 else ""
    hint = " qdrant-client's local mode unpickles what it opens, so data from elsewhere is not opened." * (_META_NAME in others)
    raise UsageError(
        f"The directory of {url} holds something that Sightline didn't make ({', '.join(others[:3])}{more}).{hint}"
        " Give one that is new or empty."
    )
