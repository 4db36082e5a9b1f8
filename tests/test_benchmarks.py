"""The benchmark runner's pure parts: texts are exact and seeded, and its arithmetic is what a person gets by hand."""

from __future__ import annotations

import random

import numpy as np
import pytest
from benchmarks import dimensions, mixes, peers, report
from benchmarks.engine import distances
from benchmarks.flops import Shape
from benchmarks.measuring import SideFailed, in_turn, ratios, table

QWEN3 = Shape(hidden=4, layers=2, heads=3, key_value_heads=1, head_dim=2, intermediate=5, gated=True, causal=True)
BERT = Shape(hidden=4, layers=2, heads=2, key_value_heads=2, head_dim=2, intermediate=5, gated=False, causal=False)
SENTENCES = "\n".join(
    f"The keeper of tower {number} cleans the lamp, and writes 'naïve café' in the log." for number in range(400)
)
SOURCE = mixes.Source("test", SENTENCES, SENTENCES)


@pytest.fixture(scope="module")
def tokenizer(minilm_folder):
    return mixes.open_tokenizer(minilm_folder)


@pytest.mark.parametrize("name", ["queries", "chunks", "512", "one"])
def test_every_text_of_a_mix_has_exactly_the_tokens_that_were_drawn(name, tokenizer):
    """The model's own tokenizer counts what the mix says, special tokens included, and the budget is met."""
    mix = mixes.make(name, 3_000, 512, tokenizer, SOURCE)
    assert [len(encoding.ids) for encoding in tokenizer.encode_batch(mix.texts)] == mix.lengths
    assert 3_000 <= mix.tokens < 3_000 + 512
    assert all(text == text.strip() for text in mix.texts)


def test_a_mix_is_the_same_every_time(tokenizer):
    """The seed is fixed, so all sides and all runs embed the same texts."""
    assert mixes.make("chunks", 2_000, 256, tokenizer, SOURCE) == mixes.make("chunks", 2_000, 256, tokenizer, SOURCE)


def test_lengths_of_chunks_have_a_long_tail_below_the_limit():
    """Their mean is that of real chunks, some are much longer, and none is beyond the model's limit."""
    lengths = mixes.lengths_of("chunks", 400_000, 256, random.Random(1))
    assert max(lengths) == 256
    assert 110 < sum(lengths) / len(lengths) < 150
    free = mixes.lengths_of("chunks", 400_000, 32_768, random.Random(1))
    assert max(free) > 4 * sum(free) / len(free)


def test_a_mix_beyond_the_models_limit_is_refused():
    """It would measure truncation."""
    with pytest.raises(ValueError, match="the model takes 512"):
        mixes.lengths_of("2048", 10_000, 512, random.Random(1))


def test_the_arithmetic_of_a_gated_causal_layer():
    """By hand: queries 4x6, keys and values 4x4, output 6x4, gate and up 4x10, down 5x4: 124 weights in each of two layers."""
    assert sum(rows * columns for rows, columns in QWEN3.products) == 124
    assert QWEN3.linear_flops_per_token == 2 * 2 * 124
    assert QWEN3.attention_flops(10) == 4 * 10 * 10 * 3 * 2 * 2 // 2
    assert QWEN3.flops([10, 1]) == 11 * 496 + 2_400 + 24


def test_the_arithmetic_of_a_plain_layer():
    """By hand: 4x12 and 4x4 for attention, 4x5 and 5x4 behind it; every token sees every other."""
    assert BERT.linear_flops_per_token == 2 * 2 * (48 + 16 + 20 + 20)
    assert BERT.attention_flops(10) == 4 * 100 * 2 * 2 * 2


def test_the_sizes_of_qwen3_are_read_off_its_config():
    """Qwen3-Embedding-0.6B: 28 layers of 15.7 million weights, its heads wider than its hidden size."""
    config = {"model_type": "qwen3", "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16,
              "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 3072}  # fmt: skip
    assert Shape.of(config).linear_flops_per_token == 2 * 28 * 15_728_640


def test_the_share_of_the_ceiling():
    """Half of what the matrix units give is half."""
    facts = {"flops": 6_000, "tokens": 100}
    assert report.share_of_ceiling(1_000, facts, {"flops_per_second": 120_000}) == pytest.approx(0.5)


def test_ratios_are_taken_within_each_round():
    """The median of the rounds' own ratios and their range, not the ratio of medians."""
    ours, peer = [{"x": 10.0}, {"x": 30.0}, {"x": 20.0}], [{"x": 5.0}, {"x": 10.0}, {"x": 20.0}]
    assert ratios(ours, peer, "x") == "2.00x (1.00 to 3.00)"


def test_a_wait_is_compared_the_other_way_round():
    """Where less is better, `Sightline is` still says how many times as fast."""
    sides = {"Sightline bfloat16": [{"mixes": {"one": {"p50_ms": 5.0}}}], "peer": [{"mixes": {"one": {"p50_ms": 20.0}}}]}
    assert report.compared(sides, "one", "p50_ms") == {"Sightline bfloat16": "1.00x", "peer": "4.00x"}


def test_a_table_is_markdown():
    """The first column is text, the others are figures."""
    assert table(["side", "s"], [["ours", 1]]) == "| side | s |\n| --- | ---: |\n| ours | 1 |"


def test_the_best_batch_size_is_compared_as_a_figure():
    """Sizes are keys of a JSON object, so they come as texts."""
    assert peers.best_size({"8": 900.0, "16": 1_000.0, "32": 950.0}) == 16


def test_distances_are_those_of_rows():
    """Largest and mean distance, and the lowest cosine."""
    found = distances(np.array([[1, 0], [0, 1]], np.float32), np.array([[1, 0], [1, 0]], np.float32))
    assert found == {"largest": pytest.approx(2**0.5), "mean": pytest.approx(2**0.5 / 2), "lowest_cosine": 0.0}


def test_a_side_that_fails_is_left_out_and_named():
    """The others go on, and its reason is kept."""

    def fails():
        raise SideFailed("no such model")

    failed = {}
    found = in_turn({"bad": fails, "good": lambda: {"seconds": 1.0}}, 2, lambda line: None, failed)
    assert list(found) == ["good"]
    assert len(found["good"]) == 2
    assert failed == {"bad": "failed: no such model"}


def test_a_command_stays_with_what_it_does():
    """Paragraphs are texts of their own, on one line each."""
    page = "# tar\n\n> Archives.\n> More.\n\n- Pack a file:\n\n`tar cf {{x}}`\n"
    assert list(dimensions._pieces(page)) == ["# tar", "> Archives. > More.", "- Pack a file: `tar cf {{x}}`"]


def test_truth_is_the_exact_neighbours(tmp_path):
    """Ten rows for each question, by the plain product."""
    rows = np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32)
    np.save(tmp_path / "vectors.npy", rows)
    np.save(tmp_path / "queries.npy", rows[:3])
    assert dimensions._truth(tmp_path) == [set(np.argsort(-(rows @ row))[:10].tolist()) for row in rows[:3]]


def test_every_layout_that_is_tried_can_be_searched_so():
    """A shortlist is by a length that the collection keeps, and has more candidates than hits."""
    for layout, shortlists in dimensions._TRIED.values():
        for one in shortlists:
            assert one is None or (one.dimensions in layout.shorter and one.candidates >= dimensions._HITS)
