"""Qdrant Edge, the embedded default: the real engine in this process, one collection in a directory of its own.

Edge lets one process have a shard open, readers too. So a store has its shard open while it works with it, and gives it up
as soon as another process waits for it (`turns.py`). Writers exclude each other for as long as they live (`edge_directory.py`).
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from sightline.cutting import cut
from sightline.errors import DiskFull, SightlineError, StoreError, StoreLocked
from sightline.keys import without_keys
from sightline.metadata import payload_bytes
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
    directory_bytes,
    nothing_staged,
    only_uuids,
    store_closed,
)
from sightline.stores.edge_directory import EdgeDirectory, Entry, Manifest, new_shard_name
from sightline.stores.edge_engine import engine
from sightline.stores.edge_filters import FLAGS_KEY, engine_filter, equals, flags_of
from sightline.stores.edge_vectors import MAIN, engine_vectors, new_vector, request, shard_config
from sightline.stores.filters import Condition, matches, parse_filter
from sightline.stores.payload import (
    HEAD_FIELDS,
    HEAD_KEY,
    POINT_KEY,
    SOURCE_KEY,
    TEXT_KEY,
    VISIBLE_SOURCE_KEY,
    head_from,
    hit,
    is_ours,
    point_from_nested,
    text_digest,
    to_nested,
)
from sightline.stores.room import check_room, disk_full, is_full
from sightline.stores.turns import Turn
from sightline.types import Filter, FloatArray, Head, Hit, Point, Quantization, Record, Shortlist, VectorLayout

# The GIL is held during each call: 256 points of 1,024 dimensions take 5 ms, which other threads hardly notice.
_POINTS_PER_CALL = 256
_RECORDS_PER_PAGE = 1000
# Below this, searching without an index takes a few milliseconds, and building one takes longer than it will ever save.
_OPTIMIZE_FROM = 100_000
# The engine compresses to scalars when it builds the index, which it does from 10,000 kB of float32 on; to all else at once.
_SCALAR_FROM = 10_000 * 1024 // 4
# The engine maps files that are mostly holes, and where a page of one finds no room on the disk the system ends the process
# (SIGBUS). A point is written to the log and to the segment, and its keys to several indexes: 3.3 bytes for each byte of it, in a
# trial with 64 dimensions. What comes besides (settings, lists of ids, a new log of 32 MiB at most) is to be free at any time.
_BYTES_PER_BYTE = 4
_SPARE_BYTES = 32 * 2**20
_OPTIMIZE = "import sys; from sightline.stores.edge import build_index; build_index(*sys.argv[1:])"
_INDEXED = {
    SOURCE_KEY: engine.PayloadSchemaType.Keyword,
    VISIBLE_SOURCE_KEY: engine.PayloadSchemaType.Keyword,
    TEXT_KEY: engine.PayloadSchemaType.Keyword,
    FLAGS_KEY: engine.PayloadSchemaType.Keyword,
    HEAD_KEY: engine.PayloadSchemaType.Integer,
    POINT_KEY: engine.PayloadSchemaType.Integer,
}

_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Opened:
    """A shard that is open, and which one it is."""

    shard: Any
    entry: Entry
    turn: Turn


class EdgeStore:
    """The collection in a directory, or the one that a rebuild fills beside it."""

    def __init__(self, url: str, directory: Path | EdgeDirectory, parent: EdgeStore | None = None) -> None:
        self.url = url
        self.capabilities = StoreCapabilities(persistent=True, several_dimensions=True, quantization=True, float16=True)
        self._directory = directory if isinstance(directory, EdgeDirectory) else EdgeDirectory(url, directory)
        self._parent = parent
        self._beside: EdgeStore | None = None
        self._guard = threading.RLock()
        self._opened: _Opened | None = None
        self._has_written = False
        self._closed = False
        _stores[id(self)] = self

    def exists(self) -> bool:
        """Whether the directory holds a collection."""
        return self._found() is not None

    def layout(self) -> VectorLayout:
        """How the collection keeps its vectors, read without opening the shard."""
        return self._entry().layout

    def count(self) -> int:
        """How many points the collection holds."""
        with self._using() as opened:
            return int(opened.shard.count(engine.CountRequest()))

    def disk_bytes(self) -> int | None:
        """What the directory takes."""
        self._entry()
        return directory_bytes(self._directory.path)

    def acquire(self, *, take_over: bool = False) -> None:
        """Become the only writer of the directory; raise StoreLocked, which names the other one."""
        self._entry()
        with self._removal_may_wait():
            self._directory.acquire()

    def release(self) -> None:
        """Let the next writer in; the shard stays open until somebody else wants it."""
        self._check_open()
        if self._parent is None:
            self._directory.release()

    def create(self, layout: VectorLayout, contract: Mapping[str, Any]) -> None:
        """Make the collection in an empty or new directory, or the staging one.

        Raises:
            UsageError: the directory holds something else.
            StoreError: it holds a collection already.
            StoreLocked: another process is at it.
        """
        self._check_open()
        entry = Entry(new_shard_name(), checked_layout(layout, self.capabilities, self.url), _json(contract))
        with self._guard:
            if self._parent is None:
                self._directory.prepare()
            else:
                self._parent.acquire()
                if self.exists():
                    raise collection_exists(self.url)
            try:
                self._check_room(0)
                self._open(self._wait_for(entry), entry, partial(_new_shard, entry.layout))
                with self._directory.changing() as write:
                    write(Manifest(entry) if self._parent is None else replace(self._manifest(), staging=entry))
            except BaseException:
                self._put_away()
                if self._parent is None:
                    self._directory.release()
                raise

    def add_dimension(self, dimensions: int, on_progress: Callable[[int], None] | None = None) -> int:
        """Keep one more shorter length: the engine gets its name first, then the manifest, and then the points, page by page."""
        self.acquire()
        self._finish_removals()
        before = self.layout()
        layout = checked_addition(dimensions, before, self.capabilities, self.url)
        if layout != before:
            # First what a killed addition left: the engine takes a name again only with the settings that it has.
            self._write(engine.UpdateOperation.delete_vector_name(str(dimensions)))
            self._write(new_vector(dimensions, layout))
            self._change(lambda entry: replace(entry, layout=layout))
        done = 0
        lacking = engine.Filter(must_not=[engine.HasVectorCondition(str(dimensions))])
        for records in self._pages(lacking, [], vectors=[MAIN]):
            rows = cut(np.stack([self._vector(record) for record in records]), dimensions)
            self._write(engine.UpdateOperation.update_vectors(
                [engine.PointVectors(record.id, {str(dimensions): row}) for record, row in zip(records, rows, strict=True)]
            ), rows.nbytes)  # fmt: skip
            done += len(records)
            if on_progress is not None:
                on_progress(done)
        if layout.quantization is not None:
            self._build_index()  # the engine compresses a vector that is new to a segment only when it rewrites that
        return done

    def remove_dimension(self, dimensions: int) -> None:
        """Keep one of the shorter lengths no longer; the manifest forgets it first, and notes that it is leaving."""
        self.acquire()
        if dimensions not in self._entry().leaving:
            layout = checked_removal(dimensions, self.layout(), self.url)
            self._change(lambda entry: replace(entry, layout=layout, leaving=(*entry.leaving, dimensions)))
        self._finish_removals()

    def _finish_removals(self) -> None:
        """Take the vectors of the lengths that are leaving out of the engine; a removal that was killed left them."""
        leaving = self._entry().leaving
        for dimensions in leaving:
            self._write(engine.UpdateOperation.delete_vector_name(str(dimensions)))
        if leaving:
            self._change(lambda entry: replace(entry, leaving=()))

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
        self._finish_removals()
        layout = self.layout()
        plain, array = checked_points(points, vectors, layout.dimensions)
        for start in range(0, len(plain), _POINTS_PER_CALL):
            some = plain[start : start + _POINTS_PER_CALL]
            rows = engine_vectors(array[start : start + _POINTS_PER_CALL], layout)
            batch = [engine.Point(point.id, row, _payload(point)) for point, row in zip(some, rows, strict=True)]
            size = sum(map(payload_bytes, some)) + 4 * sum(layout.lengths) * len(some)
            self._write(engine.UpdateOperation.upsert_points(batch), size)

    def update(self, points: Sequence[Point]) -> None:
        """Replace the payload of those points that are there."""
        self.acquire()
        for batch in _slices(checked_updates(points), _POINTS_PER_CALL):
            self._has_written = True
            self._check_room(sum(map(payload_bytes, batch)))
            with self._using() as opened:
                _overwrite(batch, opened.shard)

    def delete(self, ids: Sequence[str]) -> None:
        """Remove points of ours; ids that aren't there are fine."""
        self.acquire()
        for batch in _slices(checked_ids(ids), _RECORDS_PER_PAGE):
            self._write(engine.UpdateOperation.delete_points_by_filter(_ours(batch)))

    def heads(self) -> Iterator[Head]:
        """The heads of all documents, read page by page."""
        self._entry()
        return (head_from(record.payload) for record in self._scroll(equals({HEAD_KEY: 1}), HEAD_FIELDS))

    def sources(self) -> dict[str, int]:
        """How many points each document has."""
        with self._using() as opened:
            most = max(1, int(opened.shard.count(engine.CountRequest())))
            request = engine.FacetRequest(SOURCE_KEY, limit=most, exact=True, filter=equals({POINT_KEY: 1}))
            return {found.value: int(found.count) for found in opened.shard.facet(request).hits}

    def points(self, source: str) -> list[Point]:
        """All points of a document, its head included."""
        self._entry()
        where = equals({SOURCE_KEY: source, POINT_KEY: 1})
        return [point_from_nested(str(one.id), one.payload) for one in self._scroll(where, True)]

    def vectors_of(self, texts: Sequence[str]) -> dict[str, FloatArray]:
        """Stored vectors of those texts that some point has, float32 `(dimensions,)` each."""
        self._entry()
        wanted = {text_digest(text): text for text in texts}
        found: dict[str, FloatArray] = {}
        for digests in _slices(list(wanted), _RECORDS_PER_PAGE):
            for record in self._scroll(equals({TEXT_KEY: digests, POINT_KEY: 1}), [TEXT_KEY], vectors=True):
                found[wanted[record.payload[TEXT_KEY]]] = self._vector(record)
        return found

    def records(self, limit: int | None = None, *, filter: Filter | None = None) -> Iterator[Record]:
        """Points with their vectors, read page by page."""
        self._entry()
        conditions = parse_filter(filter)
        found = self._scroll(engine_filter(conditions), True, vectors=True, page=limit)
        # The engine's filter lets through a little more than it should.
        meeting = (one for one in map(self._record, found) if matches(conditions, one.point.source, one.point.metadata))
        return islice(meeting, limit)

    def records_of(self, ids: Sequence[str]) -> list[Record]:
        """Points with their vectors by their ids."""
        self._entry()
        found: list[Record] = []
        for batch in _slices(only_uuids(ids), _RECORDS_PER_PAGE):
            with self._using() as opened:
                found += map(self._record, opened.shard.retrieve(batch, True, [MAIN]))
        return found

    def search(
        self, vector: FloatArray, *, limit: int, filter: Filter | None = None, shortlist: Shortlist | None = None
    ) -> list[Hit]:
        """The nearest points by cosine similarity that meet the filter, best first."""
        conditions = parse_filter(filter)
        wanted = checked_limit(limit)
        with self._using() as opened:  # in one go: a rebuild that comes in between may have vectors of another length
            layout = opened.entry.layout
            row = checked_query(vector, layout, shortlist, wanted)
            most = int(opened.shard.count(engine.CountRequest()))
            short = None if shortlist is None else shortlist.among(most)
            return _nearest(opened.shard, partial(request, row, layout, short), wanted, most, conditions)

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
            self._has_written = True  # what the staging store wrote is ours now, and may want its search index
        self._remove(manifest.current)

    def drop_staging(self) -> None:
        """Remove the staging collection, if there is one."""
        self.acquire()
        with self._guard, self._directory.changing() as write:
            manifest = self._manifest()
            if manifest.staging is None:
                return
            self.staging()._put_away()
            write(replace(manifest, staging=None))
        self._remove(manifest.staging)

    def close(self) -> None:
        """Flush, and let others in. Closing twice is fine; a staging store lets go of its shard only."""
        with self._guard:
            if self._closed:
                return
            if self._beside is not None:
                self._beside.close()
            try:
                if self._parent is None:  # a staging store that is closed isn't finished
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

    def _remove(self, entry: Entry) -> None:
        with self._removal_may_wait():
            self._directory.remove_shard(entry.shard)

    @contextmanager
    def _removal_may_wait(self) -> Iterator[None]:
        """Leave a shard that nobody names, but somebody has open, to the next writer: what was asked for is done."""
        try:
            yield
        except StoreLocked as error:
            if not self._directory.is_writer:
                raise
            _log.warning("an old shard stays until the next writer comes: %s", error)

    def _write(self, operation: Any, size: int = 0) -> None:
        self._has_written = True
        self._check_room(size)
        with self._using() as opened:
            opened.shard.update(operation)

    def _check_room(self, size: int) -> None:
        """Raise DiskFull unless there is room for points of so many bytes: the engine doesn't, the system ends the process."""
        check_room(self.url, self._directory.path, _SPARE_BYTES + _BYTES_PER_BYTE * size)

    @contextmanager
    def _using(self) -> Iterator[_Opened]:
        """The current shard for one operation, opened for it if need be."""
        with self._guard:
            entry, opened = self._entry(), self._opened
            if opened is not None and (opened.entry.shard != entry.shard or opened.turn.is_over()):
                self._put_away(yielding=True)
                opened = None
            opened = opened or self._load()
            if opened.entry != entry and opened.entry.shard == entry.shard:  # its layout is another one by now
                opened = self._opened = replace(opened, entry=entry)
            with self._engine():
                yield opened

    def _load(self) -> _Opened:
        """Open the current shard, which may be another one by the time that it is our turn."""
        while True:
            entry = self._entry()
            turn = self._wait_for(entry)
            if self._entry().shard == entry.shard:
                return self._open(turn, entry, self._loaded)
            turn.release()

    def _loaded(self, path: str) -> Any:
        try:
            with self._engine():
                return engine.EdgeShard.load(path)
        except StoreLocked:
            raise
        except StoreError as error:
            raise StoreError(
                f"{error}. If {self._directory.path} is damaged, restore it, or index again into a new one:"
                " sightline index PATH --into edge:NEW_DIR"
            ) from error

    def _wait_for(self, entry: Entry) -> Turn:
        turn = self._directory.turn(entry.shard, self._guard, self._give_way)
        turn.take()
        return turn

    def _open(self, turn: Turn, entry: Entry, opening: Callable[[str], Any]) -> _Opened:
        """Have the shard open from here on."""
        try:
            with self._engine():
                shard = opening(str(self._directory.path / entry.shard))
        except BaseException:
            turn.release()
            raise
        self._opened = _Opened(shard, entry, turn)
        return self._opened

    def _give_way(self) -> None:
        """Put the shard away while nobody uses it; called from a thread that has nobody to tell of a failure."""
        try:
            self._put_away()
        except StoreError as error:
            _log.warning("%s", error)

    def _put_away(self, *, yielding: bool = False) -> None:
        """Flush and close the shard, and let the next one have it."""
        with self._guard:
            opened, self._opened = self._opened, None
            if opened is None:
                return
            try:
                with self._engine():
                    opened.shard.flush()
                    opened.shard.close()
            finally:
                opened.turn.release(yielding=yielding)

    def _optimize(self) -> None:
        """Build the search index where it pays."""
        # Who interrupted a run wants it to end now; the next one builds the index.
        if self._has_written and sys.exception() is None and self._is_large():
            self._build_index()

    def _build_index(self) -> None:
        """Rewrite the segments as the engine would have them; in another process, because it holds the GIL all the while."""
        shard = self._entry().shard
        try:
            self._check_room(directory_bytes(self._directory.path / shard) // _BYTES_PER_BYTE)
        except DiskFull as error:
            _log.warning("the search index of %s was not built, searching goes on without: %s", self.url, error)
            return
        self._put_away()
        # The child takes its own turn, so that the shard is known to be held even when this process is killed. It imports
        # what this process imports, and nothing that happens to lie in the working directory (-P).
        command = [sys.executable, "-P", "-c", _OPTIMIZE, self.url, str(self._directory.path), shard]
        done = subprocess.run(command, capture_output=True, text=True, env=without_keys(os.environ))
        if done.returncode != 0:
            _log.warning("the search index of %s was not built, searching goes on without: %s", self.url, done.stderr[-300:])

    def _is_large(self) -> bool:
        try:
            with self._using() as opened:
                info = opened.shard.info()
        except SightlineError:  # gone or held by somebody: nothing to be built on the way out
            return False
        waiting = int(info.points_count) - int(info.indexed_vectors_count)
        if self.layout().quantization == Quantization.SCALAR:
            return waiting * self.layout().dimensions > _SCALAR_FROM
        return waiting > _OPTIMIZE_FROM

    def _scroll(
        self, where: Any, fields: list[str] | bool, *, vectors: bool = False, page: int | None = None
    ) -> Iterator[Any]:
        """Records, read page by page; `page` is how many are likely to be enough."""
        for records in self._pages(where, fields, vectors=[MAIN] if vectors else False, page=page):
            yield from records

    def _pages(
        self, where: Any, fields: list[str] | bool, *, vectors: list[str] | bool, page: int | None = None
    ) -> Iterator[list[Any]]:
        size = max(1, min(page or _RECORDS_PER_PAGE, _RECORDS_PER_PAGE))
        offset, first = None, None
        while True:
            request = engine.ScrollRequest(
                offset=offset, limit=size, filter=where, with_payload=fields, with_vector=vectors
            )
            with self._using() as opened:
                records, offset = opened.shard.scroll(request)
            first = first or opened.entry.shard
            if opened.entry.shard != first:
                raise StoreError(f"{self.url} was rebuilt while it was read, and half of each is neither. Read it again.")
            if records:
                yield records
            if offset is None:
                return

    def _record(self, record: Any) -> Record:
        return Record(point_from_nested(str(record.id), record.payload), self._vector(record), is_ours(record.payload))

    def _vector(self, record: Any) -> FloatArray:
        """The vector of a record, float32 `(dimensions,)`."""
        if not isinstance(record.vector, list):  # the engine takes points without one, and loses some when files are gone
            raise StoreError(f"The point {record.id} of {self.url} has no vector. Restore the directory, or index again.")
        return np.asarray(record.vector, dtype=np.float32)

    @contextmanager
    def _engine(self) -> Iterator[None]:
        """Name the engine's errors: bare `Exception`, told apart by their text only, and panics, which are no `Exception`."""
        try:
            yield
        except BaseException as error:
            if type(error) is not Exception and type(error).__name__ != "PanicException":
                raise
            if "WouldBlock" in str(error):
                raise StoreLocked(
                    f"{self.url} is held by a program that uses Qdrant Edge without Sightline. Close it, then try again."
                ) from error
            if is_full(error):
                raise disk_full(self.url, self._directory.path) from error
            raise StoreError(f"Qdrant Edge failed on {self.url}: {error}") from error


_stores: weakref.WeakValueDictionary[int, EdgeStore] = weakref.WeakValueDictionary()


class _Fork:
    """All shards put away, and nobody opens one, until the fork is over: the engine's lock on one would be the child's too."""

    def __init__(self) -> None:
        self._only = threading.Lock()
        self._held = ExitStack()

    def begin(self) -> None:
        """Wait for the operations of other threads, and put away what they used."""
        self._only.acquire()
        # In the order in which operations take them: a store, the one that it rebuilds beside it, their directory.
        found = [store for reference in _stores.valuerefs() if (store := reference()) is not None]
        stores = sorted(found, key=lambda store: store._parent is not None)
        for store in stores:
            self._held.enter_context(store._guard)
            store._give_way()
        for directory in {store._directory for store in stores}:
            self._held.enter_context(directory.guard)

    def end(self) -> None:
        """Go on, in the parent and in the child."""
        self._held.close()
        self._only.release()


if hasattr(os, "register_at_fork"):  # not on Windows, which doesn't fork
    _fork = _Fork()
    os.register_at_fork(before=_fork.begin, after_in_parent=_fork.end, after_in_child=_fork.end)


def build_index(url: str, directory: str, shard: str) -> None:
    """Build the search index of a shard; the work of a process of its own.

    Raises:
        StoreLocked: somebody else has the shard open and doesn't give way.
    """
    known = EdgeDirectory(url, Path(directory))
    turn = known.turn(shard, threading.RLock(), lambda: None)
    turn.take()
    try:
        opened = engine.EdgeShard.load(str(Path(directory, shard)), _config_of(shard, known.manifest()))
        opened.optimize()
        opened.flush()
        opened.close()
    finally:
        turn.release()


def _config_of(shard: str, manifest: Manifest | None) -> Any:
    """The settings of a quantised shard, which a length that was added to it lacks; None leaves a shard as it is."""
    entries = [] if manifest is None else [manifest.current, manifest.staging]
    layout = next((entry.layout for entry in entries if entry is not None and entry.shard == shard), None)
    return None if layout is None or layout.quantization is None else shard_config(layout)


def _new_shard(layout: VectorLayout, path: str) -> Any:
    shard = engine.EdgeShard.create(path, shard_config(layout))
    for key, kind in _INDEXED.items():
        shard.update(engine.UpdateOperation.create_field_index(key, kind))
    shard.flush()
    return shard


def _overwrite(points: Sequence[Point], shard: Any) -> None:
    there = {str(record.id) for record in shard.retrieve([point.id for point in points], False, False)}
    for point in points:
        if point.id in there:  # the engine refuses others
            shard.update(engine.UpdateOperation.overwrite_payload([point.id], _payload(point)))


def _nearest(
    shard: Any, request: Callable[[int, Any], Any], wanted: int, most: int, conditions: Sequence[Condition]
) -> list[Hit]:
    where = engine_filter(conditions)
    asked = min(wanted, most)  # the engine makes room for as many hits, however few there are
    hits: list[Hit] = []
    while asked:
        scored = shard.query(request(asked, where))
        points = [(point_from_nested(str(one.id), one.payload), float(one.score)) for one in scored]
        # The engine's filter lets through a little more than it should, and never less.
        hits = [hit(point, score) for point, score in points if matches(conditions, point.source, point.metadata)]
        if len(hits) >= wanted or len(scored) < asked or asked == most:
            break
        asked = min(4 * asked, most)
    return hits[:wanted]


def _ours(ids: Sequence[str]) -> Any:
    return engine.Filter(must=[engine.HasIdCondition(set(ids)), equals({POINT_KEY: 1})])


def _json(data: Mapping[str, Any]) -> dict[str, Any]:
    return dict(json.loads(contract_json(data)))


def _payload(point: Point) -> dict[str, Any]:
    return {**to_nested(point), **flags_of(point)}


def _slices(items: Sequence[T], size: int) -> list[list[T]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]
