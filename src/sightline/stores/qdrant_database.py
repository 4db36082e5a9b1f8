"""What a Qdrant server and local mode have in common: one connection, and the right to write."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from qdrant_client import QdrantClient, models

from sightline.stores.forks import Opener
from sightline.stores.qdrant_errors import finished
from sightline.stores.qdrant_vectors import by_point
from sightline.stores.requests import Requests
from sightline.types import FloatArray

T = TypeVar("T")
Call = Callable[[QdrantClient], T]
Payload: TypeAlias = dict[str, Any]
# Qdrant's own advice is 64 to 256 points a request, below 5 MB; over REST it takes no more than 32 MiB.
_BYTES_PER_REQUEST = 4_000_000


class Database(ABC):
    """The connection that a collection and its staging collection share, with the right to write."""

    is_server: bool
    bytes_per_number = 4

    def __init__(self, url: str) -> None:
        self.requests = Requests(url, _BYTES_PER_REQUEST)
        self.opener = Opener()
        self.guard = threading.RLock()
        self.is_closed = False
        self.is_held = False
        self.epoch = 0  # counts what may have changed which collection a name stands for
        self.deferred: set[str] = set()

    @abstractmethod
    def is_present(self) -> bool:
        """Whether there is a database to ask."""

    @abstractmethod
    def disk_bytes(self) -> int | None:
        """What the database takes on this machine's disk."""

    @abstractmethod
    def request(self, url: str, what: str, call: Call[T]) -> T:
        """The result of `call`, which asks the database; its errors are ours."""

    @abstractmethod
    def acquire(self, *, take_over: bool) -> None:
        """Take the right to write or raise StoreLocked."""

    @abstractmethod
    def release(self) -> None:
        """Give the right to write back."""

    @abstractmethod
    def check(self) -> None:
        """Raise StoreLocked when the right to write was lost."""

    @abstractmethod
    def prepare(self) -> None:
        """Make the database if there is none."""

    @abstractmethod
    def index_payload(self, physical: str) -> None:
        """Index the fields that we filter by."""

    @abstractmethod
    def expect(self, physical: str, points: int) -> None:
        """Get ready for so many more points."""

    def upsert(
        self, physical: str, ids: Sequence[str], payloads: Sequence[Payload], vectors: Mapping[str, FloatArray]
    ) -> Call[None]:
        """What writes these points; the request is made once, however often it is sent."""
        points = [
            models.PointStruct(id=one, vector=vector, payload=payload)
            for one, vector, payload in zip(ids, by_point(vectors), payloads, strict=True)
        ]
        return lambda client: finished(client.upsert(physical, points, wait=True))

    def drop(self, physical: str) -> Call[Any]:
        """What removes a collection."""
        return lambda client: client.delete_collection(physical)

    @abstractmethod
    def each(self, calls: Sequence[Callable[[], None]]) -> None:
        """Make all calls; raise the first error after all have ended."""

    @abstractmethod
    def close(self) -> None:
        """Release and disconnect; no error keeps the rest from being done."""
