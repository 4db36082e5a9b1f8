"""Facts about the library's calls: index, open_collection, inspect, remove, adopt and embed."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import pytest

import sightline
from sightline import api, opening
from sightline.embedding.engine import EmbeddingEngine
from sightline.errors import (
    CollectionNotFound,
    ContractMismatch,
    DeletionRefused,
    StoreError,
    UntrustedModel,
    UsageError,
)
from sightline.stores import open_store
from sightline.stores.memory import MemoryStore
from sightline.testing import HashEmbedder
from sightline.types import Document, Role


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three small documents."""
    root = tmp_path / "kb"
    root.mkdir()
    (root / "cake.md").write_text(
        "---\nlang: en\nyear: 2020\n---\n# Baking\n\n## Apple cake\n\nPeel the apples and bake for an hour.\n", encoding="utf-8"
    )
    (root / "engine.md").write_text("# Engine\n\nIf the motor will not start, check the [battery].\n", encoding="utf-8")
    (root / "tide.txt").write_text("High water comes twice a day; der Höchststand folgt dem Mond.\n", encoding="utf-8")
    return root


@pytest.fixture
def memory(folder: Path, request: pytest.FixtureRequest) -> str:
    """A collection in memory, made with the hash embedder at 32 dimensions, whose queries have an instruction of their own."""
    url = f"memory:{request.node.nodeid}"
    api.index([folder], into=url, model=HashEmbedder(query_instruction="find the recipe: "), dimensions=32)
    return url



@pytest.fixture
def foreign(tmp_path: Path) -> str:
    """A Chroma collection that another program filled with the hash embedder's document vectors, in L2 space."""
    texts = [f"ticket {number} is about a {word}" for number, word in enumerate(("lamp", "rope", "bell", "gull"))]
    with chromadb.PersistentClient(str(tmp_path / "theirs")) as client:
        collection = client.create_collection("tickets", embedding_function=None)
        vectors = HashEmbedder().embed_documents(texts)
        collection.add(ids=["a", "b", "c", "d"], documents=texts, embeddings=vectors, metadatas=[{"source": "x"}] * 4)
    return f"chroma:{tmp_path / 'theirs'}/tickets"


def test_a_collection_is_searched_by_meaning(folder: Path, minilm: EmbeddingEngine) -> None:
    """Words that a document doesn't have find it."""
    sightline.index([folder], into="memory:meaning", model=minilm)
    with sightline.open_collection("memory:meaning", model=minilm) as opened:
        assert opened.search("my car is broken", k=1)[0].source == "kb/engine.md"
        assert opened.search("a dessert with fruit", k=1)[0].source == "kb/cake.md"
        assert opened.count() == 3


def test_the_collection_gives_dimensions_and_prompt(memory: str) -> None:
    """A searcher that says nothing looks as the collection says, whatever its embedder's own default is."""
    with api.open_collection(memory, model=HashEmbedder()) as opened:
        [hit] = opened.search("apples", k=1)
        stored = open_store(memory).vectors_of([hit.text])[hit.text]
    asked = HashEmbedder().embed_queries(["find the recipe: apples"], instruction="", dimensions=32)[0]
    assert opened.contract.reading.query_prompt == "find the recipe: "
    assert hit.score == pytest.approx(float(stored @ asked), abs=1e-5)


def test_an_instruction_overrides_the_collections(memory: str) -> None:
    """A caller may look with another one."""
    with api.open_collection(memory, model=HashEmbedder()) as opened:
        assert opened.search("apples", k=1, instruction="")[0].score != opened.search("apples", k=1)[0].score


def test_a_callers_embedder_stays_open(memory: str) -> None:
    """Who makes it closes it."""
    embedder = HashEmbedder()
    api.open_collection(memory, model=embedder).close()
    assert embedder.embed_queries(["still there"]).shape == (1, 64)


def test_a_writer_with_other_dimensions_is_refused(memory: str, folder: Path) -> None:
    """An embedder that was made for another length doesn't write, and embeds nothing to find that out."""
    embedder = HashEmbedder(dimensions=16)
    with pytest.raises(ContractMismatch, match="the collection has 32, this embedder 16"):
        api.index([folder], into=memory, model=embedder)
    assert embedder.stats().texts == 0


def test_other_chunk_settings_are_told(memory: str, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Cutting again is allowed and said."""
    with caplog.at_level(logging.WARNING):
        summary = api.index([folder], into=memory, model=HashEmbedder(), dimensions=32, chunk_tokens=16)
    assert summary.documents_unchanged == 0
    assert "is now cut with" in caplog.text
    assert api.index([folder], into=memory, model=HashEmbedder(), dimensions=32).documents_unchanged == 3


def test_chunk_settings_are_those_of_the_collection(folder: Path) -> None:
    """A collection that was cut short is cut short again."""
    url = "memory:short"
    for _ in range(2):
        summary = api.index([folder], into=url, model=HashEmbedder(), **({} if _ else {"chunk_tokens": 16}))
    assert summary.documents_unchanged == 3


def test_device_is_for_models_given_by_name(folder: Path) -> None:
    """An option that would be dropped in silence is refused."""
    with pytest.raises(UsageError, match="device and dtype"):
        api.index([folder], into="memory:", model=HashEmbedder(), device="cpu")
    with pytest.raises(UsageError, match="devices, device"):
        api.index([folder], into="memory:", model=HashEmbedder(), devices=["cpu:0"])


def test_one_path_alone_is_refused(folder: Path) -> None:
    """A string would be taken for a list of letters."""
    with pytest.raises(UsageError, match="paths is a list"):
        api.index(str(folder), into="memory:", model=HashEmbedder())


def test_documents_from_python_are_indexed(memory: str) -> None:
    """Beside the files, under a root of their own, with metadata to filter by."""
    tickets = (Document(str(number), f"ticket {number}", metadata={"open": number > 1}) for number in range(4))
    summary = api.index(documents=tickets, root="tickets", into=memory, model=HashEmbedder(), dimensions=32)
    assert (summary.documents, summary.documents_vanished) == (4, 0)
    with api.open_collection(memory, model=HashEmbedder()) as opened:
        assert opened.count() == 7
        hits = opened.search("ticket", filter={"open": True})
    assert {hit.source for hit in hits} == {"tickets/2", "tickets/3"}


def test_front_matter_can_be_searched_by(memory: str) -> None:
    """It is metadata of every chunk, and no text."""
    with api.open_collection(memory, model=HashEmbedder()) as opened:
        [hit] = opened.search("water", filter={"lang": "en", "year": {"gte": 2000}})
    assert hit.source == "kb/cake.md"
    assert "lang:" not in hit.text


def test_a_collection_that_another_run_makes_meanwhile_is_ours(
    memory: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It wasn't there when its contract was asked for, and was when it was looked for."""
    answers = [None]  # the first one is from before
    read = MemoryStore.read_contract
    monkeypatch.setattr(MemoryStore, "read_contract", lambda store: answers.pop() if answers else read(store))
    assert sightline.index([folder], into=memory, model=HashEmbedder(), dimensions=32).chunks_embedded == 0
    assert not answers


def test_nothing_to_index_is_a_mistake() -> None:
    """Neither paths nor documents."""
    with pytest.raises(UsageError, match="No path was given"):
        api.index(into="memory:", model=HashEmbedder())


@pytest.mark.parametrize("root", ["", "a/b", "a\n"])
def test_a_roots_name_is_one_part_of_a_path(root: str) -> None:
    """Or two roots could not be told apart."""
    with pytest.raises(UsageError, match="no root's name"):
        api.index(documents=[], root=root, into="memory:", model=HashEmbedder())


# --- rebuilding


def test_a_rebuild_changes_model_and_dimensions(memory: str, folder: Path) -> None:
    """The collection is another one, under the same name, with another contract."""
    other = HashEmbedder(native_dimensions=128, name="other")
    with pytest.raises(ContractMismatch, match="--rebuild"):
        api.index([folder], into=memory, model=other)
    summary = api.index([folder], into=memory, model=other, rebuild=True)
    assert summary.chunks_embedded == summary.chunks == 3
    found = api.inspect(memory)
    assert (found.dimensions, found.documents, found.being_rebuilt) == (128, 3, False)
    assert found.contract is not None
    assert found.contract["reading"]["model"] == "other"
    with api.open_collection(memory, model=other) as opened:
        assert opened.search("apples", k=1)[0].source == "kb/cake.md"


def test_an_interrupted_rebuild_leaves_the_old_collection_and_goes_on(
    memory: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was embedded before isn't again."""
    embedder = HashEmbedder(native_dimensions=128)

    def fail(_: Any) -> None:
        raise StoreError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(MemoryStore, "promote", fail)
        with pytest.raises(StoreError, match="full"):
            api.index([folder], into=memory, model=embedder, rebuild=True)
    assert (api.inspect(memory).dimensions, api.inspect(memory).being_rebuilt) == (32, True)
    assert api.index([folder], into=memory, model=embedder, rebuild=True).chunks_embedded == 0
    assert (api.inspect(memory).dimensions, api.inspect(memory).being_rebuilt) == (128, False)


def test_an_interrupted_rebuild_with_other_settings_is_begun_anew(
    memory: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of one and half of another never become one collection."""
    monkeypatch.setattr(MemoryStore, "promote", lambda _: None)
    api.index([folder], into=memory, model=HashEmbedder(native_dimensions=128), rebuild=True)
    assert api.index([folder], into=memory, model=HashEmbedder(native_dimensions=96), rebuild=True).chunks_embedded == 3


def test_a_rebuild_holds_nothing_of_an_interrupted_one_of_other_paths(
    memory: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was built beside from another folder, or from a file that is gone since, never becomes part of the collection."""
    other = folder.parent / "other"
    other.mkdir()
    (other / "a.md").write_text("# Other", encoding="utf-8")
    embedder = HashEmbedder(native_dimensions=128)
    with monkeypatch.context() as broken:
        broken.setattr(MemoryStore, "promote", lambda _: None)
        api.index([folder, other], into=memory, model=embedder, rebuild=True)
    (folder / "tide.txt").rename(folder / "sea.txt")
    api.index([folder], into=memory, model=embedder, rebuild=True, force=True)
    store = open_store(memory)
    assert set(store.sources()) == {"kb/cake.md", "kb/engine.md", "kb/sea.txt"}
    store.close()


def test_a_rebuild_that_cannot_be_gone_on_with_is_begun_anew(
    memory: str, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What another embedder of the same name, or another version, left beside blocks nothing."""
    with monkeypatch.context() as broken:
        broken.setattr(MemoryStore, "promote", lambda _: None)
        api.index([folder], into=memory, model=HashEmbedder(native_dimensions=128), rebuild=True)
    store = open_store(memory)
    store.staging().write_contract({"format_version": 99})
    store.close()
    api.index([folder], into=memory, model=HashEmbedder(native_dimensions=128), rebuild=True)
    assert "begun anew" in caplog.text
    assert api.inspect(memory).dimensions == 128


def test_the_contract_is_read_under_the_lock(memory: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rebuild with another model that ends between opening and locking is noticed."""
    acquire, other = MemoryStore.acquire, HashEmbedder(native_dimensions=128, name="other")

    def late(store: MemoryStore, **more: Any) -> None:
        monkeypatch.undo()
        api.index([folder], into=memory, model=other, rebuild=True)
        acquire(store, **more)

    monkeypatch.setattr(MemoryStore, "acquire", late)
    with pytest.raises(ContractMismatch):
        api.index([folder], into=memory, model=HashEmbedder())


def test_an_empty_model_name_is_refused(memory: str, folder: Path) -> None:
    """An unset variable must not become the default model."""
    with pytest.raises(UsageError, match="name is empty"):
        api.index([folder], into=memory, model="")


def test_a_rebuild_that_would_lose_documents_is_refused(memory: str, folder: Path) -> None:
    """Roots that aren't given, and files that vanished, are named; nothing is replaced until that is meant."""
    api.index(documents=[Document("1", "ticket")], root="tickets", into=memory, model=HashEmbedder(), dimensions=32)
    with pytest.raises(DeletionRefused, match=r"1 of its 4 documents \(tickets/1\).*--force"):
        api.index([folder], into=memory, model=HashEmbedder(), rebuild=True)
    assert api.inspect(memory).documents == 4
    api.index([folder], into=memory, model=HashEmbedder(), rebuild=True, force=True)
    assert api.inspect(memory).roots == {"kb": 3}


def test_a_document_that_became_empty_is_no_loss(folder: Path, tmp_path: Path) -> None:
    """A rebuild leaves it out without a question, as a run does."""
    url = f"edge:{tmp_path / 'db'}"
    api.index([folder], into=url, model=HashEmbedder())
    (folder / "cake.md").write_text("", encoding="utf-8")
    assert api.index([folder], into=url, model=HashEmbedder(), dimensions=32, rebuild=True).documents_empty == 1
    assert api.inspect(url).documents == 2


# --- trust


@pytest.fixture
def named(folder: Path) -> str:
    """A collection that names a hub model that isn't here."""
    url = f"edge:{folder.parent / 'named'}"
    api.index([folder], into=url, model=HashEmbedder(name="somebody/unknown-model"))
    return url


def test_a_model_that_a_collection_names_is_not_fetched(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the caller, or the machine's owner, says so."""
    asked: list[str] = []

    def engine(name: str, **_: Any) -> HashEmbedder:
        asked.append(name)
        return HashEmbedder(name=name)

    monkeypatch.setattr(opening, "open_embedder", engine)
    monkeypatch.setattr(opening, "is_local", lambda *_: False)
    with pytest.raises(UntrustedModel, match=r"'somebody/unknown-model', which isn't on this machine.*--trust"):
        api.open_collection(named)
    assert asked == []
    api.open_collection(named, trust=True).close()
    monkeypatch.setenv(api.TRUSTED_MODELS_VARIABLE, "other/*, somebody/*")
    api.open_collection(named).close()
    assert asked == ["somebody/unknown-model"] * 2


def test_a_model_on_this_machine_needs_no_trust(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fetched or run that wasn't here."""
    monkeypatch.setattr(opening, "open_embedder", lambda name, **_: HashEmbedder(name=name))
    monkeypatch.setattr(opening, "is_local", lambda *_: True)
    api.open_collection(named).close()


# --- inspect, remove, adopt


def test_inspect_tells_what_is_unfinished(memory: str) -> None:
    """Roots in the mark, and documents that aren't whole."""
    store = open_store(memory)
    store.write_mark({"unfinished": ["kb"], "last_run": {}})
    head = next(point for point in store.points("kb/cake.md") if point.head)
    store.update([replace(head, head=replace(head.head, document_hash=""))])
    store.close()
    found = api.inspect(memory)
    assert (found.documents, found.unfinished_documents, found.unfinished_roots) == (2, 1, ("kb",))


def test_remove_takes_documents_and_folders(memory: str) -> None:
    """By path parts; what isn't there is refused before anything is deleted."""
    with pytest.raises(UsageError, match=r"no document 'kb/tide'"):
        api.remove(["kb/cake.md", "kb/tide"], from_url=memory)
    assert api.inspect(memory).documents == 3
    assert api.remove(["kb/cake.md"], from_url=memory) == ["kb/cake.md"]
    assert api.remove(["kb/"], from_url=memory) == ["kb/engine.md", "kb/tide.txt"]
    assert api.inspect(memory).points == 0


def test_a_collection_of_another_program_is_searched_with_a_warning(foreign: str, caplog: pytest.LogCaptureFixture) -> None:
    """The model has to be named, and scores are cosines though the space is another."""
    with pytest.raises(UsageError, match="--model MODEL"):
        api.open_collection(foreign)
    with caplog.at_level(logging.WARNING), api.open_collection(foreign, model=HashEmbedder()) as opened:
        [hit] = opened.search("ticket 2 is about a bell", k=1, instruction="")
    assert "Sightline didn't make" in caplog.text
    assert (hit.id, opened.contract) == ("c", None)
    assert hit.score == pytest.approx(1, abs=1e-5)


def test_a_collection_of_another_program_is_written_after_it_was_adopted(foreign: str, folder: Path) -> None:
    """Until then nothing says how its vectors were made; what was there before stays, also when the run prunes."""
    with pytest.raises(StoreError, match="sightline adopt"):
        api.index([folder], into=foreign, model=HashEmbedder())
    assert api.inspect(foreign).contract is None
    api.adopt(foreign, model=HashEmbedder())
    assert api.index([folder], into=foreign, model=HashEmbedder(), prune=True).documents == 3
    found = api.inspect(foreign)
    assert (found.points, found.foreign_points, found.documents) == (7, 4, 3)
    with pytest.raises(StoreError, match="has a contract already"):
        api.adopt(foreign, model=HashEmbedder())


def test_a_false_model_is_not_adopted(foreign: str) -> None:
    """The stored vectors are compared with those of the stored texts, as documents."""
    false = HashEmbedder(document_instruction="passage from a book of the sea: ")
    with pytest.raises(ContractMismatch, match=r"of 4 of its texts.*0 agree"):
        api.adopt(foreign, model=false)
    assert api.inspect(foreign).contract is None


# --- embed


def test_embed_tells_the_roles_apart() -> None:
    """A query goes behind its instruction."""
    query, document = (api.embed(["text"], role=role, model=HashEmbedder()) for role in Role)
    assert not np.allclose(query, document)


def test_opening_what_is_not_there_says_how_to_make_it(tmp_path: Path) -> None:
    """The next command is in the message."""
    with pytest.raises(CollectionNotFound, match="sightline index PATH --into edge:"):
        api.open_collection(f"edge:{tmp_path / 'nothing'}")


