"""What a shared instruction costs: short queries behind it, its keys and values computed once or with every query."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.measuring import Figures, in_turn, middle, ratios, run_apart, table
from benchmarks.models import prepare

_QUERIES = 256
_OWN_TOKENS = 12
_LONE = 20
# Qwen3-Embedding's own, from its model card.
_TASK = "Given a web search query, retrieve relevant passages that answer the query"
_TEMPLATE = "Instruct: {instruction}\nQuery:"
_WORDS = [
    "when", "does", "the", "ferry", "leave", "for", "island", "and", "how", "is", "lamp", "of", "tower", "cleaned", "in",
    "winter", "after", "storm", "from", "west",
]  # fmt: skip


def queries(settings: Figures) -> Figures:
    """A side: many queries in one call, and one at a time."""
    from sightline import EmbeddingEngine
    from sightline.embedding import packed_encoder

    if not settings["shared"]:
        packed_encoder._LEAST_PREFIX = 10**6  # there is no switch for it, because nobody but this comparison wants one
    options = {"query_instruction": _TASK, "instruction_template": _TEMPLATE}
    with EmbeddingEngine(settings["folder"], device="cpu", dtype=settings["dtype"], **options) as engine:
        texts = _texts(engine.count_tokens)
        engine.embed_queries(texts[:16])
        began = time.perf_counter()
        engine.embed_queries(texts)
        seconds = time.perf_counter() - began
        alone = []
        for text in texts[:_LONE]:
            start = time.perf_counter()
            engine.embed_queries([text])
            alone.append(1e3 * (time.perf_counter() - start))
        prompt = engine.count_tokens([texts[0]], engine.identity().query_prompt)[0] - _OWN_TOKENS - 1
    return {
        "seconds": seconds, "queries_per_second": len(texts) / seconds, "alone_ms": sorted(alone)[_LONE // 2],
        "prompt_tokens": prompt,
    }  # fmt: skip


def measure(work: Path, dtype: str, layers: int | None, rounds: int, say: Callable[[str], None]) -> tuple[Figures, str]:
    """The figures, and the table that shows them."""
    model = prepare("qwen3-0.6b-shape", work, layers)
    base = {"folder": model.folder, "dtype": dtype}
    kinds = {"computed once": True, "every time": False}
    sides = {name: partial(run_apart, queries, {**base, "shared": shared}) for name, shared in kinds.items()}
    found = in_turn(sides, rounds, say)
    rows = []
    for name, figures in found.items():
        one = middle(figures)
        rows.append([
            name, f"{one['queries_per_second']:.1f}", f"{one['alone_ms']:.1f}",
            ratios(figures, found["every time"], "queries_per_second"),
        ])  # fmt: skip
    prompt = int(next(iter(found.values()))[0]["prompt_tokens"])
    about = (
        f"{_QUERIES} queries of {_OWN_TOKENS} tokens behind the default instruction ({prompt} tokens more), {model.name}, "
        f"{model.shape.layers} layers, {dtype}; tokenizer: {model.tokenizer}."
    )
    header = ["the instruction's keys and values", "queries/s", "one query alone, ms", "queries/s to every time"]
    return {"model": model.facts(), "sides": found}, f"{about}\n\n{table(header, rows)}"


def _texts(count: Callable[[list[str]], list[int]]) -> list[str]:
    """Queries of exactly so many tokens of their own (the closing token aside)."""
    chooser = random.Random(0)
    tried = [" ".join(chooser.choices(_WORDS, k=chooser.randint(8, _OWN_TOKENS))) for _ in range(40 * _QUERIES)]
    found = [text for text, tokens in zip(tried, count(tried), strict=True) if tokens == _OWN_TOKENS + 1]
    if len(found) < _QUERIES:
        raise SystemExit(f"only {len(found)} of {len(tried)} made up queries have {_OWN_TOKENS} tokens; {_QUERIES} are needed")
    return found[:_QUERIES]
