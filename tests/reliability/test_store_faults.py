"""Facts about stores and networks that fail: nothing is lost, nothing doubled, and what can't be mended stops at once."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from attacks import Attack
from clocks import Clock
from fault_proxy import Chance, Fault, FaultProxy, TcpProxy
from lives import State, live
from qdrant_stand_in import RunningServer
from servers import ChromaServer
from sightline import index
from sightline.errors import CollectionNotFound, DimensionError, StoreError, StoreUnreachable
from sightline.stores import chroma_server, leases, open_store, qdrant_server, retries
from sightline.testing import HashEmbedder
from sightline.types import Point, VectorLayout

CONTRACT = {"format": 1, "model": "hash"}
WRITES = {"POST", "PUT", "DELETE"}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Retries wait for nothing, and leases beat fifty times a second."""
    clock = Clock()
    for module in (chroma_server, qdrant_server):
        monkeypatch.setattr(module, "retrying", partial(retries.retrying, sleep=clock.sleep, clock=clock))
        monkeypatch.setattr(module, "Lease", partial(leases.Lease, heartbeat_s=0.02))
    return clock


@pytest.fixture
def hasty_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases beat fifty times a second; all else takes its time."""
    for module in (chroma_server, qdrant_server):
        monkeypatch.setattr(module, "Lease", partial(leases.Lease, heartbeat_s=0.02))


@pytest.fixture(scope="module")
def chroma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaServer]:
    """A real Chroma server."""
    running = ChromaServer(tmp_path_factory.mktemp("chroma"))
    yield running
    running.kill()


@pytest.fixture
def proxied(chroma: ChromaServer) -> Iterator[Callable[..., FaultProxy]]:
    """Make proxies before the Chroma server that end with the test."""
    made: list[FaultProxy] = []

    def make(*arguments: Any, **options: Any) -> FaultProxy:
        made.append(FaultProxy(chroma.port, *arguments, **options))
        return made[-1]

    yield make
    for one in made:
        one.stop()


@pytest.fixture(scope="module")
def peace(chroma: ChromaServer, tmp_path_factory: pytest.TempPathFactory) -> list[State]:
    """What an undisturbed life looks like, step by step."""
    return list(live(tmp_path_factory.mktemp("peace") / "kb", chroma.url()))


@pytest.fixture
def stand_in() -> Iterator[RunningServer]:
    """What speaks Qdrant's gRPC."""
    running = RunningServer()
    yield running
    running.stop()


def names_on(chroma: ChromaServer, name: str) -> set[str]:
    """What a life leaves on a server."""
    store = open_store(f"chroma+http://127.0.0.1:{chroma.port}/{name}")
    try:
        found = store._database.connected()._server.list_collections()
        return {one.name for one in found if one.name.startswith((name, "sightline-"))}
    finally:
        store.close()


def survive(proxy: FaultProxy, chroma: ChromaServer, folder: Path, peace: list[State]) -> None:
    """Live behind a proxy as in peace."""
    name = f"c{uuid.uuid4().hex[:12]}"
    direct = f"chroma+http://127.0.0.1:{chroma.port}/{name}"
    for state, peaceful in zip(live(folder, proxy.url(name), seen_at=direct), peace, strict=True):
        state.check(peaceful)
    assert names_on(chroma, name) <= {name, f"{name}.old", f"{name}.writer"}


def make_points(count: int, source: str = "docs/a.md", text: str = "text") -> list[Point]:
    ids = [str(uuid.uuid5(uuid.NAMESPACE_URL, f"{source}#{row}")) for row in range(count)]
    return [Point(one, f"{text} {row} of {source}", source, metadata={}) for row, one in enumerate(ids)]


def make_vectors(count: int, dimensions: int = 8) -> np.ndarray:
    rows = np.random.default_rng(3).normal(size=(count, dimensions))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


# Whole lives


class Alternate:
    """Every request meets the fault at first, and goes through when it is made again."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self._met: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def __call__(self, method: str, path: str) -> Fault | None:
        with self._lock:
            self._met[method, path] += 1
            return self._fault if self._met[method, path] % 2 else None


@pytest.mark.slow
@pytest.mark.parametrize("fault", Fault)
def test_a_life_in_which_every_request_fails_once(
    proxied: Callable[..., FaultProxy], chroma: ChromaServer, peace: list[State], clock: Clock, tmp_path: Path,
    attack: Attack, fault: Fault,
) -> None:  # fmt: skip
    """Index, update, prune and rebuild end as in peace, and no text is embedded more."""
    proxy = proxied(Alternate(fault))
    with attack(f"Chroma server: each request once {fault.value}"):
        survive(proxy, chroma, tmp_path / "kb", peace)
        assert proxy.met[fault] > 100


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_life_of_random_faults(
    proxied: Callable[..., FaultProxy], chroma: ChromaServer, peace: list[State], clock: Clock, tmp_path: Path,
    attack: Attack, seed: int,
) -> None:  # fmt: skip
    """A third of all requests meet one fault or another, up to three in a row."""
    proxy = proxied(Chance(seed, 0.33))
    with attack("Chroma server: a third of the requests fails, at random"):
        survive(proxy, chroma, tmp_path / "kb", peace)
        assert len(proxy.met) == len(Fault)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_life_with_minutes_of_absence(
    proxied: Callable[..., FaultProxy], chroma: ChromaServer, peace: list[State], clock: Clock, tmp_path: Path,
    attack: Attack, seed: int,
) -> None:  # fmt: skip
    """The server goes away for a minute, again and again, between any two requests; no second really passes."""
    chance, lock = random.Random(seed), threading.Lock()

    def choose(method: str, path: str) -> Fault | None:
        with lock:
            if not proxy.is_away and chance.random() < 0.03:
                proxy.is_away = True
                absences.append(path)
                threading.Thread(target=proxy.leave_for, args=(60.0,)).start()
                return Fault.RESET if chance.random() < 0.5 else Fault.LOST
        return None

    absences: list[str] = []
    proxy = proxied(choose, clock=clock)
    with attack("Chroma server: away for 60 s, by a clock that doesn't wait"):
        survive(proxy, chroma, tmp_path / "kb", peace)
        assert len(absences) >= 5
