"""Source code as it is, with an anchor to each line; the chunker knows its definitions."""

from __future__ import annotations

import re
from array import array

from sightline.indexing.readers import Reading
from sightline.indexing.readers.anchors import PackedAnchors

_LINE = re.compile(r"\n(?=.)")


def read(text: str, source: str) -> Reading:
    """The text itself, and where its lines begin (counted from 1)."""
    starts, lines, line, last = array("q", [0]), array("q", [1]), 1, 0
    for match in _LINE.finditer(text):
        line += text.count("\n", last, match.end())
        last = match.end()
        starts.append(last)
        lines.append(line)
    return Reading(text, {}, PackedAnchors.numbered("line", starts, lines))
