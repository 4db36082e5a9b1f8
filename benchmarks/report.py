"""Figures of the engine case -> Markdown: a table for each mix, one for loading, and what the sweeps chose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.measuring import Figures, ratios, table

OURS = ("Sightline bfloat16", "Sightline float32")  # the first that was measured is what others are compared with
_HEADER = (
    "side", "batch", "texts/s", "tokens/s", "Sightline is", "of ceiling", "CPU s", "peak MB", "largest distance", "mean",
    "lowest cosine",
)  # fmt: skip
_ONE_HEADER = ("side", "p50, ms", "p90, ms", "Sightline is", "CPU ms a text", "peak MB", "largest distance")


def engine_report(name: str, found: Figures) -> str:
    """All of a model's tables."""
    model = found["model"]
    ceilings = [f"{one['flops_per_second'] / 1e9:,.0f} GFLOP/s in {kind}" for kind, one in found["ceiling"].items()]
    parts = [
        f"### {name}",
        f"{model['shape']['layers']} layers, {model['weights']} weights, tokenizer: {model['tokenizer']}. "
        + f"Texts: {found['texts']}. Ceiling: {', '.join(ceilings)}.",
        *(_mix_report(mix, facts, found) for mix, facts in found["mixes"].items()),
        _load_table(found),
        *(f"Not measured: {side}: {_first_lines(reason)}" for side, reason in found["skipped"].items()),
        *(f"Not measured: mix {mix}: {reason}" for mix, reason in found["skipped_mixes"].items()),
    ]  # fmt: skip
    return "\n\n".join(parts)


def compared(sides: Mapping[str, Sequence[Figures]], mix: str, name: str) -> dict[str, str]:
    """How many times as fast our first side was as each: the median of the rounds' own ratios, and their range.

    `name` is a rate, or a time (which ends in `_ms`).
    """
    ours = next((side for side in OURS if side in sides), None)
    if ours is None:
        return dict.fromkeys(sides, "")
    flat = {side: [figures["mixes"][mix] for figures in rounds] for side, rounds in sides.items()}
    if name.endswith("_ms"):
        return {side: ratios(rounds, flat[ours], name) for side, rounds in flat.items()}
    return {side: ratios(flat[ours], rounds, name) for side, rounds in flat.items()}


def share_of_ceiling(tokens_per_second: float, facts: Figures, ceiling: Figures) -> float:
    """Arithmetic that the texts need, a second, divided by what the matrix units give."""
    return float(tokens_per_second * facts["flops"] / facts["tokens"] / ceiling["flops_per_second"])


def precision(chosen: Figures) -> str | None:
    """The number format that a side was run in, where it is known beforehand."""
    options = chosen["options"]
    return "bfloat16" if options.get("precision") == "bf16" else options.get("dtype")


def described(side: str, chosen: Figures) -> str:
    """A side's name with the variant that its sweep chose."""
    known = {"bf16": "bfloat16"}
    more = [known.get(value, str(value)) for name, value in chosen["options"].items() if name not in ("deterministic", "compile")]
    return ", ".join([side, *(one.lower() if one.isupper() else one for one in more if one.lower() not in side.lower())])


def sweep_line(one: Figures) -> str:
    """One variant's sweep, to be printed."""
    options = " ".join(str(value) for value in one["options"].values())
    if "failed" in one:
        return f"{options}: failed: {_first_lines(one['failed'])}"
    rates = "; ".join(
        f"{mix} " + " ".join(f"{size}:{rate:,.0f}" for size, rate in by_size.items()) for mix, by_size in one["rates"].items()
    )
    return f"{options}: tokens/s by batch size: {rates}"


def _mix_report(mix: str, facts: Figures, found: Figures) -> str:
    lengths = f"{facts['shortest']} to {facts['longest']}, mean {facts['mean']}"
    count = f"{facts['texts']:,} texts, {facts['tokens']:,} tokens ({lengths})"
    if mix == "one":
        return f"**{mix}**: one text a call; {count}\n\n{_one_table(found)}"
    return f"**{mix}**: {count}\n\n{_mix_table(mix, facts, found)}"


def _mix_table(mix: str, facts: Figures, found: Figures) -> str:
    times = compared(found["sides"], mix, "tokens_per_second")
    rows = []
    for side, rounds in found["sides"].items():
        chosen, one = found["chosen"][side], _middle(rounds, mix)
        limit = found["ceiling"].get(precision(chosen))
        share = f"{share_of_ceiling(one['tokens_per_second'], facts, limit):.0%}" if limit else ""
        rows.append([
            described(side, chosen), chosen["batches"].get(mix, ""), f"{one['texts_per_second']:.1f}",
            f"{one['tokens_per_second']:,.0f}", times[side], share, f"{one['cpu_seconds']:.2f}", f"{one['peak_mb']:,.0f}",
            *_distances(found, side, mix),
        ])  # fmt: skip
    return table(_HEADER, rows)


def _one_table(found: Figures) -> str:
    times = compared(found["sides"], "one", "p50_ms")
    rows = []
    for side, rounds in found["sides"].items():
        one = _middle(rounds, "one")
        processor = 1e3 * one["cpu_seconds"] / found["mixes"]["one"]["texts"]
        rows.append([
            described(side, found["chosen"][side]), f"{one['p50_ms']:.1f}", f"{one['p90_ms']:.1f}", times[side],
            f"{processor:.1f}", f"{one['peak_mb']:,.0f}", _distances(found, side, "one")[0],
        ])  # fmt: skip
    return table(_ONE_HEADER, rows)


def _load_table(found: Figures) -> str:
    rows = []
    for side, rounds in found["sides"].items():
        exported = found["chosen"][side]["export"]
        warm = [sum(mix["warm_seconds"] for mix in figures["mixes"].values()) for figures in rounds]
        rows.append([
            described(side, found["chosen"][side]), f"{median(one['load_seconds'] for one in rounds):.1f}",
            f"{1e3 * median(one['first_seconds'] for one in rounds):.0f}", f"{median(warm):.1f}",
            f"{exported['seconds']:.0f}" if exported else "", f"{median(one['peak_mb'] for one in rounds):,.0f}",
        ])  # fmt: skip
    header = ["side", "start to loaded, s", "first batch, ms", "warm-up passes, s", "converted once, s", "peak MB of the process"]
    return f"**loading**\n\n{table(header, rows)}"


def _middle(rounds: Sequence[Figures], mix: str) -> dict[str, Any]:
    return {name: median(one["mixes"][mix][name] for one in rounds) for name in rounds[0]["mixes"][mix]}


def _distances(found: Figures, side: str, mix: str) -> list[str]:
    one = found["fidelity"].get(side, {}).get(mix)
    return [f"{one['largest']:.1e}", f"{one['mean']:.1e}", f"{one['lowest_cosine']:.6f}"] if one else ["", "", ""]


def _first_lines(reason: str) -> str:
    lines = [line for line in reason.strip().splitlines() if line.strip()]
    return lines[-1][:200] if lines[:1] and lines[0].startswith("failed") else lines[0][:200] if lines else ""
