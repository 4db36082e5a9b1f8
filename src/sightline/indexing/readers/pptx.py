"""Presentation -> Markdown: a heading for each slide, its texts, tables, figures of charts, and its notes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pptx
from lxml.etree import XMLSyntaxError
from pptx.exc import PythonPptxError

from sightline.indexing.readers import Reading
from sightline.indexing.readers.archives import office_file, refused
from sightline.indexing.readers.blocks import Blocks, escaped, header_of, one_line
from sightline.indexing.readers.properties import office_properties

_WHAT = "a presentation (.pptx)"


def read(data: bytes, source: str) -> Reading:
    """Markdown of all slides with anchors to them, and the presentation's properties.

    Raises:
        UnreadableFile: It is encrypted, broken, or none.
    """
    file = office_file(data, _WHAT)
    blocks = Blocks()
    try:
        presentation = pptx.Presentation(file)
        for number, slide in enumerate(presentation.slides, start=1):
            blocks.anchor(slide=number)
            _add_slide(blocks, slide, number)
        return blocks.reading(office_properties(presentation.core_properties, presentation.core_properties.author))
    except (PythonPptxError, XMLSyntaxError, KeyError, ValueError) as error:
        raise refused(_WHAT, error) from error


def _add_slide(blocks: Blocks, slide: Any, number: int) -> None:
    title = slide.shapes.title
    # A heading in any case, so that no chunk is of two slides.
    blocks.heading(_said(title) or f"Slide {number}", 1)
    for shape in _shapes(slide.shapes):
        if title is None or shape.shape_id != title.shape_id:
            _add_shape(blocks, shape)
    notes = slide.notes_slide.notes_text_frame if slide.has_notes_slide else None
    if notes is not None and notes.text.strip():
        blocks.heading("Notes", 2)
        blocks.paragraph(_broken(notes.text))


def _said(title: Any) -> str:
    return one_line(title.text_frame.text) if title is not None else ""


def _shapes(shapes: Any) -> Iterator[Any]:
    """Shapes from top to bottom as they are seen, those of groups at the group's place."""
    for shape in sorted(shapes, key=lambda shape: (shape.top or 0, shape.left or 0)):
        if hasattr(shape, "shapes"):
            yield from _shapes(shape.shapes)
        else:
            yield shape


def _add_shape(blocks: Blocks, shape: Any) -> None:
    if shape.has_text_frame:
        _add_paragraphs(blocks, shape)
    elif shape.has_table:
        rows = [[cell.text for cell in row.cells] for row in shape.table.rows]
        if any(any(cells) for cells in rows):
            header, others = header_of(rows)
            blocks.table(others, header)
    elif shape.has_chart:
        _add_chart(blocks, shape.chart)


def _add_paragraphs(blocks: Blocks, shape: Any) -> None:
    paragraphs = [paragraph for paragraph in shape.text_frame.paragraphs if paragraph.text.strip()]
    # What stands in a slide's own text field is a list, whether its points are drawn or not.
    is_list = shape.is_placeholder and len(paragraphs) > 1
    lines = [
        f"{'  ' * paragraph.level}- {escaped(one_line(paragraph.text))}" if is_list else escaped(_broken(paragraph.text))
        for paragraph in paragraphs
    ]
    blocks.add(("\n" if is_list else "\n\n").join(lines))


def _add_chart(blocks: Blocks, chart: Any) -> None:
    if chart.has_title and chart.chart_title.has_text_frame:
        blocks.paragraph(chart.chart_title.text_frame.text)
    for plot in chart.plots:
        series = list(plot.series)
        names = [str(category) for category in plot.categories] or [str(at) for at in range(1, _longest(series) + 1)]
        values = [list(one.values) for one in series]
        rows = [[name, *(_figure(column, at) for column in values)] for at, name in enumerate(names)]
        blocks.table(rows, ["", *(one.name or "" for one in series)])


def _longest(series: list[Any]) -> int:
    return max((len(list(one.values)) for one in series), default=0)


def _figure(column: list[Any], at: int) -> str:
    value = column[at] if at < len(column) else None
    return "" if value is None else f"{value:.15g}"


def _broken(text: str) -> str:
    """Text whose soft line breaks are lines."""
    return text.replace("\v", "\n")
