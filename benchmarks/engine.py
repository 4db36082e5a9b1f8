"""Case 2: the same texts become vectors. The engine beside its peers, in turn, each at its best settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import mixes, models, report
from benchmarks.ceiling import ceiling
from benchmarks.measuring import Figures, SideFailed, in_turn, run_apart
from benchmarks.mixes import Mix
from benchmarks.models import Model
from benchmarks.peers import REFERENCE, SIDES, Chosen, Side, choose, why_not

Say = Callable[[str], None]
# Tokens of a mix, so that a pass of the slower sides takes seconds, not minutes, on two cores.
_BUDGETS = {"minilm": 40_000, "qwen3-0.6b-shape": 12_000, "xlm-r-base-shape": 12_000}
_CUDA_BUDGET = 2_000_000
_QUERIES_SHARE = 0.5  # of the budget: short texts are slow to count and quick to vary
_LATENCY_TOKENS = 2_000


@dataclass(frozen=True)
class Plan:
    """What is measured of each model.

    Args:
        mixes: Names of length mixes.
        sides: Only sides whose name contains one of these; none is all.
        rounds: How often each side's process runs.
        passes: How often each process embeds a mix; it gives the median.
        sizes: Batch sizes that are swept.
        budget: Tokens of a mix; None suits the model and the device.
        sweep_tokens: Tokens of the sample that is swept.
        layers: Of the models with random weights; None is their default.
        device: "cpu" or "cuda".
        is_quick: No sweep that takes minutes.
        earlier: Models of an earlier result, whose sweeps are taken instead of new ones.
    """

    mixes: Sequence[str]
    sides: Sequence[str]
    rounds: int
    passes: int
    sizes: Sequence[int]
    budget: int | None
    sweep_tokens: int
    layers: int | None
    device: str
    is_quick: bool
    earlier: Mapping[str, Figures]


def measure(names: Sequence[str], work: Path, plan: Plan, machine: Figures, say: Say) -> tuple[Figures, str]:
    """Every model in turn; `(figures for the result file, Markdown)`."""
    found: dict[str, Figures] = {}
    texts = []
    for name in names:
        say(f"model {name}")
        folder = work / name
        folder.mkdir()
        found[name] = _measure_model(models.prepare(name, folder, plan.layers), folder, plan, machine, say)
        texts.append(report.engine_report(name, found[name]))
    return {"models": found}, "\n\n".join(texts)


def _measure_model(model: Model, work: Path, plan: Plan, machine: Figures, say: Say) -> Figures:
    source = mixes.open_source(model.languages)
    say(f"texts: {source.name}")
    made, skipped_mixes = _mixes(model, source, plan, say)
    settings = {"folder": model.folder, "mixes": str(work / "mixes.json"), "passes": plan.passes, "device": plan.device}
    _write_mixes(made, work / "mixes.json")
    _write_mixes([mix.sample(plan.sweep_tokens) for mix in made if mix.name != "one"] or made, work / "sample.json")
    limits = {kind: run_apart(ceiling, {"shapes": model.shape.products, "dtype": kind, "device": plan.device})
              for kind in ("bfloat16", "float32")}  # fmt: skip
    say("ceiling: " + ", ".join(f"{kind} {one['flops_per_second'] / 1e9:,.0f} GFLOP/s" for kind, one in limits.items()))
    earlier = plan.earlier.get(model.name, {}).get("chosen", {})
    chosen, skipped = _choose(settings, work, plan, machine, earlier, say)
    sides = {one.side.name: partial(_run, one, settings, work) for one in chosen}
    rounds = in_turn(sides, plan.rounds, say, skipped)
    return {
        "model": model.facts(),
        "texts": source.name,
        "mixes": {mix.name: {**mix.facts(), "flops": model.shape.flops(mix.lengths)} for mix in made},
        "skipped_mixes": skipped_mixes,
        "ceiling": limits,
        "chosen": {one.side.name: one.facts() for one in chosen},
        "sides": rounds,
        "skipped": skipped,
        "fidelity": _fidelity(list(rounds), [mix.name for mix in made], work),
    }


def _mixes(model: Model, source: mixes.Source, plan: Plan, say: Say) -> tuple[list[Mix], dict[str, str]]:
    """The mixes, shortest texts first, and why some aren't there."""
    tokenizer = mixes.open_tokenizer(model.folder)
    made, skipped = [], {}
    for name in mixes.NAMES:
        if name not in plan.mixes:
            continue
        budget = plan.budget or (_BUDGETS[model.name] if plan.device == "cpu" else _CUDA_BUDGET)
        tokens = {"one": min(budget, _LATENCY_TOKENS), "queries": int(budget * _QUERIES_SHARE)}.get(name, budget)
        try:
            made.append(mixes.make(name, tokens, model.limit, tokenizer, source))
        except ValueError as error:
            skipped[name] = str(error)
            say(f"mix {name} skipped: {error}")
    return made, skipped


def _choose(
    settings: Figures, work: Path, plan: Plan, machine: Figures, earlier: Mapping[str, Figures], say: Say
) -> tuple[list[Chosen], dict[str, str]]:
    """Every side that can run here at its best settings, and why the others can't."""
    fast_bfloat16 = bool(machine["cpu_features"]) or plan.device != "cpu"
    chosen, skipped = [], {}
    for side in SIDES:
        if plan.sides and not any(part.lower() in side.name.lower() for part in plan.sides) and side.name != REFERENCE:
            continue
        reason = why_not(side, plan.device, fast_bfloat16)
        if reason is None:
            try:
                found = _chosen(side, settings, work, plan, fast_bfloat16, earlier, say)
                followed = next((one.batches for one in chosen if one.side.name == side.follows), {})
                chosen.append(replace(found, batches=found.batches or followed))
                continue
            except SideFailed as error:
                reason = f"failed: {str(error)[-2000:]}"
        skipped[side.name] = reason
        say(f"{side.name} skipped: {reason}")
    return chosen, skipped


def _chosen(
    side: Side, settings: Figures, work: Path, plan: Plan, fast_bfloat16: bool, earlier: Mapping[str, Figures], say: Say
) -> Chosen:
    out = _folder(side, work)
    given = {**settings, "mixes": str(work / "sample.json"), "exported": str(out)}
    sizes = () if plan.is_quick and side.follows else plan.sizes
    found = choose(side, given, sizes, fast_bfloat16, earlier.get(side.name))
    for one in found.sweep:
        say(f"{side.name}: {report.sweep_line(one)}")
    return found


def _run(one: Chosen, settings: Figures, work: Path) -> Figures:
    out = _folder(one.side, work)
    return one.run({**settings, "exported": str(out)}, out)


def _folder(side: Side, work: Path) -> Path:
    """Where a side keeps what it converted and the vectors it made."""
    out = work / f"side-{SIDES.index(side)}"
    out.mkdir(exist_ok=True)
    return out


def _write_mixes(made: Sequence[Mix], path: Path) -> None:
    path.write_text(json.dumps({mix.name: {"texts": mix.texts, "lengths": mix.lengths} for mix in made}))


def _fidelity(sides: Sequence[str], names: Sequence[str], work: Path) -> dict[str, dict[str, Figures]]:
    """How far each side's vectors of the last round are from sentence-transformers in float32."""
    folders = {side.name: _folder(side, work) for side in SIDES}
    if REFERENCE not in sides:
        return {}
    return {
        side: {name: distances(np.load(folders[side] / f"{name}.npy"), np.load(folders[REFERENCE] / f"{name}.npy"))
               for name in names}
        for side in sides
    }  # fmt: skip


def distances(vectors: npt.NDArray[np.float32], reference: npt.NDArray[np.float32]) -> Mapping[str, Any]:
    """Largest and mean Euclidean distance, and the lowest cosine, of rows to the reference's `(n, dimensions)`."""
    ours, theirs = vectors.astype(np.float64), reference.astype(np.float64)
    apart = np.linalg.norm(ours - theirs, axis=1)
    cosines = (ours * theirs).sum(axis=1) / (np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1))
    return {"largest": float(apart.max()), "mean": float(apart.mean()), "lowest_cosine": float(cosines.min())}
