"""Facts about processes that are made while models and collections are open: a copy works or says why not, and never hangs."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import readers

import sightline
from attacks import Attack
from qdrant_stand_in import RunningServer
from servers import ChromaServer
from sightline import EmbeddingEngine

PATIENCE = 60
TEXTS = [f"the lamp of house {number} is lit at dusk, and its bell rings in fog" for number in range(40)]
WHOLE = str((readers.DOCUMENTS, {1}))
TOO_LATE = "StoreError: .* was opened before this process was forked.*Open it after the fork"

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # a fork beside threads is just what is tried here
]


class Child:
    """A forked child that does `work` and writes what it gives, or the error that it raises."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._read, write = os.pipe()
        self._process = os.fork()
        if self._process == 0:
            try:
                said = f"{work()}"
            except BaseException as error:  # noqa: BLE001 - the parent looks at it
                said = f"{type(error).__name__}: {error}"
            os.write(write, said.encode()[:4000])
            os._exit(0)  # or pytest's own end would come twice
        os.close(write)

    def said(self) -> str:
        """What the child gave; one that hangs is ended."""
        deadline = time.monotonic() + PATIENCE
        while os.waitpid(self._process, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(self._process, signal.SIGKILL)
                os.waitpid(self._process, 0)
                return "hangs"
            threading.Event().wait(0.005)
        with os.fdopen(self._read, "rb") as pipe:
            return pipe.read().decode()


def forked(work: Callable[[], object]) -> str:
    """What `work` gives in a forked child."""
    return Child(work).said()


@dataclass(frozen=True)
class Place:
    """A collection, and what a forked child says that searches its copy, writes to it, and opens it anew."""

    url: str
    searches: str = TOO_LATE
    writes: str = TOO_LATE
    opens: str = re.escape(WHOLE)


KINDS = ["edge", "chroma", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("qdrant", "chroma+http", "qdrant+grpc"))]


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A collection of version 1 in each kind of store."""
    with contextlib.ExitStack() as running:
        match request.param:
            case "edge":
                held = f"StoreLocked: .* is held by process {os.getpid()} on"
                made = Place(f"edge:{tmp_path / 'kb'}", searches=re.escape(WHOLE), writes=held)
            case "chroma":
                made = Place(f"chroma:{tmp_path / 'kb'}/handbook", opens="StoreError: .* forked from one that had the")
            case "qdrant":
                made = Place(f"qdrant:{tmp_path / 'kb'}/handbook", opens=f"StoreLocked: .* is held by process {os.getpid()} on")
            case "chroma+http":
                chroma = ChromaServer(tmp_path / "server")
                running.callback(chroma.kill)
                made = Place(chroma.url())
            case _:
                qdrant = RunningServer()
                running.callback(qdrant.stop)
                made = Place(qdrant.url())
        sightline.index(documents=readers.documents(1), into=made.url, model=readers.embedder())
        yield made


def test_a_forked_child_uses_what_is_open_or_says_why_not(place: Place, attack: Attack) -> None:
    """Searching, writing, closing: the parent's collection stays open, and the parent its only writer."""
    with sightline.open_collection(place.url, model=readers.embedder()) as collection:
        assert readers.ask(collection) == (readers.DOCUMENTS, {1})
        collection._store.acquire()
        for work, expected in (
            (lambda: readers.ask(collection), place.searches),
            (lambda: collection.add(["a row"], ids=["child"]), place.writes),
            (lambda: collection.close(), "None"),
        ):
            with attack("fork with an open collection"):
                assert re.match(expected, said := forked(work)), said
        collection._store.release()
        assert collection.add(["a row"], ids=["parent"]) == ["parent"]
        assert collection.count() == readers.DOCUMENTS + 1


@pytest.mark.slow
def test_a_forked_child_opens_a_collection_of_its_own(place: Place, attack: Attack) -> None:
    """Except in a directory that the parent has open, where the database lets in one at a time."""

    def opens() -> object:
        with sightline.open_collection(place.url, model=readers.embedder()) as own:
            return readers.ask(own)

    with sightline.open_collection(place.url, model=readers.embedder()) as collection:
        readers.ask(collection)
        with attack("fork with an open collection"):
            assert re.match(place.opens, said := forked(opens)), said
        assert readers.ask(collection) == (readers.DOCUMENTS, {1})


def test_what_a_child_inherits_keeps_nobody_out(place: Place, attack: Attack) -> None:
    """A worker process lives on after its parent closed the collection: the next writer gets in all the same."""
    read, write = os.pipe()
    with sightline.open_collection(place.url, model=readers.embedder()) as collection:
        collection._store.acquire()
        with attack("fork with an open collection"):
            child = Child(lambda: os.read(read, 1))
            collection.close()
            assert sightline.index(documents=readers.documents(1), into=place.url, model=readers.embedder()).chunks == 30
            os.write(write, b".")
            assert child.said() == "b'.'"
    os.close(read)
    os.close(write)


ENDING = """
import os, sys, warnings
warnings.simplefilter("ignore")
sys.path[:0] = sys.argv[2:]
import readers, sightline
from sightline.errors import StoreError
collection = sightline.open_collection(sys.argv[1], model=readers.embedder())
readers.ask(collection)
child = os.fork()
if child:
    print(os.waitpid(child, 0)[1], readers.ask(collection))
"""


@pytest.mark.slow
def test_a_forked_child_ends_as_any_program_does(place: Place, attack: Attack) -> None:
    """With its interpreter wound up, which frees its copies of what is open."""
    command = [sys.executable, "-c", ENDING, place.url, *sys.path]
    with attack("fork with an open collection"):
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert done.stdout == f"0 {WHOLE}\n", done.stderr


@pytest.mark.slow
def test_forks_beside_searches_leave_the_searches_alone(tmp_path: Path, attack: Attack) -> None:
    """Edge is put away for a fork, and opened again by whoever needs it."""
    url = f"edge:{tmp_path / 'kb'}"
    sightline.index(documents=readers.documents(1), into=url, model=readers.embedder())
    over, wrong = threading.Event(), []
    with sightline.open_collection(url, model=readers.embedder()) as collection:

        def search() -> None:
            while not over.is_set():
                if (answer := readers.ask(collection)) != (readers.DOCUMENTS, {1}):
                    wrong.append(answer)

        threads = [threading.Thread(target=search) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(10):
            with attack("fork with an open collection"):
                assert forked(lambda: readers.ask(collection)) == WHOLE
        over.set()
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.fixture(scope="module")
def engine(make_model: Callable[..., Path]) -> Iterator[EmbeddingEngine]:
    """A loaded engine that has computed on two threads."""
    with EmbeddingEngine(make_model("bert"), device="cpu", dtype="float32", threads=2) as made:
        made.embed_documents(TEXTS)
        yield made


@pytest.mark.slow
def test_a_forked_childs_copy_of_an_engine_says_so(engine: EmbeddingEngine, attack: Attack) -> None:
    """And closing it, or counting tokens, which needs no thread, works."""
    for work, expected in (
        (lambda: engine.embed_queries(TEXTS[:1]), "SightlineError: .* Make an engine in the child"),
        (lambda: engine.load(), "SightlineError: .* Make an engine in the child"),
        (lambda: engine.count_tokens(["a b"]), r"\[\d+\]"),
        (lambda: engine.close(), "None"),
    ):
        with attack("fork with a loaded engine"):
            assert re.match(expected, said := forked(work)), said
    assert len(engine.embed_documents(TEXTS)) == len(TEXTS)


@pytest.mark.slow
def test_a_forked_child_makes_an_engine_of_its_own(
    engine: EmbeddingEngine, make_model: Callable[..., Path], attack: Attack
) -> None:
    """While other threads of the parent embed; its vectors are the parent's."""
    folder, expected = make_model("bert"), engine.embed_documents(TEXTS)
    over = threading.Event()

    def embed() -> object:
        with EmbeddingEngine(folder, device="cpu", dtype="float32", threads=2) as own:
            return float(np.abs(own.embed_documents(TEXTS) - expected).max()) < 1e-5

    def load() -> None:
        while not over.is_set():
            engine.embed_documents(TEXTS)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            with attack("fork with a loaded engine"):
                assert forked(embed) == "True"
    finally:
        over.set()
        for thread in threads:
            thread.join()


def embed_there(folder: str) -> Any:
    """What another process embeds."""
    with EmbeddingEngine(folder, device="cpu", dtype="float32", threads=1) as own:
        return own.embed_documents(TEXTS)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_multiprocessing_works_beside_a_loaded_engine(
    engine: EmbeddingEngine, make_model: Callable[..., Path], attack: Attack, method: str
) -> None:
    """By whatever method processes are started."""
    expected = engine.embed_documents(TEXTS)
    with attack(f"{method} beside a loaded engine"), multiprocessing.get_context(method).Pool(2) as pool:
        for rows in pool.map_async(embed_there, [str(make_model("bert"))] * 2).get(PATIENCE):
            assert np.abs(rows - expected).max() < 1e-5


@pytest.mark.slow
def test_what_is_open_can_not_be_sent_to_another_process(engine: EmbeddingEngine, tmp_path: Path, attack: Attack) -> None:
    """The error says what to do instead."""
    url = f"edge:{tmp_path / 'kb'}"
    sightline.index(documents=readers.documents(1), into=url, model=readers.embedder())
    with sightline.open_collection(url, model=readers.embedder()) as collection:
        for one in (engine, collection):
            with attack("sent to another process"), pytest.raises(TypeError, match=r"can't be sent to another process.*there"):
                pickle.dumps(one)
