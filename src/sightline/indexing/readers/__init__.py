"""Which files can be read, and by what: one table of readers, to which a program may add its own.

A reader's module is imported when its first file is read, so that nobody needs the packages of a format that he doesn't have.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from sightline.errors import MissingExtra, UnreadableFile, UsageError
from sightline.indexing.encodings import decode
from sightline.indexing.readers.anchors import PackedAnchors

MAX_TEXT = 64 * 2**20
ROW_SUFFIXES = (".jsonl", ".ndjson")
FORMATS = ("markdown", "rst", "text", "python", "code")
_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_SUFFIX = re.compile(r"\.[^\s./\\]+")
_HALF = re.compile("[\ud800-\udfff]")  # JSON may hold one; no tokenizer and no store can
_HERE = "sightline.indexing.readers"


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader makes of a file.

    Args:
        text: What is cut into chunks.
        metadata: What the file says of itself, e.g. its title.
        anchors: `(start, place)` in order: from this character on, the text is from this place, e.g. `{"page": 3}`. Each chunk
            has the place at its start in its metadata; numbers also as they are at its end, e.g. `{"page": 3, "page_end": 4}`.
    """

    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    anchors: Sequence[tuple[int, Mapping[str, Any]]] = ()


Read = Callable[[Any, str], "Reading | str"]


@dataclass(frozen=True, slots=True)
class Reader:
    """How the files of one kind become text; another version in `name` makes collections read them anew.

    Args:
        name: Name and version.
        format: How the chunker reads the text.
        read: (content, source) -> reading; the function itself, or "module:function" to import it from when it is needed.
        binary: `read` takes the bytes of a file, not its text.
        declares: The text may name its own encoding.
        isolated: `read` runs in a process of its own, under limits of time and memory.
        needs: Modules that it imports, and the packages that have them.
    """

    name: str
    format: str
    read: str | Read
    binary: bool = False
    declares: bool = False
    isolated: bool = False
    needs: Mapping[str, str] = field(default_factory=dict)

    def content(self, data: bytes, source: str) -> str | bytes:
        """What `read` takes of a file's bytes.

        Raises:
            Undecodable: It takes text, and they are none.
        """
        return data if self.binary else decode(data, source.rpartition("/")[2], declares=self.declares)

    def function(self) -> Read:
        """The function that reads.

        Raises:
            MissingExtra: It needs a package that isn't installed.
        """
        if not isinstance(self.read, str):
            return self.read
        self.check_needs()
        module, _, name = self.read.partition(":")
        found: Read = getattr(import_module(module), name)
        return found

    def check_needs(self) -> None:
        """Raise MissingExtra where a package that it needs isn't installed."""
        missing = next(iter(self.missing()), None)
        if missing is not None:
            raise MissingExtra(f"Reading {self.name.partition('/')[0]} files", package=missing, extra="files")

    def missing(self) -> list[str]:
        """Packages that it needs and that aren't installed."""
        return [package for module, package in self.needs.items() if not _is_installed(module)]


def apply(reader: Reader, content: str | bytes, source: str) -> Reading:
    """What a reader makes of a file's content; no failure of one is the run's.

    Raises:
        UnreadableFile: It makes no text of it, or failed.
        MissingExtra: It needs a package that isn't installed.
        MemoryError: It needs more memory than there is.
    """
    read = reader.function()
    try:
        found = read(content, source)
    except (UnreadableFile, MissingExtra, MemoryError):
        raise
    except RecursionError as error:
        raise UnreadableFile("nested too deeply to be parsed") from error
    except Exception as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise UnreadableFile(f"its reader {reader.name} failed ({what}); open it and save it anew") from error
    return _checked(found, reader.name)


def _checked(found: Any, name: str) -> Reading:
    """A reading that can be kept, of whatever a function gave."""
    reading = Reading(found) if isinstance(found, str) else found
    if not isinstance(reading, Reading) or not isinstance(reading.text, str):
        raise UnreadableFile(f"its reader {name} gave a {type(found).__name__}; it has to give a str or a sightline.Reading")
    if len(reading.text) > MAX_TEXT:
        raise UnreadableFile(f"{len(reading.text):,} characters of text; at most {MAX_TEXT:,} are read. Split it")
    half = _HALF.search(reading.text)
    if half is not None:
        where = f"at character {half.start():,} of its text"
        raise UnreadableFile(f"half a character, {half[0]!r}, {where}; open it and save it anew")
    if not _are_anchors(reading.anchors):
        raise UnreadableFile(f"its reader {name} gave anchors that aren't pairs of a character's number and a mapping")
    anchors = reading.anchors if isinstance(reading.anchors, PackedAnchors) else PackedAnchors(reading.anchors)
    if not anchors.is_in_order:
        raise UnreadableFile(f"its reader {name} gave anchors that aren't in order")
    return replace(reading, anchors=anchors)


def _are_anchors(anchors: Any) -> bool:
    """Whether they are what `Reading` says, whoever's reader gave them."""
    if isinstance(anchors, PackedAnchors):
        return True
    return isinstance(anchors, Sequence) and all(
        isinstance(one, Sequence) and len(one) == 2 and _is_start(one[0]) and isinstance(one[1], Mapping) for one in anchors
    )


def _is_start(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_TEXT


@dataclass(frozen=True, slots=True)
class Format:
    """What `sightline formats` says of a suffix; `missing` are packages that would have to be installed."""

    suffix: str
    reader: str
    missing: tuple[str, ...] = ()


_HTML_NEEDS = {"bs4": "beautifulsoup4", "markdownify": "markdownify"}
_MARKDOWN = Reader("markdown/2", "markdown", f"{_HERE}.markdown:read")
_TEXT = Reader("text/1", "text", f"{_HERE}.text:read")
_RST = Reader("rst/1", "rst", f"{_HERE}.text:read")
_HTML = Reader("html/3", "markdown", f"{_HERE}.html:read", isolated=True, declares=True, needs=_HTML_NEEDS)
_CSV = Reader("csv/4", "markdown", f"{_HERE}.csv:read", isolated=True)
_TSV = Reader("tsv/4", "markdown", f"{_HERE}.csv:read_tabs", isolated=True)
_IPYNB = Reader("ipynb/2", "markdown", f"{_HERE}.ipynb:read", isolated=True)
_PYTHON = Reader("python/1", "python", f"{_HERE}.code:read")
_CODE = Reader("code/1", "code", f"{_HERE}.code:read")
_PDF = Reader("pdf/1", "text", f"{_HERE}.pdf:read", binary=True, isolated=True, needs={"pypdfium2": "pypdfium2"})
_DOCX = Reader("docx/2", "markdown", f"{_HERE}.docx:read", binary=True, isolated=True, needs={"docx": "python-docx"})
_PPTX = Reader("pptx/2", "markdown", f"{_HERE}.pptx:read", binary=True, isolated=True, needs={"pptx": "python-pptx"})
_XLSX = Reader(
    "xlsx/2", "markdown", f"{_HERE}.xlsx:read",
    binary=True, isolated=True, needs={"openpyxl": "openpyxl", "defusedxml": "defusedxml"},
)  # fmt: skip
_EPUB = Reader(
    "epub/1", "markdown", f"{_HERE}.epub:read", binary=True, isolated=True, needs={**_HTML_NEEDS, "defusedxml": "defusedxml"}
)
_CODE_SUFFIXES = (
    ".c .h .cc .cpp .cxx .hh .hpp .hxx .m .mm .cs .java .kt .kts .scala .groovy .swift .go .rs .zig .dart .js .mjs .cjs .jsx .ts "
    ".mts .cts .tsx .vue .svelte .css .scss .php .rb .pl .pm .lua .r .jl .ex .exs .erl .hs .ml .mli .fs .clj .sql .sh .bash .zsh "
    ".ps1 .proto .graphql .tf"
)
# Every readable suffix but those of rows. Data that programs write for programs (json, yaml, xml) is left out on purpose.
_READERS: dict[str, Reader] = {
    ".md": _MARKDOWN,
    ".markdown": _MARKDOWN,
    ".txt": _TEXT,
    ".rst": _RST,
    ".html": _HTML,
    ".htm": _HTML,
    ".pdf": _PDF,
    ".docx": _DOCX,
    ".pptx": _PPTX,
    ".xlsx": _XLSX,
    ".epub": _EPUB,
    ".ipynb": _IPYNB,
    ".csv": _CSV,
    ".tsv": _TSV,
    ".py": _PYTHON,
    ".pyi": _PYTHON,
    **dict.fromkeys(_CODE_SUFFIXES.split(), _CODE),
}
_OURS = frozenset(reader.name for reader in _READERS.values())


def reader_of(suffix: str) -> Reader | None:
    """The reader of files with this suffix, in either case."""
    return _READERS.get(suffix.lower())


def is_readable(suffix: str) -> bool:
    """Whether files with this suffix are read, as one document or by their rows."""
    return suffix.lower() in _READERS or suffix.lower() in ROW_SUFFIXES


def named_suffixes() -> str:
    """What is read, for messages."""
    code = (_PYTHON, _CODE)
    first = [suffix for suffix in (".md", ".markdown", ".txt", ".rst", ".html", ".htm") if suffix in _READERS]
    others = [suffix for suffix, reader in _READERS.items() if reader not in code and suffix not in first]
    return f"{' '.join((*first, *ROW_SUFFIXES, *others))}, and source code (sightline formats lists all)"


def formats() -> list[Format]:
    """Every suffix that is read, in the table's order, and by which reader."""
    return list(_formats())


def _formats() -> Iterator[Format]:
    yield from (Format(suffix, "jsonl/1") for suffix in ROW_SUFFIXES)
    yield from (Format(suffix, reader.name, tuple(reader.missing())) for suffix, reader in _READERS.items())


def register_reader(
    suffixes: Sequence[str],
    read: Callable[[bytes, str], Reading | str] | str,
    *,
    name: str | None = None,
    format: str = "markdown",
    isolated: bool = False,
) -> None:
    """Read files with these suffixes by a function of your own, or by a reader that is there.

    Args:
        suffixes: E.g. [".eml"]; those that have a reader get this one instead.
        read: (bytes of the file, its source) -> `Reading` or text. It raises `UnreadableFile` with a reason where there is none;
            whatever else it raises is told as such, and the file is skipped. Or the name of a reader, e.g. "text" or "code".
        name: Name and version of the function, e.g. "mail/1"; with another version, files are read again.
        format: How the text is cut: "markdown", "rst", "text", "python" or "code".
        isolated: Run it in a process of its own, where it may hang or crash; it has to be a function that can be imported.

    Raises:
        UsageError: An argument that can't be used.
    """
    if isinstance(suffixes, str):
        raise UsageError(f"suffixes is a list of suffixes; got {suffixes!r}. Write [{suffixes!r}].")
    wrong = next((suffix for suffix in suffixes if not _SUFFIX.fullmatch(suffix) or suffix.lower() in ROW_SUFFIXES), None)
    if wrong is not None:
        raise UsageError(f"{wrong!r} can't be registered: a suffix is one dot and some letters, and rows of JSON have a reader.")
    reader = _named(read) if isinstance(read, str) else _own(read, name, format, isolated)
    _READERS.update((suffix.lower(), reader) for suffix in suffixes)


def _named(wanted: str) -> Reader:
    known = {reader.name.partition("/")[0]: reader for reader in _READERS.values()}
    if wanted.partition("/")[0] not in known:
        raise UsageError(f"No reader is called {wanted!r}; there are {', '.join(known)}. Give one of them, or a function.")
    return known[wanted.partition("/")[0]]


def _own(read: Read, name: str | None, format: str, isolated: bool) -> Reader:
    if not callable(read):
        raise UsageError(f"read is a function or the name of a reader; got {read!r}.")
    if name is None or not _NAME.fullmatch(name):
        raise UsageError(f"A reader has a name and a version, e.g. name='mail/1'; got {name!r}.")
    if name in _OURS:
        raise UsageError(f"{name!r} is Sightline's own reader; give yours another name, so that collections can tell them apart.")
    if format not in FORMATS:
        raise UsageError(f"No text is cut as {format!r}; there are {', '.join(FORMATS)}.")
    reader = Reader(name, format, read, binary=True, isolated=isolated)
    return replace(reader, read=_address(read)) if isolated else reader


def _address(read: Read) -> str:
    """Where another process can import a function from."""
    module, name = getattr(read, "__module__", None), getattr(read, "__qualname__", "")
    if module in (None, "__main__") or not name.isidentifier():
        raise UsageError(
            f"{read!r} can't run in a process of its own, which couldn't import it: put it into a module, at its top level, or "
            "leave isolated=True out."
        )
    return f"{module}:{name}"


def _is_installed(module: str) -> bool:
    return find_spec(module) is not None
