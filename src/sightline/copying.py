"""Copying: a collection, page by page, into a store or a file, verified, and only then given its contract.

Nothing is embedded. While a store is being filled, a note stands in its contract's place (`UnfinishedCopyNote`), so nobody
takes half a collection for a whole one. The same copy goes on where it stopped: what is there and right isn't written again. A
copy that replaces a collection is filled beside it, and a file under another name, until they are whole.
"""

from __future__ import annotations

import dataclasses
import heapq
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import islice
from typing import Any, TypeAlias

import numpy as np

from sightline.contract import Contract, UnfinishedCopyNote
from sightline.errors import StoreError, UsageError
from sightline.metadata import ROW_PREFIX
from sightline.protocols import CollectionFile, Readable, Store, StoreCapabilities
from sightline.types import (
    CopyProgress,
    CopySummary,
    FloatArray,
    Foreign,
    OnCopyProgress,
    Point,
    Record,
    VectorLayout,
    VectorStorage,
)

# Of 4,096 dimensions these are 16 MB; a small request costs a database almost what a large one does.
_PAGE = 1000
# How many vectors are kept for the comparison at the end, and how far a number of a unit vector may be from what it was. Chroma
# and Qdrant normalise what they are given, which moves a last bit; a float16 may be rounded again.
_SAMPLE = 1000
_TOLERANCES = {VectorStorage.FLOAT32: 1e-6, VectorStorage.FLOAT16: 1e-3}
_IDS_AT_ONCE = 500_000
_NAMES_SHOWN = 5

_LEFT = "The copy isn't finished, so nothing opens it; run the same command again, or report this if it stays."

AsRow: TypeAlias = Callable[[Record], Record]


class _Differs(StoreError):
    """The destination isn't what the source is."""


def copy_into_store(copy: Copy, store: Store, *, replace: bool = False, only_main: bool = False) -> CopySummary:
    """Copy into a collection of a store, which is new, or an unfinished copy of the same source, or to be replaced.

    Args:
        copy: What is copied.
        store: Where to; acquired, if there is a collection.
        replace: Put the copy in the place of a collection that is there.
        only_main: Copy the main vectors alone, as float32 and without quantisation.

    Raises:
        StoreError: The destination holds something else, can't keep the vectors as the source does, or differs in the end.
    """
    layout = _fitting(copy.source, store.url, store.capabilities, only_main=only_main)
    contract = _main_contract(copy.contract) if only_main else copy.contract
    note = UnfinishedCopyNote(copy.source.url, store.url, copy.options(replace=replace, only_main=only_main))
    if store.exists() and not replace and store.read_contract() == contract:
        return _already_copied(copy, store, contract, only_main=only_main)
    target, is_begun = _begun(store, layout, note, replace=replace)
    written = 0
    for page in copy.pages():
        lacking = _lacking(target, page) if is_begun else page
        if lacking:
            target.upsert([record.point for record in lacking], np.stack([record.vector for record in lacking]))
        written += len(lacking)
        copy.wrote(written)
    removed = _remove_others(copy, target) if is_begun and target.count() > copy.points else 0
    _verify(copy, target)
    target.write_mark(copy.mark)
    target.write_contract(contract)  # now it can be opened
    if target is not store:
        store.promote()
    return copy.summary(store.url, layout, written=written, removed=removed)


def copy_into_file(copy: Copy, file: CollectionFile, *, replace: bool = False, only_main: bool = False) -> CopySummary:
    """Copy into a file, which is whole or isn't there; one that was interrupted begins anew.

    Raises:
        UsageError: There is another file already, and `replace` wasn't said, or it isn't a collection's.
        StoreError: The file can't be written, or doesn't hold what was written.
    """
    layout = VectorLayout(copy.source.layout().dimensions) if only_main else copy.source.layout()
    contract = _main_contract(copy.contract) if only_main else copy.contract
    if file.exists():
        _check_is_ours(file)
        if not replace:
            return _already_copied(copy, file, contract, only_main=only_main)
    with file.writing(layout, contract, copy.mark) as written:
        for page in copy.pages():
            written.write([record.point for record in page], np.stack([record.vector for record in page]))
            copy.wrote(copy.points)
        copy.verify(written.finished())
    return copy.summary(file.url, layout, written=copy.points, removed=0)


class Copy:
    """One copy's source: its points as they are carried over, what they add up to, and how the destination is held to that.

    Args:
        source: A collection that nobody writes meanwhile, or a file.
        foreign: What becomes of the points that another program wrote.
        as_row: Makes such a point a row.
        on_progress: Called with a `CopyProgress`.

    Raises:
        UnfinishedCopy: The source is itself a copy that isn't whole.
        ContractMismatch: Its contract can't be read.
    """

    def __init__(
        self, source: Readable, *, foreign: Foreign = Foreign.REFUSE, as_row: AsRow, on_progress: OnCopyProgress | None = None
    ) -> None:
        self.source = source
        self.contract = source.read_contract() or {}
        Contract.from_json(self.contract)
        self.mark = source.read_mark()
        self._foreign = foreign
        self._as_row = as_row
        self._on_progress = on_progress
        self._started = time.monotonic()
        self._total = source.count()
        self._written = 0
        self._reset()

    @property
    def points(self) -> int:
        """How many points were carried over so far."""
        return self._content.points

    def pages(self) -> Iterator[list[Record]]:
        """All that is copied, page by page; may be read again.

        Raises:
            StoreError: The source didn't hold still, or holds points of another program that nobody said what to do with.
        """
        self._reset()
        records = self.source.records()
        read = 0
        while page := list(islice(records, _PAGE)):
            read += len(page)
            carried = [one for record in page for one in self._carried(record)]
            for record in carried:
                digest = _digest(record.point)
                self._content.add(record.point, digest)
                self._sample.offer(record, digest)
            if carried:
                yield carried
            self._event("copying", read)
        if read != self._total or self.source.count() != read:
            raise StoreError(
                f"{self.source.url} held {self._total:,} points, but {read:,} were read: some have no vector, or another program "
                "changed the collection meanwhile. Nothing opens the copy until it is finished: run the same command again."
            )
        if (self.source.read_contract(), self.source.read_mark()) != (self.contract, self.mark):
            raise StoreError(f"{self.source.url} was written by another run while it was copied. Run the same command again.")

    def options(self, *, replace: bool, only_main: bool) -> tuple[str, ...]:
        """The command line's options that this copy was begun with."""
        foreign = [] if self._foreign is Foreign.REFUSE else ["--foreign", str(self._foreign)]
        return (*foreign, *["--replace"] * replace, *["--only-main"] * only_main)

    def wrote(self, points: int) -> None:
        """Note how many points were written so far."""
        self._written = points

    def verify(self, target: Readable) -> None:
        """Compare what the destination holds with what was read: number, ids, payloads and heads of all, vectors of a sample.

        Raises:
            StoreError: They differ.
        """
        found = _Content()
        tolerance = _TOLERANCES[target.layout().storage]
        for number, record in enumerate(target.records(), start=1):
            found.add(record.point, _digest(record.point))
            if self._sample.compare(record) > tolerance:
                raise _Differs(
                    f"The vector of the point {record.point.id} of {record.point.source!r} came back changed by {target.url}: a "
                    f"number of it differs by {self._sample.largest:.1e}, and {tolerance:g} is what rounding may do. {_LEFT}"
                )
            if number % _PAGE == 0:
                self._event("verifying", number)
        self._event("verifying", found.points)
        if found != self._content or target.count() != self._content.points:
            raise _Differs(
                f"{target.url} came out differently: {found.points:,} points were read back, and {self._content.points:,} were "
                f"copied; ids, payloads or heads of some aren't the same. {_LEFT}"
            )

    def summary(self, destination: str, layout: VectorLayout, *, written: int, removed: int) -> CopySummary:
        """What was done."""
        return CopySummary(
            source=self.source.url,
            destination=destination,
            points=self._content.points,
            points_written=written,
            points_removed=removed,
            documents=self._content.documents,
            rows=self._content.rows,
            foreign_points=self._foreign_found,
            foreign_left=self._foreign_found if self._foreign is Foreign.LEAVE else 0,
            dimensions=layout.lengths,
            vectors_compared=self._sample.compared,
            largest_difference=self._sample.largest,
            seconds=time.monotonic() - self._started,
        )

    def _reset(self) -> None:
        self._content = _Content()
        self._sample = _Sample()
        self._foreign_found = 0

    def _carried(self, record: Record) -> Sequence[Record]:
        if record.ours:
            return [record]
        self._foreign_found += 1
        if self._foreign is Foreign.REFUSE:
            raise _holds_foreign(self.source.url, "points")
        return [self._as_row(record)] if self._foreign is Foreign.ROWS else []

    def _event(self, stage: str, done: int) -> None:
        if self._on_progress is not None:
            seconds = time.monotonic() - self._started
            self._on_progress(CopyProgress(stage, done, max(self._total, done), self._written, seconds))


@dataclasses.dataclass
class _Content:
    """What points add up to, in any order: equal sums mean equal ids, payloads and heads, whatever their number."""

    points: int = 0
    documents: int = 0
    rows: int = 0
    digest: int = 0

    def add(self, point: Point, digest: int) -> None:
        is_row = point.source.startswith(ROW_PREFIX)
        self.points += 1
        self.documents += point.head is not None and point.head.document_hash != "" and not is_row
        self.rows += is_row
        self.digest = (self.digest + digest) % 2**128


class _Sample:
    """Vectors of some points, chosen by their digests: the same ones however often and in whatever order they come."""

    def __init__(self) -> None:
        self.compared = 0
        self.largest = 0.0
        self._kept: list[tuple[int, str]] = []
        self._vectors: dict[str, FloatArray] = {}

    def offer(self, record: Record, digest: int) -> None:
        """Keep the vector, if it is one of the sample so far."""
        self._vectors[record.point.id] = record.vector.copy()  # it may be a view of all vectors of its page
        heapq.heappush(self._kept, (-digest, record.point.id))
        if len(self._kept) > _SAMPLE:
            del self._vectors[heapq.heappop(self._kept)[1]]

    def compare(self, record: Record) -> float:
        """How far the vector is from the one that was kept; 0 where none was."""
        kept = self._vectors.get(record.point.id)
        if kept is None:
            return 0.0
        difference = _difference(kept, record.vector)
        self.compared += 1
        self.largest = max(self.largest, difference)
        return difference


def refuse_foreign(store: Store) -> None:
    """Raise StoreError where another program wrote points; sources are counted only where the heads don't account for all."""
    points = store.count()
    if sum(head.num_chunks for head in store.heads()) == points:
        return
    foreign = points - sum(store.sources().values())
    if foreign:
        raise _holds_foreign(store.url, f"{foreign:,} of the {points:,} points")


def _fitting(source: Readable, url: str, capabilities: StoreCapabilities, *, only_main: bool) -> VectorLayout:
    """How the destination keeps the vectors: as the source does, or the main ones plainly."""
    layout = source.layout()
    if only_main:
        return VectorLayout(layout.dimensions)
    asked = [
        (f"vectors of {', '.join(map(str, layout.shorter))} dimensions beside the main ones", bool(layout.shorter),
         capabilities.several_dimensions),
        (f"{layout.quantization} quantisation", layout.quantization is not None, capabilities.quantization),
        (f"vectors as {layout.storage}", layout.storage is not VectorStorage.FLOAT32, capabilities.float16),
    ]  # fmt: skip
    lacking = [what for what, is_asked, is_able in asked if is_asked and not is_able]
    if lacking:
        raise StoreError(
            f"{source.url} has {' and '.join(lacking)}, which {url} can't keep. Say --only-main to copy the main vectors "
            f"({layout.dimensions} dimensions) alone as float32; edge:DIR and qdrant://HOST:PORT/COLLECTION can keep all of it."
        )
    return layout


def _main_contract(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The contract of a collection with main vectors only."""
    contract = Contract.from_json(data)
    vectors = dataclasses.replace(contract.vectors, shorter=())
    reading = dataclasses.replace(contract.reading, dimensions=vectors.dimensions)
    return dataclasses.replace(contract, vectors=vectors, reading=reading).to_json()


def _begun(store: Store, layout: VectorLayout, note: UnfinishedCopyNote, *, replace: bool) -> tuple[Store, bool]:
    """The collection to fill, and whether this copy began it before.

    Raises:
        StoreError: Something else is there, and the copy isn't to replace it, or can't.
    """
    if not store.exists():
        store.create(layout, note.to_json())
        return store, False
    found = store.read_contract()
    if found is None:
        raise StoreError(
            f"There is a collection at {store.url} that Sightline didn't make; a copy never takes its place. Choose another name."
        )
    if _is_begun(found, store, layout, note):
        return store, True
    if not replace:
        if UnfinishedCopyNote.KEY in found:
            raise UnfinishedCopyNote.from_json(found).error()
        raise _exists(dataclasses.replace(note, options=(*note.options, "--replace")))
    others = store.count() - sum(store.sources().values())
    if others:
        raise StoreError(
            f"{store.url} holds {others:,} points that another program wrote, which a copy in its place would drop. Choose "
            "another name, or delete them with the program that wrote them."
        )
    beside = store.staging()
    if beside.exists():
        if _is_begun(beside.read_contract() or {}, beside, layout, note):
            return beside, True
        store.drop_staging()
        beside = store.staging()
    beside.create(layout, note.to_json())
    return beside, False


def _check_is_ours(file: CollectionFile) -> None:
    """Raise UsageError where a file holds something else than a collection."""
    try:
        file.read_contract()
    except StoreError as error:
        advice = "A copy never takes the place of such a file: choose another name, or delete it first."
        raise UsageError(f"{error} {advice}") from error


def _is_begun(found: Mapping[str, Any], store: Store, layout: VectorLayout, note: UnfinishedCopyNote) -> bool:
    """Whether a collection is this very copy, unfinished."""
    if UnfinishedCopyNote.KEY not in found:
        return False
    return UnfinishedCopyNote.from_json(found).source == note.source and store.layout() == layout


def _already_copied(copy: Copy, place: Readable, contract: Mapping[str, Any], *, only_main: bool) -> CopySummary:
    """Who runs a copy again that was finished is told so; it may have been killed in its last moment.

    Raises:
        UsageError: It isn't the same any more.
    """
    try:
        if (place.read_contract(), place.read_mark()) != (contract, copy.mark):
            raise _Differs("It has another contract or mark.")
        for _ in copy.pages():
            pass
        copy.verify(place)
    except _Differs as error:
        options = copy.options(replace=True, only_main=only_main)
        raise _exists(UnfinishedCopyNote(copy.source.url, place.url, options)) from error
    return copy.summary(place.url, place.layout(), written=0, removed=0)


def _verify(copy: Copy, target: Store) -> None:
    """Verify, and name some of the points that differ."""
    try:
        copy.verify(target)
    except _Differs as error:
        names: list[str] = []
        for page in copy.pages():
            names += [f"{record.point.id} of {record.point.source!r}" for record in _lacking(target, page)]
            if len(names) >= _NAMES_SHOWN:
                break
        more = f" Among them: {', '.join(names[:_NAMES_SHOWN])}." if names else ""
        raise StoreError(f"{error}{more}") from error


def _lacking(target: Store, page: Sequence[Record]) -> list[Record]:
    """Those that the destination hasn't, or has otherwise."""
    there = {record.point.id: record for record in target.records_of([record.point.id for record in page])}
    tolerance = _TOLERANCES[target.layout().storage]

    def is_there(record: Record) -> bool:
        found = there.get(record.point.id)
        same = found is not None and _digest(found.point) == _digest(record.point)
        return same and found is not None and _difference(found.vector, record.vector) <= tolerance

    return [record for record in page if not is_there(record)]


def _remove_others(copy: Copy, target: Store) -> int:
    """Delete what an earlier attempt wrote and the source no longer has; gives how many. At most half a million ids are held."""
    ids = (record.point.id for record in target.records())
    others: list[str] = []
    while batch := set(islice(ids, _IDS_AT_ONCE)):
        for page in copy.pages():
            batch.difference_update(record.point.id for record in page)
        others += batch
    target.delete(others)
    return len(others)


def _digest(point: Point) -> int:
    """A number that stands for all that a point is besides its vector; 1, 1.0 and True are different."""
    head = None if point.head is None else dataclasses.astuple(point.head)
    text = json.dumps([point.id, point.text, point.source, point.metadata, head, point.embedded_digest], sort_keys=True)
    return int.from_bytes(blake2b(text.encode(), digest_size=16).digest(), "big")


def _difference(one: FloatArray, other: FloatArray) -> float:
    """The largest difference between two vectors' numbers, both brought to unit norm."""
    return float(np.abs(_unit(one) - _unit(other)).max())


def _unit(vector: FloatArray) -> np.ndarray[Any, np.dtype[np.float64]]:
    row = vector.astype(np.float64)
    return row / (np.linalg.norm(row) or 1.0)


def _exists(replacing: UnfinishedCopyNote) -> UsageError:
    return UsageError(
        f"There is something at {replacing.destination} already, and it isn't an unfinished copy of {replacing.source}. Choose "
        f"another place, or put the copy in its place: {replacing.command()}"
    )


def _holds_foreign(url: str, which: str) -> StoreError:
    return StoreError(
        f"Another program wrote {which} of {url}; they can't be copied as they are, because what a foreign point may be differs "
        "from store to store. Say --foreign rows to make them rows of Sightline's (the same id, text, metadata and vector), or "
        "--foreign leave to leave them out."
    )
