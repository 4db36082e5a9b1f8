"""Markdown that is put together block by block, with anchors to where each is from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sightline.errors import UnreadableFile
from sightline.indexing.readers import MAX_TEXT, Reading
from sightline.indexing.readers.anchors import PackedAnchors

# A table is written as several, each with the header again and of about this many characters: some 200 tokens at most in most
# writings, so that a chunk is made of whole ones and says what its columns are.
_TABLE_CHARACTERS = 480
# A longer header would be most of such a table: then each row is a paragraph of its cells, each with the name of its column.
_HEADER_CHARACTERS = 240
_SPACE = re.compile(r"\s+")
# What would make a heading, a rule, a fence, a quote or HTML of a plain line.
_SPECIAL = re.compile(r"(?m)^[ \t]*(?=#{1,6}(?:\s|$)|[-=_*]{3,}\s*$|=+\s*$|-+\s*$|```|~~~|>|<[!/?A-Za-z])")
_FENCE = re.compile(r"(?m)^\s*(`{3,})")
_ANY_FENCE = re.compile(r"(?m)^ {0,3}(`{3,}|~{3,})(.*)$")


class Blocks:
    """Blocks of Markdown with blank lines between them."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._length = 0
        self._anchors = PackedAnchors()

    def anchor(self, **place: Any) -> None:
        """What is added from now on is from this place."""
        self._anchors.append(self._length, place)

    def heading(self, title: str, level: int) -> None:
        """A heading; its title is put on one line."""
        title = one_line(title)
        if title:
            self.add(f"{'#' * min(max(level, 1), 6)} {title}")

    def paragraph(self, text: str) -> None:
        """Plain text, whose lines stay lines; what Markdown would read as something else is escaped."""
        self.add(escaped(text))

    def code(self, text: str, language: str = "") -> None:
        """Code in a fence."""
        if text.strip():
            longest = max((len(fence) for fence in _FENCE.findall(text)), default=2)
            fence = "`" * (longest + 1)
            self.add(f"{fence}{language}\n{text.rstrip()}\n{fence}")

    def table(self, rows: Sequence[Sequence[str]], header: Sequence[str], places: Sequence[Mapping[str, Any]] = ()) -> None:
        """A table, and where each of its rows is from; the header stands above every few rows, or in each row if it is long."""
        width = max(len(header), max(map(len, rows), default=0))
        names = _row(header, width)
        if rows and len(names) > _HEADER_CHARACTERS:
            self._records(rows, [*header, *[""] * (width - len(header))], places)
            return
        above = f"{names}\n|{' --- |' * width}\n"
        group: list[str] = []
        group_places: list[Mapping[str, Any]] = []
        size = len(above)
        for number, cells in enumerate(rows):
            row = _row(cells, width)
            if group and size + len(row) > _TABLE_CHARACTERS:
                self._group(above, group, group_places)
                group, group_places, size = [], [], len(above)
            group.append(row)
            size += len(row) + 1
            if places:
                group_places.append(places[number])
        self._group(above, group, group_places)

    def add(self, block: str) -> None:
        """A block that is Markdown already."""
        block = block.strip("\n").rstrip()
        if block.strip():
            if self._length + len(block) > MAX_TEXT:
                # Before the memory is taken: the columns' names above every few rows make far more of a wide table than its file.
                raise UnreadableFile(f"more than {MAX_TEXT:,} characters of text, which is the most that is read. Split it")
            self._parts.append(f"{block}\n\n")
            self._length += len(block) + 2

    def reading(self, metadata: Mapping[str, Any]) -> Reading:
        """All of it."""
        return Reading("".join(self._parts).rstrip("\n"), metadata, self._anchors)

    def _records(self, rows: Sequence[Sequence[str]], header: Sequence[str], places: Sequence[Mapping[str, Any]]) -> None:
        """Each row as a paragraph of its cells that have text, each with the name of its column."""
        names = [one_line(name) for name in header]
        for number, cells in enumerate(rows):
            if places:
                self._anchors.append(self._length, places[number])
            named = [(name, one_line(cell)) for name, cell in zip(names, cells, strict=False)]
            self.paragraph("\n".join(f"{name}: {cell}" if name else cell for name, cell in named if cell))

    def _group(self, above: str, group: list[str], places: list[Mapping[str, Any]]) -> None:
        start = self._length
        for row, place in zip(group, places, strict=bool(places)):
            self._anchors.append(start, place)
            # The first row's place is that of the header above it, too.
            start = (self._length + len(above) if start == self._length else start) + len(row) + 1
        self.add(above + "\n".join(group))


def one_line(text: str) -> str:
    """Text with single blanks only."""
    return _SPACE.sub(" ", text).strip()


def escaped(text: str) -> str:
    """Plain text as Markdown: its lines without blanks before them, and no line that Markdown would take for more than text."""
    lines = (line.strip() for line in text.splitlines())
    return _SPECIAL.sub("\\\\", "\n".join(lines))


def closed(markdown: str) -> str:
    """Markdown whose last fence is closed, so that it doesn't swallow what comes after."""
    fence = ""
    for found in _ANY_FENCE.finditer(markdown):
        if not fence:
            fence = found[1] if found[1][0] == "~" or "`" not in found[2] else ""
        elif found[1].startswith(fence) and not found[2].strip():
            fence = ""
    return f"{markdown.rstrip()}\n{fence}" if fence else markdown


def header_of(rows: Sequence[Sequence[str]]) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """The header of a table and its other rows."""
    return rows[0], rows[1:]


def _row(cells: Sequence[str], width: int) -> str:
    written = [one_line(cell).replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(written + [''] * (width - len(written)))} |"
