"""files -> documents: how the bytes of a file become text and metadata. What can't be read comes back with its reason."""

from __future__ import annotations

import codecs
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

from sightline.errors import UnreadableFile
from sightline.indexing.encodings import Undecodable
from sightline.indexing.files import FoundFile
from sightline.indexing.jsonl import JsonlFields, row_documents
from sightline.indexing.readers import Reader, Reading, apply, reader_of
from sightline.types import Document, SkippedFile

__all__ = ["MAX_FILE_BYTES", "JsonlFields", "LoadedFile", "document_of", "has_rows", "loaded", "read_documents", "row_contents"]

MAX_FILE_BYTES = 64 * 2**20
_ATTEMPTS = 3
_CHANGED = "changed while it was read; run again when nobody writes to it"
_LOOK_AGAIN = "check that it still exists and may be read, then run again"
_DEFAULT_FIELDS = JsonlFields()

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LoadedFile:
    """The bytes of a file with their SHA-256, and who makes a document of them."""

    found: FoundFile
    reader: Reader
    data: bytes
    content_hash: str

    @property
    def content(self) -> str | bytes:
        """What the reader takes."""
        return self.reader.content(self.data, self.found.source)


def read_documents(found: FoundFile, fields: JsonlFields = _DEFAULT_FIELDS) -> Iterator[Document | SkippedFile]:
    """The documents in a file, or why there are none: one, or those of its rows. All is done here and now.

    A file without text is a document without text.

    Args:
        found: From `discover`.
        fields: Which fields of a jsonl row mean what.

    Raises:
        MissingExtra: The file needs a parser that isn't installed.
    """
    if has_rows(found):
        yield from row_contents(found, fields)
        return
    file = loaded(found)
    yield file if isinstance(file, SkippedFile) else document_of(file, lambda: apply(file.reader, file.content, found.source))


def has_rows(found: FoundFile) -> bool:
    """Whether a file is not one document but one in each of its rows."""
    return reader_of(found.path.suffix) is None


def loaded(found: FoundFile) -> LoadedFile | SkippedFile:
    """All of a file as it was at one moment, or why it can't be read."""
    reader = reader_of(found.path.suffix)
    assert reader is not None, "a file of rows is read row by row"
    return _reported(found, lambda: _load(found, reader))


def document_of(file: LoadedFile, read: Callable[[], Reading]) -> Document | SkippedFile:
    """The document of a file by what its reader makes of it, or why there is none."""
    reading = _reported(file.found, read)
    if isinstance(reading, SkippedFile):
        return reading
    reader = file.reader
    return Document(
        file.found.source, reading.text, reader.format, reader.name, file.content_hash, reading.metadata, reading.anchors
    )


def row_contents(found: FoundFile, fields: JsonlFields) -> Iterator[Document | SkippedFile]:
    """The rows of a file, which is read once only: what has been given out can't be taken back when it changes."""
    try:
        yield from _rows(found, fields)
    except UnreadableFile as error:
        yield SkippedFile(found.source, str(error))
    except OSError as error:
        yield SkippedFile(found.source, _refused(error))


def _reported(found: FoundFile, work: Callable[[], T]) -> T | SkippedFile:
    """What `work` gives, or why a file is no document."""
    try:
        return work()
    except (UnreadableFile, Undecodable) as error:
        return SkippedFile(found.source, str(error))
    except OSError as error:
        return SkippedFile(found.source, _refused(error))


def _refused(error: OSError) -> str:
    return f"can't be read: {error.strerror}; {_LOOK_AGAIN}"


def _load(found: FoundFile, reader: Reader) -> LoadedFile:
    data = _read_bytes(found.path)
    return LoadedFile(found, reader, data, hashlib.sha256(data).hexdigest())


def _read_bytes(path: Path) -> bytes:
    """All of a file as it was at one moment."""
    for _ in range(_ATTEMPTS):
        with _opened(path) as file:
            before = os.fstat(file.fileno())
            data = file.read(MAX_FILE_BYTES + 1)
            if len(data) > MAX_FILE_BYTES:
                limit = f"{MAX_FILE_BYTES // 2**20} MiB"
                raise UnreadableFile(f"larger than {limit}, which is the most that a file may have; split it")
            if _is_as_before(before, file, path):
                return data
    raise UnreadableFile(_CHANGED)


def _rows(found: FoundFile, fields: JsonlFields) -> Iterator[Document | SkippedFile]:
    with _opened(found.path) as file:
        before = os.fstat(file.fileno())
        _pass_mark(file, found.source.rpartition("/")[2])
        yield from row_documents(_lines(file), found.source, fields)
        if not _is_as_before(before, file, found.path):
            raise UnreadableFile(_CHANGED)


def _lines(file: IO[bytes]) -> Iterator[bytes | None]:
    """Lines of a file; None for one that is too long to be read at once."""
    while line := file.readline(MAX_FILE_BYTES + 1):
        is_whole = len(line) <= MAX_FILE_BYTES or line.endswith(b"\n")
        yield line if is_whole else None
        while line and not line.endswith(b"\n"):
            line = file.readline(MAX_FILE_BYTES)


def _pass_mark(file: IO[bytes], name: str) -> None:
    """Go on behind the byte order mark; rows in another encoding than UTF-8 aren't lines of bytes."""
    start = file.read(len(codecs.BOM_UTF8))
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UnreadableFile(f"UTF-16; JSON lines are UTF-8. Convert it with: iconv -f UTF-16 -t UTF-8 {name!r}")
    if start != codecs.BOM_UTF8:
        file.seek(0)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """A file, open for reading; a pipe that took its place isn't waited for."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise UnreadableFile("not a regular file (a pipe, socket or device)")
        yield file


def _is_as_before(before: os.stat_result, file: IO[bytes], path: Path) -> bool:
    """Whether nobody wrote to the file since, nor put another in its place."""
    after, now = os.fstat(file.fileno()), path.stat()
    same_bytes = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    return same_bytes and os.path.samestat(after, now)
