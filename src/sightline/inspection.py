"""What a collection is: its contract, what it holds, and what its last run left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sightline.contract import Contract, Mark, UnfinishedCopyNote
from sightline.errors import StoreError
from sightline.protocols import Store
from sightline.types import Quantization, VectorStorage

_SAMPLE = 1000


@dataclass(frozen=True, slots=True)
class Norms:
    """Lengths of a sample of the stored vectors; all 1 in a collection that Sightline filled."""

    sampled: int
    smallest: float
    mean: float
    largest: float


@dataclass(frozen=True, slots=True)
class Inspection:
    """What `inspect` found.

    Args:
        url: Where.
        contract: The contract as JSON data without its probes; None in a collection that Sightline didn't make.
        dimensions: Length of the main vectors.
        shorter: Lengths of those that all points have besides.
        unfinished_dimensions: Lengths that were begun to be added or removed, and not all points have.
        quantization: What the vectors are compressed to besides; None is nothing.
        storage: Their number format.
        points: Chunks, whoever wrote them.
        foreign_points: Those that another program wrote.
        documents: Documents that are wholly there.
        unfinished_documents: Documents that an interrupted run left half done; the next run mends them.
        roots: Documents of each root.
        unfinished_roots: What the next run reconciles.
        being_rebuilt: Whether a rebuild was begun beside it.
        unfinished_copy: The command that finishes a copy that was begun beside it, to replace it; None where there is none.
        disk_bytes: What it takes on disk; None where that can't be known (a server) or nothing is kept.
        norms: None in an empty collection.
        last_run: What the last run did.
    """

    url: str
    contract: Mapping[str, Any] | None
    dimensions: int
    shorter: tuple[int, ...]
    unfinished_dimensions: tuple[int, ...]
    quantization: Quantization | None
    storage: VectorStorage
    points: int
    foreign_points: int
    documents: int
    unfinished_documents: int
    roots: Mapping[str, int]
    unfinished_roots: tuple[str, ...]
    being_rebuilt: bool
    unfinished_copy: str | None
    disk_bytes: int | None
    norms: Norms | None
    last_run: Mapping[str, Any]


def inspect(store: Store) -> Inspection:
    """Look at an existing collection; reads all payload keys once and embeds nothing."""
    data = store.read_contract()
    contract = None if data is None else _shown(data)
    mark = Mark.from_json(store.read_mark())
    sources = store.sources()
    heads = {head.source: head for head in store.heads()}
    whole = [source for source, head in heads.items() if head.document_hash and head.num_chunks == sources.get(source)]
    points = store.count()
    layout = store.layout()
    beside = None if contract is None else _beside(store)
    is_copy = beside is not None and UnfinishedCopyNote.KEY in beside
    whole_lengths = layout.shorter if contract is None else tuple(contract["vectors"].get("shorter", ()))
    return Inspection(
        url=store.url,
        contract=contract,
        dimensions=layout.dimensions,
        shorter=whole_lengths,
        unfinished_dimensions=tuple(one for one in layout.shorter if one not in whole_lengths),
        quantization=layout.quantization,
        storage=layout.storage,
        points=points,
        foreign_points=points - sum(sources.values()),
        documents=len(whole),
        unfinished_documents=len(sources) - len(whole),
        roots=dict(sorted(Counter(source.split("/", 1)[0] for source in whole).items())),
        unfinished_roots=tuple(sorted(mark.unfinished)),
        being_rebuilt=beside is not None and not is_copy,
        unfinished_copy=UnfinishedCopyNote.from_json(beside).command() if beside is not None and is_copy else None,
        disk_bytes=store.disk_bytes(),
        norms=_norms(store),
        last_run=mark.last_run,
    )


def _shown(data: Mapping[str, Any]) -> dict[str, Any]:
    Contract.from_json(data)  # a damaged or newer one is an error here, too
    return {key: value for key, value in data.items() if key != "probes"}


def _beside(store: Store) -> Mapping[str, Any] | None:
    """The contract, or the note, of what was begun beside a collection to take its place; None where nothing was."""
    try:
        staged = store.staging()
        return staged.read_contract() if staged.exists() else None
    except StoreError:  # one that another program made may have a name that no rebuild could take over
        return None


def _norms(store: Store) -> Norms | None:
    lengths = [float(np.linalg.norm(record.vector)) for record in store.records(_SAMPLE)]
    if not lengths:
        return None
    return Norms(len(lengths), min(lengths), sum(lengths) / len(lengths), max(lengths))
