"""hidden states -> pooled: one float32 vector a text, through the modules behind the transformer.

Works on packed hidden states `(tokens, hidden)` with a length a text, whichever path the encoder took. All sums are float32 and
run in a text's own order, so a vector doesn't depend on its neighbours.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sightline.embedding.models import DenseSpec, HeadSpec, LayerNormSpec, PoolingSpec
from sightline.embedding.packing import to_device
from sightline.errors import ModelError

_Numbers = npt.NDArray[np.int64]


class Pooler:
    """Pooling and what follows it, for one model on one device."""

    def __init__(self, pooling: PoolingSpec, head: Sequence[HeadSpec], device: torch.device) -> None:
        self._pooling = pooling
        self._head = [_module(spec).to(device).float().eval() for spec in head]

    def __call__(self, hidden: Tensor, lengths: Sequence[int], prompt_lengths: Sequence[int]) -> Tensor:
        """Pool packed texts; tokens behind the last one (filler) are ignored.

        *Shapes:* hidden `(tokens, hidden)`, both lengths `(num_texts,)` -> float32 `(num_texts, dimensions)`.
        """
        skipped = self._skipped(lengths, prompt_lengths)
        return self.finish(torch.cat([_pool(mode, hidden, lengths, skipped) for mode in self._pooling.modes], dim=1))

    def rows(self, lengths: Sequence[int], prompt_lengths: Sequence[int]) -> npt.NDArray[np.int64] | None:
        """The one token that is pooled of each text, `(num_texts,)`; None where pooling looks at more."""
        ends: npt.NDArray[np.int64] = np.cumsum(lengths, dtype=np.int64)
        match self._pooling.modes:
            case ("lasttoken",):
                return ends - 1
            case ("cls",):
                starts: npt.NDArray[np.int64] = ends - np.asarray(lengths) + np.asarray(self._skipped(lengths, prompt_lengths))
                return starts
        return None

    def finish(self, pooled: Tensor) -> Tensor:
        """What follows the pooling. *Shapes:* `(num_texts, pooled)` -> float32 `(num_texts, dimensions)`."""
        pooled = pooled.float()
        for module in self._head:
            pooled = module(pooled)
        return pooled

    def _skipped(self, lengths: Sequence[int], prompt_lengths: Sequence[int]) -> list[int]:
        if self._pooling.include_prompt:
            return [0] * len(lengths)
        return [min(prompt, length - 1) for prompt, length in zip(prompt_lengths, lengths, strict=True)]


def _pool(mode: str, hidden: Tensor, lengths: Sequence[int], skipped: Sequence[int]) -> Tensor:
    counts, skip = np.asarray(lengths, dtype=np.int64), np.asarray(skipped, dtype=np.int64)
    ends = np.cumsum(counts)
    if mode == "lasttoken":
        return hidden[to_device(ends - 1, hidden.device)].float()
    if mode == "cls":
        return hidden[to_device(ends - counts + skip, hidden.device)].float()
    return _reduce(mode, *_kept(hidden, counts, skip))


def _kept(hidden: Tensor, counts: _Numbers, skip: _Numbers) -> tuple[Tensor, Tensor, _Numbers]:
    """The tokens that count, how many a text, and their positions (from 1) in their text.

    Reckoned on the host, which knows the lengths: asking a device would be waiting for it.
    """
    total = int(counts.sum())
    position = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
    tokens = hidden[:total].float()
    if skip.any():
        keep = np.flatnonzero(position >= np.repeat(skip, counts))
        tokens, position, counts = tokens[to_device(keep, hidden.device)], position[keep], counts - skip
    return tokens, to_device(counts, hidden.device), position + 1


def _reduce(mode: str, tokens: Tensor, counts: Tensor, position: _Numbers) -> Tensor:
    if mode == "max":
        return _of_each("max", tokens, counts)
    if mode == "weightedmean":
        weights = to_device(position, tokens.device).float()[:, None]
        return _of_each("sum", tokens * weights, counts) / _of_each("sum", weights, counts)
    total = _of_each("sum", tokens, counts)
    divisor = counts.float()[:, None]
    return total / (divisor.sqrt() if mode == "mean_sqrt_len_tokens" else divisor)


def _of_each(reduce: str, tokens: Tensor, counts: Tensor) -> Tensor:
    """Sum or maximum over each text; `unsafe`, because the check of the lengths would wait for the device."""
    return torch.segment_reduce(tokens, reduce, lengths=counts, axis=0, unsafe=True)


def _module(spec: HeadSpec) -> nn.Module:
    if isinstance(spec, DenseSpec):
        return _Dense(spec)
    if isinstance(spec, LayerNormSpec):
        norm = nn.LayerNorm(spec.dimensions)
        _load(norm, spec.weights, prefix="norm.")
        return norm
    return _Normalize()


class _Normalize(nn.Module):
    def forward(self, vectors: Tensor) -> Tensor:
        return nn.functional.normalize(vectors, dim=1)


class _Dense(nn.Module):
    def __init__(self, spec: DenseSpec) -> None:
        super().__init__()
        self.linear = nn.Linear(spec.in_features, spec.out_features, bias=spec.bias)
        self.activation = _activation(spec)
        self.adds_input = spec.residual
        self.residual = (
            nn.Linear(spec.in_features, spec.out_features, bias=False)
            if spec.residual and spec.in_features != spec.out_features
            else nn.Identity()
        )
        _load(self, spec.weights)

    def forward(self, vectors: Tensor) -> Tensor:
        result: Tensor = self.activation(self.linear(vectors))
        return result + self.residual(vectors) if self.adds_input else result


def _activation(spec: DenseSpec) -> nn.Module:
    """torch's own activation classes only: a name from a model folder imports nothing else."""
    module, _, name = spec.activation.rpartition(".")
    if module.split(".")[:2] != ["torch", "nn"]:
        raise ModelError(
            f"{spec.weights.parent}: the activation {spec.activation!r} isn't torch's own; Sightline runs no other code."
        )
    kind: Any = getattr(importlib.import_module(module), name, None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ModelError(f"{spec.weights.parent}: torch has no activation {spec.activation!r}.")
    return kind()


def _load(module: nn.Module, path: Path, prefix: str = "") -> None:
    try:
        module.load_state_dict({name.removeprefix(prefix): tensor.float() for name, tensor in load_file(path).items()})
    except (RuntimeError, SafetensorError) as error:
        raise ModelError(f"{path} doesn't fit its config.json: {error}") from error
