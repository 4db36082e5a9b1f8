"""Case 3: how memory and pace change as a collection grows, and what a run over very many small files does."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx

from benchmarks.measuring import PACKAGED, Figures, run_apart, table
from benchmarks.side import usage
from sightline.types import Document, IndexProgress, Point

_SIZES = (10_000, 30_000, 100_000)
_DIMENSIONS = 384
_CHUNKS_PER_DOCUMENT = 10
_WORDS = 2_000
_TINY_FILES = 38_000
_PORT = 8765


class NullStore:
    """Takes everything and keeps nothing: what grows over it is the indexer's own."""

    url = "null:"

    def __init__(self) -> None:
        self.written = 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        answers = {"count": 0, "heads": iter(()), "sources": {}, "points": [], "vectors_of": {}, "read_mark": {}}
        return lambda *arguments, **more: answers.get(name)

    def upsert(self, points: Sequence[Point], vectors: Any) -> None:
        self.written += len(points)


def documents(chunks: int) -> Iterator[Document]:
    """Documents of ten chunks each, all texts different; made one by one."""
    chooser = random.Random(1)
    words = [f"word{number}" for number in range(_WORDS)]
    for number in range(chunks // _CHUNKS_PER_DOCUMENT):
        sections = [f"# Part {part}\n\n{' '.join(chooser.choices(words, k=60))}" for part in range(_CHUNKS_PER_DOCUMENT)]
        yield Document(str(number), "\n\n".join(sections), format="markdown")


def fill(settings: Figures) -> Figures:
    """A side: documents that are made on the way, embedded by the hash embedder (so that only indexing is measured)."""
    import sightline
    from sightline import api
    from sightline.testing import HashEmbedder

    embedder = HashEmbedder(native_dimensions=_DIMENSIONS)
    if settings["into"] == NullStore.url:
        store = NullStore()
        api.open_store = lambda url: store  # type: ignore[assignment, return-value]
        store.exists = lambda: False  # type: ignore[attr-defined]
    before = usage()["peak_mb"]
    began = time.perf_counter()
    summary = sightline.index(documents=documents(settings["chunks"]), into=settings["into"], model=embedder)
    seconds = time.perf_counter() - began
    return {**usage(), "before_mb": before, "seconds": seconds, "chunks": summary.chunks}


def tiny(settings: Figures) -> Figures:
    """A side: a folder of very many small files, with the packaged MiniLM; the longest time without any progress is kept."""
    import sightline

    events: list[float] = []
    began = time.perf_counter()

    def on_progress(progress: IndexProgress) -> None:
        events.append(time.perf_counter())

    summary = sightline.index([settings["folder"]], into=settings["into"], model=PACKAGED, on_progress=on_progress)
    seconds = time.perf_counter() - began
    stalls = [later - earlier for earlier, later in pairwise(events)]
    return {
        **usage(), "seconds": seconds, "documents": summary.documents, "embedded": summary.chunks_embedded,
        "longest_stall": max(stalls), "torch": "torch" in sys.modules,
    }  # fmt: skip


def measure(work: Path, say: Callable[[str], None]) -> tuple[Mapping[str, Any], str]:
    """The figures, and the tables that show them."""
    with _chroma_server(work / "server"):
        urls = {
            "no store": lambda chunks: NullStore.url,
            "Chroma server": lambda chunks: f"chroma+http://127.0.0.1:{_PORT}/filled-{chunks}",
            "Edge": lambda chunks: f"edge:{work / f'edge-{chunks}'}",
            "Chroma embedded": lambda chunks: f"chroma:{work / f'chroma-{chunks}'}/filled",
        }
        grown: dict[str, dict[int, Figures]] = {}
        for name, url in urls.items():
            for chunks in _SIZES:
                grown.setdefault(name, {})[chunks] = run_apart(fill, {"into": url(chunks), "chunks": chunks})
                say(f"{name}, {chunks:,} chunks: {grown[name][chunks]['seconds']:.1f} s")
    few = _tiny(work, say)
    return {"grown": grown, "tiny": few}, f"{_grown_table(grown)}\n\n{_tiny_table(few)}"


def _tiny(work: Path, say: Callable[[str], None]) -> dict[str, dict[str, Figures]]:
    folder = work / "tiny"
    for number in range(_TINY_FILES):
        path = folder / f"{number // 1000:02d}" / f"note{number}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# Note {number}\n\nThe lamp of house {number} was lit at {number % 24} o'clock.\n", encoding="utf-8")
    found: dict[str, dict[str, Figures]] = {}
    for name, url in (("Edge", f"edge:{work / 'tiny-edge'}"), ("Chroma embedded", f"chroma:{work / 'tiny-chroma'}/tiny")):
        for run in ("first run", "unchanged rerun"):
            found.setdefault(name, {})[run] = run_apart(tiny, {"folder": str(folder), "into": url})
            say(f"{_TINY_FILES:,} files into {name}, {run}: {found[name][run]['seconds']:.1f} s")
    shutil.rmtree(folder)
    return found


def _grown_table(grown: Mapping[str, Mapping[int, Figures]]) -> str:
    rows = []
    for name, figures in grown.items():
        small, large = figures[_SIZES[0]], figures[_SIZES[-1]]
        slope = (large["peak_mb"] - small["peak_mb"]) / ((_SIZES[-1] - _SIZES[0]) / 1000)
        peaks = [f"{one['peak_mb']:.0f}" for one in figures.values()]
        rows.append([name, *peaks, f"{slope * 1000:.0f}", f"{large['chunks'] / large['seconds']:.0f}"])
    peaks_of = [f"peak MB at {size:,} chunks" for size in _SIZES]
    return table(["into", *peaks_of, "kB for each further 1,000 chunks", "chunks/s at the last"], rows)


def _tiny_table(found: Mapping[str, Mapping[str, Figures]]) -> str:
    rows = [
        [f"{name}, {run}", f"{one['seconds']:.1f}", one["embedded"], f"{one['longest_stall']:.1f}", f"{one['peak_mb']:.0f}"]
        for name, runs in found.items()
        for run, one in runs.items()
    ]
    return table([f"{_TINY_FILES:,} files", "seconds", "texts embedded", "longest time without an event, s", "peak MB"], rows)


class _chroma_server:
    """`chroma run`, a process of its own, so that its memory isn't ours."""

    def __init__(self, path: Path) -> None:
        command = [str(Path(sys.executable).with_name("chroma")), "run", "--path", str(path), "--port", str(_PORT)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self) -> None:
        for _ in range(600):
            try:
                httpx.get(f"http://127.0.0.1:{_PORT}/api/v2/heartbeat", timeout=1).raise_for_status()
                return
            except httpx.HTTPError:
                threading.Event().wait(0.1)
        raise SystemExit("chroma run did not answer within a minute")

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()


