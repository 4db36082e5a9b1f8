"""What goes wrong on the way to Qdrant: what is worth another attempt, and what its errors are called here."""

from __future__ import annotations

import json
import math
import os
import re
import sqlite3
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]  # its stubs are a package of their own
import httpx
from qdrant_client import models
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from sightline.errors import StoreError, StoreUnreachable
from sightline.keys import hide_keys
from sightline.retries import AWAY_S, FAILED_S, PERMANENT, http_patience, seconds_asked
from sightline.stores.checks import collection_not_found
from sightline.stores.requests import RequestTooLarge
from sightline.stores.room import disk_full, is_full

API_KEY_VARIABLE = "QDRANT_API_KEY"
_GRPC_PATIENCE = {
    grpc.StatusCode.UNAVAILABLE: AWAY_S,
    grpc.StatusCode.DEADLINE_EXCEEDED: AWAY_S,
    grpc.StatusCode.RESOURCE_EXHAUSTED: AWAY_S,  # too many requests; what is too large is told apart
    grpc.StatusCode.ABORTED: FAILED_S,
    grpc.StatusCode.INTERNAL: FAILED_S,  # what Qdrant says where REST says 500
    # We cancel nothing, so a proxy did; and what a proxy answers with a status that gRPC doesn't know is "unknown".
    grpc.StatusCode.CANCELLED: FAILED_S,
    grpc.StatusCode.UNKNOWN: FAILED_S,
}
# Of gRPC for Python and Go, of Qdrant's REST (as 400) and its gRPC ("decoded message length"), and of a proxy before gRPC.
_TOO_LARGE = re.compile(r"larger than (max|allowed)|message length too large|status: 413")
_NO_ANSWER = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, 408, 502, 503, 504}
_LONGEST_RETRY_AFTER_S = 10**6
REFUSED = {401, 403, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
_BUSY = {429, grpc.StatusCode.RESOURCE_EXHAUSTED}
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


def is_too_large(error: BaseException) -> bool:
    """Whether the server, or what lies before it, refused a request because of its size."""
    status = status_of(error)
    if status is None:
        return False
    return status == httpx.codes.REQUEST_ENTITY_TOO_LARGE or bool(_TOO_LARGE.search(_text_of(error)))


def patience_for(error: BaseException) -> float:
    """Seconds for which the same request is worth trying again."""
    if isinstance(error, ResourceExhaustedResponse) or _is_transport(error):
        return AWAY_S
    if isinstance(error, (Unfinished, json.JSONDecodeError, ResponseHandlingException)):  # the latter two: an answer that was cut
        return FAILED_S
    status = status_of(error)
    if status is None or is_too_large(error):
        return PERMANENT
    return _GRPC_PATIENCE.get(status, PERMANENT) if isinstance(status, grpc.StatusCode) else http_patience(status)


def is_busy(error: BaseException) -> bool:
    """Whether the server says that it is asked too much, so that it is there."""
    return isinstance(error, ResourceExhaustedResponse) or status_of(error) in _BUSY


def _is_transport(error: BaseException) -> bool:
    return isinstance(error, ResponseHandlingException) and isinstance(error.source, httpx.TransportError)


def asked_wait(error: BaseException) -> float | None:
    """Seconds that the server asked to wait, if it did."""
    if isinstance(error, UnexpectedResponse):
        return seconds_asked(error.headers.get("retry-after", ""))
    return float(error.retry_after_s) if isinstance(error, ResourceExhaustedResponse) else None


def plain_retry_after(response: httpx.Response) -> None:
    """Turn a date in Retry-After into seconds: qdrant-client takes a number only, and fails on anything else."""
    if "retry-after" in response.headers:
        seconds = seconds_asked(response.headers["retry-after"])
        if seconds is None:
            del response.headers["retry-after"]
        else:
            response.headers["retry-after"] = str(min(math.ceil(seconds), _LONGEST_RETRY_AFTER_S))


def _text_of(error: BaseException) -> str:
    return error.content.decode(errors="replace") if isinstance(error, UnexpectedResponse) else str(error)


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
        if status is None and is_full(error):
            raise disk_full(url, Path(where)) from error
        if status in REFUSED:
            held = "was refused" if os.environ.get(API_KEY_VARIABLE) else "is missing"
            raise StoreUnreachable(
                f"The Qdrant server at {where} refuses access: the key {held} ({said}). Set the key of that server and its"
                f" rights to write in the environment: export {API_KEY_VARIABLE}=..."
            ) from error
        if is_too_large(error):
            raise RequestTooLarge(f"Qdrant says: {said}.") from error
        if unreachable or _is_transport(error) or status in _NO_ANSWER:
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
