"""The engine's promises beyond exactness: shapes, order, sharing, priorities, determinism, honesty, giving back."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest
import torch

from sightline import EmbeddingEngine, TokenizedText
from sightline.embedding import worker as worker_module
from sightline.embedding.device import choose_device, choose_dtype
from sightline.errors import EmbedderClosed, NonFiniteEmbedding, SightlineError, TextTooLong, UnknownInstruction, UsageError
from sightline.protocols import Embedder
from sightline.types import Priority, Role, Truncation
from texts import TEXTS, prose

SOME = ["the lamp is lit", "", "a storm from the west", prose(120, seed=2), "東京"]


def test_engine_is_an_embedder(minilm):
    """As the rest of Sightline sees it."""
    assert isinstance(minilm, Embedder)


def test_result_is_contiguous_float32_with_unit_norm(minilm):
    """The one type out."""
    vectors = minilm.embed_documents(SOME)
    assert (vectors.shape, vectors.dtype, vectors.flags["C_CONTIGUOUS"]) == ((5, 384), np.float32, True)
    assert np.abs(np.linalg.norm(vectors.astype(np.float64), axis=1) - 1).max() < 1e-6


@pytest.mark.parametrize("dimensions", [None, 100])
def test_empty_list_gives_no_rows(minilm, dimensions):
    """With the right number of columns."""
    assert minilm.embed_queries([], dimensions=dimensions).shape == (0, dimensions or 384)


def test_order_is_the_inputs(minilm):
    """Whatever the lengths."""
    texts = [prose(words, seed=words) for words in random.Random(0).sample(range(1, 200), 30)]
    together, alone = minilm.embed_documents(texts), np.concatenate([minilm.embed_documents([text]) for text in texts])
    assert np.linalg.norm(together - alone, axis=1).max() < 1e-5


@pytest.mark.slow
def test_many_windows_keep_the_order(minilm):
    """More texts than are tokenised at a time."""
    texts = [f"number {number % 300}" for number in range(2500)]
    vectors = minilm.embed_documents(texts)
    assert np.abs(vectors[:300] - vectors[2100:2400]).max() < 1e-5
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3


def test_halved_dimensions_are_cut_then_normalised(minilm):
    """Not the first half of a unit vector."""
    whole, half = minilm.embed_documents(SOME), minilm.embed_documents(SOME, dimensions=192)
    assert np.abs(half - whole[:, :192] / np.linalg.norm(whole[:, :192], axis=1, keepdims=True)).max() < 1e-6


def test_token_ids_give_the_texts_vectors(qwen3_folder):
    """Ready ids, prompt and closing token included."""
    with EmbeddingEngine(qwen3_folder, dtype="float32", device="cpu") as engine:
        ids = engine.tokenize(SOME, role=Role.QUERY)
        assert all(isinstance(one, TokenizedText) for one in ids)
        assert np.abs(engine.embed_queries(ids) - engine.embed_queries(SOME)).max() < 1e-5


def test_token_ids_take_no_instruction(minilm):
    """Their prompt is in them."""
    with pytest.raises(UsageError, match="take no instruction"):
        minilm.embed_queries([TokenizedText([101, 102])], instruction="find it, please")


def test_one_string_is_refused(minilm):
    """It would be embedded letter by letter."""
    with pytest.raises(UsageError, match=r"\[text\]"):
        minilm.embed_documents("one text")


def test_unknown_instruction_raises_before_anything_is_queued(minilm):
    """With the known names."""
    with pytest.raises(UnknownInstruction, match="Known here: none"):
        minilm.embed_queries(SOME, instruction="nosuch")


def test_queries_look_with_the_instruction(qwen3_folder):
    """And documents don't."""
    with EmbeddingEngine(qwen3_folder, dtype="float32", device="cpu") as engine:
        prompt = engine.instructions["query"]
        raw = engine.embed_documents([prompt + text for text in SOME])
        assert np.abs(engine.embed_queries(SOME) - raw).max() < 1e-5
        assert np.abs(engine.embed_queries(SOME, instruction="") - engine.embed_documents(SOME)).max() < 1e-5


def test_async_calls_give_the_blocking_calls_vectors(minilm):
    """Sixty-four at once share batches: far fewer passes than texts."""
    texts = [f"question {number}" for number in range(64)]
    before = minilm.stats().batches

    async def ask() -> list[np.ndarray]:
        return await asyncio.gather(*(minilm.aembed_queries([text]) for text in texts))

    vectors = np.concatenate(asyncio.run(ask()))
    assert minilm.stats().batches - before <= 16
    assert np.linalg.norm(vectors - minilm.embed_queries(texts), axis=1).max() < 1e-5


def test_concurrent_callers_get_their_own_vectors(minilm):
    """Eight threads at once."""
    results: dict[int, np.ndarray] = {}

    def call(number: int) -> None:
        results[number] = minilm.embed_documents([f"thread {number} text {row}" for row in range(20)])

    threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, vectors in results.items():
        alone = minilm.embed_documents([f"thread {number} text {row}" for row in range(20)])
        assert np.linalg.norm(vectors - alone, axis=1).max() < 1e-5


@pytest.mark.slow
def test_lone_query_overtakes_a_bulk_job(minilm):
    """It is answered while the job has most of its texts before it."""
    done = []
    texts = [prose(60, seed=row) for row in range(200)]
    job = minilm.submit(texts, role=Role.DOCUMENT, on_progress=lambda progress: done.append(progress.texts_done))
    minilm.embed_queries(["where is the lamp?"])
    answered_at = done[-1] if done else 0
    assert answered_at < 100
    assert job.result().shape == (200, 384)


def test_progress_reaches_the_total(minilm):
    """And never goes back."""
    seen = []
    minilm.embed_documents([prose(50, seed=row) for row in range(100)], on_progress=seen.append)
    assert [event.texts_done for event in seen] == sorted(event.texts_done for event in seen)
    assert (seen[-1].texts_done, seen[-1].texts_total) == (100, 100)
    assert len(seen) > 1


def test_progress_callback_that_raises_fails_its_own_call_only(minilm):
    """The engine lives on."""

    def fail(_: object) -> None:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        minilm.embed_documents(SOME, on_progress=fail)
    assert minilm.embed_documents(SOME).shape == (5, 384)


def test_cancelled_job_leaves_the_engine_free(minilm):
    """What nobody waits for isn't computed."""
    job = minilm.submit([prose(100, seed=row) for row in range(2000)], role=Role.DOCUMENT, priority=Priority.INTERACTIVE)
    assert job.cancel()
    before = minilm.stats().texts
    minilm.embed_queries(["next"])
    assert minilm.stats().texts - before < 200


@pytest.mark.parametrize(
    ("family", "dtype", "batchings"),
    [
        ("bert", "float32", 50),
        ("qwen3", "bfloat16", 50),
        ("mpnet", "float32", 20),
        pytest.param("bert", "float32", 200, marks=pytest.mark.slow),
        pytest.param("qwen3", "bfloat16", 200, marks=pytest.mark.slow),
        pytest.param("modernbert", "float32", 200, marks=pytest.mark.slow),
    ],
)
def test_deterministic_vectors_are_the_same_to_the_bit(make_model, family, dtype, batchings):
    """Over many random batchings of texts of every length class."""
    texts = [text for text in TEXTS if len(text) < 900]
    with EmbeddingEngine(make_model(family), dtype=dtype, device="cpu", deterministic=True) as engine:
        expected = np.concatenate([engine.embed_documents([text]) for text in texts])
        chooser = random.Random(5)
        for _ in range(batchings):
            rows = chooser.sample(range(len(texts)), chooser.randint(1, 16))
            assert np.array_equal(engine.embed_documents([texts[row] for row in rows]), expected[rows])


@pytest.mark.slow
def test_deterministic_minilm_is_the_same_to_the_bit(minilm_folder):
    """The real model in its default number format, texts up to its length."""
    texts = [prose(words, seed=words) for words in (1, 9, 33, 50, 60, 64, 70, 100, 150, 200, 300)]
    with EmbeddingEngine(minilm_folder, device="cpu", deterministic=True) as engine:
        expected = np.concatenate([engine.embed_documents([text]) for text in texts])
        chooser = random.Random(6)
        for _ in range(40):
            rows = [chooser.randrange(len(texts)) for _ in range(chooser.randint(1, 20))]
            assert np.array_equal(engine.embed_documents([texts[row] for row in rows]), expected[rows])


@pytest.mark.parametrize("family", ["qwen3", "bert", "xlm-roberta", "modernbert", "distilbert", "gemma3"])
def test_prepacked_layers_give_the_same_vectors(make_model, family, monkeypatch):
    """oneDNN's layout changes the order of a sum at most."""
    with EmbeddingEngine(make_model(family), dtype="bfloat16", device="cpu") as engine:
        prepacked = engine.embed_documents(TEXTS[:40])
    monkeypatch.setattr("sightline.embedding.linear._packed", lambda plain, rows: None)
    with EmbeddingEngine(make_model(family), dtype="bfloat16", device="cpu") as engine:
        plain = engine.embed_documents(TEXTS[:40])
    assert (prepacked * plain).sum(axis=1).min() >= 0.999


def test_layers_stay_when_torch_lacks_the_operators(minilm_folder, monkeypatch):
    """They are private to torch and may go."""
    from sightline.embedding import linear

    def gone(weight: torch.Tensor, rows: int) -> None:
        raise AttributeError("no such operator")

    monkeypatch.setattr(linear, "_reorder", gone)
    with EmbeddingEngine(minilm_folder, dtype="bfloat16", device="cpu") as engine:
        assert engine.embed_documents(SOME).shape == (5, 384)


def test_truncation_is_counted_and_logged(minilm_folder, caplog):
    """Texts, tokens, and what to do instead."""
    with EmbeddingEngine(minilm_folder, device="cpu", max_length=10) as engine, caplog.at_level(logging.WARNING):
        engine.embed_documents(["short", "word " * 20, "word " * 30])
        stats = engine.stats()
    assert (stats.truncated_texts, stats.dropped_tokens, stats.dropped_tokens_estimated) == (2, 12 + 22, False)
    assert "2 of 3 texts were longer than 10 tokens and lost 34 tokens" in caplog.text


def test_a_call_is_told_what_of_it_was_truncated(minilm_folder):
    """By the number of the text, in its last event; nothing where nothing was lost."""
    seen = []
    with EmbeddingEngine(minilm_folder, device="cpu", max_length=16) as engine:
        engine.embed_documents(["short", "word " * 26, "short"], on_progress=seen.append)
        engine.embed_documents(["short"], on_progress=seen.append)
    lost = [event.truncation for event in seen if event.texts_done == event.texts_total]
    assert lost == [Truncation((1,), 12), None]


def test_error_instead_of_truncation(minilm_folder):
    """And the engine goes on."""
    with EmbeddingEngine(minilm_folder, device="cpu", max_length=10, on_too_long="error") as engine:
        with pytest.raises(TextTooLong, match="Text 1 has 22 tokens"):
            engine.embed_documents(["short", "word " * 20])
        assert engine.embed_documents(["short"]).shape == (1, 384)


def test_tokenize_hides_no_truncation(minilm_folder):
    """It counts what it drops, and refuses where the engine doesn't truncate."""
    with EmbeddingEngine(minilm_folder, max_length=10) as engine:
        engine.tokenize(["word " * 20], role=Role.DOCUMENT)
        assert (engine.stats().truncated_texts, engine.stats().dropped_tokens) == (1, 12)
    for on_too_long in ("error", "average"):
        with EmbeddingEngine(minilm_folder, max_length=10, on_too_long=on_too_long) as engine, pytest.raises(TextTooLong):
            engine.tokenize(["word " * 20], role=Role.DOCUMENT)


def test_average_is_the_mean_of_the_parts_by_tokens(minilm_folder):
    """Unit vectors of the parts, weighted by their tokens."""
    text = prose(300, seed=9)
    with EmbeddingEngine(minilm_folder, device="cpu", dtype="float32", on_too_long="average") as engine:
        [one] = engine.tokenizer.tokenize([text], on_too_long="average")
        parts = engine.embed_documents([TokenizedText(part.ids.tolist()) for part in one.parts])
        weights = np.array([[len(part.ids)] for part in one.parts])
        mean = (parts * weights).sum(axis=0)
        assert len(one.parts) > 1
        assert np.abs(engine.embed_documents([text])[0] - mean / np.linalg.norm(mean)).max() < 1e-5


def test_nan_is_an_error_that_names_the_text(minilm_folder, monkeypatch):
    """The others of the batch aren't given either: their call has failed, and says why."""
    with EmbeddingEngine(minilm_folder, device="cpu") as engine:
        to_host = worker_module._to_host

        def spoil(vectors: torch.Tensor):
            rows = to_host(vectors)().copy()
            rows[1] = np.nan
            return lambda: rows

        monkeypatch.setattr(worker_module, "_to_host", spoil)
        with pytest.raises(NonFiniteEmbedding, match="for text 2"):
            engine.embed_documents(["the longest one of the three", "a", "the middle one"])


def test_out_of_memory_halves_the_budget_and_goes_on(minilm_folder, monkeypatch, caplog):
    """With one warning a halving, and the right vectors."""
    from sightline.embedding.packed_encoder import PackedEncoder

    forward = PackedEncoder.hidden_states

    def limited(self, batch, rows=None):
        if sum(batch.lengths) > 300:
            raise torch.OutOfMemoryError("no room")
        return forward(self, batch, rows)

    texts = [prose(60, seed=row) for row in range(40)]
    with EmbeddingEngine(minilm_folder, device="cpu", dtype="float32") as engine, caplog.at_level(logging.WARNING):
        expected = engine.embed_documents(texts)
        monkeypatch.setattr(PackedEncoder, "hidden_states", limited)
        assert np.linalg.norm(engine.embed_documents(texts) - expected, axis=1).max() < 1e-5
    assert "going on with max_batch_tokens=1024" in caplog.text


def test_failed_batch_fails_its_callers_only(minilm_folder, monkeypatch):
    """The engine lives on for the next call."""
    from sightline.embedding.packed_encoder import PackedEncoder

    with EmbeddingEngine(minilm_folder, device="cpu") as engine:
        engine.load()
        with monkeypatch.context() as patch:
            patch.setattr(PackedEncoder, "hidden_states", lambda self, batch, rows=None: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                engine.embed_documents(SOME)
        assert engine.embed_documents(SOME).shape == (5, 384)


@pytest.mark.slow
def test_memory_is_bounded_by_the_budget_whatever_the_texts(minilm_folder, monkeypatch):
    """No batch has more tokens than allowed."""
    from sightline.embedding.packed_encoder import PackedEncoder

    sizes, forward = [], PackedEncoder.hidden_states

    def watch(self, batch, rows=None):
        sizes.append(sum(batch.lengths))
        return forward(self, batch, rows)

    monkeypatch.setattr(PackedEncoder, "hidden_states", watch)
    with EmbeddingEngine(minilm_folder, device="cpu", max_batch_tokens=500) as engine:
        engine.embed_documents([prose(words, seed=words) for words in range(1, 180)])
    assert 400 < max(sizes) <= 500


def test_threads_are_the_engines_own(minilm_folder):
    """torch's setting stays as it was, in this thread and in new ones."""
    before, in_new_thread = torch.get_num_threads(), []
    with EmbeddingEngine(minilm_folder, device="cpu", threads=before + 1).load():
        assert torch.get_num_threads() == before
        thread = threading.Thread(target=lambda: in_new_thread.append(torch.get_num_threads()))
        thread.start()
        thread.join()
    assert in_new_thread == [before]


@pytest.mark.slow
@pytest.mark.parametrize("deterministic", [False, True])
def test_streams_share_the_threads(minilm_folder, monkeypatch, deterministic):
    """Each pass of a bulk job has its share; a lone long text has all, unless the engine is deterministic, a short one never."""
    from sightline.embedding.packed_encoder import PackedEncoder

    seen: list[tuple[str, int]] = []
    forward = PackedEncoder.hidden_states

    def watch(self, batch, rows=None):
        seen.append((threading.current_thread().name, torch.get_num_threads()))
        return forward(self, batch, rows)

    monkeypatch.setattr(PackedEncoder, "hidden_states", watch)
    with EmbeddingEngine(minilm_folder, device="cpu", threads=2, deterministic=deterministic) as engine:
        engine.embed_queries(["alone"])
        engine.embed_documents([prose(1000, seed=1)])
        assert [threads for _, threads in seen] == [1, 1 if deterministic else 2]
        engine.embed_documents([prose(100, seed=row) for row in range(80)])
    assert len({name for name, _ in seen}) == 2
    assert {threads for _, threads in seen[2:-2]} == {1}


def test_close_gives_the_model_back(minilm_folder, monkeypatch):
    """Nothing holds its weights any more, and no thread is left."""
    from sightline.embedding.packed_encoder import PackedEncoder

    made, original = [], PackedEncoder.__init__

    def remember(self, *args, **options):
        original(self, *args, **options)
        made.append(weakref.ref(self._forward))

    monkeypatch.setattr(PackedEncoder, "__init__", remember)
    before = threading.active_count()
    engine = EmbeddingEngine(minilm_folder, device="cpu").load()
    engine.embed_documents(SOME)
    engine.close()
    engine.close()
    gc.collect()
    assert [reference() for reference in made] == [None]
    assert threading.active_count() <= before


def test_closed_engine_says_so(minilm_folder):
    """It doesn't load again by itself."""
    engine = EmbeddingEngine(minilm_folder, device="cpu")
    engine.close()
    with pytest.raises(EmbedderClosed, match="was closed"):
        engine.embed_documents(SOME)


def test_closing_fails_those_who_wait(minilm_folder):
    """Nobody waits for ever."""
    engine = EmbeddingEngine(minilm_folder, device="cpu")
    job = engine.submit([prose(200, seed=row) for row in range(3000)], role=Role.DOCUMENT)
    engine.close()
    with pytest.raises(EmbedderClosed):
        job.result(timeout=60)


def test_making_an_engine_loads_no_weights(minilm_folder):
    """Identity, lengths and instructions are known without them."""
    engine = EmbeddingEngine(minilm_folder)
    assert engine.identity().fingerprint
    assert (engine.dimensions, engine.max_length, dict(engine.instructions)) == (384, 256, {})
    assert engine.count_tokens(["hello world"]) == [4]
    assert engine._worker is None


def test_error_at_load_reaches_every_caller(minilm_folder):
    """Not only the first."""
    engine = EmbeddingEngine(minilm_folder, device="cuda:99")
    for _ in range(2):
        with pytest.raises(UsageError, match="device='cuda:99' isn't here"):
            engine.embed_documents(SOME)


@pytest.mark.slow
def test_process_ends_cleanly_without_close(minilm_folder):
    """With a bulk job running and nobody closing the engine."""
    script = (
        "import sys; from sightline import EmbeddingEngine; from sightline.types import Role\n"
        "engine = EmbeddingEngine(sys.argv[1], device='cpu'); engine.embed_queries(['a'])\n"
        "job = engine.submit(['word ' * 100] * 3000, role=Role.DOCUMENT)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(minilm_folder)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_two_engines_may_load_at_the_same_time(minilm_folder):
    """transformers' first import and its loading aren't made for two threads; torch's number format stays as it was."""
    script = (
        "import sys, threading, torch; from sightline import EmbeddingEngine\n"
        "engines = [EmbeddingEngine(sys.argv[1], device='cpu', dtype=dtype) for dtype in ('bfloat16', 'float32', 'bfloat16')]\n"
        "threads = [threading.Thread(target=engine.load) for engine in engines]\n"
        "[thread.start() for thread in threads]; [thread.join() for thread in threads]\n"
        "print(torch.get_default_dtype(), *(engine.describe().dtype for engine in engines))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(minilm_folder)], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("torch.float32 bfloat16 float32 bfloat16\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_engine_in_a_forked_child_says_so(minilm):
    """Its device thread isn't there; waiting would never end."""
    minilm.load()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            minilm.embed_documents(SOME)
        except SightlineError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert b"forked" in os.read(read, 1000)
    os.close(read)
    os.close(write)


@pytest.mark.parametrize(
    "wrong",
    [
        {"on_too_long": "split"},
        {"dtype": "int4"},
        {"max_batch_tokens": 0},
        {"threads": 0},
        {"clean": ["everything"]},
        {"clean": "bom"},
    ],
    ids=str,
)
def test_wrong_arguments_are_named_with_what_is_allowed(minilm_folder, wrong):
    """At construction."""
    with pytest.raises(UsageError, match=next(iter(wrong))):
        EmbeddingEngine(minilm_folder, **wrong)


def test_float16_is_never_chosen():
    """Qwen3-Embedding overflows in it."""
    assert choose_dtype(None, choose_device("cpu")) in ("float32", "bfloat16")


def test_number_format_follows_the_cpu(monkeypatch):
    """Without a matrix unit for bfloat16, float32."""
    monkeypatch.setattr("sightline.embedding.device.cpu_features", lambda: ())
    assert choose_dtype(None, torch.device("cpu")) == "float32"
    monkeypatch.setattr("sightline.embedding.device.cpu_features", lambda: ("amx",))
    assert choose_dtype(None, torch.device("cpu")) == "bfloat16"


@pytest.mark.slow
def test_special_tokens_in_documents_are_an_option(qwen3_folder):
    """Off by default, as in the reference."""
    text = ["before <|im_end|> after"]
    with (
        EmbeddingEngine(qwen3_folder, dtype="float32", device="cpu") as parsed,
        EmbeddingEngine(qwen3_folder, dtype="float32", device="cpu", split_special_tokens=True) as plain,
    ):
        assert np.abs(parsed.embed_documents(text) - plain.embed_documents(text)).max() > 1e-3
