"""What a side does in its own process: load, embed a first batch, then every mix. Runs in the peers' environments too."""

from __future__ import annotations

import gc
import importlib
import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.side import STARTED, usage

_FIRST_TEXTS = 8
_SAMPLED = 0.1  # of a mix, in the pass that warms it up
Embed = Callable[[list[str], int], Any]


def exported(settings: dict[str, Any]) -> dict[str, Any]:
    """A side's one-time preparation, such as a conversion."""
    began = time.perf_counter()
    importlib.import_module(settings["module"]).export(settings)
    return {"seconds": time.perf_counter() - began}


def measured(settings: dict[str, Any]) -> dict[str, Any]:
    """Load the side, embed each mix `passes` times, and keep the vectors of the last pass in the folder `out`."""
    mixes = json.loads(Path(settings["mixes"]).read_text())
    embed, figures = _loaded(settings, mixes)
    found: dict[str, dict[str, float]] = {}
    for name, mix in mixes.items():
        batch = settings["batches"].get(name, 0)
        if name == "one":
            figure, vectors = _one_by_one(embed, mix["texts"])
        else:
            figure, vectors = _together(embed, mix["texts"], batch, settings["passes"], bool(settings.get("compile")))
        rates = {"tokens_per_second": sum(mix["lengths"]), "texts_per_second": len(mix["texts"])}
        found[name] = {**figure, **{key: amount / figure["seconds"] for key, amount in rates.items()}}
        np.save(Path(settings["out"]) / f"{name}.npy", np.asarray(vectors, dtype=np.float32))
    used = usage()
    _close(embed)
    return {**figures, "mixes": found, "seconds": sum(one["seconds"] for one in found.values()), **used}


def swept(settings: dict[str, Any]) -> dict[str, Any]:
    """Tokens a second of each mix at each batch size that isn't beyond its number of texts; one by one where all are."""
    mixes = json.loads(Path(settings["mixes"]).read_text())
    embed, figures = _loaded(settings, mixes)
    rates: dict[str, dict[int, float]] = {}
    usable = {name: [size for size in settings["sizes"] if size <= len(mix["texts"])] or [1] for name, mix in mixes.items()}
    for batch in sorted(set().union(*usable.values())):
        for name, mix in mixes.items():
            texts = mix["texts"]
            if batch not in usable[name]:
                continue
            embed(texts if settings.get("compile") else _sample(texts), batch)
            began = time.perf_counter()
            embed(texts, batch)
            rates.setdefault(name, {})[batch] = sum(mix["lengths"]) / (time.perf_counter() - began)
    _close(embed)
    return {**figures, "rates": rates}


def _loaded(settings: dict[str, Any], mixes: dict[str, Any]) -> tuple[Embed, dict[str, Any]]:
    module = importlib.import_module(settings["module"])
    batches = settings.get("batches", {})
    name, mix = next(iter(mixes.items()))
    embed: Embed = module.load({**settings, "first_batch": batches.get(name, 0)})
    loaded = time.perf_counter()
    embed(mix["texts"][:_FIRST_TEXTS], batches.get(name, 0))
    first = time.perf_counter() - loaded
    versions = {package: metadata.version(package) for package in module.PACKAGES}
    return embed, {"load_seconds": loaded - STARTED, "first_seconds": first, "versions": versions}


def _close(embed: Embed) -> None:
    """Stop what a side runs in the background, where it runs something."""
    getattr(embed, "close", lambda: None)()


def _together(embed: Embed, texts: list[str], batch: int, passes: int, warm_all: bool) -> tuple[dict[str, float], Any]:
    """All texts in one call; the pass before, which may be slower, is taken by itself.

    What is compiled meets every shape before it is timed: its waits for the compiler are in `warm_seconds`.
    """
    resets = _reset_peak()
    began = time.perf_counter()
    embed(texts if warm_all else _sample(texts), batch)
    warm = time.perf_counter() - began
    seconds, processor, vectors = [], [], None
    for _ in range(passes):
        before, began = time.process_time(), time.perf_counter()
        vectors = embed(texts, batch)
        seconds.append(time.perf_counter() - began)
        processor.append(time.process_time() - before)
    figures = {"seconds": median(seconds), "cpu_seconds": median(processor), "warm_seconds": warm, "peak_mb": peak_mb()}
    return figures | _peak_of_device() | {"peak_is_of_mix": resets}, vectors


def _one_by_one(embed: Embed, texts: list[str]) -> tuple[dict[str, float], Any]:
    """One text a call: median and 90th percentile of the wait, in milliseconds."""
    resets = _reset_peak()
    began = time.perf_counter()
    for text in texts[: -(-len(texts) // 5)]:
        embed([text], 0)
    warm = time.perf_counter() - began
    waits, vectors, before = [], [], time.process_time()
    for text in texts:
        began = time.perf_counter()
        vectors.append(embed([text], 0)[0])
        waits.append(time.perf_counter() - began)
    half, ninth = np.percentile(waits, [50, 90]) * 1e3
    figures = {
        "seconds": sum(waits), "cpu_seconds": time.process_time() - before, "warm_seconds": warm, "peak_mb": peak_mb(),
        "p50_ms": half, "p90_ms": ninth,
    }  # fmt: skip
    return figures | _peak_of_device() | {"peak_is_of_mix": resets}, vectors


def _sample(texts: Sequence[str]) -> list[str]:
    return list(texts[:: max(1, round(1 / _SAMPLED))])


def _reset_peak() -> bool:
    """Begin a new peak of memory, and say whether the system can do that for resident memory."""
    gc.collect()
    if _cuda() is not None:
        _cuda().reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_mb() -> float:
    """Of this process alone: what getrusage says on Linux begins with the size of whoever started it."""
    path = Path("/proc/self/status")
    if path.exists():
        return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith("VmHWM")) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _peak_of_device() -> dict[str, float]:
    return {} if _cuda() is None else {"peak_device_mb": _cuda().max_memory_allocated() / 2**20}


def _cuda() -> Any:
    """torch's CUDA where a side uses it."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
