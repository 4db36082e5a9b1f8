"""What lies between the matrix products of a hand-written forward: attention, norms, rotary positions, gates.

`TorchOperators` say what each of them is, on any device and in any number format. `NativeOperators` are the same, fused, on CPUs
with bfloat16 units (`native.py`); `triton_operators.py` has them for CUDA. Whoever is quicker is held equal to the first by
tests, and by a check at load.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, rms_norm, silu

from sightline.embedding import attention, native

Prefix = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Pack:
    """Texts back to back on a device.

    Args:
        ids: int64 `(tokens,)`.
        positions: int64 `(tokens,)`, beginning anew with each text (behind the prefix, where there is one).
        starts: int32 `(num_texts + 1,)`: where each text begins; the last is the number of tokens.
        lengths: The same on the host: tokens of each text.
        longest: Most tokens of a text, or any bound above.
    """

    ids: Tensor
    positions: Tensor
    starts: Tensor
    lengths: tuple[int, ...]
    longest: int


@dataclass(frozen=True, slots=True)
class Norm:
    """Weight `(width,)`, bias `(width,)` or None, and epsilon."""

    weight: Tensor
    bias: Tensor | None
    epsilon: float


@dataclass(frozen=True, slots=True)
class Rotation:
    """How query and key heads are normed and turned. cosine and sine are float32 `(positions, head width / 2)`."""

    query_norm: Norm
    key_norm: Norm
    cosine: Tensor
    sine: Tensor
    heads: int
    kv_heads: int


class Operators(Protocol):
    """The operators of one device. Rows are tokens; *shapes* as in `TorchOperators`."""

    name: str

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, pack: Pack, *, scale: float, causal: bool, prefix: Prefix | None = None
    ) -> Tensor: ...
    def add_and_layer_norm(self, rows: Tensor, residual: Tensor, norm: Norm) -> Tensor: ...
    def add_and_rms_norm(self, rows: Tensor, residual: Tensor | None, norm: Norm) -> tuple[Tensor, Tensor]: ...
    def norm_and_rotate(self, rows: Tensor, rotation: Rotation, positions: Tensor) -> None: ...
    def silu_and_multiply(self, rows: Tensor) -> Tensor: ...


class TorchOperators:
    """Plain torch: what the others must equal."""

    name = "torch"

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, pack: Pack, *, scale: float, causal: bool, prefix: Prefix | None = None
    ) -> Tensor:
        """Attention within each text, and of each text to the prefix.

        *Shapes:* query `(tokens, heads, width)`, key and value `(tokens, kv_heads, width)`, prefix `(before, kv_heads, width)`
        twice -> `(tokens, heads, width)`.
        """
        return attention.attend(query, key, value, pack.starts, pack.lengths, pack.longest, scale, causal, prefix=prefix)

    def add_and_layer_norm(self, rows: Tensor, residual: Tensor, norm: Norm) -> Tensor:
        """Layer norm of a sum. *Shapes:* `(tokens, width)` twice -> `(tokens, width)`."""
        weight, bias = norm.weight.to(rows.dtype), None if norm.bias is None else norm.bias.to(rows.dtype)
        return layer_norm(rows + residual, weight.shape, weight, bias, norm.epsilon)

    def add_and_rms_norm(self, rows: Tensor, residual: Tensor | None, norm: Norm) -> tuple[Tensor, Tensor]:
        """`(rms norm of the sum, the sum)`. *Shapes:* `(tokens, width)` twice -> `(tokens, width)` twice."""
        total = rows if residual is None else rows + residual
        return _rms_norm(total, norm), total

    def norm_and_rotate(self, rows: Tensor, rotation: Rotation, positions: Tensor) -> None:
        """Norm and rotate the heads of query and key, which lie at the front of each row, in place.

        *Shape:* `(tokens, at least (heads + kv_heads) * width)`.
        """
        width = len(rotation.query_norm.weight)
        cosine, sine = (table[positions][:, None] for table in (rotation.cosine, rotation.sine))
        start = 0
        for count, norm in ((rotation.heads, rotation.query_norm), (rotation.kv_heads, rotation.key_norm)):
            part = rows[:, start : start + count * width].unflatten(1, (count, width))  # type: ignore[no-untyped-call]
            low, high = _rms_norm(part, norm).float().chunk(2, dim=-1)
            part.copy_(torch.cat([low * cosine - high * sine, high * cosine + low * sine], dim=-1))
            start += count * width

    def silu_and_multiply(self, rows: Tensor) -> Tensor:
        """silu of the first half of the columns times the second. *Shapes:* `(tokens, 2 * width)` -> `(tokens, width)`."""
        gate, up = rows.chunk(2, dim=1)
        return silu(gate) * up


class NativeOperators(TorchOperators):
    """The compiled CPU kernels, as soon as they are there; torch's operators until then.

    Args:
        wait: Wait for them instead, so that no vector depends on when they were ready.
    """

    name = "native"

    def __init__(self, *, wait: bool) -> None:
        native.kernels(wait=wait)

    def add_and_layer_norm(self, rows: Tensor, residual: Tensor, norm: Norm) -> Tensor:
        """As `TorchOperators`."""
        kernels = native.kernels()
        if kernels is None or norm.bias is None or rows.shape[1] % 16 or rows.shape[1] > native.WIDEST:
            return super().add_and_layer_norm(rows, residual, norm)
        return kernels.add_and_layer_norm(rows, residual, norm.weight, norm.bias, norm.epsilon)

    def add_and_rms_norm(self, rows: Tensor, residual: Tensor | None, norm: Norm) -> tuple[Tensor, Tensor]:
        """As `TorchOperators`."""
        kernels = native.kernels()
        if kernels is None or rows.shape[1] % 16:
            return super().add_and_rms_norm(rows, residual, norm)
        return kernels.add_and_rms_norm(rows, residual, norm.weight, norm.epsilon)

    def norm_and_rotate(self, rows: Tensor, rotation: Rotation, positions: Tensor) -> None:
        """As `TorchOperators`."""
        kernels = native.kernels()
        if kernels is None or len(rotation.query_norm.weight) % 32:
            super().norm_and_rotate(rows, rotation, positions)
            return
        kernels.norm_and_rotate(
            rows, rotation.query_norm.weight, rotation.key_norm.weight, rotation.cosine, rotation.sine, positions,
            heads=rotation.heads, kv_heads=rotation.kv_heads, epsilon=rotation.query_norm.epsilon,
        )  # fmt: skip

    def silu_and_multiply(self, rows: Tensor) -> Tensor:
        """As `TorchOperators`."""
        kernels = native.kernels()
        return super().silu_and_multiply(rows) if kernels is None or rows.shape[1] % 32 else kernels.silu_and_multiply(rows)


def _rms_norm(rows: Tensor, norm: Norm) -> Tensor:
    return rms_norm(rows, norm.weight.shape, norm.weight.to(rows.dtype), norm.epsilon)
