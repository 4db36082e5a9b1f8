"""IngestionPipeline, run for real: its cache, its docstore, its worker processes."""

from __future__ import annotations

import asyncio
import multiprocessing
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sightline
from llama_index.core import Document
from llama_index.core.ingestion import DocstoreStrategy, IngestionCache, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import BaseNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from sightline.testing import HashEmbedder

from llama_index.embeddings.sightline import SightlineEmbedding
from llama_index.vector_stores.sightline import SightlineVectorStore
from llama_index_setting import EXACT, PACKAGED

# A worker that is spawned loads torch anew: the longest step of these tests.
_FORKED = f"""
import asyncio
from llama_index.core import Document
from llama_index.core.ingestion import IngestionPipeline
from llama_index.embeddings.sightline import SightlineEmbedding

model = SightlineEmbedding({PACKAGED!r}, device="cpu", dtype="float32", threads=1)
pipeline = IngestionPipeline(transformations=[model])
nodes = asyncio.run(pipeline.arun(documents=[Document(text=f"text {{row}}") for row in range(4)], num_workers=2))
assert [len(node.embedding) for node in nodes] == [384] * 4
assert model.embedder.stats().texts == 0  # none of them was embedded here
"""


def documents(count: int = 6) -> list[Document]:
    """Documents with ids of their own."""
    return [Document(id_=f"doc-{row}", text=f"Document number {row} is about lamps. It ends here.") for row in range(count)]


@pytest.fixture
def store() -> Iterator[SightlineVectorStore]:
    """A new collection in memory."""
    with SightlineVectorStore(f"memory:{uuid.uuid4()}", embed_model=SightlineEmbedding(embedder=HashEmbedder())) as opened:
        yield opened


def pipeline_of(model: SightlineEmbedding, **arguments: Any) -> IngestionPipeline:
    """Splits, then embeds."""
    return IngestionPipeline(transformations=[SentenceSplitter(chunk_size=128, chunk_overlap=0), model], **arguments)


def texts_embedded(model: SightlineEmbedding) -> int:
    """By the model so far."""
    return model.embedder.stats().texts


class TestCache:
    def test_a_second_run_embeds_nothing(self) -> None:
        """The same documents, with a model that was made again."""
        cache = IngestionCache()
        first, second = (SightlineEmbedding(embedder=HashEmbedder()) for _ in range(2))
        nodes = pipeline_of(first, cache=cache).run(documents=documents())
        again = pipeline_of(second, cache=cache).run(documents=documents())
        assert (texts_embedded(first), texts_embedded(second)) == (6, 0)
        assert [node.embedding for node in again] == [node.embedding for node in nodes]

    def test_other_settings_are_embedded_anew(self) -> None:
        """Other dimensions, another instruction: the cache holds vectors of the old ones."""
        cache = IngestionCache()
        pipeline_of(SightlineEmbedding(embedder=HashEmbedder()), cache=cache).run(documents=documents())
        for changed in ({"dimensions": 8}, {"document_instruction": "title: "}):
            embedder = HashEmbedder(**changed)
            nodes = pipeline_of(SightlineEmbedding(embedder=embedder), cache=cache).run(documents=documents())
            expected = embedder.embed_documents([node.get_content() for node in nodes])
            assert np.abs(np.array([node.embedding for node in nodes]) - expected).max() <= 1e-6

    def test_a_cache_on_disk_serves_another_process(self, tmp_path: Path) -> None:
        """Through JSON, with settings that stand for themselves: nothing in them changes from run to run."""
        pipeline = pipeline_of(SightlineEmbedding(PACKAGED, dimensions=64, **EXACT))
        nodes = pipeline.run(documents=documents(2))
        pipeline.persist(str(tmp_path))
        model = SightlineEmbedding(PACKAGED, dimensions=64, **EXACT)
        before = texts_embedded(model)
        other = pipeline_of(model)
        other.load(str(tmp_path))
        assert [node.embedding for node in other.run(documents=documents(2))] == [node.embedding for node in nodes]
        assert texts_embedded(model) == before


class TestDocstore:
    def pipeline(self, store: SightlineVectorStore, **arguments: Any) -> IngestionPipeline:
        return pipeline_of(store.embed_model, vector_store=store, disable_cache=True, **arguments)

    def stored(self, store: SightlineVectorStore) -> dict[str | None, str]:
        return {node.ref_doc_id: node.get_content() for node in store.get_nodes()}

    def test_only_what_changed_is_embedded(self, store: SightlineVectorStore) -> None:
        """And its old nodes are gone; an unchanged run embeds nothing."""
        pipeline = self.pipeline(store, docstore=SimpleDocumentStore())
        pipeline.run(documents=documents())
        before = texts_embedded(store.embed_model)
        pipeline.run(documents=documents())
        assert texts_embedded(store.embed_model) == before
        changed = documents()
        changed[2] = Document(id_="doc-2", text="Something else now.")
        pipeline.run(documents=changed)
        # One text, and one that the collection compares the given vector with.
        assert texts_embedded(store.embed_model) == before + 2
        assert self.stored(store)["doc-2"] == "Something else now."
        assert store.client.count() == 6

    def test_what_vanished_is_deleted_when_asked(self, store: SightlineVectorStore) -> None:
        """By the strategy that says so."""
        pipeline = self.pipeline(store, docstore=SimpleDocumentStore(), docstore_strategy=DocstoreStrategy.UPSERTS_AND_DELETE)
        pipeline.run(documents=documents())
        pipeline.run(documents=documents(3))
        assert sorted(self.stored(store)) == ["doc-0", "doc-1", "doc-2"]

    def test_async_does_the_same(self, store: SightlineVectorStore) -> None:
        """From splitting to deleting."""
        pipeline = self.pipeline(store, docstore=SimpleDocumentStore())
        asyncio.run(pipeline.arun(documents=documents()))
        asyncio.run(pipeline.arun(documents=[Document(id_="doc-1", text="New.")]))
        assert self.stored(store)["doc-1"] == "New."
        assert store.client.count() == 6


class TestWorkers:
    def nodes(self, pipeline: IngestionPipeline) -> list[BaseNode]:
        return list(pipeline.run(documents=documents(4), num_workers=2))

    @pytest.mark.slow
    def test_worker_processes_load_their_own_model(
        self, minilm: sightline.EmbeddingEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """HuggingFaceEmbedding arrives there without its model; here each loads it and gives the engine's vectors."""
        monkeypatch.setattr(multiprocessing, "cpu_count", lambda: 2)
        model = SightlineEmbedding(PACKAGED, threads=1, **EXACT)
        before = texts_embedded(model)
        nodes = self.nodes(IngestionPipeline(transformations=[model]))
        assert texts_embedded(model) == before
        expected = minilm.embed_documents([node.get_content() for node in nodes])
        assert np.abs(np.array([node.embedding for node in nodes]) - expected).max() <= 1e-5

    @pytest.mark.slow
    def test_forked_processes_load_their_own_model(self) -> None:
        """The async pipeline forks where the system does."""
        subprocess.run([sys.executable, "-c", _FORKED], check=True, timeout=120)
