"""Small files of each format, made when a test needs them."""

from __future__ import annotations

import datetime
import io
import zipfile
from collections.abc import Sequence

WRITTEN = datetime.datetime(2026, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
ENCRYPTION = "<< /Filter /Standard /V 1 /R 2 /Length 40 /P -4 /O <{0}> /U <{0}> >>".format("5a" * 32)


def pdf(pages: Sequence[str], *, info: str = "", encrypt: str = "") -> bytes:
    """A PDF with lines of text on each page; a page without text has a drawing only."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", "", "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>", f"<< {info} >>"]
    kids = []
    for page in pages:
        lines = "".join(f"({line}) Tj T* " for line in page.splitlines())
        stream = f"BT /F1 12 Tf 14 TL 72 720 Td {lines}ET" if page else "10 10 100 100 re f"
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
        kids.append(f"{len(objects) + 1} 0 R")
        resources = "/Resources << /Font << /F1 3 0 R >> >>"
        content = f"/Contents {len(objects)} 0 R"
        objects.append(f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] {resources} {content} >>")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    written, offsets = "%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(written))
        written += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    locked = f"/Encrypt {encrypt} /ID [<00> <00>]" if encrypt else ""
    trailer = f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R /Info 4 0 R {locked} >>"
    first = "0000000000 65535 f "
    return f"{written}xref\n0 {len(objects) + 1}\n{first}\n{table}{trailer}\nstartxref\n{len(written)}\n%%EOF\n".encode()


def docx() -> bytes:
    """A Word document with headings, a list, a long table with merged cells, and signs that Markdown would misread."""
    from docx import Document

    document = Document()
    properties = document.core_properties
    properties.title, properties.author, properties.created, properties.modified = "The Lamp", "A. Keeper", WRITTEN, WRITTEN
    document.add_heading("The Lamp", 0)
    document.add_paragraph("It burns every night.\n# no heading")
    document.add_heading("Oil", 1)
    document.add_paragraph("rape oil", style="List Bullet")
    document.add_paragraph("fill", style="List Number")
    document.add_heading("Grades", 2)
    table = document.add_table(rows=4, cols=3)
    grades = [("grade", "use", "price"), ("A|1", "lamp", "3"), ("", "engine", "2"), ("B", "x", "1")]
    for row, cells in zip(table.rows, grades, strict=True):
        for cell, text in zip(row.cells, cells, strict=True):
            cell.text = text
    table.cell(1, 0).merge(table.cell(2, 0))
    document.add_paragraph("End.")
    return _saved(document)


def pptx() -> bytes:
    """A presentation of two slides with points, a table, a chart and notes; the second has no title."""
    from pptx import Presentation
    from pptx.chart.data import CategoryChartData
    from pptx.enum.chart import XL_CHART_TYPE
    from pptx.util import Inches

    presentation = Presentation()
    properties = presentation.core_properties
    properties.title, properties.author, properties.created, properties.modified = "Tides", "A. Keeper", WRITTEN, WRITTEN
    first = presentation.slides.add_slide(presentation.slide_layouts[1])
    first.shapes.title.text = "High water"
    points = first.placeholders[1].text_frame
    points.text = "twice a day"
    below = points.add_paragraph()
    below.text, below.level = "by the moon", 1
    first.notes_slide.notes_text_frame.text = "Ask who lives by the sea."
    second = presentation.slides.add_slide(presentation.slide_layouts[6])
    inch = Inches(1)
    table = second.shapes.add_table(2, 2, inch, inch, inch, inch).table
    for row, cells in zip(table.rows, [("day", "height"), ("1", "4.2 m")], strict=True):
        for cell, text in zip(row.cells, cells, strict=True):
            cell.text = text
    figures = CategoryChartData()
    figures.categories = ["May", "June"]
    figures.add_series("storms", (2, 0.5))
    second.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, inch, 3 * inch, inch, inch, figures)
    return _saved(presentation)


def xlsx(rows: int = 60) -> bytes:
    """A workbook with a sheet of a caption and a long table, one of values without names, and an empty one."""
    from openpyxl import Workbook

    workbook = Workbook()
    workbook.properties.title, workbook.properties.creator = "Log", "A. Keeper"
    workbook.properties.created = workbook.properties.modified = WRITTEN.replace(tzinfo=None)
    log = workbook.active
    log.title = "Log of 2026"
    log.append(["Ships that passed"])
    log.append([])
    log.append([None, "day", "ship", "tons"])
    for number in range(1, rows + 1):
        log.append([None, datetime.date(2026, 1, 1) + datetime.timedelta(number), f"Ship no. {number}", number * 1.5])
    values = workbook.create_sheet("Values")
    values.append([1, True, datetime.datetime(2026, 1, 2, 3, 4)])
    values.append([2, None, "a\nb"])
    workbook.create_sheet("Empty")
    return _saved(workbook)


CONTAINER = """<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container">
<rootfiles><rootfile full-path="O/b.opf"/></rootfiles></container>"""
PACKAGE = """<package xmlns="http://www.idpf.org/2007/opf" version="3.0" xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata>
<dc:title>The Light</dc:title><dc:creator>A. Keeper</dc:creator><dc:creator>B. Keeper</dc:creator><dc:language>en</dc:language>
<dc:date>1911-05-06</dc:date></metadata><manifest>
<item id="n" href="nav.xhtml" properties="nav" media-type="application/xhtml+xml"/>
<item id="a" href="a%20b.xhtml" media-type="application/xhtml+xml"/>
<item id="c" href="c.xhtml" media-type="application/xhtml+xml"/>
</manifest><spine><itemref idref="n"/><itemref idref="c"/><itemref idref="a"/></spine></package>"""
CONTENTS = """<html xmlns="http://www.w3.org/1999/xhtml"><body><nav><a href="a%20b.xhtml#x">Second</a></nav></body></html>"""
FIRST = """<?xml version='1.0'?><!DOCTYPE html>
<html><head><title>t</title></head><body><h1>First</h1><p>Dark.</p></body></html>"""
EPUB = {
    "mimetype": "application/epub+zip",
    "META-INF/container.xml": CONTAINER,
    "O/b.opf": PACKAGE,
    "O/nav.xhtml": CONTENTS,
    "O/c.xhtml": FIRST,
    "O/a b.xhtml": "<html><body><p>Light.</p></body></html>",
}


def epub(**changed: str | None) -> bytes:
    """A book of two parts, one of which has its title in the table of contents only."""
    return archive({**EPUB, **changed})


def archive(members: dict[str, str | bytes | None]) -> bytes:
    """A zip archive; None leaves a member out."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            if content is not None:
                file.writestr(name, content)
    return made.getvalue()


def with_member(data: bytes, name: str, content: str | bytes) -> bytes:
    """An archive with another content of one of its members."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return archive({one: file.read(one) for one in file.namelist()} | {name: content})


def _saved(document: object) -> bytes:
    made = io.BytesIO()
    document.save(made)  # type: ignore[attr-defined]
    return made.getvalue()
