"""Facts about documents that are cut in processes of their own: nothing differs from cutting them here."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any

import pytest

from sightline import EmbeddingEngine
from sightline.errors import SightlineError
from sightline.indexing import children
from sightline.indexing.chunking import ChunkSettings, chunk
from sightline.indexing.cutters import Cutters
from sightline.indexing.files import discover, roots_of
from sightline.indexing.indexer import Corpus, Indexer
from sightline.stores.memory import MemoryStore
from sightline.testing import HashEmbedder
from sightline.types import Document, VectorLayout
from texts import TEXTS, prose

SETTINGS = ChunkSettings(40, 8)


class Fast(EmbeddingEngine):
    """An engine that says that it outruns cutting, as one on a GPU does."""

    def _outruns_cutting(self) -> bool:
        return True


class Broken(HashEmbedder):
    """An embedder whose recipe makes nothing."""

    def tokens_elsewhere(self) -> Mapping[str, Any]:
        return {"make": "sightline.nowhere:Nothing"}


@pytest.fixture
def documents() -> list[Document]:
    """Prose, Markdown with headings and code, every awkward text, and one without any."""
    page = f"# Tides\n\n{prose(120, 3)}\n\n## Why\n\n- {prose(30, 3)}\n- {prose(30, 3)}\n\n```python\nx = 1\n```\n"
    texts = [prose(200, 3), page, *TEXTS, " \n "]
    return [Document(f"kb/{number}", text, "markdown" if number == 1 else "text") for number, text in enumerate(texts)]


@pytest.mark.parametrize("options", [{}, {"document_instruction": "passage: "}, {"clean": ["newlines"]}, {"max_length": 50}])
def test_chunks_and_their_tokens_are_those_that_are_made_here(minilm_folder, documents, options):
    """To the id, in the documents' order."""
    engine = Fast(minilm_folder, **options)
    here = [chunk(document, SETTINGS, engine) for document in documents]
    with Cutters(engine, SETTINGS) as cutters:
        there = [(document, make()) for some in cutters.cut([documents[:3], documents[3:]]) for document, make in some]
    assert [document for document, _ in there] == documents
    assert [made for _, made in there] == here
    ids = [[None if one.tokens is None else list(one.tokens.ids) for one in made] for _, made in there]
    assert ids == [[None if one.tokens is None else list(one.tokens.ids) for one in made] for made in here]


def test_an_engine_on_a_cpu_has_its_documents_cut_here(minilm_folder, documents, monkeypatch):
    """It takes longer than cutting them; no process is started."""
    monkeypatch.setattr(children, "_executable", lambda: "/bin/false")
    with Cutters(EmbeddingEngine(minilm_folder, device="cpu"), SETTINGS) as cutters:
        assert sum(len(some) for some in cutters.cut([documents])) == len(documents)


def test_nothing_is_begun_without_documents():
    """A run that finds nothing new starts no process."""
    with Cutters(Broken(), SETTINGS) as cutters:
        assert list(cutters.cut([])) == []


def test_a_process_that_cannot_begin_says_why(documents):
    """Its own words are in the error."""
    with Cutters(Broken(), SETTINGS) as cutters, pytest.raises(SightlineError, match=r"sightline\.nowhere"):
        list(cutters.cut([documents]))


def test_a_killed_process_ends_the_run_with_the_next_command(minilm_folder, documents, monkeypatch):
    """Documents that nobody cut aren't passed over."""
    ask = children.Child.ask

    def killed(self: children.Child, *job: bytes, seconds: float | None = None) -> bytes | None:
        os.kill(self._popen.pid, signal.SIGKILL)
        self._popen.wait()
        return ask(self, *job, seconds=seconds)

    monkeypatch.setattr(children.Child, "ask", killed)
    with Cutters(Fast(minilm_folder), SETTINGS) as cutters, pytest.raises(SightlineError, match=r"-9.*run the same command"):
        list(cutters.cut([documents]))


def test_a_run_makes_the_same_collection(minilm_folder, tmp_path):
    """Points and heads, whoever cut them."""
    for number in range(5):
        (tmp_path / f"{number}.md").write_text(f"# Page {number}\n\n{prose(100 + 50 * number, 3)}\n")
    made = []
    for kind in (Fast, EmbeddingEngine):
        engine = kind(minilm_folder, device="cpu", dtype="float32")
        store = MemoryStore("memory:", None)
        store.create(VectorLayout(engine.dimensions), {})
        with engine:
            Indexer(store, engine, SETTINGS, dimensions=engine.dimensions).run(Corpus(discover(roots_of([tmp_path]))))
        made.append([store.points(source) for source in sorted(store.sources())])
    assert made[0] == made[1]
    assert len(made[0]) == 5
