"""Where this runs, and the two ceilings: the rate of a large matrix product and of a large copy, on random data."""

from __future__ import annotations

import importlib.util
import inspect
import platform
import subprocess
from importlib import metadata
from typing import Any

import torch

from benchmarks.cuda.lab import Lab
from benchmarks.cuda.shapes import shape_of, true_tokenizer
from benchmarks.cuda.timing import median_seconds
from sightline.embedding import attention

_PACKAGES = (
    "torch", "triton", "transformers", "sentence-transformers", "tokenizers", "safetensors", "numpy", "flash-attn", "kernels",
)  # fmt: skip


def environment(lab: Lab) -> None:
    """Device, driver and versions."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    lab.note("versions", versions)
    lab.note("device", _device(lab))
    if importlib.util.find_spec("torch.nn.attention.varlen"):
        from torch.nn.attention.varlen import varlen_attn

        lab.note("varlen_attn takes", list(inspect.signature(varlen_attn).parameters))
    else:
        lab.note("varlen_attn takes", "nothing: this torch has none")
    try:
        import triton  # noqa: F401

        from sightline.embedding import triton_operators  # noqa: F401

        lab.note("Triton", "imported")
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it belongs into the report
        lab.note("Triton", f"can't be used: {error!r}")
    lab.note("attention of variable length", attention.asks_no_lengths(lab.device, torch.bfloat16))
    lab.note("tokenizer", "Qwen3-Embedding's own" if true_tokenizer() else "a small one, trained on the spot")


def _device(lab: Lab) -> dict[str, Any]:
    if not lab.on_cuda:
        return {"name": f"CPU ({platform.machine()})", "threads": torch.get_num_threads()}
    facts = torch.cuda.get_device_properties(lab.device)
    free, total = torch.cuda.mem_get_info(lab.device)
    query = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,power.limit", "--format=csv,noheader"]
    try:
        seen = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        seen = "nvidia-smi didn't answer"
    return {
        "name": facts.name, "capability": f"{facts.major}.{facts.minor}", "multiprocessors": facts.multi_processor_count,
        "memory_gb": total / 1e9, "free_gb": free / 1e9, "devices": torch.cuda.device_count(), "cuda": torch.version.cuda,
        "driver, clock, power": seen,
    }  # fmt: skip


def ceilings(lab: Lab) -> None:
    """TFLOP/s of a large product and of the models' own, GB/s of a copy (bytes read and bytes written)."""
    dtype = torch.bfloat16 if lab.on_cuda else torch.float32
    side = 8192 if lab.on_cuda else 256
    lab.note("product_tflops", product_rate(lab, side, side, side, dtype))
    lab.note("copy_gb_per_s", _copy_rate(lab, dtype))
    rates = {}
    for name in ("0.6b", "4b", "8b", "xlm-r", "minilm"):
        if name not in lab.models or not lab.enough(2, f"products of {name}"):
            continue
        for rows in (256, 16384) if lab.on_cuda else (64,):
            rates[f"{name} x {rows} rows"] = _layer_rate(lab, name, rows, dtype)
    lab.note("layer_tflops", rates)


def _copy_rate(lab: Lab, dtype: torch.dtype) -> float:
    source = torch.randn((1 << 30) if lab.on_cuda else 1 << 19, device=lab.device, dtype=dtype)
    target = torch.empty_like(source)
    return 2 * source.nbytes / median_seconds(lambda _: target.copy_(source), lab.device, repeats=10) / 1e9


def _layer_rate(lab: Lab, name: str, rows: int, dtype: torch.dtype) -> float:
    """TFLOP/s of a layer's four products one after another, without what lies between them."""
    shape = shape_of(lab, name)
    heads = shape.heads * shape.head_width
    widths = [
        (shape.hidden, heads + 2 * shape.kv_heads * shape.head_width), (heads, shape.hidden),
        (shape.hidden, (2 if shape.causal else 1) * shape.inner), (shape.inner, shape.hidden),
    ]  # fmt: skip
    flops = sum(2 * rows * inner * outer for inner, outer in widths)
    return flops / sum(_product_seconds(lab, rows, outer, inner, dtype) for inner, outer in widths) / 1e12


def product_rate(lab: Lab, rows: int, outer: int, inner: int, dtype: torch.dtype) -> float:
    """TFLOP/s of one matrix product, after as many as bring an idle device to its clock."""
    return 2 * rows * outer * inner / _product_seconds(lab, rows, outer, inner, dtype, warm_ups=200 if lab.on_cuda else 3) / 1e12


def _product_seconds(lab: Lab, rows: int, outer: int, inner: int, dtype: torch.dtype, warm_ups: int = 5) -> float:
    """As the engine calls it: `linear`, with another layer's weights each time (they don't all fit into the cache)."""
    states = torch.randn(rows, inner, device=lab.device, dtype=dtype)
    weights = [torch.randn(outer, inner, device=lab.device, dtype=dtype) * inner**-0.5 for _ in range(4)]
    return median_seconds(
        lambda number: torch.nn.functional.linear(states, weights[number % 4]),
        lab.device, repeats=10, warm_ups=warm_ups, hold_back=0.002,
    )  # fmt: skip
