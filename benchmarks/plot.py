"""A picture of a result of the cases engine, dimensions or serving: `python -m benchmarks.plot RESULT.json [PICTURE.svg]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.report import described

_FOLDER = Path(__file__).parent.parent / "docs" / "images"
_FAITHFUL = 0.999  # bfloat16 alone stays above it
_OURS, _PEER = "#0b6e8f", "#a9b4bb"
_RANGE = {"linewidth": 0.8, "ecolor": "#333333"}
_WAITS = (("a query alone", "alone", _OURS), ("a query beside a bulk client", "beside a client of 10,000 texts", "#c8553d"))


def main() -> None:
    """Draw the file that the command names."""
    if not 2 <= len(sys.argv) <= 3:
        raise SystemExit("usage: python -m benchmarks.plot RESULT.json [PICTURE.svg or .png]")
    result = Path(sys.argv[1])
    facts = json.loads(result.read_text())
    drawn = {"engine": draw, "dimensions": draw_dimensions, "serving": draw_serving}.get(facts.get("case", "engine"))
    if drawn is None:
        raise SystemExit(f"{result} is of the case {facts['case']}; only engine, dimensions and serving are drawn.")
    picture = Path(sys.argv[2]) if len(sys.argv) == 3 else _FOLDER / f"{result.stem}.svg"
    picture.parent.mkdir(parents=True, exist_ok=True)
    drawn(facts, picture)
    print(picture)


def draw(facts: Mapping[str, Any], picture: Path) -> None:
    """One row of panels for each model, one panel for each mix: bars of tokens a second, or of milliseconds for one text."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = facts["engine"]["models"]
    columns = max(len(model["mixes"]) for model in found.values())
    most = max(len(model["sides"]) for model in found.values())
    size = (3.2 + 3.6 * columns, (1.2 + 0.34 * most) * len(found))
    figure, panels = pyplot.subplots(len(found), columns, figsize=size, squeeze=False, layout="constrained")
    for row, (name, model) in zip(panels, found.items(), strict=True):
        for panel in row[len(model["mixes"]) :]:
            panel.axis("off")
        for number, (panel, mix) in enumerate(zip(row, model["mixes"], strict=False)):
            _panel(panel, name, mix, model, labelled=number == 0)
    figure.supxlabel(f"{_circumstances(facts)}; bars are medians and lines the range", fontsize="x-small")
    figure.savefig(picture, dpi=150)
    pyplot.close(figure)


def draw_dimensions(facts: Mapping[str, Any], picture: Path) -> None:
    """A row for each collection and way of searching it, and panels of recall, memory and disk, with the search index."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [
        (f"{name}, {search['shortlist']}" if search["shortlist"] else name, search | figures["indexed"])
        for name, figures in facts["dimensions"]["tried"].items()
        for search in figures["indexed"]["searches"]
    ]
    figure, panels = pyplot.subplots(1, 3, figsize=(11, 1.2 + 0.27 * len(rows)), sharey=True, layout="constrained")
    shown = {"recall": ("recall@10", "{:.3f}"), "memory_mb": ("MB in memory", "{:.0f}"), "disk_mb": ("MB on disk", "{:.0f}")}
    for panel, (key, (title, form)) in zip(panels, shown.items(), strict=True):
        bars = panel.barh(range(len(rows)), [row[key] for _, row in rows], color=_OURS)
        panel.bar_label(bars, [form.format(row[key]) for _, row in rows], padding=2, fontsize="x-small")
        panel.set_title(title, fontsize="small")
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(axis="x", labelsize="x-small")
        panel.margins(x=0.18)
    panels[0].set_yticks(range(len(rows)), [label for label, _ in rows], fontsize="small")
    panels[0].invert_yaxis()
    found, machine = facts["dimensions"], facts["machine"]
    figure.supxlabel(
        f"{found['texts']:,} texts by MiniLM on Qdrant Edge, with its index; {machine['cpu']}, {machine['cores']} core(s), "
        f"{facts['date'][:10]}, commit {facts['commit']}",
        fontsize="x-small",
    )
    figure.savefig(picture, dpi=150)
    pyplot.close(figure)


def draw_serving(facts: Mapping[str, Any], picture: Path) -> None:
    """Texts a second of 64 clients beside the engine's and the peer's, and how long a query took alone and beside bulk work."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = facts["serving"]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
    mean = median(one["tokens_per_second"] / one["requests_per_second"] for one in found["64 clients"])
    sides = [
        ("the engine, one call", _OURS, [one["tokens_per_second"] / mean for one in found["the engine, one call"]]),
        ("sightline serve,\n64 clients", _OURS, [one["requests_per_second"] for one in found["64 clients"]]),
        ("Infinity,\n64 clients", _PEER, [one["requests_per_second"] for one in found.get("Infinity", [])]),
    ]
    sides = [side for side in sides if side[2]]
    middles = [median(values) for _, _, values in sides]
    spread = [[middle - min(values) for middle, (_, _, values) in zip(middles, sides, strict=True)]]
    spread += [[max(values) - middle for middle, (_, _, values) in zip(middles, sides, strict=True)]]
    shown = left.barh(range(len(sides)), middles, color=[colour for _, colour, _ in sides], xerr=spread, error_kw=_RANGE)
    left.bar_label(shown, [f"{middle:,.0f}" for middle in middles], padding=6, fontsize="small")
    left.set_yticks(range(len(sides)), [label for label, _, _ in sides], fontsize="small")
    left.invert_yaxis()
    left.margins(x=0.15)
    left.set_title(f"texts of {mean:.0f} tokens embedded a second", fontsize="small")
    for name, label, colour in _WAITS:
        times = sorted(time for one in found[name] for time in one["times_ms"])
        part = [100 * (rank + 1) / len(times) for rank in range(len(times))]
        at = {percent: times[min(len(times) - 1, percent * len(times) // 100)] for percent in (50, 99)}
        right.plot(times, part, color=colour, label=f"{label}: p50 {at[50]:.0f} ms, p99 {at[99]:.0f} ms")
        right.plot(list(at.values()), list(at), "o", color=colour, markersize=4)
    right.set_xscale("log")
    right.set_xticks([5, 10, 20, 50, 100], ["5", "10", "20", "50", "100"])
    right.set_title("one query at a time: % answered within so many ms", fontsize="small")
    right.legend(fontsize="x-small", loc="lower right", frameon=False)
    for panel in (left, right):
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(axis="both", labelsize="x-small")
    left.tick_params(axis="y", labelsize="small")
    figure.supxlabel(f"MiniLM, {facts['dtype']}; {_circumstances(facts)}; bars are medians, lines the range", fontsize="x-small")
    figure.savefig(picture, dpi=150)
    pyplot.close(figure)


def _circumstances(facts: Mapping[str, Any]) -> str:
    machine = facts["machine"]
    where = f"{machine['cpu']}, {machine['cores']} cores, {facts['date'][:10]}, commit {facts['commit']}"
    return f"{where}; rounds: {facts['settings']['rounds']}"


def bars(model: Mapping[str, Any], mix: str) -> list[tuple[str, bool, Sequence[float]]]:
    """`(label, whether it is ours, figures of the rounds)` of each side, the first one on top."""
    name = "p50_ms" if mix == "one" else "tokens_per_second"
    return [
        (_label(side, model), side.startswith("Sightline"), [one["mixes"][mix][name] for one in rounds])
        for side, rounds in model["sides"].items()
    ]


def _label(side: str, model: Mapping[str, Any]) -> str:
    """Its name, and how far its vectors are from the reference's where that is more than rounding."""
    cosine = min((one["lowest_cosine"] for one in model["fidelity"].get(side, {}).values()), default=1.0)
    label = described(side, model["chosen"][side])
    return label if cosine > _FAITHFUL else f"{label}\n(lowest cosine to the reference {cosine:.3f})"


def _panel(panel: Any, name: str, mix: str, model: Mapping[str, Any], *, labelled: bool) -> None:
    lines = bars(model, mix)
    middles = [median(values) for _, _, values in lines]
    places = range(len(lines))
    spread = [
        [middle - min(values) for middle, (_, _, values) in zip(middles, lines, strict=True)],
        [max(values) - middle for middle, (_, _, values) in zip(middles, lines, strict=True)],
    ]
    colours = [_OURS if is_ours else _PEER for _, is_ours, _ in lines]
    panel.barh(places, middles, color=colours, xerr=spread, error_kw=_RANGE)
    panel.xaxis.set_major_formatter("{x:,.0f}")
    panel.set_yticks(places, [label for label, _, _ in lines] if labelled else [""] * len(lines), fontsize="small")
    panel.invert_yaxis()
    facts = model["mixes"][mix]
    what = "one text alone: median ms (less is better)" if mix == "one" else f"{mix}: tokens/s, {facts['mean']:.0f} tokens a text"
    panel.set_title(f"{name}\n{what}", fontsize="small")
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(axis="x", labelsize="x-small")
    panel.margins(x=0.18)
    for place, middle, value in zip(places, middles, (max(values) for _, _, values in lines), strict=True):
        panel.text(value, place, f" {middle:.1f}" if mix == "one" else f" {middle:,.0f}", va="center", fontsize="x-small")


if __name__ == "__main__":
    main()
