"""Facts about stores and networks that fail: nothing is lost, nothing doubled, and what can't be mended stops at once."""

from __future__ import annotations

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
from fault_proxy import Chance, Fault, FaultProxy, TcpProxy
from lives import State, live

from attacks import Attack
from clocks import Clock
from qdrant_rest_stand_in import RestStandIn
from qdrant_stand_in import RunningServer
from servers import ChromaServer
from sightline import index, retries
from sightline.errors import CollectionNotFound, DimensionError, StoreError, StoreUnreachable
from sightline.indexing.background import Background
from sightline.stores import chroma_server, leases, open_store, qdrant_server
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
        return {one.name for one in found if one.name.startswith(name)}
    finally:
        store.close()


def survive(proxy: FaultProxy, chroma: ChromaServer, folder: Path, peace: list[State]) -> None:
    """Live behind a proxy as in peace."""
    name = f"c{uuid.uuid4().hex[:12]}"
    direct = f"chroma+http://127.0.0.1:{chroma.port}/{name}"
    for state, peaceful in zip(live(folder, proxy.url(name), seen_at=direct), peace, strict=True):
        state.check(peaceful)
    assert names_on(chroma, name) <= {name, f"{name}.old", f"{name}.writer", f"{name}.writer.old"}


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
    chance, lock, back, absences = random.Random(seed), threading.Lock(), [0.0], list[str]()

    def choose(method: str, path: str) -> Fault | None:
        with lock:
            if path.endswith("/heartbeat"):
                back[0] = 0.0  # a run isn't begun while nobody is there
            if clock() < back[0]:
                return Fault.RESET
            if method == "GET" or chance.random() > 0.05:
                return None
            back[0] = clock() + 60
            absences.append(path)
            return chance.choice([Fault.RESET, Fault.LOST])

    proxy = proxied(choose)
    with attack("Chroma server: away for 60 s, by a clock that doesn't wait"):
        survive(proxy, chroma, tmp_path / "kb", peace)
        assert absences


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [5, 60])
def test_a_life_with_a_real_absence(
    proxied: Callable[..., FaultProxy], chroma: ChromaServer, peace: list[State], hasty_leases: None, tmp_path: Path,
    attack: Attack, seconds: int, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Nobody answers for so long, and the run goes on where it was; the lease is kept."""

    def choose(method: str, path: str) -> Fault | None:
        with lock:
            if path.endswith("/upsert") and not gone:
                gone.append(time.monotonic())
                threading.Thread(target=proxy.leave_for, args=(float(seconds),)).start()
                return Fault.LOST
        return None

    gone: list[float] = []
    lock = threading.Lock()
    proxy = proxied(choose)
    with attack(f"Chroma server: away for {seconds} s"):
        survive(proxy, chroma, tmp_path / "kb", peace)
        assert time.monotonic() - gone[0] >= seconds
        assert "was not renewed, trying again" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_a_qdrant_life_of_random_faults(stand_in: RunningServer, clock: Clock, tmp_path: Path, attack: Attack, seed: int) -> None:
    """As on Chroma, over gRPC to a stand-in: a third of the requests is refused or loses its answer."""
    with attack("Qdrant's gRPC (stand-in): a third of the requests fails, at random"):
        live_on_qdrant(stand_in, tmp_path, seed, documents=24)


def test_a_short_qdrant_life_of_random_faults(stand_in: RunningServer, clock: Clock, tmp_path: Path, attack: Attack) -> None:
    """The same with a few documents."""
    with attack("Qdrant's gRPC (stand-in): a third of the requests fails, at random"):
        live_on_qdrant(stand_in, tmp_path, 1, documents=3)


_TRANSIENT = [
    grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED, "lost",
]  # fmt: skip


def live_on_qdrant(server: RunningServer, folder: Path, seed: int, *, documents: int) -> None:
    chance, lock, row = random.Random(seed), threading.Lock(), Counter[str]()

    def choose(method: str) -> Any:
        with lock:
            if method == "HealthCheck" or chance.random() > 0.33 or row[method] == 3:
                row[method] = 0
                return None
            row[method] += 1
            met.append(method)
            return chance.choice(_TRANSIENT)

    met: list[str] = []
    peace = list(live(folder / "peace" / "kb", server.url("peace"), documents=documents))
    server.faults.choose = choose
    for state, peaceful in zip(live(folder / "war" / "kb", server.url("war"), documents=documents), peace, strict=True):
        state.check(peaceful)
    server.faults.choose = lambda _method: None
    assert len(met) > 30
    left = [one.name for one in server.stand_in.client.get_collections().collections if one.name.startswith("war")]
    assert len([name for name in left if not name.endswith(".writer")]) == 1


@pytest.mark.slow
def test_a_qdrant_life_with_minutes_of_absence(stand_in: RunningServer, clock: Clock, tmp_path: Path, attack: Attack) -> None:
    """UNAVAILABLE for a minute, again and again, by a clock that doesn't wait."""
    chance, lock, back = random.Random(3), threading.Lock(), [0.0]

    def choose(method: str) -> Any:
        with lock:
            if method == "HealthCheck":
                back[0] = 0.0  # a run isn't begun while nobody is there
            elif method not in ("Get", "List", "ListAliases") and chance.random() < 0.05 and clock() >= back[0] and is_written():
                back[0] = clock() + 60
                absences.append(method)
            return grpc.StatusCode.UNAVAILABLE if clock() < back[0] else None

    def is_written() -> bool:
        # Readers, who wait for a third of a minute only, have no lease.
        return any(thread.name.startswith("sightline-lease") for thread in threading.enumerate())

    absences: list[str] = []
    peace = list(live(tmp_path / "peace" / "kb", stand_in.url("peace")))
    stand_in.faults.choose = choose
    with attack("Qdrant's gRPC (stand-in): away for 60 s, by a clock that doesn't wait"):
        for state, peaceful in zip(live(tmp_path / "war" / "kb", stand_in.url("war")), peace, strict=True):
            state.check(peaceful)
        assert absences


@pytest.fixture
def qdrant_url(request: pytest.FixtureRequest) -> Iterator[Callable[[str], str]]:
    """Collections on the real Qdrant server of QDRANT_URL, or else on the stand-in."""
    if "QDRANT_URL" not in os.environ:
        server = request.getfixturevalue("stand_in")
        yield server.url
        return
    base = os.environ["QDRANT_URL"].rstrip("/")
    prefix = f"sightline-test-{uuid.uuid4().hex[:8]}-"
    yield lambda name: f"{base}/{prefix}{name}"
    store = open_store(f"{base}/{prefix}")
    client = store._database._connected()
    for one in client.get_collections().collections:
        if one.name.startswith(prefix):
            client.delete_collection(one.name)
    store.close()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["resets", "absence"])
def test_a_qdrant_life_on_a_broken_line(
    qdrant_url: Callable[[str], str], hasty_leases: None, tmp_path: Path, attack: Attack, way: str
) -> None:
    """Connections are reset after some kilobytes, or nobody listens for some seconds, in the middle of whatever is on its way."""
    host, _, rest = qdrant_url("war").removeprefix("qdrant://").partition(":")
    port, _, name = rest.partition("/")
    chance = random.Random(4)
    proxy = TcpProxy(int(port), host=host, lives=lambda: chance.randint(20_000, 150_000) if way == "resets" else float("inf"))

    def leave() -> None:
        proxy.leave()
        time.sleep(4)
        proxy.come_back()

    peace = list(live(tmp_path / "peace" / "kb", qdrant_url("peace")))
    if way == "absence":
        threading.Timer(0.5, leave).start()
    told = f"http2 connections {'reset after some kB' if way == 'resets' else 'refused for 4 s'}"
    with attack(f"Qdrant's gRPC ({'server' if 'QDRANT_URL' in os.environ else 'stand-in'}): {told}"):
        lived = live(tmp_path / "war" / "kb", f"qdrant://127.0.0.1:{proxy.port}/{name}", seen_at=qdrant_url("war"))
        for state, peaceful in zip(lived, peace, strict=True):
            state.check(peaceful)
        assert proxy.resets > (3 if way == "resets" else -1)
    proxy.leave()


def live_over_rest(rest_port: int, name: str, seen_at: str | None, peace: list[State], folder: Path, seed: int) -> FaultProxy:
    """Nobody speaks gRPC at the port after the proxy's, so the store falls back to REST."""
    proxy = FaultProxy(rest_port, Chance(seed, 0.33))
    url = f"qdrant://127.0.0.1:{proxy.port + 1}/{name}"
    try:
        for state, peaceful in zip(live(folder, url, seen_at=seen_at), peace, strict=True):
            state.check(peaceful)
    finally:
        proxy.stop()
    return proxy


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_a_qdrant_life_of_random_faults_over_rest(clock: Clock, tmp_path: Path, attack: Attack, seed: int) -> None:
    """The same over HTTP, to a stand-in: all faults of the proxy."""
    server = RestStandIn()
    peace = list(live(tmp_path / "peace" / "kb", f"qdrant://127.0.0.1:{server.server_port + 1}/peace"))
    with attack("Qdrant's REST (stand-in): a third of the requests fails, at random"):
        proxy = live_over_rest(server.server_port, "war", None, peace, tmp_path / "war" / "kb", seed)
        assert len(proxy.met) == len(Fault)
        left = [one.name for one in server.client.get_collections().collections]
        assert sorted(name.partition("__")[0] for name in left if not name.endswith(".writer")) == ["peace", "war"]
    server.stop()


@pytest.mark.slow
@pytest.mark.skipif("QDRANT_URL" not in os.environ, reason="QDRANT_URL names no Qdrant server, e.g. qdrant://localhost:6334")
def test_a_real_qdrant_life_of_random_faults_over_rest(
    qdrant_url: Callable[[str], str], clock: Clock, tmp_path: Path, attack: Attack
) -> None:
    """The same with a real server on this machine."""
    port, _, name = qdrant_url("war").removeprefix("qdrant://").partition(":")[2].partition("/")
    peace = list(live(tmp_path / "peace" / "kb", qdrant_url("peace")))
    with attack("Qdrant's REST (server): a third of the requests fails, at random"):
        live_over_rest(6333 if port == "6333" else int(port) - 1, name, qdrant_url("war"), peace, tmp_path / "war" / "kb", 2)


# The lease, and giving up


@pytest.mark.slow
def test_a_lease_outlives_an_absence(proxied: Callable[..., FaultProxy], chroma: ChromaServer, hasty_leases: None) -> None:
    """Heartbeats that reach nobody are made again, and the lease is renewed when the server is back."""
    proxy = proxied()
    name = f"c{uuid.uuid4().hex[:12]}"
    store = open_store(proxy.url(name))
    store.create(VectorLayout(8), CONTRACT)
    proxy.leave()
    time.sleep(0.2)
    proxy.come_back()
    back = time.time()
    deadline = time.monotonic() + 10
    while (store._database._lease._table.read() or {})["at"] < back and time.monotonic() < deadline:
        time.sleep(0.01)
    assert store._database._lease._table.read()["at"] >= back
    store.write_mark({"still": "ours"})
    store.close()


@pytest.mark.slow
def test_who_gives_up_closes_soon(
    proxied: Callable[..., FaultProxy], clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After four minutes without an answer the run ends with the cause and what to do, and leaves without another four."""

    def choose(method: str, path: str) -> Fault | None:
        if path.endswith("/upsert"):
            gone.append(path)
        return Fault.RESET if gone else None

    gone: list[str] = []
    proxy = proxied(choose)
    (tmp_path / "a.md").write_text("The lamp is lit at dusk.", encoding="utf-8")
    with pytest.raises(StoreUnreachable, match=rf"127\.0\.0\.1:{proxy.port} stopped answering.*same command again"):
        index([tmp_path], into=proxy.url(f"c{uuid.uuid4().hex[:12]}"), model=HashEmbedder())
    assert clock() == pytest.approx(240 + 3)
    assert "stays until it is taken over" in caplog.text


def test_ctrl_c_ends_a_wait_for_a_server(attack: Attack) -> None:
    """The stage that waits for a server that is away is over at once, whatever the server asked for."""
    waiting = threading.Event()

    def fail() -> None:
        waiting.set()
        raise ConnectionError

    def write(_item: int) -> None:
        retries.retrying(fail, patience_for=lambda _error: 240.0, what="writing", asked_wait=lambda _error: 200.0)

    def items() -> Iterator[int]:
        yield 1
        waiting.wait(10)
        raise KeyboardInterrupt

    started = time.monotonic()
    with attack("Ctrl-C while a server is away"), pytest.raises(KeyboardInterrupt), Background() as background:
        background.hand_over(items(), write, depth=1)
    assert time.monotonic() - started < 10


# What stays wrong stops at once


def chroma_says(status: int, error: str) -> Callable[..., tuple[int, bytes]]:
    """Answers to writes that a real server seldom gives."""

    def rewrite(path: str, _body: bytes, known: int, answer: bytes) -> tuple[int, bytes]:
        said = json.dumps({"error": error, "message": "said so"}).encode()
        return (status, said) if path.endswith("/upsert") else (known, answer)

    return rewrite


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "error", "kind", "says"),
    [
        (400, "InvalidArgumentError", StoreError, "said so"),
        (401, "AuthError", StoreUnreachable, r"CHROMA_API_KEY is not set.*HTTP 401.*export CHROMA_API_KEY="),
        (403, "ForbiddenError", StoreUnreachable, r"CHROMA_API_KEY is not set.*HTTP 403.*export CHROMA_API_KEY="),
        (404, "NotFoundError", CollectionNotFound, "sightline index PATH --into"),
        (409, "UniqueConstraintError", StoreError, "said so"),
        (413, "Length limit exceeded", StoreError, r"'docs/a\.md' has about [\d,]+ bytes.*too large.*--chunk-tokens"),
        (422, "Unprocessable", StoreError, "said so"),
        (501, "NotImplemented", StoreError, "HTTP 501.*said so"),
        (507, "Full", StoreError, "HTTP 507.*said so"),
    ],
)
def test_a_permanent_answer_of_chroma_is_asked_for_once(
    proxied: Callable[..., FaultProxy], clock: Clock, attack: Attack, status: int, error: str, kind: type[Exception], says: str
) -> None:
    """One request, no wait, and the cause."""
    proxy = proxied(rewrite=chroma_says(status, error))
    store = open_store(proxy.url(f"c{uuid.uuid4().hex[:12]}"))
    store.create(VectorLayout(8), CONTRACT)
    with attack("Chroma server: an error that stays"), pytest.raises(kind, match=says):
        store.upsert(make_points(1), make_vectors(1))
    assert (len([path for _, path, _ in proxy.asked if path.endswith("/upsert")]), clock.waits) == (1, [])
    store.close()


@pytest.mark.slow
def test_a_wrong_dimension_is_said_at_once(proxied: Callable[..., FaultProxy], clock: Clock, attack: Attack) -> None:
    """By us before anything is sent, and by the server where its collection is of another length than the contract says."""
    proxy = proxied()
    store = open_store(proxy.url(f"c{uuid.uuid4().hex[:12]}"))
    store.create(VectorLayout(8), CONTRACT)
    with attack("Chroma server: a wrong dimension"), pytest.raises(DimensionError, match=r"4 dimensions.*takes 8"):
        store.upsert(make_points(1), make_vectors(1, 4))
    store._existing().upsert(ids=["other"], embeddings=make_vectors(1, 4), documents=["of another program"])
    before = len(proxy.asked)
    with attack("Chroma server: a wrong dimension"), pytest.raises(StoreError, match=r"dimension of 4, got 8"):
        store.upsert(make_points(1), make_vectors(1))
    assert len([path for _, path, _ in proxy.asked[before:] if path.endswith("/upsert")]) == 1
    assert clock.waits == []
    store.close()


MINUTES, SECONDS, NEVER = 240, 20, 0


@pytest.mark.parametrize(
    ("code", "patience", "kind", "says"),
    [
        ("CANCELLED", SECONDS, StoreError, "said so"),
        ("UNKNOWN", SECONDS, StoreError, "said so"),
        ("INVALID_ARGUMENT", NEVER, StoreError, "said so"),
        ("DEADLINE_EXCEEDED", MINUTES, StoreUnreachable, r"stopped answering.*same command again"),
        ("NOT_FOUND", NEVER, CollectionNotFound, "sightline index PATH --into"),
        ("ALREADY_EXISTS", NEVER, StoreError, "said so"),
        ("PERMISSION_DENIED", NEVER, StoreUnreachable, r"said so.*export QDRANT_API_KEY="),
        ("RESOURCE_EXHAUSTED", MINUTES, StoreError, "said so"),
        ("FAILED_PRECONDITION", NEVER, StoreError, "said so"),
        ("ABORTED", SECONDS, StoreError, "said so"),
        ("OUT_OF_RANGE", NEVER, StoreError, "said so"),
        ("UNIMPLEMENTED", NEVER, StoreError, r"too old.*Upgrade"),
        ("INTERNAL", SECONDS, StoreError, "said so"),
        ("UNAVAILABLE", MINUTES, StoreUnreachable, r"stopped answering.*same command again"),
        ("DATA_LOSS", NEVER, StoreError, "said so"),
        ("UNAUTHENTICATED", NEVER, StoreUnreachable, r"said so.*export QDRANT_API_KEY="),
    ],
)
def test_what_each_code_of_grpc_means(
    stand_in: RunningServer, clock: Clock, attack: Attack, code: str, patience: int, kind: type[Exception], says: str
) -> None:
    """A server that is away is waited for for minutes, one that fails for seconds, and what stays is asked for once."""
    store = open_store(stand_in.url())
    store.create(VectorLayout(8), CONTRACT)
    stand_in.faults.says = "said so"
    stand_in.faults.choose = lambda method: grpc.StatusCode[code] if method == "Count" else None
    with attack("Qdrant's gRPC (stand-in): each of the 16 codes"), pytest.raises(kind, match=says):
        store.count()
    assert clock() == pytest.approx(patience)
    assert (stand_in.faults.calls["Count"] == 1) == (patience == NEVER)
    store.close()


def test_the_table_of_codes_is_whole() -> None:
    """All codes of gRPC but OK are in it."""
    [table] = [mark.args[1] for mark in test_what_each_code_of_grpc_means.pytestmark]
    assert {row[0] for row in table} == {code.name for code in grpc.StatusCode} - {"OK"}


# Requests that are too large


@pytest.mark.slow
def test_chroma_is_sent_no_more_points_than_it_says(proxied: Callable[..., FaultProxy], attack: Attack) -> None:
    """A server that promises 7 points a write gets 7."""
    counts: list[int] = []

    def rewrite(path: str, body: bytes, status: int, answer: bytes) -> tuple[int, bytes]:
        if path.endswith("/pre-flight-checks"):
            return status, json.dumps({**json.loads(answer), "max_batch_size": 7}).encode()
        if path.endswith(("/upsert", "/update")):
            counts.append(len(json.loads(body)["ids"]))
        return status, answer

    store = open_store(proxied(rewrite=rewrite).url(f"c{uuid.uuid4().hex[:12]}"))
    store.create(VectorLayout(8), CONTRACT)
    points = make_points(50)
    with attack("Chroma server: it takes 7 points a request"):
        store.upsert(points, make_vectors(50))
        store.update(points)
        assert store.count() == 50
        assert (max(counts), len(counts)) == (7, 16)
    store.close()


@pytest.mark.slow
def test_what_a_proxy_finds_too_large_is_halved(
    proxied: Callable[..., FaultProxy], attack: Attack, caplog: pytest.LogCaptureFixture
) -> None:
    """A limit that nobody tells is found: writes, readings and deletions by ids go in smaller requests, and all arrive."""
    proxy = proxied(largest=20_000)
    store = open_store(proxy.url(f"c{uuid.uuid4().hex[:12]}"))
    store.create(VectorLayout(8), CONTRACT)
    points, vectors = make_points(600, text="text " * 100), make_vectors(600)
    with attack("a proxy that takes 20 kB a request"), caplog.at_level(logging.WARNING):
        store.upsert(points, vectors)
        assert store.count() == 600
        refused = [size for _, _, size in proxy.asked if size > 20_000]
        assert len(refused) == caplog.text.count("sent in halves") == 5  # 418 kB, and halves of it, down to 26
        assert len(store.records_of([point.id for point in points])) == 600
        assert len(store.vectors_of([point.text for point in points])) == 600
        store.delete([point.id for point in points])
        assert store.count() == 0
    store.close()


@pytest.mark.slow
def test_a_document_that_is_too_large_is_named(proxied: Callable[..., FaultProxy], attack: Attack) -> None:
    """The others beside it are written; what to do is said."""
    store = open_store(proxied(largest=20_000).url(f"c{uuid.uuid4().hex[:12]}"))
    store.create(VectorLayout(8), CONTRACT)
    points = [*make_points(20), *make_points(1, "docs/huge.md", "x" * 30_000)]
    with attack("a proxy that takes 20 kB a request"), pytest.raises(StoreError, match=r"'docs/huge\.md'.*413.*--chunk-tokens"):
        store.upsert(points, make_vectors(21))
    assert store.count() == 20
    store.close()


def test_what_grpc_finds_too_large_is_halved(attack: Attack, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """RESOURCE_EXHAUSTED because of its size is no rate limit: it isn't waited for, but sent in halves."""
    server = RunningServer(largest_bytes=5_000)
    store = open_store(server.url())
    store.create(VectorLayout(8), CONTRACT)
    points = make_points(150, text="text " * 30)
    with attack("Qdrant's gRPC (stand-in): it takes 5 kB a request"), caplog.at_level(logging.WARNING):
        store.upsert(points, make_vectors(150))
        store.update(points)
        assert (store.count(), clock.waits) == (150, [])
        assert 1 <= caplog.text.count("sent in halves") <= 5
        assert len(store.records_of([point.id for point in points])) == 150
        assert len(store.vectors_of([point.text for point in points])) == 150
        store.delete([point.id for point in points])
        assert store.count() == 0
    with attack("Qdrant's gRPC (stand-in): it takes 5 kB a request"):
        with pytest.raises(StoreError, match=r"'docs/huge\.md'.*larger than max.*--chunk-tokens"):
            store.upsert(make_points(1, "docs/huge.md", "x" * 30_000), make_vectors(1))
        assert clock.waits == []
    store.close()
    server.stop()


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("RESOURCE_EXHAUSTED", "CLIENT: Sent message larger than max (5000000 vs. 4194304)"),
        ("RESOURCE_EXHAUSTED", "grpc: received message larger than max (5000000 vs. 4194304)"),
        ("OUT_OF_RANGE", "Error, decoded message length too large: found 5000000 bytes, the limit is: 4194304 bytes"),
        ("UNKNOWN", "Received http2 header with status: 413"),
    ],
)
def test_all_ways_to_say_too_large_are_understood(stand_in: RunningServer, clock: Clock, code: str, says: str) -> None:
    """Of gRPC in Python, Go and Rust, and of a proxy that speaks HTTP."""
    store = open_store(stand_in.url())
    store.create(VectorLayout(8), CONTRACT)
    stand_in.faults.says = says
    stand_in.faults.failing["Upsert"] = [grpc.StatusCode[code]]
    store.upsert(make_points(10), make_vectors(10))
    assert (store.count(), stand_in.faults.calls["Upsert"], clock.waits) == (10, 3, [])
    store.close()


def test_a_collections_own_limits_are_kept(stand_in: RunningServer, attack: Attack) -> None:
    """Qdrant's strict mode says how many points, records and values it takes."""
    store = open_store(stand_in.url())
    stand_in.stand_in.strict = {"enabled": True, "upsert_max_batchsize": 30, "max_query_limit": 40, "condition_max_size": 25}
    store.create(VectorLayout(8), CONTRACT)
    points = make_points(200)
    with attack("Qdrant's gRPC (stand-in): a collection in strict mode"):
        store.upsert(points, make_vectors(200))
        assert len(list(store.records())) == 200
        assert len(store.vectors_of([point.text for point in points])) == 200
        store.delete([point.id for point in points])
        assert store.count() == 0
        assert stand_in.stand_in.largest == {"Upsert": 30, "Scroll": 40, "values": 25}
    store.close()
