"""Qdrant Edge's own module, or the error that says how to install it."""

from __future__ import annotations

from sightline.errors import MissingExtra

try:
    import qdrant_edge as engine
except ImportError as error:
    raise MissingExtra("A store edge:DIR", package="qdrant-edge-py", extra="edge") from error

__all__ = ["engine"]
