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
import os
import re
import sqlite3
import threading
import uuid
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

from sightline.errors import CollectionNotFound, MissingExtra, StoreError, StoreLocked, StoreUnreachable
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
    make_directory,
    not_ours,
    nothing_staged,
    store_closed,
)
from sightline.stores.filters import Condition, matches, parse_filter
from sightline.stores.leases import Lease
from sightline.stores.locks import DirectoryLock
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
from sightline.stores.qdrant_directory import is_marked, remove_half_made, write_mark_file
from sightline.stores.qdrant_filters import native_filter
from sightline.stores.retries import retrying
from sightline.types import Filter, FloatArray, Head, Hit, Point, Record

try:
    import grpc  # type: ignore[import-untyped]  # its stubs are a package of their own
    import httpx
    from qdrant_client import QdrantClient, models
    from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
except ImportError as error:
    raise MissingExtra("A store qdrant:", package="qdrant-client", extra="qdrant") from error

T = TypeVar("T")
Call = Callable[[QdrantClient], T]

_log = logging.getLogger(__name__)

CONTRACT_KEY, MARK_KEY = "sightline_contract", "sightline_mark"
# "new" until it is usable, then "live" or "staging". What is "new" and has no alias is what a killed `create` left.
_STATE_KEY = "sightline_state"
_NEW, _LIVE, _STAGING = "new", "live", "staging"
# Set before a swap: the collection that loses its alias and is dropped after it, by the next writer if need be.
_REPLACES_KEY = "sightline_replaces"
# Set while indexing is put off: the threshold (kB) that it had. Scalars, 0 and "" for "no longer": true however metadata merges.
_DEFERRED_KEY = "sightline_indexing_threshold"

API_KEY_VARIABLE = "QDRANT_API_KEY"
_OLDEST_SERVER = (1, 15, 4)  # the first one with collection metadata
_TIMEOUT_S, _FIRST_ANSWER_S, _FIRST_ATTEMPTS = 60, 10, 3
_GRPC_PORT, _REST_PORT = 6334, 6333

# Qdrant's own advice is 64 to 256 points a request, below 5 MB, 2 to 4 at once.
_POINTS_PER_REQUEST, _BYTES_PER_REQUEST, _REQUESTS_IN_FLIGHT = 256, 4_000_000, 4
_BYTES_PER_NUMBER_AS_JSON = 22
_IDS_PER_REQUEST = 1000
_TEXTS_PER_REQUEST = 200
_RECORDS_PER_PAGE, _PLAIN_RECORDS_PER_PAGE = 256, 2000
_LOCAL_RECORDS_PER_PAGE = 5000  # local mode looks at all points for each page
_CANDIDATES = 200
# A run that writes more than this gains by indexing once at its end; the server indexes from 10 to 20 MB a segment on.
_BULK_POINTS = 10_000
_NEVER_INDEX_KB = 1_000_000_000
_DEFAULT_THRESHOLD_KB = 10_000
_LOCAL_MODE_POINTS = 20_000
_CLIENTS_LOCK = ".lock"

_TRANSIENT_HTTP = {408, 429, *range(500, 600)} - {507}  # 507: a quota is used up, which waiting doesn't mend
_TRANSIENT_GRPC = {
    grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED, grpc.StatusCode.INTERNAL,
}  # fmt: skip
_NO_ANSWER_GRPC = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
_REFUSED = {401, 403, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
_ABSENT = {404, grpc.StatusCode.NOT_FOUND}
_TAKEN = {409, grpc.StatusCode.ALREADY_EXISTS}
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}

# The list of warning filters is one per process.
_WARNINGS = threading.RLock()
_INDEXED = {
    models.PayloadSchemaType.KEYWORD: (SOURCE_KEY, TEXT_KEY),
    models.PayloadSchemaType.INTEGER: (HEAD_KEY, POINT_KEY),
}


class _Unfinished(Exception):
    """The server took a write but hadn't applied it when it answered."""


class _NameTaken(StoreError):
    """There is a collection of that name."""


# Local mode raises ValueError for what is wrong, sqlite3.Error and OSError for the disk.
_CLIENT_ERRORS = (
    UnexpectedResponse, ResponseHandlingException, ResourceExhaustedResponse, grpc.RpcError, _Unfinished, ValueError,
    sqlite3.Error, OSError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Layout:
    """What must be known of a collection to read and write it; `name` may be its alias."""

    name: str
    dimensions: int
    vector_name: str
    is_cosine: bool
    flat_too: bool
    metadata: Mapping[str, Any]


class QdrantStore:
    """One collection of a Qdrant database, under its alias or its own name."""

    def __init__(self, url: str, database: _Database, name: str, parent: QdrantStore | None = None) -> None:
        self.url = url
        self.capabilities = StoreCapabilities(persistent=True, several_dimensions=False, quantization=False)
        self._database = database
        self._name = name
        self._parent = parent
        self._guard = database.guard
        # What the only writer knows of its collection; good for one state of the aliases.
        self._held: tuple[int, _Layout] | None = None
        self._closed = False

    @classmethod
    def on_server(cls, url: str, host: str, port: int, collection: str, *, tls: bool) -> Self:
        """The collection on a server; `port` is its gRPC port, or 6333 with gRPC beside it."""
        return cls(url, _Server(url, host, port, collection, tls=tls), collection)

    @classmethod
    def in_directory(cls, url: str, directory: Path, collection: str) -> Self:
        """The collection in qdrant-client's local mode; others may lie in the same directory."""
        return cls(url, _Directory(url, directory), collection)

    def exists(self) -> bool:
        """Whether the database has a collection of this name, whoever made it."""
        return self._find() is not None

    def dimensions(self) -> int:
        """Length of the collection's vectors."""
        return self._found().dimensions

    def count(self) -> int:
        """How many points the collection holds, whoever wrote them."""
        name = self._found().name
        return int(self._request("counting", lambda client: client.count(name, exact=True)).count)

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
                self._tidy()
            except BaseException:
                self._database.release()
                raise

    def create(self, dimensions: int, contract: Mapping[str, Any]) -> None:
        """Make the collection; raise StoreError when it is there already."""
        length, data = checked_dimensions(dimensions), json.loads(contract_json(contract))
        with self._guard:
            self._refuse_existing()
            self.acquire()
            self._refuse_existing()  # again: now nobody else can be making it
            self._database.prepare()
            self._sweep(self._beside())
            physical = f"{self._name}__{uuid.uuid4().hex[:12]}"
            vectors = models.VectorParams(size=length, distance=models.Distance.COSINE)
            metadata = {CONTRACT_KEY: data, MARK_KEY: {}, _STATE_KEY: _NEW}
            self._request("creating", lambda client: client.create_collection(physical, vectors, metadata=metadata))
            self._database.index_payload(physical)
            if self._parent is None:
                self._move_alias(physical)
            self._set(physical, {_STATE_KEY: _LIVE if self._parent is None else _STAGING})

    def read_contract(self) -> Mapping[str, Any] | None:
        """The contract as JSON data; None when there is no collection, or one that Sightline didn't make."""
        layout = self._find()
        contract = None if layout is None else layout.metadata.get(CONTRACT_KEY)
        return None if contract is None else dict(contract)

    def write_contract(self, contract: Mapping[str, Any]) -> None:
        """Replace the contract, or adopt a collection that has none."""
        data = json.loads(contract_json(contract))
        self._found()
        with self._guard:
            self.acquire()
            self._database.check()
            self._set(self._pinned().name, {CONTRACT_KEY: data})
            self._held = None

    def read_mark(self) -> Mapping[str, Any]:
        """The mark as JSON data; empty before the first one."""
        return dict(self._found().metadata.get(MARK_KEY) or {})

    def write_mark(self, mark: Mapping[str, Any]) -> None:
        """Replace the mark; it is stored when this returns."""
        data = json.loads(contract_json(mark))
        layout = self._writable()
        self._database.check()
        self._set(layout.name, {MARK_KEY: data})

    def upsert(self, points: Sequence[Point], vectors: FloatArray) -> None:
        """Write points, several requests at once on a server; returns when all of them are applied."""
        layout = self._writable()
        plain, array = checked_points(points, vectors, layout.dimensions)
        self._database.expect(layout.name, len(plain))
        payloads = [to_nested(point) for point in plain]
        calls = [
            partial(self._upsert, layout, plain[rows], payloads[rows], array[rows])
            for rows in _batches(payloads, layout.dimensions * self._database.bytes_per_number)
        ]
        self._database.each(calls)

    def update(self, points: Sequence[Point]) -> None:
        """Replace the payload of those points of ours that are there."""
        layout = self._writable()
        plain = checked_updates(points)
        payloads = [to_nested(point) for point in plain]
        self._database.each([partial(self._overwrite, layout, plain[rows], payloads[rows]) for rows in _batches(payloads, 0)])

    def delete(self, ids: Sequence[str]) -> None:
        """Remove points of ours; ids that aren't there are fine."""
        layout = self._writable()
        for batch in _slices(checked_ids(ids), _IDS_PER_REQUEST):
            self._database.check()
            self._request("deleting", partial(_delete, layout.name, models.FilterSelector(filter=_ours(batch))))

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
        for digests in _slices(list(text_of), _TEXTS_PER_REQUEST):
            for record in self._scroll(layout, _ours(None, TEXT_KEY, digests), [TEXT_KEY], vectors=True):
                row = _vector(record, layout)
                if row is not None:
                    found[text_of[record.payload[TEXT_KEY]]] = row
        return found

    def records(self, limit: int | None = None) -> Iterator[Record]:
        """Points with their vectors, whoever wrote them, read page by page; what has no vector is left out and logged."""
        return self._records(self._pinned(), limit)

    def search(self, vector: FloatArray, *, limit: int, filter: Filter | None = None) -> list[Hit]:
        """The nearest points by cosine similarity that meet the filter, best first.

        In a collection of another distance the candidates are the nearest by that one, several times more than asked for.
        """
        conditions = parse_filter(filter)
        layout = self._held_now() or self._found()
        query = checked_query(vector, layout.dimensions)
        wanted = checked_limit(limit)
        asked = wanted if layout.is_cosine else max(4 * wanted, _CANDIDATES)
        if asked > _CANDIDATES:
            asked = min(asked, max(1, self.count()))  # a server makes room for as many hits as are asked for
        while True:
            scored = self._query(layout, query, asked, conditions)
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
        if self._find() is not None and self._alias_target() is None:
            raise StoreError(
                f"{self.url} can't be rebuilt: another program made the collection under that very name, which no alias can"
                " take. Index into another name: sightline index PATH --into OTHER_URL"
            )
        return QdrantStore(f"{self.url} (being rebuilt)", self._database, self._name, self)

    def promote(self) -> None:
        """Move the alias to the staging collection in one step, then drop the one that it stood for."""
        with self._guard:
            self.acquire()
            staged = self._staged()
            if staged is None or self._parent is not None:
                raise nothing_staged(self.url)
            self._database.check()
            self._restore_indexing(staged)
            self._set(staged, {_REPLACES_KEY: self._alias_target() or ""})
            self._database.check()
            self._move_alias(staged)
            try:
                self._tidy()
            except StoreError as error:  # the swap is done, so the rebuild is too
                _log.warning("what %s was before the rebuild is still there, the next run drops it: %s", self.url, error)

    def drop_staging(self) -> None:
        """Remove the staging collection, if there is one."""
        with self._guard:
            self.acquire()
            staged = self._staged()
            if staged is not None:
                self._database.check()
                self._drop(staged)

    def close(self) -> None:
        """Turn indexing on again, let the next writer in, and close the connection. Closing twice is fine."""
        if self._closed or self._parent is not None:
            self._closed = True
            return
        with self._guard:
            try:
                if self._database.deferred:
                    self._database.check()
                for physical in sorted(self._database.deferred):
                    self._restore_indexing(physical)
            except StoreError as error:
                _log.warning("indexing of %s is still off, the next run turns it on again: %s", self.url, error)
            finally:
                self._closed = True
                self._database.close()

    # What there is

    def _check_open(self) -> None:
        if self._closed or self._database.is_closed:
            raise store_closed(self.url)

    def _request(self, what: str, call: Call[T]) -> T:
        return self._database.request(self.url, what, call)

    def _find(self) -> _Layout | None:
        """The collection as it is now, by its alias, or None."""
        self._check_open()
        if not self._database.is_present():
            return None
        name = self._name if self._parent is None else self._staged()
        info = None if name is None else self._info(name)
        return None if info is None or name is None else _layout(self.url, name, info)

    def _found(self) -> _Layout:
        layout = self._find()
        if layout is None:
            raise collection_not_found(self.url)
        return layout

    def _pinned(self) -> _Layout:
        """The collection by its own name, so that pages that are read one after the other are of one collection."""
        held = self._held_now()
        if held is not None:
            return held
        layout = self._found()
        target = None if self._parent is not None else self._alias_target()
        return layout if target is None else replace(layout, name=target)

    def _held_now(self) -> _Layout | None:
        held = self._held
        self._check_open()
        return held[1] if held is not None and held[0] == self._database.epoch else None

    def _writable(self) -> _Layout:
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

    def _refuse_foreign(self, layout: _Layout) -> None:
        if CONTRACT_KEY not in layout.metadata:
            raise not_ours(self.url)

    def _refuse_existing(self) -> None:
        if self._find() is not None:
            raise collection_exists(self.url)

    def _info(self, name: str) -> models.CollectionInfo | None:
        try:
            return self._request("reading the settings", lambda client: client.get_collection(name))
        except CollectionNotFound:
            return None

    def _metadata(self, name: str) -> Mapping[str, Any]:
        info = self._info(name)
        return {} if info is None else info.config.metadata or {}

    # Aliases, and the collections behind and beside them

    def _aliases(self) -> dict[str, str]:
        found = self._request("reading the aliases", lambda client: client.get_aliases())
        return {one.alias_name: one.collection_name for one in found.aliases}

    def _alias_target(self) -> str | None:
        return self._aliases().get(self._name)

    def _beside(self) -> dict[str, Mapping[str, Any]]:
        """Metadata of the collections of ours under this name that no alias stands for."""
        own_name = re.compile(re.escape(self._name) + "__[0-9a-f]{12}")
        listed = self._request("listing the collections", lambda client: client.get_collections())
        taken = set(self._aliases().values())
        names = sorted(one.name for one in listed.collections if own_name.fullmatch(one.name) and one.name not in taken)
        found = {name: self._metadata(name) for name in names}
        return {name: metadata for name, metadata in found.items() if CONTRACT_KEY in metadata}

    def _staged(self) -> str | None:
        if not self._database.is_present():
            return None
        staged = [name for name, metadata in self._beside().items() if metadata.get(_STATE_KEY) == _STAGING]
        return staged[0] if staged else None

    def _move_alias(self, physical: str) -> None:
        """Let the name stand for `physical`: one operation, which readers see wholly or not at all."""
        create = models.CreateAlias(collection_name=physical, alias_name=self._name)
        operations: list[Any] = [models.CreateAliasOperation(create_alias=create)]
        if self._alias_target() is not None:
            operations.insert(0, models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=self._name)))
        self._request("moving the alias", lambda client: client.update_collection_aliases(operations))
        self._database.epoch += 1

    def _tidy(self) -> None:
        """Finish what a killed writer left: a swap whose old collection is still there, a half-made one, indexing put off."""
        if not self._database.is_present():
            return
        live = self._alias_target() or self._name
        beside = self._beside()
        metadata = self._metadata(live)
        self._restore_indexing(live, metadata)
        replaced = metadata.get(_REPLACES_KEY)
        if replaced in beside:
            self._drop(replaced)
        if replaced or metadata.get(_STATE_KEY) in (_NEW, _STAGING):
            self._set(live, {_STATE_KEY: _LIVE, _REPLACES_KEY: ""})
        self._sweep(beside)
        for name, found in beside.items():
            if found.get(_STATE_KEY) == _STAGING:
                self._restore_indexing(name, found)

    def _sweep(self, beside: Mapping[str, Mapping[str, Any]]) -> None:
        """Drop what a `create` that was cut short left."""
        for name, metadata in beside.items():
            if metadata.get(_STATE_KEY) == _NEW:
                self._drop(name)

    def _drop(self, physical: str) -> None:
        self._request("dropping the old collection", lambda client: client.delete_collection(physical))
        self._database.epoch += 1

    def _set(self, physical: str, metadata: Mapping[str, Any]) -> None:
        self._request("writing the settings", lambda client: client.update_collection(physical, metadata=dict(metadata)))

    def _restore_indexing(self, physical: str, metadata: Mapping[str, Any] | None = None) -> None:
        """Index from the threshold on that the collection had before a bulk load."""
        known = self._metadata(physical) if metadata is None else metadata
        threshold = int(known.get(_DEFERRED_KEY) or 0)
        if threshold:
            self._request("turning indexing on", partial(_set_indexing, physical, threshold, 0))
        self._database.deferred.discard(physical)

    # Points

    def _upsert(self, layout: _Layout, points: Sequence[Point], payloads: Sequence[dict[str, Any]], rows: FloatArray) -> None:
        if any(point.head is not None for point in points):
            self._database.check()
        vectors: list[Any] = rows.tolist()
        if layout.vector_name:
            vectors = [{layout.vector_name: vector} for vector in vectors]
        structs = [
            models.PointStruct(id=point.id, vector=vector, payload=payload)
            for point, vector, payload in zip(points, vectors, payloads, strict=True)
        ]
        self._request("writing", lambda client: _finished(client.upsert(layout.name, structs, wait=True)))

    def _overwrite(self, layout: _Layout, points: Sequence[Point], payloads: Sequence[dict[str, Any]]) -> None:
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
        self, layout: _Layout, where: models.Filter | None, fields: list[str] | bool, *, vectors: bool = False,
        size: int = _RECORDS_PER_PAGE,
    ) -> Iterator[Any]:
        """Records page by page, in the order of their ids."""
        with_vectors = _vector_selector(layout) if vectors else False
        if not self._database.is_server:
            size = max(size, _LOCAL_RECORDS_PER_PAGE)
        offset: Any = None
        while True:
            self._check_open()
            page, offset = self._request(
                "reading",
                partial(_scroll_page, layout.name, scroll_filter=where, limit=size, offset=offset, with_payload=fields,
                        with_vectors=with_vectors),
            )  # fmt: skip
            yield from page
            if offset is None:
                return

    def _records(self, layout: _Layout, limit: int | None) -> Iterator[Record]:
        without = 0
        left = limit
        size = _RECORDS_PER_PAGE if limit is None else max(1, min(limit, _RECORDS_PER_PAGE))
        for record in () if limit == 0 else self._scroll(layout, None, True, vectors=True, size=size):
            row = _vector(record, layout)
            if row is None:
                without += 1
                continue
            yield Record(point_from_nested(str(record.id), record.payload), row, is_ours(record.payload))
            if left is not None and (left := left - 1) <= 0:
                break
        if without:
            _log.warning("%d points of %s have no vector that Sightline reads; they were left out", without, self.url)

    def _query(self, layout: _Layout, query: FloatArray, limit: int, conditions: Sequence[Condition]) -> list[Any]:
        where = native_filter(conditions, flat_too=layout.flat_too)
        response = self._request(
            "searching",
            lambda client: client.query_points(
                layout.name,
                query=query.tolist(),
                using=layout.vector_name or None,
                query_filter=models.Filter(**where) if where else None,
                limit=limit,
                with_payload=True,
                with_vectors=False if layout.is_cosine else _vector_selector(layout),
            ),
        )
        return list(response.points)


class _Database(ABC):
    """The connection that a collection and its staging collection share, with the right to write."""

    is_server: bool
    bytes_per_number = 4

    def __init__(self) -> None:
        self.guard = threading.RLock()
        self.is_closed = False
        self.is_held = False
        self.epoch = 0  # counts what may have changed which collection a name stands for
        self.deferred: set[str] = set()

    @abstractmethod
    def is_present(self) -> bool:
        """Whether there is a database to ask."""

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

    @abstractmethod
    def each(self, calls: Sequence[Callable[[], None]]) -> None:
        """Make all calls; raise the first error after all have ended."""

    @abstractmethod
    def close(self) -> None:
        """Release and disconnect; no error keeps the rest from being done."""


class _Server(_Database):
    is_server = True

    def __init__(self, url: str, host: str, port: int, collection: str, *, tls: bool) -> None:
        super().__init__()
        self._url = url
        self._host = host
        self._tls = tls
        self._grpc_port, self._rest_port = (_GRPC_PORT, _REST_PORT) if port == _REST_PORT else (port, port - 1)
        self._client: QdrantClient | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._lease = Lease(_WriterRecord(self, url, f"{collection}.writer"), url)
        self._written: Counter[str] = Counter()

    def is_present(self) -> bool:
        return True

    def request(self, url: str, what: str, call: Call[T]) -> T:
        client = self._connected()
        with _named_errors(url, f"{self._host}:{self._grpc_port}"):
            return retrying(
                lambda: call(client), is_transient=_is_transient, what=f"{what} at {url}", wait_at_least=_asked_wait
            )  # fmt: skip

    def acquire(self, *, take_over: bool) -> None:
        self._lease.acquire(take_over=take_over)
        self.is_held = True

    def release(self) -> None:
        self.is_held = False
        self._lease.release()

    def check(self) -> None:
        self._lease.check()

    def prepare(self) -> None:
        """A server makes its database itself."""

    def index_payload(self, physical: str) -> None:
        for kind, fields in _INDEXED.items():
            for field in fields:
                self.request(self._url, "indexing the payload", partial(_index_field, physical, field, kind))

    def expect(self, physical: str, points: int) -> None:
        """Put indexing off in a bulk load: an index that is built while it grows is built many times."""
        with self.guard:
            self._written[physical] += points
            if self._written[physical] <= _BULK_POINTS or physical in self.deferred:
                return
            self.request(self._url, "putting indexing off", partial(_defer_indexing, physical))
            self.deferred.add(physical)

    def each(self, calls: Sequence[Callable[[], None]]) -> None:
        if len(calls) < 2:
            for call in calls:
                call()
            return
        with self.guard:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_REQUESTS_IN_FLIGHT, thread_name_prefix="sightline-qdrant")
            futures = [self._pool.submit(call) for call in calls]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            for future in futures:
                future.cancel()  # those that run go on, and are waited for
            wait(futures)
        for future in futures:
            if not future.cancelled():
                future.result()

    def close(self) -> None:
        with self.guard:
            if self.is_closed:
                return
            try:
                if self.is_held:
                    self.release()
            except StoreError as error:
                _log.warning("the lease of %s stays until it runs out: %s", self._url, error)
            finally:
                self.is_closed = True
                if self._pool is not None:
                    self._pool.shutdown()
                if self._client is not None:
                    self._client.close()

    def _connected(self) -> QdrantClient:
        client = self._client
        if client is not None:  # without the lock: the lease is renewed while a long operation holds it
            return client
        with self.guard:
            if self.is_closed:
                raise store_closed(self._url)
            if self._client is None:
                self._client = retrying(
                    self._connect, is_transient=_is_without_answer, what=f"connecting to {self._url}", attempts=_FIRST_ATTEMPTS
                )
            return self._client

    def _connect(self) -> QdrantClient:
        """A client over gRPC, or over REST where only that answers."""
        failures: list[str] = []
        for is_grpc, port in ((True, self._grpc_port), (False, self._rest_port)):
            try:
                self._check_answer(is_grpc)
            except StoreUnreachable as error:
                if isinstance(error.__cause__, Exception) and _status(error.__cause__) in _REFUSED:
                    raise
                failures.append(f"{'gRPC' if is_grpc else 'REST'} on port {port}: {_said(error.__cause__ or error)}")
                continue
            if not is_grpc:
                self.bytes_per_number = _BYTES_PER_NUMBER_AS_JSON
                _log.warning("%s answers over REST only, which is slower; %s", self._url, failures[0])
            return self._make_client(is_grpc, _TIMEOUT_S)
        raise StoreUnreachable(
            f"No Qdrant server answers at {self._host}:{self._grpc_port} ({'; '.join(failures)}). Check the address and that"
            f" the server runs{'' if self._tls else '; one that speaks TLS, such as the cloud, is qdrant+https://HOST:PORT/NAME'}."
        )

    def _check_answer(self, is_grpc: bool) -> None:
        """Raise StoreUnreachable without an answer, StoreError when the server is too old."""
        client = self._make_client(is_grpc, _FIRST_ANSWER_S)
        try:
            with _named_errors(self._url, f"{self._host}:{self._grpc_port if is_grpc else self._rest_port}", unreachable=True):
                version = client.info().version
        finally:
            client.close()
        numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
        if numbers and tuple(map(int, numbers.groups())) < _OLDEST_SERVER:
            oldest = ".".join(map(str, _OLDEST_SERVER))
            raise StoreError(
                f"The Qdrant server at {self._host}:{self._grpc_port} has version {version}, which keeps no metadata of"
                f" collections. Sightline needs {oldest} or newer: upgrade the server."
            )

    def _make_client(self, is_grpc: bool, timeout_s: int) -> QdrantClient:
        key = os.environ.get(API_KEY_VARIABLE) or None
        if key and not self._tls and self._host not in _LOOPBACK and timeout_s == _TIMEOUT_S:
            _log.warning(
                "the key in %s travels to %s without encryption; use qdrant+https:// where the server speaks TLS",
                API_KEY_VARIABLE, self._host,
            )  # fmt: skip
        host = f"[{self._host}]" if ":" in self._host else self._host
        with _without_client_warnings():
            return QdrantClient(
                host=host, port=self._rest_port, grpc_port=self._grpc_port, prefer_grpc=is_grpc, https=self._tls,
                api_key=key, timeout=timeout_s, check_compatibility=False,
            )  # fmt: skip


class _WriterRecord:
    """Where a server keeps the lease: the metadata of a collection without vectors, which can be made once only."""

    def __init__(self, server: _Server, url: str, name: str) -> None:
        self._server = server
        self._url = url
        self._name = name

    def create(self, record: Mapping[str, Any]) -> bool:
        def call(client: QdrantClient) -> bool:
            return bool(client.create_collection(self._name, vectors_config={}, metadata=dict(record)))

        try:
            return self._server.request(self._url, "taking the lease", call)
        except _NameTaken:
            return False

    def read(self) -> Mapping[str, Any] | None:
        try:
            info = self._server.request(self._url, "reading the lease", lambda client: client.get_collection(self._name))
        except CollectionNotFound:
            return None
        return dict(info.config.metadata or {})

    def replace(self, record: Mapping[str, Any]) -> None:
        def call(client: QdrantClient) -> bool:
            return client.update_collection(self._name, metadata=dict(record))

        self._server.request(self._url, "renewing the lease", call)

    def remove(self) -> None:
        self._server.request(self._url, "ending the lease", lambda client: client.delete_collection(self._name))


class _Directory(_Database):
    is_server = False

    def __init__(self, url: str, directory: Path) -> None:
        super().__init__()
        self._url = url
        self._path = directory
        self._lock = DirectoryLock(directory)
        self._client: QdrantClient | None = None
        self._is_large = False

    def is_present(self) -> bool:
        return is_marked(self._path, self._url)

    def request(self, url: str, what: str, call: Call[T]) -> T:
        with self.guard, _named_errors(url, str(self._path)):
            client = self._connected()
            if not self._is_large:
                return call(client)
            with _without_client_warnings():
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
        self._refuse_other_program()  # before the client finds it out: it would leave its lock file open
        with _without_client_warnings():
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


def _main_vector(url: str, named: Mapping[str, models.VectorParams]) -> str:
    """The unnamed vector, or the only dense one."""
    dense = [name for name, params in named.items() if params.multivector_config is None]
    if "" in dense:
        return ""
    if len(dense) == 1:
        return dense[0]
    found = f"the vectors {', '.join(map(repr, sorted(named)))}" if named else "no dense vector"
    raise StoreError(f"{url} has {found}; Sightline reads the unnamed one, or the only dense one. Use another collection.")


def _layout(url: str, name: str, info: models.CollectionInfo) -> _Layout:
    vectors = info.config.params.vectors
    named = {"": vectors} if isinstance(vectors, models.VectorParams) else dict(vectors or {})
    vector_name = _main_vector(url, named)
    metadata = info.config.metadata or {}
    return _Layout(
        name=name,
        dimensions=int(named[vector_name].size),
        vector_name=vector_name,
        is_cosine=named[vector_name].distance == models.Distance.COSINE,
        flat_too=_STATE_KEY not in metadata,
        metadata=metadata,
    )


def _vector_selector(layout: _Layout) -> bool | list[str]:
    return [layout.vector_name] if layout.vector_name else True


def _vector(record: Any, layout: _Layout) -> FloatArray | None:
    found = record.vector.get(layout.vector_name) if isinstance(record.vector, dict) else record.vector
    return None if found is None else np.asarray(found, dtype=np.float32)


def _hits(scored: Sequence[Any], layout: _Layout, query: FloatArray, conditions: Sequence[Condition]) -> list[Hit]:
    """Hits that truly meet the conditions, best first."""
    hits: list[Hit] = []
    for one in scored:
        point = point_from_nested(str(one.id), one.payload)
        if matches(conditions, point.source, point.metadata):
            hits.append(hit(point, float(one.score) if layout.is_cosine else _cosine(_vector(one, layout), query)))
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


def _batches(payloads: Sequence[Mapping[str, Any]], bytes_per_vector: int) -> list[slice]:
    """Slices of at most 256 points and 4 MB; a single point may be larger."""
    slices: list[slice] = []
    start, size = 0, 0
    for row, payload in enumerate(payloads):
        weight = bytes_per_vector + len(json.dumps(payload, ensure_ascii=False).encode())
        if row > start and (row - start == _POINTS_PER_REQUEST or size + weight > _BYTES_PER_REQUEST):
            slices.append(slice(start, row))
            start, size = row, 0
        size += weight
    return [*slices, slice(start, len(payloads))] if payloads else []


def _slices(items: list[T], size: int) -> list[list[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _finished(result: models.UpdateResult) -> None:
    """Raise when a write is in the log only: with `wait` that is a server that ran out of time."""
    if result.status != models.UpdateStatus.COMPLETED:
        raise _Unfinished(f"the server answered {result.status} and goes on writing")


def _delete(physical: str, where: models.FilterSelector, client: QdrantClient) -> None:
    _finished(client.delete(physical, where, wait=True))


def _retrieve(physical: str, ids: Sequence[str], client: QdrantClient) -> list[Any]:
    return client.retrieve(physical, ids, with_payload=[POINT_KEY])


def _update(physical: str, operations: Sequence[Any], client: QdrantClient) -> None:
    for result in client.batch_update_points(physical, operations, wait=True):
        _finished(result)


def _scroll_page(physical: str, client: QdrantClient, **options: Any) -> tuple[list[Any], Any]:
    return client.scroll(physical, **options)


def _index_field(physical: str, field: str, kind: models.PayloadSchemaType, client: QdrantClient) -> None:
    _finished(client.create_payload_index(physical, field, kind, wait=True))


def _defer_indexing(physical: str, client: QdrantClient) -> None:
    info = client.get_collection(physical)
    if not (info.config.metadata or {}).get(_DEFERRED_KEY):
        threshold = info.config.optimizer_config.indexing_threshold or _DEFAULT_THRESHOLD_KB
        _set_indexing(physical, _NEVER_INDEX_KB, threshold, client)


def _set_indexing(physical: str, threshold_kb: int, remembered_kb: int, client: QdrantClient) -> None:
    """Set the threshold and what it was before in one operation."""
    optimizers = models.OptimizersConfigDiff(indexing_threshold=threshold_kb)
    client.update_collection(physical, optimizers_config=optimizers, metadata={_DEFERRED_KEY: remembered_kb})


def _status(error: BaseException) -> Any:
    """HTTP status or gRPC code of an error, None for others."""
    if isinstance(error, UnexpectedResponse):
        return error.status_code
    return error.code() if isinstance(error, grpc.Call) else None


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, (_Unfinished, ResourceExhaustedResponse)):
        return True
    return _is_transport(error) or _status(error) in _TRANSIENT_HTTP | _TRANSIENT_GRPC


def _is_transport(error: BaseException) -> bool:
    return isinstance(error, ResponseHandlingException) and isinstance(error.source, httpx.TransportError)


def _is_without_answer(error: BaseException) -> bool:
    return isinstance(error, StoreUnreachable) and error.__cause__ is None


def _asked_wait(error: BaseException) -> float | None:
    return float(error.retry_after_s) if isinstance(error, ResourceExhaustedResponse) else None


def _said(error: BaseException) -> str:
    """What an error says, in one line."""
    text = str(error)
    if isinstance(error, grpc.Call):
        text = error.details() or str(error.code())
    elif isinstance(error, UnexpectedResponse):
        try:
            text = f"{error.status_code} {json.loads(error.content)['status']['error']}"
        except (ValueError, KeyError, TypeError):  # not a Qdrant server's own answer, a proxy's perhaps
            text = f"{error.status_code} {error.reason_phrase}"
    return " ".join(text.split())[:300] or type(error).__name__


@contextmanager
def _named_errors(url: str, where: str, *, unreachable: bool = False) -> Iterator[None]:
    """Name the client's errors; with `unreachable` all but a refused key count as no answer."""
    try:
        yield
    except _CLIENT_ERRORS as error:
        status, said = _status(error), _said(error)
        if status in _REFUSED:
            held = "was refused" if os.environ.get(API_KEY_VARIABLE) else "is missing"
            raise StoreUnreachable(
                f"The Qdrant server at {where} refuses access: the key {held} ({said}). Set the key of that server and its"
                f" rights to write in the environment: export {API_KEY_VARIABLE}=..."
            ) from error
        if unreachable or _is_transport(error) or status in _NO_ANSWER_GRPC:
            raise StoreUnreachable(
                f"The Qdrant server at {where} stopped answering ({said}). Check that it runs, then start the same command again:"
                " it goes on where it stopped."
            ) from error
        if status in _ABSENT or (isinstance(error, ValueError) and said.endswith("not found")):
            raise collection_not_found(url) from error
        if status in _TAKEN or "already exists" in said:
            raise _NameTaken(f"{url}: {said}") from error
        raise StoreError(f"Qdrant failed on {url}: {said}") from error


@contextmanager
def _without_client_warnings() -> Iterator[None]:
    """Leave out those warnings of the client that we give ourselves, as log lines."""
    with _WARNINGS, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Local mode is not recommended")
        warnings.filterwarnings("ignore", message="Api key is used with an insecure connection")
        yield
