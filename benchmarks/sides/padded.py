"""What sides without an embedding library share: padded batches, sorted by length, pooled in the model's graph."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Run = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], npt.NDArray[Any]]


class Pooled(torch.nn.Module):
    """Ids and mask `(batch, length)` -> unit vectors `(batch, dimensions)`, pooled as the model's folder says."""

    def __init__(self, folder: str, dtype: str, attention: str = "sdpa") -> None:
        super().__init__()
        from transformers import AutoModel

        self.model = AutoModel.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation=attention).eval()
        pooling = json.loads((Path(folder) / "1_Pooling" / "config.json").read_text())
        self.takes_last = bool(pooling.get("pooling_mode_lasttoken"))
        self.more = {"use_cache": False} if self.takes_last else {}

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """One forward; padding is on the right."""
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask, **self.more).last_hidden_state.float()
        if self.takes_last:
            last = attention_mask.sum(dim=1) - 1
            pooled = hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.shape[-1]))[:, 0]
        else:
            mask = attention_mask[:, :, None].to(hidden.dtype)
            pooled = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        return torch.nn.functional.normalize(pooled, dim=-1)


class Batches:
    """Texts -> padded batches, longest first."""

    def __init__(self, folder: str) -> None:
        from tokenizers import Tokenizer

        config = json.loads((Path(folder) / "config.json").read_text())
        self._tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        self._tokenizer.no_truncation()  # the benchmark's texts are within the model's limit
        self._tokenizer.no_padding()
        self._padding = config.get("pad_token_id") or 0

    def of(self, texts: list[str], batch: int) -> Iterator[tuple[list[int], npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """`(rows, ids, mask)` of each batch."""
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]
        order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            padded = np.full((len(rows), len(ids[rows[0]])), self._padding, dtype=np.int64)
            mask = np.zeros_like(padded)
            for number, row in enumerate(rows):
                padded[number, : len(ids[row])] = ids[row]
                mask[number, : len(ids[row])] = 1
            yield rows, padded, mask


def embedder(folder: str, run: Run, default: int = 32) -> Callable[[list[str], int], npt.NDArray[Any]]:
    """A side from what computes one padded batch."""
    batches = Batches(folder)

    def embed(texts: list[str], batch: int) -> npt.NDArray[Any]:
        rows, vectors = [], []
        for some, ids, mask in batches.of(texts, batch or default):
            rows += some
            vectors.append(run(ids, mask))
        return np.concatenate(vectors)[np.argsort(rows)]

    return embed
