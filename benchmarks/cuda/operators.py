"""Each operator against float32, and attention against a plain softmax in float64: fresh random inputs, memory poisoned first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.cuda.lab import Lab
from benchmarks.cuda.timing import median_seconds
from sightline.embedding import attention
from sightline.embedding.operators import Norm, Operators, Rotation, TorchOperators

# A fused operator may be so many times as far from float32 as plain torch is in the same number format.
_FACTOR = 1.5
_WIDTHS = (1024, 2560, 4096, 384, 768, 96)
_HEADS = ((16, 8, 128), (32, 8, 128), (4, 2, 80), (3, 1, 32))
_INNER = (3072, 9728, 12288, 96)
_LENGTHS = (1, 2, 31, 64, 65, 127, 128, 129, 300, 1000)

Exact = list[Tensor]


def fused_operators(lab: Lab) -> Operators:
    """The operators under test; on a CPU torch's own stand in."""
    if not lab.on_cuda:
        return TorchOperators()
    from sightline.embedding.triton_operators import TritonOperators

    return TritonOperators()


def distance(found: Tensor, exact: Tensor) -> float:
    """Relative error of the whole, `|found - exact| / |exact|`; NaN anywhere gives NaN."""
    off = (found.double() - exact.double()).norm() / exact.double().norm().clamp_min(1e-30)
    return float(off)


def operators(lab: Lab) -> None:
    """Norms, rotation and gate, fused and plain, against float32 at the widths of real models."""
    fused, plain = fused_operators(lab), TorchOperators()
    lab.note("operators", fused.name)
    generator = torch.Generator(lab.device).manual_seed(5)
    for name, inputs in _cases(lab, generator):
        exact = _run(plain, name, [_upcast(one) for one in inputs])
        _poison(lab, exact)
        found = _run(fused, name, inputs)
        yardstick = _run(plain, name, inputs)
        for number, (one, other, wanted) in enumerate(zip(found, yardstick, exact, strict=True)):
            label = f"{name[0]} {name[1]}{' the sum' if number else ''}"
            lab.check(label, distance(one, wanted), _FACTOR * distance(other, wanted) + 1e-4)
    _time_operators(lab, fused, plain, generator)


def _cases(lab: Lab, generator: torch.Generator) -> Iterator[tuple[tuple[str, str], list[Any]]]:
    dtype = torch.bfloat16
    rows = 515 if lab.on_cuda else 5

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=lab.device).to(dtype)

    for width in _WIDTHS if not lab.smoke else _WIDTHS[-1:]:
        norm, bare = Norm(random(width), random(width), 1e-6), Norm(random(width), None, 1e-6)
        yield ("layer norm", str(width)), [random(rows, width), random(rows, width), norm]
        yield ("rms norm of a sum", str(width)), [random(rows, width), random(rows, width), bare]
        yield ("rms norm", str(width)), [3 * random(rows, width), None, bare]
        yield ("rms norm of a sum", f"{width}, strided"), [random(rows, 2 * width)[:, :width], random(2 * rows, width)[::2], bare]
    for heads, kv_heads, width in _HEADS if not lab.smoke else _HEADS[-1:]:
        tables = (torch.randn((4000, width // 2), generator=generator, device=lab.device) for _ in range(2))
        rotation = Rotation(Norm(random(width), None, 1e-6), Norm(random(width), None, 1e-6), *tables, heads, kv_heads)
        positions = torch.randint(0, 4000, (rows,), generator=generator, device=lab.device)
        yield ("rotation", f"{heads}/{kv_heads} x {width}"), [random(rows, (heads + 2 * kv_heads) * width), rotation, positions]
    for width in _INNER if not lab.smoke else _INNER[-1:]:
        yield ("silu", str(width)), [3 * random(rows, 2 * width)]


def _run(operators: Operators, name: tuple[str, str], inputs: list[Any]) -> Exact:
    kind = name[0]
    if kind == "layer norm":
        return [operators.add_and_layer_norm(*inputs)]
    if kind == "rotation":
        turned = inputs[0].clone()
        operators.norm_and_rotate(turned, *inputs[1:])
        return [turned]
    if kind == "silu":
        return [operators.silu_and_multiply(*inputs)]
    return list(operators.add_and_rms_norm(*inputs))


def _upcast(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def _poison(lab: Lab, like: Exact) -> None:
    """Leave NaN in the memory that the next outputs will get: an element that nobody writes shows."""
    for one in like:
        blocks = [torch.full(one.shape, float("nan"), dtype=torch.bfloat16, device=lab.device) for _ in range(4)]
        del blocks


def _time_operators(lab: Lab, fused: Operators, plain: Operators, generator: torch.Generator) -> None:
    """GB/s of each at a full pass's rows, in the 0.6B shape; the copy's rate is what they could have."""
    rows, width, inner = (16384, 1024, 3072) if lab.on_cuda else (64, 64, 96)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=lab.device).to(torch.bfloat16)

    norm = Norm(random(width), None, 1e-6)
    rotation = Rotation(
        Norm(random(128), None, 1e-6), Norm(random(128), None, 1e-6), *torch.randn(2, rows, 64, device=lab.device), 16, 8
    )
    sets = [(random(rows, width), random(rows, width), random(rows, 32 * 128), random(rows, 2 * inner)) for _ in range(3)]
    positions = torch.arange(rows, device=lab.device)
    found: dict[str, dict[str, float]] = {}
    for operators in (fused, plain):
        runs: dict[str, tuple[Callable[[int], Any], int]] = {
            "rms norm of a sum": (lambda n, o=operators: o.add_and_rms_norm(*sets[n % 3][:2], norm), 4 * 2 * rows * width),
            "rotation": (lambda n, o=operators: o.norm_and_rotate(sets[n % 3][2], rotation, positions), 2 * 2 * rows * 24 * 128),
            "silu": (lambda n, o=operators: o.silu_and_multiply(sets[n % 3][3]), 2 * 3 * rows * inner),
        }
        found[operators.name] = {
            name: size / median_seconds(run, lab.device, repeats=10, hold_back=0.002) / 1e9
            for name, (run, size) in runs.items()
        }
    lab.note("gb_per_s", found)


def attends(lab: Lab) -> None:
    """`attention.attend` against a softmax written out: causal or not, grouped heads, windows, a prefix, empty slots."""
    generator = torch.Generator(lab.device).manual_seed(6)
    windows = [None, 64] if not lab.on_cuda or "window_size" in attention._varlen_arguments() else [None]
    if windows == [None]:
        lab.leave_out("windows", "this torch release has none in varlen_attn")
    sizes = ((16, 8, 128), (32, 8, 128), (12, 12, 64), (12, 12, 32)) if lab.on_cuda else ((4, 2, 16),)
    lengths = _LENGTHS if not lab.smoke else _LENGTHS[:5]
    for heads, kv_heads, width in sizes:
        rows = torch.randn((sum(lengths), heads + 2 * kv_heads, width), generator=generator, device=lab.device)
        query, key, value = rows.to(torch.bfloat16).split([heads, kv_heads, kv_heads], dim=1)
        shared = torch.randn((2, 21, kv_heads, width), generator=generator, device=lab.device).to(torch.bfloat16)
        for causal in (True, False):
            for window in windows:
                for prefix in (None, (shared[0], shared[1])) if causal else (None,):
                    for slots in (0, 3):
                        _attend(lab, query, key, value, [*lengths, *[0] * slots], causal, window, prefix)
    if lab.on_cuda:
        _ungrouped(lab, query, generator)


def _attend(
    lab: Lab, query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], causal: bool, window: int | None,
    prefix: tuple[Tensor, Tensor] | None,
) -> None:  # fmt: skip
    starts = torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0).to(torch.int32).to(lab.device)
    scale = query.shape[-1] ** -0.5
    found = attention.attend(query, key, value, starts, lengths, max(lengths), scale, causal, window=window, prefix=prefix)
    exact = softmax_attention(query, key, value, lengths, scale, causal, window, prefix)
    marks = {" causal": causal, f" window {window}": window, " prefix": prefix, " empty slots": lengths[-1] == 0}
    name = f"{query.shape[1]}/{key.shape[1]} x {query.shape[2]}" + "".join(mark for mark, holds in marks.items() if holds)
    worst = float(((found.double() - exact).norm(dim=-1) / exact.norm(dim=-1).clamp_min(1e-6)).max())
    lab.check(f"attend {name}", distance(found, exact), 6e-3)
    lab.check(f"attend {name}, worst head", worst, 3e-2)


def softmax_attention(
    query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], scale: float, causal: bool, window: int | None,
    prefix: tuple[Tensor, Tensor] | None,
) -> Tensor:  # fmt: skip
    """Text by text in float64. *Shapes:* tokens first, as `attend`."""
    rows, start = [], 0
    for length in lengths:
        q, k, v = (tensor[start : start + length].double().transpose(0, 1) for tensor in (query, key, value))
        if prefix is not None:
            k, v = (torch.cat([p.double().transpose(0, 1), own], dim=1) for p, own in zip(prefix, (k, v), strict=True))
        k, v = (tensor.repeat_interleave(len(q) // len(tensor), dim=0) for tensor in (k, v))
        at = torch.arange(k.shape[1], device=query.device)
        apart = at[k.shape[1] - length :, None] - at[None]
        hidden = apart < 0 if causal else torch.zeros_like(apart, dtype=torch.bool)
        if window is not None:
            hidden = hidden | (apart.abs() >= window)
        weights = (q @ k.mT * scale).masked_fill(hidden, float("-inf")).softmax(-1)
        rows.append((weights @ v).transpose(0, 1))
        start += length
    return torch.cat(rows)


def _ungrouped(lab: Lab, like: Tensor, generator: torch.Generator) -> None:
    """Whether this release's kernel takes fewer key heads by itself, so that they needn't be repeated where it has no keyword."""
    from torch.nn.attention.varlen import varlen_attn

    if "enable_gqa" in attention._varlen_arguments():
        return
    query = torch.randn((512, 16, 128), generator=generator, device=like.device).to(torch.bfloat16)
    key, value = torch.randn((2, 512, 8, 128), generator=generator, device=like.device).to(torch.bfloat16).unbind(0)
    starts = torch.tensor([0, 200, 512], dtype=torch.int32, device=like.device)
    try:
        found = varlen_attn(query, key, value, starts, starts, 312, 312)
    except (RuntimeError, ValueError) as error:
        lab.note("unrepeated key heads", f"refused: {error}")
        return
    exact = softmax_attention(query, key, value, [200, 312], 128**-0.5, False, None, None)
    lab.note("unrepeated key heads", f"taken, {distance(found, exact):.2g} off")
