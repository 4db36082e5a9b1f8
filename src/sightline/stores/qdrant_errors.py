"""What goes wrong on the way to Qdrant: what is worth another attempt, and what its errors are called here."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc  # type: ignore[import-untyped]  # its stubs are a package of their own
import httpx
from qdrant_client import models
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from sightline.errors import StoreError, StoreUnreachable
from sightline.keys import hide_keys
from sightline.stores.checks import collection_not_found

API_KEY_VARIABLE = "QDRANT_API_KEY"
_TRANSIENT_HTTP = {408, 429, *range(500, 600)} - {507}  # 507: a quota is used up, which waiting doesn't mend
_TRANSIENT_GRPC = {
    grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED, grpc.StatusCode.INTERNAL,
}  # fmt: skip
_NO_ANSWER_GRPC = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
REFUSED = {401, 403, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
_ABSENT = {404, grpc.StatusCode.NOT_FOUND}
_TAKEN = {409, grpc.StatusCode.ALREADY_EXISTS}

# The list of warning filters is one per process.
_WARNINGS = threading.RLock()


class Unfinished(Exception):
    """The server took a write but hadn't applied it when it answered."""


class NameTaken(StoreError):
    """There is a collection of that name."""


# Local mode raises ValueError for what is wrong, sqlite3.Error and OSError for the disk.
_CLIENT_ERRORS = (
    UnexpectedResponse, ResponseHandlingException, ResourceExhaustedResponse, grpc.RpcError, Unfinished, ValueError,
    sqlite3.Error, OSError,
)  # fmt: skip


def finished(result: models.UpdateResult) -> None:
    """Raise when a write is in the log only: with `wait` that is a server that ran out of time."""
    if result.status != models.UpdateStatus.COMPLETED:
        raise Unfinished(f"the server answered {result.status} and goes on writing")


def status_of(error: BaseException) -> Any:
    """HTTP status or gRPC code of an error, None for others."""
    if isinstance(error, UnexpectedResponse):
        return error.status_code
    return error.code() if isinstance(error, grpc.Call) else None


def is_transient(error: BaseException) -> bool:
    """Whether the same request may go well the next time."""
    if isinstance(error, (Unfinished, ResourceExhaustedResponse)):
        return True
    return _is_transport(error) or status_of(error) in _TRANSIENT_HTTP | _TRANSIENT_GRPC


def _is_transport(error: BaseException) -> bool:
    return isinstance(error, ResponseHandlingException) and isinstance(error.source, httpx.TransportError)


def asked_wait(error: BaseException) -> float | None:
    """Seconds that the server asked to wait, if it did."""
    return float(error.retry_after_s) if isinstance(error, ResourceExhaustedResponse) else None


def said_by(error: BaseException) -> str:
    """What an error says, in one line, and no key in it: a server or proxy may repeat what it was sent."""
    text = str(error)
    if isinstance(error, grpc.Call):
        text = (error.details() or str(error.code())).rpartition("last error: ")[2]
    elif isinstance(error, UnexpectedResponse):
        try:
            text = f"{error.status_code} {json.loads(error.content)['status']['error']}"
        except (ValueError, KeyError, TypeError):  # not a Qdrant server's own answer, a proxy's perhaps
            text = f"{error.status_code} {error.reason_phrase}"
    return hide_keys(" ".join(text.split()))[:300] or type(error).__name__


@contextmanager
def named_errors(url: str, where: str, *, unreachable: bool = False) -> Iterator[None]:
    """Name the client's errors; with `unreachable` all but a refused key count as no answer."""
    try:
        yield
    except _CLIENT_ERRORS as error:
        status, said = status_of(error), said_by(error)
        if status in REFUSED:
            held = "was refused" if os.environ.get(API_KEY_VARIABLE) else "is missing"
            raise StoreUnreachable(
                f"The Qdrant server at {where} refuses access: the key {held} ({said}). Set the key of that server and its"
                f" rights to write in the environment: export {API_KEY_VARIABLE}=..."
            ) from error
        if unreachable or _is_transport(error) or status in _NO_ANSWER_GRPC:
            raise StoreUnreachable(
                f"The Qdrant server at {where} stopped answering ({said}). Check that it runs, then start the same command again:"
                " it goes on where it stopped."
            ) from error
        if status == grpc.StatusCode.UNIMPLEMENTED:
            raise StoreError(
                f"The Qdrant server at {where} is too old for this: it doesn't know the request. Upgrade the server; a length of"
                " vectors is added or removed by 1.18 and newer."
            ) from error
        if status in _ABSENT or (isinstance(error, ValueError) and said.endswith("not found")):
            raise collection_not_found(url) from error
        if status in _TAKEN or "already exists" in said:
            raise NameTaken(f"{url}: {said}") from error
        raise StoreError(f"Qdrant failed on {url}: {said}") from error


@contextmanager
def without_client_warnings() -> Iterator[None]:
    """Leave out those warnings of the client that we give ourselves, as log lines."""
    with _WARNINGS, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Local mode is not recommended")
        warnings.filterwarnings("ignore", message="Api key is used with an insecure connection")
        yield
