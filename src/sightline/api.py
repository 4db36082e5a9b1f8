"""The one place where embedding, stores, indexing and searching meet: what the command line, servers and adapters call."""

from __future__ import annotations

import asyncio
import difflib
import fnmatch
import logging
import math
import os
import shlex
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

import numpy as np

from sightline import adoption, calibration, copying, inspection, planning
from sightline.contract import (
    ChunkPart,
    Contract,
    ReadingDefaults,
    VectorPart,
    make_contract,
    reading_defaults,
    vector_part,
    verify,
)
from sightline.embedding.dimensions import UNTRAINED_CUT
from sightline.embedding.models import DEFAULT_MODEL, full_name, is_local, is_matryoshka, load_spec
from sightline.embedding.shared import open_embedder
from sightline.errors import (
    ContractMismatch,
    DeletionRefused,
    DimensionError,
    ModelNotFound,
    UnfinishedCopy,
    UntrustedModel,
    UsageError,
)
from sightline.indexing.chunking import ChunkSettings, default_settings
from sightline.indexing.files import Discovered, Selection, discover, roots_of
from sightline.indexing.indexer import Corpus, Indexer
from sightline.indexing.jsonl import JsonlFields
from sightline.indexing.parsers import ParseLimits
from sightline.indexing.plan import plan_removal
from sightline.indexing.readers import Format, Reading, formats, register_reader
from sightline.indexing.reconcile import is_within
from sightline.indexing.rehearsal import Rehearsed
from sightline.indexing.rows import add_rows, delete_rows, find_rows, get_rows, make_rows, row_of
from sightline.inspection import Inspection
from sightline.layouts import (
    check_lengths,
    check_reading,
    check_settings,
    read_lengths,
    read_quantization,
    read_shortlist,
    read_storage,
)
from sightline.metadata import ROW_ROOT, known_id, payload_bytes
from sightline.planning import DEVICES, Calibration, CorpusPlan, IndexPlan, ModelShape, StoreSize, run_seconds, store_sizes
from sightline.protocols import Embedder, InstructionLike, Readable, Store
from sightline.searching import aquery_vector, asearch, nearest, query_vector, search
from sightline.stores import is_file, open_copy, open_file, open_store, share_a_directory
from sightline.stores.checks import check_capable, collection_not_found, not_ours
from sightline.types import (
    CopySummary,
    Document,
    Filter,
    FloatArray,
    Foreign,
    Hit,
    IndexSummary,
    Metadata,
    OnCopyProgress,
    OnIndexProgress,
    Quantization,
    Role,
    Row,
    Shortlist,
    VectorLayout,
    VectorStorage,
)

__all__ = [
    "DEFAULT_MODEL",
    "DEVICES",
    "Calibration",
    "Collection",
    "CorpusPlan",
    "Format",
    "IndexPlan",
    "Inspection",
    "JsonlFields",
    "ParseLimits",
    "Reading",
    "StoreSize",
    "add_dimension",
    "adopt",
    "copy",
    "embed",
    "formats",
    "index",
    "inspect",
    "is_trusted",
    "open_collection",
    "plan_corpus",
    "plan_index",
    "register_reader",
    "remove",
    "remove_dimension",
]

log = logging.getLogger(__name__)

# Models that a collection may name and have fetched: the default one's family, and what this variable lists (* is any name).
TRUSTED_MODELS_VARIABLE = "SIGHTLINE_TRUSTED_MODELS"
_TRUSTED_MODELS = ("Qwen/Qwen3-Embedding-*",)
_NAMES_SHOWN = 5
_REMOVED_AT_ONCE = 200
_POINTS_SAMPLED = 500


def index(
    paths: Sequence[str | Path] = (),
    *,
    into: str,
    model: str | Path | Embedder | None = None,
    dimensions: int | Sequence[int] | None = None,
    quantization: Quantization | str | None = None,
    storage: VectorStorage | str | None = None,
    roots: Mapping[str, str | Path] | None = None,
    documents: Iterable[Document] | None = None,
    root: str = "documents",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    ignore_files: bool = True,
    jsonl: JsonlFields | None = None,
    parsing: ParseLimits | None = None,
    chunk_tokens: int | None = None,
    overlap_tokens: int | None = None,
    prune: bool = False,
    force: bool = False,
    rebuild: bool = False,
    take_over: bool = False,
    device: str | None = None,
    devices: Sequence[str] | str | None = None,
    dtype: str | None = None,
    on_progress: OnIndexProgress | None = None,
) -> IndexSummary:
    """Bring the collection at `into` up to date with files, folders and documents; makes it where there is none.

    Documents that are there already and haven't changed cost nothing; those that vanished stay, unless `prune`.

    Args:
        paths: Files and folders; a folder's name is its root's name.
        into: Store URL, e.g. "edge:./kb" or "qdrant://localhost:6334/handbook".
        model: Folder, `package:NAME`, hub name, or an embedder; None is the collection's own, or DEFAULT_MODEL for a new one.
        dimensions: Length of the vectors; None is the collection's own, or the model's for a new one. Several, e.g. [1024, 256],
            keep shorter vectors besides the longest, for searches that shortlist by them. See `add_dimension` for later.
        quantization: What a new collection's vectors are compressed to besides, e.g. "turbo4": less memory, not less disk.
        storage: Number format of a new collection's vectors: "float32" (the default) or "float16".
        roots: More folders and files, by the names that their roots shall have.
        documents: Documents from elsewhere, drawn one by one in another thread.
        root: Name of the root that `documents` is the whole of; it is put before their sources.
        include: Globs (as in .gitignore) of files below folders; none is all that can be read.
        exclude: Globs of files that are left out.
        ignore_files: Whether .gitignore and .sightlineignore count.
        jsonl: Which fields of a jsonl row are its text, id and metadata.
        parsing: How far parsing HTML, PDF, Office files and the like may go, in time and memory.
        chunk_tokens: Largest chunk in tokens; None is the collection's own, or what suits the model for a new one.
        overlap_tokens: How many tokens of a chunk the next one repeats; None is the collection's own, or 0.
        prune: Delete the documents of these paths that are no longer found.
        force: Prune also when more than half would go, and rebuild also when the new collection lacks what the old one has.
        rebuild: Make the collection anew beside the old one, e.g. with another model, and put it in its place when it is done.
        take_over: End the lease of another writer on a server.
        device: Where a model that is given by name runs; None chooses.
        devices: Instead, several that share the work: ["cuda:0", "cuda:1"], or "cuda" for all; see `EmbeddingEngine`.
        dtype: Number format of such a model; None chooses.
        on_progress: Called with an `IndexProgress` from several threads, never from two at once.

    Raises:
        UsageError: Nothing to index, or an argument that can't be used.
        DeletionRefused: More would go than seems meant; all else was done.
        ModelError: The model can't be found or used.
        ContractMismatch: The collection was made by an embedder that sees differently.
        StoreError: The store can't do what it was asked, is held by another writer, or holds a collection of another program.
    """
    selection = Selection(tuple(include), tuple(exclude), ignore_files)
    corpus = _corpus(paths, roots, selection, jsonl, documents, root, parsing, empty_ok=prune)
    with ExitStack() as resources:
        store = _opened_store(into, resources)
        if _known_contract(store) is not None:
            store.acquire(take_over=take_over)
        # Only now: before, another writer may have put a rebuilt collection in its place.
        agreed = _agreed(
            store, resources, model=model, dimensions=dimensions, quantization=quantization, storage=storage,
            chunk_tokens=chunk_tokens, overlap_tokens=overlap_tokens, rebuild=rebuild, device=device, devices=devices,
            dtype=dtype,
        )  # fmt: skip
        embedder, settings, anew = agreed.embedder, agreed.settings, agreed.anew
        if anew:
            target, contract = _staged(store, embedder, settings, agreed.kept, corpus.scopes)
        elif agreed.known is None:
            target, contract = store, _create(store, embedder, settings, agreed.kept)
        else:
            target, contract = store, _with_settings(store, agreed.known, settings)
        indexer = Indexer(target, embedder, settings, dimensions=contract.vectors.dimensions, on_progress=on_progress)
        # What an interrupted rebuild holds beyond this corpus was never live: it goes without a question.
        summary = indexer.run(corpus, prune=prune or anew, force=force or anew)
        if anew:
            refusal = _loss(store, _heads(target), summary, indexer.empty_sources, prune=prune, force=force)
            if refusal is not None:
                raise refusal
            store.promote()
        return summary


def plan_index(
    paths: Sequence[str | Path] = (),
    *,
    into: str,
    model: str | Path | Embedder | None = None,
    dimensions: int | Sequence[int] | None = None,
    quantization: Quantization | str | None = None,
    storage: VectorStorage | str | None = None,
    roots: Mapping[str, str | Path] | None = None,
    documents: Iterable[Document] | None = None,
    root: str = "documents",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    ignore_files: bool = True,
    jsonl: JsonlFields | None = None,
    parsing: ParseLimits | None = None,
    chunk_tokens: int | None = None,
    overlap_tokens: int | None = None,
    prune: bool = False,
    force: bool = False,
    rebuild: bool = False,
    calibrate: bool = True,
    device: str | None = None,
    devices: Sequence[str] | str | None = None,
    dtype: str | None = None,
    on_progress: OnIndexProgress | None = None,
) -> IndexPlan:
    """What `index` would do with the same arguments: nothing is written, and only a sample is embedded, to take the time.

    The run's own stages do it, so its counts are those that the run then reports. A database in a directory is read from a
    temporary copy, because it would write when it is opened.

    Args:
        calibrate: Embed a sample of the new texts for some seconds, to tell how long the run would take. Without it no weights
            are loaded, unless the collection was made by a model that can be known by its vectors only.

    All others are those of `index`.

    Raises:
        StoreLocked: Another process writes to the directory.
        UsageError, ModelError, ContractMismatch, StoreError: As `index` would. What it would refuse to delete is in the plan.
    """
    selection = Selection(tuple(include), tuple(exclude), ignore_files)
    corpus = _corpus(paths, roots, selection, jsonl, documents, root, parsing, empty_ok=prune)
    with ExitStack() as resources:
        store = resources.enter_context(open_copy(into))
        agreed = _agreed(
            store, resources, model=model, dimensions=dimensions, quantization=quantization, storage=storage,
            chunk_tokens=chunk_tokens, overlap_tokens=overlap_tokens, rebuild=rebuild, device=device, devices=devices,
            dtype=dtype,
        )  # fmt: skip
        embedder, anew = agreed.embedder, agreed.anew
        if anew or agreed.known is None:
            target, layout = _planned_target(store, agreed, corpus.scopes, resources)
        else:
            target, layout = store, store.layout()
        length = layout.dimensions
        indexer = Indexer(target, embedder, agreed.settings, dimensions=length, on_progress=on_progress)
        found = indexer.rehearse(corpus, prune=prune or anew, force=force or anew)
        refusal = found.refusal
        if anew:
            new = {*found.added, *found.changed, *found.unchanged}
            loss = _loss(store, new, found.summary, set(found.empty), prune=prune, force=force)
            refusal = None if loss is None else str(loss)
        measured = calibration.calibrate(embedder, found.sample, dimensions=length) if calibrate else None
        return IndexPlan(
            url=into,
            exists=agreed.known is not None,
            rebuilds=anew,
            model=embedder.identity().model,
            dimensions=length,
            summary=found.summary,
            added=found.added,
            changed=found.changed,
            unchanged=found.unchanged,
            empty=found.empty,
            removed=found.removed,
            kept=found.kept,
            refusal=refusal,
            tokens=found.tokens,
            calibration=measured,
            seconds=run_seconds(found.summary, found.tokens, measured) if calibrate else None,
            sizes=_planned_sizes(target, found, layout),
        )


def plan_corpus(
    documents: int,
    tokens_per_document: float,
    *,
    model: str | Path | None = None,
    native_dimensions: int | None = None,
    parameters: float | None = None,
    dimensions: Sequence[int] = (),
    quantizations: Sequence[Quantization | None] = (None,),
    storage: VectorStorage = VectorStorage.FLOAT32,
    **more: Unpack[planning.Figures],
) -> CorpusPlan:
    """What a corpus that isn't here yet will take: chunks, tokens, hours of a device, bytes, with what all that stands on.

    Args:
        documents: How many.
        tokens_per_document: In the mean.
        model: A known name (`planning.KNOWN_MODELS`), a folder or `package:NAME`; None is DEFAULT_MODEL. Nothing is fetched.
        native_dimensions: Instead of `model`, with `parameters`: length of its uncut vectors.
        parameters: Its weights without the token embeddings.
        dimensions: Lengths to compare, and all of them in one collection; none is the model's own.
        quantizations: Ways to quantise to compare; None among them is not at all.
        storage: Number format of the vectors.
        more: As for `planning.plan_corpus`.

    Raises:
        UsageError: A figure out of range, or a model whose sizes aren't known here.
    """
    shape = _shape(model, native_dimensions, parameters)
    lengths = tuple(sorted({*dimensions} or {shape.dimensions}, reverse=True))
    if not 1 <= lengths[-1] <= lengths[0] <= shape.dimensions:
        raise DimensionError(f"dimensions={list(dimensions)} are out of range: {shape.name} gives 1 to {shape.dimensions}.")
    kept = [(length, ()) for length in lengths] + ([(lengths[0], lengths[1:])] if len(lengths) > 1 else [])
    form = VectorStorage(storage)
    layouts = [VectorLayout(longest, shorter, kind, form) for longest, shorter in kept for kind in quantizations]
    return planning.plan_corpus(documents, tokens_per_document, model=shape, layouts=layouts, **more)


def open_collection(
    url: str,
    *,
    model: str | Path | Embedder | None = None,
    create: bool = False,
    dimensions: int | Sequence[int] | None = None,
    quantization: Quantization | str | None = None,
    storage: VectorStorage | str | None = None,
    trust: bool = False,
    device: str | None = None,
    devices: Sequence[str] | str | None = None,
    dtype: str | None = None,
) -> Collection:
    """Open a collection for searching, and for adding rows.

    Args:
        url: Store URL.
        model: Stands in for the model that the contract names; it must see as that one. Needed where there is no contract.
        create: Make the collection where there is none, of `model` or DEFAULT_MODEL.
        dimensions: Length of its vectors, or several, for a new one; an existing one must have them.
        quantization: As for `index`; an existing one must have it.
        storage: As for `index`; an existing one must have it.
        trust: Fetch the model that the contract names, whatever it is.
        device: Where a model that is given by name runs; None chooses.
        devices: Instead, several that share the work: ["cuda:0", "cuda:1"], or "cuda" for all; see `EmbeddingEngine`.
        dtype: Number format of such a model; None chooses.

    Raises:
        CollectionNotFound: Nothing was indexed there.
        ContractMismatch: `model` sees differently, or the collection has other dimensions.
        UntrustedModel: The contract names a model that would have to be fetched, and nobody allowed it.
        ModelError: The model can't be found or used.
    """
    with ExitStack() as resources:
        store = _opened_store(url, resources)
        main, shorter = read_lengths(dimensions)
        if not store.exists():
            if not create:
                raise collection_not_found(url)
            kept = _Kept(main, shorter, read_quantization(quantization), read_storage(storage))
            kept.check(store)
            embedder = _embedder(model, resources, dimensions=main, device=device, devices=devices, dtype=dtype)
            kept = replace(kept, dimensions=_insisted_dimensions(embedder, main, given=embedder is model))
            _create(store, embedder, default_settings(embedder), kept)
            store.release()
        else:
            _check_settings(store, quantization, storage)
        data = store.read_contract()
        contract = None if data is None else Contract.from_json(data)
        if contract is None and model is None:
            raise UsageError(
                f"Sightline didn't make the collection at {url}, so nothing says which model its vectors are of. "
                f"Name it: --model MODEL, or adopt the collection: sightline adopt {shlex.quote(url)} --model MODEL"
            )
        embedder = _embedder(model, resources, contract, device=device, devices=devices, dtype=dtype, trust=trust)
        if contract is None:
            log.warning(
                "Sightline didn't make the collection at %s: nothing says whether its vectors are of this model. "
                "Check and settle it with: sightline adopt %s --model MODEL", url, shlex.quote(url),
            )  # fmt: skip
            reading = reading_defaults(embedder, store.layout().dimensions)
        else:
            verify(contract, embedder, url, dimensions=main)
            check_lengths(contract, dimensions, url, can_add=store.capabilities.several_dimensions)
            reading = contract.reading
            own = embedder.identity().query_prompt
            if model is not None and own != reading.query_prompt and reading.query_prompt is not None:
                log.warning(
                    "Questions to %s look with its own instruction %r, not with the embedder's %r; a search takes another one as "
                    "instruction=.", url, reading.query_prompt, own,
                )  # fmt: skip
        return Collection(store, embedder, contract, reading, resources.pop_all())


class Collection:
    """An open collection; `open_collection` makes it. A context manager: leaving it lets store and model go.

    Rows are texts that a program adds one by one, each whole and under its own id. Runs of `index` leave them alone. For each
    change the collection is held as by a run, and let go again.
    """

    def __init__(
        self, store: Store, embedder: Embedder, contract: Contract | None, reading: ReadingDefaults, resources: ExitStack
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._contract = contract
        self._reading = reading
        self._resources = resources
        self._changing = threading.Lock()
        self._lengths: tuple[int, ...] = () if contract is None else contract.vectors.lengths

    @property
    def url(self) -> str:
        """Store URL."""
        return self._store.url

    @property
    def embedder(self) -> Embedder:
        """Who embeds for it: with the collection's own dimensions and instruction only through its methods."""
        return self._embedder

    @property
    def contract(self) -> Contract | None:
        """What the collection was made with; None where another program made it."""
        return self._contract

    def search(
        self,
        text: str,
        *,
        k: int = 10,
        instruction: InstructionLike = None,
        filter: Filter | None = None,
        dimensions: int | None = None,
        shortlist: Shortlist | str | None = None,
    ) -> list[Hit]:
        """The `k` chunks nearest to a question, best first.

        Args:
            text: The question.
            k: How many hits.
            instruction: What the question looks with; None is as the contract says.
            filter: What the hits' metadata must hold, e.g. `{"lang": ["de", "fr"], "year": {"gte": 2020}}`.
            dimensions: Search by the collection's shorter vectors of this length alone.
            shortlist: Find candidates by shorter vectors, and rescore them by the main ones: "256:200" is 200 by 256 dimensions.

        Raises:
            DimensionError: The collection has no vectors of that length.
        """
        reading, short = self._read_by(dimensions, shortlist)
        return search(
            self._store, self._embedder, reading, text, k=k, instruction=instruction, filter=filter, shortlist=short
        )  # fmt: skip

    async def asearch(
        self,
        text: str,
        *,
        k: int = 10,
        instruction: InstructionLike = None,
        filter: Filter | None = None,
        dimensions: int | None = None,
        shortlist: Shortlist | str | None = None,
    ) -> list[Hit]:
        """As `search`; the event loop stays free, and questions that are asked at once share a batch."""
        reading, short = await asyncio.to_thread(self._read_by, dimensions, shortlist)
        return await asearch(
            self._store, self._embedder, reading, text, k=k, instruction=instruction, filter=filter, shortlist=short
        )  # fmt: skip

    def embed_query(self, text: str, *, instruction: InstructionLike = None) -> FloatArray:
        """The vector that a question is searched by: float32 `(dimensions,)`."""
        return query_vector(self._embedder, self._reading, text, instruction)

    async def aembed_query(self, text: str, *, instruction: InstructionLike = None) -> FloatArray:
        """As `embed_query`; the event loop stays free."""
        return await aquery_vector(self._embedder, self._reading, text, instruction)

    def search_by_vector(
        self,
        vector: Sequence[float] | FloatArray,
        *,
        k: int = 10,
        filter: Filter | None = None,
        shortlist: Shortlist | str | None = None,
    ) -> list[Hit]:
        """The `k` chunks nearest to a vector, best first: by the vectors that are as long, or as `search` with a shortlist."""
        row = np.asarray(vector, dtype=np.float32)
        known = self._reading.dimensions
        length = len(row) if row.ndim == 1 and len(row) != known and shortlist is None else None
        _, short = self._read_by(length, shortlist)
        return nearest(self._store, row, k=k, filter=filter, shortlist=short)

    def add(
        self,
        texts: Iterable[str],
        *,
        ids: Iterable[str | None] | None = None,
        metadatas: Iterable[Metadata | None] | None = None,
        vectors: Sequence[Sequence[float]] | FloatArray | None = None,
        embedded_texts: Iterable[str] | None = None,
    ) -> list[str]:
        """Write rows, each in the place of one with its id; a text whose vector is there already isn't embedded again.

        Args:
            texts: What is read, each whole: nothing is cut, so what the model can't read is truncated and counted.
            ids: The caller's own; None makes new ones.
            metadatas: One for each text.
            vectors: `(n, dimensions)`, if the caller has them; a sample is compared with the collection's embedder.
            embedded_texts: What the vectors are of, where that isn't the text.

        Returns:
            The ids, in the texts' order.

        Raises:
            UsageError: What no store could keep; nothing was written then.
            ContractMismatch: The vectors aren't the embedder's, or the collection was rebuilt since it was opened.
            StoreLocked: Another writer is at it.
        """
        points = make_rows(texts, ids=ids, metadatas=metadatas, embedded_texts=embedded_texts)
        given = None if vectors is None else np.asarray(vectors, dtype=np.float32)
        if points:
            with self._as_writer() as contract:
                add_rows(self._store, self._embedder, points, dimensions=contract.vectors.dimensions, vectors=given)
        return [known_id(point.id, point.source) for point in points]

    def get(self, ids: Iterable[str]) -> list[Row]:
        """Rows by their ids, and chunks by the ids that hits have, each once, in the order asked; others are left out."""
        return get_rows(self._store, ids)

    def find(self, filter: Filter | None = None) -> Iterator[Row]:
        """All rows and chunks whose metadata meets the filter."""
        return find_rows(self._store, filter)

    def delete(self, ids: Iterable[str]) -> None:
        """Delete rows; what isn't there is fine.

        Raises:
            UsageError: One is a chunk of a document, which goes as a whole (`remove`); nothing was deleted then.
        """
        with self._as_writer():
            delete_rows(self._store, ids)

    def count(self) -> int:
        """How many chunks the collection holds."""
        return self._store.count()

    def close(self) -> None:
        """Close the store, and the model unless the caller gave it. Closing twice is fine."""
        self._resources.close()

    def _read_by(
        self, dimensions: int | None, shortlist: Shortlist | str | None
    ) -> tuple[ReadingDefaults, Shortlist | None]:
        """How a search reads the collection; raises what it can't be read by."""
        if dimensions is None and shortlist is None:
            return self._reading, None
        short = read_shortlist(shortlist)
        asked = dimensions if short is None else short.dimensions
        if asked not in self._lengths:  # it may have been added since the collection was opened
            self._lengths = _whole_lengths(self._store)
        check_reading(self._lengths, dimensions, short, self.url, can_add=self._store.capabilities.several_dimensions)
        return replace(self._reading, dimensions=dimensions or self._reading.dimensions), short

    @contextmanager
    def _as_writer(self) -> Iterator[Contract]:
        """The right to write for one change; the collection must still be the one that was opened."""
        with self._changing:
            if self._contract is None:
                raise not_ours(self.url)
            self._store.acquire()
            try:
                now = _known_contract(self._store)
                if now is None:
                    raise collection_not_found(self.url)
                if replace(now.vectors, shorter=()) != replace(self._contract.vectors, shorter=()):
                    raise ContractMismatch(f"{self.url} was rebuilt with other vectors since it was opened. Open it again.")
                yield now
            finally:
                self._store.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def inspect(url: str) -> Inspection:
    """What a collection is and holds, whoever made it; loads no model.

    Raises:
        CollectionNotFound: There is none.
    """
    with ExitStack() as resources:
        return inspection.inspect(_existing_store(url, resources))


def remove(sources: Sequence[str], *, from_url: str, take_over: bool = False) -> list[str]:
    """Delete documents by their sources, a root or folder with all below it; gives the sources that went.

    Raises:
        UsageError: Nothing in the collection has, or is below, one of the sources; nothing was deleted then.
    """
    with ExitStack() as resources:
        store = _existing_store(from_url, resources)
        if isinstance(sources, str):
            raise UsageError(f"sources is a list of sources; got {sources!r}. Write [{sources!r}].")
        if _known_contract(store) is None:
            raise not_ours(from_url)
        store.acquire(take_over=take_over)
        known = store.sources()
        given = [source.rstrip("/") for source in sources]
        for one in given:
            if not any(is_within(source, {one}) for source in known):
                raise _unknown_source(one, known, from_url)
        gone = sorted(source for source in known if is_within(source, set(given)))
        for start in range(0, len(gone), _REMOVED_AT_ONCE):
            plans = [plan_removal(source, store.points(source)) for source in gone[start : start + _REMOVED_AT_ONCE]]
            store.update([plan.doubt for plan in plans if plan.doubt is not None])
            store.delete([one for plan in plans for one in plan.stale])
            store.delete([plan.drops_head for plan in plans if plan.drops_head is not None])
        return gone


def add_dimension(
    url: str, dimensions: int, *, take_over: bool = False, on_progress: Callable[[int, int], None] | None = None
) -> int:
    """Give all points of a collection shorter vectors besides, cut from those that are stored; nothing is embedded.

    Searches can use them once all points have them. A run that was interrupted goes on where it stopped.

    Args:
        url: Store URL.
        dimensions: How long they are.
        take_over: End the lease of another writer on a server.
        on_progress: Told how many points were cut, and how many there are.

    Returns:
        How many points were cut now.

    Raises:
        CollectionNotFound: There is none.
        DimensionError: They aren't shorter than the main ones.
        StoreError: The store keeps one vector for each point, or is held by another writer.
    """
    with ExitStack() as resources:
        store = _existing_store(url, resources)
        if _known_contract(store) is None:
            raise not_ours(url)
        store.acquire(take_over=take_over)
        total = store.count()
        done = store.add_dimension(dimensions, None if on_progress is None else lambda some: on_progress(some, total))
        contract = Contract.from_json(store.read_contract() or {})
        vectors = contract.vectors
        if dimensions not in vectors.shorter:
            shorter = tuple(sorted({*vectors.shorter, dimensions}, reverse=True))
            store.write_contract(replace(contract, vectors=replace(vectors, shorter=shorter)).to_json())
            if not is_matryoshka(contract.reading.model, contract.reading.revision):
                log.warning(UNTRAINED_CUT, contract.reading.model, vectors.native_dimensions, dimensions)
        return done


def remove_dimension(url: str, dimensions: int, *, take_over: bool = False) -> None:
    """Take the shorter vectors of one length from a collection; the main ones stay.

    Raises:
        CollectionNotFound: There is none.
        DimensionError: It has no shorter ones of this length.
        StoreError: The store is held by another writer.
    """
    with ExitStack() as resources:
        store = _existing_store(url, resources)
        if _known_contract(store) is None:
            raise not_ours(url)
        store.acquire(take_over=take_over)
        contract = Contract.from_json(store.read_contract() or {})
        vectors = contract.vectors
        if dimensions in vectors.shorter:  # first, so that no search asks for what is half gone
            shorter = tuple(one for one in vectors.shorter if one != dimensions)
            store.write_contract(replace(contract, vectors=replace(vectors, shorter=shorter)).to_json())
        store.remove_dimension(dimensions)


def adopt(
    url: str,
    *,
    model: str | Path | Embedder,
    device: str | None = None,
    devices: Sequence[str] | str | None = None,
    dtype: str | None = None,
) -> Contract:
    """Give a contract to a collection that another program filled, after checking that its vectors are those of `model`.

    Raises:
        CollectionNotFound: There is none.
        ContractMismatch: The vectors are not the model's.
        StoreError: It has a contract already, or nothing to check.
    """
    with ExitStack() as resources:
        store = _existing_store(url, resources)
        embedder = _embedder(model, resources, device=device, devices=devices, dtype=dtype)
        return adoption.adopt(store, embedder, _chunk_part(default_settings(embedder)))


def copy(
    src: str,
    dst: str,
    *,
    replace: bool = False,
    only_main: bool = False,
    foreign: Foreign | str = Foreign.REFUSE,
    take_over: bool = False,
    on_progress: OnCopyProgress | None = None,
) -> CopySummary:
    """Copy a collection to another store, or to or from a file, without embedding anything: points, vectors, contract, mark.

    The source is held meanwhile, so no run of Sightline changes it. What was copied is read back and compared before anybody
    can open it. A copy into a store that was interrupted goes on with the same call; one into a file begins anew.

    Args:
        src: Store URL, or a file: "parquet:./kb.parquet".
        dst: Where to, likewise.
        replace: Put the copy in the place of what is there, in one step and only when it is whole.
        only_main: Copy the main vectors alone, as float32 and without quantisation: for stores that can't keep the others.
        foreign: What becomes of the points that another program wrote: "refuse" the copy, make them "rows", or "leave" them out.
        take_over: End the leases of other writers on servers.
        on_progress: Called with a `CopyProgress`.

    Raises:
        UsageError: Source and destination are the same or can't be open together; something else is at the destination.
        CollectionNotFound: There is no source.
        UnfinishedCopy: The source, or the destination, is another copy that isn't whole.
        StoreError: The destination can't keep what the source has, or didn't keep it; somebody else writes to one of them.
    """
    try:
        becomes = Foreign(foreign)
    except ValueError as error:
        raise UsageError(f"foreign={foreign!r} isn't known; it is {', '.join(map(repr, map(str, Foreign)))}.") from error
    together = share_a_directory(src, dst)
    if src == dst or (together and src.startswith("edge:")):
        raise UsageError(f"{src} can't be copied to itself; name another place.")
    if together:
        raise UsageError(
            f"{src} and {dst} lie in one directory, which can be written through one of them at a time. Copy by way of a file: "
            f"sightline copy {shlex.quote(src)} parquet:FILE, then sightline copy parquet:FILE {shlex.quote(dst)}"
        )
    with ExitStack() as resources:
        source = _held(src, resources, take_over=take_over, refuse_foreign=becomes is Foreign.REFUSE)
        copied = copying.Copy(source, foreign=becomes, as_row=row_of, on_progress=on_progress)
        if is_file(dst):
            return copying.copy_into_file(copied, open_file(dst), replace=replace, only_main=only_main)
        store = _opened_store(dst, resources)
        if store.exists():
            store.acquire(take_over=take_over)
        return copying.copy_into_store(copied, store, replace=replace, only_main=only_main)


def _held(url: str, resources: ExitStack, *, take_over: bool, refuse_foreign: bool) -> Readable:
    """What is copied from, with the right to write it, so that nobody else does."""
    if is_file(url):
        return open_file(url)
    store = _existing_store(url, resources)
    if _known_contract(store) is not None:
        store.acquire(take_over=take_over)
    if refuse_foreign:
        copying.refuse_foreign(store)
    return store


def embed(
    texts: Sequence[str],
    *,
    role: Role,
    model: str | Path | Embedder = DEFAULT_MODEL,
    dimensions: int | None = None,
    instruction: InstructionLike = None,
    device: str | None = None,
    devices: Sequence[str] | str | None = None,
    dtype: str | None = None,
) -> FloatArray:
    """Vectors of `texts` in one role: float32 `(n, dimensions)`, unit norm, in input order."""
    with ExitStack() as resources:
        embedder = _embedder(model, resources, dimensions=dimensions, device=device, devices=devices, dtype=dtype)
        calls = {Role.QUERY: embedder.embed_queries, Role.DOCUMENT: embedder.embed_documents}
        return calls[Role(role)](texts, instruction=instruction, dimensions=dimensions)


def is_trusted(model: str, revision: str | None = None) -> bool:
    """Whether a model that a collection names may be used: it is on this machine, or somebody here allowed it."""
    allowed = [*_TRUSTED_MODELS, *filter(None, map(str.strip, os.environ.get(TRUSTED_MODELS_VARIABLE, "").split(",")))]
    return any(fnmatch.fnmatchcase(model, pattern) for pattern in allowed) or is_local(model, revision)


def _corpus(
    paths: Sequence[str | Path],
    roots: Mapping[str, str | Path] | None,
    selection: Selection,
    jsonl: JsonlFields | None,
    documents: Iterable[Document] | None,
    root: str,
    parsing: ParseLimits | None,
    *,
    empty_ok: bool,
) -> Corpus:
    found = _found(paths, roots, selection, needed=documents is None, empty_ok=empty_ok)
    root_name = None if documents is None else _root_name(root)
    return Corpus(found, jsonl or JsonlFields(), documents or (), root_name, parsing or ParseLimits())


def _found(
    paths: Sequence[str | Path],
    roots: Mapping[str, str | Path] | None,
    selection: Selection,
    *,
    needed: bool,
    empty_ok: bool,
) -> Discovered:
    if isinstance(paths, (str, Path)):
        raise UsageError(f"paths is a list of files and folders; got {paths!r}. Write [{str(paths)!r}].")
    if not paths and not roots and not needed:
        return Discovered(files=(), skipped=(), ignored=0, scopes=())
    return discover(roots_of(paths, roots), selection, empty_ok=empty_ok)


def _root_name(root: str) -> str:
    if not root or "/" in root or not root.isprintable() or root == ROW_ROOT:
        raise UsageError(f"root={root!r} is no root's name: it is one text without '/', e.g. 'tickets', and not {ROW_ROOT!r}.")
    return root


def _opened_store(url: str, resources: ExitStack) -> Store:
    store = open_store(url)
    resources.callback(store.close)
    return store


def _existing_store(url: str, resources: ExitStack) -> Store:
    store = _opened_store(url, resources)
    if not store.exists():
        raise collection_not_found(url)
    return store


def _known_contract(store: Store) -> Contract | None:
    """The contract of a collection that is to be written; None where there is no collection yet."""
    data = store.read_contract()
    if data is not None:
        return Contract.from_json(data)
    if store.exists():
        raise not_ours(store.url)
    return None


def _whole_lengths(store: Store) -> tuple[int, ...]:
    """The lengths of vectors that all points have, the main one first."""
    data = store.read_contract()
    return store.layout().lengths if data is None else Contract.from_json(data).vectors.lengths


def _embedder(
    model: str | Path | Embedder | None,
    resources: ExitStack,
    known: Contract | None = None,
    *,
    dimensions: int | None = None,
    device: str | None = None,
    devices: Sequence[str] | str | None = None,
    dtype: str | None = None,
    deterministic: bool = False,
    trust: bool = False,
) -> Embedder:
    """The caller's embedder, or one that `resources` closes: of the named model, the contract's, or the default."""
    if model is not None and not isinstance(model, (str, Path)):
        if device is not None or devices is not None or dtype is not None:
            raise UsageError(
                "devices, device and dtype are for a model that is given by name; this embedder was made with its own."
            )
        return model
    name, revision = _reference(model, known)
    if model is None and known is not None and not trust:
        _check_trust(name, revision)
    try:
        embedder = open_embedder(
            name, revision=revision, dimensions=dimensions, device=device, devices=devices, dtype=dtype,
            deterministic=deterministic,
        )  # fmt: skip
    except ModelNotFound as error:
        if model is None and known is not None:
            raise ModelNotFound(f"{error} The collection names this model; a copy of it may stand in: --model FOLDER") from error
        raise
    resources.callback(embedder.close)
    return embedder


def _reference(model: str | Path | None, known: Contract | None) -> tuple[str, str | None]:
    """Name and revision of the model to use. A folder is named in full, so that the collection can be read from elsewhere."""
    if model is None and known is not None:
        return known.reading.model, known.reading.revision
    name = DEFAULT_MODEL if model is None else str(model)
    if not name.strip():
        raise UsageError("The model's name is empty. Name a folder, package:NAME or a hub model, or leave it out.")
    return full_name(name), None


def _check_trust(name: str, revision: str | None) -> None:
    """A collection may come from anywhere: what it names is not fetched unless somebody here allowed it."""
    if is_trusted(name, revision):
        return
    raise UntrustedModel(
        f"The collection names the model {name!r}, which isn't on this machine. To fetch it from the hub, say --trust, name it "
        f"with --model {shlex.quote(name)}, or list it in the environment variable {TRUSTED_MODELS_VARIABLE}. "
        "A copy of it may stand in: --model FOLDER"
    )


def _shape(model: str | Path | None, native_dimensions: int | None, parameters: float | None) -> ModelShape:
    """The sizes of a model that is known, on this machine, or described."""
    if native_dimensions is not None or parameters is not None:
        if model is not None or native_dimensions is None or parameters is None:
            raise UsageError("A model is named (--model) or described (--native-dimensions and --parameters, both of them).")
        if native_dimensions < 1 or not 1 <= parameters < math.inf:
            raise UsageError(f"--native-dimensions {native_dimensions} and --parameters {parameters:g} are at least 1.")
        return ModelShape("the described model", native_dimensions, round(parameters))
    name = DEFAULT_MODEL if model is None else str(model)
    if name in planning.KNOWN_MODELS:
        return planning.KNOWN_MODELS[name]
    if not is_local(name):
        raise UsageError(
            f"The sizes of {name!r} aren't known here: known are {', '.join(planning.KNOWN_MODELS)}, and models on this machine."
            " Describe another one with --native-dimensions and --parameters (its weights without the token embeddings)."
        )
    spec = load_spec(name)
    return planning.shape_of(name, spec.config, spec.native_dimensions, spec.max_length)


def _planned_target(
    store: Store, agreed: _Agreed, scopes: Set[str], resources: ExitStack
) -> tuple[Store, VectorLayout]:
    """What a run would fill: what an interrupted rebuild left, or an empty collection that stands for one not made yet."""
    wanted = agreed.kept.parts(agreed.embedder, agreed.settings)
    layout = agreed.kept.layout(wanted[0])
    if agreed.anew:
        staged = store.staging()
        begun = _begun(staged, wanted, agreed.embedder)
        if begun is not None and staged.layout() == layout and all(is_within(source, scopes) for source in staged.sources()):
            return staged, layout
    stand_in = _opened_store("memory:", resources)
    stand_in.create(VectorLayout(layout.dimensions), {})
    return stand_in, layout


def _planned_sizes(target: Store, found: Rehearsed, layout: VectorLayout) -> tuple[StoreSize, ...]:
    """What the collection would take when the run is done: its chunks, and what others have there."""
    points = target.count() + found.more_points
    payload = found.payload_bytes
    known = found.points
    if known < points:
        # Of what stays as it is a sample is looked at.
        sampled = [record.point for record in target.records(_POINTS_SAMPLED)]
        if sampled:
            payload += (points - known) * sum(map(payload_bytes, sampled)) // len(sampled)
            known = points
    layouts = [layout, *(VectorLayout(layout.dimensions // part) for part in (2, 4) if layout.dimensions >= part)]
    return store_sizes(points, payload / max(known, 1), layouts)


def _insisted_dimensions(embedder: Embedder, dimensions: int | None, *, given: bool) -> int | None:
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


def _chunk_part(settings: ChunkSettings) -> ChunkPart:
    return ChunkPart(settings.label(), settings.max_tokens, settings.overlap_tokens)


def _check_settings(store: Store, quantization: Quantization | str | None, storage: VectorStorage | str | None) -> None:
    """Raise UsageError where an existing collection has other settings than are asked for, if any are."""
    if quantization is not None or storage is not None:
        check_settings(store.layout(), quantization, storage, store.url)


@dataclass(frozen=True, slots=True)
class _Kept:
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
        return make_contract(embedder, _chunk_part(settings), dimensions=self.dimensions, shorter=self.shorter)

    def parts(self, embedder: Embedder, settings: ChunkSettings) -> tuple[VectorPart, ChunkPart, ReadingDefaults]:
        """As `contract`, without the probes: embeds nothing."""
        self._check_embedder(embedder)
        length = self.dimensions or embedder.dimensions
        return vector_part(embedder, length, self.shorter), _chunk_part(settings), reading_defaults(embedder, length)

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
class _Agreed:
    """What a run goes by: what was asked for, and else what the collection has. `known` is its contract, if it is there."""

    known: Contract | None
    anew: bool
    embedder: Embedder
    settings: ChunkSettings
    kept: _Kept


def _agreed(
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
) -> _Agreed:
    """Compare what was asked for with the collection; raises what doesn't go together before anything is embedded."""
    known = _known_contract(store)
    anew = rebuild and known is not None
    inherited = None if anew and model is not None else known
    main, shorter = read_lengths(dimensions)
    kept = _Kept(main, shorter, read_quantization(quantization), read_storage(storage))
    kept.check(store)
    # Deterministic: a run that goes on after a crash gives the vectors that an undisturbed one would have given.
    embedder = _embedder(
        model, resources, inherited, dimensions=main, device=device, devices=devices, dtype=dtype, deterministic=True
    )
    kept = replace(kept, dimensions=_insisted_dimensions(embedder, main, given=embedder is model))
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
    elif known is not None:
        verify(known, embedder, store.url, dimensions=kept.dimensions)
        check_lengths(known, dimensions, store.url, can_add=store.capabilities.several_dimensions)
        _check_settings(store, quantization, storage)
    return _Agreed(known, anew, embedder, settings, kept)


def _create(store: Store, embedder: Embedder, settings: ChunkSettings, kept: _Kept) -> Contract:
    contract = kept.contract(embedder, settings)
    store.create(kept.layout(contract.vectors), contract.to_json())
    return contract


def _with_settings(store: Store, known: Contract, settings: ChunkSettings) -> Contract:
    """The contract with today's chunk settings, which the next run takes from it."""
    part = _chunk_part(settings)
    if part == known.chunks:
        return known
    log.warning(
        "The collection was cut with %s and is now cut with %s: documents are cut again, and only new texts are embedded.",
        known.chunks.settings, part.settings,
    )  # fmt: skip
    changed = replace(known, chunks=part)
    store.write_contract(changed.to_json())
    return changed


def _staged(
    store: Store, embedder: Embedder, settings: ChunkSettings, kept: _Kept, scopes: Set[str]
) -> tuple[Store, Contract]:
    """The collection beside the live one: what an interrupted rebuild of the same paths left, or a new one."""
    contract = kept.contract(embedder, settings)
    layout = kept.layout(contract.vectors)
    staged = store.staging()
    begun = _begun(staged, (contract.vectors, contract.chunks, contract.reading), embedder)
    if begun is not None and staged.layout() == layout and all(is_within(source, scopes) for source in staged.sources()):
        return staged, begun
    if staged.exists():
        store.drop_staging()
        staged = store.staging()
    staged.create(layout, contract.to_json())
    return staged, contract


def _begun(
    staged: Store, wanted: tuple[VectorPart, ChunkPart, ReadingDefaults], embedder: Embedder
) -> Contract | None:
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


def _heads(store: Store) -> set[str]:
    return {head.source for head in store.heads()}


def _loss(
    store: Store, new: Set[str], summary: IndexSummary, empty: Set[str], *, prune: bool, force: bool
) -> DeletionRefused | None:
    """Why the new collection, which has the documents `new`, may not replace the old one; None if it may."""
    old = _heads(store)
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


def _unknown_source(source: str, known: Mapping[str, int], url: str) -> UsageError:
    near = difflib.get_close_matches(source, list(known), n=3, cutoff=0.5)
    hint = f" Did you mean: {', '.join(near)}?" if near else f" See its roots with: sightline inspect {shlex.quote(url)}"
    return UsageError(f"{url} holds no document {source!r} and none below it.{hint}")
