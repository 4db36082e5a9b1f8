"""The process: model, address, signals, the end."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import uvicorn

from sightline import Collection, open_collection, open_embedder
from sightline.api import DEFAULT_MODEL, is_remote
from sightline.errors import UsageError
from sightline.serving.app import create_app
from sightline.serving.logs import json_lines
from sightline.serving.service import Service
from sightline.serving.settings import ServerSettings

log = logging.getLogger(__name__)

_BACKLOG = 2048
# Longer than load balancers usually keep a connection that nobody uses: else one of them may send into a closed one.
_KEEP_ALIVE_S = 75
_LAST_WORDS_S = 1


def run(settings: ServerSettings) -> None:
    """See `sightline.serving.serve`."""
    with ExitStack() as resources:
        service = opened_service(settings, resources)
        listener = resources.enter_context(_listening(settings.host, settings.port))
        host, port = listener.getsockname()[:2]
        app = create_app(
            service, api_key=settings.api_key, access_log=settings.access_log,
            local_only=settings.api_key is None and not settings.allow_unauthenticated,
        )  # fmt: skip
        config = uvicorn.Config(
            app, http="httptools", lifespan="off", ws="none", log_config=None, access_log=False, proxy_headers=False,
            server_header=False, timeout_graceful_shutdown=settings.drain_seconds, timeout_keep_alive=_KEEP_ALIVE_S,
            backlog=_BACKLOG,
        )  # fmt: skip
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        server = uvicorn.Server(config)
        with json_lines(), _ends_by_returning(server), asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            log.info("listening", extra={"fields": {"url": url, "docs": f"{url}/docs", "model": service.names[0]}})
            runner.run(_serve(server, service, listener))
            log.info("stopped")


def opened_service(settings: ServerSettings, resources: ExitStack) -> Service:
    """The model and the collection of a server; no weights are loaded unless the collection needs a look at them."""
    model, revision = _model_of(settings)
    if is_remote(model):
        raise UsageError(f"{model} is on a server already; this one runs a model on this machine. Name it: --model MODEL")
    # Any: the types don't know that one on a server was refused above.
    embedder: Any = resources.enter_context(
        open_embedder(
            model, revision=revision, dimensions=settings.dimensions, instructions=settings.instructions, device=settings.device,
            devices=settings.devices, dtype=settings.dtype, max_length=settings.max_length,
            max_batch_tokens=settings.max_batch_tokens, on_too_long=settings.on_too_long, deterministic=settings.deterministic,
        )
    )  # fmt: skip
    collection: Collection | None = None
    if settings.collection is not None:
        collection = resources.enter_context(open_collection(settings.collection, model=embedder))
    return Service(
        embedder, names=settings.names or [model], collection=collection, limits=settings.limits, token_ids=settings.token_ids
    )


def _model_of(settings: ServerSettings) -> tuple[str, str | None]:
    """The model to serve, and its revision: the one that is named, the collection's, or the default."""
    if settings.model is not None or settings.collection is None:
        return settings.model or DEFAULT_MODEL, None
    with open_collection(settings.collection, trust=settings.trust) as collection:
        contract = collection.contract
        assert contract is not None  # or opening it without a model had failed
        return contract.reading.model, contract.reading.revision


async def _serve(server: uvicorn.Server, service: Service, listener: socket.socket) -> None:
    """Listen at once, so that whoever watches the process sees it live; load meanwhile. Raises what loading raised."""
    loading = asyncio.get_running_loop().create_future()
    threading.Thread(target=_load, args=(service, loading), name="sightline-load", daemon=True).start()
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    await asyncio.wait((loading, serving), return_when=asyncio.FIRST_COMPLETED)
    failed = loading.done() and loading.exception() is not None
    if failed:
        server.should_exit = True
    await serving
    if server.server_state.tasks:  # given up when the time was up: they have yet to say so
        await asyncio.wait(server.server_state.tasks, timeout=_LAST_WORDS_S)
    if failed:
        loading.result()


def _load(service: Service, loading: asyncio.Future[None]) -> None:
    """In a thread of its own, not one of the loop's, which would be waited for when the process is told to end meanwhile."""
    error: Exception | None = None
    try:
        service.load()
        log.info("ready", extra={"fields": service.describe()})
    except Exception as raised:  # noqa: BLE001 - whatever it is ends the server, and is shown by who started it
        error = raised
    loop = loading.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(_settle, loading, error)


def _settle(loading: asyncio.Future[None], error: Exception | None) -> None:
    if not loading.done():
        if error is None:
            loading.set_result(None)
        else:
            loading.set_exception(error)


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:  # the latter for what can be no name
        said = error.strerror if isinstance(error, OSError) and error.strerror else error
        message = f"Can't listen on {host} port {port}: {said}. Choose another --host or --port."
        raise UsageError(message) from error
    with listener:
        yield listener


@contextmanager
def _ends_by_returning(server: uvicorn.Server) -> Iterator[None]:
    """Once it has drained, uvicorn raises the signal that ended it again; being told to end is no failure of a server."""

    def end(*_: object) -> None:
        server.should_exit = True

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {one: signal.signal(one, end) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
