"""What stands around every answer: who may ask, what is held until the answer is out, what the log and the metrics say."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import time
import uuid
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sightline.errors import ContractMismatch, SightlineError, StoreError
from sightline.serving.metrics import Metrics
from sightline.serving.problems import Problem, fault, problem_of, unavailable, wrong_key
from sightline.serving.settings import is_loopback

log = logging.getLogger(__name__)

# Who looks whether the server lives, or how to speak to it, needs no key.
_OPEN = {"/health", "/health/live", "/health/ready", "/docs", "/openapi.json"}
_PATHS = {*_OPEN, "/v1/embeddings", "/v1/search", "/v1/models", "/config", "/metrics"}
# Asked every few seconds by those who watch the server; the metrics count them.
_UNLOGGED = {"/health", "/health/live", "/health/ready", "/metrics"}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# As nginx calls a client that hung up before it was answered.
HUNG_UP = 499


@dataclass(slots=True)
class Exchange:
    """One request and its answer. `resources` are let go when the answer is out, or when it is clear that there will be none."""

    id: str
    method: str
    path: str
    started: float = field(default_factory=time.perf_counter)
    status: int = HUNG_UP
    texts: int = 0
    tokens: int = 0
    truncated: int = 0
    code: str | None = None
    resources: ExitStack = field(default_factory=ExitStack)

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.perf_counter() - self.started


class Gate:
    """ASGI middleware.

    Args:
        app: What answers.
        metrics: Where requests are counted.
        api_key: What clients must send; None asks for nothing.
        local_only: Answer only those who call the server by a name of this machine. A web page that a browser here shows may
            have its own name lead to 127.0.0.1, and would else read what the server gives.
        access_log: A line for each request.
        write_seconds: See `Limits`.
    """

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, api_key: str | None, local_only: bool, access_log: bool, write_seconds: float
    ) -> None:
        self._app, self._metrics, self._local_only, self._access_log = app, metrics, local_only, access_log
        self._write_seconds = write_seconds
        self._key = None if api_key is None else _digest(api_key.encode("ascii"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it; and tell of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        exchange = Exchange(_request_id(headers), scope["method"], _label(scope["path"]))
        scope.setdefault("state", {})["exchange"] = exchange

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = exchange.id
            try:
                async with asyncio.timeout(self._write_seconds):
                    await send(message)
            except TimeoutError as error:
                raise ClientDisconnect from error

        self._metrics.running.inc()
        try:
            await self._answered(scope, receive, answer, headers, exchange)
        finally:
            exchange.resources.close()
            self._metrics.running.dec()
            self._tell(exchange)

    async def _answered(self, scope: Scope, receive: Receive, answer: Send, headers: Headers, exchange: Exchange) -> None:
        try:
            self._check(scope["path"], headers)
            await self._app(scope, receive, answer)
        except ClientDisconnect:
            exchange.status = HUNG_UP
        except asyncio.CancelledError:  # by the web server, when the time to drain is up
            exchange.code = "shutting_down"
            if exchange.status != HUNG_UP:
                raise
            await unavailable("The server is shutting down.", exchange.code).response()(scope, receive, answer)
        except Exception as error:
            response = self._refusal(error, exchange)
            if exchange.status != HUNG_UP:  # half an answer is out: only a broken connection says that it isn't whole
                raise
            await response(scope, receive, answer)

    def _refusal(self, error: Exception, exchange: Exchange) -> Response:
        """What the client is told of an error, and the log."""
        problem = _problem_of(error)
        exchange.code = problem.code
        if problem.status == 500:
            log.error("request failed", exc_info=error, extra={"fields": {"id": exchange.id, "path": exchange.path}})
        elif isinstance(error, (StoreError, ContractMismatch)):
            log.warning("collection unavailable", extra={"fields": {"id": exchange.id, "reason": str(error)}})
        return problem.response()

    def _check(self, path: str, headers: Headers) -> None:
        if self._local_only and not is_loopback(_host(headers.get("host", ""))):
            message = "This server has no API key, so it answers only who calls it localhost or 127.0.0.1."
            raise Problem(403, message, "wrong_host")
        if self._key is None or path in _OPEN:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if not hmac.compare_digest(_digest(given.strip().encode("latin-1")), self._key) or scheme.lower() != "bearer":
            raise wrong_key()

    def _tell(self, exchange: Exchange) -> None:
        seconds, metrics = exchange.seconds, self._metrics
        metrics.requests.labels(exchange.path, str(exchange.status)).inc()
        metrics.seconds.labels(exchange.path).observe(seconds)
        if exchange.status == 200:
            metrics.texts.inc(exchange.texts)
            metrics.tokens.inc(exchange.tokens)
            metrics.truncated.inc(exchange.truncated)
        if not self._access_log or exchange.path in _UNLOGGED:
            return
        fields = {
            "id": exchange.id, "method": exchange.method, "path": exchange.path, "status": exchange.status,
            "texts": exchange.texts, "tokens": exchange.tokens, "truncated": exchange.truncated, "code": exchange.code,
            "seconds": round(seconds, 4),
        }  # fmt: skip
        log.info("request", extra={"fields": {name: value for name, value in fields.items() if value not in (None, 0)}})


def _problem_of(error: Exception) -> Problem:
    if isinstance(error, Problem):
        return error
    return problem_of(error) if isinstance(error, SightlineError) else fault()


def _digest(key: bytes) -> bytes:
    """Of one length for every key, so that comparing tells nothing of the length, either."""
    return sha256(key).digest()


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _label(path: str) -> str:
    """A path as logs and metrics name it; what a client makes up is no label."""
    if path.startswith("/v1/models/"):
        return "/v1/models/{model}"
    return path if path in _PATHS else "other"


def _host(header: str) -> str:
    """The name in a Host header, without its port."""
    return header[: header.find("]") + 1] if header.startswith("[") else header.partition(":")[0]
