"""One short query: text in, numpy out. And many short queries behind one instruction, whose keys and values are kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.cuda.lab import Lab
from benchmarks.cuda.peer import Peer, rate
from benchmarks.cuda.shapes import model_folder, shape_of
from benchmarks.cuda.timing import median_seconds, percentiles
from sightline import EmbeddingEngine, TokenizedText
from sightline.embedding import packed_encoder
from sightline.embedding.batching import TokenBatch
from sightline.embedding.models import load_spec
from sightline.embedding.packed_encoder import PackedEncoder
from sightline.types import Role

_TOKENS = 32


@contextmanager
def without_graphs() -> Iterator[None]:
    """Engines that are loaded in here capture no graphs."""
    with mock.patch.object(packed_encoder, "Graphs", return_value=None):
        yield


@contextmanager
def without_sharing() -> Iterator[None]:
    """In here every query computes its instruction anew."""
    with mock.patch.object(packed_encoder, "_shared_tokens", return_value=0):
        yield


def latency(lab: Lab) -> None:
    """Percentiles over 300 calls: with graphs, without, and the peer; and the device's part alone."""
    folder = model_folder(lab, shape_of(lab, "0.6b"))
    calls = 300 if lab.on_cuda else 8
    for name, context in (("with graphs", nullcontext()), ("without graphs", without_graphs())):
        if not lab.enough(5, name):
            continue
        with context, EmbeddingEngine(folder, device=str(lab.device), dtype=lab.dtype).load() as engine:
            text = _query(engine)
            lab.note(name, _timed(lambda engine=engine, text=text: engine.embed_queries([text]), calls))
            again = [engine.embed_queries([text])[0] for _ in range(3)]
            lab.check(f"the same query again, {name}", float(max(np.abs(again[0] - one).max() for one in again)), 0.0)
    if lab.enough(10, "the peer"):
        peer = Peer(lab, folder)
        lab.note("peer", _timed(lambda: peer.embed_query(text), calls))
        del peer
    for name, context in (("device, with graphs", nullcontext()), ("device, without graphs", without_graphs())):
        if lab.enough(4, name):
            lab.note(name, {"ms": 1000 * _device_seconds(lab, folder, context)})


def _query(engine: EmbeddingEngine) -> str:
    """A question that has 32 tokens with its instruction, or as few more as there can be."""
    prompt, words = engine.instructions.get("query", ""), ["what"]
    while engine.count_tokens([" ".join(words)], prompt)[0] < _TOKENS:
        words.append("lamp")
    return " ".join(words)


def _timed(call: Callable[[], Any], calls: int) -> dict[str, float]:
    for _ in range(max(3, calls // 10)):
        call()
    seconds = []
    for _ in range(calls):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return percentiles(seconds)


@torch.inference_mode()
def _device_seconds(lab: Lab, folder: Path, context: Any) -> float:
    """The device's own time for a pass over one text, launches over before the clock runs."""
    with context:
        encoder = PackedEncoder(load_spec(folder), lab.device, lab.dtype)
    ids = np.random.default_rng(0).integers(300, 1000, size=_TOKENS)
    batch, rows = TokenBatch(ids, [_TOKENS], prompt_lengths=[0]), np.array([_TOKENS - 1])
    repeats = 50 if lab.on_cuda else 3
    return median_seconds(
        lambda _: encoder.hidden_states(batch, rows), lab.device, repeats=repeats, warm_ups=5, hold_back=0.02
    )


def prefixes(lab: Lab) -> None:
    """Queries a second of 12 tokens behind the default instruction: its keys and values kept, or computed each time."""
    folder = model_folder(lab, shape_of(lab, "0.6b"))
    count = 16384 if lab.on_cuda else 40
    with EmbeddingEngine(folder, device=str(lab.device), dtype=lab.dtype).load() as engine:
        sample = engine.tokenize(["x"], role=Role.QUERY)[0]
        prompt, closing = list(sample.ids[: sample.prompt_length]), list(sample.ids[-1:])
        random = np.random.default_rng(4).integers(300, 1000, size=(count, 11)).tolist()
        queries = [TokenizedText([*prompt, *ids, *closing], len(prompt)) for ids in random]
        tokens = sum(len(query.ids) for query in queries)
        vectors = {}
        for name, context in (("kept", nullcontext()), ("computed", without_sharing())):
            if lab.enough(3, name):
                with context:
                    vectors[name] = engine.embed_queries(queries[:512])
                    found = rate(lab, lambda: engine.embed_queries(queries), tokens, rounds=2)
                facts = {"queries_per_s": found / tokens * count, "tokens_per_s": found, "instruction_tokens": len(prompt)}
                lab.note(name, facts)
    if len(vectors) == 2:
        apart = np.linalg.norm(vectors["kept"] - vectors["computed"], axis=1)
        lab.check("kept beside computed", float(apart.max()), 0.05)
