"""What a corpus will take before it is there: chunks, tokens, hours of a device, bytes in memory and on disk. Pure arithmetic.

Every figure that the caller didn't give is an `Assumption` that says where it comes from: measured by the project
(benchmarks/results, docs/performance.md), documented by a vendor, or assumed. Nothing here was measured on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypedDict

from sightline.errors import UsageError
from sightline.types import IndexSummary, Quantization, VectorLayout, VectorStorage


class Origin(StrEnum):
    """Where a figure comes from."""

    GIVEN = "given"
    MEASURED = "measured"
    DOCUMENTED = "documented"
    ASSUMED = "assumed"


@dataclass(frozen=True, slots=True)
class Assumption:
    """A figure that a plan stands on; `source` says more of where it comes from, and which option replaces it."""

    name: str
    value: str
    origin: Origin
    source: str = ""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What of a model decides how much it computes and how long its vectors are.

    Args:
        name: Of the model.
        dimensions: Length of an uncut vector.
        parameters: Weights that each token goes through: all but the table of token embeddings.
        layers: How many; 0 where it isn't known, and attention is left out.
        attention_width: Heads times the length of one; 0 likewise.
        causal: Whether a token sees only those before it, which halves attention.
        max_length: Longest input, special tokens included; None where it isn't known.
    """

    name: str
    dimensions: int
    parameters: int
    layers: int = 0
    attention_width: int = 0
    causal: bool = False
    max_length: int | None = None

    def flops_per_token(self, length: int) -> int:
        """Products and sums for one token of a text of `length`: two a weight, and what attention adds."""
        attention = 4 * length * self.attention_width * self.layers // (2 if self.causal else 1)
        return 2 * self.parameters + attention


# Shapes as in the models' own config.json; the sums agree with the totals on the cards (595,776,512 and 4,021,774,336
# with a table of 151,669 tokens).
KNOWN_MODELS = {
    shape.name: shape
    for shape in (
        ModelShape("Qwen/Qwen3-Embedding-0.6B", 1024, 440_401_920, 28, 2048, causal=True, max_length=32_768),
        ModelShape("Qwen/Qwen3-Embedding-4B", 2560, 3_633_315_840, 36, 4096, causal=True, max_length=32_768),
        ModelShape("Qwen/Qwen3-Embedding-8B", 4096, 6_945_767_424, 36, 4096, causal=True, max_length=32_768),
        ModelShape("sentence-transformers/all-MiniLM-L6-v2", 384, 10_616_832, 6, 384, max_length=256),
    )
}


@dataclass(frozen=True, slots=True)
class Device:
    """How fast a device is at most, and what share of that embedding reaches.

    Args:
        tflops: Dense products in bfloat16, 10^12 floating point operations a second.
        share: What an engine reaches of it.
        rate: Where `tflops` comes from.
        reached: Where `share` comes from.
    """

    tflops: float
    share: float
    rate: Assumption
    reached: Assumption


def _gpu(name: str, tflops: float) -> Device:
    return Device(
        tflops,
        _GPU_SHARE,
        Assumption(
            "peak rate", f"{tflops:,.0f} TFLOP/s", Origin.DOCUMENTED,
            f"NVIDIA's data sheet, {name}, dense bfloat16; --peak-tflops",
        ),
        Assumption("share of it", f"{_GPU_SHARE:.0%}", Origin.ASSUMED, "nothing was measured on a GPU; --share"),
    )  # fmt: skip


_GPU_SHARE = 0.4
DEVICES = {
    "h200": _gpu("H200 SXM", 989),
    "h100": _gpu("H100 SXM", 989),
    "a100": _gpu("A100", 312),
    "l40s": _gpu("L40S", 362),
    "l4": _gpu("L4", 121),
    "cpu": Device(
        0.450,
        0.77,
        Assumption("peak rate", "0.45 TFLOP/s", Origin.MEASURED, "two Zen 4 cores, docs/performance.md; --peak-tflops"),
        Assumption("share of it", "77%", Origin.MEASURED, "MiniLM, deterministic, same machine (Qwen3-0.6B: 93%); --share"),
    ),
}

# Bits of a quantised vector for each dimension (qdrant.tech/documentation/manage-data/quantization), and as measured the bytes
# of its scale.
QUANTIZED_BITS = {
    Quantization.SCALAR: (8, 4),
    Quantization.BINARY: (1, 0),
    Quantization.TURBO1: (1, 8),  # turbo4 was measured; the others as it
    Quantization.TURBO2: (2, 8),
    Quantization.TURBO4: (4, 8),
    Quantization.TURBO8: (8, 8),
}
STORES = ("edge", "qdrant", "chroma")
_BYTES = {VectorStorage.FLOAT32: 4, VectorStorage.FLOAT16: 2}

# Measured on 2026-11-30 (benchmarks/results/*-sizes.json, docs/planning.md), qdrant-edge-py 0.9.0 and chromadb 1.5.9, bytes.
_EDGE_PAYLOAD, _EDGE_PAYLOAD_POINT = 0.83, 255  # compressed; for each byte of payload, and for each point besides
_EDGE_POINT, _EDGE_POINT_INDEXED, _EDGE_BASE = 305, 410, 300_000  # ids, indexes of the payload
_EDGE_LOG, _EDGE_LOG_RECORD = 50_000_000, 237  # the log of writes ends at 17 to 67 MB; a number takes five bytes in it
_EDGE_LINKS = 34  # of a vector in the search index; each takes as many bits as the points' number has
_EDGE_INDEXED_FROM = 100_000
_EDGE_HELD, _EDGE_HELD_INDEXED, _EDGE_HELD_BASE = 1_075, 780, 13_000_000  # of the process's own memory
_CHROMA_LINKS = 140
_CHROMA_PAYLOAD = 7.7  # with the full-text index that Chroma builds of every text
_CHROMA_POINT = 105
_CHROMA_LOG, _CHROMA_LOG_PAYLOAD, _CHROMA_LOG_NUMBER = 900_000, 1_360, 2_016  # its queue keeps about a thousand points
_CHROMA_HELD, _CHROMA_HELD_BASE = 700, 13_000_000


@dataclass(frozen=True, slots=True)
class StoreSize:
    """What a collection takes in one store; bytes.

    Args:
        store: "edge", "qdrant" (a server) or "chroma".
        layout: How its vectors are kept.
        memory_bytes: What quick searching wants in memory: the vectors or their quantised copy, the graph, ids and indexes.
        disk_bytes: On disk.
        parts: What is what on disk: `vectors`, `quantized`, `graph`, `payload`, `points` (ids and indexes) and `log`.
    """

    store: str
    layout: VectorLayout
    memory_bytes: int
    disk_bytes: int
    parts: Mapping[str, int]


def store_size(store: str, points: int, payload_bytes: float, layout: VectorLayout) -> StoreSize:
    """What so many points take, whose text, source and metadata have `payload_bytes` each in the mean."""
    vectors = points * sum(layout.lengths) * _BYTES[layout.storage]
    parts = {"vectors": vectors, "quantized": points * _quantized_bytes(layout)}
    if store == "chroma":
        parts |= {
            "graph": points * _CHROMA_LINKS,
            "payload": round(points * payload_bytes * _CHROMA_PAYLOAD),
            "points": points * _CHROMA_POINT,
            "log": round(_CHROMA_LOG + _CHROMA_LOG_PAYLOAD * payload_bytes + _CHROMA_LOG_NUMBER * layout.dimensions),
        }
        held = points * _CHROMA_HELD + _CHROMA_HELD_BASE
    else:
        is_indexed = store == "qdrant" or points > _EDGE_INDEXED_FROM
        link_bits = math.log2(max(points, 2))
        record = 5 * sum(layout.lengths) + payload_bytes + _EDGE_LOG_RECORD
        parts |= {
            "graph": round(points * len(layout.lengths) * _EDGE_LINKS * link_bits / 8) if is_indexed else 0,
            "payload": round(points * (payload_bytes * _EDGE_PAYLOAD + _EDGE_PAYLOAD_POINT)),
            "points": points * (_EDGE_POINT_INDEXED if is_indexed else _EDGE_POINT) + _EDGE_BASE,
            "log": round(min(points * record, _EDGE_LOG)),
        }
        held = points * (_EDGE_HELD_INDEXED if is_indexed else _EDGE_HELD) + _EDGE_HELD_BASE
    memory = (parts["quantized"] or vectors) + parts["graph"] + held
    return StoreSize(store, layout, memory, sum(parts.values()), parts)


def _quantized_bytes(layout: VectorLayout) -> int:
    """What a point's compressed copies take."""
    if layout.quantization is None:
        return 0
    bits, scale = QUANTIZED_BITS[layout.quantization]
    return sum(math.ceil(length * bits / 8) + scale for length in layout.lengths)


def store_sizes(points: int, payload_bytes: float, layouts: Sequence[VectorLayout]) -> tuple[StoreSize, ...]:
    """What so many points take in each store that can keep them so; Chroma keeps one length, as it is."""
    return tuple(
        store_size(store, points, payload_bytes, layout)
        for layout in layouts
        for store in STORES
        if store != "chroma" or layout == VectorLayout(layout.dimensions)
    )


def qdrant_rule(points: int, layout: VectorLayout) -> int:
    """Qdrant's own rule of thumb for memory, half as much again as the vectors in float32, bytes."""
    return round(points * sum(layout.lengths) * 4 * _QDRANT_FACTOR)


QDRANT_RULE = "vectors * dimensions * 4 bytes * 1.5, qdrant.tech/documentation/cloud/capacity-sizing"
_QDRANT_FACTOR = 1.5


@dataclass(frozen=True, slots=True)
class CorpusPlan:
    """What a corpus will take.

    Args:
        documents: How many.
        chunks: Points of the collection.
        tokens: What the model reads, with what chunks repeat and special tokens.
        tokens_per_second: Of one device; None where nobody said.
        seconds: Of all devices at once; None likewise.
        device_hours: Hours times devices; None likewise.
        payload_bytes: What a chunk keeps besides its vector.
        shards: How many pieces the collection is cut into.
        sizes: For each store and way of keeping vectors, of all shards together.
        assumptions: What all that stands on.
    """

    documents: int
    chunks: int
    tokens: int
    tokens_per_second: float | None
    seconds: float | None
    device_hours: float | None
    payload_bytes: float
    shards: int
    sizes: tuple[StoreSize, ...]
    assumptions: tuple[Assumption, ...]


# How the project's own chunker fills chunks, and what their texts take: see docs/planning.md.
BYTES_PER_TOKEN = 4.1
METADATA_BYTES = 145
SPECIAL_TOKENS = 2
_CHUNK_TOKENS = 512  # the indexer's own default
# The mean chunk is shorter than the largest, because chunks end where sections do: 1 / mean = a / largest + 1 / section.
_FILL, _SECTION_TOKENS = 1.15, 417


def mean_fill(chunk_tokens: int) -> float:
    """The mean chunk of the project's sample texts as a share of the largest."""
    return 1 / (_FILL + chunk_tokens / _SECTION_TOKENS)


class Figures(TypedDict, total=False):
    """What a caller of `plan_corpus` may know better; the meanings are explained there."""

    chunk_tokens: int | None
    overlap_tokens: int
    chunk_fill: float | None
    bytes_per_token: float | None
    metadata_bytes: int | None
    tokens_per_second: float | None
    device: str | None
    peak_tflops: float | None
    share: float | None
    devices: int
    shard_points: int | None


def plan_corpus(
    documents: int,
    tokens_per_document: float,
    *,
    model: ModelShape,
    chunk_tokens: int | None = None,
    overlap_tokens: int = 0,
    chunk_fill: float | None = None,
    bytes_per_token: float | None = None,
    metadata_bytes: int | None = None,
    layouts: Sequence[VectorLayout] = (),
    tokens_per_second: float | None = None,
    device: str | None = None,
    peak_tflops: float | None = None,
    share: float | None = None,
    devices: int = 1,
    shard_points: int | None = None,
) -> CorpusPlan:
    """Chunks, tokens, time and bytes of a corpus that isn't here yet.

    Args:
        documents: How many.
        tokens_per_document: In the mean.
        model: What embeds.
        chunk_tokens: Largest chunk; None is what an index run takes: 512, or what the model reads.
        overlap_tokens: What each chunk of a document repeats of the one before.
        chunk_fill: Mean length of a chunk as a share of the largest; None is what was measured.
        bytes_per_token: Of the texts in UTF-8; None is what was measured.
        metadata_bytes: Source and metadata of a chunk; None is what was measured.
        layouts: Ways to keep the vectors; none is the model's own length in float32.
        tokens_per_second: What one device embeds, as you measured it.
        device: Instead, one of `DEVICES`, whose rate is computed from the model's arithmetic.
        peak_tflops: The device's rate of products, 10^12 a second.
        share: What embedding reaches of it.
        devices: How many work side by side.
        shard_points: At most so many points in a shard; None is one shard.

    Raises:
        UsageError: A figure out of range, or an unknown device.
    """
    room = math.inf if model.max_length is None else model.max_length - SPECIAL_TOKENS
    if chunk_tokens is None:
        chunk_tokens = int(min(_CHUNK_TOKENS, room))
    if chunk_tokens > room:
        raise UsageError(f"--chunk-tokens {chunk_tokens} is out of range: {model.name} reads at most {room} and special ones.")
    _check(documents, tokens_per_document, chunk_tokens, overlap_tokens, devices, shard_points)
    notes: list[Assumption] = []
    if chunk_fill is not None and chunk_fill > 1:
        raise UsageError(f"--chunk-fill {chunk_fill} is out of range: at most 1, which is as long as the largest chunk.")
    fill = _noted(notes, "chunk fill", chunk_fill, mean_fill(chunk_tokens), "{:.0%} of the largest chunk", "--chunk-fill")
    size = _noted(notes, "text", bytes_per_token, BYTES_PER_TOKEN, "{:.1f} bytes a token", "--bytes-per-token")
    metadata = _noted(notes, "source and metadata", metadata_bytes, METADATA_BYTES, "{:,.0f} bytes a chunk", "--metadata-bytes")
    advance = max(1.0, fill * (chunk_tokens - overlap_tokens))
    chunks = round(documents * max(1.0, tokens_per_document / advance))
    tokens = round(documents * tokens_per_document) + (chunks - documents) * overlap_tokens + chunks * SPECIAL_TOKENS
    mean = tokens / chunks
    rate = _rate(notes, model, mean, tokens_per_second, device, peak_tflops, share)
    payload = (mean - SPECIAL_TOKENS) * size + metadata
    shards = 1 if shard_points is None else math.ceil(chunks / shard_points)
    layouts = layouts or [VectorLayout(model.dimensions)]
    rules = [f"{'+'.join(map(str, one.lengths))}: {qdrant_rule(chunks, one) / 1e9:,.1f} GB" for one in layouts]
    notes += [
        *_SIZE_NOTES,
        Assumption("Qdrant's own rule", ", ".join(dict.fromkeys(rules)), Origin.DOCUMENTED, f"in memory: {QDRANT_RULE}"),
    ]
    return CorpusPlan(
        documents=documents,
        chunks=chunks,
        tokens=tokens,
        tokens_per_second=rate,
        seconds=None if rate is None else tokens / rate / devices,
        device_hours=None if rate is None else tokens / rate / 3600,
        payload_bytes=payload,
        shards=shards,
        sizes=store_sizes(chunks, payload, layouts),
        assumptions=tuple(notes),
    )


def shape_of(name: str, config: Mapping[str, Any], dimensions: int, max_length: int | None = None) -> ModelShape:
    """The shape in a `config.json` of the families whose sizes are known.

    Raises:
        UsageError: Another family.
    """
    kind = config.get("model_type")
    try:
        hidden, layers, heads = config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"]
        intermediate = config["intermediate_size"]
    except KeyError:
        kind = None
    if kind not in ("qwen3", *_ENCODERS):
        raise UsageError(
            f"{name} is of a kind ({config.get('model_type')!r}) whose sizes aren't known here. Give --native-dimensions and"
            " --parameters (all weights but the token embeddings) instead of --model."
        )
    is_gated = kind == "qwen3"
    width = heads * (config.get("head_dim") or hidden // heads)
    keys = 2 * config.get("num_key_value_heads", heads) * (width // heads)
    weights = layers * (hidden * (width + keys) + width * hidden + (3 if is_gated else 2) * hidden * intermediate)
    return ModelShape(name, dimensions, weights, layers, width, causal=is_gated, max_length=max_length)


_ENCODERS = ("bert", "roberta", "xlm-roberta", "camembert")


def _rate(
    notes: list[Assumption],
    model: ModelShape,
    length: float,
    tokens_per_second: float | None,
    device: str | None,
    peak_tflops: float | None,
    share: float | None,
) -> float | None:
    """Tokens a second of one device, with what it stands on."""
    for option, value in (("--tokens-per-second", tokens_per_second), ("--peak-tflops", peak_tflops), ("--share", share)):
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"{option} {value} is out of range: more than 0.")
    if share is not None and share > 1:
        raise UsageError(f"--share {share} is out of range: at most 1, which is all of the peak rate.")
    if tokens_per_second is not None:
        if device or peak_tflops or share:
            raise UsageError("A rate is given (--tokens-per-second), so leave out --device, --peak-tflops and --share.")
        notes.append(Assumption("rate", f"{tokens_per_second:,.0f} tokens/s a device", Origin.GIVEN, "--tokens-per-second"))
        return tokens_per_second
    if device is None and (peak_tflops is None or share is None):
        if peak_tflops is not None or share is not None:
            raise UsageError("--peak-tflops and --share go together, or with --device.")
        return None
    known = None if device is None else DEVICES.get(device)
    if device is not None and known is None:
        raise UsageError(f"The device {device!r} isn't known: one of {', '.join(DEVICES)}; or give --tokens-per-second.")
    if peak_tflops is not None:
        notes.append(Assumption("peak rate", f"{peak_tflops:,.2f} TFLOP/s", Origin.GIVEN, "--peak-tflops"))
    elif known is not None:
        notes.append(known.rate)
        peak_tflops = known.tflops
    if share is not None:
        notes.append(Assumption("share of it", f"{share:.0%}", Origin.GIVEN, "--share"))
    elif known is not None:
        notes.append(known.reached)
        share = known.share
    flops = model.flops_per_token(round(length))
    attention = f"and attention over {length:,.0f} tokens" if model.layers else "attention isn't counted: its width isn't known"
    notes.append(
        Assumption(
            "arithmetic", f"{flops / 1e9:,.3g} GFLOP a token", Origin.DOCUMENTED,
            f"{model.name}: two for each of {model.parameters:,} weights, {attention}",
        )
    )  # fmt: skip
    return (peak_tflops or 0.0) * 1e12 * (share or 0.0) / flops


# Beyond that floating point numbers count no single tokens any more.
_MOST_TOKENS = 10**15


def _noted(notes: list[Assumption], name: str, given: float | None, measured: float, form: str, option: str) -> float:
    """A figure that was measured, unless the caller has another one."""
    if given is not None:
        if not 0 < given < math.inf:
            raise UsageError(f"{option} {given} is out of range: more than 0.")
        notes.append(Assumption(name, form.format(given), Origin.GIVEN, option))
        return given
    notes.append(Assumption(name, form.format(measured), Origin.MEASURED, f"{_CORPORA}; {option}"))
    return measured


_CORPORA = "on 2026-11-30 over 468 files, docs/planning.md"


def _check(
    documents: int,
    tokens_per_document: float,
    chunk_tokens: int,
    overlap_tokens: int,
    devices: int,
    shard_points: int | None,
) -> None:
    given = {
        "--documents": documents, "--tokens-per-document": tokens_per_document, "--chunk-tokens": chunk_tokens,
        "--devices": devices, "--shard-points": 1 if shard_points is None else shard_points,
    }  # fmt: skip
    for option, value in given.items():
        if not 1 <= value < math.inf:
            raise UsageError(f"{option} {value} is out of range: at least 1.")
    if documents > _MOST_TOKENS or documents * tokens_per_document > _MOST_TOKENS:
        raise UsageError(
            f"--documents {documents} and --tokens-per-document {tokens_per_document:g} are out of range: at most "
            f"{_MOST_TOKENS:.0e} tokens together."
        )
    if not 0 <= overlap_tokens <= chunk_tokens // 2:
        raise UsageError(f"--overlap-tokens {overlap_tokens} is out of range: 0 to {chunk_tokens // 2}, half of a chunk.")


_SIZE_NOTES = (
    Assumption("special tokens", f"{SPECIAL_TOKENS} a chunk", Origin.ASSUMED, "BERT's; Qwen3 has 1"),
    Assumption("Edge and Chroma", "a line through measured collections", Origin.MEASURED, "on 2026-11-30, docs/planning.md"),
    Assumption("a Qdrant server", "as Edge with a search index", Origin.ASSUMED, "the same engine; no server was measured"),
    Assumption(
        "quantised vectors", "8, 4, 2 or 1 bits a dimension beside the originals", Origin.DOCUMENTED,
        "qdrant.tech/documentation/manage-data/quantization",
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Calibration:
    """How fast an embedder was, measured on texts that a run would embed.

    Args:
        texts: How many were measured; the same text may have come several times.
        tokens: How many those have; None without a tokenizer.
        seconds: What they took.
        loading_seconds: What came before: loading the model and the first text.
    """

    texts: int
    tokens: int | None
    seconds: float
    loading_seconds: float


@dataclass(frozen=True, slots=True)
class IndexPlan:
    """What an index run would do.

    Args:
        url: The collection.
        exists: Whether it is there already.
        rebuilds: Whether it would be made anew beside the old one.
        model: Who would embed.
        dimensions: Length of its vectors.
        summary: What the run would report; the seconds are those that finding it out took.
        added: Documents that it doesn't have yet.
        changed: Documents that it has otherwise.
        unchanged: Documents that it has as they are.
        empty: Documents without text.
        removed: Vanished documents that would be deleted.
        kept: Vanished documents that would stay.
        refusal: Why the run would refuse to delete, or to replace the old collection; None if it wouldn't.
        tokens: What the model would read; None where they can't be counted.
        calibration: What was measured; None where nothing was, or nothing is to be embedded.
        seconds: How long the run would take about; None without a calibration.
        sizes: What the collection would then take, by store and length.
    """

    url: str
    exists: bool
    rebuilds: bool
    model: str
    dimensions: int
    summary: IndexSummary
    added: tuple[str, ...]
    changed: tuple[str, ...]
    unchanged: tuple[str, ...]
    empty: tuple[str, ...]
    removed: tuple[str, ...]
    kept: tuple[str, ...]
    refusal: str | None
    tokens: int | None
    calibration: Calibration | None
    seconds: float | None
    sizes: tuple[StoreSize, ...]


def run_seconds(summary: IndexSummary, tokens: int | None, measured: Calibration | None) -> float:
    """What a run takes: loading, then embedding beside reading; `summary.seconds` is what reading took just now."""
    if measured is None:
        return summary.seconds
    if tokens is None or measured.tokens is None:
        embedding = summary.chunks_embedded * measured.seconds / measured.texts
    else:
        embedding = tokens * measured.seconds / measured.tokens
    return measured.loading_seconds + max(summary.seconds, embedding)
