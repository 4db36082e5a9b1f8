"""Facts about an embedder behind Infinity, a server that isn't ours: real weights in float32, real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import sightline
from served import KNOWLEDGE_BASE, PACKAGED, lowest_cosine, pooled_otherwise
from servers import INFINITY, InfinityServer
from sightline import EmbeddingEngine, RemoteEmbedder
from sightline.errors import ContractMismatch, InputError

TEXTS = ["the lamp", "", "ein Turm 東京 🗼", "word " * 100, "word " * 2000, *(f"house number {number}" for number in range(200))]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not INFINITY.exists(), reason="Infinity isn't installed; `make bench-peers` installs it"),
]


@pytest.fixture(scope="module")
def server(minilm_folder: Path) -> Iterator[InfinityServer]:
    """MiniLM, served by Infinity."""
    running = InfinityServer(minilm_folder)
    yield running
    running.kill()


@pytest.fixture
def remote(server: InfinityServer) -> Iterator[RemoteEmbedder]:
    """An embedder on it."""
    with RemoteEmbedder(server.url, "minilm", tokenizer=PACKAGED) as embedder:
        yield embedder


@pytest.fixture(scope="module")
def engine() -> Iterator[EmbeddingEngine]:
    """The same model in this process."""
    with EmbeddingEngine(PACKAGED, dtype="float32", device="cpu") as running:
        yield running


def test_vectors_are_the_engine_s(remote: RemoteEmbedder, engine: EmbeddingEngine) -> None:
    """Of any text, in the order of the texts, over several requests."""
    found, expected = remote.embed_documents(TEXTS), engine.embed_documents(TEXTS)
    assert np.min(np.sum(found * expected, axis=1)) >= 0.9999


def test_it_is_seen_what_the_server_is(remote: RemoteEmbedder) -> None:
    """By its name, and by what it calls tokens."""
    server = remote.server
    assert (server.name, server.native_dimensions, server.normalised, server.counts_characters) == ("infinity", 384, True, True)


def test_what_the_server_cut_off_is_counted(server: InfinityServer) -> None:
    """It doesn't say so."""
    with RemoteEmbedder(server.url, "minilm", tokenizer=PACKAGED) as embedder:
        embedder.embed_documents(TEXTS)
        assert embedder.stats().truncated_texts == 1
        assert embedder.stats().tokens == sum(embedder.count_tokens(TEXTS) or [])


def test_shorter_vectors_have_unit_norm(server: InfinityServer, engine: EmbeddingEngine) -> None:
    """Infinity cuts them and leaves their norm as it is then."""
    with RemoteEmbedder(server.url, "minilm", tokenizer=PACKAGED, dimensions=128) as embedder:
        found, expected = embedder.embed_documents(TEXTS), engine.embed_documents(TEXTS, dimensions=128)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert np.min(np.sum(found * expected, axis=1)) >= 0.9999


def test_a_text_that_it_refuses_is_named(remote: RemoteEmbedder) -> None:
    """With what it says."""
    with pytest.raises(InputError, match=r"Text 1: .*at most 122880 characters"):
        remote.embed_documents(["short", "word " * 60_000])


def test_a_collection_is_that_of_this_process(remote: RemoteEmbedder, engine: EmbeddingEngine, tmp_path: Path) -> None:
    """The same chunks and vectors, and each opens with the other's embedder."""
    here, there = f"edge:{tmp_path / 'here'}", f"edge:{tmp_path / 'there'}"
    sightline.index([KNOWLEDGE_BASE], into=here, model=engine)
    sightline.index([KNOWLEDGE_BASE], into=there, model=remote)
    assert lowest_cosine(here, there) >= 0.9999
    for url, model in ((here, remote), (there, engine)):
        with sightline.open_collection(url, model=model) as collection:
            assert collection.search("what can a guest who is allergic to nuts eat?", k=1)[0].source


def test_a_server_with_another_pooling_is_refused(engine: EmbeddingEngine, minilm_folder: Path, tmp_path: Path) -> None:
    """Infinity says nothing of it: the probe texts do."""
    url = f"edge:{tmp_path / 'kb'}"
    sightline.index([KNOWLEDGE_BASE], into=url, model=engine)
    server = InfinityServer(pooled_otherwise(minilm_folder, tmp_path / "other"))
    try:
        refused = pytest.raises(ContractMismatch, match="probe texts: cosine down to")
        with RemoteEmbedder(server.url, "minilm", tokenizer=PACKAGED) as embedder, refused:
            sightline.open_collection(url, model=embedder)
    finally:
        server.kill()

