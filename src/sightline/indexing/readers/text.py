"""Texts that are read as they are."""

from __future__ import annotations

from sightline.indexing.readers import Reading


def read(text: str, source: str) -> Reading:
    """The text itself."""
    return Reading(text)
