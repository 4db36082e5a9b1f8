"""A Qdrant server: gRPC or REST, retries, the writer's lease, several requests in flight, indexing put off in a bulk load."""

from __future__ import annotations

import contextvars
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from typing import Any

from qdrant_client import QdrantClient, models
from qdrant_client import grpc as proto
from qdrant_client.conversions.conversion import GrpcToRest, payload_to_grpc

from sightline.errors import CollectionNotFound, StoreError, StoreUnreachable
from sightline.patience import at_most
from sightline.retries import AWAY_S, FIRST_S, PERMANENT, READING_S, retrying
from sightline.stores.checks import store_closed
from sightline.stores.leases import Lease
from sightline.stores.payload import HEAD_KEY, POINT_KEY, SOURCE_KEY, TEXT_KEY, VISIBLE_SOURCE_KEY
from sightline.stores.qdrant_database import Call, Database, Payload, T
from sightline.stores.qdrant_errors import (
    API_KEY_VARIABLE,
    REFUSED,
    NameTaken,
    asked_wait,
    finished,
    is_busy,
    named_errors,
    patience_for,
    plain_retry_after,
    said_by,
    status_of,
    without_client_warnings,
)
from sightline.stores.qdrant_names import defer_indexing
from sightline.types import FloatArray

_log = logging.getLogger(__name__)
_OLDEST_SERVER = (1, 16, 0)  # collection metadata, which came a little earlier, is documented from here on
_TIMEOUT_S, _FIRST_ANSWER_S = 60, 10
# gRPC's own is two minutes: a server that is back would be looked for that much later.
_LONGEST_RECONNECT_MS = 5000
_GRPC_PORT, _REST_PORT = 6334, 6333
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
# Qdrant's own advice is 2 to 4 requests at once.
_REQUESTS_IN_FLIGHT = 4
_BYTES_PER_NUMBER_AS_JSON = 22
# A run that writes more than this gains by indexing once at its end; the server indexes from 10 to 20 MB a segment on.
_BULK_POINTS = 10_000
_INDEXED = {
    models.PayloadSchemaType.KEYWORD: (SOURCE_KEY, VISIBLE_SOURCE_KEY, TEXT_KEY),
    models.PayloadSchemaType.INTEGER: (HEAD_KEY, POINT_KEY),
}


class Server(Database):
    """The connection to a server, made at the first request."""

    is_server = True

    def __init__(self, url: str, host: str, port: int, collection: str, *, tls: bool) -> None:
        super().__init__(url)
        self._url = url
        self._host = host
        self._tls = tls
        self._grpc_port, self._rest_port = (_GRPC_PORT, _REST_PORT) if port == _REST_PORT else (port, port - 1)
        self._client: QdrantClient | None = None
        self._is_grpc = True
        self._pool: ThreadPoolExecutor | None = None
        self._lease = Lease(_WriterRecord(self, url, f"{collection}.writer"), url)
        self._written: Counter[str] = Counter()
        self._patience_s = READING_S

    def is_present(self) -> bool:
        return True

    def disk_bytes(self) -> int | None:
        return None

    def request(self, url: str, what: str, call: Call[T]) -> T:
        client = self._connected()
        with named_errors(url, f"{self._host}:{self._grpc_port}"), at_most(self._patience_s):
            return retrying(lambda: call(client), patience_for=patience_for, what=f"{what} at {url}", asked_wait=asked_wait)

    def acquire(self, *, take_over: bool) -> None:
        self._patience_s = AWAY_S  # from here on a server that is away is waited for as a run does
        try:
            self._lease.acquire(take_over=take_over)
        except BaseException:
            self._patience_s = READING_S
            raise
        self.is_held = True

    def release(self) -> None:
        self.is_held, self._patience_s = False, READING_S
        self._lease.release()

    def check(self) -> None:
        self._lease.check()

    def prepare(self) -> None:
        """A server makes its database itself."""

    def index_payload(self, physical: str) -> None:
        for kind, fields in _INDEXED.items():
            for field in fields:
                self.request(self._url, "indexing the payload", partial(_index_field, physical, field, kind))

    def expect(self, physical: str, points: int) -> None:
        """Put indexing off in a bulk load: an index that is built while it grows is built many times."""
        with self.guard:
            self._written[physical] += points
            if self._written[physical] <= _BULK_POINTS or physical in self.deferred:
                return
            self.request(self._url, "putting indexing off", partial(defer_indexing, physical))
            self.deferred.add(physical)

    def upsert(
        self, physical: str, ids: Sequence[str], payloads: Sequence[Payload], vectors: Mapping[str, FloatArray]
    ) -> Call[None]:
        """Over gRPC an array's bytes go out as they are: the client would make two lists of floats of each row."""
        if not self._is_grpc:
            return super().upsert(physical, ids, payloads, vectors)
        points = [
            proto.PointStruct(id=proto.PointId(uuid=one), vectors=message, payload=payload_to_grpc(payload))
            for one, message, payload in zip(ids, _messages(vectors), payloads, strict=True)
        ]
        request = proto.UpsertPoints(collection_name=physical, points=points, wait=True)

        def call(client: QdrantClient) -> None:
            finished(GrpcToRest.convert_update_result(client.grpc_points.Upsert(request, timeout=_TIMEOUT_S).result))

        return call

    def each(self, calls: Sequence[Callable[[], None]]) -> None:
        if len(calls) < 2:
            for call in calls:
                call()
            return
        with self.guard:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_REQUESTS_IN_FLIGHT, thread_name_prefix="sightline-qdrant")
            # With this thread's patience: it ends where the run is stopped.
            futures = [self._pool.submit(contextvars.copy_context().run, call) for call in calls]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            for future in futures:
                future.cancel()  # those that run go on, and are waited for
            wait(futures)
        for future in futures:
            if not future.cancelled():
                future.result()

    def close(self) -> None:
        with self.guard:
            if self.is_closed:
                return
            try:
                if self.is_held:
                    self.release()
            except StoreError as error:
                _log.warning("the lease of %s stays until it runs out: %s", self._url, error)
            finally:
                self.is_closed = True
                if self._pool is not None:
                    self._pool.shutdown()
                if self._client is not None:
                    self._client.close()

    def _connected(self) -> QdrantClient:
        client = self._client
        if client is not None:  # without the lock: the lease is renewed while a long operation holds it
            return client
        with self.guard:
            if self.is_closed:
                raise store_closed(self._url)
            if self._client is None:
                self._client = retrying(
                    self._connect, patience_for=_first_patience, what=f"connecting to {self._url}", asked_wait=_first_wait
                )
            return self._client

    def _connect(self) -> QdrantClient:
        """A client over gRPC, or over REST where only that answers."""
        failures: list[str] = []
        for is_grpc, port in ((True, self._grpc_port), (False, self._rest_port)):
            try:
                self._check_answer(is_grpc)
            except StoreUnreachable as error:
                if error.__cause__ is not None and (status_of(error.__cause__) in REFUSED or is_busy(error.__cause__)):
                    raise
                failures.append(f"{'gRPC' if is_grpc else 'REST'} on port {port}: {said_by(error.__cause__ or error)}")
                continue
            if not is_grpc:
                self._is_grpc, self.bytes_per_number = False, _BYTES_PER_NUMBER_AS_JSON
                _log.warning("%s answers over REST only, which is slower; %s", self._url, failures[0])
            return self._make_client(is_grpc, _TIMEOUT_S)
        raise StoreUnreachable(
            f"No Qdrant server answers at {self._host}:{self._grpc_port} ({'; '.join(failures)}). Check the address and that"
            f" the server runs{'' if self._tls else '; one that speaks TLS, such as the cloud, is qdrant+https://HOST:PORT/NAME'}."
        )

    def _check_answer(self, is_grpc: bool) -> None:
        """Raise StoreUnreachable without an answer, StoreError when the server is too old."""
        client = self._make_client(is_grpc, _FIRST_ANSWER_S)
        try:
            with named_errors(self._url, f"{self._host}:{self._grpc_port if is_grpc else self._rest_port}", unreachable=True):
                version = client.info().version
        finally:
            client.close()
        numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
        if numbers and tuple(map(int, numbers.groups())) < _OLDEST_SERVER:
            oldest = ".".join(map(str, _OLDEST_SERVER))
            raise StoreError(
                f"The Qdrant server at {self._host}:{self._grpc_port} has version {version}, which keeps no metadata of"
                f" collections. Sightline needs {oldest} or newer: upgrade the server."
            )

    def _make_client(self, is_grpc: bool, timeout_s: int) -> QdrantClient:
        key = os.environ.get(API_KEY_VARIABLE) or None
        if key and not self._tls and self._host not in _LOOPBACK and timeout_s == _TIMEOUT_S:
            _log.warning(
                "the key in %s travels to %s without encryption; use qdrant+https:// where the server speaks TLS",
                API_KEY_VARIABLE, self._host,
            )  # fmt: skip
        host = f"[{self._host}]" if ":" in self._host else self._host
        with without_client_warnings():
            return QdrantClient(
                host=host, port=self._rest_port, grpc_port=self._grpc_port, prefer_grpc=is_grpc, https=self._tls,
                api_key=key, timeout=timeout_s, check_compatibility=False,
                verify=self._tls,  # without TLS nothing is verified, and reading the certificates takes 20 ms
                event_hooks={"response": [plain_retry_after]},
                grpc_options={"grpc.max_reconnect_backoff_ms": _LONGEST_RECONNECT_MS},
            )  # fmt: skip


class _WriterRecord:
    """Where a server keeps the lease: the metadata of a collection without vectors, which can be made once only."""

    def __init__(self, server: Server, url: str, name: str) -> None:
        self._server = server
        self._url = url
        self._name = name

    def create(self, record: Mapping[str, Any]) -> bool:
        def call(client: QdrantClient) -> bool:
            return bool(client.create_collection(self._name, vectors_config={}, metadata=dict(record)))

        try:
            return self._server.request(self._url, "taking the lease", call)
        except NameTaken:
            return False

    def read(self) -> Mapping[str, Any] | None:
        try:
            info = self._server.request(self._url, "reading the lease", lambda client: client.get_collection(self._name))
        except CollectionNotFound:
            return None
        return dict(info.config.metadata or {})

    def replace(self, record: Mapping[str, Any]) -> None:
        def call(client: QdrantClient) -> bool:
            return client.update_collection(self._name, metadata=dict(record))

        self._server.request(self._url, "renewing the lease", call)

    def remove(self) -> None:
        with suppress(CollectionNotFound):
            self._server.request(self._url, "ending the lease", lambda client: client.delete_collection(self._name))


def _messages(vectors: Mapping[str, FloatArray]) -> list[proto.Vectors]:
    """Each point's vectors as a message."""
    dense = {name: _dense(rows) for name, rows in vectors.items()}
    if list(dense) == [""]:
        return [proto.Vectors(vector=one) for one in dense[""]]
    named = ({name: many[row] for name, many in dense.items()} for row in range(len(next(iter(dense.values())))))
    return [proto.Vectors(vectors=proto.NamedVectors(vectors=one)) for one in named]


def _dense(rows: FloatArray) -> list[proto.Vector]:
    """Each row as a message, read from its bytes: what protobuf writes before the floats is the same for all rows."""
    zeros = proto.DenseVector(data=[0.0] * rows.shape[1]).SerializeToString()
    start = zeros[: len(zeros) - 4 * rows.shape[1]]
    return [proto.Vector(dense=proto.DenseVector.FromString(start + row.tobytes())) for row in rows.astype("<f4")]


def _index_field(physical: str, field: str, kind: models.PayloadSchemaType, client: QdrantClient) -> None:
    finished(client.create_payload_index(physical, field, kind, wait=True))


def _first_patience(error: BaseException) -> float:
    """Quick to say that nobody is there; who says that he is busy is there."""
    if not isinstance(error, StoreUnreachable):
        return PERMANENT
    if error.__cause__ is None:
        return FIRST_S
    return patience_for(error.__cause__) if is_busy(error.__cause__) else PERMANENT


def _first_wait(error: BaseException) -> float | None:
    return None if error.__cause__ is None else asked_wait(error.__cause__)
