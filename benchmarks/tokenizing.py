"""Case 7: tokenisation alone: how fast the engine makes token ids, without a model behind it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import mixes, models
from benchmarks.measuring import Figures, in_turn, middle, run_apart, table

_TOKENS = 400_000
_WINDOW = 1_024  # texts that the engine itself tokenises at a time


def ours(settings: Figures) -> Figures:
    """A side: `EmbeddingEngine.tokenize`, window by window."""
    from sightline import EmbeddingEngine
    from sightline.types import Role

    texts: list[str] = json.loads(Path(settings["texts"]).read_text())
    engine = EmbeddingEngine(settings["folder"], device="cpu")
    engine.tokenize(texts[:64], role=Role.DOCUMENT)
    began, before = time.perf_counter(), time.process_time()
    for start in range(0, len(texts), _WINDOW):
        engine.tokenize(texts[start : start + _WINDOW], role=Role.DOCUMENT)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "tokens_per_second": settings["tokens"] / seconds, "processor": time.process_time() - before}


def transformers(settings: Figures) -> Figures:
    """The peer: transformers' `AutoTokenizer`, with truncation, lists of ids and no padding."""
    from transformers import AutoTokenizer

    texts: list[str] = json.loads(Path(settings["texts"]).read_text())
    tokenizer = AutoTokenizer.from_pretrained(settings["folder"])
    tokenizer(texts[:64])
    began, before = time.perf_counter(), time.process_time()
    for start in range(0, len(texts), _WINDOW):
        tokenizer(texts[start : start + _WINDOW], truncation=True, max_length=settings["limit"])
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "tokens_per_second": settings["tokens"] / seconds, "processor": time.process_time() - before}


def measure(work: Path, rounds: int, say: Callable[[str], None]) -> tuple[Figures, str]:
    """The figures, and the table that shows them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found: Figures = {}
    rows = []
    for name in ("minilm", "qwen3-0.6b-shape"):
        (work / f"tokens-{name}").mkdir()
        model = models.prepare(name, work / f"tokens-{name}", 1)
        mix = mixes.make("chunks", _TOKENS, model.limit, mixes.open_tokenizer(model.folder), mixes.open_source(model.languages))
        path = work / f"tokens-{name}.json"
        path.write_text(json.dumps(mix.texts))
        settings = {"folder": model.folder, "texts": str(path), "tokens": mix.tokens, "limit": model.limit}
        runs = {
            f"{label}, {threads} {'thread' if threads == 1 else 'threads'}": (side, threads)
            for label, side in (("Sightline", ours), ("AutoTokenizer", transformers))
            for threads in sorted({1, min(2, cores), cores})
        }
        sides = {
            label: partial(run_apart, side, settings, environment=_threads(threads)) for label, (side, threads) in runs.items()
        }
        found[name] = {"mix": mix.facts(), "tokenizer": model.tokenizer, "sides": in_turn(sides, rounds, say)}
        for label, figures in found[name]["sides"].items():
            one = middle(figures)
            seconds = [f"{one['seconds']:.2f}", f"{one['processor']:.2f}"]
            rows.append([f"{name}: {label}", f"{one['tokens_per_second']:,.0f}", *seconds])
    return found, table(["tokenizer", "tokens/s", "seconds", "CPU s"], rows)


def _threads(count: int) -> dict[str, str]:
    return {"RAYON_NUM_THREADS": str(count), "TOKENIZERS_PARALLELISM": "true"}
