"""Qdrant: a server or the cloud over gRPC, and qdrant-client's own local mode, one code for both.

A collection's name is an alias from the first run on, because an alias can't take the name of a collection: `kb` stands for
`kb__0123456789ab`, and a rebuild fills another such collection and moves the alias in one step. The main vector is the unnamed
one, so that every framework finds it. Contract and mark lie in the collection's metadata, and beside them what a writer needs
after a crash: whether a collection is live, what it replaced, and how indexing was set before a bulk load put it off.

A collection that somebody else made has the name itself. It is read whatever its distance is, and its metadata is looked for at
the payload's top level too.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

from sightline.cutting import cut
from sightline.errors import MissingExtra, StoreError
from sightline.patience import at_most
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
    not_ours,
    nothing_staged,
    only_uuids,
    store_closed,
    stored_object,
)
from sightline.stores.filters import Condition, matches, parse_filter
from sightline.stores.leases import PARTING_S
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
from sightline.stores.qdrant_filters import native_filter
from sightline.types import Filter, FloatArray, Head, Hit, Point, Record, Shortlist, VectorLayout

try:
    from qdrant_client import QdrantClient, models
except ImportError as error:
    raise MissingExtra("A store qdrant:", package="qdrant-client", extra="qdrant") from error
else:  # these need the client
    from sightline.stores.qdrant_database import Call, Database
    from sightline.stores.qdrant_directory import Directory
    from sightline.stores.qdrant_errors import finished
    from sightline.stores.qdrant_layout import Layout, layout_of, vector_of, vector_selector, vectors_by_name
    from sightline.stores.qdrant_names import CONTRACT_KEY, MARK_KEY, Names
    from sightline.stores.qdrant_server import Server
    from sightline.stores.qdrant_vectors import add_vector, lacks_vector, query_options, remove_vector, write_vectors

T = TypeVar("T")

_log = logging.getLogger(__name__)
_POINTS_PER_REQUEST = 256
_IDS_PER_REQUEST, _BYTES_PER_ID = 1000, 40
_TEXTS_PER_REQUEST = 200
_RECORDS_PER_PAGE, _PLAIN_RECORDS_PER_PAGE = 256, 2000
_LOCAL_RECORDS_PER_PAGE = 5000  # local mode looks at all points for each page
_CANDIDATES = 200


class QdrantStore:
    """One collection of a Qdrant database, under its alias or its own name."""

    def __init__(self, url: str, database: Database, name: str, parent: QdrantStore | None = None) -> None:
        self.url = url
        # Local mode takes such settings, and searches and keeps float32 all the same.
        compact = database.is_server
        self.capabilities = StoreCapabilities(
            persistent=True, several_dimensions=True, quantization=compact, float16=compact
        )  # fmt: skip
        self._database = database
        self._name = name
        self._names = Names(url, database, name)
        self._parent = parent
        self._guard = database.guard
        # What the only writer knows of its collection; good for one state of the aliases.
        self._held: tuple[int, Layout] | None = None
        self._closed = False

    @classmethod
    def on_server(cls, url: str, host: str, port: int, collection: str, *, tls: bool) -> Self:
        """The collection on a server; `port` is its gRPC port, or 6333 with gRPC beside it."""
        return cls(url, Server(url, host, port, collection, tls=tls), collection)

    @classmethod
    def in_directory(cls, url: str, directory: Path, collection: str) -> Self:
        """The collection in qdrant-client's local mode; others may lie in the same directory."""
        return cls(url, Directory(url, directory), collection)

    def exists(self) -> bool:
        """Whether the database has a collection of this name, whoever made it."""
        return self._find() is not None

    def layout(self) -> VectorLayout:
        """How the collection keeps its vectors."""
        return self._found().vectors

    def count(self) -> int:
        """How many points the collection holds, whoever wrote them."""
        name = self._found().name
        return int(self._request("counting", lambda client: client.count(name, exact=True)).count)

    def disk_bytes(self) -> int | None:
        """What local mode's directory takes, with all its collections; None for a server."""
        self._check_open()
        return self._database.disk_bytes()

    def acquire(self, *, take_over: bool = False) -> None:
        """Become the only writer, and finish what a killed one left.

        Raises:
            StoreLocked: another run writes. `take_over` ends a server's lease all the same.
        """
        self._check_open()
        with self._guard:
            if self._database.is_held:
                return
            self._database.acquire(take_over=take_over)
            try:
                self._names.tidy()
            except BaseException:
                self._database.release()
                raise

    def release(self) -> None:
        """Turn indexing on again and let the next writer in."""
        self._check_open()
        if self._parent is not None or not self._database.is_held:
            return
        with self._guard:
            self._restore_indexing()
            self._held = None
            self._database.release()

    def create(self, layout: VectorLayout, contract: Mapping[str, Any]) -> None:
        """Make the collection; raise StoreError when it is there already."""
        checked, data = checked_layout(layout, self.capabilities, self.url), json.loads(contract_json(contract))
        self._check_open()
        with self._guard:
            self._refuse_existing()
            self.acquire()
            self._refuse_existing()  # again: now nobody else can be making it
            self._database.prepare()
            self._names.make(checked, data, is_staging=self._parent is not None)

    def add_dimension(self, dimensions: int, on_progress: Callable[[int], None] | None = None) -> int:
        """Keep one more shorter length; servers can from version 1.18 on."""
        before = self._writable()
        layout = checked_addition(dimensions, before.vectors, self.capabilities, self.url)
        if before.vector_name or not before.is_cosine:
            raise StoreError(
                f"{self.url} was made by another program, with a main vector that has a name or isn't compared by cosine,"
                " so no shorter ones can stand beside it. Index into a new collection: sightline index PATH --into OTHER_URL"
            )
        self._database.check()
        if layout != before.vectors:
            self._request("adding a vector", partial(add_vector, before.name, dimensions, layout))
            self._held = None
        done = 0
        for records in self._pages(self._writable(), lacks_vector(dimensions), [POINT_KEY], vectors=True):
            done += self._fill(before, dimensions, records)
            if on_progress is not None:
                on_progress(done)
        return done

    def remove_dimension(self, dimensions: int) -> None:
        """Keep one of the shorter lengths no longer."""
        layout = self._writable()
        checked_removal(dimensions, layout.vectors, self.url)
        self._database.check()
        self._request("removing a vector", partial(remove_vector, layout.name, dimensions))
        self._held = None

    def read_contract(self) -> Mapping[str, Any] | None:
        """The contract as JSON data; None when there is no collection, or one that Sightline didn't make."""
        layout = self._find()
        contract = None if layout is None else layout.metadata.get(CONTRACT_KEY)
        return None if contract is None else stored_object(contract, "contract", self.url)

    def write_contract(self, contract: Mapping[str, Any]) -> None:
        """Replace the contract, or adopt a collection that has none."""
        data = json.loads(contract_json(contract))
        self._found()
        with self._guard:
            self.acquire()
            layout = self._pinned()
            if CONTRACT_KEY not in layout.metadata:
                self._database.index_payload(layout.name)
            self._database.check()
            self._names.put(layout.name, {CONTRACT_KEY: data})
            self._held = None

    def read_mark(self) -> Mapping[str, Any]:
        """The mark as JSON data; empty before the first one."""
        return stored_object(self._found().metadata.get(MARK_KEY) or {}, "mark", self.url)

    def write_mark(self, mark: Mapping[str, Any]) -> None:
        """Replace the mark; it is stored when this returns."""
        data = json.loads(contract_json(mark))
        layout = self._writable()
        self._database.check()
        self._names.put(layout.name, {MARK_KEY: data})

    def upsert(self, points: Sequence[Point], vectors: FloatArray) -> None:
        """Write points, several requests at once on a server; returns when all of them are applied."""
        layout = self._writable()
        plain, array = checked_points(points, vectors, layout.dimensions)
        if plain:
            self._database.check()
        self._database.expect(layout.name, len(plain))
        payloads = [to_nested(point) for point in plain]

        def send(rows: slice) -> None:
            self._upsert(layout, plain[rows], payloads[rows], array[rows])

        self._write(layout, plain, payloads, sum(layout.vectors.lengths) * self._database.bytes_per_number, send)

    def update(self, points: Sequence[Point]) -> None:
        """Replace the payload of those points of ours that are there."""
        layout = self._writable()
        plain = checked_updates(points)
        if plain:
            self._database.check()
        payloads = [to_nested(point) for point in plain]

        def send(rows: slice) -> None:
            self._overwrite(layout, plain[rows], payloads[rows])

        self._write(layout, plain, payloads, 0, send)

    def delete(self, ids: Sequence[str]) -> None:
        """Remove points of ours; ids that aren't there are fine."""
        layout = self._writable()

        def delete(batch: list[str]) -> None:
            self._database.check()
            self._request("deleting", partial(_delete, layout.name, models.FilterSelector(filter=_ours(batch))))

        self._by_ids(checked_ids(ids), min(_IDS_PER_REQUEST, layout.limits.values), delete)

    def heads(self) -> Iterator[Head]:
        """The heads of all documents, all read at once."""
        records = self._scroll(self._pinned(), _ours(None, HEAD_KEY, 1), HEAD_FIELDS, size=_PLAIN_RECORDS_PER_PAGE)
        return iter([head_from(record.payload) for record in records])

    def sources(self) -> dict[str, int]:
        """How many points each document has."""
        records = self._scroll(self._pinned(), _ours(), [SOURCE_KEY], size=_PLAIN_RECORDS_PER_PAGE)
        return dict(Counter(record.payload[SOURCE_KEY] for record in records))

    def points(self, source: str) -> list[Point]:
        """All points of a document, its head included."""
        records = self._scroll(self._pinned(), _ours(None, SOURCE_KEY, source), True)
        return [point_from_nested(str(record.id), record.payload) for record in records]

    def vectors_of(self, texts: Sequence[str]) -> dict[str, FloatArray]:
        """Stored vectors of those texts that some point of ours has, float32 `(dimensions,)` each."""
        layout = self._pinned()
        text_of = {text_digest(text): text for text in texts}
        found: dict[str, FloatArray] = {}

        def read(digests: list[str]) -> None:
            for record in self._scroll(layout, _ours(None, TEXT_KEY, digests), [TEXT_KEY], vectors=True):
                row = vector_of(record, layout)
                if row is not None:
                    found[text_of[record.payload[TEXT_KEY]]] = row

        self._by_ids(list(text_of), min(_TEXTS_PER_REQUEST, layout.limits.values), read)
        return found

    def records(self, limit: int | None = None, *, filter: Filter | None = None) -> Iterator[Record]:
        """Points with their vectors, whoever wrote them, read page by page; what has no vector is left out and logged."""
        return self._records(self._pinned(), limit, parse_filter(filter))

    def records_of(self, ids: Sequence[str]) -> list[Record]:
        """Points with their vectors by their ids; those of another program may be numbers."""
        layout = self._pinned()
        known: list[Any] = [*only_uuids(ids), *(int(one) for one in dict.fromkeys(ids) if one.isascii() and one.isdecimal())]
        found: list[Any] = []

        def read(batch: list[Any]) -> None:
            call = partial(_retrieve, layout.name, batch, payload=True, vectors=vector_selector(layout))
            found.extend(self._request("reading", call))

        self._by_ids(known, min(_RECORDS_PER_PAGE, layout.limits.records), read)
        rows = ((record, vector_of(record, layout)) for record in found)
        return [_record(record, row) for record, row in rows if row is not None]

    def search(
        self, vector: FloatArray, *, limit: int, filter: Filter | None = None, shortlist: Shortlist | None = None
    ) -> list[Hit]:
        """The nearest points by cosine similarity that meet the filter, best first.

        In a collection of another distance the candidates are the nearest by that one, several times more than asked for.
        """
        conditions = parse_filter(filter)
        layout = self._held_now() or self._found()
        wanted = checked_limit(limit)
        query = checked_query(vector, layout.vectors, shortlist, wanted)
        asked = wanted if layout.is_cosine else max(4 * wanted, _CANDIDATES)
        if asked > _CANDIDATES:
            asked = min(asked, max(1, self.count()))  # a server makes room for as many hits as are asked for
        if shortlist is not None and shortlist.candidates > _CANDIDATES:
            shortlist = shortlist.among(max(1, self.count()))
        while True:
            scored = self._query(layout, query, asked, conditions, shortlist)
            hits = _hits(scored, layout, query, conditions)
            if len(hits) >= wanted or len(scored) < asked:
                return hits[:wanted]
            asked *= 4  # the database let through what the filter doesn't mean

    def staging(self) -> QdrantStore:
        """The collection that `promote` puts in this one's place.

        Raises:
            StoreError: another program made this one under its very name, so nothing can take its place in one step.
        """
        if self._parent is not None:
            raise StoreError(f"{self.url} can't be rebuilt itself; finish or drop the rebuild first.")
        if self._find() is not None and self._names.alias_target() is None:
            raise StoreError(
                f"{self.url} can't be rebuilt: another program made the collection under that very name, which no alias can"
                " take. Index into another name: sightline index PATH --into OTHER_URL"
            )
        return QdrantStore(f"{self.url} (being rebuilt)", self._database, self._name, self)

    def promote(self) -> None:
        """Move the alias to the staging collection in one step, then drop the one that it stood for."""
        self._check_open()
        with self._guard:
            self.acquire()
            staged = self._names.staged()
            if staged is None or self._parent is not None:
                raise nothing_staged(self.url)
            self._names.promote(staged)
            try:
                self._names.tidy()
            except StoreError as error:  # the swap is done, so the rebuild is too
                _log.warning("what %s was before the rebuild is still there, the next run drops it: %s", self.url, error)

    def drop_staging(self) -> None:
        """Remove the staging collection, if there is one."""
        self._check_open()
        with self._guard:
            self.acquire()
            staged = self._names.staged()
            if staged is not None:
                self._database.check()
                self._names.drop(staged)

    def close(self) -> None:
        """Turn indexing on again, let the next writer in, and close the connection. Closing twice is fine."""
        if self._closed or self._parent is not None or not self._database.opener.is_here:
            self._closed = True
            return
        with self._guard, at_most(PARTING_S):
            try:
                self._restore_indexing()
            except StoreError as error:
                _log.warning("indexing of %s is still off, the next run turns it on again: %s", self.url, error)
            finally:
                self._closed = True
                self._database.close()

    def _restore_indexing(self) -> None:
        if self._database.deferred:
            self._database.check()
        for physical in sorted(self._database.deferred):
            self._names.restore_indexing(physical)

    # What there is

    def _check_open(self) -> None:
        if self._closed or self._database.is_closed:
            raise store_closed(self.url)
        self._database.opener.check(self.url)

    def _request(self, what: str, call: Call[T]) -> T:
        return self._database.request(self.url, what, call)

    def _find(self) -> Layout | None:
        """The collection as it is now, by its alias, or None."""
        self._check_open()
        if not self._database.is_present():
            return None
        name = self._name if self._parent is None else self._names.staged()
        info = None if name is None else self._names.info(name)
        return None if info is None or name is None else layout_of(self.url, name, info)

    def _found(self) -> Layout:
        layout = self._find()
        if layout is None:
            raise collection_not_found(self.url)
        return layout

    def _pinned(self) -> Layout:
        """The collection by its own name, so that pages that are read one after the other are of one collection."""
        held = self._held_now()
        if held is not None:
            return held
        layout = self._found()
        target = None if self._parent is not None else self._names.alias_target()
        return layout if target is None else replace(layout, name=target)

    def _held_now(self) -> Layout | None:
        held = self._held
        self._check_open()
        return held[1] if held is not None and held[0] == self._database.epoch else None

    def _writable(self) -> Layout:
        layout = self._held_now()
        if layout is not None:
            return layout
        self._refuse_foreign(self._found())
        with self._guard:
            self.acquire()
            layout = self._pinned()
            self._refuse_foreign(layout)
            self._held = (self._database.epoch, layout)
            return layout

    def _refuse_foreign(self, layout: Layout) -> None:
        if CONTRACT_KEY not in layout.metadata:
            raise not_ours(self.url)

    def _refuse_existing(self) -> None:
        if self._find() is not None:
            raise collection_exists(self.url)

    # Points

    def _write(
        self, layout: Layout, points: Sequence[Point], payloads: Sequence[dict[str, Any]], bytes_per_vector: int,
        send: Callable[[slice], None],
    ) -> None:
        """Send all rows, several requests at once on a server."""
        sizes = [bytes_per_vector + len(json.dumps(payload, ensure_ascii=False).encode()) for payload in payloads]
        requests, most = self._database.requests, min(_POINTS_PER_REQUEST, layout.limits.points)
        self._database.each([
            partial(requests.send, rows, sizes, send, lambda row: f"the point {points[row].id} of {points[row].source!r}")
            for rows in requests.cut(sizes, most)
        ])  # fmt: skip

    def _by_ids(self, ids: Sequence[T], most: int, send: Callable[[list[T]], None]) -> None:
        """Read or remove by ids, at most so many at a time."""
        sizes = [_BYTES_PER_ID] * len(ids)
        for rows in self._database.requests.cut(sizes, most):
            self._database.requests.send(rows, sizes, lambda some: send(list(ids[some])), lambda row: f"the id {ids[row]}")

    def _upsert(self, layout: Layout, points: Sequence[Point], payloads: Sequence[dict[str, Any]], rows: FloatArray) -> None:
        if any(point.head is not None for point in points):
            self._database.check()
        ids = [point.id for point in points]
        self._request("writing", self._database.upsert(layout.name, ids, payloads, vectors_by_name(rows, layout)))

    def _fill(self, layout: Layout, dimensions: int, records: Sequence[Any]) -> int:
        """Cut the vectors of these points to one more length; gives how many have one that can be cut."""
        known = [(record.id, row) for record in records if (row := vector_of(record, layout)) is not None]
        if known:
            rows = cut(np.stack([row for _, row in known]), dimensions)
            self._database.check()
            self._request("writing", partial(write_vectors, layout.name, str(dimensions), [one for one, _ in known], rows))
        return len(known)

    def _overwrite(self, layout: Layout, points: Sequence[Point], payloads: Sequence[dict[str, Any]]) -> None:
        if any(point.head is not None for point in points):
            self._database.check()
        found = self._request("reading", partial(_retrieve, layout.name, [point.id for point in points]))
        here = {str(record.id) for record in found if is_ours(record.payload)}
        operations = [
            models.OverwritePayloadOperation(overwrite_payload=models.SetPayload(payload=payload, points=[point.id]))
            for point, payload in zip(points, payloads, strict=True)
            if point.id in here
        ]
        if operations:
            self._request("updating", partial(_update, layout.name, operations))

    def _scroll(
        self, layout: Layout, where: models.Filter | None, fields: list[str] | bool, *, vectors: bool = False,
        size: int = _RECORDS_PER_PAGE,
    ) -> Iterator[Any]:
        """Records, read page by page, in the order of their ids."""
        for page in self._pages(layout, where, fields, vectors=vectors, size=size):
            yield from page

    def _pages(
        self, layout: Layout, where: models.Filter | None, fields: list[str] | bool, *, vectors: bool = False,
        size: int = _RECORDS_PER_PAGE,
    ) -> Iterator[list[Any]]:
        with_vectors = vector_selector(layout) if vectors else False
        if not self._database.is_server:
            size = max(size, _LOCAL_RECORDS_PER_PAGE)
        size = min(size, layout.limits.records)
        offset: Any = None
        while True:
            self._check_open()
            page, offset = self._request(
                "reading",
                partial(_scroll_page, layout.name, scroll_filter=where, limit=size, offset=offset, with_payload=fields,
                        with_vectors=with_vectors),
            )  # fmt: skip
            if page:
                yield page
            if offset is None:
                return

    def _records(self, layout: Layout, limit: int | None, conditions: Sequence[Condition]) -> Iterator[Record]:
        without = 0
        left = limit
        size = _RECORDS_PER_PAGE if limit is None else max(1, min(limit, _RECORDS_PER_PAGE))
        where = _filter(conditions, layout)
        for record in () if limit == 0 else self._scroll(layout, where, True, vectors=True, size=size):
            row = vector_of(record, layout)
            if row is None:
                without += 1
                continue
            found = _record(record, row)
            if not matches(conditions, found.point.source, found.point.metadata):
                continue  # the database let through what the filter doesn't mean
            yield found
            if left is not None and (left := left - 1) <= 0:
                break
        if without:
            _log.warning("%d points of %s have no vector that Sightline reads; they were left out", without, self.url)

    def _query(
        self, layout: Layout, query: FloatArray, limit: int, conditions: Sequence[Condition], shortlist: Shortlist | None
    ) -> list[Any]:
        where = _filter(conditions, layout)
        options = query_options(
            query, layout.name_of(len(query)), shortlist, limit, where, layout.vectors.quantization, layout.is_quantized
        )
        with_vectors = False if layout.is_cosine else vector_selector(layout)
        response = self._request(
            "searching",
            lambda client: client.query_points(
                layout.name, limit=limit, with_payload=True, with_vectors=with_vectors, **options
            ),
        )
        return list(response.points)


def _filter(conditions: Sequence[Condition], layout: Layout) -> models.Filter | None:
    where = native_filter(conditions, flat_too=layout.flat_too)
    return models.Filter(**where) if where else None


def _record(record: Any, row: FloatArray) -> Record:
    return Record(point_from_nested(str(record.id), record.payload), row, is_ours(record.payload))


def _hits(scored: Sequence[Any], layout: Layout, query: FloatArray, conditions: Sequence[Condition]) -> list[Hit]:
    """Hits that truly meet the conditions, best first."""
    hits: list[Hit] = []
    for one in scored:
        point = point_from_nested(str(one.id), one.payload)
        if matches(conditions, point.source, point.metadata):
            hits.append(hit(point, float(one.score) if layout.is_cosine else _cosine(vector_of(one, layout), query)))
    return hits if layout.is_cosine else sorted(hits, key=lambda found: -found.score)


def _cosine(row: FloatArray | None, query: FloatArray) -> float:
    if row is None:
        return 0.0
    norms = float(np.linalg.norm(row)) * float(np.linalg.norm(query))
    return float(row @ query) / norms if norms else 0.0


def _ours(ids: Sequence[str] | None = None, key: str | None = None, value: str | int | list[str] | None = None) -> models.Filter:
    """Points of ours, among `ids` and with this value under `key` (or one of several) where they are given."""
    must: list[Any] = [_equals(POINT_KEY, 1)]
    if ids is not None:
        must.append(models.HasIdCondition(has_id=list(ids)))
    if key is not None and value is not None:
        must.append(_equals(key, value))
    return models.Filter(must=must)


def _equals(key: str, value: str | int | list[str]) -> models.FieldCondition:
    match: Any = models.MatchAny(any=value) if isinstance(value, list) else models.MatchValue(value=value)
    return models.FieldCondition(key=key, match=match)


def _delete(physical: str, where: models.FilterSelector, client: QdrantClient) -> None:
    finished(client.delete(physical, where, wait=True))


def _retrieve(
    physical: str, ids: Sequence[Any], client: QdrantClient, *, payload: Any = (POINT_KEY,), vectors: Any = False
) -> list[Any]:
    return client.retrieve(physical, ids, with_payload=list(payload) if payload is not True else True, with_vectors=vectors)


def _update(physical: str, operations: Sequence[Any], client: QdrantClient) -> None:
    for result in client.batch_update_points(physical, operations, wait=True):
        finished(result)


def _scroll_page(physical: str, client: QdrantClient, **options: Any) -> tuple[list[Any], Any]:
    return client.scroll(physical, **options)


