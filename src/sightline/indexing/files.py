"""paths -> files -> documents: what is found, what each file is called, and how its bytes become text.

A source is `root-name/relative/posix/path`; the root's name is the folder's own, and a file named by itself is called as if its
folder had been named. Left out by convention: names that begin with a dot, and files of another suffix than `READABLE_SUFFIXES`
inside a folder. Links are followed; a folder that several links lead to is read once. Everything else that can't be read comes
back as a `SkippedFile` with its reason.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sightline.errors import MissingExtra, UsageError
from sightline.types import Document, SkippedFile

MAX_FILE_BYTES = 64 * 2**20
_LOOK_AGAIN = "check that it still exists and may be read, then run again"
# UTF-32 first: its little-endian mark begins with that of UTF-16.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_XML_DECLARATION = re.compile(r"\s*<\?xml[^>]*>")
_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n){2,}")


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file that is to be read, and the source that it is called by."""

    path: Path
    source: str


@dataclass(frozen=True, slots=True)
class Reader:
    """How the files of one kind become text; another number in `name` makes collections read them anew."""

    name: str
    format: str
    read: Callable[[str], tuple[str, dict[str, Any]]]


def discover(paths: Sequence[str | Path]) -> list[FoundFile | SkippedFile]:
    """Files below the given folders, and the given files themselves, in the order of their sources.

    Raises:
        UsageError: A path doesn't exist, holds no readable file, or two files would be called by the same source.
    """
    if not paths:
        raise UsageError("No path was given; name at least one folder or file.")
    found: dict[str, FoundFile | SkippedFile] = {}
    for path in paths:
        below = list(_below(Path(os.path.abspath(path)), path))
        if not below:
            raise UsageError(f"{str(path)!r} holds no file that can be read. Read are: {' '.join(READABLE_SUFFIXES)}.")
        for one in below:
            _refuse_namesake(found.get(one.source), one)
            found[one.source] = one
    return [found[source] for source in sorted(found)]


def read_document(found: FoundFile) -> Document | SkippedFile:
    """The document in a file, or why there is none.

    Raises:
        MissingExtra: The file needs a parser that isn't installed.
    """
    reader = _READERS[found.path.suffix.lower()]
    try:
        data = _read_bytes(found.path)
        text, metadata = reader.read(_decode(data, found.path.name))
    except _Unreadable as error:
        return SkippedFile(found.source, str(error))
    except OSError as error:
        return SkippedFile(found.source, f"can't be read: {error.strerror}; {_LOOK_AGAIN}")
    except RecursionError:
        return SkippedFile(found.source, "nested too deeply to be parsed")
    if not text.strip():
        return SkippedFile(found.source, "empty")
    return Document(found.source, text, reader.format, reader.name, hashlib.sha256(data).hexdigest(), metadata)


class _Unreadable(Exception):
    """Why a file is no document."""


def _below(root: Path, given: str | Path) -> Iterator[FoundFile | SkippedFile]:
    """What lies at a path that the caller named."""
    try:
        mode = root.stat().st_mode
    except FileNotFoundError as error:
        raise UsageError(f"{str(given)!r} doesn't exist. Check the spelling, or whether it is mounted.") from error
    except OSError as error:
        raise UsageError(f"{str(given)!r} can't be read: {error.strerror}. Name a folder or file that may be read.") from error
    if stat.S_ISDIR(mode):
        yield from _walk(root)
    elif _is_readable_kind(root.name):
        yield _candidate(root, f"{_readable(root.parent.name)}/{_readable(root.name)}")
    else:
        reason = f"no reader for {root.suffix or root.name!r}; read are: {' '.join(READABLE_SUFFIXES)}"
        yield SkippedFile(f"{_readable(root.parent.name)}/{_readable(root.name)}", reason)


@dataclass(slots=True)
class _Walk:
    """Folders still to be looked at. Links come last, so that a folder is read under its own name rather than a link's."""

    folders: list[tuple[Path, str]]
    links: list[tuple[Path, str]] = field(default_factory=list)
    seen: set[tuple[int, int]] = field(default_factory=set)

    def next(self) -> tuple[Path, str]:
        """The next folder and its source."""
        return self.folders.pop() if self.folders else self.links.pop(0)


def _walk(root: Path) -> Iterator[FoundFile | SkippedFile]:
    walk = _Walk([(root, _readable(root.name))])
    while walk.folders or walk.links:
        folder, source = walk.next()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in walk.seen:
                continue
            walk.seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                yield from _list(sorted(entries, key=lambda entry: entry.name), source, walk)
        except OSError as error:
            yield SkippedFile(source, f"the folder can't be read: {error.strerror}; {_LOOK_AGAIN}")


def _list(entries: list[os.DirEntry[str]], above: str, walk: _Walk) -> Iterator[FoundFile | SkippedFile]:
    for entry in entries:
        source = f"{above}/{_readable(entry.name)}"
        if entry.name.startswith("."):
            continue
        if _is_folder(entry):
            (walk.links if entry.is_symlink() else walk.folders).append((Path(entry.path), source))
        elif _is_readable_kind(entry.name):
            yield _candidate(Path(entry.path), source)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle is no folder; reading it says why it can't be read
        return False


def _is_readable_kind(name: str) -> bool:
    return Path(name).suffix.lower() in _READERS


def _candidate(path: Path, source: str) -> FoundFile | SkippedFile:
    """The file, unless opening it could block or do harm."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return SkippedFile(source, f"can't be read: {error.strerror}; {_LOOK_AGAIN}")
    return FoundFile(path, source) if stat.S_ISREG(mode) else SkippedFile(source, "not a regular file (a pipe, socket or device)")


def _readable(name: str) -> str:
    """A file name with the bytes that aren't UTF-8 written out."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _refuse_namesake(known: FoundFile | SkippedFile | None, one: FoundFile | SkippedFile) -> None:
    if not isinstance(known, FoundFile) or not isinstance(one, FoundFile):
        return
    if os.path.realpath(known.path) == os.path.realpath(one.path):
        return
    raise UsageError(
        f"Both {str(known.path)!r} and {str(one.path)!r} would be called {one.source!r}. "
        "Rename one of the two folders, or name a folder that holds both."
    )


def _read_bytes(path: Path) -> bytes:
    if not stat.S_ISREG(path.stat().st_mode):
        raise _Unreadable("not a regular file (a pipe, socket or device)")
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise _Unreadable(f"larger than {MAX_FILE_BYTES // 2**20} MiB, which is the most that a file may have; split it")
    return data


def _decode(data: bytes, name: str) -> str:
    """Text of UTF-8 bytes, or of those whose byte order mark says what they are; every line ends in a newline."""
    mark, encoding = next((known for known in _BYTE_ORDER_MARKS if data.startswith(known[0])), (b"", "utf-8"))
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        if b"\0" in data and not mark:
            raise _Unreadable(_binary(data.index(b"\0"))) from error
        where = f"not {encoding[:6].rstrip('-').upper()} at byte {len(mark) + error.start}"
        raise _Unreadable(f"{where}; convert it with: iconv -f ISO-8859-1 -t UTF-8 {_readable(name)!r}") from error
    if "\0" in text:
        raise _Unreadable(_binary(len(mark) + len(text[: text.index("\0")].encode(encoding))))
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _binary(position: int) -> str:
    return f"binary: a zero byte at {position}; only text can be read"


def _as_it_is(text: str) -> tuple[str, dict[str, Any]]:
    return text, {}


def _html(text: str) -> tuple[str, dict[str, Any]]:
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
    for unseen in soup(["head", "script", "style", "nav", "noscript", "template"]):
        unseen.decompose()
    converter = MarkdownConverter(heading_style="ATX", escape_asterisks=False, escape_underscores=False)
    markdown = _BLANK_LINES.sub("\n\n", converter.convert_soup(soup)).strip()
    return markdown, {"title": title} if title else {}


_MARKDOWN = Reader("markdown/1", "markdown", _as_it_is)
_TEXT = Reader("text/1", "text", _as_it_is)
_RST = Reader("rst/1", "rst", _as_it_is)
_HTML = Reader("html/1", "markdown", _html)
_READERS = {".md": _MARKDOWN, ".markdown": _MARKDOWN, ".txt": _TEXT, ".rst": _RST, ".html": _HTML, ".htm": _HTML}
READABLE_SUFFIXES = tuple(_READERS)
