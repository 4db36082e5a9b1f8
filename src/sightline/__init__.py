"""Sightline: from a folder of documents to a vector collection that every framework reads rightly.

Importing this package loads neither torch nor a database client; the names below are resolved when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sightline.api import (
        Collection,
        CorpusPlan,
        IndexPlan,
        Inspection,
        JsonlFields,
        ParseLimits,
        add_dimension,
        adopt,
        copy,
        index,
        inspect,
        open_collection,
        plan_corpus,
        plan_index,
        remove,
        remove_dimension,
    )
    from sightline.embedding.engine import EmbeddingEngine
    from sightline.embedding.remote import RemoteEmbedder
    from sightline.embedding.shared import open_embedder
    from sightline.errors import UnreadableFile
    from sightline.indexing.readers import Reading, formats, register_reader
    from sightline.types import Document, Instruction, Quantization, Shortlist, TokenizedText, VectorStorage

__all__ = [
    "Collection",
    "CorpusPlan",
    "Document",
    "EmbeddingEngine",
    "IndexPlan",
    "Inspection",
    "Instruction",
    "JsonlFields",
    "ParseLimits",
    "Quantization",
    "Reading",
    "RemoteEmbedder",
    "Shortlist",
    "TokenizedText",
    "UnreadableFile",
    "VectorStorage",
    "__version__",
    "add_dimension",
    "adopt",
    "copy",
    "formats",
    "index",
    "inspect",
    "open_collection",
    "open_embedder",
    "plan_corpus",
    "plan_index",
    "register_reader",
    "remove",
    "remove_dimension",
]

_HOMES = {
    "Collection": "sightline.api",
    "CorpusPlan": "sightline.api",
    "Document": "sightline.types",
    "EmbeddingEngine": "sightline.embedding.engine",
    "IndexPlan": "sightline.api",
    "Inspection": "sightline.api",
    "Instruction": "sightline.types",
    "JsonlFields": "sightline.api",
    "ParseLimits": "sightline.api",
    "Quantization": "sightline.types",
    "Reading": "sightline.indexing.readers",
    "RemoteEmbedder": "sightline.embedding.remote",
    "Shortlist": "sightline.types",
    "TokenizedText": "sightline.types",
    "UnreadableFile": "sightline.errors",
    "VectorStorage": "sightline.types",
    "add_dimension": "sightline.api",
    "adopt": "sightline.api",
    "copy": "sightline.api",
    "formats": "sightline.indexing.readers",
    "index": "sightline.api",
    "inspect": "sightline.api",
    "open_collection": "sightline.api",
    "open_embedder": "sightline.embedding.shared",
    "plan_corpus": "sightline.api",
    "plan_index": "sightline.api",
    "register_reader": "sightline.indexing.readers",
    "remove": "sightline.api",
    "remove_dimension": "sightline.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sightline' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
