"""Workbook -> Markdown: a heading for each sheet, and its tables with their columns' names every few rows."""

from __future__ import annotations

import datetime
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any
from xml.etree.ElementTree import ParseError

from defusedxml.common import DefusedXmlException
from openpyxl.chartsheet import Chartsheet
from openpyxl.reader.excel import ExcelReader
from openpyxl.utils import get_column_letter
from openpyxl.utils.exceptions import InvalidFileException

from sightline.indexing.readers import Reading
from sightline.indexing.readers.archives import office_file, refused
from sightline.indexing.readers.blocks import Blocks
from sightline.indexing.readers.csv import names_columns
from sightline.indexing.readers.properties import office_properties

_WHAT = "a workbook (.xlsx)"
_MIDNIGHT = datetime.time()

Row = tuple[int, list[str]]


def read(data: bytes, source: str) -> Reading:
    """Markdown of all sheets with anchors to their rows, and the workbook's properties.

    Raises:
        UnreadableFile: It is encrypted, broken, or none.
    """
    file = office_file(data, _WHAT)
    blocks = Blocks()
    try:
        # Values as they were computed last; formulas aren't text.
        reader = _Reader(file, read_only=True, data_only=True)
        reader.read()
        workbook = reader.wb
        for sheet in workbook.worksheets:
            _add_sheet(blocks, sheet)
        metadata = office_properties(workbook.properties, workbook.properties.creator)
    # OSError is openpyxl's for an archive that holds something else than a workbook.
    except (
        InvalidFileException,
        DefusedXmlException,
        ParseError,
        zipfile.BadZipFile,
        KeyError,
        ValueError,
        TypeError,
        OSError,
    ) as error:
        raise refused(_WHAT, error) from error
    return blocks.reading(metadata)


class _Reader(ExcelReader):  # type: ignore[misc]
    """Passes over the charts of chart sheets, which aren't read, and fails at none that lacks its chart."""

    def read_chartsheet(self, sheet: Any, rel: Any) -> None:
        """Keep its place among the sheets."""
        self.wb._add_sheet(Chartsheet(parent=self.wb, title=sheet.name))


def _add_sheet(blocks: Blocks, sheet: Any) -> None:
    sheet.reset_dimensions()  # what a file says of them may be wrong
    for number, region in enumerate(_regions(sheet)):
        if not number:
            blocks.anchor(sheet=sheet.title, row=region[0][0])
            blocks.heading(sheet.title, 1)
        _add_region(blocks, sheet.title, region)


def _regions(sheet: Any) -> Iterator[list[Row]]:
    """Rows with their numbers that stand together: an empty one ends a table."""
    region: list[Row] = []
    for number, values in enumerate(sheet.iter_rows(values_only=True), start=1):
        cells = [_written(value) for value in values]
        if any(cells):
            region.append((number, cells))
        elif region:
            yield region
            region = []
    if region:
        yield region


def _add_region(blocks: Blocks, sheet: str, region: list[Row]) -> None:
    """A table; rows of one cell above it are its caption."""
    first = min(next(at for at, cell in enumerate(cells) if cell) for _, cells in region)
    width = max(len(cells) for _, cells in region)
    rows = [(number, cells[first:] + [""] * (width - len(cells))) for number, cells in region]
    while rows and sum(map(bool, rows[0][1])) == 1:
        number, cells = rows.pop(0)
        blocks.anchor(sheet=sheet, row=number)
        blocks.paragraph(next(filter(None, cells)))
    if not rows:
        return
    used = [at for at in range(width - first) if any(cells[at] for _, cells in rows)]
    header: Sequence[str] = [get_column_letter(first + at + 1) for at in used]
    if len(rows) > 1 and names_columns(rows[0][1]):
        header = [rows[0][1][at] for at in used]
        rows.pop(0)
    table = [[cells[at] for at in used] for _, cells in rows]
    blocks.table(table, header, [{"sheet": sheet, "row": number} for number, _ in rows])


def _written(value: Any) -> str:
    """A cell's value as a person would write it."""
    if value is None:
        return ""
    if isinstance(value, datetime.datetime):
        return value.date().isoformat() if value.time() == _MIDNIGHT else value.isoformat(sep=" ", timespec="minutes")
    if isinstance(value, float):
        return f"{value:.15g}"
    return str(value).strip()
