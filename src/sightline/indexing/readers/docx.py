"""Word document -> Markdown: headings, paragraphs, lists, tables, footnotes, in their order."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import docx
from docx.document import Document
from docx.opc.constants import RELATIONSHIP_TYPE
from docx.opc.exceptions import OpcError
from docx.oxml import parse_xml
from docx.oxml.ns import qn
from lxml.etree import XMLSyntaxError

from sightline.errors import UnreadableFile
from sightline.indexing.readers import Reading
from sightline.indexing.readers.archives import office_file, refused
from sightline.indexing.readers.blocks import Blocks, escaped, header_of, one_line
from sightline.indexing.readers.properties import office_properties

_WHAT = "a Word document (.docx)"
_HEADING = re.compile(r"heading (\d)", re.IGNORECASE)
_CONTENTS = re.compile(r"toc\b", re.IGNORECASE)
_BREAKS = {qn("w:br"): "\n", qn("w:cr"): "\n", qn("w:tab"): "\t", qn("w:noBreakHyphen"): "-"}
_TEXTS = {qn("w:t"), qn("m:t")}
_NOTES = {qn("w:footnoteReference"): "", qn("w:endnoteReference"): "e"}
_NOTE_PARTS = {RELATIONSHIP_TYPE.FOOTNOTES: ("w:footnote", ""), RELATIONSHIP_TYPE.ENDNOTES: ("w:endnote", "e")}
# Text that isn't there any more, and the second form in which newer things are kept for older programs.
_UNSEEN = {qn("w:del"), qn("w:moveFrom"), "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"}
_TEXT_BOX = qn("w:txbxContent")
_DEEPEST = 100


def read(data: bytes, source: str) -> Reading:
    """Markdown of the document's body, and its properties.

    Raises:
        UnreadableFile: It is encrypted, broken, or none.
    """
    file = office_file(data, _WHAT)
    try:
        document = docx.Document(file)
        body = _Body(document)
        body.add(document.element.body)
        body.add_notes()
    except (OpcError, XMLSyntaxError, KeyError, ValueError) as error:
        raise refused(_WHAT, error) from error
    return body.blocks.reading(office_properties(document.core_properties, document.core_properties.author))


class _Body:
    """Walks through the XML of the body, of which python-docx itself shows neither content controls nor insertions."""

    def __init__(self, document: Document) -> None:
        self.blocks = Blocks()
        self._document = document

    def add(self, parent: Any, depth: int = 0) -> None:
        """The paragraphs and tables below an element."""
        if depth > _DEEPEST:
            raise UnreadableFile("nested too deeply to be parsed")
        for element in parent:
            if element.tag == qn("w:p"):
                self._add_paragraph(element, depth)
            elif element.tag == qn("w:tbl"):
                rows = list(_rows(element))
                if rows:
                    header, others = header_of(rows)
                    self.blocks.table(others, header)
            elif element.tag not in _UNSEEN and isinstance(element.tag, str):
                self.add(element, depth + 1)

    def add_notes(self) -> None:
        """Footnotes and endnotes, under the marks that stand for them in the text."""
        for relation in self._document.part.rels.values():
            if relation.reltype not in _NOTE_PARTS or relation.is_external:
                continue
            tag, prefix = _NOTE_PARTS[relation.reltype]
            for note in parse_xml(relation.target_part.blob).iter(qn(tag)):
                text = one_line(" ".join(_text(paragraph) for paragraph in note.iter(qn("w:p"))))
                if text:
                    self.blocks.add(f"[^{prefix}{note.get(qn('w:id'))}]: {text}")

    def _add_paragraph(self, paragraph: Any, depth: int) -> None:
        text = _text(paragraph)
        style = self._style_of(paragraph)
        if text.strip() and not _CONTENTS.match(style):
            level = self._heading_level(paragraph, style)
            if level is not None:
                self.blocks.heading(text, level)
            elif self._is_item(paragraph, style):
                marker = "1." if "number" in style.lower() else "-"
                self.blocks.add(f"{marker} {escaped(one_line(text))}")
            else:
                self.blocks.paragraph(text)
        for box in _text_boxes(paragraph):
            self.add(box, depth + 1)

    def _style_of(self, paragraph: Any) -> str:
        """Name of a paragraph's style, or of what that is derived from where that is a heading."""
        properties = paragraph.pPr
        identifier = None if properties is None or properties.pStyle is None else properties.pStyle.val
        return self._styles.get(identifier, "") if identifier else ""

    @cached_property
    def _styles(self) -> dict[str, str]:
        """Names of styles by their ids; a style that is derived from a heading goes by that one's name."""
        found = {}
        for style in self._document.styles:
            name, base, seen = style.name or "", getattr(style, "base_style", None), 0
            while not _HEADING.match(name) and base is not None and seen < _DEEPEST:
                if _HEADING.match(base.name or ""):
                    name = base.name or ""
                base, seen = base.base_style, seen + 1
            found[style.style_id] = name
        return found

    def _heading_level(self, paragraph: Any, style: str) -> int | None:
        match = _HEADING.match(style)
        if match:
            return int(match[1])
        if style.lower() == "title":
            return 1
        found = paragraph.xpath("./w:pPr/w:outlineLvl/@w:val")
        return int(found[0]) + 1 if found and found[0].isdigit() and int(found[0]) < 6 else None

    def _is_item(self, paragraph: Any, style: str) -> bool:
        return style.lower().startswith("list") or bool(paragraph.xpath("./w:pPr/w:numPr/w:numId[@w:val != '0']"))


def _text(paragraph: Any) -> str:
    """Text of a paragraph with line breaks, insertions, links, formulas and marks of notes, without its text boxes."""
    parts: list[str] = []
    stack = list(reversed(paragraph))
    while stack:
        element = stack.pop()
        if element.tag in _TEXTS:
            parts.append(element.text or "")
        elif element.tag in _BREAKS:
            parts.append(_BREAKS[element.tag])
        elif element.tag in _NOTES:
            parts.append(f"[^{_NOTES[element.tag]}{element.get(qn('w:id'))}]")
        elif element.tag != _TEXT_BOX and element.tag not in _UNSEEN:
            stack.extend(reversed(element))
    return "".join(parts)


def _text_boxes(element: Any) -> Iterator[Any]:
    """Text boxes that hang on a paragraph; those within another one come with it."""
    for child in element:
        if child.tag == _TEXT_BOX:
            yield child
        elif child.tag not in _UNSEEN:
            yield from _text_boxes(child)


def _rows(table: Any) -> Iterator[list[str]]:
    """Cells of a table's rows; a cell that goes on from the row above has its text again."""
    above: dict[int, str] = {}
    for row in table.iter(qn("w:tr")):
        if next(row.iterancestors(qn("w:tbl"))) is not table:
            continue  # of a table within a cell, whose text is that cell's
        cells: list[str] = []
        for cell in row.xpath("./w:tc | ./w:sdt/w:sdtContent/w:tc"):
            text = " ".join(filter(None, (one_line(_text(paragraph)) for paragraph in cell.iter(qn("w:p")))))
            merged = cell.xpath("./w:tcPr/w:vMerge")
            if merged and merged[0].get(qn("w:val")) != "restart":
                text = above.get(len(cells), "")
            above[len(cells)] = text
            span = cell.xpath("./w:tcPr/w:gridSpan/@w:val")
            cells += [text] + [""] * (min(int(span[0]), _DEEPEST) - 1 if span and span[0].isdigit() else 0)
        if any(cells):
            yield cells
