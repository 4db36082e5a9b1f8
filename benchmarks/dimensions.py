"""What shorter vectors, shortlists, quantisation and float16 cost in recall, and what they save, on Qdrant Edge.

50,000 real texts by the packaged MiniLM; truth is an exact search of the whole vectors. Each collection is measured twice: as it
is written, which is how Sightline leaves one of this size, and with its search index built.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import mixes
from benchmarks.measuring import PACKAGED, Figures, run_apart, table
from sightline.types import FloatArray, Point, Quantization, Shortlist, VectorLayout, VectorStorage

_NATIVE = 384
_TEXTS, _QUERIES, _HITS = 50_000, 500, 10
_SHORTEST, _LONGEST = 20, 600  # characters
_PER_CALL = 2_000
_KINDS = (Quantization.SCALAR, Quantization.TURBO8, Quantization.TURBO4, Quantization.TURBO2, Quantization.TURBO1)
_FLOAT16 = VectorStorage.FLOAT16
# Name, layout, and the searches that are tried on it.
_TRIED: dict[str, tuple[VectorLayout, tuple[Shortlist | None, ...]]] = {
    "384": (VectorLayout(_NATIVE), (None,)),
    **{str(length): (VectorLayout(length), (None,)) for length in (256, 128, 64)},
    **{
        f"384 + {length}": (VectorLayout(_NATIVE, (length,)), tuple(Shortlist(length, count) for count in counts))
        for length, counts in {256: (50, 200), 128: (100, 200, 500), 64: (200, 500)}.items()
    },
    "384 float16": (VectorLayout(_NATIVE, storage=_FLOAT16), (None,)),
    **{f"384 {kind}": (VectorLayout(_NATIVE, quantization=kind), (None,)) for kind in (*_KINDS, Quantization.BINARY)},
    "384 + 128 turbo4": (VectorLayout(_NATIVE, (128,), Quantization.TURBO4), (None, Shortlist(128, 200))),
    "384 float16 turbo4": (VectorLayout(_NATIVE, (), Quantization.TURBO4, _FLOAT16), (None,)),
}


def measure(work: Path, say: Callable[[str], None]) -> tuple[Figures, str]:
    """The figures, and the table that shows them."""
    texts, queries = _texts()
    (work / "texts.json").write_text(json.dumps([texts, queries]))
    say(f"embedding {len(texts):,} texts and {len(queries)} questions")
    embedded = run_apart(embed, {"folder": str(work)})
    found: Figures = {"texts": len(texts), "queries": len(queries), "hits": _HITS, "tried": {}}
    found["seconds_embedding"] = embedded["seconds"]
    for name in _TRIED:
        found["tried"][name] = figures = _measured(work, name)
        say(f"{name}: recall {figures['indexed']['searches'][0]['recall']:.3f}")
    return found, _shown(found)


def _measured(work: Path, name: str) -> Figures:
    """One collection: written, searched as it is, indexed, and searched again."""
    settings = {"folder": str(work), "name": name}
    made, plain = run_apart(fill, settings), run_apart(search, settings)
    figures = {"seconds_writing": made["seconds"], "plain": plain}
    indexed = run_apart(index, settings)
    figures |= {"seconds_indexing": indexed["seconds"], "indexed": run_apart(search, settings)}
    shutil.rmtree(work / "kb")
    return figures


def embed(settings: Figures) -> Figures:
    """A side: the vectors of all texts and questions, kept as an array."""
    from sightline import EmbeddingEngine

    folder = Path(settings["folder"])
    texts, queries = json.loads((folder / "texts.json").read_text())
    began = time.perf_counter()
    with EmbeddingEngine(PACKAGED, device="cpu") as engine:
        np.save(folder / "vectors.npy", engine.embed_documents(texts))
        np.save(folder / "queries.npy", engine.embed_queries(queries))
    return {"seconds": time.perf_counter() - began}


def fill(settings: Figures) -> Figures:
    """A side: a collection of one layout."""
    from sightline.cutting import cut
    from sightline.stores import open_store

    folder = Path(settings["folder"])
    layout, _ = _TRIED[settings["name"]]
    texts = json.loads((folder / "texts.json").read_text())[0]
    vectors = cut(np.load(folder / "vectors.npy"), layout.dimensions)
    store = open_store(_url(folder))
    began = time.perf_counter()
    store.create(layout, {})
    for start in range(0, len(texts), _PER_CALL):
        some = texts[start : start + _PER_CALL]
        points = [Point(str(uuid.UUID(int=start + row)), text, "texts", {}) for row, text in enumerate(some)]
        store.upsert(points, vectors[start : start + _PER_CALL])
    store.close()
    return {"seconds": time.perf_counter() - began}


def index(settings: Figures) -> Figures:
    """A side: the search index, which Sightline itself builds from 100,000 points on."""
    from sightline.stores.edge import build_index

    folder = Path(settings["folder"])
    shard = next(entry.name for entry in (folder / "kb").glob("shard-*") if entry.is_dir())
    began = time.perf_counter()
    build_index(_url(folder), str(folder / "kb"), shard)
    return {"seconds": time.perf_counter() - began}


def search(settings: Figures) -> Figures:
    """A side: recall, latency, and how a process grows that opens the collection and asks one question, from files not yet read.

    More questions would read more and more of the vectors that rescore them, which the system may forget again.
    """
    from sightline.cutting import cut
    from sightline.stores import open_store

    folder = Path(settings["folder"])
    layout, shortlists = _TRIED[settings["name"]]
    truth = _truth(folder)
    queries = cut(np.load(folder / "queries.npy"), layout.dimensions)
    store = open_store(_url(folder))
    _forget(folder / "kb")
    before = _resident()
    store.search(queries[0], limit=_HITS, shortlist=shortlists[0])
    memory = _resident() - before
    searches = []
    for shortlist in shortlists:
        hits, milliseconds = _asked(store, queries, shortlist)
        recall = float(np.mean([len(set(ids) & known) / _HITS for ids, known in zip(hits, truth, strict=True)]))
        middle, late = np.percentile(milliseconds, [50, 99])
        searches.append({
            "shortlist": None if shortlist is None else f"{shortlist.dimensions}:{shortlist.candidates}",
            "recall": recall, "p50_ms": float(middle), "p99_ms": float(late),
        })  # fmt: skip
    disk = store.disk_bytes()
    store.close()
    return {"searches": searches, "memory_mb": memory, "disk_mb": (disk or 0) / 1e6}


def _asked(store: Any, queries: FloatArray, shortlist: Shortlist | None) -> tuple[list[list[int]], list[float]]:
    """The rows that each question finds, and how long that took; the first pass warms up."""
    milliseconds: list[float] = []
    hits: list[list[int]] = []
    for query in (*queries, *queries):
        began = time.perf_counter()
        found = store.search(query, limit=_HITS, shortlist=shortlist)
        milliseconds.append(1000 * (time.perf_counter() - began))
        hits.append([uuid.UUID(hit.id).int for hit in found])
    return hits[len(queries) :], milliseconds[len(queries) :]


def _truth(folder: Path) -> list[set[int]]:
    """The rows that an exact search of the whole vectors finds."""
    scores = np.load(folder / "queries.npy") @ np.load(folder / "vectors.npy").T
    return [set(map(int, row)) for row in np.argpartition(-scores, _HITS, axis=1)[:, :_HITS]]


def _url(folder: Path) -> str:
    return f"edge:{folder / 'kb'}"


def _forget(folder: Path) -> None:
    """Ask the system to keep nothing of these files in memory."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _resident() -> float:
    """MB of this process that are in memory, mapped files among them."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) / 1000


def _texts() -> tuple[list[str], list[str]]:
    """Paragraphs, sentences and commands with what they do; and what is asked: questions, and texts of the same kind as those."""
    chooser = random.Random(12)
    data = mixes.test_data()
    pieces = [piece for document in mixes.documents_of(data, ("en",), pages=10**6) for piece in _pieces(document)]
    sentences = [one for text in mixes.passages(data, ("en",)) for one in re.split(r"(?<=[.?!])\s+", text)]
    texts = list(dict.fromkeys(one for one in [*pieces, *sentences] if _SHORTEST <= len(one) <= _LONGEST))
    needed, half = _TEXTS + _QUERIES // 2, _QUERIES // 2
    if len(texts) < needed:
        raise SystemExit(f"The test data has {len(texts):,} texts; this case takes {needed:,}. Set SIGHTLINE_TEST_DATA.")
    chosen = chooser.sample(texts, needed)
    return chosen[:_TEXTS], chosen[_TEXTS:] + chooser.sample(list(mixes.questions(data, ("en",))), half)


def _pieces(document: str) -> Iterator[str]:
    """Paragraphs; a command stays with what it does."""
    for piece in re.split(r"\n\s*\n", re.sub(r":\n\n`", ": `", document)):
        yield " ".join(piece.split())


def _shown(found: Figures) -> str:
    each = ["recall@10", "p50 ms", "p99 ms"]
    sizes = ["memory MB", "disk MB"]
    header = ["vectors", "shortlist", *each, *sizes, *(f"index: {one}" for one in (*each, *sizes))]
    rows: list[Sequence[object]] = []
    for name, figures in found["tried"].items():
        for plain, indexed in zip(figures["plain"]["searches"], figures["indexed"]["searches"], strict=True):
            rows.append([
                name, plain["shortlist"] or "", *_cells(plain, figures["plain"]), *_cells(indexed, figures["indexed"]),
            ])  # fmt: skip
    return f"{table(header, rows)}\n\n{_shares(found)}"


def _shares(found: Figures) -> str:
    """How much of the time the searching processes computed: what they waited for is no property of the engine."""
    sides = [figures[kind] for figures in found["tried"].values() for kind in ("plain", "indexed")]
    shares = [side["cpu_seconds"] / side["wall_seconds"] for side in sides]
    return (
        f"CPU seconds for each second of the searching processes: {min(shares):.2f} to {max(shares):.2f}. Far below 1 something "
        "else ran beside them, and their milliseconds are too many."
    )


def _cells(search: Figures, collection: Figures) -> list[str]:
    sizes = [f"{collection['memory_mb']:.0f}", f"{collection['disk_mb']:.0f}"]
    return [f"{search['recall']:.3f}", f"{search['p50_ms']:.1f}", f"{search['p99_ms']:.1f}", *sizes]
