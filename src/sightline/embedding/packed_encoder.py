"""packed batches -> hidden states by a forward pass of our own, for the families that have one.

What the stock modules of transformers can't do: one product for query, key and value, fused operators between the products, the
second half of the last layer for the pooled tokens only, keys and values of a shared instruction computed once, CUDA graphs for
small batches; and they take three seconds to import.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sightline.embedding import attention, bert, native, qwen3
from sightline.embedding.batching import TokenBatch
from sightline.embedding.device import default_batch_tokens
from sightline.embedding.forward import Forward, Unsupported
from sightline.embedding.graphs import Graphs
from sightline.embedding.linear import MakeLinear, make_int8, make_linear
from sightline.embedding.models import ModelSpec
from sightline.embedding.operators import NativeOperators, Operators, Pack, Prefix, TorchOperators
from sightline.embedding.packing import Packing, to_device
from sightline.embedding.weights import Weights
from sightline.errors import ModelError, UsageError

log = logging.getLogger(__name__)

_FAMILIES: tuple[tuple[Any, Any], ...] = ((bert, bert.BertForward), (qwen3, qwen3.Qwen3Forward))
# A shared beginning of fewer tokens isn't worth a pass of its own.
_LEAST_PREFIX = 8
_PREFIXES_KEPT = 8
# A fused operator may be so many times as far from float32 as plain torch is in the same number format.
_NOISE_FACTOR = 2.0
# Mean cosine of hidden states in int8 and in bfloat16, below which a model's vectors would suffer.
_LEAST_INT8_COSINE = 0.99
_PROBE_LENGTHS = (33, 1, 70, 18)


class PackedEncoder:
    """A hand-written forward over packed texts.

    Raises:
        Unsupported: There is none for this model.
    """

    def __init__(self, spec: ModelSpec, device: torch.device, dtype: str, *, deterministic: bool = False) -> None:
        self._device = device
        self._forward = _load_int8(spec) if dtype == "int8" else _load(spec, device, getattr(torch, dtype))
        self._pad_id = int(spec.config.get("pad_token_id") or 0)
        self._operators = _operators(self._forward, device, dtype, deterministic)
        captures = not deterministic and attention.asks_no_lengths(device, getattr(torch, dtype))
        self._graphs = Graphs(self._forward, self._operators, device) if captures else None
        self._prefixes: OrderedDict[bytes, list[Prefix]] = OrderedDict()
        self._lock = threading.Lock()
        kind = spec.config.get("model_type")
        self.packing = Packing(True, f"packed, by Sightline's own {kind} with {self._operators.name}", self._forward.positions)

    def hidden_states(self, batch: TokenBatch, rows: npt.NDArray[np.int64] | None = None) -> Tensor:
        """Hidden states of the texts back to back, `(tokens, hidden)`, or of the tokens `rows`."""
        if rows is not None and self._graphs is not None:
            replayed = self._graphs.replay(batch.ids, batch.lengths, rows)
            if replayed is not None:
                return replayed
        shared = _shared_tokens(batch) if rows is not None and self._forward.causal else 0
        if shared and rows is not None:
            return self._behind_prefix(batch, shared, rows)
        return self._run(self._pack(*batch.filled(self._pad_id)), rows)

    def _behind_prefix(self, batch: TokenBatch, shared: int, rows: npt.NDArray[np.int64]) -> Tensor:
        """All texts begin with the same `shared` tokens: only what follows them goes through the layers."""
        lengths = np.asarray(batch.lengths)
        text = np.repeat(np.arange(len(lengths)), lengths)
        own = np.arange(len(batch.ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths) >= shared
        pack = self._pack(batch.ids[own], (lengths - shared).tolist(), before=shared)
        return self._run(pack, rows - shared * (text[rows] + 1), self._prefix(batch.ids[:shared]))

    def _run(self, pack: Pack, rows: npt.NDArray[np.int64] | None, prefix: list[Prefix] | None = None) -> Tensor:
        on_device = None if rows is None else to_device(rows, self._device)
        return self._forward(pack, self._operators, rows=on_device, prefix=prefix)

    def _pack(self, ids: npt.NDArray[np.int64], lengths: list[int], before: int = 0) -> Pack:
        return make_pack(self._forward, ids, lengths, self._device, before)

    def _prefix(self, ids: npt.NDArray[np.int64]) -> list[Prefix]:
        """Keys and values of a shared beginning, computed once."""
        name = ids.tobytes()
        with self._lock:
            known = self._prefixes.get(name)
            if known is not None:
                self._prefixes.move_to_end(name)
                return known
        made: list[Prefix] = []
        one = to_device(np.zeros(1, dtype=np.int64), self._device)
        self._forward(self._pack(ids, [len(ids)]), self._operators, rows=one, keep=made)
        with self._lock:
            self._prefixes[name] = made
            while len(self._prefixes) > _PREFIXES_KEPT:
                self._prefixes.popitem(last=False)
        return made


def make_pack(
    forward: Forward, ids: npt.NDArray[np.int64], lengths: list[int], device: torch.device, before: int = 0
) -> Pack:
    """Token ids `(tokens,)` of texts of these lengths, on a device; positions begin behind `before` tokens of a prefix."""
    counts = np.asarray(lengths, dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    positions = forward.positions.of(ids, counts) + before
    return Pack(
        to_device(ids, device), to_device(positions, device), to_device(starts, device), tuple(lengths), int(counts.max())
    )


def _shared_tokens(batch: TokenBatch) -> int:
    """How many tokens all texts begin with, within their prompts and short of the whole of any."""
    most = min(min(batch.prompt_lengths, default=0), min(batch.lengths) - 1)
    if most < _LEAST_PREFIX:
        return 0
    starts = np.cumsum(batch.lengths) - batch.lengths
    beginnings = batch.ids[starts[:, None] + np.arange(most)]
    equal = (beginnings == beginnings[0]).all(axis=0)
    shared = most if equal.all() else int(np.argmin(equal))
    return shared if shared >= _LEAST_PREFIX else 0


def _load_int8(spec: ModelSpec) -> Forward:
    """The forward with int8 products, if they leave the hidden states nearly what they are in bfloat16."""
    cpu = torch.device("cpu")
    kernels = native.kernels(wait=True)
    if kernels is None:
        raise UsageError("dtype='int8' needs the CPU kernels, which aren't there (the log says why). Leave dtype out.")
    exact, quick = _load(spec, cpu, torch.bfloat16), _load(spec, cpu, torch.bfloat16, partial(make_int8, kernels=kernels))
    operators, pack = NativeOperators(wait=True), _probe(exact, cpu)
    expected, found = exact(pack, operators).float(), quick(pack, operators).float()
    cosine = float(torch.nn.functional.cosine_similarity(expected, found, dim=1).mean())
    if not cosine >= _LEAST_INT8_COSINE:
        raise ModelError(
            f"{spec.name} loses too much in int8: its hidden states are at cosine {cosine:.4f} to bfloat16's, at least "
            f"{_LEAST_INT8_COSINE} is wanted. Leave dtype out."
        )
    return quick


def _load(spec: ModelSpec, device: torch.device, dtype: torch.dtype, make: MakeLinear | None = None) -> Forward:
    config = spec.config
    family = next(((module, kind) for module, kind in _FAMILIES if config.get("model_type") in module.MODEL_TYPES), None)
    if family is None:
        raise Unsupported(f"no forward for {config.get('model_type')!r}")
    if config.get("quantization_config"):
        raise Unsupported("quantised weights")
    module, kind = family
    with Weights(spec, device, dtype, prefixes=module.PREFIXES) as weights:
        try:
            forward: Forward = kind(config, weights, make or partial(make_linear, rows=default_batch_tokens(device)))
        except KeyError as error:
            raise Unsupported(f"the folder has no {error}") from error
        left = sorted(name for name in weights.left if not name.startswith(module.UNUSED))
    if left:
        raise Unsupported(f"{len(left)} tensors that the forward doesn't know, e.g. {left[0]!r}")
    return forward


def _operators(forward: Forward, device: torch.device, dtype: str, deterministic: bool) -> Operators:
    if device.type == "cpu" and dtype in ("bfloat16", "int8") and native.usable():
        return NativeOperators(wait=deterministic)
    if device.type == "cuda":
        return _cuda_operators(forward, device)
    return TorchOperators()


def _cuda_operators(forward: Forward, device: torch.device) -> Operators:
    """The fused operators, if they are there and right; what they must be as near to as plain torch is float32."""
    plain = TorchOperators()
    try:
        from sightline.embedding.triton_operators import TritonOperators

        fused = TritonOperators()
        distance, allowed = _distance(forward, fused, plain, device)
    except Exception as error:  # noqa: BLE001 - a missing Triton, a compiler that fails, a kernel that the device refuses: all mean plain
        log.warning("the fused CUDA operators can't be used, plain torch is, which is slower: %s", error)
        return plain
    if not distance <= allowed:
        log.warning(
            "the fused CUDA operators are %.2g off float32 (allowed %.2g), so plain torch is used, which is slower",
            distance, allowed,
        )  # fmt: skip
        return plain
    return fused


def _distance(forward: Forward, fused: Operators, plain: Operators, device: torch.device) -> tuple[float, float]:
    """How far the fused operators are from float32 on a probe, and how far they may be."""
    pack = _probe(forward, device)
    exact = forward(pack, plain, dtype=torch.float32)
    scale = exact.norm(dim=1).clamp_min(1e-6)
    off = [((forward(pack, operators).float() - exact).norm(dim=1) / scale).max().item() for operators in (fused, plain)]
    return off[0], _NOISE_FACTOR * off[1] + 1e-5


def _probe(forward: Forward, device: torch.device) -> Pack:
    """A few texts of random tokens."""
    ids = np.random.default_rng(0).integers(0, forward.vocabulary, size=sum(_PROBE_LENGTHS))
    return make_pack(forward, ids, list(_PROBE_LENGTHS), device)
