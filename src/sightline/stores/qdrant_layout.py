"""How a collection keeps its vectors: which one is the main one, how long it is, how it is compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from qdrant_client import models

from sightline.errors import StoreError
from sightline.stores.qdrant_names import STATE_KEY
from sightline.types import FloatArray


@dataclass(frozen=True, slots=True)
class Layout:
    """What must be known of a collection to read and write it.

    Args:
        name: The collection's name, or an alias of it.
        flat_too: Whether another program made it, which may keep metadata at the payload's top level.
    """

    name: str
    dimensions: int
    vector_name: str
    is_cosine: bool
    flat_too: bool
    metadata: Mapping[str, Any]


def _main_vector(url: str, named: Mapping[str, models.VectorParams]) -> str:
    """The unnamed vector, or the only dense one."""
    dense = [name for name, params in named.items() if params.multivector_config is None]
    if "" in dense:
        return ""
    if len(dense) == 1:
        return dense[0]
    found = f"the vectors {', '.join(map(repr, sorted(named)))}" if named else "no dense vector"
    raise StoreError(f"{url} has {found}; Sightline reads the unnamed one, or the only dense one. Use another collection.")


def layout_of(url: str, name: str, info: models.CollectionInfo) -> Layout:
    """The layout in a collection's settings; raises StoreError when it has no main vector."""
    vectors = info.config.params.vectors
    named = {"": vectors} if isinstance(vectors, models.VectorParams) else dict(vectors or {})
    vector_name = _main_vector(url, named)
    metadata = info.config.metadata or {}
    return Layout(
        name=name,
        dimensions=int(named[vector_name].size),
        vector_name=vector_name,
        is_cosine=named[vector_name].distance == models.Distance.COSINE,
        flat_too=STATE_KEY not in metadata,
        metadata=metadata,
    )


def vector_selector(layout: Layout) -> bool | list[str]:
    """What to ask for to be given the main vector."""
    return [layout.vector_name] if layout.vector_name else True


def vector_of(record: Any, layout: Layout) -> FloatArray | None:
    """The main vector of a record, float32 `(dimensions,)`; None when it has none."""
    found = record.vector.get(layout.vector_name) if isinstance(record.vector, dict) else record.vector
    return None if found is None else np.asarray(found, dtype=np.float32)
