"""Where the time goes: the kernels of a steady run over chunks, and how much of it the device was busy."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.cuda.lab import Lab
from benchmarks.cuda.shapes import mixes, model_folder, shape_of
from benchmarks.cuda.speed import token_texts
from sightline import EmbeddingEngine

_PRINTED = 15


def trace(lab: Lab) -> None:
    """The top kernels by device time, the device's busy share, and the gaps between its kernels."""
    shape = shape_of(lab, "0.6b")
    lengths = mixes(shape.longest)["chunks"](np.random.default_rng(8), 8 * 16384 if lab.on_cuda else 200)
    texts = token_texts(lengths)
    activity = ProfilerActivity.CUDA if lab.on_cuda else ProfilerActivity.CPU
    with EmbeddingEngine(model_folder(lab, shape), device=str(lab.device), dtype=lab.dtype).load() as engine:
        for _ in range(2):
            engine.embed_documents(texts)
        with profile(activities=[activity]) as profiled:
            engine.embed_documents(texts)
            if lab.on_cuda:
                torch.cuda.synchronize(lab.device)
            else:  # where only this thread is seen, which does nothing
                torch.ones(8).sum()
    events = [one for one in profiled.events() if not lab.on_cuda or one.device_type == torch.autograd.DeviceType.CUDA]
    spans = sorted((one.time_range.start, one.time_range.end, one.name) for one in events)
    if not spans:
        raise RuntimeError("the profiler saw no kernels")
    times: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for start, end, name in spans:
        times[name] += end - start
        counts[name] += 1
    total = sum(times.values()) or 1
    top = [
        {"name": name, "ms": time / 1000, "share": time / total, "calls": counts[name]}
        for name, time in times.most_common(_PRINTED)
    ]
    lab.record.write(part=lab.part, kind="fact", name="kernels", value=top)
    for one in top:
        print(f"  {one['share']:6.1%} {one['ms']:9.2f} ms {one['calls']:6} x {one['name'][:90]}", flush=True)
    lab.note("device", busy(spans) | {"tokens": sum(lengths), "kernels": len(spans)})
    lab.note("copies", {name[:60]: counts[name] for name in counts if "mem" in name.lower()})


def busy(spans: list[tuple[float, float, str]]) -> dict[str, Any]:
    """Of microsecond spans in order of their starts: the share of the whole that some of them cover, and the largest gaps."""
    covered, reached, gaps = 0.0, spans[0][0], []
    for start, end, _ in spans:
        if start > reached:
            gaps.append(start - reached)
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    whole = reached - spans[0][0]
    gaps.sort(reverse=True)
    largest = [round(gap, 1) for gap in gaps[:5]]
    return {"busy_share": covered / whole if whole else 1.0, "ms": whole / 1000, "largest_gaps_us": largest}
