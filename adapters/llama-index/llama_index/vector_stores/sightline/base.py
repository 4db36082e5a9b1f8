"""`SightlineVectorStore`: a collection of Sightline as a vector store of LlamaIndex."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.schema import BaseNode, MetadataMode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryResult,
)

from llama_index.embeddings.sightline import SightlineEmbedding
from llama_index.vector_stores.sightline.filters import to_filter
from llama_index.vector_stores.sightline.nodes import DOCUMENT_KEY, metadata_of, node_of
from llama_index.vector_stores.sightline.querying import Search, diverse, to_search
from sightline import Collection, open_collection
from sightline.errors import UsageError
from sightline.types import Hit


class SightlineVectorStore(BasePydanticVectorStore):
    """A collection of Sightline, at any store URL: reads what `sightline index` wrote, and takes nodes.

    The collection says which model its vectors are of. Questions are embedded by it, with its own instruction and dimensions,
    whatever the index's embedding model is; nodes whose vectors aren't of it are refused. A context manager: leaving it closes
    the collection.

    Args:
        url: Store URL, e.g. "edge:./kb" or "qdrant://localhost:6334/handbook".
        embed_model: What a collection that isn't there yet is made with; an existing one must be of it. None opens an existing
            one with the model that it names.
        is_embedding_query: True leaves the embedding of questions to the index's embedding model, which is how HyDE and other
            texts of a query transform come to count.
        device: Where the collection's own model runs; None chooses.
        dtype: Its number format; None chooses.
        trust: Fetch the model that the collection names, whatever it is.

    Raises:
        CollectionNotFound: There is none, and no `embed_model` to make it with.
        ContractMismatch: The collection is of another model or of other dimensions than `embed_model`.
        UntrustedModel: The collection names a model that would have to be fetched, and nobody allowed it.
        StoreError: As for `sightline.open_collection`.
    """

    stores_text: bool = True
    is_embedding_query: bool = False
    url: str = Field(description="Store URL.", frozen=True)
    embed_model: SightlineEmbedding = Field(description="The collection's embedding model.", frozen=True)
    device: str | None = Field(default=None, frozen=True, description="Where the collection's own model runs.")
    dtype: str | None = Field(default=None, frozen=True, description="Number format of the collection's own model.")
    trust: bool = Field(default=False, frozen=True, description="Fetch whatever model the collection names.")

    _collection: Collection = PrivateAttr()

    def __init__(
        self,
        url: str,
        *,
        embed_model: SightlineEmbedding | None = None,
        is_embedding_query: bool = False,
        device: str | None = None,
        dtype: str | None = None,
        trust: bool = False,
    ) -> None:
        if embed_model is None:
            collection = open_collection(url, trust=trust, device=device, dtype=dtype)
            embed_model = _embed_model_of(collection, device=device, dtype=dtype)
        else:
            embedder = embed_model.embedder
            collection = open_collection(
                url, model=embedder, create=True, dimensions=embedder.dimensions, trust=trust, device=device, dtype=dtype
            )
        fields: dict[str, Any] = {"url": url, "embed_model": embed_model, "device": device, "dtype": dtype, "trust": trust}
        super().__init__(**fields, is_embedding_query=is_embedding_query)
        self._collection = collection

    @classmethod
    def class_name(cls) -> str:
        """The name that LlamaIndex writes down."""
        return "SightlineVectorStore"

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """Open the collection again that `to_dict` wrote down; it says itself which model it is of."""
        names = ("url", "is_embedding_query", "device", "dtype", "trust")
        return cls(**{**{name: data[name] for name in names if name in data}, **kwargs})

    def __getstate__(self) -> dict[str, Any]:
        raise UsageError(
            "An open collection can't go to another process. Open it there: "
            f"SightlineVectorStore({self.url!r})."
        )

    @property
    def client(self) -> Collection:
        """The open collection."""
        return self._collection

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Write nodes that have embeddings, each in the place of one with its id.

        Raises:
            UsageError: A node without an embedding.
            ContractMismatch: The embeddings aren't the collection's model's.
        """
        _refuse("add", kwargs)
        bare = next((node for node in nodes if node.embedding is None), None)
        if bare is not None:
            raise UsageError(
                f"The node {bare.node_id!r} has no embedding. Add nodes through VectorStoreIndex or IngestionPipeline, or embed "
                "them first: store.embed_model(nodes)."
            )
        return self._collection.add(
            [node.get_content(MetadataMode.NONE) for node in nodes],
            ids=[node.node_id for node in nodes],
            metadatas=[metadata_of(node) for node in nodes],
            vectors=[node.get_embedding() for node in nodes],
            embedded_texts=[node.get_content(MetadataMode.EMBED) for node in nodes],
        )

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete all nodes of a document; one that isn't there is fine.

        Raises:
            UsageError: An index run wrote it, and `sightline remove` deletes it.
        """
        _refuse("delete", delete_kwargs)
        rows = [row.id for row in self._collection.find({DOCUMENT_KEY: ref_doc_id})]
        # Of an index run: the collection refuses to delete them, and says what does.
        chunks = [row.id for row in self._collection.find({"source": ref_doc_id}) if row.source == ref_doc_id]
        self._delete([*rows, *chunks])

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Delete the nodes that have one of the ids and meet the filters; None is no condition.

        Raises:
            UsageError: No condition at all (`clear` deletes everything), or a chunk of a document that an index run wrote.
        """
        _refuse("delete_nodes", delete_kwargs)
        if node_ids is None and filters is None:
            raise UsageError("delete_nodes needs node_ids or filters. To delete every node: clear().")
        if node_ids is not None and filters is None:
            self._delete(node_ids)
        else:
            self._delete([node.node_id for node in self.get_nodes(node_ids, filters)])

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """The nodes that have one of the ids and meet the filters, with their embeddings; None is no condition."""
        if node_ids is None or filters is not None:
            rows = list(self._collection.find(to_filter(filters)))
            rows = rows if node_ids is None else [row for row in rows if row.id in set(node_ids)]
        else:
            rows = self._collection.get(node_ids)
        nodes = []
        for row in rows:
            node = node_of(row)
            node.embedding = row.vector.tolist()
            nodes.append(node)
        return nodes

    def clear(self) -> None:
        """Delete every node; the collection and its contract stay.

        Raises:
            UsageError: An index run wrote some of it; nothing was deleted then.
        """
        self._delete([row.id for row in self._collection.find()])

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """The nodes nearest to a question, best first, with cosine similarities.

        Args:
            query: Mode "default" or "mmr"; filters with ==, in, >, >=, <, <= that all must hold; doc_ids.
            kwargs: A retriever's `vector_store_kwargs`: `instruction`, what the question looks with; and for "mmr"
                `mmr_threshold` and `mmr_prefetch_k` or `mmr_prefetch_factor`.

        Raises:
            UsageError: Something else was asked for.
        """
        search = to_search(query, kwargs, prefers_vector=self.is_embedding_query)
        if isinstance(search.question, str):
            hits = self._collection.search(search.question, k=search.k, instruction=search.instruction, filter=search.filter)
        else:
            hits = self._collection.search_by_vector(search.question, k=search.k, filter=search.filter)
        return self._result(search, hits)

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """As `query`; the event loop stays free, and questions that are asked at once share a batch."""
        search = to_search(query, kwargs, prefers_vector=self.is_embedding_query)
        if isinstance(search.question, str):
            hits = await self._collection.asearch(
                search.question, k=search.k, instruction=search.instruction, filter=search.filter
            )
        else:
            hits = await asyncio.to_thread(
                self._collection.search_by_vector, search.question, k=search.k, filter=search.filter
            )
        return await asyncio.to_thread(self._result, search, hits)

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """As `add`, in another thread."""
        return await asyncio.to_thread(self.add, nodes, **kwargs)

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """As `delete`, in another thread."""
        await asyncio.to_thread(self.delete, ref_doc_id, **delete_kwargs)

    async def adelete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """As `delete_nodes`, in another thread."""
        await asyncio.to_thread(self.delete_nodes, node_ids, filters, **delete_kwargs)

    async def aget_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """As `get_nodes`, in another thread."""
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)

    async def aclear(self) -> None:
        """As `clear`, in another thread."""
        await asyncio.to_thread(self.clear)

    def close(self) -> None:
        """Close the collection. Closing twice is fine."""
        self._collection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _delete(self, ids: Sequence[str]) -> None:
        if ids:
            self._collection.delete(ids)

    def _result(self, search: Search, hits: list[Hit]) -> VectorStoreQueryResult:
        if search.diversity is not None:
            vectors = {row.id: row.vector for row in self._collection.get([hit.id for hit in hits])}
            hits = [hit for hit in hits if hit.id in vectors]  # not one that somebody deleted meanwhile
            hits = diverse(hits, [vectors[hit.id] for hit in hits], search.diversity)
        return VectorStoreQueryResult(
            nodes=[node_of(hit) for hit in hits],
            similarities=[hit.score for hit in hits],
            ids=[hit.id for hit in hits],
        )


def _embed_model_of(collection: Collection, *, device: str | None, dtype: str | None) -> SightlineEmbedding:
    """What embeds nodes for a collection as its contract says."""
    contract = collection.contract
    if contract is None:  # open_collection asks for a model then
        raise UsageError(f"{collection.url} has no contract. Say which model it is of: embed_model=SightlineEmbedding(...).")
    return SightlineEmbedding(
        contract.reading.model,
        revision=contract.reading.revision,
        dimensions=contract.vectors.dimensions,
        query_instruction=contract.reading.query_prompt,
        text_instruction=contract.vectors.document_prompt,
        device=device,
        dtype=dtype,
    )


def _refuse(method: str, arguments: Mapping[str, Any]) -> None:
    if arguments:
        raise UsageError(f"SightlineVectorStore.{method} doesn't take {next(iter(arguments))!r}. Leave it out.")
