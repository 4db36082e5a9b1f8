"""Times: by events on a CUDA device, by the clock on a CPU; always after a warm-up, always a median."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch

_CYCLES_A_SECOND = 2e9


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_seconds(
    run: Callable[[int], Any], device: torch.device, *, repeats: int, warm_ups: int = 3, hold_back: float = 0
) -> float:
    """Median time of `run(number)`; the number lets it rotate its inputs.

    `hold_back` puts a pause of about so many seconds in front on the device, so that the host's launches are over before the
    clock runs: what is timed is the device's own work.
    """
    for number in range(warm_ups):
        run(number)
    synchronize(device)
    return median(_timed(run, number, device, hold_back) for number in range(repeats))


def _timed(run: Callable[[int], Any], number: int, device: torch.device, hold_back: float) -> float:
    if device.type != "cuda":
        began = time.perf_counter()
        run(number)
        return time.perf_counter() - began
    began_at, ended_at = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    if hold_back:
        torch.cuda._sleep(int(hold_back * _CYCLES_A_SECOND))
    began_at.record()
    run(number)
    ended_at.record()
    ended_at.synchronize()
    return float(began_at.elapsed_time(ended_at)) / 1000


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p90 and p99 in milliseconds."""
    ordered = sorted(seconds)
    return {f"p{share}_ms": 1000 * ordered[min(len(ordered) - 1, len(ordered) * share // 100)] for share in (50, 90, 99)}
