"""Facts about an embedder behind Infinity's server, a program that isn't ours, with the real MiniLM."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sightline
from servers import InfinityServer
from sightline import RemoteEmbedder
from sightline.types import FloatArray

TEXTS = ["The lamp is cleaned with vinegar.", "Wie hoch ist die Tide?", "def mean(values): ...", "word " * 400]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not InfinityServer.PROGRAM.exists(), reason="Infinity isn't installed; run: make bench-peers"),
]


@pytest.fixture(scope="module")
def infinity(minilm_folder: Path) -> Iterator[InfinityServer]:
    """MiniLM, served by Infinity."""
    running = InfinityServer(minilm_folder, "minilm")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def remote(infinity: InfinityServer, minilm_folder: Path) -> Iterator[RemoteEmbedder]:
    """An embedder on it, which waits until it has started."""
    with RemoteEmbedder(infinity.base_url, "minilm", tokenizer=minilm_folder, start_timeout_s=120) as embedder:
        yield embedder


def lowest_cosine(ours: FloatArray, theirs: FloatArray) -> float:
    """Of each text with itself."""
    return float((ours * theirs).sum(axis=1).min())


def test_vectors_are_those_of_the_model(remote: RemoteEmbedder, minilm: Any) -> None:
    """Of unit norm, in the order of the texts, also where there are several requests."""
    texts = [f"{number}: {text}" for number in range(40) for text in TEXTS]
    assert lowest_cosine(minilm.embed_documents(texts), remote.embed_documents(texts)) >= 0.9999


def test_shorter_vectors_have_unit_norm(remote: RemoteEmbedder, minilm: Any) -> None:
    """Infinity cuts without a new norm."""
    found = remote.embed_documents(TEXTS, dimensions=192)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert lowest_cosine(minilm.embed_documents(TEXTS, dimensions=192), found) >= 0.9999


def test_a_collection_made_here_opens_through_it(remote: RemoteEmbedder, minilm: Any, tmp_path: Path) -> None:
    """Its probe vectors agree."""
    (tmp_path / "kb").mkdir()
    (tmp_path / "kb" / "lamp.md").write_text("The lamp is cleaned with vinegar.", encoding="utf-8")
    sightline.index([tmp_path / "kb"], into=f"edge:{tmp_path / 'made'}", model=minilm)
    with sightline.open_collection(f"edge:{tmp_path / 'made'}", model=remote) as collection:
        assert collection.search("how is the lamp cleaned?")[0].source == "kb/lamp.md"
