"""Chroma in this process: several collections in one directory, cosine space.

The contract and the vectors' length lie in the collection's metadata as a JSON string and an integer (a list there brings
Chroma's core down). Chroma has no lock of its own, and two writers lose vectors silently: the first write takes ours.
Every query may read; a collection that Sightline didn't make is not read or written, because its scores may not be cosines.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sightline.errors import CollectionNotFound, MissingExtra, StoreError, UsageError
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
from sightline.stores.locks import DirectoryLock
from sightline.stores.payload import HEAD_KEY, POINT_KEY, SOURCE_KEY, head_from, hit_from_flat, to_flat
from sightline.types import FloatArray, Head, Hit, Point

try:
    import chromadb
    from chromadb.config import Settings
    from chromadb.errors import ChromaError, NotFoundError
except ImportError as error:
    raise MissingExtra("A store chroma:DIR/COLLECTION", package="chromadb", extra="chroma") from error

CONTRACT_KEY = "sightline_contract"
DIMENSIONS_KEY = "sightline_dimensions"
_DATABASE_NAME = "chroma.sqlite3"
# Beyond about 32,000 results or ids SQLite refuses ("too many SQL variables").
_RECORDS_PER_PAGE = 5000


class ChromaStore:
    """One collection of the Chroma database in `directory`."""

    def __init__(self, url: str, directory: Path, name: str) -> None:
        self.url = url
        self.capabilities = StoreCapabilities(persistent=True, several_dimensions=False, quantization=False)
        self._directory = directory
        self._name = name
        self._lock = DirectoryLock(directory)
        self._guard = threading.RLock()
        self._client: Any = None
        self._collection: Any = None
        self._closed = False

    def exists(self) -> bool:
        """Whether the database has a collection of this name, whoever made it."""
        return self._find() is not None

    def read_contract(self) -> Mapping[str, Any] | None:
        """The contract as JSON data; None when there is no collection, or one that Sightline didn't make."""
        collection = self._find()
        text = None if collection is None else (collection.metadata or {}).get(CONTRACT_KEY)
        return None if text is None else dict(json.loads(text))

    def create(self, dimensions: int, contract: Mapping[str, Any]) -> None:
        """Make the collection; the database too, where there is none.

        Raises:
            UsageError: the directory can't be made.
            StoreError: there is a collection of this name already.
            StoreLocked: another process writes to this directory.
        """
        metadata = {CONTRACT_KEY: contract_json(contract), DIMENSIONS_KEY: checked_dimensions(dimensions)}
        with self._guard:
            self._refuse_existing()
            self._make_directory()
            self._lock.acquire(self.url)
            client = self._connected()
            self._refuse_existing()  # again: now nobody else can be making it
            with self._database():
                self._collection = client.create_collection(
                    self._name, metadata=metadata, configuration={"hnsw": {"space": "cosine"}}, embedding_function=None
                )

    def upsert(self, points: Sequence[Point], vectors: FloatArray) -> None:
        """Write points; an existing one is replaced whole."""
        collection = self._writable()
        plain, array = checked_points(points, vectors, self._dimensions())
        with self._database():
            size = int(self._client.get_max_batch_size())
            for start in range(0, len(plain), size):
                batch = plain[start : start + size]
                ids = [point.id for point in batch]
                collection.upsert(
                    ids=ids,
                    embeddings=array[start : start + size],
                    documents=[point.text for point in batch],
                    metadatas=self._replacing(collection, ids, [to_flat(point) for point in batch]),
                )

    def delete(self, ids: Sequence[str]) -> None:
        """Remove points; ids that aren't there are fine."""
        collection = self._writable()
        known = checked_ids(ids)
        with self._database():
            size = int(self._client.get_max_batch_size())
            for start in range(0, len(known), size):
                collection.delete(ids=known[start : start + size])

    def heads(self) -> Iterator[Head]:
        """The heads of all documents, all read at once: pages would shift under a caller who writes in between."""
        pages = self._pages({HEAD_KEY: 1}, include=["metadatas"])
        return iter([head_from(metadata) for page in pages for metadata in page["metadatas"]])

    def chunk_ids(self, source: str) -> list[str]:
        """Ids of all points of ours of a document, its head included."""
        pages = self._pages({"$and": [{SOURCE_KEY: source}, {POINT_KEY: 1}]}, include=[])
        return [one for page in pages for one in page["ids"]]

    def vectors(self, ids: Sequence[str]) -> dict[str, FloatArray]:
        """Stored vectors of those ids that exist, float32 `(dimensions,)` each."""
        collection = self._readable()
        known = checked_ids(ids)
        found: dict[str, FloatArray] = {}
        with self._database():
            for start in range(0, len(known), _RECORDS_PER_PAGE):
                page = collection.get(ids=known[start : start + _RECORDS_PER_PAGE], include=["embeddings"])
                # They come in the order of insertion, not as asked, and as float64.
                found.update(zip(page["ids"], np.asarray(page["embeddings"], dtype=np.float32), strict=True))
        return found

    def search(self, vector: FloatArray, *, limit: int) -> list[Hit]:
        """The nearest points by cosine similarity, best first."""
        collection = self._readable()
        query = checked_query(vector, self._dimensions())
        limit = min(checked_limit(limit), self.count())
        if limit == 0:
            return []
        include = ["documents", "metadatas", "distances"]
        with self._database():
            found = collection.query(query_embeddings=query[None, :], n_results=limit, include=include)
        rows = zip(found["ids"][0], found["distances"][0], found["documents"][0], found["metadatas"][0], strict=True)
        return [hit_from_flat(one, 1.0 - distance, document, flat) for one, distance, document, flat in rows]

    def count(self) -> int:
        """How many points the collection holds."""
        collection = self._readable()
        with self._database():
            return int(collection.count())

    def close(self) -> None:
        """Let the database go, and the next writer in. Closing twice is fine."""
        with self._guard:
            self._closed = True
            client, self._client, self._collection = self._client, None, None
            try:
                if client is not None:
                    with self._database():
                        client.close()
            finally:
                self._lock.release()

    def _check_open(self) -> None:
        if self._closed:
            raise store_closed(self.url)

    def _connected(self) -> Any:
        with self._guard:
            if self._client is None:
                with self._database():
                    self._client = _connect(self.url, self._directory)
            return self._client

    def _find(self) -> Any:
        """The collection or None; a directory without a database stays as it is."""
        self._check_open()
        with self._guard:
            if self._collection is None and (self._directory / _DATABASE_NAME).is_file():
                client = self._connected()
                try:
                    with self._database():
                        self._collection = client.get_collection(self._name, embedding_function=None)
                except CollectionNotFound:
                    return None
            return self._collection

    def _refuse_existing(self) -> None:
        if self._find() is not None:
            raise collection_exists(self.url)

    def _readable(self) -> Any:
        collection = self._find()
        if collection is None:
            raise collection_not_found(self.url)
        if CONTRACT_KEY not in (collection.metadata or {}):
            raise StoreError(f"The collection {self.url} was not made by Sightline. Index into another name in that directory.")
        return collection

    def _writable(self) -> Any:
        collection = self._readable()
        self._lock.acquire(self.url)
        return collection

    def _dimensions(self) -> int:
        return int(self._collection.metadata[DIMENSIONS_KEY])

    def _make_directory(self) -> None:
        if (self._directory / "sightline.json").exists():
            raise UsageError(f"The directory of {self.url} holds a Qdrant Edge collection; give another directory.")
        make_directory(self._directory, self.url)

    def _replacing(self, collection: Any, ids: list[str], metadatas: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The metadata with None for every key that an existing record has beyond it: Chroma merges, and None removes."""
        existing = collection.get(ids=ids, include=["metadatas"])
        old = {one: keys or {} for one, keys in zip(existing["ids"], existing["metadatas"], strict=True)}
        return [{**dict.fromkeys(old.get(one, {})), **metadata} for one, metadata in zip(ids, metadatas, strict=True)]

    def _pages(self, where: dict[str, Any], include: list[str]) -> Iterator[Any]:
        collection = self._readable()
        offset = 0
        while True:
            with self._database():
                page = collection.get(where=where, limit=_RECORDS_PER_PAGE, offset=offset, include=include)
            yield page
            if len(page["ids"]) < _RECORDS_PER_PAGE:
                return
            offset += _RECORDS_PER_PAGE

    @contextmanager
    def _database(self) -> Iterator[None]:
        """Name Chroma's errors."""
        try:
            yield
        except NotFoundError as error:
            raise collection_not_found(self.url) from error
        except ChromaError as error:
            raise StoreError(f"Chroma failed on {self.url}: {error}") from error


def _connect(url: str, directory: Path) -> Any:
    try:
        return chromadb.PersistentClient(str(directory), settings=Settings(anonymized_telemetry=False))
    except ValueError:
        # This process has the database open with other settings, e.g. in a framework's client. Chroma allows one set at a
        # time, so theirs holds.
        try:
            return chromadb.PersistentClient(str(directory))
        except ValueError as error:
            raise StoreError(f"Chroma can't open {url}: {error}. Close the other Chroma client of this process first.") from error
