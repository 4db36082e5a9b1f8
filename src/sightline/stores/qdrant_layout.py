"""How a collection keeps its vectors: which one is the main one, how long it is, how it is compared."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from qdrant_client import models

from sightline.cutting import cut
from sightline.errors import StoreError
from sightline.stores.qdrant_names import STATE_KEY
from sightline.stores.qdrant_vectors import quantization_of
from sightline.types import FloatArray, VectorLayout, VectorStorage


@dataclass(frozen=True, slots=True)
class Limits:
    """What goes into one request to this collection, where its server says so (Qdrant calls it strict mode).

    Args:
        points: Points of a write.
        records: Records of a reading.
        values: Ids or texts of a condition.
    """

    points: int = sys.maxsize
    records: int = sys.maxsize
    values: int = sys.maxsize


@dataclass(frozen=True, slots=True)
class Layout:
    """What must be known of a collection to read and write it.

    Args:
        name: The collection's name, or an alias of it.
        vectors: Its lengths; the shorter ones are named by their length.
        vector_name: Name of the main vector.
        is_quantized: Whether it is quantised at all, be it in a way that `vectors` has no name for.
        flat_too: Whether another program made it, which may keep metadata at the payload's top level.
    """

    name: str
    vectors: VectorLayout
    vector_name: str
    is_quantized: bool
    is_cosine: bool
    flat_too: bool
    metadata: Mapping[str, Any]
    limits: Limits = field(default_factory=Limits)

    @property
    def dimensions(self) -> int:
        """Length of the main vector."""
        return self.vectors.dimensions

    def name_of(self, length: int) -> str:
        """Name of the vector of this length."""
        return self.vector_name if length == self.dimensions else str(length)


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
    is_cosine = named[vector_name].distance == models.Distance.COSINE
    is_float16 = named[vector_name].datatype == models.Datatype.FLOAT16
    quantized = info.config.quantization_config or named[vector_name].quantization_config
    return Layout(
        name=name,
        vectors=VectorLayout(
            int(named[vector_name].size),
            _shorter(named) if is_cosine and vector_name == "" else (),
            quantization_of(quantized),
            VectorStorage.FLOAT16 if is_float16 else VectorStorage.FLOAT32,
        ),
        vector_name=vector_name,
        is_quantized=quantized is not None,
        is_cosine=is_cosine,
        flat_too=STATE_KEY not in metadata,
        metadata=metadata,
        limits=_limits(info.config.strict_mode_config),
    )


def _limits(config: models.StrictModeConfigOutput | None) -> Limits:
    if config is None or not config.enabled:
        return Limits()
    known = (config.upsert_max_batchsize, config.max_query_limit, config.condition_max_size)
    return Limits(*(one or sys.maxsize for one in known))


def _shorter(named: Mapping[str, models.VectorParams]) -> tuple[int, ...]:
    """Lengths of the vectors that are named by them, longest first."""
    lengths = [
        int(params.size)
        for name, params in named.items()
        if name == str(params.size) and params.size < named[""].size and params.distance == models.Distance.COSINE
    ]
    return tuple(sorted(lengths, reverse=True))


def vector_selector(layout: Layout) -> bool | list[str]:
    """What to ask for to be given the main vector."""
    return [layout.vector_name] if layout.vector_name or layout.vectors.shorter else True


def vectors_by_name(rows: FloatArray, layout: Layout) -> dict[str, FloatArray]:
    """Arrays of all lengths by their names, cut from the main rows `(n, dimensions)`."""
    return {layout.vector_name: rows, **{str(length): cut(rows, length) for length in layout.vectors.shorter}}


def vector_of(record: Any, layout: Layout) -> FloatArray | None:
    """The main vector of a record, float32 `(dimensions,)`; None when it has none."""
    found = record.vector.get(layout.vector_name) if isinstance(record.vector, dict) else record.vector
    return None if found is None else np.asarray(found, dtype=np.float32)
