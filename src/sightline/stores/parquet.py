"""A collection in one Parquet file: for keeping and moving, and for whatever else reads Parquet. It can't be searched.

One row is one point. Contract, mark, layout of the vectors and number of points are in the file's key-value metadata, as JSON
texts under `sightline_...`. A file is written under another name and takes its own when it is whole and on disk. Its pages have
checksums, so that a damaged one is noticed.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from sightline.errors import CollectionNotFound, MissingExtra, StoreError, StoreLocked, UsageError
from sightline.stores.checks import checked_points, make_directory
from sightline.stores.locks import FileLock
from sightline.types import FloatArray, Head, Point, Quantization, Record, VectorLayout, VectorStorage

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise MissingExtra("A file parquet:FILE", package="pyarrow", extra="parquet") from error

FORMAT = 1
_KEY = "sightline_"
_ROWS_PER_PAGE = 1000
# A row group is read whole by most programs, and many small ones make the end of the file long.
_ROW_GROUP_BYTES = 32 << 20
_READ_BYTES = 1 << 20
_HEAD_FIELDS = ("head_hash", "head_chunks", "head_settings")


class ParquetFile:
    """The file at a path, whether it is there or not."""

    def __init__(self, url: str, path: Path) -> None:
        self.url = url
        self._path = path

    def exists(self) -> bool:
        """Whether there is such a file; raise UsageError where a directory has its name."""
        if self._path.is_dir():
            raise UsageError(f"{self.url} names a directory; give the name of a file, e.g. {self.url.rstrip('/')}/kb.parquet")
        return self._path.exists()

    def layout(self) -> VectorLayout:
        """How the collection kept its vectors; the file holds the main ones as float32."""
        with self._opened() as file:
            return _layout(self._described(file)["layout"])

    def count(self) -> int:
        """How many points the file holds."""
        with self._opened() as file:
            self._described(file)
            return int(file.metadata.num_rows)

    def read_contract(self) -> Mapping[str, Any]:
        """The collection's contract as JSON data."""
        with self._opened() as file:
            return dict(self._described(file)["contract"])

    def read_mark(self) -> Mapping[str, Any]:
        """The collection's mark as JSON data."""
        with self._opened() as file:
            return dict(self._described(file)["mark"])

    def records(self) -> Iterator[Record]:
        """All points with their vectors, read page by page."""
        with self._opened() as file:
            layout = _layout(self._described(file)["layout"])
            for batch in file.iter_batches(batch_size=_ROWS_PER_PAGE):
                yield from self._records(batch, layout.dimensions)

    @contextmanager
    def writing(
        self, layout: VectorLayout, contract: Mapping[str, Any], mark: Mapping[str, Any]
    ) -> Iterator[ParquetWriter]:
        """Write the file anew. It takes its name when the block ends without an error; what a killed writer left goes first.

        Raises:
            UsageError: There can't be a file of that name.
            StoreLocked: Another process is writing it.
        """
        make_directory(self._path.parent, self.url)
        beside, lock_path = (self._path.with_name(f".{self._path.name}.{end}") for end in ("partial", "lock"))
        lock = FileLock(lock_path)
        with _named(self.url):
            if not lock.try_acquire():
                raise StoreLocked(f"{self.url} is being written by {lock.holder()}. Wait until it is done, then try again.")
        try:
            writer = ParquetWriter(self.url, beside, layout, contract, mark)
            try:
                yield writer
                writer.finished()
                with _named(self.url):
                    _put_in_place(beside, self._path)
            finally:
                writer.close()
                beside.unlink(missing_ok=True)
        finally:
            with suppress(OSError):  # on Windows a file that is open stays
                lock_path.unlink()
            lock.release()

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        if not self._path.is_file():
            raise CollectionNotFound(f"There is no file at {self.url}. Make one with: sightline copy URL {shlex.quote(self.url)}")
        # Without these two, Arrow keeps what it has read until the file is closed: in the end all of it.
        streaming = {"pre_buffer": False, "buffer_size": _READ_BYTES}
        with _named(self.url), pq.ParquetFile(self._path, page_checksum_verification=True, **streaming) as file:
            yield file

    def _described(self, file: Any) -> dict[str, Any]:
        """What the file says of itself, if it is one that Sightline wrote, whole."""
        given = {key.decode(): value.decode() for key, value in (file.metadata.metadata or {}).items()}
        version = given.get(f"{_KEY}format")
        if version is None:
            raise StoreError(
                f"{self.url} isn't a collection that Sightline wrote. Rows of your own are indexed as JSON lines: "
                "sightline index FILE.jsonl --into URL"
            )
        if version != str(FORMAT):
            raise StoreError(
                f"{self.url} has format {version}; this Sightline reads {FORMAT}. Upgrade with: pip install --upgrade sightline"
            )
        try:
            found = {name: json.loads(given[_KEY + name]) for name in ("contract", "mark", "layout", "points")}
            is_fitting = file.schema_arrow.equals(_schema(_layout(found["layout"])))
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{self.url} says of itself what Sightline can't read ({error}). Restore it.") from error
        if not is_fitting or file.metadata.num_rows != found["points"]:
            raise StoreError(
                f"{self.url} was changed by another program: it has {file.metadata.num_rows:,} rows of {found['points']:,}, "
                f"and {'its' if is_fitting else 'other'} columns. Restore it, or copy it anew."
            )
        return found

    def _records(self, batch: Any, dimensions: int) -> Iterator[Record]:
        vectors = batch.column("vector").flatten().to_numpy(zero_copy_only=False).reshape(-1, dimensions)
        rows = {name: batch.column(name).to_pylist() for name in batch.schema.names if name != "vector"}
        for number, vector in enumerate(vectors):
            row = {name: column[number] for name, column in rows.items()}
            head = None
            if row["head_hash"] is not None:
                head = Head(row["source"], *(row[name] for name in _HEAD_FIELDS))
            digest, metadata = row["embedded_digest"], json.loads(row["metadata"])
            yield Record(Point(row["id"], row["text"], row["source"], metadata, head, embedded_digest=digest), vector)


class ParquetWriter:
    """A Parquet file on its way."""

    def __init__(
        self, url: str, path: Path, layout: VectorLayout, contract: Mapping[str, Any], mark: Mapping[str, Any]
    ) -> None:
        self._url = url
        self._path = path
        self._layout = layout
        self._schema = _schema(layout)
        described = {"format": FORMAT, "contract": contract, "mark": mark, "layout": _layout_json(layout)}
        texts = {_KEY + name: json.dumps(value, allow_nan=False) for name, value in described.items()}
        with _named(url):
            path.unlink(missing_ok=True)  # what a killed writer left; a link of that name would lead elsewhere
            self._writer: Any = pq.ParquetWriter(
                path, self._schema.with_metadata(texts), compression="zstd", use_dictionary=["source", "head_settings"],
                write_page_checksum=True,
            )  # fmt: skip
        self._waiting: list[Any] = []
        self._points = 0

    def write(self, points: Sequence[Point], vectors: FloatArray) -> None:
        """Write points with their vectors `(n, dimensions)`; refuses what every store refuses."""
        plain, array = checked_points(points, vectors, self._layout.dimensions)
        self._waiting.append(_batch(plain, array, self._schema))
        self._points += len(plain)
        if sum(batch.nbytes for batch in self._waiting) >= _ROW_GROUP_BYTES:
            self._flush()

    def finished(self) -> ParquetFile:
        """End the file, on disk; gives what reads it under the name that it has for now."""
        if self._writer is not None:
            self._flush()
            self._writer.add_key_value_metadata({f"{_KEY}points": str(self._points)})
            self.close()
            with _named(self._url), self._path.open("rb+") as file:
                os.fsync(file.fileno())
        return ParquetFile(self._url, self._path)

    def close(self) -> None:
        """Let go of the file, however far it is."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with _named(self._url):
                writer.close()

    def _flush(self) -> None:
        if self._waiting:
            table = pa.Table.from_batches(self._waiting)
            self._waiting = []
            with _named(self._url):
                self._writer.write_table(table, row_group_size=table.num_rows)


@contextmanager
def _named(url: str) -> Iterator[None]:
    """Name the errors of files and of Arrow."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise StoreError(f"{url} can't be read or written: {error}.") from error
        # Arrow's own, a checksum among them, have no number.
        raise StoreError(f"{url} isn't a whole Parquet file: {str(error).rstrip('.')}. Restore it, or copy it anew.") from error


def _put_in_place(beside: Path, path: Path) -> None:
    os.replace(beside, path)
    if os.name == "posix":  # elsewhere a directory can't be opened
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _schema(layout: VectorLayout) -> Any:
    """The columns; what a point needn't have may be null."""
    texts = [pa.field(name, pa.string(), nullable=False) for name in ("id", "text", "source", "metadata")]
    head = [pa.field(name, pa.int64() if name == "head_chunks" else pa.string()) for name in _HEAD_FIELDS]
    numbers = pa.list_(pa.field("element", pa.float32(), nullable=False), layout.dimensions)
    return pa.schema([*texts, *head, pa.field("embedded_digest", pa.string()), pa.field("vector", numbers, nullable=False)])


def _batch(points: Sequence[Point], vectors: FloatArray, schema: Any) -> Any:
    heads = [point.head for point in points]
    columns: list[Any] = [
        [point.id for point in points],
        [point.text for point in points],
        [point.source for point in points],
        [json.dumps(point.metadata, ensure_ascii=False, allow_nan=False) for point in points],
        [None if head is None else head.document_hash for head in heads],
        [None if head is None else head.num_chunks for head in heads],
        [None if head is None else head.settings for head in heads],
        [point.embedded_digest for point in points],
    ]
    arrays = [pa.array(column, type=field.type) for column, field in zip(columns, schema, strict=False)]
    numbers = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    return pa.record_batch([*arrays, pa.FixedSizeListArray.from_arrays(numbers, type=schema.field("vector").type)], schema=schema)


def _layout_json(layout: VectorLayout) -> dict[str, Any]:
    return {
        "dimensions": layout.dimensions,
        "shorter": list(layout.shorter),
        "quantization": layout.quantization,
        "storage": layout.storage,
    }


def _layout(data: Mapping[str, Any]) -> VectorLayout:
    quantization = None if data["quantization"] is None else Quantization(data["quantization"])
    return VectorLayout(int(data["dimensions"]), tuple(map(int, data["shorter"])), quantization, VectorStorage(data["storage"]))
