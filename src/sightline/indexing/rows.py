"""Rows: texts that a caller adds one by one, beside the documents that runs over files keep up to date.

One text is one document with a single head, whose source is `sightline:rows/ID`. It is written in one piece, so a crash leaves
the rows before it and none by half; and no run has that root, so none prunes a row.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from sightline.contract import PROBE_COSINE, cosines
from sightline.errors import ContractMismatch, UsageError
from sightline.indexing.plan import head_id
from sightline.metadata import ROW_PREFIX, check_text, known_id, plain_metadata
from sightline.protocols import Embedder, Store
from sightline.types import Filter, FloatArray, Head, Metadata, Point, Priority, Record, Role, Row

_SETTINGS = "row/1"
_WINDOW = 512
_CHECKED = 2

T = TypeVar("T")


def make_rows(
    texts: Iterable[str],
    *,
    ids: Iterable[str | None] | None = None,
    metadatas: Iterable[Metadata | None] | None = None,
    embedded_texts: Iterable[str] | None = None,
) -> list[Point]:
    """The points of rows; what no store could keep is found out here, before anything is embedded.

    Raises:
        UsageError: Counts that differ, an id that comes twice or isn't a text, a text or metadata that no store could keep.
    """
    if isinstance(texts, str):
        raise UsageError(f"texts is a list of texts; got {texts!r}. Write [{texts!r}].")
    wanted = list(texts)
    names = [str(uuid.uuid4()) if one is None else one for one in _as_many(ids, "ids", len(wanted))]
    points = [
        _row(name, text, metadata or {}, embedded)
        for name, text, metadata, embedded in zip(
            names,
            wanted,
            _as_many(metadatas, "metadatas", len(wanted)),
            _as_many(embedded_texts, "embedded_texts", len(wanted)),
            strict=True,
        )
    ]
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise UsageError(f"The id {twice!r} occurs more than once in one call; give each row its own.")
    return points


def row_of(record: Record) -> Record:
    """What another program wrote as a row: the same id for its reader, text, metadata and vector."""
    point = record.point
    metadata = {"source": point.source, **point.metadata} if point.source else point.metadata
    return Record(_row(point.id, point.text, metadata, None), record.vector)


def add_rows(
    store: Store, embedder: Embedder, points: Sequence[Point], *, dimensions: int, vectors: FloatArray | None = None
) -> None:
    """Write rows, each in the place of one with its id; a text whose vector is stored isn't embedded again.

    Args:
        store: The collection, acquired.
        embedder: One that meets its contract.
        points: From `make_rows`.
        dimensions: Length of the collection's vectors.
        vectors: `(n, dimensions)`, where the caller has them.

    Raises:
        ContractMismatch: The given vectors aren't the embedder's.
    """
    windows = [range(start, min(start + _WINDOW, len(points))) for start in range(0, len(points), _WINDOW)]
    if vectors is not None:
        given = _checked_vectors(embedder, points, vectors, dimensions)
        for rows in windows:
            store.upsert([points[row] for row in rows], given[rows.start : rows.stop])
        return
    ahead: _Window | None = None
    for rows in windows:
        # The device has the next window while this one is written.
        window = _submitted(store, embedder, [points[row] for row in rows], dimensions)
        if ahead is not None:
            ahead.write(store)
        ahead = window
    if ahead is not None:
        ahead.write(store)


def get_rows(store: Store, ids: Iterable[str]) -> list[Row]:
    """Rows by their callers' ids, and other points by theirs, in the order asked; what isn't there is left out."""
    return [_as_row(record) for record in _records(store, ids).values()]


def find_rows(store: Store, filter: Filter | None) -> Iterator[Row]:
    """All points that meet the filter."""
    return (_as_row(record) for record in store.records(filter=filter))


def delete_rows(store: Store, ids: Iterable[str]) -> None:
    """Delete rows by their callers' ids; what isn't there is fine.

    Raises:
        UsageError: One of them is a chunk of a document, or another program's; nothing was deleted then.
    """
    found = _records(store, ids)
    for one, record in found.items():
        if not record.point.source.startswith(ROW_PREFIX) or not record.ours:
            raise _not_a_row(one, record, store.url)
    store.delete([record.point.id for record in found.values()])


@dataclass
class _Window:
    """Rows on their way: vectors that are known, and those that the embedder is at."""

    points: list[Point]
    known: dict[str, FloatArray]
    fresh: list[str]
    future: Future[FloatArray] | None

    def write(self, store: Store) -> None:
        if self.future is not None:
            self.known.update(zip(self.fresh, self.future.result(), strict=True))
        store.upsert(self.points, np.stack([self.known[_embedded(point)] for point in self.points]))


def _submitted(store: Store, embedder: Embedder, points: list[Point], dimensions: int) -> _Window:
    texts = list(dict.fromkeys(map(_embedded, points)))
    known = store.vectors_of(texts)
    fresh = [text for text in texts if text not in known]
    future = None
    if fresh:
        future = embedder.submit(fresh, role=Role.DOCUMENT, dimensions=dimensions, priority=Priority.BULK)
    return _Window(points, known, fresh, future)


def _checked_vectors(embedder: Embedder, points: Sequence[Point], vectors: FloatArray, dimensions: int) -> FloatArray:
    given = np.asarray(vectors, dtype=np.float32)
    if given.shape != (len(points), dimensions):
        raise UsageError(
            f"vectors has the shape {given.shape}; {len(points)} texts in this collection take ({len(points)}, {dimensions})."
        )
    sample = sorted({0, len(points) // 2})[:_CHECKED] if len(points) else []
    if sample:
        texts = [_embedded(points[row]) for row in sample]
        agreement = cosines(given[sample], embedder.embed_documents(texts, dimensions=dimensions))
        if not (agreement >= PROBE_COSINE).all():  # written so that a NaN is refused too
            raise ContractMismatch(
                f"The given vectors aren't those that {embedder.identity().model!r} gives their texts as documents (cosine "
                f"{agreement.min():.3f}; {PROBE_COSINE} is the same sight). Embed them with the collection's own model and "
                "document prompt, or leave vectors out."
            )
    return given


def _row(name: str, text: str, metadata: Metadata, embedded: str | None) -> Point:
    if not isinstance(name, str) or not name:
        raise UsageError(f"A row's id is a text that isn't empty; got {name!r}.")
    source = ROW_PREFIX + check_text(name, name, "the id")
    plain = plain_metadata(metadata, name)
    check_text(text, name, "the text")
    if embedded is not None:
        check_text(embedded, name, "the embedded text")
    digest = hashlib.sha256(json.dumps([text, embedded, plain], sort_keys=True).encode()).hexdigest()
    return Point(head_id(source), text, source, plain, Head(source, digest, 1, _SETTINGS), embedded)


def _as_many(given: Iterable[T] | None, what: str, count: int) -> Sequence[T | None]:
    if given is None:
        return [None] * count
    found = list(given)
    if len(found) != count:
        raise UsageError(f"{count} texts came with {len(found)} {what}; give one for each text, or none at all.")
    return found


def _embedded(point: Point) -> str:
    return point.text if point.embedded_text is None else point.embedded_text


def _records(store: Store, ids: Iterable[str]) -> dict[str, Record]:
    """Records by the ids that a reader knows them by, each once, in the order asked."""
    if isinstance(ids, str):
        raise UsageError(f"ids is a list of ids; got {ids!r}. Write [{ids!r}].")
    wanted = dict.fromkeys(ids)
    records = store.records_of([*(head_id(ROW_PREFIX + one) for one in wanted), *wanted])
    known = {known_id(record.point.id, record.point.source) if record.ours else record.point.id: record for record in records}
    return {one: known[one] for one in wanted if one in known}


def _as_row(record: Record) -> Row:
    point = record.point
    name = known_id(point.id, point.source) if record.ours else point.id
    return Row(name, point.text, point.source, point.metadata, record.vector)


def _not_a_row(one: str, record: Record, url: str) -> UsageError:
    if not record.ours:
        return UsageError(f"{one!r} was written by another program, which alone may delete it. Nothing was deleted.")
    source = record.point.source
    return UsageError(
        f"{one!r} is a chunk of the document {source!r}, which goes as a whole. Nothing was deleted. Remove it with: "
        f"sightline remove {shlex.quote(source)} --from {shlex.quote(url)}"
    )
