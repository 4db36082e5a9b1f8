"""The one place where embedding, stores, indexing and searching meet: `index`, `open_collection`, `embed`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from sightline.contract import Contract, make_contract, verify
from sightline.embedding.engine import EmbeddingEngine
from sightline.embedding.models import DEFAULT_MODEL
from sightline.errors import ModelNotFound, StoreError, UsageError
from sightline.indexing.chunking import ChunkSettings, default_settings
from sightline.indexing.files import discover
from sightline.indexing.indexer import Indexer
from sightline.protocols import Embedder, InstructionLike, Store
from sightline.searching import search
from sightline.stores import open_store
from sightline.stores.checks import collection_not_found
from sightline.types import FloatArray, Hit, IndexSummary, OnIndexProgress, Role

__all__ = ["DEFAULT_MODEL", "Collection", "embed", "index", "open_collection"]

log = logging.getLogger(__name__)


def index(
    paths: Sequence[str | Path],
    *,
    into: str,
    model: str | Path | Embedder | None = None,
    dimensions: int | None = None,
    chunk_tokens: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    on_progress: OnIndexProgress | None = None,
) -> IndexSummary:
    """Bring the collection at `into` up to date with files and folders; makes it where there is none.

    Documents that are there already and haven't changed cost nothing; those that vanished from the folders stay.

    Args:
        paths: Files and folders.
        into: Store URL, e.g. "edge:./kb" or "chroma:./kb/handbook".
        model: Folder, `package:NAME`, hub name, or an embedder; None is the collection's own, or DEFAULT_MODEL for a new one.
        dimensions: Length of the vectors; None is the collection's own, or the model's for a new one.
        chunk_tokens: Largest chunk in tokens; None is the collection's own, or what suits the model for a new one.
        device: Where a model that is given by name runs; None chooses.
        dtype: Number format of such a model; None chooses.
        on_progress: Called with an `IndexProgress` from several threads, never from two at once.

    Raises:
        UsageError: Nothing to index, or an argument that can't be used.
        ModelError: The model can't be found or used.
        ContractMismatch: The collection was made by an embedder that sees differently.
        StoreError: The store can't do what it was asked, or holds a collection that Sightline didn't make.
    """
    if isinstance(paths, (str, Path)):
        raise UsageError(f"paths is a list of files and folders; got {paths!r}. Write [{str(paths)!r}].")
    found = discover(paths)
    with ExitStack() as resources:
        store = _opened_store(into, resources)
        known = _read_contract(store)
        # Deterministic: a run that goes on after a crash gives the vectors that an undisturbed one would have given.
        embedder = _embedder(model, resources, known, dimensions=dimensions, device=device, dtype=dtype, deterministic=True)
        if known is not None:
            verify(known, embedder, dimensions=_insisted_dimensions(embedder, dimensions, given=embedder is model))
        settings = _chunk_settings(embedder, known, chunk_tokens)
        contract = known or _create(store, embedder, settings, dimensions)
        indexer = Indexer(store, embedder, settings, dimensions=contract.vectors.dimensions, on_progress=on_progress)
        return indexer.run(found)


def open_collection(
    url: str, *, model: str | Path | Embedder | None = None, device: str | None = None, dtype: str | None = None
) -> Collection:
    """Open an existing collection for searching.

    Args:
        url: Store URL.
        model: Stands in for the model that the contract names; it must see as that one.
        device: Where a model that is given by name runs; None chooses.
        dtype: Number format of such a model; None chooses.

    Raises:
        CollectionNotFound: Nothing was indexed there.
        ContractMismatch: `model` sees differently.
        ModelError: The model can't be found or used.
    """
    with ExitStack() as resources:
        store = _opened_store(url, resources)
        contract = _read_contract(store)
        if contract is None:
            raise collection_not_found(url)
        embedder = _embedder(model, resources, contract, device=device, dtype=dtype)
        verify(contract, embedder)
        return Collection(store, embedder, contract, resources.pop_all())


class Collection:
    """An open collection; `open_collection` makes it. A context manager: leaving it lets other processes in."""

    def __init__(self, store: Store, embedder: Embedder, contract: Contract, resources: ExitStack) -> None:
        self._store = store
        self._embedder = embedder
        self._contract = contract
        self._resources = resources

    @property
    def contract(self) -> Contract:
        """What the collection was made with."""
        return self._contract

    def search(self, text: str, *, k: int = 10, instruction: InstructionLike = None) -> list[Hit]:
        """The `k` chunks nearest to a question, best first; `instruction=None` looks as the contract says."""
        return search(self._store, self._embedder, self._contract, text, k=k, instruction=instruction)

    def count(self) -> int:
        """How many chunks the collection holds."""
        return self._store.count()

    def close(self) -> None:
        """Close the store, and the model unless the caller gave it. Closing twice is fine."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def embed(
    texts: Sequence[str],
    *,
    role: Role,
    model: str | Path | Embedder = DEFAULT_MODEL,
    dimensions: int | None = None,
    instruction: InstructionLike = None,
    device: str | None = None,
    dtype: str | None = None,
) -> FloatArray:
    """Vectors of `texts` in one role: float32 `(n, dimensions)`, unit norm, in input order."""
    with ExitStack() as resources:
        embedder = _embedder(model, resources, dimensions=dimensions, device=device, dtype=dtype)
        calls = {Role.QUERY: embedder.embed_queries, Role.DOCUMENT: embedder.embed_documents}
        return calls[Role(role)](texts, instruction=instruction, dimensions=dimensions)


def _opened_store(url: str, resources: ExitStack) -> Store:
    store = open_store(url)
    resources.callback(store.close)
    return store


def _read_contract(store: Store) -> Contract | None:
    data = store.read_contract()
    if data is not None:
        return Contract.from_json(data)
    if store.exists():
        raise StoreError(
            f"There is a collection at {store.url}, but Sightline didn't make it, so nothing says how its vectors were made. "
            "Index into another one: sightline index PATH --into OTHER_URL"
        )
    return None


def _embedder(
    model: str | Path | Embedder | None,
    resources: ExitStack,
    known: Contract | None = None,
    *,
    dimensions: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    deterministic: bool = False,
) -> Embedder:
    """The caller's embedder, or an engine that `resources` closes: the named one, the contract's, or the default."""
    if model is not None and not isinstance(model, (str, Path)):
        if device is not None or dtype is not None:
            raise UsageError("device and dtype are for a model that is given by name; this embedder was made with its own.")
        return model
    name, revision = _reference(model, known)
    try:
        engine = EmbeddingEngine(
            name, revision=revision, dimensions=dimensions, device=device, dtype=dtype, deterministic=deterministic
        )
    except ModelNotFound as error:
        if model is None and known is not None:
            raise ModelNotFound(f"{error} The collection names this model; a copy of it may stand in: --model FOLDER") from error
        raise
    resources.callback(engine.close)
    return engine


def _reference(model: str | Path | None, known: Contract | None) -> tuple[str, str | None]:
    """Name and revision of the model to use. A folder is named in full, so that the collection can be read from elsewhere."""
    if model is None and known is not None:
        return known.reading.model, known.reading.revision
    name = str(model or DEFAULT_MODEL)
    folder = Path(name).expanduser()
    return (str(folder.resolve()) if folder.is_dir() else name), None


def _insisted_dimensions(embedder: Embedder, dimensions: int | None, *, given: bool) -> int | None:
    """The length that a writer insists on: what was asked for, or what the caller's own embedder was made for."""
    return embedder.dimensions if dimensions is None and given else dimensions


def _chunk_settings(embedder: Embedder, known: Contract | None, chunk_tokens: int | None) -> ChunkSettings:
    """How to cut: as asked for, as the collection was cut, or as suits the model."""
    if chunk_tokens is None and known is not None:
        chunk_tokens = known.chunks.chunk_tokens
    settings = default_settings(embedder, chunk_tokens)
    if known is not None and settings.label() != known.chunks.settings:
        log.warning(
            "The collection was cut with %s and is now cut with %s: documents are cut again, and only new texts are embedded. "
            "It goes on naming its first setting, so give chunk_tokens on every run.",
            known.chunks.settings, settings.label(),
        )  # fmt: skip
    return settings


def _create(store: Store, embedder: Embedder, settings: ChunkSettings, dimensions: int | None) -> Contract:
    contract = make_contract(embedder, settings.label(), chunk_tokens=settings.max_tokens, dimensions=dimensions)
    store.create(contract.vectors.dimensions, contract.to_json())
    return contract
