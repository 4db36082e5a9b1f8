"""A Chroma database in this process: its lock, and what several clients and forked processes must know of each other."""

from __future__ import annotations

import logging
import os
import re
import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import chromadb
from chromadb.api.shared_system_client import SharedSystemClient
from chromadb.config import Settings
from chromadb.errors import ChromaError, InternalError

from sightline.errors import StoreError, UsageError
from sightline.retries import FAILED_S, PERMANENT, retrying
from sightline.stores.checks import directory_bytes, make_directory
from sightline.stores.chroma_database import Database, is_between
from sightline.stores.forks import never_free
from sightline.stores.locks import LOCK_NAME, DirectoryLock
from sightline.stores.room import disk_full, has_little_room, is_full

_DATABASE_FILE = "chroma.sqlite3"
# The name of an index's directory, which is that of its segment.
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
# Directory -> its last write, as of when this process opened the database there.
_OPENED: dict[Path, int] = {}
# Held while a client is opened or closed, in which threads of Chroma meet each other half done, and while a lock file is taken or
# freed and that is noted: to another thread the one without the other looks like another process.
_switching = threading.Lock()
# Directories whose database the parent had open when it forked this process: SQLite believes that it has locks on them here.
_LEFT_OPEN: set[str] = set()

_log = logging.getLogger(__name__)
T = TypeVar("T")


class Directory(Database):
    """A database in this process."""

    def __init__(self, url: str, directory: Path) -> None:
        super().__init__(url)
        self._directory = directory
        self._lock = DirectoryLock(directory)

    def connected(self) -> Any:
        """The client; a directory without a database stays as it is."""
        with self.guard:
            if self._client is None and (self._directory / _DATABASE_FILE).is_file():
                self._connect()
            return self._client

    def disk_bytes(self) -> int | None:
        """Of the whole directory."""
        return directory_bytes(self._directory)

    def call(self, what: str, request: Callable[[], T]) -> T:
        """One request, again while another process removes or makes a collection that it meets."""
        with self._named():
            return retrying(request, patience_for=lambda error: FAILED_S if is_between(error) else PERMANENT, what=what)

    def acquire(self, *, take_over: bool) -> None:
        """Take the directory's lock; there is nothing to take over, because the system frees it when its holder dies."""
        if (self._directory / "sightline.json").exists():
            raise UsageError(f"The directory of {self.url} holds a Qdrant Edge collection; give another directory.")
        make_directory(self._directory, self.url)
        with _switching:
            is_stale = self._is_open() and _OPENED.get(self._directory) != self._last_write()
            self._lock.acquire(self.url)
            if not is_stale:
                _OPENED[self._directory] = self._last_write()
        # What was opened before the lock may not know what another process wrote since, and writing from there would remove
        # that from the index for good (1,500 of 1,500 vectors, in a trial).
        self._disconnect()
        if is_stale and self._is_open():
            self._unlock()
            raise StoreError(
                f"Another process wrote to the directory of {self.url} since this process opened it, and another client of this"
                " process keeps it open as it was. Close that client or store, then try again."
            )
        self._connect()
        with _switching:
            _OPENED[self._directory] = self._last_write()
        self._remove_orphans()

    def delete(self, name: str) -> None:
        """Remove a collection, with the files of its index."""
        super().delete(name)
        self._remove_orphans()

    def _remove_orphans(self) -> None:
        """Remove the index files of collections that are deleted: Chroma leaves them lying for ever."""
        address = f"{(self._directory / _DATABASE_FILE).absolute().as_uri()}?mode=ro"
        try:
            with closing(sqlite3.connect(address, uri=True)) as database:
                known = {str(one) for (one,) in database.execute("SELECT id FROM segments")}
        except sqlite3.Error as error:
            _log.warning("what deleted collections left in %s stays: %s", self._directory, error)
            return
        for path in self._directory.iterdir():
            if _UUID.fullmatch(path.name) and path.name not in known:
                shutil.rmtree(path, ignore_errors=True)

    def release(self) -> None:
        """Free the lock."""
        with self.guard:
            self._unlock()

    def check(self) -> None:
        """Nothing to check: the lock can't be lost."""

    def close(self) -> None:
        """Close the database and free the lock."""
        with self.guard:
            self.closed = True
            try:
                self._disconnect()
            finally:
                self._unlock()

    def most_points(self) -> int:
        """What Chroma takes: nothing is sent anywhere."""
        return self.max_batch()

    def _connect(self) -> None:
        with _switching:
            if not self._is_open() or self._directory not in _OPENED:
                _OPENED[self._directory] = self._last_write()
            with self._named():
                self._client = _persistent_client(self.url, self._directory)

    def _unlock(self) -> None:
        with _switching:
            is_current = _OPENED.get(self._directory) == self._last_write()
            self._lock.release()
            if is_current:
                _OPENED[self._directory] = self._last_write()

    def _is_open(self) -> bool:
        """Whether this process has the database open: Chroma shares it among all clients here, ours or not."""
        return str(self._directory) in SharedSystemClient._identifier_to_system

    def _last_write(self) -> int:
        """When somebody last became the writer or ceased to be, in ns; 0 for never."""
        try:
            return (self._directory / LOCK_NAME).stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with _switching, self._named():
                client.close()

    def _failed(self, error: BaseException) -> StoreError:
        text = str(error)
        # Chroma's core names the cause of some failures only ("Failed to apply logs"), and not the cause of that.
        if is_full(error) or (isinstance(error, InternalError) and has_little_room(self._directory)):
            return disk_full(self.url, self._directory)
        if "database is locked" in text:
            return StoreError(f"Another program is writing to the Chroma database of {self.url}. Close it, then try again.")
        if any(sign in text for sign in ("Inconsistent", "migration", "not a database", "no such table", "no such column")):
            return StoreError(
                f"The Chroma database of {self.url} can't be read by chromadb {chromadb.__version__} ({text}): it is damaged or"
                " of another version. Open it with the version that made it, or index into another directory."
            )
        return super()._failed(error)


def _persistent_client(url: str, directory: Path) -> Any:
    if str(directory) in _LEFT_OPEN:
        raise StoreError(
            f"{url} can't be opened here: this process was forked from one that had the database open, and Chroma can't open it"
            " a second time. Fork before it is opened or after it was closed, or start processes by 'spawn' or 'forkserver'."
        )
    was_open = str(directory) in SharedSystemClient._identifier_to_system
    try:
        # No .env file: what lies in the working directory is not meant for us, and could name any class to be made.
        settings = Settings(_env_file=None, anonymized_telemetry=False)  # type: ignore[call-arg]
        return chromadb.PersistentClient(str(directory), settings=settings)
    except ChromaError:
        if not was_open:
            # Chroma keeps what couldn't be started, and would give it to the next caller, who would fail on what it lacks.
            SharedSystemClient._identifier_to_system.pop(str(directory), None)
        raise
    except ValueError:
        # This process has the database open with other settings, e.g. in a framework's client. Chroma allows one set at a
        # time, so theirs holds.
        try:
            return chromadb.PersistentClient(str(directory))
        except ValueError as error:
            raise StoreError(f"Chroma can't open {url}: {error}. Close the other Chroma client of this process first.") from error


def _forget() -> None:
    """In a forked child: what is open here has no threads behind it, and would wait for them when it is freed."""
    global _switching
    _switching = threading.Lock()
    for identifier, system in SharedSystemClient._identifier_to_system.items():
        never_free(system)
        _LEFT_OPEN.add(identifier)
    SharedSystemClient._identifier_to_system.clear()
    SharedSystemClient._identifier_to_refcount.clear()
    SharedSystemClient._refcount_lock = threading.Lock()
    _OPENED.clear()


if hasattr(os, "register_at_fork"):  # not on Windows, which doesn't fork
    os.register_at_fork(after_in_child=_forget)
