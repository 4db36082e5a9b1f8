"""Case: the speed of doing nothing. Very many small files are indexed; then once more, and once more after one line changed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.growth import PORT, chroma_server
from benchmarks.measuring import PACKAGED, Figures, middle, run_apart, table

_FILES = 38_000
_FILES_PER_FOLDER = 100
# The files share their texts, so that the first run, which isn't what is measured, embeds few of them.
_LAMPS = 700
_PARTS = 12


def rerun(settings: Figures) -> Figures:
    """A side: `sightline.index` in a fresh process, which opens the collection's own model where it needs one."""
    import sightline

    began = time.perf_counter()
    summary = sightline.index([settings["folder"]], into=settings["into"], model=settings.get("model"))
    return {
        "seconds": time.perf_counter() - began, "documents": summary.documents, "unchanged": summary.documents_unchanged,
        "embedded": summary.chunks_embedded, "chunks": summary.chunks, "torch": "torch" in sys.modules,
    }  # fmt: skip


def measure(work: Path, rounds: int, say: Callable[[str], None]) -> tuple[Mapping[str, Any], str]:
    """The figures, and the table that shows them."""
    folder, found = work / "notes", {}
    long = _write_files(folder)
    with chroma_server(work / "unchanged-server"):
        for name, url in {
            "Edge": f"edge:{work / 'unchanged-edge'}",
            "Chroma embedded": f"chroma:{work / 'unchanged-chroma'}/notes",
            "Chroma server": f"chroma+http://127.0.0.1:{PORT}/notes",
        }.items():
            settings = {"folder": str(folder), "into": url}
            original = long.read_text(encoding="utf-8")
            first = run_apart(rerun, {**settings, "model": PACKAGED})
            again = [run_apart(rerun, settings) for _ in range(rounds)]
            long.write_text(original.replace("keeper 5 counts", "keeper 5 feeds"), encoding="utf-8")
            edited = run_apart(rerun, settings)
            long.write_text(original, encoding="utf-8")
            unchanged = middle(again)
            found[name] = {"first": first, "unchanged": unchanged, "each unchanged": again, "one line changed": edited}
            say(f"{name}: unchanged {unchanged['seconds_all']:.1f} s, one line changed {edited['seconds_all']:.1f} s")
    return found, _table(found)


def _write_files(folder: Path) -> Path:
    """Files of one sentence each, and a long one, which is returned."""
    for number in range(_FILES):
        path = folder / f"{number // _FILES_PER_FOLDER:03d}" / f"note{number}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# Note\n\nThe lamp of house {number % _LAMPS} was lit at {number % 24} o'clock.\n", encoding="utf-8")
    long = folder / "long.md"
    parts = [f"# Pier {part}\n\nAnchor {part} lies here; keeper {part} counts the gulls.\n" for part in range(_PARTS)]
    long.write_text("\n".join(parts), encoding="utf-8")
    return long


def _table(found: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [f"{name}: {run}", *(f"{runs[run][key]:,.0f}" for key in ("documents", "unchanged", "chunks", "embedded")),
         f"{runs[run]['seconds_all']:.1f}", f"{runs[run]['peak_mb']:.0f}"]
        for name, runs in found.items()
        for run in ("unchanged", "one line changed")
    ]  # fmt: skip
    header = ["run", "documents", "unchanged", "chunks", "embedded", "seconds, start of Python included", "peak MB"]
    return table(header, rows)
