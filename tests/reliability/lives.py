"""The life of a collection, to be lived twice: once in peace, once in trouble."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sightline import index
from sightline.stores import open_store
from sightline.testing import HashEmbedder
from sightline.types import FloatArray, Point

_WORDS = ["tide", "wind", "swell", "lamp", "rope", "anchor", "harbour", "keeper", "storm", "gull", "größer", "潮汐", "маяк"]


@dataclass(frozen=True)
class State:
    """All that a collection holds, and what it took to get there."""

    step: str
    points: dict[str, Point]
    vectors: dict[str, FloatArray]
    contract: object
    unfinished: object
    texts: int

    def check(self, peaceful: State) -> None:
        """Compare with the same moment of an undisturbed life."""
        assert self.points == peaceful.points, self.step
        apart = [float(np.abs(self.vectors[one] - vector).max()) for one, vector in peaceful.vectors.items()]
        assert max(apart) <= 1e-6, self.step
        assert (self.contract, self.unfinished) == (peaceful.contract, peaceful.unfinished), self.step
        assert self.texts <= peaceful.texts, self.step


def live(folder: Path, url: str, *, seen_at: str | None = None, documents: int = 24) -> Iterator[State]:
    """Index, update, prune, rebuild; the same every time. `seen_at` is where the collection is looked at undisturbed."""
    chance = random.Random(5)
    folder.mkdir(parents=True)
    for number in range(documents):
        _write(folder / f"doc{number}.md", chance)
    embedder = HashEmbedder()
    for step in ("first index", "update", "prune", "rebuild"):
        if step != "first index":
            _change(folder, chance)
        options = {"prune": {"prune": True, "force": True}, "rebuild": {"rebuild": True, "force": True}}.get(step, {})
        index([folder], into=url, model=embedder, **options)
        yield _state(step, seen_at or url, embedder)


def _state(step: str, url: str, embedder: HashEmbedder) -> State:
    store = open_store(url)
    try:
        records = list(store.records())
        return State(
            step,
            {one.point.id: one.point for one in records},
            {one.point.id: one.vector for one in records},
            store.read_contract(),
            store.read_mark()["unfinished"],
            embedder.stats().texts,
        )
    finally:
        store.close()


def _write(path: Path, chance: random.Random) -> None:
    parts = [f"# Part {part}\n\n{' '.join(chance.choices(_WORDS, k=40))}." for part in range(chance.randint(1, 9))]
    path.write_text("\n\n".join([*parts, "# Closing\n\nThe same words stand at the end of every page."]), encoding="utf-8")


def _change(folder: Path, chance: random.Random) -> None:
    """Edits, renames, removals, additions."""
    for path in sorted(folder.glob("*.md")):
        choice = chance.random()
        if choice < 0.25:
            path.write_text("# New\n\n" + " ".join(chance.choices(_WORDS, k=20)) + "\n\n" + path.read_text("utf-8"), "utf-8")
        elif choice < 0.35:
            _write(path, chance)
        elif choice < 0.42:
            path.rename(path.with_name(f"moved-{path.name}"))
        elif choice < 0.5:
            path.unlink()
    _write(folder / f"new-{chance.randrange(10**6)}.md", chance)
