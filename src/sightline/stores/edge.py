"""Qdrant Edge, the embedded default: the real engine in this process, one collection in a directory of its own.

Edge lets one process have a shard open, readers too. So a store has its shard open while it works with it, and gives it up
as soon as another process waits for it (`turns.py`). Writers exclude each other for as long as they live (`edge_directory.py`).
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from sightline.errors import SightlineError, StoreError, StoreLocked
from sightline.protocols import StoreCapabilities
from sightline.stores.checks import (
    checked_dimensions,
    checked_ids,
    checked_limit,
    checked_points,
    checked_query,
    checked_updates,
    collection_exists,
    collection_not_found,
    contract_json,
    directory_bytes,
    nothing_staged,
    store_closed,
)
from sightline.stores.edge_directory import EdgeDirectory, Entry, Manifest, new_shard_name
from sightline.stores.edge_engine import engine
from sightline.stores.edge_filters import FLAGS_KEY, engine_filter, equals, flags_of
from sightline.stores.filters import matches, parse_filter
from sightline.stores.payload import (
    HEAD_FIELDS,
    HEAD_KEY,
    POINT_KEY,
    SOURCE_KEY,
    TEXT_KEY,
    head_from,
    hit,
    is_ours,
    point_from_nested,
    text_digest,
    to_nested,
)
from sightline.stores.turns import Turn
from sightline.types import Filter, FloatArray, Head, Hit, Point, Record

# The GIL is held during each call: 256 points of 1,024 dimensions take 5 ms, which other threads hardly notice.
_POINTS_PER_CALL = 256
_RECORDS_PER_PAGE = 1000
# Below this, searching without an index takes a few milliseconds, and building one takes longer than it will ever save.
_OPTIMIZE_FROM = 100_000
_OPTIMIZE = "import sys, qdrant_edge; s = qdrant_edge.EdgeShard.load(sys.argv[1]); s.optimize(); s.flush(); s.close()"
_INDEXED = {
    SOURCE_KEY: engine.PayloadSchemaType.Keyword,
    TEXT_KEY: engine.PayloadSchemaType.Keyword,
    FLAGS_KEY: engine.PayloadSchemaType.Keyword,
    HEAD_KEY: engine.PayloadSchemaType.Integer,
    POINT_KEY: engine.PayloadSchemaType.Integer,
}

_log = logging.getLogger(__name__)
T = TypeVar("T")


class EdgeStore:
    """The collection in a directory, or the one that a rebuild fills beside it."""

    def __init__(self, url: str, directory: Path | EdgeDirectory, parent: EdgeStore | None = None) -> None:
        self.url = url
        self.capabilities = StoreCapabilities(persistent=True, several_dimensions=False, quantization=False)
        self._directory = directory if isinstance(directory, EdgeDirectory) else EdgeDirectory(url, directory)
        self._parent = parent
        self._beside: EdgeStore | None = None
        self._guard = threading.RLock()
        self._shard: Any = None
        self._name = ""
        self._turn: Turn | None = None
        self._has_written = False
        self._closed = False

    def exists(self) -> bool:
        """Whether the directory holds a collection."""
        return self._found() is not None

    def dimensions(self) -> int:
        """Length of the collection's vectors."""
        return self._entry().dimensions

    def count(self) -> int:
        """How many points the collection holds."""
        return self._using(lambda shard: int(shard.count(engine.CountRequest())))

    def disk_bytes(self) -> int | None:
        """What the directory takes."""
        self._entry()
        return directory_bytes(self._directory.path)

    def acquire(self, *, take_over: bool = False) -> None:
        """Become the only writer of the directory; raise StoreLocked, which names the other one."""
        self._entry()
        self._directory.acquire()

    def create(self, dimensions: int, contract: Mapping[str, Any]) -> None:
        """Make the collection in an empty or new directory, or the staging one.

        Raises:
            UsageError: the directory holds something else.
            StoreError: it holds a collection already.
            StoreLocked: another process is at it.
        """
        self._check_open()
        entry = Entry(new_shard_name(), checked_dimensions(dimensions), _json(contract))
        with self._guard:
            if self._parent is None:
                self._directory.prepare()
            else:
                self._parent.acquire()
                if self.exists():
                    raise collection_exists(self.url)
            try:
                self._open(self._wait_for(entry), entry, partial(_new_shard, entry.dimensions))
                with self._directory.changing() as write:
                    write(Manifest(entry) if self._parent is None else replace(self._manifest(), staging=entry))
            except BaseException:
                self._put_away()
                if self._parent is None:
                    self._directory.release()
                raise

    def read_contract(self) -> Mapping[str, Any] | None:
        """The contract as JSON data, read without opening the shard; None when there is no collection."""
        entry = self._found()
        return None if entry is None else dict(entry.contract)

    def write_contract(self, contract: Mapping[str, Any]) -> None:
        """Replace the contract."""
        data = _json(contract)
        self._change(lambda entry: replace(entry, contract=data))

    def read_mark(self) -> Mapping[str, Any]:
        """The mark as JSON data, read without opening the shard."""
        return dict(self._entry().mark)

    def write_mark(self, mark: Mapping[str, Any]) -> None:
        """Replace the mark; it is on disk when this returns."""
        data = _json(mark)
        self._change(lambda entry: replace(entry, mark=data))

    def upsert(self, points: Sequence[Point], vectors: FloatArray) -> None:
        """Write points; each call of 256 is applied whole, and it is in the write-ahead log when it returns."""
        self.acquire()
        plain, array = checked_points(points, vectors, self.dimensions())
        for start in range(0, len(plain), _POINTS_PER_CALL):
            rows = range(start, min(start + _POINTS_PER_CALL, len(plain)))
            batch = [engine.Point(plain[row].id, array[row], _payload(plain[row])) for row in rows]
            self._write(engine.UpdateOperation.upsert_points(batch))

    def update(self, points: Sequence[Point]) -> None:
        """Replace the payload of those points that are there."""
        self.acquire()
        plain = checked_updates(points)

        for batch in _slices(plain, _POINTS_PER_CALL):
            self._has_written = True
            self._using(partial(_overwrite, batch))

    def delete(self, ids: Sequence[str]) -> None:
        """Remove points; ids that aren't there are fine."""
        self.acquire()
        for batch in _slices(checked_ids(ids), _RECORDS_PER_PAGE):
            self._write(engine.UpdateOperation.delete_points([*batch]))

    def heads(self) -> Iterator[Head]:
        """The heads of all documents, read page by page."""
        self._entry()
        return (head_from(record.payload) for record in self._scroll({HEAD_KEY: 1}, HEAD_FIELDS))

    def sources(self) -> dict[str, int]:
        """How many points each document has."""

        def facet(shard: Any) -> dict[str, int]:
            most = max(1, int(shard.count(engine.CountRequest())))
            request = engine.FacetRequest(SOURCE_KEY, limit=most, exact=True, filter=equals({POINT_KEY: 1}))
            return {found.value: int(found.count) for found in shard.facet(request).hits}

        return self._using(facet)

    def points(self, source: str) -> list[Point]:
        """All points of a document, its head included."""
        self._entry()
        return [point_from_nested(str(one.id), one.payload) for one in self._scroll({SOURCE_KEY: source, POINT_KEY: 1}, True)]

    def vectors_of(self, texts: Sequence[str]) -> dict[str, FloatArray]:
        """Stored vectors of those texts that some point has, float32 `(dimensions,)` each."""
        self._entry()
        wanted = {text_digest(text): text for text in texts}
        found: dict[str, FloatArray] = {}
        for digests in _slices(list(wanted), _RECORDS_PER_PAGE):
            for record in self._scroll({TEXT_KEY: digests, POINT_KEY: 1}, [TEXT_KEY], vectors=True):
                found[wanted[record.payload[TEXT_KEY]]] = np.asarray(record.vector, dtype=np.float32)
        return found

    def records(self, limit: int | None = None) -> Iterator[Record]:
        """Points with their vectors, read page by page."""
        self._entry()
        return (
            Record(point_from_nested(str(one.id), one.payload), np.asarray(one.vector, dtype=np.float32), is_ours(one.payload))
            for one in self._scroll({}, True, vectors=True, limit=limit)
        )

    def search(self, vector: FloatArray, *, limit: int, filter: Filter | None = None) -> list[Hit]:
        """The nearest points by cosine similarity that meet the filter, best first."""
        conditions = parse_filter(filter)
        row: Any = checked_query(vector, self.dimensions())  # the engine takes arrays, whatever its stubs say
        query, where = engine.Query.Nearest(row), engine_filter(conditions)
        wanted = checked_limit(limit)
        most = self.count()
        asked = min(wanted, most)  # the engine makes room for as many hits, however few there are
        hits: list[Hit] = []
        while asked:
            request = engine.QueryRequest(limit=asked, query=query, filter=where, with_payload=True)
            scored = self._using(partial(_query, request))
            points = [(point_from_nested(str(one.id), one.payload), float(one.score)) for one in scored]
            # The engine's filter lets through a little more than it should, and never less.
            hits = [hit(point, score) for point, score in points if matches(conditions, point.source, point.metadata)]
            if len(hits) >= wanted or len(scored) < asked or asked == most:
                break
            asked = min(4 * asked, most)
        return hits[:wanted]

    def staging(self) -> EdgeStore:
        """The collection that `promote` puts in this one's place."""
        self._check_open()
        with self._guard:
            if self._beside is None or self._beside._closed:
                self._beside = EdgeStore(f"{self.url} (being rebuilt)", self._directory, self)
            return self._beside

    def promote(self) -> None:
        """Put the staging collection in this one's place."""
        self.acquire()
        with self._guard, self._directory.changing() as write:
            manifest = self._manifest()
            if manifest.staging is None:
                raise nothing_staged(self.url)
            self.staging()._put_away()
            self._put_away()
            write(Manifest(manifest.staging))
        self._directory.remove_shard(manifest.current.shard)

    def drop_staging(self) -> None:
        """Remove the staging collection, if there is one."""
        self.acquire()
        with self._guard, self._directory.changing() as write:
            manifest = self._manifest()
            if manifest.staging is None:
                return
            self.staging()._put_away()
            write(replace(manifest, staging=None))
        self._directory.remove_shard(manifest.staging.shard)

    def close(self) -> None:
        """Flush, and let others in. Closing twice is fine; a staging store lets go of its shard only."""
        with self._guard:
            if self._closed:
                return
            if self._beside is not None:
                self._beside.close()
            try:
                self._optimize()
            finally:
                self._closed = True
                try:
                    self._put_away()
                finally:
                    if self._parent is None:
                        self._directory.release()

    def _check_open(self) -> None:
        if self._closed or (self._parent is not None and self._parent._closed):
            raise store_closed(self.url)

    def _found(self) -> Entry | None:
        self._check_open()
        manifest = self._directory.manifest()
        if manifest is None:
            return None
        return manifest.current if self._parent is None else manifest.staging

    def _entry(self) -> Entry:
        entry = self._found()
        if entry is None:
            raise collection_not_found(self.url)
        return entry

    def _manifest(self) -> Manifest:
        manifest = self._directory.manifest()
        if manifest is None:
            raise collection_not_found(self.url)
        return manifest

    def _change(self, change: Callable[[Entry], Entry]) -> None:
        self.acquire()
        with self._directory.changing() as write:
            entry, manifest = change(self._entry()), self._manifest()
            write(replace(manifest, current=entry) if self._parent is None else replace(manifest, staging=entry))

    def _write(self, operation: Any) -> None:
        self._has_written = True
        self._using(lambda shard: shard.update(operation))

    def _using(self, work: Callable[[Any], T]) -> T:
        """What `work` makes of the shard, which is opened for it if need be."""
        with self._guard:
            entry = self._entry()
            if self._turn is not None and (self._name != entry.shard or self._turn.is_over()):
                self._put_away(yielding=True)
            if self._turn is None:
                self._load()
            with self._engine():
                return work(self._shard)

    def _load(self) -> None:
        """Open the current shard, which may be another one by the time that it is our turn."""
        while True:
            entry = self._entry()
            turn = self._wait_for(entry)
            if self._entry().shard == entry.shard:
                self._open(turn, entry, lambda path: engine.EdgeShard.load(path))
                return
            turn.release()

    def _wait_for(self, entry: Entry) -> Turn:
        turn = self._directory.turn(entry.shard, self._guard, lambda: self._put_away())
        turn.take()
        return turn

    def _open(self, turn: Turn, entry: Entry, opened: Callable[[str], Any]) -> None:
        """Have the shard open from here on."""
        try:
            with self._engine():
                self._shard = opened(str(self._directory.path / entry.shard))
        except BaseException:
            turn.release()
            raise
        self._turn, self._name = turn, entry.shard

    def _put_away(self, *, yielding: bool = False) -> None:
        """Flush and close the shard, and let the next one have it."""
        with self._guard:
            turn, self._turn = self._turn, None
            shard, self._shard = self._shard, None
            if turn is None:
                return
            try:
                with self._engine():
                    shard.flush()
                    shard.close()
            finally:
                turn.release(yielding=yielding)

    def _optimize(self) -> None:
        """Build the search index where it pays; in a process of its own, because the engine holds the GIL all the while."""
        if not self._has_written or not self._is_large():
            return
        entry = self._entry()
        self._put_away()
        turn = self._directory.turn(entry.shard, threading.RLock(), lambda: None)
        turn.take()
        try:
            command = [sys.executable, "-c", _OPTIMIZE, str(self._directory.path / entry.shard)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                _log.warning("the search index of %s was not built, searching goes on without: %s", self.url, done.stderr[-300:])
        finally:
            turn.release()

    def _is_large(self) -> bool:
        try:
            info = self._using(lambda shard: shard.info())
        except SightlineError:  # gone or held by somebody: nothing to be built on the way out
            return False
        return int(info.points_count) - int(info.indexed_vectors_count) > _OPTIMIZE_FROM

    def _scroll(
        self, same: Mapping[str, Any], fields: list[str] | bool, *, vectors: bool = False, limit: int | None = None
    ) -> Iterator[Any]:
        offset, left = None, limit
        while left is None or left > 0:
            size = _RECORDS_PER_PAGE if left is None else min(left, _RECORDS_PER_PAGE)
            request = engine.ScrollRequest(
                offset=offset, limit=size, filter=equals(same) if same else None, with_payload=fields, with_vector=vectors
            )
            records, offset = self._using(partial(_scroll_page, request))
            yield from records
            left = None if left is None else left - len(records)
            if offset is None:
                return

    @contextmanager
    def _engine(self) -> Iterator[None]:
        """Name the engine's errors: it raises bare `Exception`, told apart by their text only."""
        try:
            yield
        except Exception as error:
            if type(error) is not Exception:
                raise
            if "WouldBlock" in str(error):
                raise StoreLocked(
                    f"{self.url} is held by a program that uses Qdrant Edge without Sightline. Close it, then try again."
                ) from error
            raise StoreError(f"Qdrant Edge failed on {self.url}: {error}") from error


def _new_shard(dimensions: int, path: str) -> Any:
    vectors = engine.EdgeVectorParams(size=dimensions, distance=engine.Distance.Cosine)
    shard = engine.EdgeShard.create(path, engine.EdgeConfig(vectors=vectors))
    for key, kind in _INDEXED.items():
        shard.update(engine.UpdateOperation.create_field_index(key, kind))
    shard.flush()
    return shard


def _overwrite(points: Sequence[Point], shard: Any) -> None:
    there = {str(record.id) for record in shard.retrieve([point.id for point in points], False, False)}
    for point in points:
        if point.id in there:  # the engine refuses others
            shard.update(engine.UpdateOperation.overwrite_payload([point.id], _payload(point)))


def _query(request: Any, shard: Any) -> Any:
    return shard.query(request)


def _scroll_page(request: Any, shard: Any) -> Any:
    return shard.scroll(request)


def _json(data: Mapping[str, Any]) -> dict[str, Any]:
    return dict(json.loads(contract_json(data)))


def _payload(point: Point) -> dict[str, Any]:
    return {**to_nested(point), **flags_of(point)}


def _slices(items: Sequence[T], size: int) -> list[list[T]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]
