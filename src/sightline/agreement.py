"""What a run goes by: what the caller asked for, and else what the collection has; and what it fills.

What doesn't go together is refused before anything is embedded or written.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from sightline.contract import (
    ChunkPart,
    Contract,
    Mark,
    ReadingDefaults,
    VectorPart,
    make_contract,
    reading_defaults,
    vector_part,
    verify,
)
from sightline.embedding.dimensions import UNTRAINED_CUT
from sightline.errors import ContractMismatch, DeletionRefused, StoreError, StoreLocked, UnfinishedCopy
from sightline.indexing.chunking import ChunkSettings, default_settings
from sightline.indexing.reconcile import is_within
from sightline.layouts import check_lengths, check_settings, read_lengths, read_quantization, read_storage
from sightline.opening import known_contract, opened_embedder, opened_store
from sightline.protocols import Embedder, Store
from sightline.stores.checks import check_capable
from sightline.types import IndexSummary, Quantization, VectorLayout, VectorStorage

log = logging.getLogger(__name__)

_NAMES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Kept:
    """Which vectors a new collection shall keep; `dimensions` is None for the embedder's own length."""

    dimensions: int | None
    shorter: tuple[int, ...]
    quantization: Quantization | None
    storage: VectorStorage

    def check(self, store: Store) -> None:
        """Raise StoreError for what the store can't do, before a model is loaded."""
        layout = VectorLayout(self.dimensions or 1, self.shorter, self.quantization, self.storage)
        check_capable(layout, store.capabilities, store.url)

    def contract(self, embedder: Embedder, settings: ChunkSettings) -> Contract:
        """The contract of the new collection; raises DimensionError for a length that the model can't give."""
        self._check_embedder(embedder)
        return make_contract(embedder, chunk_part(settings), dimensions=self.dimensions, shorter=self.shorter)

    def parts(self, embedder: Embedder, settings: ChunkSettings) -> tuple[VectorPart, ChunkPart, ReadingDefaults]:
        """As `contract`, without the probes: embeds nothing."""
        self._check_embedder(embedder)
        length = self.dimensions or embedder.dimensions
        return vector_part(embedder, length, self.shorter), chunk_part(settings), reading_defaults(embedder, length)

    def layout(self, vectors: VectorPart) -> VectorLayout:
        """How the store keeps its vectors."""
        return VectorLayout(vectors.dimensions, vectors.shorter, self.quantization, self.storage)

    def _check_embedder(self, embedder: Embedder) -> None:
        for length in self.shorter:
            embedder.embed_documents([], dimensions=length)  # no text: this checks the length
        identity = embedder.identity()
        main = self.dimensions or embedder.dimensions
        if self.shorter and main == identity.native_dimensions and not identity.matryoshka:  # or the embedder itself has warned
            log.warning(UNTRAINED_CUT, identity.model, identity.native_dimensions, self.shorter[0])


@dataclass(frozen=True, slots=True)
class Agreed:
    """What a run goes by: what was asked for, and else what the collection has. `known` is its contract, if it is there."""

    known: Contract | None
    anew: bool
    embedder: Embedder
    settings: ChunkSettings
    kept: Kept


def agreed_on(
    store: Store,
    resources: ExitStack,
    *,
    model: str | Path | Embedder | None,
    dimensions: int | Sequence[int] | None,
    quantization: Quantization | str | None,
    storage: VectorStorage | str | None,
    chunk_tokens: int | None,
    overlap_tokens: int | None,
    rebuild: bool,
    device: str | None,
    devices: Sequence[str] | str | None,
    dtype: str | None,
) -> Agreed:
    """Compare what was asked for with the collection; raises what doesn't go together before anything is embedded."""
    known = known_contract(store)
    anew = rebuild and known is not None
    inherited = None if anew and model is not None else known
    main, shorter = read_lengths(dimensions)
    kept = Kept(main, shorter, read_quantization(quantization), read_storage(storage))
    kept.check(store)
    # Deterministic: a run that goes on after a crash gives the vectors that an undisturbed one would have given.
    embedder = opened_embedder(
        model, resources, inherited, dimensions=main, device=device, devices=devices, dtype=dtype, deterministic=True
    )
    kept = replace(kept, dimensions=insisted_dimensions(embedder, main, given=embedder is model))
    settings = _chunk_settings(embedder, inherited, chunk_tokens, overlap_tokens)
    if anew:
        if dimensions is None and inherited is not None:
            kept = replace(kept, dimensions=inherited.vectors.dimensions, shorter=inherited.vectors.shorter)
        layout = store.layout()
        kept = replace(
            kept,
            quantization=layout.quantization if quantization is None else kept.quantization,
            storage=layout.storage if storage is None else kept.storage,
        )
        anew = not _is_in_place(store, embedder, settings, kept)
    elif known is not None:
        verify(known, embedder, store.url, dimensions=kept.dimensions)
        check_lengths(known, dimensions, store.url, can_add=store.capabilities.several_dimensions)
        check_kept_settings(store, quantization, storage)
    return Agreed(known, anew, embedder, settings, kept)


def created(store: Store, embedder: Embedder, settings: ChunkSettings, kept: Kept) -> Contract:
    """Make the collection, and give its contract."""
    contract = kept.contract(embedder, settings)
    try:
        store.create(kept.layout(contract.vectors), contract.to_json())
    except StoreError as error:
        if isinstance(error, StoreLocked) or not store.exists():
            raise
        store.acquire()  # which names the run that made it since this one looked, if that is still at it
        raise StoreLocked(f"{store.url} was made by another run just now. Start this one again.") from error
    return contract


def with_settings(store: Store, known: Contract, settings: ChunkSettings) -> Contract:
    """The contract with today's chunk settings, which the next run takes from it."""
    part = chunk_part(settings)
    if part == known.chunks:
        return known
    log.warning(
        "The collection was cut with %s and is now cut with %s: documents are cut again, and only new texts are embedded.",
        known.chunks.settings, part.settings,
    )  # fmt: skip
    changed = replace(known, chunks=part)
    store.write_contract(changed.to_json())
    return changed


def staged_beside(
    store: Store, embedder: Embedder, settings: ChunkSettings, kept: Kept, scopes: Set[str]
) -> tuple[Store, Contract]:
    """The collection beside the live one: what an interrupted rebuild of the same paths left, or a new one."""
    contract = kept.contract(embedder, settings)
    layout = kept.layout(contract.vectors)
    staged = store.staging()
    begun = _resumable(staged, (contract.vectors, contract.chunks, contract.reading), layout, embedder, scopes)
    if begun is not None:
        return staged, begun
    if staged.exists():
        store.drop_staging()
        staged = store.staging()
    staged.create(layout, contract.to_json())
    return staged, contract


def planned_target(store: Store, agreed: Agreed, scopes: Set[str], resources: ExitStack) -> tuple[Store, VectorLayout]:
    """What a run would fill: what an interrupted rebuild left, or an empty collection that stands for one not made yet."""
    wanted = agreed.kept.parts(agreed.embedder, agreed.settings)
    layout = agreed.kept.layout(wanted[0])
    if agreed.anew:
        staged = store.staging()
        if _resumable(staged, wanted, layout, agreed.embedder, scopes) is not None:
            return staged, layout
    stand_in = opened_store("memory:", resources)
    stand_in.create(VectorLayout(layout.dimensions), {})
    return stand_in, layout


def _resumable(
    staged: Store,
    wanted: tuple[VectorPart, ChunkPart, ReadingDefaults],
    layout: VectorLayout,
    embedder: Embedder,
    scopes: Set[str],
) -> Contract | None:
    """The contract of an interrupted rebuild that can be gone on with: the same vectors, of the same paths."""
    begun = _begun(staged, wanted, embedder)
    fits = begun is not None and staged.layout() == layout and all(is_within(source, scopes) for source in staged.sources())
    return begun if fits else None


def put_in_place(store: Store, staged: Store) -> None:
    """End a rebuild. Until it has ended, the new collection's mark says that it is a rebuilt one, for `_is_in_place`."""
    mark = Mark.from_json(staged.read_mark())
    staged.write_mark(replace(mark, is_rebuilt=True).to_json())
    store.promote()
    store.write_mark(mark.to_json())


def _is_in_place(store: Store, embedder: Embedder, settings: ChunkSettings, kept: Kept) -> bool:
    """Whether this very rebuild was killed when the new collection was in its place already."""
    if not Mark.from_json(store.read_mark()).is_rebuilt:
        return False
    wanted = kept.parts(embedder, settings)
    if store.layout() != kept.layout(wanted[0]) or _begun(store, wanted, embedder) is None:
        return False
    log.warning("the rebuild of %s was interrupted when it was in its place: it is brought up to date, not made again", store.url)
    return True


def _begun(staged: Store, wanted: tuple[VectorPart, ChunkPart, ReadingDefaults], embedder: Embedder) -> Contract | None:
    """The contract of an interrupted rebuild, if it was to make what is wanted; None begins anew."""
    data = staged.read_contract() if staged.exists() else None
    if data is None:
        return None
    try:
        begun = Contract.from_json(data)
        verify(begun, embedder, staged.url)
    except (ContractMismatch, UnfinishedCopy) as error:
        log.warning("what an interrupted rebuild left can't be gone on with, so it is begun anew: %s", error)
        return None
    return begun if (begun.vectors, begun.chunks, begun.reading) == wanted else None


def heads_of(store: Store) -> set[str]:
    """The sources of all whole documents."""
    return {head.source for head in store.heads()}


def loss_of(
    store: Store, new: Set[str], summary: IndexSummary, empty: Set[str], *, prune: bool, force: bool
) -> DeletionRefused | None:
    """Why the new collection, which has the documents `new`, may not replace the old one; None if it may."""
    old = heads_of(store)
    lost = sorted(old - new - empty)
    foreign = store.count() - sum(store.sources().values())
    pruned = prune and not foreign and not summary.skipped and 2 * len(lost) <= len(old)
    if force or pruned or not (lost or foreign):
        return None
    names = ", ".join(lost[:_NAMES_SHOWN]) + (", ..." if len(lost) > _NAMES_SHOWN else "")
    missing = [f"{len(lost):,} of its {len(old):,} documents ({names})"] if lost else []
    missing += [f"{foreign:,} points that another program wrote"] if foreign else []
    return DeletionRefused(
        f"The new collection is complete, but {store.url} holds what it lacks: {' and '.join(missing)}. Nothing was replaced. "
        "Give all paths of the collection at once, or, if these are to go, run the same command with --force.",
        summary,
    )


def insisted_dimensions(embedder: Embedder, dimensions: int | None, *, given: bool) -> int | None:
    """The length that a writer insists on: what was asked for, or what the caller's own embedder was made for."""
    return embedder.dimensions if dimensions is None and given else dimensions


def _chunk_settings(
    embedder: Embedder, known: Contract | None, chunk_tokens: int | None, overlap_tokens: int | None
) -> ChunkSettings:
    """How to cut: as asked for, as the collection was cut, or as suits the model."""
    if known is not None:
        chunk_tokens = known.chunks.chunk_tokens if chunk_tokens is None else chunk_tokens
        overlap_tokens = known.chunks.overlap_tokens if overlap_tokens is None else overlap_tokens
    return default_settings(embedder, chunk_tokens, overlap_tokens)


def chunk_part(settings: ChunkSettings) -> ChunkPart:
    """What the contract says of how documents are cut."""
    return ChunkPart(settings.label(), settings.max_tokens, settings.overlap_tokens)


def check_kept_settings(store: Store, quantization: Quantization | str | None, storage: VectorStorage | str | None) -> None:
    """Raise UsageError where an existing collection has other settings than are asked for, if any are."""
    if quantization is not None or storage is not None:
        check_settings(store.layout(), quantization, storage, store.url)
