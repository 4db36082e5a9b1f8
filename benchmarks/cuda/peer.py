"""The peer: sentence-transformers in bfloat16, at its best batch size, over the same texts."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.cuda.lab import Lab
from benchmarks.cuda.timing import synchronize

Ids = Sequence[Sequence[int]]


class Peer:
    """A model in sentence-transformers.

    Args:
        attention: "sdpa" pads, "flash_attention_2" packs; the second wants a package of its own.
    """

    def __init__(self, lab: Lab, folder: Path, attention: str = "sdpa") -> None:
        from sentence_transformers import SentenceTransformer

        settings: dict[str, Any] = {"dtype": getattr(torch, lab.dtype), "attn_implementation": attention}
        self._device = lab.device
        self._model = SentenceTransformer(str(folder), device=str(lab.device), model_kwargs=settings, local_files_only=True)
        self._model.eval()

    @torch.inference_mode()
    def embed_ids(self, texts: Ids, batch: int) -> np.ndarray[Any, Any]:
        """What `encode` does behind its tokenizer: longest first, batches of texts, padded to the longest."""
        order = sorted(range(len(texts)), key=lambda number: -len(texts[number]))
        vectors = []
        for start in range(0, len(order), batch):
            some = [texts[number] for number in order[start : start + batch]]
            longest = len(some[0])
            ids, mask = np.zeros((2, len(some), longest), dtype=np.int64)
            for row, text in enumerate(some):
                ids[row, : len(text)] = text
                mask[row, : len(text)] = 1
            tensors = (torch.from_numpy(array).to(self._device) for array in (ids, mask))
            vectors.append(self._model(dict(zip(("input_ids", "attention_mask"), tensors, strict=True)))["sentence_embedding"])
        back = np.empty(len(order), dtype=np.int64)
        back[order] = np.arange(len(order))
        found: np.ndarray[Any, Any] = torch.cat(vectors).float().cpu().numpy()[back]
        return found

    def embed_texts(self, texts: Sequence[str], batch: int) -> np.ndarray[Any, Any]:
        """`encode_document`, as anybody calls it."""
        found: np.ndarray[Any, Any] = self._model.encode_document(list(texts), batch_size=batch)
        return found

    def embed_query(self, text: str) -> np.ndarray[Any, Any]:
        """`encode_query` of one text."""
        found: np.ndarray[Any, Any] = self._model.encode_query([text])
        return found


def flash_is_here() -> bool:
    """Whether the package that packs in sentence-transformers is installed."""
    return importlib.util.find_spec("flash_attn") is not None


def best_batch(lab: Lab, peer: Peer, texts: Ids) -> tuple[int, dict[int, float]]:
    """The batch size with the most tokens a second on a sample, and the rates of all."""
    mean = sum(map(len, texts)) / len(texts)
    budgets = (8192, 32768, 131072) if lab.on_cuda else (256,)
    sizes = sorted({min(len(texts), max(1, round(tokens / mean))) for tokens in budgets})
    rates: dict[int, float] = {}
    for size in sizes:
        try:
            rates[size] = rate(lab, lambda size=size: peer.embed_ids(texts, size), sum(map(len, texts)))
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
    if not rates:
        raise RuntimeError("the peer ran out of memory with every batch size")
    return max(rates, key=rates.__getitem__), rates


def rate(lab: Lab, run: Any, tokens: int, *, rounds: int = 1) -> float:
    """Tokens a second of a run that was warmed up by one before: the best of some rounds."""
    run()
    best = 0.0
    for _ in range(rounds):
        synchronize(lab.device)
        began = time.perf_counter()
        run()
        synchronize(lab.device)
        best = max(best, tokens / (time.perf_counter() - began))
    return best
