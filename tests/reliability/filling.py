"""A run of many chunks in a process of its own, whose peak memory is told: `python filling.py URL CHUNKS CHUNKS_A_DOCUMENT`."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks import driver
from benchmarks.growth import NullStore

import sightline
from sightline import opening
from sightline.testing import HashEmbedder
from sightline.types import Document

_DIMENSIONS = 32
_WORDS = 24


def peak_mb(url: str, chunks: int, chunks_a_document: int) -> float:
    """Peak memory of the process that fills a new collection with documents that are made on the way."""
    command = [sys.executable, str(Path(__file__)), url, str(chunks), str(chunks_a_document)]
    root = str(Path(__file__).resolve().parents[2])  # where the benchmarks are
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["chunks"] == chunks
    return float(told["peak_mb"])


def documents(chunks: int, chunks_a_document: int) -> Iterator[Document]:
    """Markdown of one section a chunk, all of them different; made one by one."""
    chooser = random.Random(1)
    words = [f"word{number}" for number in range(2000)]
    for number in range(chunks // chunks_a_document):
        sections = [f"# Part {part}\n\n{' '.join(chooser.choices(words, k=_WORDS))}" for part in range(chunks_a_document)]
        yield Document(f"note-{number}.md", "\n\n".join(sections), format="markdown")


def main(url: str, chunks: int, chunks_a_document: int) -> None:
    """Fill, and tell."""
    if url == NullStore.url:
        store = NullStore()
        store.exists = lambda: False  # type: ignore[attr-defined]
        opening.open_store = lambda url: store  # type: ignore[assignment, return-value]
    embedder = HashEmbedder(native_dimensions=_DIMENSIONS)
    summary = sightline.index(documents=documents(chunks, chunks_a_document), into=url, model=embedder)
    print(json.dumps({"chunks": summary.chunks, "peak_mb": driver.peak_mb(), "seconds": summary.seconds}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
