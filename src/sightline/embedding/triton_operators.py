"""The fused operators on CUDA, in Triton: each reads its rows once and writes its result once; arithmetic is float32.

What they must give is written in `operators.TorchOperators`; the tests compare the two in Triton's interpreter, and the check at
load on the device itself. Triton keeps what it compiled on disk.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sightline.embedding.operators import Norm, Rotation, TorchOperators

_GATE_BLOCK = 1024


@triton.jit  # type: ignore[untyped-decorator]
def _add_and_rms_norm(rows, residual, weight, total, out, width, epsilon, ADD: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    at = tl.arange(0, BLOCK)
    inside = at < width
    start = tl.program_id(0).to(tl.int64) * width
    value = tl.load(rows + start + at, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        value += tl.load(residual + start + at, mask=inside, other=0.0).to(tl.float32)
        rounded = value.to(total.dtype.element_ty)  # the norm is of the rounded sum, as the sum goes on
        tl.store(total + start + at, rounded, mask=inside)
        value = rounded.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(value * value, axis=0) / width + epsilon)
    weighted = value * scale * tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + start + at, weighted.to(out.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _add_and_layer_norm(rows, residual, weight, bias, out, width, epsilon, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    at = tl.arange(0, BLOCK)
    inside = at < width
    start = tl.program_id(0).to(tl.int64) * width
    value = tl.load(rows + start + at, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(residual + start + at, mask=inside, other=0.0).to(tl.float32)
    off = tl.where(inside, value - tl.sum(value, axis=0) / width, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(off * off, axis=0) / width + epsilon)
    weighted = off * scale * tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    weighted += tl.load(bias + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + start + at, weighted.to(out.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _norm_and_rotate(  # type: ignore[no-untyped-def] # noqa: ANN202
    rows, query_weight, key_weight, cosine, sine, positions, stride, query_epsilon, key_epsilon,  # noqa: ANN001
    HEADS: tl.constexpr, ALL_HEADS: tl.constexpr, HALF: tl.constexpr, HEAD_BLOCK: tl.constexpr, HALF_BLOCK: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head, at = tl.arange(0, HEAD_BLOCK)[:, None], tl.arange(0, HALF_BLOCK)[None, :]
    inside = (head < ALL_HEADS) & (at < HALF)
    low_at = rows + token * stride + head * (2 * HALF) + at
    low = tl.load(low_at, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(low_at + HALF, mask=inside, other=0.0).to(tl.float32)
    is_query = head < HEADS
    epsilon = tl.where(is_query, query_epsilon, key_epsilon)
    scale = 1.0 / tl.sqrt((tl.sum(low * low, axis=1) + tl.sum(high * high, axis=1))[:, None] / (2 * HALF) + epsilon)
    feature = at < HALF
    query_low = tl.load(query_weight + at, mask=feature, other=0.0).to(tl.float32)
    query_high = tl.load(query_weight + HALF + at, mask=feature, other=0.0).to(tl.float32)
    key_low = tl.load(key_weight + at, mask=feature, other=0.0).to(tl.float32)
    key_high = tl.load(key_weight + HALF + at, mask=feature, other=0.0).to(tl.float32)
    low = low * scale * tl.where(is_query, query_low, key_low)
    high = high * scale * tl.where(is_query, query_high, key_high)
    position = tl.load(positions + token)
    c = tl.load(cosine + position * HALF + at, mask=feature, other=0.0)
    s = tl.load(sine + position * HALF + at, mask=feature, other=0.0)
    tl.store(low_at, (low * c - high * s).to(rows.dtype.element_ty), mask=inside)
    tl.store(low_at + HALF, (high * c + low * s).to(rows.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _silu_and_multiply(rows, out, width, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    gate = tl.load(rows + row * 2 * width + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(rows + row * 2 * width + width + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + at, (gate / (1.0 + tl.exp(-gate)) * up).to(out.dtype.element_ty), mask=inside)


class TritonOperators(TorchOperators):
    """The fused kernels; attention is torch's own, of variable length."""

    name = "triton"

    def add_and_layer_norm(self, rows: Tensor, residual: Tensor, norm: Norm) -> Tensor:
        """As `TorchOperators`."""
        if norm.bias is None:
            return super().add_and_layer_norm(rows, residual, norm)
        rows, residual = rows.contiguous(), residual.contiguous()
        out, (count, width) = torch.empty_like(rows), rows.shape
        _add_and_layer_norm[(count,)](
            rows, residual, norm.weight, norm.bias, out, width, norm.epsilon, BLOCK=_power(width), num_warps=_warps(width)
        )
        return out

    def add_and_rms_norm(self, rows: Tensor, residual: Tensor | None, norm: Norm) -> tuple[Tensor, Tensor]:
        """As `TorchOperators`."""
        rows = rows.contiguous()
        out, (count, width) = torch.empty_like(rows), rows.shape
        total = rows if residual is None else torch.empty_like(rows)
        other = rows if residual is None else residual.contiguous()
        _add_and_rms_norm[(count,)](
            rows, other, norm.weight, total, out, width, norm.epsilon, ADD=residual is not None, BLOCK=_power(width),
            num_warps=_warps(width),
        )  # fmt: skip
        return out, total

    def norm_and_rotate(self, rows: Tensor, rotation: Rotation, positions: Tensor) -> None:
        """As `TorchOperators`."""
        half, heads = len(rotation.query_norm.weight) // 2, rotation.heads + rotation.kv_heads
        _norm_and_rotate[(len(rows),)](
            rows, rotation.query_norm.weight, rotation.key_norm.weight, rotation.cosine, rotation.sine, positions, rows.stride(0),
            rotation.query_norm.epsilon, rotation.key_norm.epsilon,
            HEADS=rotation.heads, ALL_HEADS=heads, HALF=half, HEAD_BLOCK=_power(heads), HALF_BLOCK=_power(half), num_warps=4,
        )  # fmt: skip

    def silu_and_multiply(self, rows: Tensor) -> Tensor:
        """As `TorchOperators`."""
        rows = rows.contiguous()
        count, width = rows.shape[0], rows.shape[1] // 2
        out = rows.new_empty((count, width))
        _silu_and_multiply[(count, triton.cdiv(width, _GATE_BLOCK))](rows, out, width, BLOCK=_GATE_BLOCK, num_warps=4)
        return out


def _power(number: int) -> Any:
    return triton.next_power_of_2(number)


def _warps(width: int) -> int:
    """A warp for each 256 elements of a row."""
    return int(min(max(_power(width) // 256, 1), 16))
