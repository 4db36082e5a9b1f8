"""SightlineEmbedding: the words of HuggingFaceEmbedding, the engine's vectors, and none of the faults that they had."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from llama_index.core import Settings
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.embeddings import resolve_embed_model
from llama_index.core.ingestion.pipeline import get_transformation_hash
from llama_index.core.schema import TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from sightline import EmbeddingEngine
from sightline.errors import DimensionError, UnknownInstruction, UsageError
from sightline.testing import HashEmbedder
from sightline.types import FloatArray

from llama_index.embeddings.sightline import SightlineEmbedding
from llama_index.embeddings.sightline.arguments import _INSTEAD, customary_query_prompt
from llama_index_setting import EXACT, PACKAGED

TEXTS = ["How is the lamp cleaned?", "Wipe the prism\nwith vinegar.\n\n\tTwice.", "def f():\n    return 1\n", "", "東京 🙂"]
TASK = "Find the manual's page"


def same(vectors: Any, expected: FloatArray) -> bool:
    """Whether lists of floats are the engine's vectors."""
    return bool(np.abs(np.asarray(vectors, dtype=np.float32) - expected).max() <= 1e-6)


@pytest.fixture
def embedding() -> SightlineEmbedding:
    """MiniLM in LlamaIndex."""
    return SightlineEmbedding(PACKAGED, **EXACT)


@pytest.fixture
def looking(qwen3_folder: Path) -> Callable[..., SightlineEmbedding]:
    """`looking(**arguments)`: the tiny Qwen3, which looks with an instruction."""
    return lambda **arguments: SightlineEmbedding(str(qwen3_folder), **EXACT, **arguments)


class TestVectors:
    def test_texts_are_the_engines_documents(self, embedding: SightlineEmbedding, minilm: EmbeddingEngine) -> None:
        """One by one and in a batch, newlines and all, as lists of Python floats."""
        expected = minilm.embed_documents(TEXTS)
        vectors = embedding.get_text_embedding_batch(TEXTS)
        assert {type(vectors), *map(type, vectors)} == {list}
        assert {type(number) for vector in vectors for number in vector} == {float}
        assert same(vectors, expected)
        assert same([embedding.get_text_embedding(text) for text in TEXTS], expected)

    def test_queries_are_the_engines_queries(
        self, looking: Callable[..., SightlineEmbedding], qwen3: EmbeddingEngine
    ) -> None:
        """With the model's own instruction, which HuggingFaceEmbedding replaces by none."""
        one = looking()
        queries = [one.get_query_embedding(text) for text in TEXTS]
        assert same(queries, qwen3.embed_queries(TEXTS))
        assert not same(queries, qwen3.embed_documents(TEXTS))

    @pytest.mark.asyncio
    async def test_async_gives_the_same(self, looking: Callable[..., SightlineEmbedding], qwen3: EmbeddingEngine) -> None:
        """Queries, texts and batches."""
        one = looking()
        assert same([await one.aget_query_embedding(text) for text in TEXTS], qwen3.embed_queries(TEXTS))
        assert same([await one.aget_text_embedding(text) for text in TEXTS], qwen3.embed_documents(TEXTS))
        assert same(await one.aget_text_embedding_batch(TEXTS), qwen3.embed_documents(TEXTS))

    def test_nodes_are_embedded_with_their_metadata(self, embedding: SightlineEmbedding, minilm: EmbeddingEngine) -> None:
        """As everywhere in LlamaIndex, the metadata stand before the text."""
        [node] = embedding([TextNode(text="It leaves at nine.", metadata={"title": "Ferry"})])
        assert same(node.embedding, minilm.embed_documents(["title: Ferry\n\nIt leaves at nine."])[0])

    def test_no_texts_are_no_vectors(self, embedding: SightlineEmbedding) -> None:
        """An empty batch is fine."""
        assert embedding.get_text_embedding_batch([]) == []

    def test_similarity_is_the_cosine(self, embedding: SightlineEmbedding) -> None:
        """A text is wholly like itself."""
        vector = embedding.get_text_embedding("a lamp")
        assert embedding.similarity(vector, vector) == pytest.approx(1, abs=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
class TestBesideTheOriginal:
    @pytest.mark.parametrize(
        "arguments",
        [
            {}, {"truncate_dim": 32}, {"max_length": 60}, {"query_instruction": "Instruct: Find it\nQuery: "},
            {"text_instruction": "passage: ", "query_instruction": "query: "},
        ],
        ids=str,
    )  # fmt: skip
    def test_a_call_written_for_it_gives_its_vectors(self, qwen3_folder: Path, arguments: dict[str, Any]) -> None:
        """Of texts always, and of queries unless it loses the model's own prompt."""
        original = pytest.importorskip("llama_index.embeddings.huggingface", reason="the package it replaces isn't installed")
        theirs = original.HuggingFaceEmbedding(str(qwen3_folder), device="cpu", **arguments)
        ours = SightlineEmbedding(str(qwen3_folder), **EXACT, **arguments)
        texts = [*TEXTS, "word " * 600]
        assert same(ours.get_text_embedding_batch(texts), np.array(theirs.get_text_embedding_batch(texts)))
        queries = np.array([theirs.get_query_embedding(text) for text in texts])
        assert same([ours.get_query_embedding(text) for text in texts], queries) == ("query_instruction" in arguments)


class TestInstructions:
    def test_a_query_instruction_is_put_before_queries_as_it_is(
        self, looking: Callable[..., SightlineEmbedding], qwen3: EmbeddingEngine
    ) -> None:
        """The literal prompt, also one that already holds the model's template, as users of HuggingFaceEmbedding write it."""
        for prompt in ("Represent this: ", f"Instruct: {TASK}\nQuery: ", "query"):
            one = looking(query_instruction=prompt)
            expected = qwen3.embed_queries([prompt + text for text in TEXTS], instruction="")
            assert same([one.get_query_embedding(text) for text in TEXTS], expected)
            assert same(one.get_text_embedding_batch(TEXTS), qwen3.embed_documents(TEXTS))

    def test_a_text_instruction_is_put_before_texts_as_it_is(
        self, looking: Callable[..., SightlineEmbedding], qwen3: EmbeddingEngine
    ) -> None:
        """And leaves the queries with the model's own."""
        one = looking(text_instruction="passage: ")
        expected = qwen3.embed_documents(["passage: " + text for text in TEXTS], instruction="")
        assert same(one.get_text_embedding_batch(TEXTS), expected)
        assert same(one.get_query_embedding(TEXTS[0]), qwen3.embed_queries(TEXTS[:1])[0])

    def test_a_stored_document_prompt_is_kept(self, prefixing_folder: Path) -> None:
        """HuggingFaceEmbedding replaces it by none as well; an empty text instruction does as it did."""
        with EmbeddingEngine(prefixing_folder, **EXACT) as engine:
            one, bare = (SightlineEmbedding(str(prefixing_folder), **EXACT, **said) for said in ({}, {"text_instruction": ""}))
            assert same(one.get_text_embedding("a lamp"), engine.embed_documents(["passage: a lamp"], instruction="")[0])
            assert same(bare.get_text_embedding("a lamp"), engine.embed_documents(["a lamp"], instruction="")[0])

    def test_an_empty_instruction_is_none(self, looking: Callable[..., SightlineEmbedding], qwen3: EmbeddingEngine) -> None:
        """Which is how the model's own is turned off."""
        vector = looking(query_instruction="").get_query_embedding(TEXTS[0])
        assert same(vector, qwen3.embed_queries(TEXTS[:1], instruction="")[0])

    def test_a_task_goes_through_the_models_template(
        self, looking: Callable[..., SightlineEmbedding], qwen3: EmbeddingEngine
    ) -> None:
        """A sentence, or the name of a stored prompt; a text instruction may stand beside it."""
        for task in (TASK, "query"):
            expected = qwen3.embed_queries(TEXTS[:1], instruction=task)[0]
            assert same(looking(task=task).get_query_embedding(TEXTS[0]), expected)
            both = looking(task=task, text_instruction="passage: ")
            assert same(both.get_query_embedding(TEXTS[0]), expected)
            assert same(both.get_text_embedding(TEXTS[0]), qwen3.embed_documents(["passage: " + TEXTS[0]], instruction="")[0])

    def test_an_unknown_task_is_refused(self, looking: Callable[..., SightlineEmbedding]) -> None:
        """At once, not at the first query."""
        with pytest.raises(UnknownInstruction, match=r"Known here: .*query"):
            looking(task="retrieval")

    def test_two_ways_of_saying_it_are_refused(self, looking: Callable[..., SightlineEmbedding]) -> None:
        """Nobody has to guess which one counts."""
        with pytest.raises(UsageError, match="Give one of them"):
            looking(task=TASK, query_instruction="x: ")

    def test_bge_keeps_the_prompt_that_it_has_there(self) -> None:
        """Its folders store none; HuggingFaceEmbedding knows it by the model's name."""
        english = customary_query_prompt("BAAI/bge-small-en-v1.5", {})
        assert english == "Represent this question for searching relevant passages: "
        assert customary_query_prompt("BAAI/bge-large-zh", {}) == "为这个句子生成表示以用于检索相关文章："
        assert customary_query_prompt("BAAI/bge-small-en", {"query": "stored: "}) is None
        assert customary_query_prompt("BAAI/bge-m3", {}) is None

    def test_a_customary_prompt_is_used(self, monkeypatch: pytest.MonkeyPatch, minilm: EmbeddingEngine) -> None:
        """For queries only, unless the caller says otherwise."""
        monkeypatch.setattr("llama_index.embeddings.sightline.base.customary_query_prompt", lambda *_: "q: ")
        one = SightlineEmbedding(PACKAGED, **EXACT)
        assert same(one.get_query_embedding("a"), minilm.embed_queries(["q: a"])[0])
        assert same(one.get_text_embedding("a"), minilm.embed_documents(["a"])[0])
        off = SightlineEmbedding(PACKAGED, query_instruction="", **EXACT)
        assert same(off.get_query_embedding("a"), minilm.embed_queries(["a"])[0])


class TestArguments:
    def test_what_means_the_same_is_taken(self, minilm: EmbeddingEngine) -> None:
        """A call that was written for HuggingFaceEmbedding works with the class's name changed."""
        one = SightlineEmbedding(
            model_name=PACKAGED, tokenizer_name="deprecated", pooling="deprecated", max_length=64, query_instruction=None,
            text_instruction=None, normalize=True, model="deprecated", tokenizer="deprecated", embed_batch_size=10,
            cache_folder=None, trust_remote_code=False, device="cpu", callback_manager=None, parallel_process=False,
            target_devices=None, show_progress_bar=False, truncate_dim=96, backend="torch", revision=None,
            model_kwargs={"torch_dtype": torch.float32},
        )  # fmt: skip
        assert (one.dimensions, one.max_length, one.dtype, one.embed_batch_size) == (96, 64, "float32", 10)
        assert same(one.get_text_embedding("a lamp"), minilm.embed_documents(["a lamp"], dimensions=96)[0])

    def test_several_devices_share_the_work(self) -> None:
        """Under sentence-transformers' word for them or our own."""
        theirs = SightlineEmbedding(PACKAGED, target_devices=["cpu"], encoder="transformers")
        ours = SightlineEmbedding(PACKAGED, devices=["cpu"])
        assert (theirs.devices, theirs.encoder, ours.devices, ours.encoder) == (("cpu",), "transformers", ("cpu",), "auto")

    @pytest.mark.parametrize("name", _INSTEAD)
    def test_what_means_nothing_is_refused_by_name(self, name: str) -> None:
        """With what to write instead."""
        with pytest.raises(UsageError) as refused:
            SightlineEmbedding(PACKAGED, **{name: "something"})
        assert name in str(refused.value)
        assert _INSTEAD[name] in str(refused.value)

    def test_an_unknown_argument_is_refused(self) -> None:
        """The known ones are listed."""
        with pytest.raises(UsageError, match=r"no argument 'dimension'.*dimensions"):
            SightlineEmbedding(PACKAGED, dimension=3)

    @pytest.mark.parametrize("given", [{"attn_implementation": "flash_attention_2"}, {"dtype": "auto"}])
    def test_model_kwargs_hold_the_number_format_only(self, given: dict[str, Any]) -> None:
        """All else is the engine's."""
        with pytest.raises(UsageError, match=f"model_kwargs .*{next(iter(given))}"):
            SightlineEmbedding(PACKAGED, model_kwargs=given)

    def test_a_secret_is_not_repeated(self) -> None:
        """A token is refused without being written anywhere."""
        with pytest.raises(UsageError, match="HF_TOKEN") as refused:
            SightlineEmbedding(PACKAGED, token="hf_secret")
        assert "hf_secret" not in str(refused.value)

    def test_dimensions_are_given_once(self) -> None:
        """Two lengths are a mistake, the same one twice isn't."""
        assert SightlineEmbedding(PACKAGED, dimensions=64, truncate_dim=64).dimensions == 64
        with pytest.raises(UsageError, match="twice"):
            SightlineEmbedding(PACKAGED, dimensions=64, truncate_dim=96)

    def test_wrong_dimensions_are_refused_at_once(self) -> None:
        """Before anything is loaded."""
        with pytest.raises(DimensionError, match="384"):
            SightlineEmbedding(PACKAGED, dimensions=385)

    def test_settings_do_not_change_later(self, embedding: SightlineEmbedding) -> None:
        """What is written down stays what the vectors are of."""
        for name, value in {"dimensions": 64, "query_instruction": "x", "embeddings_cache": SimpleKVStore()}.items():
            with pytest.raises(ValueError, match="frozen"):
                setattr(embedding, name, value)

    def test_it_is_an_embedding_model_of_llama_index(
        self, embedding: SightlineEmbedding, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Global settings and indexes take it."""
        assert isinstance(embedding, BaseEmbedding)
        assert resolve_embed_model(embedding) is embedding
        monkeypatch.setattr(Settings, "_embed_model", None)
        Settings.embed_model = embedding
        assert Settings.embed_model is embedding


class TestSharing:
    def test_a_second_one_loads_nothing(self, embedding: SightlineEmbedding) -> None:
        """Whatever its instructions and dimensions."""
        other = SightlineEmbedding(PACKAGED, dimensions=64, query_instruction="q: ", **EXACT)
        assert other.embedder.engine is embedding.embedder.engine

    def test_many_texts_are_one_call(self) -> None:
        """LlamaIndex's own batch of 10 would keep the engine from packing."""
        embedder = HashEmbedder()
        SightlineEmbedding(embedder=embedder).get_text_embedding_batch([f"text {row}" for row in range(500)])
        assert embedder.stats().batches == 1

    @pytest.mark.asyncio
    async def test_concurrent_queries_share_batches(self, embedding: SightlineEmbedding) -> None:
        """64 callers at once are a few passes of the model, not 64."""
        await embedding.aget_query_embedding("loads the model")
        before = embedding.embedder.stats()
        await asyncio.gather(*(embedding.aget_query_embedding(f"question number {row}") for row in range(64)))
        after = embedding.embedder.stats()
        assert after.texts - before.texts == 64
        assert after.batches - before.batches <= 8

    @pytest.mark.asyncio
    async def test_the_event_loop_stays_free(self) -> None:
        """An async call doesn't hold up other tasks while it waits: here one of them lets the engine answer."""

        class Slow(HashEmbedder):
            def __init__(self) -> None:
                super().__init__()
                self.waiting: list[tuple[Future[FloatArray], FloatArray]] = []

            def submit(self, texts: Any, **arguments: Any) -> Future[FloatArray]:
                future: Future[FloatArray] = Future()
                self.waiting.append((future, super().submit(texts, **arguments).result()))
                return future

        slow = Slow()
        one = SightlineEmbedding(embedder=slow, embed_batch_size=2)
        calls = asyncio.gather(
            one.aget_query_embedding("a"), one.aget_text_embedding("b"), one.aget_text_embedding_batch(["c", "d", "e"])
        )
        while len(slow.waiting) < 4:
            await asyncio.sleep(0)
        for future, vectors in slow.waiting:
            future.set_result(vectors)
        query, _, batch = await calls
        assert same(query, HashEmbedder().embed_queries(["a"])[0])
        assert same(batch, HashEmbedder().embed_documents(["c", "d", "e"]))


class TestWrittenDown:
    def test_it_is_made_again_from_its_dict(self, looking: Callable[..., SightlineEmbedding]) -> None:
        """Through JSON, with every setting."""
        one = looking(dimensions=32, task=TASK, text_instruction="passage: ", clean=["bom"], max_length=40, embed_batch_size=7)
        again = SightlineEmbedding.from_dict(json.loads(one.to_json()))
        assert again.to_dict() == one.to_dict()
        assert again.get_query_embedding("a") == one.get_query_embedding("a")
        assert one.to_dict()["class_name"] == "SightlineEmbedding"

    @pytest.mark.parametrize(
        "changed",
        [
            {"dimensions": 32}, {"truncate_dim": 48}, {"query_instruction": "q: "}, {"query_instruction": ""}, {"task": TASK},
            {"text_instruction": "t: "}, {"max_length": 20}, {"on_too_long": "average"}, {"clean": ["bom"]},
            {"split_special_tokens": True}, {"deterministic": True}, {"dtype": "bfloat16"},
        ],
        ids=str,
    )  # fmt: skip
    def test_a_cache_tells_settings_apart(self, qwen3_folder: Path, changed: dict[str, Any]) -> None:
        """HuggingFaceEmbedding's dimensions aren't written down, so a pipeline's cache answers with vectors of the old ones."""
        nodes = [TextNode(text="a lamp")]
        one, same_again = (SightlineEmbedding(str(qwen3_folder), **EXACT) for _ in range(2))
        other = SightlineEmbedding(str(qwen3_folder), **{**EXACT, **changed})
        assert get_transformation_hash(nodes, one) == get_transformation_hash(nodes, same_again)
        assert get_transformation_hash(nodes, one) != get_transformation_hash(nodes, other)

    def test_a_cache_tells_weights_apart(self, qwen3_folder: Path, tmp_path: Path) -> None:
        """Another model that was put into the same folder."""
        from safetensors.numpy import load_file, save_file

        folder = tmp_path / "model"
        shutil.copytree(qwen3_folder, folder)
        before = SightlineEmbedding(str(folder), **EXACT).to_dict()
        weights = load_file(folder / "model.safetensors")
        save_file({name: weight + np.float32(0.5) for name, weight in weights.items()}, folder / "model.safetensors")
        assert SightlineEmbedding(str(folder), **EXACT).to_dict() != before

    def test_events_name_the_model_only(self) -> None:
        """Callbacks and instrumentation get every call, and no settings."""
        handler = LlamaDebugHandler(print_trace_on_end=False)
        one = SightlineEmbedding(embedder=HashEmbedder(), callback_manager=CallbackManager([handler]))
        one.get_query_embedding("a")
        one.get_text_embedding_batch(["b", "c"])
        assert len(handler.get_event_pairs(CBEventType.EMBEDDING)) == 2
        assert one.to_payload() == {
            "class_name": "SightlineEmbedding", "model_name": "sightline-hash", "embed_batch_size": 2048
        }  # fmt: skip


class TestOtherProcesses:
    def test_no_model_is_pickled(self, embedding: SightlineEmbedding, caplog: pytest.LogCaptureFixture) -> None:
        """HuggingFaceEmbedding's goes along, or is lost on the way; here settings go, and the other process loads by itself."""
        vector = embedding.get_text_embedding("a lamp")
        data = pickle.dumps(embedding)
        assert len(data) < 5_000
        again = pickle.loads(data)
        assert again.to_dict() == embedding.to_dict()
        assert again.get_text_embedding("a lamp") == vector
        assert caplog.records == []

    def test_a_copy_shares_the_model(self, embedding: SightlineEmbedding) -> None:
        """Shallow or deep."""
        for made in (copy.copy(embedding), copy.deepcopy(embedding)):
            assert made.embedder is embedding.embedder
            assert made.to_dict() == embedding.to_dict()

    def test_what_cannot_be_made_there_is_told(self, tmp_path: Path, qwen3_folder: Path) -> None:
        """A model that isn't there any more is an error when it is unpickled, not an embedding without a model."""
        folder = tmp_path / "model"
        shutil.copytree(qwen3_folder, folder)
        data = pickle.dumps(SightlineEmbedding(str(folder)))
        shutil.rmtree(folder)
        with pytest.raises(Exception, match="model"):
            pickle.loads(data)


class TestAroundAnEmbedder:
    def test_it_embeds_with_it(self) -> None:
        """Whatever it is: an engine, a shared one, another's."""
        embedder = HashEmbedder(dimensions=16, query_instruction="ask this: ")
        one = SightlineEmbedding(embedder=embedder)
        assert one.embedder is embedder
        assert same(one.get_query_embedding("a"), embedder.embed_queries(["a"])[0])
        assert (one.model_name, one.dimensions) == ("sightline-hash", 16)

    def test_settings_beside_it_are_refused(self) -> None:
        """It has its own."""
        for given in ({"model_name": PACKAGED}, {"dimensions": 3}, {"query_instruction": "x"}, {"device": "cpu"}):
            with pytest.raises(UsageError, match=next(iter(given))):
                SightlineEmbedding(embedder=HashEmbedder(), **given)

    def test_caches_go_by_what_it_is(self) -> None:
        """Its dimensions and prompts, and its own self where it doesn't know its weights."""
        nodes = [TextNode(text="a")]
        one, same_again = (SightlineEmbedding(embedder=HashEmbedder()) for _ in range(2))
        assert get_transformation_hash(nodes, one) == get_transformation_hash(nodes, same_again)
        for changed in ({"dimensions": 16}, {"query_instruction": "q: "}, {"document_instruction": "d: "}, {"name": "other"}):
            other = SightlineEmbedding(embedder=HashEmbedder(**changed))
            assert get_transformation_hash(nodes, one) != get_transformation_hash(nodes, other)

    def test_it_is_made_again_with_an_embedder(self) -> None:
        """A dict can't hold it; whoever reads the dict is told to give it again."""
        data = SightlineEmbedding(embedder=HashEmbedder(), embed_batch_size=9).to_dict()
        with pytest.raises(UsageError, match="embedder="):
            SightlineEmbedding.from_dict(data)
        again = SightlineEmbedding.from_dict(data, embedder=HashEmbedder())
        assert again.to_dict() == data

    def test_it_does_not_go_to_another_process(self) -> None:
        """Said when it is pickled, not when the worker fails."""
        with pytest.raises(UsageError, match="model_name="):
            pickle.dumps(SightlineEmbedding(embedder=HashEmbedder()))


class TestEmbeddingsCache:
    def test_roles_have_entries_of_their_own(self) -> None:
        """LlamaIndex answers a query with the vector of the same text as a document."""
        embedder = HashEmbedder()
        one = SightlineEmbedding(embedder=embedder, embeddings_cache=SimpleKVStore())
        for _ in range(2):
            assert same(one.get_text_embedding("a lamp"), embedder.embed_documents(["a lamp"])[0])
            assert same(one.get_query_embedding("a lamp"), embedder.embed_queries(["a lamp"])[0])

    def test_models_have_entries_of_their_own(self) -> None:
        """And so have dimensions and instructions, in one and the same store."""
        store = SimpleKVStore()
        for embedder in (HashEmbedder(), HashEmbedder(dimensions=8), HashEmbedder(document_instruction="x y ")):
            one = SightlineEmbedding(embedder=embedder, embeddings_cache=store)
            assert same(one.get_text_embedding("a lamp"), embedder.embed_documents(["a lamp"])[0])

    def test_what_is_there_is_not_embedded_again(self) -> None:
        """In order, with repetitions, sync and async, by another object too."""
        store = SimpleKVStore()
        first = HashEmbedder()
        SightlineEmbedding(embedder=first, embeddings_cache=store).get_text_embedding_batch(["a", "b", "a"])
        assert first.stats().texts == 2
        embedder = HashEmbedder()
        one = SightlineEmbedding(embedder=embedder, embeddings_cache=store)
        assert same(one.get_text_embedding_batch(["b", "c", "a"]), HashEmbedder().embed_documents(["b", "c", "a"]))
        assert embedder.stats().texts == 1
        assert same(asyncio.run(one.aget_text_embedding_batch(["c", "d", "c"])), HashEmbedder().embed_documents(["c", "d", "c"]))
        assert same(asyncio.run(one.aget_query_embedding("q")), HashEmbedder().embed_queries(["q"])[0])
        assert same(asyncio.run(one.aget_query_embedding("q")), HashEmbedder().embed_queries(["q"])[0])
        assert embedder.stats().texts == 3

    def test_a_pickled_one_keeps_its_cache(self) -> None:
        """As far as the store itself can be pickled."""
        one = SightlineEmbedding(PACKAGED, **EXACT, embeddings_cache=SimpleKVStore())
        vector = one.get_text_embedding("a lamp")
        again = pickle.loads(pickle.dumps(one))
        before = again.embedder.stats().texts
        assert again.get_text_embedding("a lamp") == vector
        assert again.embedder.stats().texts == before

    def test_something_else_is_refused(self) -> None:
        """It is a store of LlamaIndex."""
        with pytest.raises(UsageError, match="SimpleKVStore"):
            SightlineEmbedding(PACKAGED, embeddings_cache={})  # type: ignore[arg-type]
