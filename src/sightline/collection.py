"""An open collection: searched by questions and vectors, and added to row by row."""

from __future__ import annotations

import asyncio
import logging
import shlex
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import numpy as np

from sightline.agreement import Kept, check_kept_settings, created, insisted_dimensions
from sightline.contract import Contract, ReadingDefaults, reading_defaults, verify
from sightline.errors import ContractMismatch, UsageError
from sightline.indexing.chunking import default_settings
from sightline.indexing.rows import add_rows, delete_rows, find_rows, get_rows, make_rows
from sightline.layouts import (
    check_lengths,
    check_reading,
    read_lengths,
    read_quantization,
    read_shortlist,
    read_storage,
)
from sightline.metadata import known_id
from sightline.opening import known_contract, opened_embedder, opened_store, stored_contract, whole_lengths
from sightline.protocols import Embedder, InstructionLike, Store
from sightline.searching import aquery_vector, asearch, nearest, query_vector, search
from sightline.stores.checks import collection_not_found, not_ours
from sightline.types import Filter, FloatArray, Hit, Metadata, Quantization, Row, Shortlist, VectorStorage

log = logging.getLogger(__name__)


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
        store = opened_store(url, resources)
        main, shorter = read_lengths(dimensions)
        if not store.exists():
            if not create:
                raise collection_not_found(url)
            kept = Kept(main, shorter, read_quantization(quantization), read_storage(storage))
            kept.check(store)
            embedder = opened_embedder(model, resources, dimensions=main, device=device, devices=devices, dtype=dtype)
            kept = replace(kept, dimensions=insisted_dimensions(embedder, main, given=embedder is model))
            created(store, embedder, default_settings(embedder), kept)
            store.release()
        else:
            check_kept_settings(store, quantization, storage)
        contract = stored_contract(store)
        if contract is None and model is None:
            raise UsageError(
                f"Sightline didn't make the collection at {url}, so nothing says which model its vectors are of. "
                f"Name it: --model MODEL, or adopt the collection: sightline adopt {shlex.quote(url)} --model MODEL"
            )
        embedder = opened_embedder(model, resources, contract, device=device, devices=devices, dtype=dtype, trust=trust)
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
    def lengths(self) -> tuple[int, ...]:
        """Of the vectors that every point has, the main ones first; empty where another program made the collection."""
        return self._lengths

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
            ContractMismatch: It was rebuilt with other vectors since it was opened.
        """
        reading, short = self._read_by(dimensions, shortlist)
        hits = search(
            self._store, self._embedder, reading, text, k=k, instruction=instruction, filter=filter, shortlist=short
        )  # fmt: skip
        self._check_same()
        return hits

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
        hits = await asearch(
            self._store, self._embedder, reading, text, k=k, instruction=instruction, filter=filter, shortlist=short
        )  # fmt: skip
        await asyncio.to_thread(self._check_same)
        return hits

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
        hits = nearest(self._store, row, k=k, filter=filter, shortlist=short)
        self._check_same()
        return hits

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

    def _read_by(self, dimensions: int | None, shortlist: Shortlist | str | None) -> tuple[ReadingDefaults, Shortlist | None]:
        """How a search reads the collection; raises what it can't be read by."""
        if dimensions is None and shortlist is None:
            return self._reading, None
        short = read_shortlist(shortlist)
        asked = dimensions if short is None else short.dimensions
        if asked not in self._lengths:  # it may have been added since the collection was opened
            self._lengths = whole_lengths(self._store)
        check_reading(self._lengths, dimensions, short, self.url, can_add=self._store.capabilities.several_dimensions)
        return replace(self._reading, dimensions=dimensions or self._reading.dimensions), short

    def _check_same(self) -> Contract | None:
        """The contract as it is now; after a search, so that what was found is known to be of the collection that was opened.

        Raises:
            ContractMismatch: Its vectors are others by now, so a question that was embedded for the old ones finds nonsense.
        """
        now = None if self._contract is None else known_contract(self._store)
        if now and self._contract and replace(now.vectors, shorter=()) != replace(self._contract.vectors, shorter=()):
            raise ContractMismatch(f"{self.url} was rebuilt with other vectors since it was opened. Open it again.")
        return now

    @contextmanager
    def _as_writer(self) -> Iterator[Contract]:
        """The right to write for one change; the collection must still be the one that was opened."""
        with self._changing:
            if self._contract is None:
                raise not_ours(self.url)
            self._store.acquire()
            try:
                now = self._check_same()
                if now is None:
                    raise collection_not_found(self.url)
                yield now
            finally:
                self._store.release()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"An open collection can't be sent to another process. Open it there: open_collection({self.url!r})")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
