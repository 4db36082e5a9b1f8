"""Jupyter notebook -> Markdown of its cells; what running it printed is left out, for each run makes it anew."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sightline.errors import UnreadableFile
from sightline.indexing.readers import Reading
from sightline.indexing.readers.blocks import Blocks, closed
from sightline.indexing.readers.properties import known


def read(text: str, source: str) -> Reading:
    """Texts as they are and code in fences, with an anchor to each cell (counted from 1).

    Raises:
        UnreadableFile: It is no notebook.
    """
    if not text.strip():
        return Reading("")
    try:
        notebook = json.loads(text)
    except ValueError as error:
        raise UnreadableFile(f"no notebook: {error}; open it in Jupyter and save it anew") from error
    if not isinstance(notebook, dict) or not isinstance(notebook.get("nbformat"), int):
        raise UnreadableFile("no notebook: JSON without 'nbformat'; open it in Jupyter and save it anew")
    said = notebook.get("metadata")
    metadata: dict[str, Any] = said if isinstance(said, dict) else {}
    language = _language(metadata)
    blocks = Blocks()
    for number, cell in enumerate(_cells(notebook), start=1):
        blocks.anchor(cell=number)
        _add(blocks, cell, language)
    return blocks.reading(known(title=_text(metadata.get("title")), author=_authors(metadata), language=language))


def _cells(notebook: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Cells; up to version 3 they lie in worksheets."""
    sheets = notebook.get("worksheets") or [notebook]
    for sheet in sheets if isinstance(sheets, list) else []:
        cells = sheet.get("cells") if isinstance(sheet, dict) else None
        for cell in cells if isinstance(cells, list) else []:
            if not isinstance(cell, dict):
                raise UnreadableFile("no notebook: a cell that isn't an object; open it in Jupyter and save it anew")
            yield cell


def _add(blocks: Blocks, cell: dict[str, Any], language: str) -> None:
    content = _text(cell.get("source", cell.get("input")))
    kind = cell.get("cell_type")
    if kind == "code":
        blocks.code(content, language)
    elif kind == "heading":  # up to version 3
        level = cell.get("level")
        blocks.heading(content, level if isinstance(level, int) else 1)
    elif kind == "markdown":
        blocks.add(closed(content))
    else:
        blocks.code(content)


def _text(value: Any) -> str:
    """A text, which may be written as a list of lines."""
    if isinstance(value, list):
        return "".join(line for line in value if isinstance(line, str))
    return value if isinstance(value, str) else ""


def _language(metadata: dict[str, Any]) -> str:
    for section, key in (("language_info", "name"), ("kernelspec", "language")):
        found = metadata.get(section)
        if isinstance(found, dict) and isinstance(found.get(key), str):
            return str(found[key])
    return ""


def _authors(metadata: dict[str, Any]) -> str:
    authors = metadata.get("authors")
    names = [author.get("name") for author in authors if isinstance(author, dict)] if isinstance(authors, list) else []
    return ", ".join(name for name in names if isinstance(name, str))
