"""A Chroma server: its client with timeouts and retries, and the writer's lease."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
from chromadb.api import ServerAPI
from chromadb.api.models.Collection import Collection
from chromadb.config import Settings, System

from sightline.errors import CollectionNotFound, StoreError, StoreUnreachable
from sightline.keys import hide_keys
from sightline.patience import at_most
from sightline.retries import (
    AWAY_S,
    FAILED_S,
    FIRST_S,
    PERMANENT,
    READING_S,
    http_patience,
    retrying,
    seconds_asked,
)
from sightline.stores.checks import store_closed
from sightline.stores.chroma_database import OLD, WRITER, Database, is_between, is_taken
from sightline.stores.leases import PARTING_S, Lease
from sightline.stores.requests import RequestTooLarge

_LEASE_KEY = "sightline_lease"
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
# A server takes 40 MiB a request; smaller ones lose less when they are sent again. 10,000 points of 256 dimensions to a server on
# the same machine (2 cores): 2,073 a second with 1,000 a request, 1,708 with 250, 1,230 with 5,000; with two requests in flight
# 1,731, with four 1,652, because SQLite takes one writer at a time. So they go one after the other.
_BYTES_PER_REQUEST = 8 * 2**20
_POINTS_PER_REQUEST = 1000
_TIMEOUT = httpx.Timeout(connect=10, read=120, write=120, pool=120)
_ERROR_CHARACTERS = 200

_log = logging.getLogger(__name__)
T = TypeVar("T")


class Server(Database):
    """A database on a server."""

    def __init__(self, url: str, host: str, port: int, name: str, *, tls: bool) -> None:
        super().__init__(url, most_bytes=_BYTES_PER_REQUEST)
        self._host, self._port, self._tls = host, port, tls
        self._lease = Lease(_WriterTable(self, f"{name}{WRITER}"), url)
        self._patience_s = READING_S

    def connected(self) -> Any:
        """The client, whose first use is a sign of life from the server."""
        with self.guard:
            if self._client is None and not self.closed:
                if _api_key() and not self._tls and self._host not in _LOOPBACK:
                    _log.warning(
                        "the key in CHROMA_API_KEY travels to %s without encryption; use chroma+https:// where it speaks TLS",
                        self._host,
                    )
                client = _HttpClient(self._host, self._port, tls=self._tls, on_response=self._inspect)
                try:
                    with self._named():
                        _retrying(f"the first contact with {self._address()}", client.heartbeat, _first_patience)
                except BaseException:
                    client.close()
                    raise
                self._client = client
            if self._client is None:
                raise store_closed(self.url)
            return self._client

    def disk_bytes(self) -> int | None:
        """A server doesn't say."""
        return None

    def acquire(self, *, take_over: bool) -> None:
        """Take the collection's lease; from here on a server that is away is waited for as a run does."""
        self._patience_s = AWAY_S
        try:
            self._lease.acquire(take_over=take_over)
        except BaseException:
            self._patience_s = READING_S
            raise

    def check(self) -> None:
        """Ask the server whose lease it is."""
        self._lease.check()

    def release(self) -> None:
        """Give the lease back."""
        self._patience_s = READING_S
        self._lease.release()

    def close(self) -> None:
        """Give the lease back and close the connections."""
        try:
            # Not under the guard: the lease waits for its heartbeat, which may be waiting for the guard.
            with at_most(PARTING_S):
                self._lease.release()
        except StoreError as error:
            _log.warning("the lease of %s stays until it is taken over: %s", self.url, error)
        finally:
            with self.guard:
                self.closed = True
                client, self._client = self._client, None
                if client is not None:
                    client.close()

    def most_points(self) -> int:
        """What the server says, and less."""
        return min(self.max_batch(), _POINTS_PER_REQUEST)

    def call(self, what: str, request: Callable[[], T]) -> T:
        """One request, again when the server was busy or gone for a while."""
        with self._named(), at_most(self._patience_s):
            return _retrying(what, request, _patience_for)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            with super()._named():
                yield
        except httpx.HTTPError as error:
            raise self._unreachable(f"{type(error).__name__}: {error}".rstrip(".")) from error
        except _Refusal as refusal:
            if http_patience(refusal.status) == AWAY_S:
                raise self._unreachable(str(refusal)) from refusal
            raise StoreError(
                f"The Chroma server at {self._address()} failed: {refusal}. Its log says why. What was written stays: start the"
                " same command again when that is mended."
            ) from refusal

    def _unreachable(self, said: str) -> StoreUnreachable:
        if self._client is None:
            return StoreUnreachable(
                f"The Chroma server at {self._address()} doesn't answer: {said}. Check that it runs (chroma run --host HOST"
                f" --port PORT) and that host, port and http or https of {self.url} are right."
            )
        return StoreUnreachable(
            f"The Chroma server at {self._address()} stopped answering: {said}. Check that it runs, then start the same command"
            " again: it goes on where it stopped."
        )

    def _inspect(self, response: httpx.Response) -> None:
        """Raise what Chroma's client would blur: it keeps no status."""
        if response.is_success:
            return
        text = hide_keys(response.read().decode(errors="replace"))  # a proxy may repeat what it was sent
        status = response.status_code
        if status in (401, 403):
            known = "CHROMA_API_KEY is set, but" if _api_key() else "CHROMA_API_KEY is not set, and"
            raise StoreUnreachable(
                f"{known} the Chroma server at {self._address()} refuses it (HTTP {status}). Check the key, and set that of the"
                " server: export CHROMA_API_KEY=..."
            )
        if status == 413:
            raise RequestTooLarge(f"The server at {self._address()} answers HTTP 413 (too large) {_line(text)}".strip() + ".")
        # What a name or an id that is taken already breaks is a constraint, which waiting doesn't mend.
        if (status >= 500 and "constraint failed" not in text) or http_patience(status):
            raise _Refusal(status, text, seconds_asked(response.headers.get("retry-after", "")))
        if not _is_from_chroma(text):
            raise StoreUnreachable(
                f"What answers at {self._address()} is no Chroma server of version 1 (HTTP {status}). Check host and port of"
                f" {self.url}."
            )

    def _address(self) -> str:
        return f"{self._host}:{self._port}"


class _Refusal(Exception):
    """The server answered that it can't do this, now or at all."""

    def __init__(self, status: int, text: str, asked_wait_s: float | None) -> None:
        asked = "" if asked_wait_s is None else f"asks to wait for {asked_wait_s:.0f} s"
        super().__init__(" ".join(filter(None, (f"HTTP {status}", asked, _line(text)))))
        self.status = status
        self.asked_wait_s = asked_wait_s


class _HttpClient:
    """The part of chromadb.HttpClient that is needed.

    That one waits for ever for a server that hangs (timeout=None, and its constructor asks the server three times before
    anybody could change that), opens two connections, and leaves one of them open when it is closed.
    """

    def __init__(self, host: str, port: int, *, tls: bool, on_response: Callable[[httpx.Response], None]) -> None:
        # No .env file: what lies in the working directory is not meant for us.
        settings = Settings(_env_file=None, anonymized_telemetry=False)  # type: ignore[call-arg]
        settings.chroma_api_impl = "chromadb.api.fastapi.FastAPI"
        settings.chroma_server_host, settings.chroma_server_http_port = host, port
        settings.chroma_server_ssl_enabled = tls
        key = _api_key()
        settings.chroma_server_headers = {"Authorization": f"Bearer {key}", "x-chroma-token": key} if key else {}
        server: Any = System(settings).instance(ServerAPI)  # type: ignore[type-abstract]
        self._server = server
        # Chroma has no setting for what follows.
        self._session: httpx.Client = server._session
        self._session.timeout = _TIMEOUT
        self._session.event_hooks = {"response": [on_response]}

    def heartbeat(self) -> None:
        """Raise where no Chroma server answers; the identity, unlike the heartbeat, needs the key."""
        try:
            self._server.heartbeat()
            self._server.get_user_identity()
        except (KeyError, TypeError, ValueError) as error:
            raise httpx.DecodingError(f"the answer is not Chroma's ({type(error).__name__})") from error

    def get_collection(self, name: str, *, embedding_function: None) -> Any:
        """As in chromadb.HttpClient."""
        return self._collection(self._server.get_collection(name), embedding_function)

    def create_collection(
        self, name: str, *, metadata: dict[str, Any], configuration: Any, embedding_function: None
    ) -> Any:
        """As in chromadb.HttpClient."""
        model = self._server.create_collection(name, metadata=metadata, configuration=configuration)
        return self._collection(model, embedding_function)

    def delete_collection(self, name: str) -> None:
        """As in chromadb.HttpClient."""
        self._server.delete_collection(name)

    def get_max_batch_size(self) -> int:
        """As in chromadb.HttpClient."""
        return int(self._server.get_max_batch_size())

    def close(self) -> None:
        """Close all connections."""
        self._session.close()

    def _collection(self, model: Any, embedding_function: None) -> Any:
        return Collection(client=self._server, model=model, embedding_function=embedding_function)


class _WriterTable:
    """The lease as the metadata of a collection: Chroma makes only one of a name."""

    def __init__(self, database: Server, name: str) -> None:
        self._database = database
        self._name = name
        self._found: Any = None

    def create(self, record: Mapping[str, Any]) -> bool:
        """Make the collection; False when there is one."""
        if not self._database.create(self._name, {**record, _LEASE_KEY: 1}):
            return False
        self.read()
        return True

    def read(self) -> Mapping[str, Any] | None:
        """The record that is there now; raise StoreError when the name is somebody else's."""
        self._found = self._database.find(self._name)
        if self._found is None:
            return None
        record = self._found.metadata or {}
        if _LEASE_KEY not in record:
            raise StoreError(
                f"The right to write is kept under the name {self._name!r}, which a collection has that Sightline didn't make."
                " Rename that one, or index into another name."
            )
        return dict(record)

    def replace(self, record: Mapping[str, Any]) -> None:
        """Write into the collection that was seen last, whatever its name is now."""
        found = self._found
        self._database.call(f"lease of {self._database.url}", lambda: found.modify(metadata={**record, _LEASE_KEY: 1}))

    def remove(self) -> None:
        """Remove the collection that was seen last: it is renamed first, because Chroma removes by name only."""
        away = f"{self._name}{OLD}"
        try:
            if not self._rename(away):
                self._database.delete(away)  # what was killed between these two steps left it
                self._rename(away)
        except CollectionNotFound:
            return  # somebody else removed it, so the name may be theirs by now
        self._database.delete(away)

    def _rename(self, name: str) -> bool:
        """False where the name is taken."""
        found = self._found
        try:
            self._database.call(f"lease of {self._database.url}", lambda: found.modify(name=name))
        except CollectionNotFound:
            raise
        except StoreError as error:
            if is_taken(error):
                return False
            raise
        return True


def _api_key() -> str:
    return os.environ.get("CHROMA_API_KEY", "")


def _is_from_chroma(text: str) -> bool:
    try:
        return "error" in json.loads(text)
    except (TypeError, ValueError):
        return False


def _line(text: str) -> str:
    return " ".join(text.split())[:_ERROR_CHARACTERS]


def _retrying(what: str, request: Callable[[], T], patience_for: Callable[[BaseException], float]) -> T:
    return retrying(request, patience_for=patience_for, what=what, asked_wait=_asked_wait)


def _patience_for(error: BaseException) -> float:
    """Seconds for which the same request is worth trying again."""
    if isinstance(error, httpx.TransportError):
        return AWAY_S
    if isinstance(error, _Refusal):
        return http_patience(error.status)
    if isinstance(error, json.JSONDecodeError) or is_between(error):  # the first is an answer that was cut on its way
        return FAILED_S
    return PERMANENT


def _first_patience(error: BaseException) -> float:
    """As `_patience_for`, but quick to say that nobody is there; who says that he is busy is there."""
    if not isinstance(error, _Refusal):
        return min(_patience_for(error), FIRST_S)
    is_busy = error.status == httpx.codes.TOO_MANY_REQUESTS
    return http_patience(error.status) if is_busy else min(http_patience(error.status), FAILED_S)


def _asked_wait(error: BaseException) -> float | None:
    return error.asked_wait_s if isinstance(error, _Refusal) else None
