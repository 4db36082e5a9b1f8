"""Facts about SightlineVectorStore and SightlineRetriever that LangChain's standard tests don't ask for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sightline
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.indexing import InMemoryRecordManager, index
from sightline.errors import CollectionNotFound, ContractMismatch, UsageError
from sightline.testing import HashEmbedder

from langchain_sightline import SightlineEmbeddings, SightlineRetriever, SightlineVectorStore

NOTES = [
    Document(id="lamp", page_content="The lamp is cleaned with vinegar.", metadata={"source": "keeper.pdf", "page": 3}),
    Document(id="rope", page_content="The rope is changed each spring.", metadata={"source": "keeper.pdf", "page": 9}),
    Document(id="tide", page_content="High tide comes twice a day.", metadata={"source": "sea.pdf", "lang": "en"}),
]


def embeddings() -> SightlineEmbeddings:
    """Embeddings without weights, whose queries have a prompt."""
    return SightlineEmbeddings(embedder=HashEmbedder())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three small pages."""
    root = tmp_path / "kb"
    root.mkdir()
    for name, text in (("lamp", "The lamp is cleaned with vinegar."), ("tide", "High tide comes twice a day."), ("c", "Cake")):
        (root / f"{name}.md").write_text(f"---\nlang: en\n---\n# {name}\n\n{text}\n", encoding="utf-8")
    return root


@pytest.fixture
def indexed(folder: Path, tmp_path: Path) -> str:
    """A collection that an index run wrote."""
    url = f"edge:{tmp_path / 'indexed'}"
    sightline.index([folder], into=url, model=HashEmbedder())
    return url


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SightlineVectorStore]:
    """A store with three notes."""
    with SightlineVectorStore.from_documents(NOTES, embeddings(), url=f"edge:{tmp_path / 'notes'}") as filled:
        yield filled


def test_documents_come_back_as_they_were_added(store: SightlineVectorStore) -> None:
    """Id, text and metadata, and none of our bookkeeping."""
    [found] = store.similarity_search("how is the lamp cleaned?", k=1)
    assert found == NOTES[0]
    assert store.get_by_ids(["tide", "nothing", "rope"]) == [NOTES[2], NOTES[1]]


def test_filters_see_the_documents_own_source(store: SightlineVectorStore) -> None:
    """Several documents of one file are found by it."""
    found = store.similarity_search("the", k=9, filter={"source": "keeper.pdf"})
    assert {document.id for document in found} == {"lamp", "rope"}
    assert store.similarity_search("the", k=9, filter={"page": {"gt": 3}}) == [NOTES[1]]
    with pytest.raises(UsageError, match="no function"):
        store.similarity_search("the", filter=lambda document: True)


def test_a_score_is_the_cosine(store: SightlineVectorStore) -> None:
    """As everywhere in Sightline; relevance is the same within 0 and 1, without LangChain's warning."""
    [(document, score)] = store.similarity_search_with_score("lamp vinegar", k=1)
    query = store.collection.embed_query("lamp vinegar")
    [row] = store.collection.get([document.id])
    assert score == pytest.approx(float(query @ row.vector), abs=1e-5)
    assert store.similarity_search_with_relevance_scores("lamp vinegar", k=1) == [(document, pytest.approx(score))]
    assert store.similarity_search_with_relevance_scores("lamp vinegar", k=9, score_threshold=score - 1e-4) == [(document, score)]


def test_a_question_looks_as_the_collection_says(qwen3_folder: Path, tmp_path: Path) -> None:
    """Also where the embeddings that are given look with something else, unless the call says so."""
    url = f"edge:{tmp_path / 'kb'}"
    asked = SightlineEmbeddings(qwen3_folder, query_instruction="Find the page", dtype="float32")
    with SightlineVectorStore(url, asked) as store:
        store.add_documents(NOTES)
        usual = store.similarity_search_with_score("lamp", k=1)[0][1]
    with SightlineVectorStore(url, SightlineEmbeddings(qwen3_folder, dtype="float32")) as store:
        assert store.similarity_search_with_score("lamp", k=1)[0][1] == pytest.approx(usual, abs=1e-5)
        assert store.similarity_search_with_score("lamp", k=1, instruction="")[0][1] != pytest.approx(usual, abs=1e-4)


def test_diverse_results_avoid_what_is_alike(tmp_path: Path) -> None:
    """0 looks at what is there already, 1 at the question only."""
    texts = ["the lamp of the tower", "the lamp of the tower!", "the rope of the boat and the lamp"]
    with SightlineVectorStore.from_texts(texts, embeddings(), ids=["a", "b", "c"], url=f"edge:{tmp_path / 'kb'}") as store:
        near = store.max_marginal_relevance_search("lamp tower", k=2, lambda_mult=1.0)
        diverse = store.max_marginal_relevance_search("lamp tower", k=2, lambda_mult=0.1)
        assert {document.id for document in near} == {"a", "b"}
        assert "c" in {document.id for document in diverse}
        vector = store.collection.embed_query("lamp tower").tolist()
        assert store.max_marginal_relevance_search_by_vector(vector, k=2, lambda_mult=0.1) == diverse
        retriever = store.as_retriever(search_type="mmr", search_kwargs={"k": 2, "lambda_mult": 0.1})
        assert retriever.invoke("lamp tower") == diverse


def test_async_searches_are_the_blocking_ones(store: SightlineVectorStore) -> None:
    """All of them."""
    vector = store.collection.embed_query("tide").tolist()

    async def ask() -> list[object]:
        return await asyncio.gather(
            store.asimilarity_search("tide", k=2),
            store.asimilarity_search_with_score("tide", k=2),
            store.asimilarity_search_by_vector(vector, k=2),
            store.amax_marginal_relevance_search("tide", k=2),
            store.amax_marginal_relevance_search_by_vector(vector, k=2),
            store.aget_by_ids(["tide"]),
        )

    assert asyncio.run(ask()) == [
        store.similarity_search("tide", k=2),
        store.similarity_search_with_score("tide", k=2),
        store.similarity_search_by_vector(vector, k=2),
        store.max_marginal_relevance_search("tide", k=2),
        store.max_marginal_relevance_search_by_vector(vector, k=2),
        store.get_by_ids(["tide"]),
    ]


def test_generators_are_written_whole(tmp_path: Path) -> None:
    """LangChain's own methods and langchain-qdrant read them twice and store nothing."""
    with SightlineVectorStore(f"edge:{tmp_path / 'kb'}", embeddings()) as store:
        assert store.add_documents(note for note in NOTES) == ["lamp", "rope", "tide"]
        assert len(store.add_texts(text for text in ["one", "two"])) == 2
        assert len(asyncio.run(store.aadd_documents(note for note in NOTES))) == 3
        assert store.collection.count() == 5


@pytest.mark.slow
def test_more_than_a_database_takes_at_once_is_written_in_parts(tmp_path: Path) -> None:
    """Chroma takes 5,461 a request; langchain-chroma finds that out when all are embedded."""
    texts = [f"text {number}" for number in range(5_600)]
    with SightlineVectorStore(f"chroma:{tmp_path}/many", embeddings()) as store:
        store.add_texts(texts)
        assert store.collection.count() == 5_600


@pytest.mark.parametrize("url", ["edge:{}/kb", "chroma:{}/db/notes", "qdrant:{}/db/notes"])
@pytest.mark.parametrize("encoder", ["sha1", "sha256", "blake2b"])
@pytest.mark.filterwarnings("ignore:Using SHA-1 for document hashing")
def test_langchains_index_takes_any_key(tmp_path: Path, url: str, encoder: str) -> None:
    """Also keys that are no UUIDs, which a Qdrant database refuses; a rerun adds nothing and a change replaces."""
    manager = InMemoryRecordManager("notes")
    manager.create_schema()
    changed = Document(page_content="The rope is changed each autumn.", metadata={"source": "rope.pdf"})
    first = [Document(page_content=note.page_content, metadata={"source": f"{note.id}.pdf"}) for note in NOTES]

    with SightlineVectorStore(url.format(tmp_path), embeddings()) as store:

        def run(documents: list[Document]) -> tuple[int, int, int]:
            done = index(documents, manager, store, cleanup="incremental", source_id_key="source", key_encoder=encoder)
            return done["num_added"], done["num_skipped"], done["num_deleted"]

        assert run(first) == (3, 0, 0)
        assert run(first) == (0, 3, 0)
        assert run([changed]) == (1, 0, 1)
        assert store.collection.count() == 3


def test_a_collection_of_an_index_run_is_read(indexed: str) -> None:
    """With nothing said but where it is: text, source, front matter, and the right answer first."""
    with SightlineRetriever(url=indexed, k=1, with_score=True, embeddings=embeddings()) as retriever:
        [document] = retriever.invoke("how is the lamp cleaned?")
        assert "vinegar" in document.page_content
        assert document.metadata["source"] == "kb/lamp.md"
        assert document.metadata["lang"] == "en"
        assert 0 < document.metadata["score"] <= 1
        [again] = asyncio.run(retriever.ainvoke("how is the lamp cleaned?"))
        assert again.id == document.id
    with SightlineVectorStore(indexed, embeddings()) as store:
        assert store.get_by_ids([document.id])[0].page_content == document.page_content
        with pytest.raises(UsageError, match=r"sightline remove kb/lamp\.md"):
            store.delete([document.id])


def test_runs_leave_added_documents_alone(indexed: str, folder: Path) -> None:
    """Also one that prunes."""
    with SightlineVectorStore(indexed, embeddings()) as store:
        store.add_documents(NOTES)
        (folder / "c.md").unlink()
        assert sightline.index([folder], into=indexed, model=HashEmbedder(), prune=True).documents_removed == 1
        assert [document.id for document in store.get_by_ids(["lamp", "rope", "tide"])] == ["lamp", "rope", "tide"]


def test_a_retriever_filters(indexed: str) -> None:
    """By what it was made with, or by what the call says."""
    with SightlineRetriever(url=indexed, filter={"source": "kb/tide.md"}, embeddings=embeddings()) as retriever:
        assert {document.metadata["source"] for document in retriever.invoke("lamp")} == {"kb/tide.md"}
        found = retriever.invoke("lamp", filter={"source": "kb/lamp.md"}, k=1)
        assert [document.metadata["source"] for document in found] == ["kb/lamp.md"]


def test_another_model_is_refused_where_it_is_opened(indexed: str) -> None:
    """Before anything is embedded; LangChain's own stores notice another length at best."""
    other = SightlineEmbeddings(embedder=HashEmbedder(document_instruction="A page:"))
    for opening in (lambda: SightlineVectorStore(indexed, other), lambda: SightlineRetriever(url=indexed, embeddings=other)):
        with pytest.raises(ContractMismatch):
            opening()


def test_a_collection_that_isnt_there_needs_embeddings(tmp_path: Path) -> None:
    """A retriever makes none."""
    for opening in (SightlineVectorStore, lambda url: SightlineRetriever(url=url)):
        with pytest.raises(CollectionNotFound, match="sightline index"):
            opening(f"edge:{tmp_path / 'nothing'}")


def test_embeddings_of_others_are_refused(tmp_path: Path) -> None:
    """Nobody could say what their vectors are of."""
    with pytest.raises(UsageError, match=r"needs SightlineEmbeddings.*DeterministicFakeEmbedding"):
        SightlineVectorStore(f"edge:{tmp_path / 'kb'}", DeterministicFakeEmbedding(size=8))


def test_what_is_not_understood_is_refused(store: SightlineVectorStore) -> None:
    """Instead of being taken and forgotten."""
    for call in (
        lambda: store.add_texts(["x"], chunk_size=3),
        lambda: store.similarity_search("x", where_document={}),
        lambda: store.similarity_search_by_vector([0.0] * 64, colour=1),
        lambda: store.delete(["x"], cascade=True),
        lambda: store.delete(),
    ):
        with pytest.raises(UsageError):
            call()
    with pytest.raises(UsageError, match="url="):
        SightlineVectorStore.from_texts(["x"], embeddings())


def test_the_embeddings_of_an_opened_store_are_the_collections(store: SightlineVectorStore) -> None:
    """`store.embeddings` is what LangChain's tools ask for."""
    np.testing.assert_allclose(
        store.embeddings.embed_query("tide"), store.collection.embed_query("tide"), atol=1e-6
    )
