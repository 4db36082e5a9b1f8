"""Rows with separators between their fields -> a table that says its columns every few rows."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice

from sightline.errors import UnreadableFile
from sightline.indexing.readers import MAX_TEXT, Reading
from sightline.indexing.readers.blocks import Blocks

_SEPARATORS = ",;\t|"
_LOOKED_AT = 50
_MOST_COLUMNS = 2**14  # as in a spreadsheet
_VALUE = re.compile(r"[\s\d.,:%$€£¥/+-]*")
# How a spreadsheet says its separator in a first line of its own.
_SAID = re.compile(r'(?:"sep=([^\w\n"])"|sep=([^\w\n"]))(?:\n|\Z)')
_END = "\0"  # no text that is read has one
_YEAR = re.compile(r"\s*(?:19|20)\d\d\s*")


def read(text: str, source: str) -> Reading:
    """A table whose separator is the one that it names, or else the one that most rows agree on.

    Raises:
        UnreadableFile: It makes more text than is read, or has more columns.
    """
    said = _SAID.match(text)
    if said is not None:
        return _table("\n" + text[said.end() :], said[1] or said[2])
    return _table(text, max(_SEPARATORS, key=lambda separator: _agreement(text, separator)))


def read_tabs(text: str, source: str) -> Reading:
    """A table whose separator is the tab."""
    return _table(text, "\t")


def named_columns(rows: Sequence[tuple[int, Sequence[str]]]) -> tuple[Sequence[str], Sequence[tuple[int, Sequence[str]]]]:
    """The names of columns and the rows without them; a first row that looks like values names nothing.

    Args:
        rows: Their numbers, and their cells.
    """
    width = max(len(cells) for _, cells in rows)
    first = rows[0][1]
    if len(rows) > 1 and names_columns(first):
        return first, rows[1:]
    return [f"column {number}" for number in range(1, width + 1)], rows


def names_columns(cells: Sequence[str]) -> bool:
    """Whether a row holds names: words, and years at most beside them."""
    values = [cell for cell in cells if _VALUE.fullmatch(cell) and cell.strip()]
    words = [cell for cell in cells if not _VALUE.fullmatch(cell)]
    return bool(words) and all(_YEAR.fullmatch(cell) for cell in values)


def _table(text: str, separator: str) -> Reading:
    with _long_fields():
        rows = _rows(text, separator)
    blocks = Blocks()
    if rows:
        width = max(len(cells) for _, cells in rows)
        if width > _MOST_COLUMNS:
            raise UnreadableFile(f"a row of {width:,} fields; at most {_MOST_COLUMNS:,} are read, as in a spreadsheet; split it")
        header, others = named_columns(rows)
        blocks.table([cells for _, cells in others], header, [{"row": number} for number, _ in others])
    return blocks.reading({})


def _rows(text: str, separator: str) -> list[tuple[int, list[str]]]:
    """Rows that aren't blank with their numbers, counted from 1 as a spreadsheet would.

    Where a quotation mark is never closed, all of them are characters like others: else one would swallow all rows below it.
    """
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE):
        rows = []
        lines = chain(_lines(text), [_END])
        try:
            for number, cells in enumerate(csv.reader(lines, delimiter=separator, quoting=quoting), start=1):
                if any(cell.strip() for cell in cells):
                    rows.append((number, cells))
        except csv.Error as error:
            raise UnreadableFile(f"not rows of fields: {error}; open it and save it anew") from error
        if rows.pop()[1] == [_END]:
            break
    return rows


@contextmanager
def _long_fields() -> Iterator[None]:
    """Take fields as long as a text may be; the limit is of the whole process."""
    before = csv.field_size_limit(MAX_TEXT)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _lines(text: str) -> Iterator[str]:
    """Lines as CSV has them: a field may hold what else Unicode takes for a line's end, such as U+2028."""
    return io.StringIO(text, newline="")


def _agreement(text: str, separator: str) -> tuple[float, int]:
    """How many of the first rows have the most common number of fields, if that is more than one; and that number."""
    start = islice(_lines(text[: 64 * 2**10]), 4 * _LOOKED_AT)
    try:
        rows = list(islice(csv.reader(start, delimiter=separator), _LOOKED_AT))
    except csv.Error:
        return 0.0, 0
    counts = Counter(len(row) for row in rows if row)
    if not counts:
        return 0.0, 0
    width, times = counts.most_common(1)[0]
    return (times / counts.total(), width) if width > 1 else (0.0, 0)
