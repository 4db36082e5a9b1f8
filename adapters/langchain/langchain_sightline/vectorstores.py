"""`SightlineVectorStore`: a collection of Sightline as a vector store of LangChain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore
from langchain_core.vectorstores.utils import maximal_marginal_relevance
from sightline import Collection, open_collection
from sightline.errors import UsageError
from sightline.protocols import InstructionLike
from sightline.types import Filter, FloatArray, Hit

from langchain_sightline.documents import document_of
from langchain_sightline.embeddings import SightlineEmbeddings

# Words of other stores -> what to write.
_INSTEAD = {
    "score_threshold": "Write similarity_search_with_relevance_scores(..., score_threshold=...), or as_retriever("
    'search_type="similarity_score_threshold", search_kwargs={"score_threshold": ...}).',
    "where": 'Write filter={"lang": "de"}.',
}


class SightlineVectorStore(VectorStore):
    """A collection of Sightline, at any store URL: reads what `sightline index` wrote, and takes documents.

    The collection says which model its vectors are of and what a question looks with; both are kept, whatever is given here.
    A score is the cosine similarity. `filter` is Sightline's, e.g. `{"lang": ["de", "fr"], "year": {"gte": 2020}}`. A context
    manager: leaving it closes the collection.

    Args:
        url: Store URL, e.g. "edge:./kb" or "qdrant://localhost:6334/handbook".
        embedding: What a collection that isn't there yet is made with; an existing one must be of it. None opens an existing one
            with the model that it names.
        trust: Fetch the model that the collection names, whatever it is.
        device: Where the collection's own model runs; None chooses.
        dtype: Its number format; None chooses.

    Raises:
        CollectionNotFound: There is none, and no `embedding` to make it with.
        ContractMismatch: The collection is of another model or of other dimensions than `embedding`.
        UntrustedModel: The collection names a model that would have to be fetched, and nobody allowed it.
        StoreError: As for `sightline.open_collection`.
    """

    def __init__(
        self,
        url: str,
        embedding: Embeddings | None = None,
        *,
        trust: bool = False,
        device: str | None = None,
        dtype: str | None = None,
    ) -> None:
        if embedding is None:
            self._collection = open_collection(url, trust=trust, device=device, dtype=dtype)
            embedding = _embeddings_of(self._collection, device=device, dtype=dtype)
        else:
            embedder = _checked(embedding).embedder
            self._collection = open_collection(
                url, model=embedder, create=True, dimensions=embedder.dimensions, trust=trust, device=device, dtype=dtype
            )
        self._embedding: Embeddings = embedding

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        embedding: Embeddings,
        metadatas: Iterable[dict[str, Any]] | None = None,
        *,
        ids: Iterable[str | None] | None = None,
        url: str | None = None,
        **kwargs: Any,
    ) -> Self:
        """A store at `url` with these texts, beside those that are there already."""
        if url is None:
            raise UsageError('Say where the collection is: url="edge:./kb", or "memory:" for as long as the store is open.')
        store = cls(url, embedding, **kwargs)
        try:
            store.add_texts(texts, metadatas, ids=ids)
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def from_documents(cls, documents: Iterable[Document], embedding: Embeddings, **kwargs: Any) -> Self:
        """A store with these documents; LangChain's own would find nothing left in a generator."""
        return super().from_documents(list(documents), embedding, **kwargs)

    @classmethod
    async def afrom_documents(cls, documents: Iterable[Document], embedding: Embeddings, **kwargs: Any) -> Self:
        """As `from_documents`, in another thread."""
        return await super().afrom_documents(list(documents), embedding, **kwargs)

    @property
    def collection(self) -> Collection:
        """The open collection."""
        return self._collection

    @property
    def embeddings(self) -> Embeddings:
        """What was given, or embeddings as the collection's contract says."""
        return self._embedding

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: Iterable[dict[str, Any]] | None = None,
        *,
        ids: Iterable[str | None] | None = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Write texts, each in the place of one with its id; gives the ids.

        Args:
            texts: Each is written whole.
            metadatas: One for each text.
            ids: One for each text; None makes new ones.
            batch_size: LangChain's `index` says how many texts it hands over; the engine packs them by tokens, and each
                database gets them in the sizes that it likes.

        Raises:
            UsageError: An id that comes twice, or metadata that no store could keep; nothing was written then.
            StoreLocked: Another writer is at the collection.
        """
        _refuse("add_texts", kwargs)
        return self._collection.add(texts, ids=ids, metadatas=metadatas)

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: Iterable[dict[str, Any]] | None = None,
        *,
        ids: Iterable[str | None] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """As `add_texts`, in another thread."""
        return await asyncio.to_thread(self.add_texts, texts, metadatas, ids=ids, **kwargs)

    def add_documents(self, documents: Iterable[Document], **kwargs: Any) -> list[str]:
        """Write documents under their ids; LangChain's own would find nothing left in a generator."""
        return super().add_documents(list(documents), **kwargs)

    async def aadd_documents(self, documents: Iterable[Document], **kwargs: Any) -> list[str]:
        """As `add_documents`, in another thread."""
        return await super().aadd_documents(list(documents), **kwargs)

    def delete(self, ids: Sequence[str] | None = None, **kwargs: Any) -> bool:
        """Delete what was added under these ids; what isn't there is fine.

        Raises:
            UsageError: No ids, or a chunk of a document that an index run wrote (`sightline remove` deletes it).
        """
        _refuse("delete", kwargs)
        if ids is None:
            raise UsageError("delete needs ids: without them LangChain means everything. Name what is to go.")
        self._collection.delete(ids)
        return True

    async def adelete(self, ids: Sequence[str] | None = None, **kwargs: Any) -> bool:
        """As `delete`, in another thread."""
        return await asyncio.to_thread(self.delete, ids, **kwargs)

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Documents by their ids, in the order asked; what isn't there is left out."""
        return [document_of(row) for row in self._collection.get(ids)]

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """As `get_by_ids`, in another thread."""
        return await asyncio.to_thread(self.get_by_ids, ids)

    def similarity_search(
        self, query: str, k: int = 4, filter: Filter | None = None, instruction: InstructionLike = None, **kwargs: Any
    ) -> list[Document]:
        """The `k` documents nearest to a question, best first; `filter` and `instruction` as for the scores."""
        scored = self.similarity_search_with_score(query, k, filter, instruction, **kwargs)
        return [document for document, _ in scored]

    async def asimilarity_search(
        self, query: str, k: int = 4, filter: Filter | None = None, instruction: InstructionLike = None, **kwargs: Any
    ) -> list[Document]:
        """As `similarity_search`; the event loop stays free."""
        scored = await self.asimilarity_search_with_score(query, k, filter, instruction, **kwargs)
        return [document for document, _ in scored]

    def similarity_search_with_score(
        self, query: str, k: int = 4, filter: Filter | None = None, instruction: InstructionLike = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """The `k` documents nearest to a question, best first, with their cosine similarities.

        Args:
            query: The question.
            k: How many.
            filter: What their metadata must hold.
            instruction: What the question looks with; None is as the collection says.
        """
        _check_search("similarity_search", filter, kwargs)
        return _scored(self._collection.search(query, k=k, instruction=instruction, filter=filter))

    async def asimilarity_search_with_score(
        self, query: str, k: int = 4, filter: Filter | None = None, instruction: InstructionLike = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """As `similarity_search_with_score`; the event loop stays free, and questions at once share a batch."""
        _check_search("similarity_search", filter, kwargs)
        return _scored(await self._collection.asearch(query, k=k, instruction=instruction, filter=filter))

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, filter: Filter | None = None, **kwargs: Any
    ) -> list[Document]:
        """The `k` documents nearest to a vector, best first."""
        _check_search("similarity_search_by_vector", filter, kwargs)
        return [document_of(hit) for hit in self._collection.search_by_vector(embedding, k=k, filter=filter)]

    async def asimilarity_search_by_vector(
        self, embedding: list[float], k: int = 4, filter: Filter | None = None, **kwargs: Any
    ) -> list[Document]:
        """As `similarity_search_by_vector`, in another thread."""
        return await asyncio.to_thread(self.similarity_search_by_vector, embedding, k, filter, **kwargs)

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter | None = None,
        instruction: InstructionLike = None,
        **kwargs: Any,
    ) -> list[Document]:
        """`k` of the `fetch_k` documents nearest to a question: 1 looks at the question only, 0 avoids what is alike."""
        _check_search("max_marginal_relevance_search", filter, kwargs)
        vector = self._collection.embed_query(query, instruction=instruction)
        return self._diverse(vector, k, fetch_k, lambda_mult, filter)

    async def amax_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter | None = None,
        instruction: InstructionLike = None,
        **kwargs: Any,
    ) -> list[Document]:
        """As `max_marginal_relevance_search`; the event loop stays free."""
        _check_search("max_marginal_relevance_search", filter, kwargs)
        vector = await self._collection.aembed_query(query, instruction=instruction)
        return await asyncio.to_thread(self._diverse, vector, k, fetch_k, lambda_mult, filter)

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """As `max_marginal_relevance_search`, for a vector."""
        _check_search("max_marginal_relevance_search_by_vector", filter, kwargs)
        return self._diverse(np.asarray(embedding, dtype=np.float32), k, fetch_k, lambda_mult, filter)

    async def amax_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """As `max_marginal_relevance_search_by_vector`, in another thread."""
        return await asyncio.to_thread(
            self.max_marginal_relevance_search_by_vector, embedding, k, fetch_k, lambda_mult, filter, **kwargs
        )

    def close(self) -> None:
        """Close the collection. Closing twice is fine."""
        self._collection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _diverse(
        self, vector: FloatArray, k: int, fetch_k: int, lambda_mult: float, filter: Filter | None
    ) -> list[Document]:
        hits = self._collection.search_by_vector(vector, k=max(k, fetch_k), filter=filter)
        rows = self._collection.get([hit.id for hit in hits])
        chosen = maximal_marginal_relevance(vector, [row.vector.tolist() for row in rows], lambda_mult, k)
        return [document_of(rows[index]) for index in chosen]

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return _relevance


def _relevance(score: float) -> float:
    """LangChain's relevance lies within 0 and 1; a cosine below 0 is no relevance at all."""
    return min(1.0, max(0.0, score))


def _embeddings_of(collection: Collection, *, device: str | None, dtype: str | None) -> SightlineEmbeddings:
    """What sees as the contract says, with the model that the collection has open."""
    contract = collection.contract
    if contract is None:  # open_collection asks for a model then
        raise UsageError(f"{collection.url} has no contract. Say which model it is of: embedding=SightlineEmbeddings(...).")
    return SightlineEmbeddings(
        contract.reading.model,
        revision=contract.reading.revision,
        dimensions=contract.vectors.dimensions,
        encode_kwargs={"prompt": contract.vectors.document_prompt},
        query_encode_kwargs={"prompt": contract.reading.query_prompt},
        device=device,
        dtype=dtype,
    )


def _checked(embedding: Embeddings) -> SightlineEmbeddings:
    if not isinstance(embedding, SightlineEmbeddings):
        raise UsageError(
            f"SightlineVectorStore needs SightlineEmbeddings, because the collection keeps what its vectors are of; got "
            f"{type(embedding).__name__}. Write SightlineEmbeddings(model=...), or leave it out for an existing collection."
        )
    return embedding


def _check_search(method: str, filter: Filter | None, arguments: Mapping[str, Any]) -> None:
    _refuse(method, arguments)
    if callable(filter):
        raise UsageError('A filter is a mapping of metadata keys, e.g. {"lang": "de"}, and no function: the database applies it.')


def _refuse(method: str, arguments: Mapping[str, Any]) -> None:
    if arguments:
        name = next(iter(arguments))
        raise UsageError(f"SightlineVectorStore.{method} doesn't take {name!r}. {_INSTEAD.get(name, 'Leave it out.')}")


def _scored(hits: Iterable[Hit]) -> list[tuple[Document, float]]:
    return [(document_of(hit), hit.score) for hit in hits]
