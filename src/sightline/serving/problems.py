"""Every error in OpenAI's shape: {"error": {"message", "type", "param", "code"}}, so that its clients can read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.responses import Response

from sightline.errors import (
    ContractMismatch,
    DeviceFailed,
    DimensionError,
    EmbedderClosed,
    InputError,
    NonFiniteEmbedding,
    SightlineError,
    StoreError,
    TextTooLong,
    UnknownInstruction,
    UsageError,
)

_INVALID, _BUSY, _SERVER = "invalid_request_error", "rate_limit_error", "server_error"
# Seconds until a client may find again what isn't there just now.
_SOON = 5


@dataclass(eq=False)
class Problem(Exception):
    """Why a request gets no other answer. `param` is the field that is wrong, `code` for programs, `message` for people."""

    status: int
    message: str
    code: str
    param: str | None = None
    kind: str = _INVALID
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self) -> Response:
        """The answer."""
        error: dict[str, Any] = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return Response(orjson.dumps({"error": error}), self.status, dict(self.headers), "application/json")


def busy(message: str, code: str, seconds: int) -> Problem:
    """429: nothing is wrong with the request, and it may come again in so many seconds."""
    return Problem(429, message, code, kind=_BUSY, headers={"Retry-After": str(seconds)})


def unavailable(message: str, code: str, seconds: int = _SOON) -> Problem:
    """503: what the answer needs isn't there just now."""
    return Problem(503, message, code, kind=_SERVER, headers={"Retry-After": str(seconds)})


def fault() -> Problem:
    """500: a fault of ours. What it was is in the log only."""
    message = "This is a fault of the server; its log has more under this request's id."
    return Problem(500, message, "internal_error", kind=_SERVER)


def wrong_key() -> Problem:
    """401, whether there was no key or another one."""
    message = "The API key is missing or wrong. Send it as a header: Authorization: Bearer KEY"
    return Problem(401, message, "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def problem_of(error: SightlineError) -> Problem:
    """What an error of the engine or of a store means to a client."""
    message = str(error)
    match error:
        case UnknownInstruction():
            return Problem(400, message, "unknown_instruction", "instruction")
        case DimensionError():
            return Problem(400, message, "invalid_dimensions", "dimensions")
        case NonFiniteEmbedding():
            return Problem(500, message, "non_finite_embedding", "input", _SERVER)
        case TextTooLong():
            return Problem(400, message, "input_too_long", "input")
        case InputError():
            return Problem(400, message, "invalid_input", "input")
        case UsageError():
            return Problem(400, message, "invalid_value")
        case EmbedderClosed():
            return unavailable("The server is shutting down.", "shutting_down")
        case DeviceFailed():
            return unavailable(f"The device {error.device} failed; the server must be started anew.", "device_failed")
        case ContractMismatch() | StoreError():  # which may name hosts and paths
            return unavailable("The collection can't be read just now; the server's log says why.", "collection_unavailable")
    return fault()
