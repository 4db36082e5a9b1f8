"""Which address answers what."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from sightline.serving.admission import read_body
from sightline.serving.answers import embedding_response, json_response, search_response
from sightline.serving.gate import Exchange, Gate
from sightline.serving.metrics import Metrics
from sightline.serving.problems import Problem
from sightline.serving.requests import read_embedding_request, read_search_request, unknown_model
from sightline.serving.schema import document, page
from sightline.serving.service import Service, State

_T = TypeVar("_T")


def create_app(
    service: Service, *, api_key: str | None = None, local_only: bool = False, access_log: bool = True
) -> Starlette:
    """The ASGI application over a service, whose `load` somebody else calls; see `Gate` for the other arguments."""
    metrics = Metrics(service)
    gate = Middleware(
        Gate, metrics=metrics, api_key=api_key, local_only=local_only, access_log=access_log,
        write_seconds=service.admission.limits.write_seconds,
    )  # fmt: skip
    app = Starlette(routes=_ROUTES, middleware=[gate], exception_handlers={HTTPException: _http_problem})
    app.state.service, app.state.metrics = service, metrics
    return app


async def embeddings(request: Request) -> Response:
    """POST /v1/embeddings."""
    service, exchange = _service(request), _exchange(request)
    service.require_ready()
    body = await read_body(request, service.admission, exchange.resources)
    asked = read_embedding_request(body, service.names, token_ids=service.token_ids)
    exchange.texts = len(asked.texts)
    service.admission.take_texts(len(asked.texts), exchange.resources)
    embedded = await unless_gone(request, service.embed(asked))
    exchange.tokens = embedded.tokens
    exchange.truncated = len(embedded.truncation.rows) if embedded.truncation else 0
    service.admission.note(exchange.seconds)
    return embedding_response(embedded, asked.model, base64=asked.base64)


async def search(request: Request) -> Response:
    """POST /v1/search."""
    service, exchange = _service(request), _exchange(request)
    service.require_ready()
    asked = read_search_request(await read_body(request, service.admission, exchange.resources))
    exchange.texts = 1
    service.admission.take_texts(1, exchange.resources)
    hits = await unless_gone(request, service.search(asked))
    service.admission.note(exchange.seconds)
    return search_response(hits, service.names[0])


async def models(request: Request) -> Response:
    """GET /v1/models."""
    service = _service(request)
    return json_response({"object": "list", "data": [_model(service, name) for name in service.names]})


async def model(request: Request) -> Response:
    """GET /v1/models/NAME; a name may have slashes."""
    service, name = _service(request), request.path_params["name"]
    if name not in service.names:
        raise unknown_model(name, service.names)
    return json_response(_model(service, name))


async def config(request: Request) -> Response:
    """GET /config. The engine may have to be waited for, so not in the event loop."""
    return json_response(await asyncio.to_thread(_service(request).describe))


async def ready(request: Request) -> Response:
    """GET /health and /health/ready: 200 if requests are answered."""
    state = _service(request).state
    return json_response({"status": state}, 200 if state is State.READY else 503)


async def live(request: Request) -> Response:
    """GET /health/live: 200 unless only a new process can help."""
    failed = _service(request).state is State.FAILED
    return json_response({"status": "failed" if failed else "live"}, 503 if failed else 200)


async def metrics(request: Request) -> Response:
    """GET /metrics, for Prometheus."""
    return Response(generate_latest(request.app.state.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def openapi(request: Request) -> Response:
    """GET /openapi.json."""
    return json_response(document(_service(request)))


async def docs(request: Request) -> Response:
    """GET /docs: the OpenAPI document for people."""
    return HTMLResponse(page(document(_service(request))))


async def unless_gone(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """What `work` gives; it is cancelled when the client hangs up, and then ClientDisconnect is raised."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        del task, gone  # or an error, its frames and the request's body keep one another


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _http_problem(_: Request, error: Exception) -> Response:
    """What the routing finds wrong: a path that isn't there, a method that it hasn't."""
    assert isinstance(error, HTTPException)
    found, code = ("Not found", "unknown_url") if error.status_code == 404 else (error.detail, "invalid_request")
    message = f"{found}. GET /docs tells what there is."
    return Problem(error.status_code, message, code, headers=dict(error.headers or {})).response()


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _exchange(request: Request) -> Exchange:
    exchange: Exchange = request.state.exchange
    return exchange


def _model(service: Service, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": service.started, "owned_by": "sightline"}


_ROUTES = [
    Route("/v1/embeddings", embeddings, methods=["POST"]),
    Route("/v1/search", search, methods=["POST"]),
    Route("/v1/models", models),
    Route("/v1/models/{name:path}", model),
    Route("/config", config),
    Route("/health", ready),
    Route("/health/ready", ready),
    Route("/health/live", live),
    Route("/metrics", metrics),
    Route("/openapi.json", openapi),
    Route("/docs", docs),
]
