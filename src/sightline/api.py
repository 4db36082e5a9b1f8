"""The one place where embedding, stores, indexing and searching meet: what the command line, servers and adapters call."""

from __future__ import annotations

import difflib
import logging
import math
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from sightline import adoption, calibration, copying, inspection, planning
from sightline.agreement import (
    agreed_on,
    chunk_part,
    created,
    heads_of,
    loss_of,
    planned_target,
    put_in_place,
    staged_beside,
    with_settings,
)
from sightline.collection import Collection, open_collection
from sightline.contract import Contract
from sightline.embedding.dimensions import UNTRAINED_CUT
from sightline.embedding.models import DEFAULT_MODEL, is_local, is_matryoshka, is_remote, load_spec
from sightline.errors import DimensionError, UsageError
from sightline.indexing.chunking import default_settings
from sightline.indexing.files import Discovered, Selection, discover, roots_of
from sightline.indexing.indexer import Corpus, Indexer
from sightline.indexing.jsonl import JsonlFields
from sightline.indexing.parsers import ParseLimits
from sightline.indexing.plan import plan_removal
from sightline.indexing.readers import Format, Reading, formats, register_reader
from sightline.indexing.reconcile import is_within
from sightline.indexing.rehearsal import Rehearsed
from sightline.indexing.rows import row_of
from sightline.inspection import Inspection
from sightline.metadata import ROW_ROOT, payload_bytes
from sightline.opening import (
    TRUSTED_MODELS_VARIABLE,
    existing_store,
    is_trusted,
    known_contract,
    opened_embedder,
    opened_store,
)
from sightline.planning import DEVICES, Calibration, CorpusPlan, IndexPlan, ModelShape, StoreSize, run_seconds, store_sizes
from sightline.protocols import Embedder, InstructionLike, Readable, Store
from sightline.stores import is_file, open_copy, open_file, share_a_directory
from sightline.stores.checks import not_ours
from sightline.types import (
    CopySummary,
    Document,
    FloatArray,
    Foreign,
    IndexSummary,
    OnCopyProgress,
    OnIndexProgress,
    Quantization,
    Role,
    VectorLayout,
    VectorStorage,
)

__all__ = [
    "DEFAULT_MODEL",
    "DEVICES",
    "TRUSTED_MODELS_VARIABLE",
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
    "is_remote",
    "is_trusted",
    "open_collection",
    "plan_corpus",
    "plan_index",
    "register_reader",
    "remove",
    "remove_dimension",
]

log = logging.getLogger(__name__)

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
        store = opened_store(into, resources)
        if known_contract(store) is not None:
            store.acquire(take_over=take_over)
        # Only now: before, another writer may have put a rebuilt collection in its place.
        agreed = agreed_on(
            store, resources, model=model, dimensions=dimensions, quantization=quantization, storage=storage,
            chunk_tokens=chunk_tokens, overlap_tokens=overlap_tokens, rebuild=rebuild, device=device, devices=devices,
            dtype=dtype,
        )  # fmt: skip
        embedder, settings, anew = agreed.embedder, agreed.settings, agreed.anew
        if anew:
            target, contract = staged_beside(store, embedder, settings, agreed.kept, corpus.scopes)
        elif agreed.known is None:
            target, contract = store, created(store, embedder, settings, agreed.kept)
        else:
            target, contract = store, with_settings(store, agreed.known, settings)
        indexer = Indexer(target, embedder, settings, dimensions=contract.vectors.dimensions, on_progress=on_progress)
        # What an interrupted rebuild holds beyond this corpus was never live: it goes without a question.
        summary = indexer.run(corpus, prune=prune or anew, force=force or anew)
        if anew:
            refusal = loss_of(store, heads_of(target), summary, indexer.empty_sources, prune=prune, force=force)
            if refusal is not None:
                raise refusal
            put_in_place(store, target)
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
        agreed = agreed_on(
            store, resources, model=model, dimensions=dimensions, quantization=quantization, storage=storage,
            chunk_tokens=chunk_tokens, overlap_tokens=overlap_tokens, rebuild=rebuild, device=device, devices=devices,
            dtype=dtype,
        )  # fmt: skip
        embedder, anew = agreed.embedder, agreed.anew
        if anew or agreed.known is None:
            target, layout = planned_target(store, agreed, corpus.scopes, resources)
        else:
            target, layout = store, store.layout()
        length = layout.dimensions
        indexer = Indexer(target, embedder, agreed.settings, dimensions=length, on_progress=on_progress)
        found = indexer.rehearse(corpus, prune=prune or anew, force=force or anew)
        refusal = found.refusal
        if anew:
            new = {*found.added, *found.changed, *found.unchanged}
            loss = loss_of(store, new, found.summary, set(found.empty), prune=prune, force=force)
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


def inspect(url: str) -> Inspection:
    """What a collection is and holds, whoever made it; loads no model.

    Raises:
        CollectionNotFound: There is none.
    """
    with ExitStack() as resources:
        return inspection.inspect(existing_store(url, resources))


def remove(sources: Sequence[str], *, from_url: str, take_over: bool = False) -> list[str]:
    """Delete documents by their sources, a root or folder with all below it; gives the sources that went.

    Raises:
        UsageError: Nothing in the collection has, or is below, one of the sources; nothing was deleted then.
    """
    with ExitStack() as resources:
        store = existing_store(from_url, resources)
        if isinstance(sources, str):
            raise UsageError(f"sources is a list of sources; got {sources!r}. Write [{sources!r}].")
        if known_contract(store) is None:
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
        store = existing_store(url, resources)
        if known_contract(store) is None:
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
        store = existing_store(url, resources)
        if known_contract(store) is None:
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
        store = existing_store(url, resources)
        embedder = opened_embedder(model, resources, device=device, devices=devices, dtype=dtype)
        return adoption.adopt(store, embedder, chunk_part(default_settings(embedder)))


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
        store = opened_store(dst, resources)
        if store.exists():
            store.acquire(take_over=take_over)
        return copying.copy_into_store(copied, store, replace=replace, only_main=only_main)


def _held(url: str, resources: ExitStack, *, take_over: bool, refuse_foreign: bool) -> Readable:
    """What is copied from, with the right to write it, so that nobody else does."""
    if is_file(url):
        return open_file(url)
    store = existing_store(url, resources)
    if known_contract(store) is not None:
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
        embedder = opened_embedder(model, resources, dimensions=dimensions, device=device, devices=devices, dtype=dtype)
        calls = {Role.QUERY: embedder.embed_queries, Role.DOCUMENT: embedder.embed_documents}
        return calls[Role(role)](texts, instruction=instruction, dimensions=dimensions)


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


def _unknown_source(source: str, known: Mapping[str, int], url: str) -> UsageError:
    near = difflib.get_close_matches(source, list(known), n=3, cutoff=0.5)
    hint = f" Did you mean: {', '.join(near)}?" if near else f" See its roots with: sightline inspect {shlex.quote(url)}"
    return UsageError(f"{url} holds no document {source!r} and none below it.{hint}")
