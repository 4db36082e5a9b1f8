"""Markdown: its front matter becomes metadata, the rest stays as it is."""

from __future__ import annotations

from sightline.indexing.front_matter import without_front_matter
from sightline.indexing.readers import Reading


def read(text: str, source: str) -> Reading:
    """The text with blanks in place of its front matter, and what that says."""
    return Reading(*without_front_matter(text, source))
