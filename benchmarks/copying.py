"""Case: what copying a collection takes, from store to store and to a file and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import growth
from benchmarks.measuring import Figures, run_apart, table
from benchmarks.side import usage

_POINTS = 50_000


def copied(settings: Figures) -> Figures:
    """A side: one copy."""
    import sightline

    before = usage()["peak_mb"]
    summary = sightline.copy(settings["src"], settings["dst"])
    return {**usage(), **dataclasses.asdict(summary), "before_mb": before}


def measure(work: Path, say: Callable[[str], None]) -> tuple[Mapping[str, Any], str]:
    """The figures of each route, and the table that shows them."""
    places = {
        "Edge": f"edge:{work / 'copy-origin'}",
        "another Edge": f"edge:{work / 'copy-edge'}",
        "Parquet": f"parquet:{work / 'copy.parquet'}",
        "Edge again": f"edge:{work / 'copy-back'}",
        "Chroma": f"chroma:{work / 'copy-chroma'}/handbook",
        "Edge from Chroma": f"edge:{work / 'copy-from-chroma'}",
    }
    run_apart(growth.fill, {"into": places["Edge"], "chunks": _POINTS})
    routes = [("Edge", "another Edge"), ("Edge", "Parquet"), ("Parquet", "Edge again"), ("Edge", "Chroma")]
    routes.append(("Chroma", "Edge from Chroma"))
    found: dict[str, Figures] = {}
    for src, dst in routes:
        name = f"{src} to {dst}"
        found[name] = {**run_apart(copied, {"src": places[src], "dst": places[dst]}), "disk_bytes": _bytes(places[dst])}
        say(f"{name}: {found[name]['seconds']:.1f} s")
    rows = [
        [name, f"{one['seconds']:.1f}", f"{one['points'] / one['seconds']:,.0f}", f"{one['peak_mb']:.0f}",
         f"{one['disk_bytes'] / 1e6:.0f}", f"{one['largest_difference']:.1e}"]
        for name, one in found.items()
    ]  # fmt: skip
    titles = [f"{_POINTS:,} points of 384 dimensions", "seconds", "points/s", "peak MB", "MB on disk", "largest difference"]
    return found, table(titles, rows)


def _bytes(url: str) -> int:
    """What lies at a URL's path on disk; files of databases are mostly holes."""
    scheme, _, name = url.partition(":")
    path = Path(name).parent if scheme == "chroma" else Path(name)
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return sum(one.stat().st_blocks * 512 for one in files)
