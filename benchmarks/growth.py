"""Case 3: how memory and pace change as a collection grows."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from benchmarks.measuring import Figures, run_apart, table
from benchmarks.side import usage
from sightline.types import Document, Point

_SIZES = (10_000, 30_000, 100_000)
_DIMENSIONS = 384
_CHUNKS_PER_DOCUMENT = 10
_WORDS = 2_000
PORT = 8765


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
    from sightline import opening
    from sightline.testing import HashEmbedder

    embedder = HashEmbedder(native_dimensions=_DIMENSIONS)
    if settings["into"] == NullStore.url:
        store = NullStore()
        opening.open_store = lambda url: store  # type: ignore[assignment, return-value]
        store.exists = lambda: False  # type: ignore[attr-defined]
    before = usage()["peak_mb"]
    began = time.perf_counter()
    summary = sightline.index(documents=documents(settings["chunks"]), into=settings["into"], model=embedder)
    seconds = time.perf_counter() - began
    return {**usage(), "before_mb": before, "seconds": seconds, "chunks": summary.chunks}



def measure(work: Path, say: Callable[[str], None]) -> tuple[Mapping[str, Any], str]:
    """The figures, and the table that shows them."""
    with chroma_server(work / "server"):
        urls = {
            "no store": lambda chunks: NullStore.url,
            "Chroma server": lambda chunks: f"chroma+http://127.0.0.1:{PORT}/filled-{chunks}",
            "Edge": lambda chunks: f"edge:{work / f'edge-{chunks}'}",
            "Chroma embedded": lambda chunks: f"chroma:{work / f'chroma-{chunks}'}/filled",
        }
        grown: dict[str, dict[int, Figures]] = {}
        for name, url in urls.items():
            for chunks in _SIZES:
                grown.setdefault(name, {})[chunks] = run_apart(fill, {"into": url(chunks), "chunks": chunks})
                say(f"{name}, {chunks:,} chunks: {grown[name][chunks]['seconds']:.1f} s")
    return {"grown": grown}, _grown_table(grown)



def _grown_table(grown: Mapping[str, Mapping[int, Figures]]) -> str:
    rows = []
    for name, figures in grown.items():
        small, large = figures[_SIZES[0]], figures[_SIZES[-1]]
        slope = (large["peak_mb"] - small["peak_mb"]) / ((_SIZES[-1] - _SIZES[0]) / 1000)
        peaks = [f"{one['peak_mb']:.0f}" for one in figures.values()]
        rows.append([name, *peaks, f"{slope * 1000:.0f}", f"{large['chunks'] / large['seconds']:.0f}"])
    peaks_of = [f"peak MB at {size:,} chunks" for size in _SIZES]
    return table(["into", *peaks_of, "kB for each further 1,000 chunks", "chunks/s at the last"], rows)



class chroma_server:
    """`chroma run`, a process of its own, so that its memory isn't ours."""

    def __init__(self, path: Path) -> None:
        command = [str(Path(sys.executable).with_name("chroma")), "run", "--path", str(path), "--port", str(PORT)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self) -> None:
        for _ in range(600):
            try:
                httpx.get(f"http://127.0.0.1:{PORT}/api/v2/heartbeat", timeout=1).raise_for_status()
                return
            except httpx.HTTPError:
                threading.Event().wait(0.1)
        raise SystemExit("chroma run did not answer within a minute")

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()


