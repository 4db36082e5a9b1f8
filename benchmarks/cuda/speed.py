"""Throughput: tokens a second end to end, the share of the matrix rate that this is, peak memory, and the peer beside it."""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.cuda.ceilings import product_rate
from benchmarks.cuda.lab import Lab
from benchmarks.cuda.peer import Peer, best_batch, flash_is_here, rate
from benchmarks.cuda.shapes import Shape, mixes, model_folder, prose, shape_of
from benchmarks.cuda.timing import synchronize
from sightline import EmbeddingEngine, TokenizedText
from sightline.embedding.batching import TokenBatch
from sightline.embedding.packed_encoder import PackedEncoder

_SMALL, _MOST_TOKENS = 32_768, 1_500_000
_BUDGETS = (4096, 8192, 16384, 32768, 65536)
# What a sample's size is reckoned with; what comes out is measured.
_ASSUMED_FLOPS = 350e12
_KEPT = ("0.6b",)


def throughput(lab: Lab, name: str) -> None:
    """One model: ours over all mixes first, then the peer over as many as there is time for."""
    shape = shape_of(lab, name)
    try:
        folder = model_folder(lab, shape)
        peak = product_rate(lab, *((8192,) * 3 if lab.on_cuda else (256,) * 3), torch.bfloat16 if lab.on_cuda else torch.float32)
        samples = {mix: _sample(lab, shape, draw, 1.0 if name in _KEPT else 0.6) for mix, draw in mixes(shape.longest).items()}
        texts = [prose(np.random.default_rng(3), size) for size in _characters(lab, shape)] if name in _KEPT else []
        ours: dict[str, float] = {}
        with EmbeddingEngine(folder, device=str(lab.device), dtype=lab.dtype).load() as engine:
            how = engine.describe()
            lab.note("runs", f"{how.packing}, {how.dtype}, {how.max_batch_tokens} tokens a pass")
            for mix, lengths in samples.items():
                if lab.enough(3, f"{name} {mix}"):
                    ours[mix] = _ours(lab, engine, shape, mix, lengths, peak)
            if texts:
                ours["texts"] = _ours_of_texts(lab, engine, texts)
                counts = engine.count_tokens(texts)
        _free()
        _peers(lab, shape, samples, texts, sum(counts) if texts else 0, ours)
    finally:
        if name not in _KEPT:
            shutil.rmtree(lab.work / f"{shape.name}-{shape.layers}", ignore_errors=True)


def budgets(lab: Lab) -> None:
    """Tokens a second of the smallest model for each token budget of a pass."""
    shape = shape_of(lab, "0.6b")
    folder = model_folder(lab, shape)
    draws = mixes(shape.longest)
    for budget in _BUDGETS if lab.on_cuda else (128, 1024):
        if not lab.enough(5, f"a budget of {budget}"):
            continue
        with EmbeddingEngine(folder, device=str(lab.device), dtype=lab.dtype, max_batch_tokens=budget).load() as engine:
            found = {}
            for mix in ("chunks", "queries"):
                lengths = _sample(lab, shape, draws[mix], 0.5)
                texts = token_texts(lengths)
                found[mix] = rate(lab, lambda texts=texts: engine.embed_documents(texts), sum(lengths), rounds=2)
            lab.note(f"{budget} tokens a pass", found)
        _free()


def host(lab: Lab) -> None:
    """Tokens a second if the device took no time at all: what the host's own work would allow, with ids and with texts."""
    shape = shape_of(lab, "0.6b")
    folder = model_folder(lab, shape)

    def at_once(_: PackedEncoder, batch: TokenBatch, rows: Any = None) -> torch.Tensor:
        return torch.ones((sum(batch.lengths) if rows is None else len(rows), shape.hidden), device=lab.device)

    with (
        EmbeddingEngine(folder, device=str(lab.device), dtype=lab.dtype).load() as engine,
        mock.patch.object(PackedEncoder, "hidden_states", at_once),
    ):
        for mix in ("queries", "chunks"):
            lengths = mixes(shape.longest)[mix](np.random.default_rng(2), 400_000 if lab.on_cuda else 3000)
            ids = token_texts(lengths)
            found = rate(lab, lambda ids=ids: engine.embed_documents(ids), sum(lengths), rounds=2)
            lab.note(f"{mix} as ids", {"tokens_per_s": found, "texts_per_s": found / sum(lengths) * len(ids)})
        texts = [prose(np.random.default_rng(3), 4 * length) for length in lengths]
        tokens = sum(engine.count_tokens(texts))
        found = rate(lab, lambda: engine.embed_documents(texts), tokens, rounds=2)
        lab.note("chunks as texts", {"tokens_per_s": found, "texts_per_s": found / tokens * len(texts)})


def devices(lab: Lab) -> None:
    """Two devices, where there are two: each alone gives the same vectors, and together they are as fast as both."""
    count = torch.cuda.device_count() if lab.on_cuda else 0
    if count < 2:
        lab.leave_out("several devices", f"{count} are visible")
        return
    shape = shape_of(lab, "0.6b")
    folder, lengths = model_folder(lab, shape), _sample(lab, shape, mixes(shape.longest)["chunks"], 1.0)
    texts, found = token_texts(lengths), {}
    for device in ("cuda:0", "cuda:1"):
        with EmbeddingEngine(folder, device=device, dtype=lab.dtype) as engine:
            found[device] = engine.embed_documents(texts)
            lab.note(device, rate(lab, lambda engine=engine: engine.embed_documents(texts), sum(lengths)))
    lab.check("cuda:1 beside cuda:0", float(np.linalg.norm(found["cuda:0"] - found["cuda:1"], axis=1).max()), 1e-2)
    with EmbeddingEngine(folder, dtype=lab.dtype, devices=["cuda:0", "cuda:1"]) as engine:
        lab.note("both", rate(lab, lambda: engine.embed_documents(texts), sum(lengths), rounds=2))
        apart = np.linalg.norm(engine.embed_documents(texts) - found["cuda:0"], axis=1)
        lab.check("both beside cuda:0", float(apart.max()), 2e-2)


def token_texts(lengths: Sequence[int], seed: int = 1, prompt: Sequence[int] = ()) -> list[TokenizedText]:
    """Random token ids, of words that any of the tokenizers has; each text begins with `prompt`, which counts."""
    ids = np.random.default_rng(seed).integers(300, 1000, size=sum(lengths))
    pieces = np.split(ids, np.cumsum(lengths)[:-1])
    return [TokenizedText([*prompt, *piece[len(prompt) :].tolist()], len(prompt)) for piece in pieces]


def _sample(lab: Lab, shape: Shape, draw: Callable[[np.random.Generator, int], list[int]], seconds: float) -> list[int]:
    """Lengths of texts that take about so many seconds."""
    random = np.random.default_rng(2)
    if not lab.on_cuda:
        return draw(random, 300)
    few = draw(random, _SMALL)
    tokens = seconds * _ASSUMED_FLOPS / (shape.flops(few) / sum(few))
    return draw(random, int(np.clip(tokens, _SMALL, _MOST_TOKENS)))


def _characters(lab: Lab, shape: Shape) -> list[int]:
    """Lengths of texts in characters, so that their tokens are about those of the chunks."""
    return [4 * length for length in _sample(lab, shape, mixes(shape.longest)["chunks"], 0.7)]


def _ours(lab: Lab, engine: EmbeddingEngine, shape: Shape, mix: str, lengths: list[int], peak: float) -> float:
    texts = token_texts(lengths)
    engine.embed_documents(texts[: max(1, len(texts) // 4)])
    if lab.on_cuda:
        torch.cuda.reset_peak_memory_stats(lab.device)
    before = engine.stats()
    seconds = [_seconds(lab, lambda: engine.embed_documents(texts)) for _ in range(2)]
    after, tokens = engine.stats(), sum(lengths)
    facts = {
        "tokens_per_s": tokens / min(seconds), "other_round": tokens / max(seconds), "texts_per_s": len(texts) / min(seconds),
        "tokens": tokens, "tflops": shape.flops(lengths) / min(seconds) / 1e12,
    }  # fmt: skip
    facts["share"] = facts["tflops"] / peak
    facts["tokens_per_pass"] = (after.tokens - before.tokens) / max(1, after.batches - before.batches)
    if lab.on_cuda:
        facts["peak_gb"] = torch.cuda.max_memory_allocated(lab.device) / 1e9
    lab.note(f"{mix}: ours", facts)
    return facts["tokens_per_s"]


def _ours_of_texts(lab: Lab, engine: EmbeddingEngine, texts: list[str]) -> float:
    tokens = sum(engine.count_tokens(texts))
    began = time.perf_counter()
    engine.count_tokens(texts)
    alone = time.perf_counter() - began
    found = rate(lab, lambda: engine.embed_documents(texts), tokens, rounds=2)
    lab.note("texts: ours", {"tokens_per_s": found, "tokens": tokens, "tokenised_alone_per_s": tokens / alone})
    return found


def _peers(
    lab: Lab, shape: Shape, samples: dict[str, list[int]], texts: list[str], tokens: int, ours: dict[str, float]
) -> None:
    if not lab.enough(12, "the peer"):
        return
    folder = model_folder(lab, shape)
    peer = Peer(lab, folder)
    batch = 32
    for mix, lengths in samples.items():
        if mix not in ours or not lab.enough(6, f"the peer over {mix}"):
            continue
        some = lengths[: max(1, len(lengths) // 3)]
        ids = [text.ids for text in token_texts(some)]
        if lab.on_cuda:
            torch.cuda.reset_peak_memory_stats(lab.device)
        best, rates = best_batch(lab, peer, ids)
        batch = best if mix == "chunks" else batch
        facts: dict[str, Any] = {"tokens_per_s": rates[best], "batch": best, "swept": rates, "times": ours[mix] / rates[best]}
        if lab.on_cuda:
            facts["peak_gb"] = torch.cuda.max_memory_allocated(lab.device) / 1e9
        lab.note(f"{mix}: peer", facts)
    if texts and lab.enough(6, "the peer over texts"):
        _peer_of_texts(lab, "texts: peer", peer, texts, tokens, batch, ours["texts"])
    del peer
    _free()
    if texts and lab.on_cuda and flash_is_here() and lab.enough(12, "the peer with flash attention"):
        packed = Peer(lab, folder, "flash_attention_2")
        _peer_of_texts(lab, "texts: peer, flash", packed, texts, tokens, batch, ours["texts"])
        del packed
        _free()


def _peer_of_texts(lab: Lab, name: str, peer: Peer, texts: list[str], tokens: int, batch: int, ours: float) -> None:
    found = rate(lab, lambda: peer.embed_texts(texts, batch), tokens)
    lab.note(name, {"tokens_per_s": found, "batch": batch, "times": ours / found})


def _seconds(lab: Lab, run: Callable[[], Any]) -> float:
    synchronize(lab.device)
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
