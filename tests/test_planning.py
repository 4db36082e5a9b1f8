"""Facts about planning a corpus that isn't here: the arithmetic, and that sizes are those of real collections."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sightline
from sightline import planning
from sightline.errors import DimensionError, UsageError
from sightline.metadata import payload_bytes
from sightline.planning import KNOWN_MODELS, ModelShape, Origin, plan_corpus, qdrant_rule, shape_of, store_size, store_sizes
from sightline.types import Head, Point, Quantization, VectorLayout, VectorStorage

PLAIN = ModelShape("plain", 1000, 500_000_000)
KNOWLEDGE_BASE = Path(__file__).parent.parent / "examples" / "knowledge_base"
TOLERANCE = 0.15


def plan(documents: int = 1000, tokens: float = 900, **more: Any) -> planning.CorpusPlan:
    """A plan with round figures: chunks of 100 tokens, each full."""
    given = {"chunk_tokens": 100, "chunk_fill": 1.0, "bytes_per_token": 4.0, "metadata_bytes": 200, **more}
    return plan_corpus(documents, tokens, model=PLAIN, **given)


# --- the arithmetic


def test_documents_are_cut_into_chunks() -> None:
    """Nine chunks of 100 tokens each, and two special tokens for each chunk."""
    found = plan()
    assert (found.chunks, found.tokens) == (9000, 900_000 + 2 * 9000)
    assert found.payload_bytes == pytest.approx(100 * 4 + 200)


def test_a_short_document_is_one_chunk() -> None:
    """However little of a chunk it fills."""
    assert plan(tokens=10).chunks == 1000


def test_an_overlap_is_read_twice() -> None:
    """Chunks advance by what they don't repeat."""
    found = plan(overlap_tokens=10)
    assert found.chunks == 10_000
    assert found.tokens == 900_000 + 9000 * 10 + 2 * 10_000


def test_a_rate_that_is_given_gives_hours() -> None:
    """Device hours are those of one device; several are done sooner."""
    found = plan(tokens_per_second=255.0, devices=2)
    assert found.seconds == pytest.approx(1800)
    assert found.device_hours == pytest.approx(1.0)
    assert ("rate", Origin.GIVEN) in [(one.name, one.origin) for one in found.assumptions]


def test_a_rate_is_computed_from_the_models_arithmetic() -> None:
    """Two operations for each weight of each token: 10^9 here, so that 10^12 a second at half of it are 500 tokens."""
    found = plan(peak_tflops=1.0, share=0.5)
    assert found.tokens_per_second == pytest.approx(500)


def test_without_a_rate_there_are_no_hours() -> None:
    """Nobody's throughput is made up."""
    found = plan()
    assert (found.tokens_per_second, found.seconds, found.device_hours) == (None, None, None)


@pytest.mark.parametrize("device", planning.DEVICES)
def test_only_the_cpus_rate_is_measured(device: str) -> None:
    """What a GPU reaches is an assumption and called one."""
    origins = {one.name: one.origin for one in plan(device=device).assumptions}
    expected = (Origin.MEASURED, Origin.MEASURED) if device == "cpu" else (Origin.DOCUMENTED, Origin.ASSUMED)
    assert (origins["peak rate"], origins["share of it"]) == expected


def test_the_cpus_rate_is_what_was_measured() -> None:
    """MiniLM's measured 15,247 and Qwen3-0.6B's 471 tokens a second, by arithmetic."""
    for name, measured in (("sentence-transformers/all-MiniLM-L6-v2", 15_247), ("Qwen/Qwen3-Embedding-0.6B", 471)):
        found = plan_corpus(1, 150, model=KNOWN_MODELS[name], device="cpu")
        assert found.tokens_per_second == pytest.approx(measured, rel=0.25)


def test_chunks_are_no_longer_than_the_model_reads() -> None:
    """By default as an index run takes them: 512 tokens, or less."""
    short = ModelShape("short", 8, 1000, max_length=102)
    assert plan_corpus(1, 1000, model=short, chunk_fill=1.0).chunks == 10
    assert plan_corpus(1, 5120, model=PLAIN, chunk_fill=1.0).chunks == 10
    with pytest.raises(UsageError, match="at most 100"):
        plan_corpus(1, 1000, model=short, chunk_tokens=101)


def test_attention_adds_to_long_chunks() -> None:
    """And half as much where a token sees only those before it."""
    wide = ModelShape("wide", 8, 1000, layers=2, attention_width=64)
    causal = ModelShape("causal", 8, 1000, layers=2, attention_width=64, causal=True)
    assert wide.flops_per_token(100) == 2000 + 4 * 100 * 64 * 2
    assert causal.flops_per_token(100) == 2000 + 4 * 100 * 64


@pytest.mark.parametrize(("option", "value"), [
    ("documents", 0), ("tokens", 0), ("chunk_tokens", 0), ("devices", 0), ("shard_points", 0), ("overlap_tokens", 51),
    ("overlap_tokens", -1), ("chunk_fill", 0), ("chunk_fill", 1.5), ("bytes_per_token", -1.0), ("device", "abacus"),
    ("share", 0.5),
    ("peak_tflops", 3.0), ("share", 1.5), ("tokens", float("inf")), ("tokens_per_second", 0.0), ("tokens_per_second", -5.0),
])  # fmt: skip
def test_what_is_out_of_range_is_refused(option: str, value: Any) -> None:
    """With the option that is meant."""
    with pytest.raises(UsageError, match=r"out of range|isn't known|go together"):
        plan(**{option: value})


@pytest.mark.parametrize(
    ("documents", "tokens"), [(10**20, 1e300), (10**400, 1.0), (10**12, 1e6)], ids=["both", "documents", "product"]
)
def test_a_corpus_that_nobody_has_is_refused(documents: int, tokens: float) -> None:
    """Before anything overflows, or is counted wrong."""
    with pytest.raises(UsageError, match="tokens together"):
        plan_corpus(documents, tokens, model=PLAIN)


def test_a_rate_is_given_or_computed() -> None:
    """Not both."""
    with pytest.raises(UsageError, match="leave out"):
        plan(tokens_per_second=5.0, device="h200")


def test_shards_hold_what_they_may() -> None:
    """The last one less."""
    assert [plan(shard_points=size).shards for size in (9000, 8999, 4000)] == [1, 2, 3]


# --- models


def test_known_shapes_are_those_of_the_configs(shared_data: Path, minilm_folder: Path) -> None:
    """What the table says can be computed from the models' files."""
    qwen3 = json.loads((shared_data / "qwen3-embedding-0.6b" / "config.json").read_text(encoding="utf-8"))
    config = next(path for path in (minilm_folder / "config.json", minilm_folder / "0_Transformer/config.json") if path.exists())
    minilm = json.loads(config.read_text(encoding="utf-8"))
    for name, config, length, longest in (
        ("Qwen/Qwen3-Embedding-0.6B", qwen3, 1024, 32_768),
        ("sentence-transformers/all-MiniLM-L6-v2", minilm, 384, 256),
    ):
        assert shape_of(name, config, length, longest) == KNOWN_MODELS[name]


@pytest.mark.parametrize(("size", "total"), [("0.6B", 595_776_512), ("4B", 4_021_774_336)])
def test_known_shapes_agree_with_the_totals_on_the_cards(size: str, total: int) -> None:
    """But for norms, which have a few hundred thousand weights."""
    shape = KNOWN_MODELS[f"Qwen/Qwen3-Embedding-{size}"]
    assert shape.parameters + 151_669 * shape.dimensions == pytest.approx(total, rel=0.0002)


def test_a_model_on_this_machine_is_read(make_model: Callable[..., Path]) -> None:
    """A folder of a known family is as good as a name."""
    found = sightline.plan_corpus(10, 100, model=make_model("bert"), device="cpu")
    assert found.sizes[0].layout.dimensions == 64


def test_a_model_that_is_unknown_here_can_be_described() -> None:
    """Nothing is fetched to find out; both of its figures are needed."""
    with pytest.raises(UsageError, match="--native-dimensions and --parameters"):
        sightline.plan_corpus(10, 100, model="somebody/else")
    with pytest.raises(UsageError, match="both of them"):
        sightline.plan_corpus(10, 100, parameters=1e6)
    assert sightline.plan_corpus(10, 100, native_dimensions=768, parameters=1e8).sizes[0].layout.dimensions == 768


def test_a_family_of_unknown_sizes_is_refused() -> None:
    """With what to say instead."""
    with pytest.raises(UsageError, match="--parameters"):
        shape_of("theirs", {"model_type": "mamba"}, 64)


def test_lengths_are_compared_and_kept_together() -> None:
    """Each alone, and all in one collection; longer than the model's own is an error."""
    found = sightline.plan_corpus(10, 100, dimensions=[256, 1024])
    assert [one.layout.lengths for one in found.sizes if one.store == "edge"] == [(1024,), (256,), (1024, 256)]
    with pytest.raises(DimensionError, match="1 to 1024"):
        sightline.plan_corpus(10, 100, dimensions=[2048])


# --- sizes


def test_chroma_is_left_out_where_it_cant() -> None:
    """It keeps one length, in float32, and doesn't quantise."""
    layouts = [
        VectorLayout(64),
        VectorLayout(64, (32,)),
        VectorLayout(64, quantization=Quantization.BINARY),
        VectorLayout(64, storage=VectorStorage.FLOAT16),
    ]
    assert [one.layout for one in store_sizes(10, 100, layouts) if one.store == "chroma"] == [VectorLayout(64)]


@pytest.mark.parametrize(("kind", "share"), [("scalar", 1 / 4), ("turbo4", 1 / 8), ("turbo2", 1 / 16), ("binary", 1 / 32)])
def test_a_quantised_copy_comes_on_top_on_disk(kind: str, share: float) -> None:
    """And is what searching wants in memory instead of the vectors."""
    plain = store_size("qdrant", 1_000_000, 500, VectorLayout(1024))
    quantised = store_size("qdrant", 1_000_000, 500, VectorLayout(1024, quantization=Quantization(kind)))
    assert quantised.parts["quantized"] == pytest.approx(share * 1_000_000 * 4096, rel=0.04)
    assert quantised.disk_bytes == plain.disk_bytes + quantised.parts["quantized"]
    assert quantised.memory_bytes < plain.memory_bytes


def test_the_rule_of_qdrants_makers_is_kept_as_they_give_it() -> None:
    """Their own example: a million vectors of 1,024 take 6,144,000,000 bytes."""
    assert qdrant_rule(1_000_000, VectorLayout(1024)) == 6_144_000_000


def test_the_parts_are_the_whole() -> None:
    """On disk."""
    for one in store_sizes(5000, 700, [VectorLayout(384, (96,), Quantization.SCALAR)]):
        assert sum(one.parts.values()) == one.disk_bytes


@pytest.mark.parametrize(("form", "count", "dimensions"), [
    ("edge:{place}/db", 3000, 384), ("edge:{place}/db", 3000, 1024), ("chroma:{place}/db/points", 2000, 384),
])  # fmt: skip
def test_a_real_collection_takes_what_the_model_says(form: str, count: int, dimensions: int, tmp_path: Path) -> None:
    """Within the tolerance that docs/planning.md states."""
    made = points(count)
    rows = np.random.default_rng(2).normal(size=(count, dimensions)).astype(np.float32)
    from sightline.stores import open_store

    store = open_store(form.format(place=tmp_path))
    store.create(VectorLayout(dimensions), {})
    for start in range(0, count, 500):
        store.upsert(made[start : start + 500], rows[start : start + 500])
    store.close()
    store = open_store(form.format(place=tmp_path))
    taken = store.disk_bytes()
    store.close()
    mean = sum(map(payload_bytes, made)) / count
    expected = store_size(form.partition(":")[0], count, mean, VectorLayout(dimensions))
    assert taken == pytest.approx(expected.disk_bytes, rel=TOLERANCE)


def points(count: int) -> list[Point]:
    """Points as the indexer makes them; the texts are stretches of the example knowledge base."""
    text = "\n\n".join(path.read_text(encoding="utf-8") for path in sorted(KNOWLEDGE_BASE.rglob("*.md")))
    chooser = random.Random(5)
    made = []
    for number in range(count):
        source = f"handbook/chapter/document-{number // 10:06d}.md"
        start = chooser.randrange(len(text) - 1000)
        chunk = text[start : start + chooser.randrange(300, 900)]
        metadata = {"heading": "Handbook > Equipment", "start": start, "end": start + len(chunk), "tokens": len(chunk) // 4}
        head = Head(source, f"{number:064x}", 10, "markdown/2 sightline/1:256") if number % 10 == 0 else None
        made.append(Point(str(uuid.UUID(int=chooser.getrandbits(128))), chunk, source, metadata, head))
    return made
