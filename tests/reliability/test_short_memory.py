"""Facts about memory that a device doesn't have: the budget shrinks, the vectors stay, and what can't shrink is named."""

from __future__ import annotations

import json
import logging
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attacks import Attack
from sightline import EmbeddingEngine
from sightline.embedding.packed_encoder import PackedEncoder
from sightline.errors import SightlineError
from texts import prose

pytestmark = pytest.mark.slow
SHORT = [prose(12, seed=row) for row in range(60)]


@contextmanager
def device_of(most: int, monkeypatch: pytest.MonkeyPatch, *, fails: int | None = None) -> Iterator[list[int]]:
    """A device with memory for passes of `most` tokens; after `fails` failures it has enough. Gives the sizes of its passes."""
    forward, sizes, failed = PackedEncoder.hidden_states, [], [0]

    def limited(self: Any, batch: Any, rows: Any = None) -> Any:
        size = sum(batch.lengths) + batch.filler
        if size > most and (fails is None or failed[0] < fails):
            failed[0] += 1
            raise torch.OutOfMemoryError("no room")
        sizes.append(size)
        return forward(self, batch, rows)

    with monkeypatch.context() as patch:
        patch.setattr(PackedEncoder, "hidden_states", limited)
        yield sizes


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "out of memory" in record.getMessage()]


@pytest.mark.parametrize("most", [600, 80])
def test_a_smaller_budget_gives_the_same_vectors(
    make_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, attack: Attack, most: int
) -> None:
    """However often it is halved: no pass is tried that is known to be too large, and one warning tells of each halving."""
    with EmbeddingEngine(make_model("qwen3"), device="cpu", dtype="float32", threads=1, max_batch_tokens=1000) as engine:
        expected = engine.embed_documents(SHORT)
        with attack("out of memory on the device"), device_of(most, monkeypatch) as sizes, caplog.at_level(logging.WARNING):
            assert np.abs(engine.embed_documents(SHORT) - expected).max() < 1e-5
            told = warnings_in(caplog)
            assert np.abs(engine.embed_documents(SHORT) - expected).max() < 1e-5
        assert max(sizes) <= most
        budgets = [int(one.rpartition("=")[2]) for one in told]
        assert budgets == sorted(set(budgets), reverse=True)
        assert warnings_in(caplog) == told  # the budget stays, so the second call meets nothing


def test_a_single_text_that_does_not_fit_is_an_error_that_names_the_device(
    make_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, attack: Attack
) -> None:
    """After all the halvings; the engine lives on."""
    with EmbeddingEngine(make_model("qwen3"), device="cpu", dtype="float32", threads=1, max_batch_tokens=1000) as engine:
        told = r"The device cpu has no memory for a pass of .* can't be smaller"
        with attack("out of memory on the device"), device_of(0, monkeypatch), pytest.raises(SightlineError, match=told):
            engine.embed_documents(SHORT)
        assert np.isfinite(engine.embed_documents(SHORT[:2])).all()


def test_a_deterministic_pass_is_tried_again_once(
    make_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, attack: Attack
) -> None:
    """It has a fixed size, or other bits: what was in the way may be gone when what the device had is given back."""
    folder = make_model("qwen3")
    with EmbeddingEngine(folder, device="cpu", dtype="float32", threads=1, deterministic=True) as engine:
        expected = engine.embed_documents(SHORT)
        with attack("out of memory on the device"), device_of(0, monkeypatch, fails=1):
            assert np.array_equal(engine.embed_documents(SHORT), expected)
        told = "has no memory for a pass of 2,048 tokens"
        with attack("out of memory on the device"), device_of(0, monkeypatch), pytest.raises(SightlineError, match=told):
            engine.embed_documents(SHORT)


@pytest.mark.parametrize(("tokens", "deterministic"), [(32_768, False), (8_192, True)])
def test_a_very_long_text_leaves_the_short_ones_their_budget(
    make_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, attack: Attack, tokens: int, deterministic: bool
) -> None:
    """It goes alone, in one pass of just its tokens; no other pass is larger than the budget, and memory is that of it alone."""
    folder = make_model("qwen3", max_seq_length=32_768)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 32_768}), encoding="utf-8")
    long = "a " * tokens
    with EmbeddingEngine(
        folder, device="cpu", dtype="float32", threads=1, max_batch_tokens=2000, max_length=tokens, deterministic=deterministic
    ) as engine, attack("32,768 tokens among short texts"), device_of(10**9, monkeypatch) as sizes:
        alone = engine.embed_documents([long])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        rows = engine.embed_documents([*SHORT[:30], long, *SHORT[30:]])
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        short = engine.embed_documents(SHORT)
    assert np.abs(rows[30] - alone[0]).max() < 1e-5
    assert np.abs(np.delete(rows, 30, axis=0) - short).max() < 1e-5
    assert sorted(set(sizes))[-1] == tokens
    assert max(size for size in sizes if size != tokens) <= 2048
    assert grown < 1.1 * peak
