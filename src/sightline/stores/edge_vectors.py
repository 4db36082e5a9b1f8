"""How Qdrant Edge keeps several vectors for each point, compresses them, and searches by them."""

from __future__ import annotations

from typing import Any

from sightline.cutting import cut
from sightline.stores.edge_engine import engine
from sightline.stores.quantization import OVERSAMPLING
from sightline.types import FloatArray, Quantization, Shortlist, VectorLayout, VectorStorage

MAIN = ""
_TURBO_BITS = {
    Quantization.TURBO1: engine.TurboQuantBitSize.Bits1,
    Quantization.TURBO2: engine.TurboQuantBitSize.Bits2,
    Quantization.TURBO4: engine.TurboQuantBitSize.Bits4,
    Quantization.TURBO8: engine.TurboQuantBitSize.Bits8,
}
_DATATYPES = {
    VectorStorage.FLOAT32: engine.VectorStorageDatatype.Float32,
    VectorStorage.FLOAT16: engine.VectorStorageDatatype.Float16,
}


def shard_config(layout: VectorLayout) -> Any:
    """The settings of a new shard; quantisation holds for all lengths, those that are added later too."""
    named = {_name(length, layout): _vector_params(length, layout) for length in layout.lengths}
    # One vector alone is given by itself, as ever: shards of all versions are alike then.
    vectors = named if layout.shorter else named[MAIN]
    return engine.EdgeConfig(vectors=vectors, quantization_config=_quantization(layout.quantization))


def new_vector(length: int, layout: VectorLayout) -> Any:
    """The operation that gives an existing shard one more length."""
    return engine.UpdateOperation.create_dense_vector(
        str(length), length, engine.Distance.Cosine, datatype=_DATATYPES[layout.storage]
    )


def engine_vectors(rows: FloatArray, layout: VectorLayout) -> list[Any]:
    """What a point takes for each of the main rows `(n, dimensions)`."""
    if not layout.shorter:
        return list(rows)
    shorter = {str(length): cut(rows, length) for length in layout.shorter}
    return [{MAIN: row, **{name: found[at] for name, found in shorter.items()}} for at, row in enumerate(rows)]


def request(query: Any, layout: VectorLayout, shortlist: Shortlist | None, limit: int, where: Any) -> Any:
    """The search for `limit` hits; `query` is float32, which the engine takes, whatever its stubs say."""
    nearest = engine.Query.Nearest(query, using=_name(len(query), layout))
    if shortlist is None:
        params = _rescored(layout.quantization)
        return engine.QueryRequest(limit=limit, query=nearest, filter=where, params=params, with_payload=True)
    short = engine.Query.Nearest(cut(query[None, :], shortlist.dimensions)[0], using=str(shortlist.dimensions))
    candidates = max(shortlist.candidates, limit)
    first = engine.Prefetch(limit=candidates, query=short, filter=where, params=_compressed(layout.quantization))
    # The second step looks at the vectors themselves: by default it would rank by their compressed copies.
    params = None if layout.quantization is None else _params(ignore=True)
    return engine.QueryRequest(limit=limit, query=nearest, prefetches=[first], params=params, with_payload=True)


def _name(length: int, layout: VectorLayout) -> str:
    return MAIN if length == layout.dimensions else str(length)


def _vector_params(length: int, layout: VectorLayout) -> Any:
    datatype = None if layout.storage == VectorStorage.FLOAT32 else _DATATYPES[layout.storage]
    # The compressed copies stay in memory, so the vectors themselves needn't: only the few that rescore a search are read.
    memory = None if layout.quantization is None else engine.Memory.Cold
    return engine.EdgeVectorParams(size=length, distance=engine.Distance.Cosine, datatype=datatype, memory=memory)


def _quantization(kind: Quantization | None) -> Any:
    if kind is None:
        return None
    if kind == Quantization.SCALAR:
        return engine.ScalarQuantizationConfig(engine.ScalarType.Int8)
    if kind == Quantization.BINARY:
        return engine.BinaryQuantizationConfig()
    return engine.TurboQuantQuantizationConfig(bits=_TURBO_BITS[kind])


def _rescored(kind: Quantization | None) -> Any:
    """More candidates than hits by the compressed vectors, and the hits among them by the vectors themselves."""
    return None if kind is None else _params(rescore=True, oversampling=OVERSAMPLING[kind])


def _compressed(kind: Quantization | None) -> Any:
    """Candidates by the compressed vectors alone: the second step orders them anyway."""
    return None if kind is None else _params(rescore=False)


def _params(**quantization: Any) -> Any:
    return engine.SearchParams(quantization=engine.QuantizationSearchParams(**quantization))
