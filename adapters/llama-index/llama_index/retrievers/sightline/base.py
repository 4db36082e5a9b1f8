"""`SightlineRetriever`: a question to a collection, without an index around it."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.constants import DEFAULT_SIMILARITY_TOP_K
from llama_index.core.schema import IndexNode, NodeWithScore, QueryBundle
from llama_index.core.vector_stores.types import (
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)

from llama_index.vector_stores.sightline import SightlineVectorStore
from sightline import Instruction
from sightline.errors import UsageError


class SightlineRetriever(BaseRetriever):
    """Asks a collection, which embeds the question with its own model, instruction and dimensions.

    A context manager: leaving it closes the collection.

    Args:
        url: Store URL, e.g. "edge:./kb".
        similarity_top_k: How many nodes.
        filters: What their metadata must hold: ==, in, >, >=, <, <=, all of them.
        mode: "default" or "mmr".
        instruction: What questions look with: a name or a task sentence; None is the collection's own.
        device: Where the model runs; None chooses.
        dtype: Its number format; None chooses.
        trust: Fetch the model that the collection names, whatever it is.
        callback_manager, object_map, objects, verbose: As for every retriever of LlamaIndex.
        mmr: What else mode "mmr" takes: `mmr_threshold`, `mmr_prefetch_k` or `mmr_prefetch_factor`.

    Raises:
        CollectionNotFound: Nothing was indexed there.
        SightlineError: As for `sightline.open_collection`.
    """

    def __init__(
        self,
        url: str,
        *,
        similarity_top_k: int = DEFAULT_SIMILARITY_TOP_K,
        filters: MetadataFilters | None = None,
        mode: VectorStoreQueryMode | str = VectorStoreQueryMode.DEFAULT,
        instruction: str | Instruction | None = None,
        device: str | None = None,
        dtype: str | None = None,
        trust: bool = False,
        callback_manager: CallbackManager | None = None,
        object_map: dict[str, Any] | None = None,
        objects: list[IndexNode] | None = None,
        verbose: bool = False,
        **mmr: Any,
    ) -> None:
        self._mode = VectorStoreQueryMode(mode)
        self._similarity_top_k = similarity_top_k
        self._filters = filters
        self._arguments = {**mmr, **({} if instruction is None else {"instruction": instruction})}
        self._store = SightlineVectorStore(url, device=device, dtype=dtype, trust=trust)
        super().__init__(callback_manager=callback_manager, object_map=object_map, objects=objects, verbose=verbose)

    @property
    def vector_store(self) -> SightlineVectorStore:
        """The collection as a vector store."""
        return self._store

    def close(self) -> None:
        """Close the collection. Closing twice is fine."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return _scored(self._store.query(self._query(query_bundle), **self._arguments))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return _scored(await self._store.aquery(self._query(query_bundle), **self._arguments))

    def _query(self, bundle: QueryBundle) -> VectorStoreQuery:
        if bundle.custom_embedding_strs:
            raise UsageError(
                "The query brings texts of its own to embed (custom_embedding_strs, as HyDE does), and the collection embeds the "
                "question alone. Ask through an index: VectorStoreIndex.from_vector_store(store, embed_model=store.embed_model) "
                "with store = SightlineVectorStore(url, is_embedding_query=True)."
            )
        return VectorStoreQuery(
            query_str=bundle.query_str,
            query_embedding=bundle.embedding,
            similarity_top_k=self._similarity_top_k,
            filters=self._filters,
            mode=self._mode,
        )


def _scored(result: VectorStoreQueryResult) -> list[NodeWithScore]:
    return [
        NodeWithScore(node=node, score=score)
        for node, score in zip(result.nodes or [], result.similarities or [], strict=True)
    ]
