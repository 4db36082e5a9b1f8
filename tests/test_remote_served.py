"""Facts about an embedder behind our own server: real weights, real HTTP, in a process of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import sightline
from served import KNOWLEDGE_BASE, PACKAGED, lowest_cosine, pooled_otherwise
from servers import SightlineServer, free_port
from sightline import RemoteEmbedder
from sightline.errors import ContractMismatch, UsageError
from sightline.types import IndexProgress

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[SightlineServer]:
    """MiniLM, served."""
    running = SightlineServer("--model", PACKAGED, "--served-model-name", "minilm")
    yield running
    running.stop()


@pytest.fixture
def url(server: SightlineServer) -> str:
    """The model's name."""
    return f"openai+{server.url}/v1#minilm"


def test_a_collection_is_that_of_this_process(url: str, server: SightlineServer, tmp_path: Path) -> None:
    """The same chunks, by the tokenizer at hand, and the same vectors."""
    here, there = f"edge:{tmp_path / 'here'}", f"edge:{tmp_path / 'there'}"
    sightline.index([KNOWLEDGE_BASE], into=here, model=PACKAGED)
    with RemoteEmbedder(f"{server.url}/v1", "minilm", tokenizer=PACKAGED) as embedder:
        sightline.index([KNOWLEDGE_BASE], into=there, model=embedder)
        assert embedder.server.normalised
        assert embedder.stats().truncated_texts == 0
    assert lowest_cosine(here, there) >= 0.9999
    with sightline.open_collection(here, model=url) as collection:
        assert collection.search("what can a guest who is allergic to nuts eat?", k=1)[0].source


def test_what_the_server_cut_off_is_counted(server: SightlineServer) -> None:
    """It says so in its answer."""
    with RemoteEmbedder(f"{server.url}/v1", "minilm", tokenizer=PACKAGED) as embedder:
        embedder.embed_documents(["word " * 2000, "short"])
        assert embedder.stats().truncated_texts == 1


def test_another_model_s_collection_is_refused(url: str, minilm_folder: Path, tmp_path: Path) -> None:
    """By the probes: the server says nothing of how it pools."""
    here = f"edge:{tmp_path / 'here'}"
    sightline.index([KNOWLEDGE_BASE], into=here, model=pooled_otherwise(minilm_folder, tmp_path / "other"))
    with pytest.raises(ContractMismatch, match="probe texts: cosine down to"):
        sightline.open_collection(here, model=url)


def test_a_server_that_is_killed_and_started_again_costs_nothing(tmp_path: Path) -> None:
    """The run waits for it, and ends with every chunk."""
    port = free_port()
    options = ("--model", PACKAGED, "--served-model-name", "minilm", "--port", str(port))
    first = SightlineServer(*options)
    killed = threading.Event()
    restarted: list[SightlineServer] = []

    def kill_once(progress: IndexProgress) -> None:
        if progress.chunks_embedded and not killed.is_set():
            killed.set()
            first.kill()
            threading.Thread(target=lambda: restarted.append(SightlineServer(*options))).start()

    with RemoteEmbedder(f"{first.url}/v1", "minilm", tokenizer=PACKAGED, max_batch_texts=4) as embedder:
        summary = sightline.index([KNOWLEDGE_BASE], into=f"edge:{tmp_path / 'kb'}", model=embedder, on_progress=kill_once)
    for one in restarted:
        one.kill()
    sightline.index([KNOWLEDGE_BASE], into=f"edge:{tmp_path / 'here'}", model=PACKAGED)
    assert killed.is_set()
    assert summary.chunks_embedded == summary.chunks
    assert lowest_cosine(f"edge:{tmp_path / 'here'}", f"edge:{tmp_path / 'kb'}") >= 0.9999


def test_a_served_model_is_not_served_again(url: str) -> None:
    """The server runs models of its own machine."""
    from sightline.serving import ServerSettings, serve

    with pytest.raises(UsageError, match="is on a server already"):
        serve(ServerSettings(model=url))
