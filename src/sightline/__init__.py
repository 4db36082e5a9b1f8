"""Sightline: from a folder of documents to a vector collection that every framework reads rightly.

Importing this package loads neither torch nor a database client; the names below are resolved when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sightline.api import Collection, index, open_collection
    from sightline.embedding.engine import EmbeddingEngine
    from sightline.types import Instruction, TokenizedText

__all__ = ["Collection", "EmbeddingEngine", "Instruction", "TokenizedText", "__version__", "index", "open_collection"]

_HOMES = {
    "Collection": "sightline.api",
    "EmbeddingEngine": "sightline.embedding.engine",
    "Instruction": "sightline.types",
    "TokenizedText": "sightline.types",
    "index": "sightline.api",
    "open_collection": "sightline.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sightline' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
