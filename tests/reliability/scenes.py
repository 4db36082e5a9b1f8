"""Scenes: one operation on one kind of store, played undisturbed, and played again with an attack on it."""

from __future__ import annotations

import json
import random
import re
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from killing import IN_FLIGHT, Ended, Folder, Kill, Run, Runner, copied

from sightline.contract import Mark
from sightline.protocols import Store
from sightline.stores import open_store
from sightline.stores.locks import LOCK_NAME, held_by
from sightline.types import FloatArray, Point

NAMES = {"edge": "Edge", "chroma": "Chroma", "chroma+http": "Chroma server", "qdrant": "Qdrant local mode"}
OPERATIONS = {"first": "first index", "update": "update", "prune": "prune", "rebuild": "rebuild"}
_RANDOM_NAME = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True)
class State:
    """What a collection holds."""

    points: dict[str, Point]
    vectors: dict[str, FloatArray]
    contract: Any
    mark: Mark

    def is_as(self, other: State, tolerance: float) -> bool:
        """Whether it holds the same points with the same vectors."""
        if self.points != other.points:
            return False
        return all(np.abs(self.vectors[one] - other.vectors[one]).max() <= tolerance for one in self.points)


class Folders:
    """Three versions of a folder: as it was, with changes of every kind, and with a third of its documents gone."""

    def __init__(self, path: Path, seed: int = 5, documents: int = 24, sections: int = 14) -> None:
        self.first = Folder(path / "first", seed, documents, sections).path
        self.changed, self.thinned = path / "changed", path / "thinned"
        for name, change in (("changed", Folder.change), ("thinned", Folder.thin_out)):
            again = Folder(path / name, seed, documents, sections)
            change(again)


class Scene:
    """One operation on one kind of store, which can be played any number of times from the same state."""

    def __init__(self, kind: str, operation: str, folders: Folders, runner: Runner, path: Path, server: str = "") -> None:
        self.kind, self.operation, self.runner = kind, operation, runner
        self._path, self._server, self._count = path, server, 0
        self._model: str | None = None
        folder = {"first": folders.first, "prune": folders.thinned}.get(operation, folders.changed)
        self._before = None if operation == "first" else folders.first
        self._arguments: dict[str, Any] = {"roots": {"kb": str(folder)}, "chunk_tokens": 64}
        if operation != "first":
            self._arguments |= {"prune": True, "force": True}
        if operation == "rebuild":
            self._arguments["rebuild"] = True

    @property
    def has_model(self) -> bool:
        """Whether a model embeds, not the hash embedder."""
        return self._model is not None

    @property
    def name(self) -> str:
        """As it stands in the table."""
        with_model = ", MiniLM" if self.has_model else ""
        return f"kill -9, {NAMES[self.kind]}, {OPERATIONS[self.operation]}{with_model}"

    def embedded_by(self, model: str) -> Scene:
        """The same with a model."""
        self._model = model
        return self

    def rehearse(self) -> None:
        """Play it undisturbed."""
        self._prepared = self._path / "prepared"
        if self._before is not None and not self._server:
            self._index_before(self._url(self._prepared))
        url = self.fresh()
        self.before = None if self._before is None else state(url)
        self.undisturbed = self.play(url)
        self.expected = state(url)
        self.leftovers = leftovers(url)

    def fresh(self) -> str:
        """The URL of a collection in the state before."""
        self._count += 1
        if self._server:
            url = f"{self._server}-{self.operation}-{self._count}"
            if self._before is not None:
                self._index_before(url)
            return url
        directory = self._path / f"run{self._count}"
        if self._before is not None:
            copied(self._prepared, directory)
        return self._url(directory)

    def play(self, url: str, kill: Kill | None = None, *, may_fail: bool = False) -> Ended:
        """Run it."""
        return self.runner.run(Run({**self._arguments, "into": url}, self._model), kill, may_fail=may_fail)

    def random_kill(self, instants: random.Random, number: int) -> Kill:
        """By turns at a random time and a random while after a random write or submission."""
        whole, events = self.undisturbed.seconds, self.undisturbed.events
        if number % 2:
            return Kill(instants.uniform(0, whole))
        return Kill(instants.uniform(0, min(whole / events, 0.02)), event=instants.randrange(events))

    def attack(self, kill: Kill) -> bool:
        """Kill it, run it again, and compare all there is to compare; False where it was through before it could be killed."""
        url = self.fresh()
        killed = self.play(url, kill)
        is_over = not killed.killed
        if self.operation == "rebuild":  # readers see the one or the other, whole
            assert self.before is not None
            seen = state(url)
            is_new = seen.is_as(self.expected, self.tolerance)
            assert is_new or seen.is_as(self.before, self.tolerance), kill
            # When the mark says no more that it was rebuilt, all was done but closing, and the same command is another rebuild.
            is_over = is_over or (is_new and not seen.mark.is_rebuilt)
        held = held_texts(url)
        again = self.play(url)
        found = state(url)
        assert found.points == self.expected.points, kill
        assert found.is_as(self.expected, self.tolerance), kill
        assert found.contract == self.expected.contract, kill
        assert (found.mark.unfinished, found.mark.is_rebuilt) == (frozenset(), False), kill
        assert leftovers(url) == self.leftovers, kill
        if not is_over:
            check_embedded_once(killed, again, held)
        return killed.killed

    @property
    def tolerance(self) -> float:
        """How far vectors may be apart: Edge gives back the bits, Chroma and local mode normalise once more."""
        return 0.0 if self.kind == "edge" else 1e-6

    def _url(self, directory: Path) -> str:
        return f"edge:{directory}" if self.kind == "edge" else f"{self.kind}:{directory}/sea"

    def _index_before(self, url: str) -> None:
        before = {"roots": {"kb": str(self._before)}, "chunk_tokens": 64, "into": url}
        self.runner.run(Run(before, self._model))


def check_embedded_once(first: Ended, again: Ended, held: set[str]) -> None:
    """Nothing that was held in between was embedded again, and nothing else but what was in flight."""
    twice = first.texts & again.texts
    in_flight = {text for window in first.windows[-IN_FLIGHT:] for text in window}
    assert not twice & held
    assert twice <= in_flight


def state(url: str) -> State:
    """What a collection holds, read through a store of its own."""
    store = open_store(url)
    try:
        records = list(store.records())
        contract, mark = store.read_contract(), Mark.from_json(store.read_mark())
    finally:
        store.close()
    points = {one.point.id: one.point for one in records}
    return State(points, {one.point.id: one.vector for one in records}, contract, mark)


def held_texts(url: str) -> set[str]:
    """The texts whose vectors are there: in what a rebuild fills, where there is such a thing."""
    store = open_store(url)
    try:
        staged = store.staging() if store.exists() else None
        place: Store = staged if staged is not None and staged.exists() else store
        return {record.point.text for record in place.records()} if place.exists() else set()
    finally:
        store.close()


def leftovers(url: str) -> list[str]:
    """The names of what lies in the database beside the points, random parts and what is to lie there left out."""
    scheme, _, rest = url.partition(":")
    if scheme == "chroma+http":
        base, _, name = rest.removeprefix("//").partition("/")
        listed = httpx.get(f"http://{base}/api/v2/tenants/default_tenant/databases/default_database/collections").json()
        names = {one["name"] for one in listed}
        ours = [one for one in names if one == name or one.startswith(f"{name}.")]
        return sorted(one.replace(name, "*") for one in ours if not one.endswith(".old"))
    directory = Path(rest if scheme == "edge" else rest.rpartition("/")[0])
    assert held_by(directory / LOCK_NAME) is None
    if scheme == "edge":
        assert not list(directory.glob("shard-*/temp_segments/*"))
        return sorted(_RANDOM_NAME.sub("*", path.name) for path in directory.iterdir())
    if scheme == "chroma":
        return sorted(chroma_names(directory))
    meta = json.loads((directory / "meta.json").read_text(encoding="utf-8"))
    names = {*meta["collections"], *(path.name for path in (directory / "collection").iterdir())}
    assert set(meta["aliases"].values()) == names
    return sorted([*(_RANDOM_NAME.sub("*", name) for name in names), *(path.name for path in directory.iterdir())])


def chroma_names(directory: Path) -> set[str]:
    """Collections of a Chroma database, without the one that a rebuild leaves for its readers, and files of no collection."""
    with sqlite3.connect(directory / "chroma.sqlite3") as database:
        collections = {str(name) for (name,) in database.execute("select name from collections")}
        segments = {str(one) for (one,) in database.execute("select id from segments")}
    files = {path.name for path in directory.iterdir()}
    return {name for name in collections if not name.endswith(".old")} | (files - segments)
