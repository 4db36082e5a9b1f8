"""The reference store: everything in this process's memory, exact search, nothing kept."""

from __future__ import annotations

import copy
import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from sightline.cutting import cut
from sightline.errors import StoreLocked
from sightline.protocols import StoreCapabilities
from sightline.stores.checks import (
    checked_addition,
    checked_ids,
    checked_layout,
    checked_limit,
    checked_points,
    checked_query,
    checked_removal,
    checked_updates,
    collection_exists,
    collection_not_found,
    contract_json,
    nothing_staged,
    store_closed,
)
from sightline.stores.filters import matches, parse_filter
from sightline.stores.payload import embedded_digest, hit, text_digest
from sightline.types import Filter, FloatArray, Head, Hit, Point, Record, Shortlist, VectorLayout


@dataclass
class _Collection:
    layout: VectorLayout
    contract: str
    mark: str = "{}"
    points: dict[str, Point] = field(default_factory=dict)
    vectors: dict[str, FloatArray] = field(default_factory=dict)


@dataclass
class _Slot:
    """Where a collection lies once it was made; stores that share a name share the slot."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    writer: object | None = None
    collection: _Collection | None = None
    staging: _Slot | None = None


_SHARED: dict[str, _Slot] = {}


class MemoryStore:
    """A collection in memory: private, or shared within the process under `name`."""

    def __init__(self, url: str, name: str | None) -> None:
        self.url = url
        self.capabilities = StoreCapabilities(persistent=False, several_dimensions=True, quantization=False, float16=False)
        self._slot = _Slot() if name is None else _SHARED.setdefault(name, _Slot())
        self._parent: MemoryStore | None = None
        self._closed = False

    def exists(self) -> bool:
        """Whether `create` was called."""
        self._check_open()
        return self._slot.collection is not None

    def layout(self) -> VectorLayout:
        """Which lengths the collection has; the shorter ones are cut when they are searched."""
        return self._collection().layout

    def count(self) -> int:
        """How many points the collection holds."""
        return len(self._collection().points)

    def disk_bytes(self) -> int | None:
        """None: nothing is on disk."""
        return None

    def acquire(self, *, take_over: bool = False) -> None:
        """Become the only writer; raise StoreLocked while another store of this name is."""
        self._check_open()
        if self._parent is not None:
            self._parent.acquire(take_over=take_over)
            return
        with self._slot.lock:
            if self._slot.writer not in (None, self):
                raise StoreLocked(f"{self.url} is held by another store object of this process. Close that one, then try again.")
            self._slot.writer = self

    def release(self) -> None:
        """Let the next writer in."""
        self._check_open()
        with self._slot.lock:
            if self._slot.writer is self:
                self._slot.writer = None

    def create(self, layout: VectorLayout, contract: Mapping[str, Any]) -> None:
        """Make the collection; raise StoreError when it is there already."""
        made = _Collection(checked_layout(layout, self.capabilities, self.url), contract_json(contract))
        with self._slot.lock:
            self.acquire()
            if self._slot.collection is not None:
                raise collection_exists(self.url)
            self._slot.collection = made

    def add_dimension(self, dimensions: int, on_progress: Callable[[int], None] | None = None) -> int:
        """Allow one more shorter length; nothing has to be written for it."""
        with self._slot.lock:
            collection = self._writable()
            collection.layout = checked_addition(dimensions, collection.layout, self.capabilities, self.url)
        return 0

    def remove_dimension(self, dimensions: int) -> None:
        """Allow one of the shorter lengths no longer."""
        with self._slot.lock:
            collection = self._writable()
            collection.layout = checked_removal(dimensions, collection.layout, self.url)

    def read_contract(self) -> Mapping[str, Any] | None:
        """The contract as JSON data; None before `create`."""
        self._check_open()
        collection = self._slot.collection
        return None if collection is None else dict(json.loads(collection.contract))

    def write_contract(self, contract: Mapping[str, Any]) -> None:
        """Replace the contract."""
        self._writable().contract = contract_json(contract)

    def read_mark(self) -> Mapping[str, Any]:
        """The mark as JSON data; empty before the first one."""
        return dict(json.loads(self._collection().mark))

    def write_mark(self, mark: Mapping[str, Any]) -> None:
        """Replace the mark."""
        self._writable().mark = contract_json(mark)

    def upsert(self, points: Sequence[Point], vectors: FloatArray) -> None:
        """Write points; an existing one is replaced whole."""
        with self._slot.lock:
            collection = self._writable()
            plain, array = checked_points(points, vectors, collection.layout.dimensions)
            for point, row in zip(plain, array, strict=True):
                collection.points[point.id] = _stored(point)
                collection.vectors[point.id] = row.copy()

    def update(self, points: Sequence[Point]) -> None:
        """Replace everything but the vector of existing points."""
        with self._slot.lock:
            collection = self._writable()
            for point in checked_updates(points):
                if point.id in collection.points:
                    collection.points[point.id] = _stored(point)

    def delete(self, ids: Sequence[str]) -> None:
        """Remove points; ids that aren't there are fine."""
        with self._slot.lock:
            collection = self._writable()
            for one in checked_ids(ids):
                collection.points.pop(one, None)
                collection.vectors.pop(one, None)

    def heads(self) -> Iterator[Head]:
        """The heads of all documents."""
        with self._slot.lock:
            return iter([point.head for point in self._collection().points.values() if point.head is not None])

    def sources(self) -> dict[str, int]:
        """How many points each document has."""
        with self._slot.lock:
            return dict(Counter(point.source for point in self._collection().points.values()))

    def points(self, source: str) -> list[Point]:
        """All points of a document, its head included."""
        with self._slot.lock:
            return [copy.deepcopy(point) for point in self._collection().points.values() if point.source == source]

    def vectors_of(self, texts: Sequence[str]) -> dict[str, FloatArray]:
        """Stored vectors of those texts that some point has, float32 `(dimensions,)` each."""
        wanted = {text_digest(text): text for text in texts}
        with self._slot.lock:
            collection = self._collection()
            holders = {embedded_digest(point): one for one, point in collection.points.items()}
            return {text: collection.vectors[holders[one]].copy() for one, text in wanted.items() if one in holders}

    def records(self, limit: int | None = None, *, filter: Filter | None = None) -> Iterator[Record]:
        """Points with their vectors."""
        conditions = parse_filter(filter)
        with self._slot.lock:
            collection = self._collection()
            meeting = (point for point in collection.points.values() if matches(conditions, point.source, point.metadata))
            points = list(itertools.islice(meeting, limit))
            return iter([Record(copy.deepcopy(point), collection.vectors[point.id].copy()) for point in points])

    def records_of(self, ids: Sequence[str]) -> list[Record]:
        """Points with their vectors by their ids."""
        with self._slot.lock:
            collection = self._collection()
            found = [one for one in dict.fromkeys(ids) if one in collection.points]
            return [Record(copy.deepcopy(collection.points[one]), collection.vectors[one].copy()) for one in found]

    def search(
        self, vector: FloatArray, *, limit: int, filter: Filter | None = None, shortlist: Shortlist | None = None
    ) -> list[Hit]:
        """The nearest points by cosine similarity that meet the filter, best first."""
        conditions = parse_filter(filter)
        with self._slot.lock:
            collection = self._collection()
            limit = checked_limit(limit)
            query = checked_query(vector, collection.layout, shortlist, limit)
            points = [point for point in collection.points.values() if matches(conditions, point.source, point.metadata)]
            if not points:
                return []
            rows = np.stack([collection.vectors[point.id] for point in points])
        ids = [point.id for point in points]
        near: Sequence[int] = range(len(points))
        if shortlist is not None:
            short = _cosine(cut(rows, shortlist.dimensions), query[: shortlist.dimensions])
            near = _best(near, short, ids)[: shortlist.candidates]
        scores = _cosine(cut(rows, len(query)), query)
        return [hit(copy.deepcopy(points[row]), float(scores[row])) for row in _best(near, scores, ids)[:limit]]

    def staging(self) -> Self:
        """The collection that `promote` puts in this one's place."""
        self._check_open()
        with self._slot.lock:
            self._slot.staging = self._slot.staging or _Slot()
            beside = type(self)(f"{self.url} (being rebuilt)", None)
            beside._slot, beside._parent = self._slot.staging, self
        return beside

    def promote(self) -> None:
        """Put the staging collection in this one's place."""
        with self._slot.lock:
            self.acquire()
            staged = self._slot.staging
            if staged is None or staged.collection is None:
                raise nothing_staged(self.url)
            self._slot.collection, self._slot.staging = staged.collection, None

    def drop_staging(self) -> None:
        """Forget the staging collection."""
        with self._slot.lock:
            self.acquire()
            self._slot.staging = None

    def close(self) -> None:
        """Refuse further use; what a shared name holds stays until the process ends."""
        self._closed = True
        with self._slot.lock:
            if self._slot.writer is self:
                self._slot.writer = None

    def _check_open(self) -> None:
        if self._closed:
            raise store_closed(self.url)

    def _collection(self) -> _Collection:
        self._check_open()
        if self._slot.collection is None:
            raise collection_not_found(self.url)
        return self._slot.collection

    def _writable(self) -> _Collection:
        collection = self._collection()
        self.acquire()
        return collection


def _stored(point: Point) -> Point:
    """The point as every store gives it back: not with the text that was embedded, but with what that is found by."""
    digest = embedded_digest(point)
    return replace(point, embedded_text=None, embedded_digest=None if digest == text_digest(point.text) else digest)


def _best(rows: Sequence[int], scores: FloatArray, ids: Sequence[str]) -> Sequence[int]:
    return sorted(rows, key=lambda row: (-scores[row], ids[row]))


def _cosine(rows: FloatArray, query: FloatArray) -> FloatArray:
    """Cosine similarity of `(n, dimensions)` with `(dimensions,)`; 0 where a vector has no direction."""
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(query)
    norms[norms == 0] = 1.0
    scores: FloatArray = rows @ query / norms
    return scores
