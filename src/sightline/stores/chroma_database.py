"""What a Chroma server and a directory have in common: one connection, the right to write, and names for Chroma's errors."""

from __future__ import annotations

import logging
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from sightline.errors import CollectionNotFound, MissingExtra, SightlineError, StoreError
from sightline.keys import hide_keys
from sightline.stores.checks import collection_not_found
from sightline.stores.forks import Opener
from sightline.stores.requests import Requests

try:
    from chromadb import errors
except ImportError as error:
    raise MissingExtra("A store chroma:DIR/COLLECTION", package="chromadb", extra="chroma") from error

WRITER, OLD = ".writer", ".old"  # behind a collection's name: the writer's lease, and what the last rebuild replaced
_BYTES_PER_ID = 40

_log = logging.getLogger(__name__)
T = TypeVar("T")


class Database(ABC):
    """The connection that a collection and its staging collection share, with the right to write."""

    def __init__(self, url: str, *, most_bytes: float = math.inf) -> None:
        self.url = url
        self.requests = Requests(url, most_bytes)
        self.opener = Opener()
        self.guard = threading.RLock()
        self.rows = threading.RLock()  # deletions and readings of several pages exclude each other
        self.is_writer = False
        self.closed = False
        self._client: Any = None
        self._max_batch: int | None = None

    @abstractmethod
    def connected(self) -> Any:
        """The client; None where there is no database yet."""

    @abstractmethod
    def acquire(self, *, take_over: bool) -> None:
        """Become the only writer, making the database if need be."""

    @abstractmethod
    def release(self) -> None:
        """Let the next writer in."""

    @abstractmethod
    def check(self) -> None:
        """Raise StoreLocked when this is not the only writer any more."""

    @abstractmethod
    def disk_bytes(self) -> int | None:
        """What the database takes on this machine's disk."""

    @abstractmethod
    def close(self) -> None:
        """Free all of it. Closing twice is fine."""

    @abstractmethod
    def most_points(self) -> int:
        """How many points go into one write."""

    def write(self, sizes: Sequence[int], send: Callable[[slice], None], name: Callable[[int], str]) -> None:
        """Write rows of these sizes in bytes, in as many requests as it takes; `name` names a row."""
        for rows in self.requests.cut(sizes, self.most_points()) if sizes else ():
            self.requests.send(rows, sizes, send, name)

    def by_ids(self, ids: Sequence[str], most: int, send: Callable[[list[str]], None]) -> None:
        """Read or remove by ids, at most so many at a time."""
        sizes = [_BYTES_PER_ID] * len(ids)
        for rows in self.requests.cut(sizes, most):
            self.requests.send(rows, sizes, lambda some: send(list(ids[some])), lambda row: f"the id {ids[row]}")

    def call(self, what: str, request: Callable[[], T]) -> T:
        """One request, with Chroma's errors named."""
        with self._named():
            return request()

    def find(self, name: str) -> Any:
        """The collection of that name, or None."""
        client = self.connected()
        if client is None:
            return None
        try:
            found = self.call(f"look-up on {self.url}", lambda: client.get_collection(name, embedding_function=None))
            return _without_classes(found)
        except CollectionNotFound:
            return None

    def create(self, name: str, metadata: Mapping[str, Any]) -> bool:
        """Make a collection with cosine distance; False when there is one of that name."""
        client = self.connected()
        try:
            self.call(f"create on {self.url}", lambda: client.create_collection(
                name, metadata=dict(metadata), configuration={"hnsw": {"space": "cosine"}}, embedding_function=None
            ))  # fmt: skip
        except StoreError as error:
            if is_taken(error):
                return False
            raise
        return True

    def delete(self, name: str) -> None:
        """Remove a collection; gone already is fine."""
        client = self.connected()
        try:
            self.call(f"delete on {self.url}", lambda: client.delete_collection(name))
        except CollectionNotFound:
            _log.debug("the collection %s was gone already", name)

    def max_batch(self) -> int:
        """How many points Chroma takes in one write."""
        if self._max_batch is None:
            self._max_batch = int(self.call(f"limits of {self.url}", self.connected().get_max_batch_size))
        if self._max_batch < 1:
            raise StoreError(f"Chroma says that it takes {self._max_batch} points a write on {self.url}; it must take one.")
        return self._max_batch

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except SightlineError:
            raise
        except errors.NotFoundError as error:
            raise collection_not_found(self.url) from error
        except (errors.ChromaError, ValueError, TypeError) as error:
            raise self._failed(error) from error
        except BaseException as error:
            # A panic of Chroma's core is no Exception, and an answer that its client doesn't know is a bare one.
            if type(error).__name__ not in ("PanicException", "Exception"):
                raise
            raise self._failed(error) from error

    def _failed(self, error: BaseException) -> StoreError:
        return StoreError(hide_keys(f"Chroma failed on {self.url}: {type(error).__name__}: {error}"))


def is_between(error: BaseException) -> bool:
    """Whether Chroma says that a collection is just being removed or made by somebody else."""
    return isinstance(error, errors.ChromaError) and "Missing field" in str(error)


def is_taken(error: StoreError) -> bool:
    """Whether Chroma says that there is a collection of that name."""
    return "already exists" in str(error) or "UNIQUE constraint" in str(error)


def _without_classes(collection: Any) -> Any:
    """The collection, without the classes that it names to embed with.

    Chroma makes them before each write, with arguments that are kept in the collection: some fetch a model and run its code. We
    hand over vectors, so none is needed.
    """
    model = collection._model
    model.serialized_schema = None
    model.configuration_json = {**model.configuration_json, "embedding_function": None}
    return collection
