"""What this machine's matrix units give: products of a model's own shapes, single-threaded on every core at the same time."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from typing import Any

from benchmarks.measuring import Figures

ROWS = (256, 512, 1024, 2048)
_SECONDS = 0.12  # for each product


def ceiling(settings: Figures) -> Figures:
    """A side: floating-point operations a second at the best number of rows for each shape, weighted as a layer needs them."""
    shapes = [tuple(shape) for shape in settings["shapes"]]
    found = _on_device(settings, shapes) if settings["device"] != "cpu" else _on_cores(settings, shapes)
    best = {}
    for shape in shapes:
        trials = {key: rate for key, rate in found.items() if key[0] == shape}
        best[shape] = max(trials.items(), key=lambda one: one[1])
    work = sum(rows * columns for rows, columns in shapes)
    seconds = sum(rows * columns / best[rows, columns][1] for rows, columns in shapes)
    parts = {f"{shape[0]} to {shape[1]}": {"rows": key[1], "layout": key[2], "flops_per_second": rate}
             for shape, (key, rate) in best.items()}  # fmt: skip
    return {"flops_per_second": work / seconds, "shapes": parts, "cores": _cores(), "seconds": 0.0}


def _on_cores(settings: Figures, shapes: list[tuple[int, int]]) -> dict[tuple[Any, ...], float]:
    """The sum over the cores of each one's rate."""
    context = multiprocessing.get_context("spawn")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [-1] * _cores()
    barrier, queue = context.Barrier(len(cores)), context.Queue()
    workers = [context.Process(target=_work, args=(core, shapes, settings["dtype"], barrier, queue)) for core in cores]
    for worker in workers:
        worker.start()
    results = [queue.get(timeout=240) for _ in workers]
    for worker in workers:
        worker.join()
    if None in results:
        raise RuntimeError("a core's products failed; what they said is above")
    return {key: sum(one[key] for one in results) for key in results[0]}


def _work(core: int, shapes: list[tuple[int, int]], dtype: str, barrier: Any, queue: Any) -> None:
    """One core's products; every core begins each one together with the others."""
    if core >= 0:
        os.sched_setaffinity(0, {core})
    import torch

    torch.set_num_threads(1)
    rates: dict[tuple[Any, ...], float] | None = {}
    try:
        with torch.inference_mode():
            for shape in shapes:
                for rows in ROWS:
                    for layout, product in _products(torch, shape, rows, dtype, "cpu").items():
                        barrier.wait(timeout=60)
                        rates[shape, rows, layout] = 2 * rows * shape[0] * shape[1] / _time_of(product, lambda: None)
    except BaseException:
        rates = None
        raise
    finally:
        queue.put(rates)


def _on_device(settings: Figures, shapes: list[tuple[int, int]]) -> dict[tuple[Any, ...], float]:
    import torch

    rates = {}
    for shape in shapes:
        for rows in (2048, 8192, 16_384):
            for layout, product in _products(torch, shape, rows, settings["dtype"], settings["device"]).items():
                rates[shape, rows, layout] = 2 * rows * shape[0] * shape[1] / _time_of(product, torch.cuda.synchronize)
    return rates


def _products(torch: Any, shape: tuple[int, int], rows: int, dtype: str, device: str) -> dict[str, Callable[[], object]]:
    """A linear layer as it comes and, where torch can, with its weight laid out for this number of rows beforehand."""
    kind = getattr(torch, dtype)
    inputs = torch.randn(rows, shape[0], device=device).to(kind)
    weight = torch.randn(shape[1], shape[0], device=device).to(kind)
    found: dict[str, Callable[[], object]] = {"plain": lambda: torch.nn.functional.linear(inputs, weight)}
    if device == "cpu" and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        found["prepacked"] = lambda: torch.ops.mkldnn._linear_pointwise(inputs, packed, None, "none", [], "")
    return found


def _time_of(product: Callable[[], object], wait: Callable[[], object]) -> float:
    """Seconds of one product: the best of several short series, because a ceiling isn't an average."""
    product()
    wait()
    began = time.perf_counter()
    product()
    wait()
    times = max(1, round(_SECONDS / 3 / max(1e-6, time.perf_counter() - began)))
    series = []
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(times):
            product()
        wait()
        series.append((time.perf_counter() - began) / times)
    return min(series)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
