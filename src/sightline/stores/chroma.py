"""Chroma, in this process (several collections in one directory) or on a server.

Contract, mark and the vectors' length lie in the collection's metadata, the first two as JSON text: a list there brings
Chroma's core down. A collection's name is looked up for every operation (0.2 ms here, 0.7 ms on a local server), because a
rebuild gives it to another collection while an object that is held goes on reading the old one.

A rebuild fills NAME.next. To promote it is to mark it as complete, rename the live one to NAME.old, and rename NAME.next to
NAME; the next writer finishes what was interrupted after the first of these steps. NAME.old stays until then, for readers in
the middle of something. The writer of a directory holds its lock file; on a server NAME.writer is its lease.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

from sightline.errors import CollectionNotFound, StoreError, UsageError
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
    incapable,
    not_ours,
    nothing_staged,
    store_closed,
    stored_object,
)
from sightline.stores.chroma_database import OLD, WRITER, Database
from sightline.stores.chroma_where import Nothing, both, where
from sightline.stores.filters import parse_filter
from sightline.stores.payload import (
    HEAD_KEY,
    POINT_KEY,
    SOURCE_KEY,
    TEXT_KEY,
    head_from,
    hit,
    is_ours,
    point_from_flat,
    text_digest,
    to_flat,
)
from sightline.types import Filter, FloatArray, Head, Hit, Point, Record, Shortlist, VectorLayout

CONTRACT_KEY = "sightline_contract"
MARK_KEY = "sightline_mark"
DIMENSIONS_KEY = "sightline_dimensions"
_COMPLETE_KEY = "sightline_complete"  # on NAME.next: it is to take NAME's place
_STAGED = ".next"
_MAX_NAME = 512 - len(f"{WRITER}{OLD}")
_SPACE_KEY = "hnsw:space"
_WHOLE = ["documents", "metadatas", "embeddings"]

# Beyond about 32,000 results or ids SQLite refuses ("too many SQL variables").
_RECORDS_PER_PAGE = 5000
# A server sends vectors as decimal text, about 12 bytes a number.
_VECTORS_PER_PAGE = 500
_DIGESTS_PER_REQUEST = 512
_BYTES_PER_NUMBER = 6  # of a vector on its way to a server: base64, with some room
# How many candidates are scored by cosine where Chroma orders them by something else.
_CANDIDATES_PER_HIT, _MIN_CANDIDATES = 10, 100

_log = logging.getLogger(__name__)
T = TypeVar("T")


class ChromaStore:
    """One collection of a Chroma database."""

    def __init__(self, url: str, name: str, database: Database, parent: ChromaStore | None = None) -> None:
        self.url = url
        self.capabilities = StoreCapabilities(persistent=True, several_dimensions=False, quantization=False, float16=False)
        self._name = name
        self._database = database
        self._parent = parent
        self._closed = False

    @classmethod
    def in_directory(cls, url: str, directory: Path, name: str) -> Self:
        """A collection of the database in `directory`, opened in this process."""
        from sightline.stores.chroma_directory import Directory

        return cls(url, name, Directory(url, directory))

    @classmethod
    def on_server(cls, url: str, host: str, port: int, name: str, *, tls: bool) -> Self:
        """A collection of a Chroma server; a key is taken from the environment variable CHROMA_API_KEY."""
        from sightline.stores.chroma_server import Server  # loads Chroma's HTTP client

        return cls(url, name, Server(url, host, port, name, tls=tls))

    def exists(self) -> bool:
        """Whether the database has a collection of this name, whoever made it."""
        return self._find() is not None

    def layout(self) -> VectorLayout:
        """The length of the collection's vectors; raise StoreError for an empty collection that Sightline didn't make."""
        return self._read(self._layout)

    def count(self) -> int:
        """How many points the collection holds."""
        return self._read(lambda collection: int(self._request("count", collection.count)))

    def disk_bytes(self) -> int | None:
        """What the database takes, all its collections together; None on a server, which doesn't say."""
        self._existing()
        return self._database.disk_bytes()

    def acquire(self, *, take_over: bool = False) -> None:
        """Become the only writer, and finish or clear away what the last one left.

        Raises:
            StoreLocked: somebody else writes: to this directory, or to this collection of a server.
            UsageError: the name is one that rebuilds use, or leaves no room for those.
        """
        self._check_open()
        if self._parent is not None:
            self._parent.acquire(take_over=take_over)
            return
        if self._name.endswith((_STAGED, OLD, WRITER)) or len(self._name) > _MAX_NAME:
            raise UsageError(
                f"{self.url} can't be written: a collection's name ends with none of {_STAGED}, {OLD} and {WRITER} and has at"
                f" most {_MAX_NAME} characters. Choose another name."
            )
        with self._database.guard:
            if not self._database.is_writer:
                self._database.acquire(take_over=take_over)
                self._tidy()
                self._database.is_writer = True

    def release(self) -> None:
        """Let the next writer in."""
        self._check_open()
        if self._parent is None:
            with self._database.guard:
                was_writer, self._database.is_writer = self._database.is_writer, False
            if was_writer:  # not under the guard: a lease waits for its heartbeat, which may be waiting for the guard
                self._database.release()

    def create(self, layout: VectorLayout, contract: Mapping[str, Any]) -> None:
        """Make the collection; the database too, where there is none.

        Raises:
            StoreError: several lengths, quantisation or float16, none of which Chroma has.
            UsageError: the directory can't be made.
            StoreError: there is a collection of this name already.
            StoreLocked: another process writes.
        """
        length = checked_layout(layout, self.capabilities, self.url).dimensions
        metadata = {CONTRACT_KEY: contract_json(contract), DIMENSIONS_KEY: length}
        if self._find() is not None:
            raise collection_exists(self.url)
        self.acquire()
        if self._find() is not None:  # now nobody else can be making it
            raise collection_exists(self.url)
        if not self._database.create(self._name, metadata) and self.read_contract() != contract:
            raise collection_exists(self.url)

    def add_dimension(self, dimensions: int, on_progress: Callable[[int], None] | None = None) -> int:
        """Raise StoreError: Chroma keeps one vector for each record."""
        checked_addition(dimensions, self.layout(), self.capabilities, self.url)
        return 0

    def remove_dimension(self, dimensions: int) -> None:
        """Raise DimensionError: there is none that could go."""
        checked_removal(dimensions, self.layout(), self.url)

    def read_contract(self) -> Mapping[str, Any] | None:
        """The contract as JSON data; None when there is no collection, or one that Sightline didn't make."""
        collection = self._find()
        text = None if collection is None else (collection.metadata or {}).get(CONTRACT_KEY)
        return None if text is None else stored_object(text, "contract", self.url)

    def write_contract(self, contract: Mapping[str, Any]) -> None:
        """Replace the contract, or adopt a collection of somebody else: their metadata stays."""
        text = contract_json(contract)
        self._existing()
        self.acquire()
        self._database.check()
        collection = self._existing()
        self._change(collection, {CONTRACT_KEY: text, DIMENSIONS_KEY: self.layout().dimensions})

    def read_mark(self) -> Mapping[str, Any]:
        """The mark as JSON data; empty before the first one."""
        return stored_object((self._existing().metadata or {}).get(MARK_KEY, "{}"), "mark", self.url)

    def write_mark(self, mark: Mapping[str, Any]) -> None:
        """Replace the mark."""
        text = contract_json(mark)
        collection = self._writable()
        self._database.check()
        self._change(collection, {MARK_KEY: text})

    def upsert(self, points: Sequence[Point], vectors: FloatArray) -> None:
        """Write points; an existing one is replaced whole."""
        collection = self._writable()
        plain, array = checked_points(points, vectors, self._layout(collection).dimensions)
        flat = [to_flat(point) for point in plain]
        vector = _BYTES_PER_NUMBER * array.shape[1]
        sizes = [len(point.text.encode()) + len(json.dumps(keys)) + vector for point, keys in zip(plain, flat, strict=True)]

        def send(rows: slice) -> None:
            ids = [point.id for point in plain[rows]]
            old = self._metadata_of(collection, ids)
            self._database.check()
            self._request("upsert", partial(
                collection.upsert,
                ids=ids,
                embeddings=array[rows],
                documents=[point.text for point in plain[rows]],
                metadatas=[_replacing(old.get(one, {}), keys) for one, keys in zip(ids, flat[rows], strict=True)],
            ))  # fmt: skip

        self._database.write(sizes, send, lambda row: _name_of(plain[row]))

    def update(self, points: Sequence[Point]) -> None:
        """Replace everything but the vector and the text of existing points."""
        collection = self._writable()
        plain = checked_updates(points)
        flat = [to_flat(point) for point in plain]

        def send(rows: slice) -> None:
            old = self._metadata_of(collection, [point.id for point in plain[rows]])
            self._database.check()
            new = {point.id: keys for point, keys in zip(plain[rows], flat[rows], strict=True) if point.id in old}
            if new:
                changed = [_replacing(old[one], keys) for one, keys in new.items()]
                self._request("update", partial(collection.update, ids=list(new), metadatas=changed))

        self._database.write([len(json.dumps(keys)) for keys in flat], send, lambda row: _name_of(plain[row]))

    def delete(self, ids: Sequence[str]) -> None:
        """Remove points of ours; ids that aren't there are fine."""
        collection = self._writable()
        known = checked_ids(ids)
        if known:
            self._database.check()

        def send(batch: list[str]) -> None:
            # Chroma takes seconds for ids and `where` together.
            old = self._metadata_of(collection, batch)
            ours = [one for one, flat in old.items() if is_ours(flat)]
            if ours:
                with self._database.rows:
                    self._request("delete", partial(collection.delete, ids=ours))

        self._database.by_ids(known, _RECORDS_PER_PAGE, send)

    def heads(self) -> Iterator[Head]:
        """The heads of all documents, all read at once."""
        rows = self._rows({HEAD_KEY: 1}, ["metadatas"])
        return iter([head_from(flat) for _, _, flat in rows])

    def sources(self) -> dict[str, int]:
        """How many points of ours each document has."""
        return dict(Counter(flat[SOURCE_KEY] for _, _, flat in self._rows({POINT_KEY: 1}, ["metadatas"])))

    def points(self, source: str) -> list[Point]:
        """All points of ours of a document, its head included."""
        rows = self._rows(both([{SOURCE_KEY: source}, {POINT_KEY: 1}]), ["documents", "metadatas"])
        return [point_from_flat(one, document, flat) for one, document, flat in rows]

    def vectors_of(self, texts: Sequence[str]) -> dict[str, FloatArray]:
        """Stored vectors of those texts that some point of ours has, float32 `(dimensions,)` each."""
        wanted = {text_digest(text): text for text in texts}
        digests = list(wanted)

        def read(collection: Any) -> dict[str, FloatArray]:
            holders: dict[str, str] = {}

            def find(batch: list[str]) -> None:
                # One text may stand in thousands of points, so their vectors aren't asked for yet.
                rows = self._pages(collection, {TEXT_KEY: {"$in": batch}}, ["metadatas"])
                holders.update((flat[TEXT_KEY], one) for one, _, flat in rows)

            self._database.by_ids(digests, _DIGESTS_PER_REQUEST, find)
            vectors = self._vectors(collection, list(holders.values()))
            return {wanted[digest]: vectors[one] for digest, one in holders.items()}

        return self._read(read)

    def records(self, limit: int | None = None, *, filter: Filter | None = None) -> Iterator[Record]:
        """Points with their vectors, whoever wrote them, page by page."""
        try:
            return self._records(self._existing(), limit, where(parse_filter(filter)))
        except Nothing:
            return iter(())

    def records_of(self, ids: Sequence[str]) -> list[Record]:
        """Points with their vectors by their ids."""
        wanted = list(dict.fromkeys(ids))

        def read(collection: Any) -> list[Record]:
            found: list[Record] = []

            def read_some(batch: list[str]) -> None:
                found.extend(_records_of_page(self._request("read", partial(collection.get, ids=batch, include=_WHOLE))))

            self._database.by_ids(wanted, _VECTORS_PER_PAGE, read_some)
            return found

        return self._read(read)

    def search(
        self, vector: FloatArray, *, limit: int, filter: Filter | None = None, shortlist: Shortlist | None = None
    ) -> list[Hit]:
        """The nearest points by cosine similarity that meet the filter, best first.

        Where the collection's own distance is another, what is nearest by that one is ordered by cosine.
        """
        conditions = parse_filter(filter)

        def read(collection: Any) -> list[Hit]:
            if shortlist is not None:
                raise incapable(self.url, "keeps one vector for each point, so nothing can be shortlisted by shorter ones")
            query = checked_query(vector, self._layout(collection))
            most = min(checked_limit(limit), int(self._request("count", collection.count)))
            try:
                clause = where(conditions)
            except Nothing:
                return []
            return self._nearest(collection, query, most, clause) if most else []

        return self._read(read)

    def staging(self) -> ChromaStore:
        """The collection that `promote` puts in this one's place."""
        self._check_open()
        return ChromaStore(f"{self.url}{_STAGED}", f"{self._name}{_STAGED}", self._database, self)

    def promote(self) -> None:
        """Put the staging collection in this one's place."""
        self.acquire()
        staged = self.staging()._find()
        if staged is None:
            raise nothing_staged(self.url)
        live = self._database.find(self._name)
        if live is not None and not _is_ours(live):
            raise not_ours(self.url)
        old = f"{self._name}{OLD}"
        self._checked_beside(self._database.find(old), old)
        self._database.check()
        self._change(staged, {_COMPLETE_KEY: 1})
        self._swap(live, staged)

    def drop_staging(self) -> None:
        """Remove the staging collection, if there is one."""
        self.acquire()
        if self.staging()._find() is not None:
            self._database.check()
            self._database.delete(f"{self._name}{_STAGED}")

    def close(self) -> None:
        """Let the database go, and the next writer in. Closing twice is fine; closing a staging collection frees nothing."""
        self._closed = True
        if self._parent is None and self._database.opener.is_here:
            self._database.close()

    def _check_open(self) -> None:
        if self._closed or self._database.closed:
            raise store_closed(self.url)
        self._database.opener.check(self.url)

    def _find(self) -> Any:
        """The collection that has the name now, or None."""
        self._check_open()
        found = self._database.find(self._name)
        if self._parent is not None:
            return self._checked_beside(found, self._name)
        return self._renamed() if found is None else found

    def _renamed(self) -> Any:
        """What a reader reads between the two renames of a promotion: the old collection."""
        old = self._database.find(f"{self._name}{OLD}")
        if old is not None and _is_ours(old):
            staged = self._database.find(f"{self._name}{_STAGED}")
            if staged is not None and _COMPLETE_KEY in (staged.metadata or {}):
                return old
        return self._database.find(self._name)  # it is through, or there is no collection

    def _existing(self) -> Any:
        collection = self._find()
        if collection is None:
            raise collection_not_found(self.url)
        return collection

    def _writable(self) -> Any:
        """The collection, of ours, with the right to write; what isn't there or isn't ours is said before anything is locked."""
        if not self._database.is_writer and not _is_ours(self._existing()):
            raise not_ours(self.url)
        self.acquire()
        collection = self._existing()
        if not _is_ours(collection):
            raise not_ours(self.url)
        return collection

    def _checked_beside(self, found: Any, name: str) -> Any:
        """A collection that belongs to this one, or None; raise StoreError when somebody else has the name."""
        if found is not None and not _is_ours(found):
            raise StoreError(
                f"Rebuilding uses the name {name!r}, which a collection has that Sightline didn't make. Rename that one, or"
                " index into another name."
            )
        return found

    def _request(self, what: str, call: Callable[[], T]) -> T:
        return self._database.call(f"{what} on {self.url}", call)

    def _read(self, read: Callable[[Any], T]) -> T:
        """Read from the collection; once more when it was rebuilt, and the old one removed, in between."""
        try:
            return read(self._existing())
        except CollectionNotFound:
            return read(self._existing())

    def _layout(self, collection: Any) -> VectorLayout:
        known = (collection.metadata or {}).get(DIMENSIONS_KEY)
        if known is None:
            first = self._request("dimensions", lambda: collection.get(limit=1, include=["embeddings"]))["embeddings"]
            if len(first) == 0:
                raise StoreError(
                    f"The collection {self.url} is empty and was not made by Sightline, so nothing says how long its vectors are."
                    " Remove it, or index into another name."
                )
            known = len(first[0])
        if not isinstance(known, int) or known < 1:
            raise StoreError(f"{self.url} says that its vectors have {known!r} dimensions. Restore it, or take another name.")
        return VectorLayout(known)

    def _change(self, collection: Any, changes: Mapping[str, Any], *, name: str | None = None) -> None:
        """Change keys of the collection's metadata, None removing one, and perhaps its name, in one commit."""
        old = dict(collection.metadata or {})
        new = {key: value for key, value in {**old, **changes}.items() if value is not None}
        if _SPACE_KEY in new:
            # Older programs chose the distance by this key. `modify` refuses it even unchanged; what is below doesn't.
            self._request("write", lambda: collection._client._modify(
                id=collection.id, new_name=name, new_metadata=new, tenant=collection.tenant, database=collection.database,
            ))  # fmt: skip
        else:
            self._request("write", lambda: collection.modify(name=name, metadata=new))

    def _swap(self, live: Any, staged: Any) -> None:
        """The two renames of a promotion; the first one is done already when `live` is None."""
        if live is not None:
            old = f"{self._name}{OLD}"
            if self._checked_beside(self._database.find(old), old) is not None:
                self._database.delete(old)
            self._request("rename", lambda: live.modify(name=old))
        self._change(staged, {_COMPLETE_KEY: None}, name=self._name)

    def _tidy(self) -> None:
        """Finish a promotion that was interrupted, or remove what the last one left for its readers."""
        live = self._database.find(self._name)
        staged = self._database.find(f"{self._name}{_STAGED}")
        if staged is not None and _is_ours(staged) and _COMPLETE_KEY in staged.metadata:
            _log.warning("finishing the interrupted rebuild of %s", self.url)
            self._swap(live, staged)
        elif live is not None:
            old = self._database.find(f"{self._name}{OLD}")
            if old is not None and _is_ours(old):
                self._database.delete(f"{self._name}{OLD}")

    def _metadata_of(self, collection: Any, ids: list[str]) -> dict[str, Mapping[str, Any]]:
        found = self._request("read", lambda: collection.get(ids=ids, include=["metadatas"]))
        return {one: keys or {} for one, keys in zip(found["ids"], found["metadatas"], strict=True)}

    def _rows(self, clause: dict[str, Any], include: list[str]) -> list[tuple[str, Any, Any]]:
        return self._read(lambda collection: self._pages(collection, clause, include))

    def _pages(self, collection: Any, clause: dict[str, Any] | None, include: list[str]) -> list[tuple[str, Any, Any]]:
        """Id, document and metadata of all points that meet the clause."""
        rows: list[tuple[str, Any, Any]] = []
        with self._database.rows:  # a deletion between two pages would shift what follows
            while len(rows) % _RECORDS_PER_PAGE == 0:
                page = self._page(collection, clause, include, _RECORDS_PER_PAGE, len(rows))
                if not page["ids"]:
                    break
                nothing = [None] * len(page["ids"])
                rows += zip(page["ids"], page["documents"] or nothing, page["metadatas"] or nothing, strict=True)
        return rows

    def _page(self, collection: Any, clause: dict[str, Any] | None, include: list[str], size: int, offset: int) -> Any:
        return self._request("read", lambda: collection.get(where=clause, limit=size, offset=offset, include=include))

    def _vectors(self, collection: Any, ids: list[str]) -> dict[str, FloatArray]:
        found: dict[str, FloatArray] = {}

        def read(batch: list[str]) -> None:
            page = self._request("read", partial(collection.get, ids=batch, include=["embeddings"]))
            # They come in the order of insertion, not as asked, and as float64.
            found.update(zip(page["ids"], np.asarray(page["embeddings"], dtype=np.float32), strict=True))

        self._database.by_ids(ids, _VECTORS_PER_PAGE, read)
        return found

    def _records(self, collection: Any, limit: int | None, clause: dict[str, Any] | None) -> Iterator[Record]:
        offset = 0
        while limit is None or offset < limit:
            size = _VECTORS_PER_PAGE if limit is None else min(_VECTORS_PER_PAGE, limit - offset)
            page = self._page(collection, clause, _WHOLE, size, offset)
            yield from _records_of_page(page)
            if len(page["ids"]) < size:
                return
            offset += size

    def _nearest(self, collection: Any, query: FloatArray, most: int, clause: dict[str, Any] | None) -> list[Hit]:
        """Up to `most` hits. Chroma's index may give fewer than there are; then all that meet the clause are scored."""
        is_cosine = _space(collection) == "cosine"
        asked = most if is_cosine else max(most * _CANDIDATES_PER_HIT, _MIN_CANDIDATES)
        unit = query if is_cosine else query / (np.linalg.norm(query) or 1.0)
        details = ["documents", "metadatas"] if is_cosine and asked <= _RECORDS_PER_PAGE else []
        found = self._request("search", lambda: collection.query(
            query_embeddings=unit[None, :], n_results=asked, where=clause, include=["distances", *details],
        ))  # fmt: skip
        ids = found["ids"][0]
        if len(ids) < most and len(self._page(collection, clause, [], most, 0)["ids"]) > len(ids):
            ids, is_cosine, details = [one for one, _, _ in self._pages(collection, clause, [])], False, []
        if is_cosine:
            scores = {one: 1.0 - float(distance) for one, distance in zip(ids, found["distances"][0], strict=True)}
        else:
            scores = {one: _cosine(vector, query) for one, vector in self._vectors(collection, ids).items()}
        best = sorted(scores, key=lambda one: -scores[one])[:most]
        points = _points_of(ids, found["documents"][0], found["metadatas"][0]) if details else self._points(collection, best)
        return [hit(points[one], scores[one]) for one in best if one in points]

    def _points(self, collection: Any, ids: list[str]) -> dict[str, Point]:
        points: dict[str, Point] = {}

        def read(batch: list[str]) -> None:
            page = self._request("read", partial(collection.get, ids=batch, include=["documents", "metadatas"]))
            points.update(_points_of(page["ids"], page["documents"], page["metadatas"]))

        self._database.by_ids(ids, _RECORDS_PER_PAGE, read)
        return points


def _is_ours(collection: Any) -> bool:
    return CONTRACT_KEY in (collection.metadata or {})


def _space(collection: Any) -> str:
    configuration = collection.configuration_json
    return str((configuration.get("hnsw") or configuration.get("spann") or {}).get("space", "l2"))


def _replacing(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The new metadata with None for every key that the old one has beyond it: Chroma merges, and None removes."""
    return {**dict.fromkeys(old), **new}


def _name_of(point: Point) -> str:
    return f"the point {point.id} of {point.source!r}"


def _points_of(ids: Sequence[str], documents: Sequence[Any], metadatas: Sequence[Any]) -> dict[str, Point]:
    rows = zip(ids, documents, metadatas, strict=True)
    return {one: point_from_flat(one, document, flat) for one, document, flat in rows}


def _records_of_page(page: Any) -> list[Record]:
    vectors = np.asarray(page["embeddings"], dtype=np.float32)
    rows = zip(page["ids"], page["documents"], page["metadatas"], vectors, strict=True)
    return [Record(point_from_flat(one, document, flat), vector, is_ours(flat)) for one, document, flat, vector in rows]


def _cosine(vector: FloatArray, query: FloatArray) -> float:
    norms = float(np.linalg.norm(vector)) * float(np.linalg.norm(query))
    return float(vector @ query) / norms if norms else 0.0
