"""Faults of the packages that these ones stand in for, each beside what happens here.

The peer's half is asserted too, so that the pages which name a fault stay true; it is skipped where the peer isn't installed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.indexing import InMemoryRecordManager, index
from sightline.testing import HashEmbedder

from langchain_setting import EXACT
from langchain_sightline import SightlineEmbeddings, SightlineVectorStore

PAGES = [
    Document(id="lamp", page_content="The lamp is cleaned with vinegar.", metadata={"source": "lamp.md"}),
    Document(id="ferry", page_content="The ferry leaves at nine.", metadata={"source": "ferry.md"}),
]
TEXTS = [page.page_content for page in PAGES]


class Counting(Embeddings):
    """Our embeddings; how many texts went through them is counted."""

    def __init__(self) -> None:
        self.embedder = HashEmbedder()
        self._embeddings = SightlineEmbeddings(embedder=self.embedder)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._embeddings.embed_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        return self._embeddings.embed_query(text)

    @property
    def embedded(self) -> int:
        """Texts so far."""
        return self.embedder.stats().texts


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[SightlineVectorStore]:
    """An empty store of ours."""
    with SightlineVectorStore(f"qdrant:{tmp_path}/ours/notes", SightlineEmbeddings(embedder=HashEmbedder())) as store:
        yield store


@pytest.fixture
def their_embeddings(qwen3_folder: Path) -> Any:
    """HuggingFaceEmbeddings of a model that stores a query prompt."""
    peer = pytest.importorskip("langchain_huggingface")
    return peer.HuggingFaceEmbeddings(model_name=str(qwen3_folder), encode_kwargs={"normalize_embeddings": True})


@pytest.fixture
def their_qdrant() -> Iterator[Any]:
    """LangChain's own store of Qdrant, in memory."""
    peer = pytest.importorskip("langchain_qdrant")
    from qdrant_client import QdrantClient
    from qdrant_client.models import Distance, VectorParams

    client = QdrantClient(":memory:")
    client.create_collection("notes", vectors_config=VectorParams(size=64, distance=Distance.COSINE))
    yield peer.QdrantVectorStore(client, "notes", SightlineEmbeddings(embedder=HashEmbedder()))
    client.close()


def manager() -> InMemoryRecordManager:
    """An empty record manager."""
    made = InMemoryRecordManager("notes")
    made.create_schema()
    return made


def test_a_stored_query_prompt_is_left_out_there(their_embeddings: Any, qwen3_folder: Path) -> None:
    """Its queries are seen as documents; ours look with the instruction that the model brings."""
    ours = SightlineEmbeddings(qwen3_folder, **EXACT)
    asked = their_embeddings.embed_query("the lamp")
    np.testing.assert_allclose(asked, ours.embed_documents(["the lamp"])[0], atol=1e-5)
    assert np.abs(np.asarray(asked) - ours.embed_query("the lamp")).max() > 1e-3


def test_several_processes_lose_every_argument_there(
    their_embeddings: Any, qwen3_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither normalising nor a prompt reaches them; here the argument is refused (with the other words)."""
    calls: list[dict[str, Any]] = []

    def encode(texts: list[str], pool: object, **given: Any) -> np.ndarray:
        calls.append(given)
        return np.zeros((len(texts), 4))

    several = their_embeddings.model_copy(update={"multi_process": True})
    several._client = their_embeddings._client
    monkeypatch.setattr(several._client, "start_multi_process_pool", dict)
    monkeypatch.setattr(type(several._client), "stop_multi_process_pool", lambda pool: None)
    monkeypatch.setattr(several._client, "encode_multi_process", encode)
    several.embed_documents(TEXTS)
    assert calls == [{}]


def test_a_generator_is_lost_in_their_qdrant_store(their_qdrant: Any, ours: SightlineVectorStore) -> None:
    """It says that nothing went wrong, and stores nothing."""
    assert their_qdrant.add_texts(text for text in TEXTS) == []
    assert len(ours.add_texts(text for text in TEXTS)) == 2
    assert ours.collection.count() == 2


def test_ids_are_no_ids_of_documents_in_their_qdrant_store(their_qdrant: Any, ours: SightlineVectorStore) -> None:
    """A hit says nothing that LangChain could update or delete by, and any id but a UUID is refused."""
    their_qdrant.add_texts(TEXTS)
    assert their_qdrant.similarity_search("lamp", k=1)[0].id is None
    with pytest.raises(ValueError, match="not a valid UUID"):
        their_qdrant.add_documents(PAGES)
    ours.add_documents(PAGES)
    assert ours.similarity_search("lamp vinegar", k=1) == [PAGES[0]]


@pytest.mark.parametrize("encoder", ["sha256", "sha512", "blake2b"])
def test_keys_that_langchain_recommends_break_their_qdrant_store(
    their_qdrant: Any, ours: SightlineVectorStore, encoder: Any
) -> None:
    """`index` warns of sha1 and names these; only sha1's keys are UUIDs."""
    with pytest.raises(ValueError, match="not a valid UUID"):
        index(PAGES, manager(), their_qdrant, key_encoder=encoder)
    assert index(PAGES, manager(), ours, key_encoder=encoder)["num_added"] == 2


@pytest.mark.slow
def test_their_chroma_store_embeds_all_and_keeps_nothing(tmp_path: Path) -> None:
    """One request takes 5,461; it finds that out when everything is embedded. Ours writes in parts."""
    peer = pytest.importorskip("langchain_chroma")
    import chromadb

    texts = [f"text {number}" for number in range(5_500)]
    client = chromadb.PersistentClient(str(tmp_path / "theirs"))
    counting = Counting()
    theirs = peer.Chroma("notes", embedding_function=counting, client=client)
    with pytest.raises(Exception, match="max batch size"):
        theirs.add_texts(texts)
    assert (counting.embedded, theirs._collection.count()) == (5_500, 0)
    client.close()
    with SightlineVectorStore(f"chroma:{tmp_path}/ours/notes", SightlineEmbeddings(embedder=HashEmbedder())) as store:
        assert len(store.add_texts(texts)) == store.collection.count() == 5_500


def test_a_store_that_was_emptied_is_believed_to_be_full(ours: SightlineVectorStore) -> None:
    """LangChain's `index` asks its record manager only, whatever the store; `force_update` brings everything back."""
    records = manager()
    index(PAGES, records, ours, key_encoder="sha256")
    ours.delete([document.id for document in ours.similarity_search("the", k=9)])
    assert index(PAGES, records, ours, key_encoder="sha256")["num_skipped"] == 2
    assert ours.collection.count() == 0
    index(PAGES, records, ours, key_encoder="sha256", force_update=True)
    assert ours.collection.count() == 2


def test_a_record_of_another_kind_embeds_no_text_again(tmp_path: Path) -> None:
    """LangChain's key has the metadata in it, so a changed date is a new document there; here its text has a vector already."""
    embedder = HashEmbedder()
    dated = [page.model_copy(update={"metadata": {**page.metadata, "changed": "today"}}) for page in PAGES]
    with SightlineVectorStore(f"edge:{tmp_path}/kb", SightlineEmbeddings(embedder=embedder)) as store:
        records = manager()
        options: dict[str, Any] = {"key_encoder": "sha256", "cleanup": "full"}
        index(PAGES, records, store, **options)
        before = embedder.stats().texts
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            done = index(dated, records, store, **options)
        assert (done["num_added"], done["num_deleted"]) == (2, 2)
        assert embedder.stats().texts == before
        assert {page.metadata["changed"] for page in store.similarity_search("the", k=9)} == {"today"}
