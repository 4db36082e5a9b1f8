"""Qdrant Edge, the embedded default: the real engine in this process, one collection in a directory of its own.

The directory holds `sightline.json` (format, dimensions, contract, which shard is current), replaced atomically, and the
shards beside it. Edge lets one process in at a time, readers too, so the first operation on the points takes a lock file
that names its holder, and `close()` gives it back.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sightline.errors import MissingExtra, StoreError, StoreLocked, UsageError
from sightline.protocols import StoreCapabilities
from sightline.stores.checks import (
    checked_dimensions,
    checked_ids,
    checked_limit,
    checked_points,
    checked_query,
    collection_exists,
    collection_not_found,
    contract_json,
    make_directory,
    store_closed,
)
from sightline.stores.locks import LOCK_NAME, DirectoryLock
from sightline.stores.payload import (
    HEAD_FIELDS,
    HEAD_KEY,
    POINT_KEY,
    SOURCE_KEY,
    head_from,
    hit_from_nested,
    to_nested,
)
from sightline.types import FloatArray, Head, Hit, Point

try:
    import qdrant_edge as engine
except ImportError as error:
    raise MissingExtra("A store edge:DIR", package="qdrant-edge-py", extra="edge") from error

MANIFEST_NAME = "sightline.json"
_MANIFEST_TEMPORARY = "sightline.json.tmp"
_FORMAT = 1
_SHARD_NAME = re.compile(r"shard-[0-9a-f]{12}")
# The GIL is held during each call: 256 points of 1,024 dimensions take 5 ms, which other threads hardly notice.
_POINTS_PER_CALL = 256
_RECORDS_PER_PAGE = 1000


@dataclass(frozen=True, slots=True)
class _Manifest:
    dimensions: int
    contract: Mapping[str, Any]
    current: str


class EdgeStore:
    """The collection in `directory`."""

    def __init__(self, url: str, directory: Path) -> None:
        self.url = url
        self.capabilities = StoreCapabilities(persistent=True, several_dimensions=False, quantization=False)
        self._directory = directory
        self._lock = DirectoryLock(directory)
        self._guard = threading.RLock()
        self._shard: Any = None
        self._dimensions = 0
        self._closed = False

    def exists(self) -> bool:
        """Whether the directory holds a collection."""
        self._check_open()
        return (self._directory / MANIFEST_NAME).is_file()

    def read_contract(self) -> Mapping[str, Any] | None:
        """The contract as JSON data, read without the lock; None when there is no collection."""
        self._check_open()
        manifest = _read_manifest(self._directory)
        return None if manifest is None else manifest.contract

    def create(self, dimensions: int, contract: Mapping[str, Any]) -> None:
        """Make the collection in an empty or new directory.

        Raises:
            UsageError: the directory holds something else.
            StoreError: it holds a collection already.
            StoreLocked: another process is at it.
        """
        self._check_open()
        shard_name = f"shard-{uuid.uuid4().hex[:12]}"
        manifest = _Manifest(checked_dimensions(dimensions), json.loads(contract_json(contract)), shard_name)
        with self._guard:
            self._refuse_other_contents()
            make_directory(self._directory, self.url)
            self._lock.acquire(self.url)
            try:
                self._refuse_other_contents()  # again: now nobody else can be making it
                self._remove_half_made()
                self._shard = self._new_shard(manifest)
                _write_manifest(self._directory, manifest)
                self._dimensions = manifest.dimensions
            except BaseException:
                self._release()
                raise

    def upsert(self, points: Sequence[Point], vectors: FloatArray) -> None:
        """Write points; each call of 256 is applied whole, and it is in the write-ahead log when it returns."""
        shard = self._opened()
        plain, array = checked_points(points, vectors, self._dimensions)
        with self._engine():
            for start in range(0, len(plain), _POINTS_PER_CALL):
                rows = range(start, min(start + _POINTS_PER_CALL, len(plain)))
                batch = [engine.Point(plain[row].id, array[row], to_nested(plain[row])) for row in rows]
                shard.update(engine.UpdateOperation.upsert_points(batch))

    def delete(self, ids: Sequence[str]) -> None:
        """Remove points; ids that aren't there are fine."""
        shard = self._opened()
        known: list[Any] = [*checked_ids(ids)]
        with self._engine():
            for start in range(0, len(known), _RECORDS_PER_PAGE):
                shard.update(engine.UpdateOperation.delete_points(known[start : start + _RECORDS_PER_PAGE]))

    def heads(self) -> Iterator[Head]:
        """The heads of all documents, read page by page."""
        self._opened()
        return (head_from(record.payload) for record in self._scroll({HEAD_KEY: 1}, HEAD_FIELDS))

    def chunk_ids(self, source: str) -> list[str]:
        """Ids of all points of ours of a document, its head included."""
        self._opened()
        return [str(record.id) for record in self._scroll({SOURCE_KEY: source, POINT_KEY: 1}, False)]

    def vectors(self, ids: Sequence[str]) -> dict[str, FloatArray]:
        """Stored vectors of those ids that exist, float32 `(dimensions,)` each."""
        shard = self._opened()
        known = checked_ids(ids)
        found: dict[str, FloatArray] = {}
        with self._engine():
            for start in range(0, len(known), _RECORDS_PER_PAGE):
                for record in shard.retrieve(known[start : start + _RECORDS_PER_PAGE], False, True):
                    found[str(record.id)] = np.asarray(record.vector, dtype=np.float32)
        return found

    def search(self, vector: FloatArray, *, limit: int) -> list[Hit]:
        """The nearest points by cosine similarity, best first."""
        shard = self._opened()
        row: Any = checked_query(vector, self._dimensions)  # the engine takes arrays, whatever its stubs say
        query = engine.Query.Nearest(row)
        limit = min(checked_limit(limit), self.count())  # the engine makes room for `limit` hits, however few there are
        if limit == 0:
            return []
        with self._engine():
            scored = shard.query(engine.QueryRequest(limit=limit, query=query, with_payload=True))
        return [hit_from_nested(str(one.id), float(one.score), one.payload or {}) for one in scored]

    def count(self) -> int:
        """How many points the collection holds."""
        shard = self._opened()
        with self._engine():
            return int(shard.count(engine.CountRequest()))

    def close(self) -> None:
        """Flush, and let the next process in. Closing twice is fine."""
        with self._guard:
            self._closed = True
            try:
                if self._shard is not None:
                    with self._engine():
                        self._shard.flush()
            finally:
                self._release()

    def _check_open(self) -> None:
        if self._closed:
            raise store_closed(self.url)

    def _opened(self) -> Any:
        """The loaded shard; loads it under the lock on first use."""
        self._check_open()
        with self._guard:
            if self._shard is None:
                self._load()
            return self._shard

    def _load(self) -> None:
        if not self.exists():
            raise collection_not_found(self.url)
        self._lock.acquire(self.url)
        try:
            manifest = _read_manifest(self._directory)
            if manifest is None:
                raise collection_not_found(self.url)
            with self._engine():
                self._shard = engine.EdgeShard.load(str(self._directory / manifest.current))
            self._dimensions = manifest.dimensions
        except BaseException:
            self._release()
            raise

    def _release(self) -> None:
        shard, self._shard = self._shard, None
        try:
            if shard is not None:
                with self._engine():
                    shard.close()
        finally:
            self._lock.release()

    def _new_shard(self, manifest: _Manifest) -> Any:
        vectors = engine.EdgeVectorParams(size=manifest.dimensions, distance=engine.Distance.Cosine)
        indexed = ((SOURCE_KEY, engine.PayloadSchemaType.Keyword), (HEAD_KEY, engine.PayloadSchemaType.Integer))
        with self._engine():
            shard = engine.EdgeShard.create(str(self._directory / manifest.current), engine.EdgeConfig(vectors=vectors))
            for key, kind in indexed:
                shard.update(engine.UpdateOperation.create_field_index(key, kind))
            shard.flush()
        return shard

    def _refuse_other_contents(self) -> None:
        if self.exists():
            raise collection_exists(self.url)
        if not self._directory.exists():
            return
        if not self._directory.is_dir():
            raise UsageError(f"{self.url} names a file ({self._directory}); give a directory that is new or empty.")
        names = sorted(entry.name for entry in self._directory.iterdir())
        ours = LOCK_NAME in names
        foreign = [name for name in names if not (ours and _is_half_made(name))]
        if foreign:
            raise UsageError(
                f"The directory of {self.url} holds something else ({', '.join(foreign[:3])}{', ...' * (len(foreign) > 3)});"
                " give one that is new or empty."
            )

    def _remove_half_made(self) -> None:
        """Remove what a `create` that was killed left; nothing in it was ever acknowledged."""
        for entry in self._directory.iterdir():
            if _SHARD_NAME.fullmatch(entry.name):
                shutil.rmtree(entry)

    def _scroll(self, equals: Mapping[str, str | int], fields: list[str] | bool) -> Iterator[Any]:
        conditions: list[Any] = [engine.FieldCondition(key, match=engine.MatchValue(value)) for key, value in equals.items()]
        where = engine.Filter(must=conditions)
        offset = None
        while True:
            request = engine.ScrollRequest(offset=offset, limit=_RECORDS_PER_PAGE, filter=where, with_payload=fields)
            shard = self._opened()
            with self._engine():
                records, offset = shard.scroll(request)
            yield from records
            if offset is None:
                return

    @contextmanager
    def _engine(self) -> Iterator[None]:
        """Name the engine's errors: it raises bare `Exception`, told apart by their text only."""
        try:
            yield
        except Exception as error:
            if "WouldBlock" in str(error):
                raise StoreLocked(
                    f"{self.url} is held by a program that uses Qdrant Edge without Sightline. Close it, then try again."
                ) from error
            raise StoreError(f"Qdrant Edge failed on {self.url}: {error}") from error


def _is_half_made(name: str) -> bool:
    return name in (LOCK_NAME, _MANIFEST_TEMPORARY) or _SHARD_NAME.fullmatch(name) is not None


def _read_manifest(directory: Path) -> _Manifest | None:
    path = directory / MANIFEST_NAME
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} can't be read as JSON: {error}. Restore it, or index again into a new directory.") from error
    if isinstance(data, dict) and isinstance(data.get("format"), int) and data["format"] > _FORMAT:
        raise StoreError(
            f"{path} has format {data['format']}; this Sightline reads at most {_FORMAT}."
            " Upgrade with: pip install --upgrade sightline"
        )
    if not _is_manifest(data):
        raise StoreError(f"{path} is not a manifest that Sightline wrote. Restore it, or index again into a new directory.")
    return _Manifest(data["dimensions"], data["contract"], data["current"])


def _is_manifest(data: Any) -> bool:
    return (
        isinstance(data, dict)
        and data.get("format") == _FORMAT
        and isinstance(data.get("dimensions"), int)
        and isinstance(data.get("contract"), dict)
        and isinstance(data.get("current"), str)
        # A name, never a path: a manifest from elsewhere must not lead out of its directory.
        and _SHARD_NAME.fullmatch(data["current"]) is not None
    )


def _write_manifest(directory: Path, manifest: _Manifest) -> None:
    """Replace the manifest at once and for good: after a crash there is the old one or the new one, never half of one."""
    temporary = directory / _MANIFEST_TEMPORARY
    content = {"format": _FORMAT, "dimensions": manifest.dimensions, "current": manifest.current, "contract": manifest.contract}
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(content, file, ensure_ascii=True, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, directory / MANIFEST_NAME)
        if os.name == "posix":  # elsewhere a directory can't be opened
            descriptor = os.open(directory, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    except OSError as error:
        raise StoreError(f"{directory / MANIFEST_NAME} can't be written: {error}.") from error
