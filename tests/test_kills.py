"""Facts about `kill -9`: whenever it comes, the same command afterwards gives the collection of an undisturbed run."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from servers import ChromaServer
from sightline.contract import Mark
from sightline.stores import open_store
from sightline.types import FloatArray, Point

WORDS = ["tide", "wind", "swell", "lamp", "rope", "anchor", "harbour", "keeper", "storm", "gull", "größer", "潮汐", "маяк"]
KILLS = 10

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows"),
]


class Folder:
    """A folder that changes from version to version: edits, additions, renames, removals, equal texts, empty files."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.random = random.Random(seed)
        (path / "deep").mkdir(parents=True)
        for number in range(24):
            self.write(f"{'deep/' if number % 3 else ''}doc{number}.md", self.sections(self.random.randint(1, 14)))

    def sections(self, count: int) -> list[str]:
        made = [f"# Part {part}\n\n{' '.join(self.random.choices(WORDS, k=30))}." for part in range(count)]
        return [*made, "# Closing\n\nThe same words stand at the end of every page."]

    def write(self, name: str, sections: list[str]) -> None:
        text = "\n\n".join([f"---\nversion: {self.random.randint(1, 3)}\n---", *sections])
        (self.path / name).write_text(text, encoding="utf-8")

    def change(self) -> None:
        """The next version: about half of the documents differ."""
        for path in sorted(self.path.rglob("*.md")):
            text, choice = path.read_text(encoding="utf-8"), self.random.random()
            if choice < 0.2:
                added = "# New\n\n" + " ".join(self.random.choices(WORDS, k=20))
                path.write_text(text.replace("\n\n", f"\n\n{added}\n\n", 1), encoding="utf-8")
            elif choice < 0.3:
                self.write(str(path.relative_to(self.path)), self.sections(self.random.randint(1, 10)))
            elif choice < 0.37:
                path.rename(path.with_name(f"moved-{self.random.randrange(10**6)}.md"))
            elif choice < 0.42:
                path.unlink()
            elif choice < 0.46:
                path.write_text("", encoding="utf-8")
        for _ in range(2):
            self.write(f"new-{self.random.randrange(10**6)}.md", self.sections(self.random.randint(1, 14)))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaServer]:
    """A real Chroma server."""
    running = ChromaServer(tmp_path_factory.mktemp("server"))
    yield running
    running.kill()


@pytest.fixture(params=["edge", "chroma", "chroma+http", "qdrant"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """`place(name)` is the URL of a collection of that name."""
    scheme = request.param
    if scheme == "chroma+http":
        prefix = request.getfixturevalue("server").url()
        return lambda name: f"{prefix}-{name}"
    return {
        "edge": lambda name: f"edge:{tmp_path / name}",
        "chroma": lambda name: f"chroma:{tmp_path / name}/kb-{name}",
        "qdrant": lambda name: f"qdrant:{tmp_path / name}/kb",
    }[scheme]


def start(folder: Path, url: str, model: Path) -> subprocess.Popen[str]:
    """`sightline index FOLDER --into URL --prune` as a process of its own."""
    command = [sys.executable, "-m", "sightline", "index", str(folder), "--into", url, "--model", str(model)]
    options = ["--prune", "--force", "--chunk-tokens", "64"]
    return subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for a run that must succeed."""
    _, shown = process.communicate(timeout=180)
    assert process.returncode == 0, shown


def contents(url: str) -> tuple[dict[str, Point], dict[str, FloatArray], Mark]:
    """All that a collection holds."""
    store = open_store(url)
    try:
        records = list(store.records())
        mark = Mark.from_json(store.read_mark())
    finally:
        store.close()
    return {one.point.id: one.point for one in records}, {one.point.id: one.vector for one in records}, mark


def test_the_same_command_mends_what_a_kill_left(
    place: Callable[[str], str], make_model: Callable[..., Path], tmp_path: Path
) -> None:
    """Ten versions of a folder, each run killed at a random instant and started again: no wait, no question, nothing lost."""
    model = make_model("bert")
    folder = Folder(tmp_path / "kb", seed=5)
    url, instants, killed = place("killed"), random.Random(7), 0
    started = time.monotonic()
    finish(start(folder.path, place("rehearsal"), model))
    whole = time.monotonic() - started
    for version in range(KILLS):
        run = start(folder.path, url, model)
        try:
            # Not in the first instants: while Python loads the library, nothing happens to the collection.
            run.communicate(timeout=whole * instants.uniform(0.45, 1.0))
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGKILL)
            run.communicate()
            killed += run.returncode == -signal.SIGKILL
        finish(start(folder.path, url, model))
        started = time.monotonic()
        finish(start(folder.path, place(f"clean{version}"), model))
        whole = time.monotonic() - started  # what else runs here slows each version by another measure
        points, vectors, mark = contents(url)
        clean_points, clean_vectors, _ = contents(place(f"clean{version}"))
        assert points == clean_points, f"version {version}"
        difference = max(np.abs(vectors[one] - clean_vectors[one]).max() for one in points)
        assert difference <= (0 if url.startswith("edge") else 1e-6), f"version {version}"
        assert mark.unfinished == frozenset()
        folder.change()
    assert killed >= KILLS // 2
