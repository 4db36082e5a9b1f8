"""Source code as it is, with an anchor to each line; the chunker knows its definitions."""

from __future__ import annotations

import re

from sightline.indexing.readers import Reading

_LINE = re.compile(r"\n(?=.)")


def read(text: str, source: str) -> Reading:
    """The text itself, and where its lines begin (counted from 1)."""
    anchors, line, last = [(0, {"line": 1})], 1, 0
    for match in _LINE.finditer(text):
        line += text.count("\n", last, match.end())
        last = match.end()
        anchors.append((last, {"line": line}))
    return Reading(text, {}, anchors)
