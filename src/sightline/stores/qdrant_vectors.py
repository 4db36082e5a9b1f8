"""How Qdrant keeps several vectors for each point, compresses them, and searches by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qdrant_client import QdrantClient, models

from sightline.cutting import cut
from sightline.stores.qdrant_errors import finished
from sightline.stores.quantization import OVERSAMPLING
from sightline.types import FloatArray, Quantization, Shortlist, VectorLayout, VectorStorage

MAIN = ""
_TURBO_BITS = {
    Quantization.TURBO1: models.TurboQuantBitSize.BITS1,
    Quantization.TURBO2: models.TurboQuantBitSize.BITS2,
    Quantization.TURBO4: models.TurboQuantBitSize.BITS4,
    Quantization.TURBO8: models.TurboQuantBitSize.BITS8,
}
# For a collection that another program quantised in a way that has no name here.
_OTHER_OVERSAMPLING = 4.0


def collection_settings(layout: VectorLayout) -> dict[str, Any]:
    """What a new collection is made with; quantisation holds for all lengths, those that are added later too."""
    named = {MAIN if length == layout.dimensions else str(length): _params(length, layout) for length in layout.lengths}
    # One vector alone is given by itself, as every framework does.
    settings: dict[str, Any] = {"vectors_config": named if layout.shorter else named[MAIN]}
    if layout.quantization is not None:
        settings["quantization_config"] = _quantization(layout.quantization)
    return settings


def quantization_of(config: Any) -> Quantization | None:
    """The name of a collection's quantisation; None for none, and for what has no name here."""
    if isinstance(config, models.ScalarQuantization):
        return Quantization.SCALAR
    if isinstance(config, models.BinaryQuantization):
        plain = config.binary.encoding in (None, models.BinaryQuantizationEncoding.ONE_BIT)
        return Quantization.BINARY if plain else None
    if isinstance(config, models.TurboQuantization):
        bits = config.turbo.bits or models.TurboQuantBitSize.BITS4
        return next((kind for kind, known in _TURBO_BITS.items() if known == bits), None)
    return None


def add_vector(physical: str, length: int, layout: VectorLayout, client: QdrantClient) -> None:
    """Give a collection one more length; the same again changes nothing."""
    datatype = models.VectorStorageDatatype.FLOAT16 if layout.storage == VectorStorage.FLOAT16 else None
    dense = models.DenseVectorConfig(size=length, distance=models.Distance.COSINE, datatype=datatype)
    finished(client.create_vector_name(physical, str(length), models.DenseVectorNameConfig(dense=dense), wait=True))


def remove_vector(physical: str, length: int, client: QdrantClient) -> None:
    """Take a length from a collection."""
    finished(client.delete_vector_name(physical, str(length), wait=True))


def lacks_vector(length: int) -> models.Filter:
    """Points that have no vector of this length."""
    return models.Filter(must_not=[models.HasVectorCondition(has_vector=str(length))])


def write_vectors(physical: str, name: str, ids: Sequence[Any], rows: FloatArray, client: QdrantClient) -> None:
    """Give points one more vector; those that they have stay."""
    points = [models.PointVectors(id=one, vector={name: row}) for one, row in zip(ids, rows.tolist(), strict=True)]
    finished(client.update_vectors(physical, points, wait=True))


def by_point(vectors: Mapping[str, FloatArray]) -> list[Any]:
    """Arrays by their names -> what each point takes: one list of numbers, or several by their names."""
    if list(vectors) == [MAIN]:
        return list(vectors[MAIN].tolist())
    lists = {name: rows.tolist() for name, rows in vectors.items()}
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def query_options(
    query: FloatArray, name: str, shortlist: Shortlist | None, limit: int, where: models.Filter | None,
    quantization: Quantization | None, is_quantized: bool,
) -> dict[str, Any]:
    """What a search asks for: by the vectors called `name`, or first by those of the shortlist."""
    options: dict[str, Any] = {"query": query.tolist(), "using": name or None}
    if shortlist is None:
        oversampling = _OTHER_OVERSAMPLING if quantization is None else OVERSAMPLING[quantization]
        # More candidates than hits by the compressed vectors, and the hits among them by the vectors themselves.
        options["search_params"] = _search_params(is_quantized, rescore=True, oversampling=oversampling)
        return {**options, "query_filter": where}
    options["prefetch"] = models.Prefetch(
        query=cut(query[None, :], shortlist.dimensions)[0].tolist(),
        using=str(shortlist.dimensions),
        filter=where,
        limit=max(shortlist.candidates, limit),
        # By the compressed vectors alone: the second step orders them anyway.
        params=_search_params(is_quantized, rescore=False),
    )
    # The second step looks at the vectors themselves: by default it would rank by their compressed copies.
    options["search_params"] = _search_params(is_quantized, ignore=True)
    return options


def _search_params(is_quantized: bool, **quantization: Any) -> models.SearchParams | None:
    if not is_quantized:  # local mode warns of what it ignores
        return None
    return models.SearchParams(quantization=models.QuantizationSearchParams(**quantization))


def _params(length: int, layout: VectorLayout) -> models.VectorParams:
    # The compressed vectors stay in memory, so the vectors themselves needn't.
    on_disk = None if layout.quantization is None else True
    datatype = models.Datatype.FLOAT16 if layout.storage == VectorStorage.FLOAT16 else None
    return models.VectorParams(size=length, distance=models.Distance.COSINE, datatype=datatype, on_disk=on_disk)


def _quantization(kind: Quantization) -> models.QuantizationConfig:
    if kind == Quantization.SCALAR:
        scalar = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
        return models.ScalarQuantization(scalar=scalar)
    if kind == Quantization.BINARY:
        return models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True))
    return models.TurboQuantization(turbo=models.TurboQuantQuantizationConfig(bits=_TURBO_BITS[kind], always_ram=True))
