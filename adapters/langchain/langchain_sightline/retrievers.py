"""`SightlineRetriever`: questions to a collection, with nothing to say but where it is."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, Field, PrivateAttr
from sightline import Collection, Instruction, open_collection
from sightline.types import Filter, Hit

from langchain_sightline.documents import document_of
from langchain_sightline.embeddings import SightlineEmbeddings


class SightlineRetriever(BaseRetriever):
    """The chunks of a collection that are nearest to a question.

    Model, dimensions and instruction are taken from the collection, so nothing else has to be remembered. Each document has
    its cosine similarity in `metadata["score"]` if `with_score` says so. A context manager: leaving it closes the collection.

    Args:
        url: Store URL, e.g. "edge:./kb" or "qdrant://localhost:6334/handbook".
        k: How many.
        filter: What their metadata must hold, e.g. `{"lang": ["de", "fr"], "year": {"gte": 2020}}`.
        instruction: What questions look with; None is as the collection says.
        with_score: Put the score into the metadata.
        embeddings: Stands in for the collection's own model, and must see as that one; needed where another program made it.
        trust: Fetch the model that the collection names, whatever it is.
        device: Where the collection's own model runs; None chooses.
        dtype: Its number format; None chooses.

    Raises:
        CollectionNotFound: Nothing was indexed there.
        ContractMismatch: `embeddings` see differently.
        UntrustedModel: The collection names a model that would have to be fetched, and nobody allowed it.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    url: str = Field(frozen=True)
    k: int = Field(default=4, ge=1)
    filter: Filter | None = None
    instruction: str | Instruction | None = None
    with_score: bool = False
    embeddings: SightlineEmbeddings | None = Field(default=None, exclude=True, frozen=True)
    trust: bool = Field(default=False, frozen=True)
    device: str | None = Field(default=None, frozen=True)
    dtype: str | None = Field(default=None, frozen=True)

    _collection: Collection = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Open the collection at once, so that what is wrong is heard here."""
        super().model_post_init(context)
        model = None if self.embeddings is None else self.embeddings.embedder
        self._collection = open_collection(self.url, model=model, trust=self.trust, device=self.device, dtype=self.dtype)

    @property
    def collection(self) -> Collection:
        """The open collection."""
        return self._collection

    def close(self) -> None:
        """Close the collection. Closing twice is fine."""
        self._collection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None, filter: Filter | None = None
    ) -> list[Document]:
        hits = self._collection.search(query, **self._asked(k, filter))
        return [self._document(hit) for hit in hits]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, k: int | None = None, filter: Filter | None = None
    ) -> list[Document]:
        hits = await self._collection.asearch(query, **self._asked(k, filter))
        return [self._document(hit) for hit in hits]

    def _asked(self, k: int | None, filter: Filter | None) -> dict[str, Any]:
        """What one question is asked with: its own words before the retriever's; an empty filter is none."""
        return {
            "k": self.k if k is None else k,
            "filter": self.filter if filter is None else filter,
            "instruction": self.instruction,
        }

    def _document(self, hit: Hit) -> Document:
        document = document_of(hit)
        if self.with_score:
            document.metadata["score"] = hit.score
        return document
