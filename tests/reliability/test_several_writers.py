"""Facts about several writers at once: each is done or refused with the other one's name, and nothing is lost in silence."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import runs

import sightline
from attacks import Attack
from qdrant_stand_in import RunningServer
from servers import ChromaServer
from sightline.errors import StoreLocked
from sightline.testing import HashEmbedder
from sightline.types import Document, FloatArray

PATIENCE = 60


def slow(kind: str) -> Any:
    """A store for `make test-all`."""
    return pytest.param(kind, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """`servers(kind)` is the URL of a collection that nobody used yet, on a server of that kind."""
    with contextlib.ExitStack() as running:
        made: dict[str, Any] = {}

        def url(kind: str) -> str:
            if kind not in made:
                server = ChromaServer(tmp_path_factory.mktemp("chroma")) if kind == "chroma+http" else RunningServer()
                running.callback(server.kill if kind == "chroma+http" else server.stop)
                made[kind] = server
            count[0] += 1
            return str(made[kind].url() if kind == "chroma+http" else made[kind].url(f"handbook{count[0]}"))

        count = [0]
        yield url


@pytest.fixture
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str, str], str]:
    """`places(kind, name)` is the URL of a collection that isn't there yet."""

    def url(kind: str, name: str) -> str:
        match kind:
            case "edge":
                return f"edge:{tmp_path / name}"
            case "memory":
                return f"memory:{tmp_path / name}"
            case "chroma" | "qdrant":
                return f"{kind}:{tmp_path / name}/handbook"
            case _:
                return str(request.getfixturevalue("servers")(kind))

    return url


def undisturbed(url: str, *roots: tuple[str, int]) -> str:
    """The URL of a new collection that runs over these roots made, one after the other."""
    for root, version in roots:
        assert runs.run(url, root, version) == "done"
    return url


def is_named(answer: str) -> bool:
    """Whether a refusal says who was there first; one that is gone by then has no name."""
    return re.search(r"process|was made by another run just now", answer) is not None


@pytest.mark.parametrize("kind", ["edge", *map(slow, ["memory", "chroma", "qdrant", "qdrant+grpc", "chroma+http"])])
def test_threads_that_begin_at_once_are_done_or_refused(places: Callable[..., str], attack: Attack, kind: str) -> None:
    """Also when each of them finds no collection yet; who was refused is done when asked again."""
    url, roots = places(kind, "kb"), ["harbour", "island", "reef"]
    together = threading.Barrier(len(roots))

    def work(root: str) -> str:
        together.wait(PATIENCE)
        return runs.run(url, root, 1)

    with attack(f"two writers at once, {kind}"):
        with ThreadPoolExecutor(len(roots)) as pool:
            answers = dict(zip(roots, pool.map(work, roots), strict=True))
        assert "done" in answers.values()
        for root, answer in answers.items():
            assert answer == "done" or is_named(answer), answer
            if answer != "done":
                assert runs.run(url, root, 1) == "done"
        runs.assert_same(url, undisturbed(places(kind, "alone"), *((root, 1) for root in roots)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["edge", "chroma", "qdrant", "qdrant+grpc", "chroma+http"])
def test_processes_that_begin_at_once_are_done_or_refused(places: Callable[..., str], attack: Attack, kind: str) -> None:
    """As threads are, for three rounds: a new collection, an update, a rebuild."""
    url = places(kind, "kb")
    for number, options in enumerate(([], [], ["rebuild", "force"]), start=1):
        roots = ["harbour", "harbour"] if options else ["harbour", "island"]
        with attack(f"two writers at once, {kind}"):
            answers = [runs.said(one) for one in [runs.elsewhere(url, runs.HERE, root, number, *options) for root in roots]]
            assert "done" in answers
            for root, answer in zip(roots, answers, strict=True):
                assert answer == "done" or is_named(answer), answer
                if answer != "done":
                    assert runs.run(url, root, number, **dict.fromkeys(options, True)) == "done"
            alone = undisturbed(places(kind, f"alone{number}"), *((root, number) for root in dict.fromkeys(roots)))
            runs.assert_same(url, alone)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qdrant+grpc", "chroma+http"])
def test_a_writer_on_another_machine_keeps_its_collection(places: Callable[..., str], attack: Attack, kind: str) -> None:
    """The refusal names the machine and the way out; whoever says so takes over, and the other one is told."""
    url = places(kind, "kb")
    assert runs.run(url, "harbour", 1) == "done"
    with attack(f"two machines on one server, {kind}"):
        other = runs.held_elsewhere(url, "lighthouse")
        try:
            for options in ({}, {"rebuild": True}, {"prune": True}):
                refused = runs.run(url, "harbour", 2, **options)
                assert re.search("on lighthouse.*--take-over", refused)
            with sightline.open_collection(url, model=runs.embedder()) as collection:
                with pytest.raises(StoreLocked, match="on lighthouse"):
                    collection.add(["a row"])
                assert {hit.text.split("version")[1][0] for hit in collection.search("lamp version1", k=runs.CHUNKS)} == {"1"}
            assert runs.run(url, "harbour", 2, take_over=True) == "done"
        finally:
            other.communicate("", timeout=PATIENCE)
        assert runs.run(url, "harbour", 2) == "done"
        runs.assert_same(url, undisturbed(places(kind, "alone"), ("harbour", 2)))


class Slow(HashEmbedder):
    """Waits at its seventh call, with some windows written, until somebody says that it may go on."""

    def __init__(self) -> None:
        super().__init__(native_dimensions=16)
        self.waits, self.goes_on, self.calls = threading.Event(), threading.Event(), 0

    def submit(self, texts: Any, **more: Any) -> Future[FloatArray]:
        self.calls += 1
        if self.calls == 7:
            self.waits.set()
            assert self.goes_on.wait(PATIENCE)
        return super().submit(texts, **more)


def long_document(version: int) -> list[Document]:
    """One that is written in many windows, none but the last of which holds its head."""
    text = "\n\n".join(f"# Part {part}\n\nversion{version} lamp{part}" for part in range(300))
    return [Document("long", text, format="markdown")]


@pytest.mark.parametrize("kind", ["qdrant+grpc", slow("chroma+http")])
def test_who_was_taken_over_while_it_lives_writes_no_more(places: Callable[..., str], attack: Attack, kind: str) -> None:
    """Not even chunks of a document that it hasn't committed: they would be found, and nobody would miss their head."""
    url, first = places(kind, "kb"), Slow()

    def index(url: str, version: int, embedder: HashEmbedder, **options: Any) -> None:
        sightline.index(documents=long_document(version), into=url, model=embedder, **options)

    with attack(f"taken over while it lives, {kind}"), ThreadPoolExecutor(1) as pool:
        running = pool.submit(index, url, 1, first)
        assert first.waits.wait(PATIENCE)
        index(url, 2, runs.embedder(), take_over=True)
        first.goes_on.set()
        with pytest.raises(StoreLocked, match="another run took it over"):
            running.result(PATIENCE)
        alone = places(kind, "alone")
        index(alone, 2, runs.embedder())
        runs.assert_same(url, alone)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["edge", "chroma", "qdrant+grpc", "chroma+http"])
def test_two_rebuilds_at_once(places: Callable[..., str], attack: Attack, kind: str) -> None:
    """The second is refused while the first fills its collection, which is then put in place whole."""
    url, first = places(kind, "kb"), Slow()
    assert runs.run(url, "harbour", 1) == "done"

    def rebuild(version: int, embedder: HashEmbedder) -> None:
        sightline.index(documents=long_document(version), into=url, model=embedder, rebuild=True, force=True)

    with attack(f"two rebuilds at once, {kind}"), ThreadPoolExecutor(1) as pool:
        running = pool.submit(rebuild, 2, first)
        assert first.waits.wait(PATIENCE)
        with pytest.raises(StoreLocked, match="another store object of this process"):
            rebuild(3, runs.embedder())
        first.goes_on.set()
        running.result(PATIENCE)
        with sightline.open_collection(url, model=runs.embedder()) as collection:
            assert collection.count() == 300
            assert {hit.text.split("version")[1][0] for hit in collection.search("lamp1", k=300)} == {"2"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["edge", "chroma", "qdrant+grpc", "chroma+http"])
def test_rows_beside_runs(places: Callable[..., str], attack: Attack, kind: str) -> None:
    """What was acknowledged is there, what was refused isn't, and no run touches either."""
    url, over = places(kind, "kb"), threading.Event()
    assert runs.run(url, "harbour", 1) == "done"
    kept: set[str] = set()
    counts = {"kept": 0, "refused": 0}

    def work() -> None:
        with sightline.open_collection(url, model=runs.embedder()) as collection:
            number = 0
            while not over.is_set():
                number += 1
                try:
                    collection.add([f"row lamp {number}"], ids=[f"row{number}"])
                    kept.add(f"row{number}")
                    if number % 3 == 0:
                        collection.delete([f"row{number - 2}"])
                        kept.discard(f"row{number - 2}")
                    counts["kept"] += 1
                except StoreLocked:
                    counts["refused"] += 1
                over.wait(0.01)

    with attack(f"rows beside runs, {kind}"), ThreadPoolExecutor(1) as pool:
        adding = pool.submit(work)
        done, version = 0, 1
        try:
            while (done < 3 or counts["kept"] < 3) and not adding.done():
                version += 1
                done += runs.run(url, "harbour", version) == "done"
        finally:
            over.set()
        adding.result(PATIENCE)
        assert runs.run(url, "harbour", 1) == "done"
        with sightline.open_collection(url, model=runs.embedder()) as collection:
            assert {row.id for row in collection.find() if row.id.startswith("row")} == kept
            assert {row.text.split("version")[1][0] for row in collection.find() if "version" in row.text} == {"1"}
            assert collection.count() == len(kept) + runs.CHUNKS
