"""The reference store: everything in this process's memory, exact search, nothing kept."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sightline.protocols import StoreCapabilities
from sightline.stores.checks import (
    checked_dimensions,
    checked_ids,
    checked_limit,
    checked_points,
    checked_query,
    collection_exists,
    collection_not_found,
    contract_json,
    store_closed,
)
from sightline.types import FloatArray, Head, Hit, Point


@dataclass
class _Collection:
    dimensions: int
    contract: str
    points: dict[str, Point] = field(default_factory=dict)
    vectors: dict[str, FloatArray] = field(default_factory=dict)


@dataclass
class _Slot:
    """Where a collection lies once it was made; stores that share a name share the slot."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    collection: _Collection | None = None


_SHARED: dict[str, _Slot] = {}


class MemoryStore:
    """A collection in memory: private, or shared within the process under `name`."""

    def __init__(self, url: str, name: str | None) -> None:
        self.url = url
        self.capabilities = StoreCapabilities(persistent=False, several_dimensions=False, quantization=False)
        self._slot = _Slot() if name is None else _SHARED.setdefault(name, _Slot())
        self._closed = False

    def exists(self) -> bool:
        """Whether `create` was called."""
        self._check_open()
        return self._slot.collection is not None

    def read_contract(self) -> Mapping[str, Any] | None:
        """The contract as JSON data; None before `create`."""
        self._check_open()
        collection = self._slot.collection
        return None if collection is None else dict(json.loads(collection.contract))

    def create(self, dimensions: int, contract: Mapping[str, Any]) -> None:
        """Make the collection; raise StoreError when it is there already."""
        self._check_open()
        made = _Collection(checked_dimensions(dimensions), contract_json(contract))
        with self._slot.lock:
            if self._slot.collection is not None:
                raise collection_exists(self.url)
            self._slot.collection = made

    def upsert(self, points: Sequence[Point], vectors: FloatArray) -> None:
        """Write points; an existing one is replaced whole."""
        with self._slot.lock:
            collection = self._collection()
            plain, array = checked_points(points, vectors, collection.dimensions)
            for point, row in zip(plain, array, strict=True):
                collection.points[point.id] = point
                collection.vectors[point.id] = row.copy()

    def delete(self, ids: Sequence[str]) -> None:
        """Remove points; ids that aren't there are fine."""
        with self._slot.lock:
            collection = self._collection()
            for one in checked_ids(ids):
                collection.points.pop(one, None)
                collection.vectors.pop(one, None)

    def heads(self) -> Iterator[Head]:
        """The heads of all documents."""
        with self._slot.lock:
            return iter([point.head for point in self._collection().points.values() if point.head is not None])

    def chunk_ids(self, source: str) -> list[str]:
        """Ids of all points of a document, its head included."""
        with self._slot.lock:
            return [point.id for point in self._collection().points.values() if point.source == source]

    def vectors(self, ids: Sequence[str]) -> dict[str, FloatArray]:
        """Stored vectors of those ids that exist, float32 `(dimensions,)` each."""
        with self._slot.lock:
            stored = self._collection().vectors
            return {one: stored[one].copy() for one in checked_ids(ids) if one in stored}

    def search(self, vector: FloatArray, *, limit: int) -> list[Hit]:
        """The nearest points by cosine similarity, best first."""
        with self._slot.lock:
            collection = self._collection()
            query = checked_query(vector, collection.dimensions)
            limit = checked_limit(limit)
            if not collection.points:
                return []
            points = list(collection.points.values())
            rows = np.stack([collection.vectors[point.id] for point in points])
        scores = _cosine(rows, query)
        best = sorted(range(len(points)), key=lambda i: (-scores[i], points[i].id))[:limit]
        return [_hit(points[i], float(scores[i])) for i in best]

    def count(self) -> int:
        """How many points the collection holds."""
        return len(self._collection().points)

    def close(self) -> None:
        """Refuse further use; what a shared name holds stays until the process ends."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise store_closed(self.url)

    def _collection(self) -> _Collection:
        self._check_open()
        if self._slot.collection is None:
            raise collection_not_found(self.url)
        return self._slot.collection


def _cosine(rows: FloatArray, query: FloatArray) -> FloatArray:
    """Cosine similarity of `(n, dimensions)` with `(dimensions,)`; 0 where a vector has no direction."""
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(query)
    norms[norms == 0] = 1.0
    scores: FloatArray = rows @ query / norms
    return scores


def _hit(point: Point, score: float) -> Hit:
    return Hit(point.id, score, point.text, point.source, copy.deepcopy(dict(point.metadata)))
