"""What a stored point takes, on disk and in memory, by store and length: the figures that `sightline.planning` stands on."""

from __future__ import annotations

import json
import random
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.measuring import ROOT, Figures, run_apart, table

_COUNTS = (5_000, 20_000)
_LENGTHS = (384, 1024)
_STORES = ("edge", "edge, indexed", "chroma")
# Other ways of keeping vectors, on Edge.
_OTHERS: tuple[dict[str, Any], ...] = (
    {"quantization": "scalar"}, {"quantization": "binary"}, {"quantization": "turbo4"}, {"storage": "float16"}, {"shorter": [96]},
)  # fmt: skip
_CHUNKS_PER_DOCUMENT = 10
_CHARACTERS = 600  # of a text in the mean
_OTHER_CHARACTERS = (200, 1_800)
_BATCH = 500
_QUESTIONS = 50


def points(count: int, characters: int) -> Iterator[Any]:
    """Points as the indexer makes them, ten to a document; the texts are stretches of the example knowledge base."""
    from sightline.types import Head, Point

    files = sorted(path for path in (ROOT / "examples" / "knowledge_base").rglob("*.*") if path.suffix in (".md", ".txt"))
    text = "\n\n".join(path.read_text(encoding="utf-8") for path in files)
    chooser = random.Random(1)
    for number in range(count):
        document, part = divmod(number, _CHUNKS_PER_DOCUMENT)
        source = f"handbook/chapter-{document % 40:02d}/document-{document:06d}.md"
        start = chooser.randrange(len(text) - 2 * characters)
        chunk = text[start : start + chooser.randrange(characters // 2, 3 * characters // 2)]
        place = {"start": start, "end": start + len(chunk), "tokens": len(chunk) // 4}
        metadata = {"heading": "Handbook > Equipment > Lamp", **place}
        head = None
        if part == 0:
            settings = "markdown/2 sightline/1:256"
            head = Head(source, f"{document:064x}", min(_CHUNKS_PER_DOCUMENT, count - number), settings)
        yield Point(str(uuid.UUID(int=chooser.getrandbits(128))), chunk, source, metadata, head)


def fill(settings: Figures) -> Figures:
    """A side: write so many points with random unit vectors; gives what they are and what their directory takes."""
    import numpy as np

    from sightline.metadata import payload_bytes
    from sightline.stores import open_store
    from sightline.types import VectorLayout

    made = list(points(settings["points"], settings["characters"]))
    generator = np.random.default_rng(2)
    store = open_store(settings["url"])
    store.create(VectorLayout(settings["dimensions"], **settings["more"]), {})
    for start in range(0, len(made), _BATCH):
        some = made[start : start + _BATCH]
        rows = generator.normal(size=(len(some), settings["dimensions"])).astype(np.float32)
        store.upsert(some, rows / np.linalg.norm(rows, axis=1, keepdims=True))
    store.close()
    if settings["indexed"]:
        _build_index(settings["url"])
    directory = Path(settings["url"].partition(":")[2])
    directory = directory if settings["url"].startswith("edge:") else directory.parent
    kinds: dict[str, int] = {}
    for path in directory.rglob("*"):
        if path.is_file():
            kind = path.name if path.suffix != ".dat" else path.parent.name
            kinds[kind] = kinds.get(kind, 0) + path.stat().st_blocks * 512
    return {
        "payload_bytes": sum(map(payload_bytes, made)) / len(made),
        "text_bytes": sum(len(point.text.encode()) for point in made) / len(made),
        "disk_bytes": sum(kinds.values()),
        "apparent_bytes": sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()),
        "largest": dict(sorted(kinds.items(), key=lambda one: -one[1])[:12]),
    }


def hold(settings: Figures) -> Figures:
    """A side: what the process grows by when it opens the collection, and when it has asked it some questions."""
    import numpy as np

    from sightline.stores import open_store

    store = open_store(settings["url"])
    before = _memory()
    store.count()
    opened = _memory()
    generator = np.random.default_rng(3)
    for _ in range(_QUESTIONS):
        store.search(generator.normal(size=settings["dimensions"]).astype(np.float32), limit=10)
    asked = _memory()
    store.close()
    return {
        **{f"opened_{name}": opened[name] - before[name] for name in before},
        **{f"asked_{name}": asked[name] - before[name] for name in before},
    }


def _memory() -> dict[str, int]:
    """Bytes of this process that are in memory: its own, and pages of files."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
    return {"own": 1024 * kilobytes["Anonymous"], "files": 1024 * (kilobytes["Rss"] - kilobytes["Anonymous"])}


def _build_index(url: str) -> None:
    """The search index that a large collection is given when a run ends."""
    from sightline.stores.edge import build_index

    directory = Path(url.partition(":")[2])
    shard = json.loads((directory / "sightline.json").read_text(encoding="utf-8"))["current"]["shard"]
    build_index(url, str(directory), shard)


def measure(work: Path, say: Callable[[str], None]) -> tuple[Figures, str]:
    """Every figure, and the table that shows them."""
    cases: list[tuple[str, int, int, int, dict[str, Any]]] = [
        (store, dimensions, count, _CHARACTERS, {}) for store in _STORES for dimensions in _LENGTHS for count in _COUNTS
    ]
    shortest, fewest, most = _LENGTHS[0], _COUNTS[0], _COUNTS[-1]
    cases += [(store, shortest, fewest, size, {}) for store in ("edge", "chroma") for size in _OTHER_CHARACTERS]
    cases += [(store, shortest, most, _CHARACTERS, more) for more in _OTHERS for store in _STORES[:2]]
    found: Figures = {}
    rows = []
    for number, (store, dimensions, count, characters, more) in enumerate(cases):
        what = [store, f"{count:,} points of {dimensions}", *(f"{key} {value}" for key, value in more.items())]
        name = ", ".join(what if characters == _CHARACTERS else [*what, f"{characters} characters"])
        place = work / f"sizes-{number}"
        url = f"chroma:{place}/points" if store == "chroma" else f"edge:{place}"
        settings = {
            "url": url, "points": count, "dimensions": dimensions, "characters": characters, "more": more,
            "indexed": store == "edge, indexed",
        }  # fmt: skip
        one = found[name] = {**settings, "store": store, **run_apart(fill, settings), **run_apart(hold, settings)}
        per_point = [one[key] / count for key in ("disk_bytes", "opened_own", "asked_own", "asked_files")]
        rows.append([name, f"{one['payload_bytes']:,.0f}", *(f"{value:,.0f}" for value in per_point)])
        say(f"{name}: {one['disk_bytes'] / 1e6:,.1f} MB on disk")
        shutil.rmtree(place)
    header = ("collection", "payload", "on disk", "opened, own memory", "asked, own memory", "asked, pages of files")
    return found, "Bytes a point.\n\n" + table(header, rows)
