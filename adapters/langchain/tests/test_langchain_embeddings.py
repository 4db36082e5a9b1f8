"""Facts about SightlineEmbeddings, the faults of langchain-huggingface among them."""

from __future__ import annotations

import asyncio
import gc
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sightline import EmbeddingEngine, Instruction
from sightline.errors import DimensionError, UnknownInstruction, UsageError
from sightline.testing import HashEmbedder

from langchain_setting import EXACT, MINILM
from langchain_sightline import SightlineEmbeddings

TEXTS = ["The lamp is cleaned with vinegar.", "def tide():\n    return 'high'\n\n\n| a | b |\n|---|---|", "Größe 潮汐"]
QUESTION = "how is the\nlamp cleaned?"


def test_vectors_are_the_engines(qwen3_folder: Path, qwen3: EmbeddingEngine) -> None:
    """Of questions and of documents, as plain lists of floats."""
    embeddings = SightlineEmbeddings(str(qwen3_folder), **EXACT)
    documents = embeddings.embed_documents(TEXTS)
    assert type(documents) is list
    assert type(documents[0][0]) is float
    np.testing.assert_allclose(documents, qwen3.embed_documents(TEXTS), atol=1e-6)
    np.testing.assert_allclose(embeddings.embed_query(QUESTION), qwen3.embed_queries([QUESTION])[0], atol=1e-6)


def test_async_vectors_are_the_engines(qwen3_folder: Path, qwen3: EmbeddingEngine) -> None:
    """The blocking and the async calls are the same."""
    embeddings = SightlineEmbeddings(qwen3_folder, **EXACT)

    async def both() -> tuple[Any, Any]:
        return await asyncio.gather(embeddings.aembed_documents(TEXTS), embeddings.aembed_query(QUESTION))

    documents, query = asyncio.run(both())
    np.testing.assert_allclose(documents, qwen3.embed_documents(TEXTS), atol=1e-6)
    np.testing.assert_allclose(query, qwen3.embed_queries([QUESTION])[0], atol=1e-6)


def test_a_question_looks_with_the_models_instruction(qwen3_folder: Path, qwen3: EmbeddingEngine) -> None:
    """Nobody has to know its name; langchain-huggingface leaves it out unless told."""
    embeddings = SightlineEmbeddings(qwen3_folder, **EXACT)
    bare = qwen3.embed_queries([QUESTION], instruction="")[0]
    assert np.abs(np.asarray(embeddings.embed_query(QUESTION)) - bare).max() > 1e-3
    np.testing.assert_allclose(embeddings.embed_documents([QUESTION])[0], bare, atol=1e-6)


def test_newlines_survive(minilm: EmbeddingEngine, qwen3_folder: Path) -> None:
    """langchain-huggingface makes blanks of them, which moves the vectors of code, tables and lists."""
    embeddings = SightlineEmbeddings(qwen3_folder, **EXACT)
    flat = [text.replace("\n", " ") for text in TEXTS[1:2]]
    moved = np.asarray(embeddings.embed_documents(TEXTS[1:2])) - np.asarray(embeddings.embed_documents(flat))
    assert np.abs(moved).max() > 1e-3


def test_langchain_huggingface_loses_newlines(qwen3_folder: Path) -> None:
    """The fault itself, so that the page that names it stays true."""
    peer = pytest.importorskip("langchain_huggingface").HuggingFaceEmbeddings(model_name=str(qwen3_folder))
    with_lines, flat = peer.embed_documents([TEXTS[1], TEXTS[1].replace("\n", " ")])
    np.testing.assert_allclose(with_lines, flat, atol=1e-6)


def test_the_same_arguments_give_the_same_vectors_as_the_peer(qwen3_folder: Path) -> None:
    """Where it makes no mistake: one line, and prompts that its user gave by hand."""
    peer_class = pytest.importorskip("langchain_huggingface").HuggingFaceEmbeddings
    arguments: dict[str, Any] = {
        "model_name": str(qwen3_folder),
        "model_kwargs": {"device": "cpu", "truncate_dim": 32},
        "encode_kwargs": {"normalize_embeddings": True, "prompt": "passage: "},
        "query_encode_kwargs": {"prompt_name": "query", "normalize_embeddings": True},
    }
    peer, ours = peer_class(**arguments), SightlineEmbeddings(**arguments, dtype="float32")
    np.testing.assert_allclose(ours.embed_documents(TEXTS[::2]), peer.embed_documents(TEXTS[::2]), atol=1e-5)
    np.testing.assert_allclose(ours.embed_query("the lamp"), peer.embed_query("the lamp"), atol=1e-5)


def test_dimensions_are_cut_and_of_unit_norm(qwen3_folder: Path, qwen3: EmbeddingEngine) -> None:
    """Under our name and under sentence-transformers'."""
    expected = qwen3.embed_documents(TEXTS, dimensions=32)
    for arguments in ({"dimensions": 32}, {"model_kwargs": {"truncate_dim": 32}}, {"encode_kwargs": {"truncate_dim": 32}}):
        vectors = SightlineEmbeddings(qwen3_folder, **EXACT, **arguments).embed_documents(TEXTS)
        np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_instructions_may_be_ones_own(qwen3_folder: Path, qwen3: EmbeddingEngine) -> None:
    """A task sentence, a name of one's own, none, or a literal prompt in langchain-huggingface's words."""
    task = "Find the page of the handbook"
    expected = qwen3.embed_queries([QUESTION], instruction=task)[0]
    literal = qwen3.embed_documents([f"ask: {QUESTION}"])[0]
    cases: list[tuple[dict[str, Any], Any]] = [
        ({"query_instruction": task}, expected),
        ({"query_instruction": Instruction(task)}, expected),
        ({"query_instruction": "mine", "instructions": {"mine": task}}, expected),
        ({"query_instruction": ""}, qwen3.embed_documents([QUESTION])[0]),
        ({"query_encode_kwargs": {"prompt": "ask: "}}, literal),
        ({"query_encode_kwargs": {"prompt": ""}}, qwen3.embed_documents([QUESTION])[0]),
        ({"query_encode_kwargs": {"prompt": "ask: "}, "document_instruction": task}, literal),
    ]
    for arguments, wanted in cases:
        vector = SightlineEmbeddings(qwen3_folder, **EXACT, **arguments).embed_query(QUESTION)
        np.testing.assert_allclose(vector, wanted, atol=1e-6, err_msg=str(arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"multi_process": True}, r"multi_process=True.*devices='cuda'"),
        ({"show_progress": True}, "show_progress=True"),
        ({"cache_folder": "models"}, "HF_HUB_CACHE"),
        ({"encode_kwargs": {"batch_size": 32}}, r"batch_size=32 in encode_kwargs.*max_batch_tokens"),
        ({"encode_kwargs": {"normalize_embeddings": False}}, "unit norm"),
        ({"encode_kwargs": {"precision": "int8"}}, "precision='int8'"),
        ({"query_encode_kwargs": {"colour": 1}}, r"'colour' in query_encode_kwargs is unknown"),
        ({"model_kwargs": {"token": "secret"}}, "HF_TOKEN"),
        ({"model_kwargs": {"backend": "onnx"}}, "runs on torch"),
        ({"model_kwargs": {"model_kwargs": {"attn_implementation": "sdpa"}}}, "attn_implementation"),
        ({"encode_kwargs": {"prompt_name": "query"}}, "before documents and before queries"),
        ({"query_encode_kwargs": {"prompt_name": "query", "prompt": "x"}}, "Give one of them"),
        ({"query_instruction": "a b", "query_encode_kwargs": {"prompt_name": "query"}}, "Give one of them"),
        ({"dimensions": 32, "model_kwargs": {"truncate_dim": 16}}, "dimensions is given twice"),
        ({"model_name": MINILM}, "the same argument"),
        ({"embedder": HashEmbedder(), "dimensions": 8}, "brings its own settings"),
    ],
)
def test_what_has_no_meaning_here_is_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    """With what to write instead; a secret isn't repeated."""
    with pytest.raises(UsageError, match=message) as refused:
        SightlineEmbeddings(MINILM, **arguments)
    assert "secret" not in str(refused.value)


def test_wrong_settings_raise_at_once(qwen3_folder: Path) -> None:
    """Before anything is loaded."""
    with pytest.raises(DimensionError):
        SightlineEmbeddings(qwen3_folder, dimensions=100_000)
    with pytest.raises(UnknownInstruction):
        SightlineEmbeddings(qwen3_folder, query_instruction="nobody-knows")
    with pytest.raises(TypeError, match="colour"):
        SightlineEmbeddings(qwen3_folder, colour="blue")


def test_a_secret_is_in_no_repr() -> None:
    """Objects are logged."""
    assert "embedder" not in repr(SightlineEmbeddings(MINILM))


def test_a_second_one_loads_nothing(qwen3_folder: Path) -> None:
    """Whatever its dimensions and instructions are."""
    one = SightlineEmbeddings(qwen3_folder)
    one.embed_query("warm")
    threads = threading.active_count()
    other = SightlineEmbeddings(model_name=str(qwen3_folder), dimensions=32, query_instruction="Find a lamp")
    other.embed_query("warm")
    assert threading.active_count() == threads


def test_many_questions_at_once_share_batches(qwen3_folder: Path) -> None:
    """64 tasks are a few passes of the model."""
    embeddings = SightlineEmbeddings(qwen3_folder, **EXACT)
    embeddings.embed_query("warm")
    before = embeddings.embedder.stats().batches

    async def ask() -> list[list[float]]:
        return await asyncio.gather(*(embeddings.aembed_query(f"question {number}") for number in range(64)))

    vectors = asyncio.run(ask())
    assert embeddings.embedder.stats().batches - before < 32
    expected = embeddings.embedder.embed_queries([f"question {number}" for number in range(64)])
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_the_event_loop_stays_free(qwen3_folder: Path) -> None:
    """Others run while the model does: the longest pause of a task beside it is far below the time of the embedding."""
    embeddings = SightlineEmbeddings(qwen3_folder, **EXACT)
    embeddings.embed_query("warm")

    async def beside() -> int:
        ticks = 0
        job = asyncio.ensure_future(embeddings.aembed_documents([f"text {number} " * 40 for number in range(400)]))
        while not job.done():
            await asyncio.sleep(0)
            ticks += 1
        await job
        return ticks

    assert asyncio.run(beside()) > 100


def test_an_embedder_may_be_given(qwen3: EmbeddingEngine) -> None:
    """It isn't closed with the embeddings, which can't be pickled then."""
    embeddings = SightlineEmbeddings(embedder=qwen3)
    np.testing.assert_allclose(embeddings.embed_query(QUESTION), qwen3.embed_queries([QUESTION])[0], atol=1e-6)
    assert (embeddings.model_name, embeddings.dimensions) == (qwen3.identity().model, qwen3.dimensions)
    with pytest.raises(UsageError, match="another process"):
        pickle.dumps(embeddings)
    del embeddings
    gc.collect()
    assert qwen3.embed_queries(["still there"]).shape[0] == 1


def test_they_are_pickled_without_the_model(qwen3_folder: Path) -> None:
    """A worker process loads its own; dimensions and prompts come along."""
    arguments: dict[str, Any] = {"dimensions": 32, "query_encode_kwargs": {"prompt": "ask: "}}
    embeddings = SightlineEmbeddings(qwen3_folder, **EXACT, **arguments)
    written = pickle.dumps(embeddings)
    assert len(written) < 5_000
    again = pickle.loads(written)  # noqa: S301 - written a line above
    np.testing.assert_allclose(again.embed_query(QUESTION), embeddings.embed_query(QUESTION), atol=1e-6)


def test_generators_are_embedded_whole(qwen3_folder: Path) -> None:
    """And one string isn't taken for a list of letters."""
    embeddings = SightlineEmbeddings(qwen3_folder, **EXACT)
    assert len(embeddings.embed_documents(text for text in TEXTS)) == 3
    assert embeddings.embed_documents([]) == []
    with pytest.raises(UsageError, match="not one string"):
        embeddings.embed_documents("one text")
