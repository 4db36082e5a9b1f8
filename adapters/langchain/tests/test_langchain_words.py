"""Facts about words that LangChain's users say: what is meant is done, and nothing is taken and forgotten."""

from __future__ import annotations

import asyncio
import copy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sightline
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, aindex, index
from langchain_core.runnables import ConfigurableField
from pydantic import ValidationError
from sightline.errors import UsageError
from sightline.testing import HashEmbedder

from langchain_setting import EXACT, MINILM
from langchain_sightline import SightlineEmbeddings, SightlineRetriever, SightlineVectorStore

PAGES = [
    Document(page_content="The lamp is cleaned with vinegar.", metadata={"source": "lamp.md"}),
    Document(page_content="The ferry leaves at nine.", metadata={"source": "ferry.md"}),
]

TEXTS = [page.page_content for page in PAGES]


def embeddings() -> SightlineEmbeddings:
    """Embeddings without weights, whose queries have a prompt."""
    return SightlineEmbeddings(embedder=HashEmbedder())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SightlineVectorStore]:
    """A store with two pages."""
    with SightlineVectorStore.from_documents(iter(PAGES), embeddings(), url=f"edge:{tmp_path / 'kb'}") as filled:
        yield filled


@pytest.fixture
def minilm_url(tmp_path: Path) -> str:
    """A collection of MiniLM's vectors, cut, whose questions look with a prompt of their own."""
    url = f"edge:{tmp_path / 'minilm'}"
    asking = SightlineEmbeddings(MINILM, dimensions=128, query_instruction="question: ", **EXACT)
    with SightlineVectorStore(url, asking) as store:
        store.add_documents(PAGES)
    return url


def test_documents_may_come_from_a_generator(store: SightlineVectorStore, tmp_path: Path) -> None:
    """Also where a store is made of them; LangChain's own reads them twice."""
    assert store.collection.count() == 2
    made = asyncio.run(SightlineVectorStore.afrom_documents(iter(PAGES), embeddings(), url=f"edge:{tmp_path / 'again'}"))
    with made:
        assert made.collection.count() == 2


def test_embeddings_of_an_opened_collection_see_as_it_does(minilm_url: str) -> None:
    """Dimensions and prompt are the collection's, and its model is loaded once."""
    with SightlineVectorStore(minilm_url, **EXACT) as store:
        vector = store.embeddings.embed_query("when does the boat go?")
        np.testing.assert_allclose(vector, store.collection.embed_query("when does the boat go?"), atol=1e-6)
        [row] = store.collection.find({"source": "ferry.md"})
        np.testing.assert_allclose(store.embeddings.embed_documents([row.text])[0], row.vector, atol=1e-6)
        assert store.similarity_search_by_vector(vector, k=1)[0].page_content == PAGES[1].page_content
        assert store.embeddings.embedder.engine is store.collection.embedder.engine


def test_a_retriever_needs_nothing_but_the_place(minilm_url: str) -> None:
    """Model, dimensions and prompt are in the contract."""
    with SightlineRetriever(url=minilm_url, k=1, **EXACT) as retriever:
        asked = retriever.collection.embed_query("when does the boat go?")
        expected = SightlineEmbeddings(MINILM, dimensions=128, **EXACT).embed_documents(["question: when does the boat go?"])
        np.testing.assert_allclose(asked, expected[0], atol=1e-6)
        assert retriever.invoke("when does the boat go?")[0].page_content == PAGES[1].page_content


def test_a_retriever_knows_its_words(store: SightlineVectorStore) -> None:
    """One that it doesn't know isn't forgotten, and what is open isn't opened elsewhere by an assignment."""
    url = store.collection.url
    for unknown in ({"top_k": 3}, {"search_kwargs": {"k": 3}}):
        with pytest.raises(ValidationError, match="Extra inputs"):
            SightlineRetriever(url=url, embeddings=embeddings(), **unknown)
    with SightlineRetriever(url=url, embeddings=embeddings()) as retriever:
        with pytest.raises(ValidationError, match="frozen"):
            retriever.url = "memory:"
        retriever.k = 1
        assert len(retriever.invoke("lamp")) == 1


def test_what_a_question_says_goes_before_what_the_retriever_says(store: SightlineVectorStore) -> None:
    """No filter and a wrong number are said, too."""
    with SightlineRetriever(url=store.collection.url, filter={"source": "lamp.md"}, embeddings=embeddings()) as retriever:
        assert len(retriever.invoke("lamp")) == 1
        assert len(retriever.invoke("lamp", filter={})) == 2
        with pytest.raises(UsageError, match="k=0"):
            retriever.invoke("lamp", k=0)


def test_a_retriever_can_be_configured_in_a_chain(store: SightlineVectorStore) -> None:
    """LangChain makes it anew for that, embeddings included."""
    field = ConfigurableField(id="k")
    with SightlineRetriever(url=store.collection.url, embeddings=embeddings()) as retriever:
        assert len(retriever.configurable_fields(k=field).with_config(configurable={"k": 1}).invoke("lamp")) == 1


def test_a_filter_may_come_by_its_place(store: SightlineVectorStore) -> None:
    """As in the stores of Chroma and Qdrant."""
    blocking = store.similarity_search("lamp", 4, {"source": "ferry.md"})
    assert [document.metadata["source"] for document in blocking] == ["ferry.md"]
    assert asyncio.run(store.asimilarity_search("lamp", 4, {"source": "ferry.md"})) == blocking


@pytest.mark.parametrize(
    ("word", "value", "instead"), [("score_threshold", 0.5, "similarity_score_threshold"), ("where", {"a": 1}, "filter=")]
)
def test_words_of_other_stores_are_answered_with_ours(
    store: SightlineVectorStore, word: str, value: object, instead: str
) -> None:
    """Where there is one."""
    with pytest.raises(UsageError, match=instead):
        store.similarity_search("lamp", **{word: value})


def test_a_threshold_works_where_langchain_has_it(store: SightlineVectorStore) -> None:
    """On relevance, which is the cosine; what looks away has none, without a warning."""
    retriever = store.as_retriever(search_type="similarity_score_threshold", search_kwargs={"k": 2, "score_threshold": 0.3})
    assert [document.page_content for document in retriever.invoke("is the lamp cleaned")] == [PAGES[0].page_content]
    opposite = (-store.collection.embed_query("lamp")).tolist()
    hit = store.collection.search_by_vector(opposite, k=1)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store._select_relevance_score_fn()(min(hit.score, -0.1)) == 0.0


def test_index_counts_are_true_with_a_key_of_ones_own(store: SightlineVectorStore) -> None:
    """LangChain's `index` and `aindex` with a function that names a document: a change replaces, a full run deletes."""
    manager = InMemoryRecordManager("pages")
    manager.create_schema()
    options: dict[str, Any] = {"key_encoder": lambda page: f"{page.metadata['source']}#{len(page.page_content)}"}
    started = store.collection.count()
    assert index(PAGES, manager, store, cleanup="full", **options)["num_added"] == 2
    assert [page.id for page in store.get_by_ids(["lamp.md#33"])] == ["lamp.md#33"]
    run = aindex(PAGES[:1], manager, store, cleanup="full", **options)
    assert asyncio.run(run) == {"num_added": 0, "num_updated": 0, "num_skipped": 1, "num_deleted": 1}
    assert store.collection.count() == started + 1


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda one: one.model_copy(deep=True)])
def test_copies_share_the_model(copied: Callable[[SightlineEmbeddings], SightlineEmbeddings]) -> None:
    """Chains are copied with all that is in them."""
    one = SightlineEmbeddings(MINILM, **EXACT)
    again = copied(one)
    assert again.embedder.engine is one.embedder.engine
    assert again.embed_query("the lamp") == one.embed_query("the lamp")


def test_a_copy_with_other_settings_is_refused() -> None:
    """It would say one thing and do another."""
    with pytest.raises(UsageError, match="Make new ones"):
        SightlineEmbeddings(MINILM, **EXACT).model_copy(update={"dimensions": 32})


@pytest.mark.parametrize(
    "arguments",
    [
        {"dimensions": 128, "query_instruction": "ask: ", "dtype": "float32"},
        {"encode_kwargs": {"prompt": "page: "}, "query_encode_kwargs": {"prompt": "ask: "}, "model_kwargs": {"truncate_dim": 64}},
        {"encode_kwargs": {"prompt": "page: "}, "query_instruction": ""},
    ],
)
def test_what_is_written_down_says_everything(arguments: dict[str, Any]) -> None:
    """Made again from their fields, embeddings see the same; a prompt is among the fields."""
    one = SightlineEmbeddings(MINILM, **arguments)
    again = SightlineEmbeddings(**one.model_dump())
    assert again.model_dump() == one.model_dump()
    assert again.embed_query("the lamp") == one.embed_query("the lamp")
    assert again.embed_documents(TEXTS) == one.embed_documents(TEXTS)


def test_a_prompt_for_documents_alone_is_clear_once_queries_have_theirs() -> None:
    """langchain-huggingface would put it before both; where our word says what queries look with, nobody has to guess."""
    embeddings = SightlineEmbeddings(MINILM, encode_kwargs={"prompt": "page: "}, query_instruction="ask: ", **EXACT)
    bare = SightlineEmbeddings(MINILM, **EXACT)
    np.testing.assert_allclose(embeddings.embed_query("lamp"), bare.embed_documents(["ask: lamp"])[0], atol=1e-6)
    np.testing.assert_allclose(embeddings.embed_documents(["lamp"]), bare.embed_documents(["page: lamp"]), atol=1e-6)


def test_a_prompt_that_is_the_models_own_leaves_its_template(qwen3_folder: Path) -> None:
    """A task sentence is still put where the model wants it."""
    own = SightlineEmbeddings(qwen3_folder, **EXACT)
    prompt = own.embedder.identity().query_prompt
    same = SightlineEmbeddings(qwen3_folder, query_encode_kwargs={"prompt": prompt}, **EXACT)
    asked = {"texts": ["lamp"], "instruction": "Find the page"}
    np.testing.assert_allclose(same.embedder.embed_queries(**asked), own.embedder.embed_queries(**asked), atol=1e-6)


def test_a_device_may_be_torchs() -> None:
    """As users of sentence-transformers write it; a list is several that share the work."""
    import torch

    assert SightlineEmbeddings(MINILM, model_kwargs={"device": torch.device("cpu")}).settings == {"device": "cpu"}
    several = SightlineEmbeddings(MINILM, encode_kwargs={"device": ["cpu", torch.device("cpu:0")]}).settings
    assert several == {"devices": ("cpu", "cpu:0")}


def test_embeddings_share_their_model_with_an_open_collection(tmp_path: Path) -> None:
    """Whoever makes the second one loads nothing again."""
    url = f"edge:{tmp_path / 'kb'}"
    sightline.index(documents=[sightline.Document("lamp", "The lamp.")], into=url, model=MINILM)
    with SightlineRetriever(url=url) as retriever:
        assert SightlineEmbeddings(MINILM).embedder.engine is retriever.collection.embedder.engine


def test_many_questions_to_a_collection_share_batches(minilm_url: str) -> None:
    """64 tasks are a few passes of the model, through a store and through a retriever."""

    async def ask(store: SightlineVectorStore, retriever: SightlineRetriever) -> None:
        questions = [f"question {number}" for number in range(32)]
        await asyncio.gather(*(store.asimilarity_search(one, k=1) for one in questions), retriever.abatch(questions))

    with SightlineVectorStore(minilm_url, **EXACT) as store, SightlineRetriever(url=minilm_url, **EXACT) as retriever:
        store.similarity_search("warm")
        before = store.collection.embedder.stats().batches
        asyncio.run(ask(store, retriever))
        assert store.collection.embedder.stats().batches - before < 32
