"""files -> documents: how the bytes of a file become text and metadata. What can't be read comes back with its reason."""

from __future__ import annotations

import codecs
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sightline.errors import MissingExtra
from sightline.indexing.encodings import Undecodable, decode
from sightline.indexing.files import FoundFile
from sightline.indexing.front_matter import without_front_matter
from sightline.indexing.jsonl import JsonlFields, row_documents
from sightline.types import Document, SkippedFile

__all__ = ["MAX_FILE_BYTES", "JsonlFields", "Reader", "read_documents"]

MAX_FILE_BYTES = 64 * 2**20
_ATTEMPTS = 3
_CHANGED = "changed while it was read; run again when nobody writes to it"
_LOOK_AGAIN = "check that it still exists and may be read, then run again"
_XML_DECLARATION = re.compile(r"\s*<\?xml[^>]*>")
_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n){2,}")
_DEFAULT_FIELDS = JsonlFields()


@dataclass(frozen=True, slots=True)
class Reader:
    """How the files of one kind become text; another number in `name` makes collections read them anew.

    Args:
        name: Name and version.
        format: How the chunker reads the text.
        read: (text, source) -> text, metadata.
        declares: The text may name its own encoding.
    """

    name: str
    format: str
    read: Callable[[str, str], tuple[str, dict[str, Any]]]
    declares: bool = False


def read_documents(found: FoundFile, fields: JsonlFields = _DEFAULT_FIELDS) -> Iterator[Document | SkippedFile]:
    """The documents in a file, or why there are none: one, or those of its rows.

    A file without text is a document without text.

    Args:
        found: From `discover`.
        fields: Which fields of a jsonl row mean what.

    Raises:
        MissingExtra: The file needs a parser that isn't installed.
    """
    try:
        reader = _READERS.get(found.path.suffix.lower())
        if reader is None:
            yield from _rows(found, fields)
        else:
            yield _document(found, reader)
    except (_Unreadable, Undecodable) as error:
        yield SkippedFile(found.source, str(error))
    except OSError as error:
        yield SkippedFile(found.source, f"can't be read: {error.strerror}; {_LOOK_AGAIN}")
    except RecursionError:
        yield SkippedFile(found.source, "nested too deeply to be parsed")


def has_rows(found: FoundFile) -> bool:
    """Whether a file is not one document but one in each of its rows."""
    return found.path.suffix.lower() not in _READERS


class _Unreadable(Exception):
    """Why a file is no document."""


def _document(found: FoundFile, reader: Reader) -> Document:
    data = _read_bytes(found.path)
    text = decode(data, found.source.rpartition("/")[2], declares=reader.declares)
    text, metadata = reader.read(text, found.source)
    return Document(found.source, text, reader.format, reader.name, hashlib.sha256(data).hexdigest(), metadata)


def _read_bytes(path: Path) -> bytes:
    """All of a file as it was at one moment."""
    for _ in range(_ATTEMPTS):
        with _opened(path) as file:
            before = os.fstat(file.fileno())
            data = file.read(MAX_FILE_BYTES + 1)
            if len(data) > MAX_FILE_BYTES:
                raise _Unreadable(f"larger than {MAX_FILE_BYTES // 2**20} MiB, which is the most that a file may have; split it")
            if _is_as_before(before, file, path):
                return data
    raise _Unreadable(_CHANGED)


def _rows(found: FoundFile, fields: JsonlFields) -> Iterator[Document | SkippedFile]:
    """The rows of a file, which is read once only: what has been given out can't be taken back when it changes."""
    with _opened(found.path) as file:
        before = os.fstat(file.fileno())
        _pass_mark(file, found.source.rpartition("/")[2])
        yield from row_documents(_lines(file), found.source, fields)
        if not _is_as_before(before, file, found.path):
            raise _Unreadable(_CHANGED)


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
        raise _Unreadable(f"UTF-16; JSON lines are UTF-8. Convert it with: iconv -f UTF-16 -t UTF-8 {name!r}")
    if start != codecs.BOM_UTF8:
        file.seek(0)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """A file, open for reading; a pipe that took its place isn't waited for."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise _Unreadable("not a regular file (a pipe, socket or device)")
        yield file


def _is_as_before(before: os.stat_result, file: IO[bytes], path: Path) -> bool:
    """Whether nobody wrote to the file since, nor put another in its place."""
    after, now = os.fstat(file.fileno()), path.stat()
    same_bytes = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    return same_bytes and os.path.samestat(after, now)


def _as_it_is(text: str, source: str) -> tuple[str, dict[str, Any]]:
    return text, {}


def _html(text: str, source: str) -> tuple[str, dict[str, Any]]:
    """Markdown of what a reader of the page sees, and the page's title."""
    try:
        from bs4 import BeautifulSoup
        from bs4.exceptions import ParserRejectedMarkup
    except ImportError as error:
        raise MissingExtra("Reading HTML files", package="beautifulsoup4", extra="files") from error
    try:
        from markdownify import MarkdownConverter
    except ImportError as error:
        raise MissingExtra("Reading HTML files", package="markdownify", extra="files") from error
    if "<" not in text:
        return text, {}
    try:
        # XHTML is read as HTML like everything else; its declaration would only make the parser warn of that.
        soup = BeautifulSoup(_XML_DECLARATION.sub("", text, count=1), "html.parser")
    except ParserRejectedMarkup as error:
        raise _Unreadable(f"not HTML that can be parsed: {error}") from error
    title = " ".join(soup.title.get_text().split()) if soup.title else ""
    for unseen in soup(["head", "title", "script", "style", "nav", "noscript", "template"]):
        unseen.decompose()
    converter = MarkdownConverter(heading_style="ATX", escape_asterisks=False, escape_underscores=False)
    try:
        markdown = _BLANK_LINES.sub("\n\n", converter.convert_soup(soup)).strip()
    except ValueError as error:  # an attribute that should be a number and isn't
        raise _Unreadable(f"not HTML that can be converted: {error}") from error
    return markdown, {"title": title} if title else {}


_MARKDOWN = Reader("markdown/2", "markdown", without_front_matter)
_TEXT = Reader("text/1", "text", _as_it_is)
_RST = Reader("rst/1", "rst", _as_it_is)
_HTML = Reader("html/3", "markdown", _html, declares=True)
# Every readable suffix but those of rows.
_READERS = {".md": _MARKDOWN, ".markdown": _MARKDOWN, ".txt": _TEXT, ".rst": _RST, ".html": _HTML, ".htm": _HTML}
