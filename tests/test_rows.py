"""Facts about rows: texts that a program adds one by one to a collection, beside what runs over files keep up to date."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import sightline
from sightline import Collection
from sightline.contract import PROBE_COSINE
from sightline.errors import ContractMismatch, DeletionRefused, StoreLocked, UsageError
from sightline.metadata import ROW_PREFIX, shown_metadata
from sightline.stores import memory, open_store
from sightline.testing import HashEmbedder
from sightline.types import Document, Hit

TEXTS = ["the lamp of the tower", "the rope of the boat", "high water at noon"]


@pytest.fixture(params=["memory:rows", "edge:{}/kb", "chroma:{}/db/rows", "qdrant:{}/db/rows"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A store of each kind."""
    yield request.param.format(tmp_path)
    memory._SHARED.clear()


@pytest.fixture
def collection(url: str) -> Iterator[Collection]:
    """A new collection."""
    with sightline.open_collection(url, model=HashEmbedder(), create=True) as made:
        yield made


def ids(hits: list[Hit]) -> list[str]:
    """Their ids."""
    return [hit.id for hit in hits]


def test_what_was_added_is_found(collection: Collection) -> None:
    """Under the caller's ids, which may be any text, with the metadata as it was given."""
    given = ["lamp/1 ü", "b" * 200, "7d444840-9dc0-11d1-b245-5ffdce74fad2"]
    metadatas = [{"source": "tower.pdf", "page": 3}, None, {"tags": ["a"], "none": None}]
    assert collection.add(iter(TEXTS), ids=iter(given), metadatas=iter(metadatas)) == given
    [hit] = collection.search("lamp tower", k=1)
    assert (hit.id, hit.text, hit.metadata) == (given[0], TEXTS[0], metadatas[0])
    rows = collection.get(iter([given[2], "missing", given[0], given[1], given[0]]))
    assert [row.id for row in rows] == [given[2], given[0], given[1]]
    assert [row.metadata for row in rows] == [metadatas[2], metadatas[0], {}]
    np.testing.assert_allclose(rows[1].vector, collection.embedder.embed_documents(TEXTS[:1])[0], atol=1e-6)


def test_rows_of_one_source_are_filtered_by_it(collection: Collection) -> None:
    """Frameworks give many rows the file that they came from."""
    collection.add(TEXTS, ids=["a", "b", "c"], metadatas=[{"source": "x.pdf"}, {"source": "x.pdf"}, {"source": "y.pdf"}])
    assert sorted(ids(collection.search("the", filter={"source": "x.pdf"}))) == ["a", "b"]
    assert sorted(row.id for row in collection.find({"source": ["y.pdf", "z.pdf"]})) == ["c"]
    assert len(list(collection.find())) == 3


def test_frameworks_show_a_chunks_document_and_a_rows_own_source() -> None:
    """What they show under `source` is what a filter on it finds."""
    assert shown_metadata("docs/a.md", {"lang": "en"}) == {"lang": "en", "source": "docs/a.md"}
    assert shown_metadata("docs/a.md", {"source": "https://x"}) == {"source": "docs/a.md", "document_source": "https://x"}
    assert shown_metadata(f"{ROW_PREFIX}1", {"source": "https://x"}) == {"source": "https://x"}
    assert shown_metadata(f"{ROW_PREFIX}1", {}) == {}
    assert shown_metadata("", {"a": 1}) == {"a": 1}


def test_a_caller_whose_questions_look_otherwise_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The collection's own instruction holds, and a search may say another one."""
    url = f"edge:{tmp_path / 'kb'}"
    with sightline.open_collection(url, model=HashEmbedder(), create=True):
        assert caplog.text == ""
    with sightline.open_collection(url, model=HashEmbedder(query_instruction="Find the page")):
        assert "'query: ', not with the embedder's 'Find the page'" in caplog.text


def test_an_id_that_is_there_is_replaced(collection: Collection) -> None:
    """Text, metadata and vector; nothing of the old row is left."""
    collection.add(TEXTS[:2], ids=["a", "b"], metadatas=[{"old": 1}, {}])
    collection.add(TEXTS[2:], ids=["a"], metadatas=[{"new": 2}])
    assert collection.count() == 2
    [row] = collection.get(["a"])
    assert (row.text, row.metadata) == (TEXTS[2], {"new": 2})
    assert ids(collection.search(TEXTS[2], k=1)) == ["a"]


def test_rows_are_deleted_by_their_ids(collection: Collection) -> None:
    """What isn't there is fine."""
    collection.add(TEXTS, ids=["a", "b", "c"])
    collection.delete(["a", "missing", "c"])
    collection.delete([])
    assert [row.id for row in collection.find()] == ["b"]


def test_a_stored_text_is_not_embedded_again(collection: Collection) -> None:
    """Nor one that occurs twice."""
    collection.add([*TEXTS, TEXTS[0]])
    before = collection.embedder.stats().texts
    collection.add([*TEXTS, "one more"])
    assert collection.embedder.stats().texts == before + 1


def test_runs_over_files_leave_rows_alone(url: str, collection: Collection, tmp_path: Path) -> None:
    """Also one that prunes, and one that finds a half-finished run."""
    folder = tmp_path / "docs"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / f"{name}.md").write_text(f"# Page {name}\n\nwind and tide {name}", encoding="utf-8")
    collection.add(TEXTS, ids=["docs/a.md", "b", "c"], metadatas=[{"source": "docs/a.md"}] * 3)
    if url.startswith("qdrant:"):
        collection.close()  # local mode lets one in at a time
    summary = sightline.index([folder], into=url, model=HashEmbedder())
    assert summary.documents == 3
    (folder / "b.md").unlink()
    pruned = sightline.index([folder], into=url, model=HashEmbedder(), prune=True)
    assert (pruned.documents_removed, pruned.documents_unchanged) == (1, 2)
    found = sightline.inspect(url)
    assert found.roots == {"docs": 2, "sightline:rows": 3}
    with sightline.open_collection(url, model=HashEmbedder()) as again:
        assert sorted(row.id for row in again.get(["docs/a.md", "b", "c"])) == ["b", "c", "docs/a.md"]


def test_a_chunk_of_a_document_is_not_deleted_alone(tmp_path: Path) -> None:
    """The next run would think that the document was changed behind its back; the message says what to type."""
    url = f"edge:{tmp_path / 'kb'}"
    embedder = HashEmbedder()
    sightline.index(into=url, documents=[Document("lamp", TEXTS[0])], root="notes", model=embedder)
    with sightline.open_collection(url, model=embedder) as collection:
        collection.add(TEXTS[1:], ids=["a", "b"])
        [hit] = collection.search("lamp tower", k=1)
        assert collection.get([hit.id])[0].source == "notes/lamp"
        with pytest.raises(UsageError, match=r"chunk of the document 'notes/lamp'.*sightline remove notes/lamp --from"):
            collection.delete(["a", hit.id])
        assert collection.count() == 3


def test_a_rebuild_does_not_lose_rows_in_silence(tmp_path: Path) -> None:
    """A run over files can't make them again."""
    url, embedder = f"edge:{tmp_path / 'kb'}", HashEmbedder()
    documents = [Document("lamp", TEXTS[0])]
    sightline.index(into=url, documents=documents, model=embedder)
    with sightline.open_collection(url, model=embedder) as collection:
        collection.add(TEXTS[1:2], ids=["a"])
    with pytest.raises(DeletionRefused, match="sightline:rows/a"):
        sightline.index(into=url, documents=documents, model=embedder, rebuild=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": "one text"}, "texts is a list"),
        ({"texts": TEXTS, "ids": ["a"]}, "3 texts came with 1 ids"),
        ({"texts": TEXTS, "metadatas": [{}]}, "3 texts came with 1 metadatas"),
        ({"texts": TEXTS, "ids": ["a", "b", "a"]}, "'a' occurs more than once"),
        ({"texts": TEXTS[:1], "ids": [""]}, "isn't empty"),
        ({"texts": TEXTS[:1], "ids": [7]}, "isn't empty; got 7"),
        ({"texts": [None]}, "must be a str"),
        ({"texts": TEXTS[:1], "metadatas": [{"sightline_head": 1}]}, "keeps for itself"),
        ({"texts": TEXTS[:1], "metadatas": [{"when": object()}]}, "a store keeps"),
        ({"texts": TEXTS[:1], "vectors": [[1.0, 2.0]]}, r"\(1, 2\).*\(1, 64\)"),
    ],
)
def test_what_no_store_could_keep_is_refused_before_anything_is_written(
    collection: Collection, arguments: dict[str, object], message: str
) -> None:
    """Nothing is embedded either."""
    before = collection.embedder.stats().texts
    with pytest.raises(UsageError, match=message):
        collection.add(**arguments)
    assert (collection.count(), collection.embedder.stats().texts) == (0, before)


def test_vectors_of_the_caller_are_checked(collection: Collection) -> None:
    """Those of the collection's own model are taken, others refused, whatever their length."""
    vectors = collection.embedder.embed_documents(TEXTS)
    collection.add(TEXTS, ids=["a", "b", "c"], vectors=vectors)
    assert ids(collection.search(TEXTS[1], k=1)) == ["b"]
    with pytest.raises(ContractMismatch, match=str(PROBE_COSINE)):
        collection.add(TEXTS, vectors=vectors[::-1])
    assert collection.count() == 3


def test_a_vector_of_more_than_the_text_is_lent_to_no_other(collection: Collection) -> None:
    """LlamaIndex embeds a node with its metadata before it, and reads it without."""
    whole = [f"file: x.pdf\n\n{text}" for text in TEXTS]
    collection.add(TEXTS, ids=["a", "b", "c"], vectors=collection.embedder.embed_documents(whole), embedded_texts=whole)
    collection.add(TEXTS[:1], ids=["plain"])
    by_id = {row.id: row for row in collection.get(["a", "plain"])}
    assert by_id["a"].text == by_id["plain"].text
    np.testing.assert_allclose(by_id["plain"].vector, collection.embedder.embed_documents(TEXTS[:1])[0], atol=1e-6)
    assert np.abs(by_id["a"].vector - by_id["plain"].vector).max() > 1e-3


def test_many_rows_come_in_windows(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is written while the next is embedded."""
    monkeypatch.setattr("sightline.indexing.rows._WINDOW", 7)
    names = [f"row {number}" for number in range(50)]
    assert collection.add((f"text {name}" for name in names), ids=names) == names
    assert [row.text for row in collection.get(names)] == [f"text {name}" for name in names]


def test_another_writer_gets_in_between_two_changes(tmp_path: Path) -> None:
    """An application that adds now and then keeps no index run out, and reads what that wrote."""
    url = f"edge:{tmp_path / 'kb'}"
    with sightline.open_collection(url, model=HashEmbedder(), create=True) as collection:
        collection.add(TEXTS[:1], ids=["a"])
        sightline.index(into=url, documents=[Document("lamp", TEXTS[2])], model=HashEmbedder())
        collection.add(TEXTS[1:2], ids=["b"])
        assert collection.count() == 3
        with closing(open_store(url)) as other:
            other.acquire()
            with pytest.raises(StoreLocked):
                collection.add(TEXTS, ids=["x", "y", "z"])
            assert collection.count() == 3


def test_a_collection_that_was_rebuilt_meanwhile_takes_no_old_vectors(tmp_path: Path) -> None:
    """Its dimensions are others now."""
    url = f"edge:{tmp_path / 'kb'}"
    with sightline.open_collection(url, model=HashEmbedder(), create=True) as collection:
        sightline.index(into=url, documents=[Document("a", "x")], model=HashEmbedder(), dimensions=32, rebuild=True)
        with pytest.raises(ContractMismatch, match="Open it again"):
            collection.add(TEXTS)


def test_async_searches_share_batches(make_model: Callable[..., Path], tmp_path: Path) -> None:
    """And give what the blocking ones give."""
    with sightline.open_collection(f"edge:{tmp_path / 'kb'}", model=make_model("qwen3"), create=True) as collection:
        collection.add(TEXTS)

        async def ask() -> list[list[Hit]]:
            return await asyncio.gather(*(collection.asearch(f"question {number}", k=2) for number in range(32)))

        collection.search("warm")
        before = collection.embedder.stats().batches
        found = asyncio.run(ask())
        assert collection.embedder.stats().batches - before < 32
        blocking = [collection.search(f"question {number}", k=2) for number in range(32)]
        assert [ids(hits) for hits in found] == [ids(hits) for hits in blocking]
        vector = collection.embed_query("question 3")
        assert ids(collection.search_by_vector(vector.tolist(), k=2)) == ids(found[3])
        np.testing.assert_allclose(asyncio.run(collection.aembed_query("question 3")), vector, atol=1e-6)


def test_a_collection_that_is_made_must_fit_what_is_asked(tmp_path: Path) -> None:
    """Opening an existing one with other dimensions is refused, as with another model."""
    url = f"edge:{tmp_path / 'kb'}"
    with sightline.open_collection(url, model=HashEmbedder(), create=True, dimensions=32) as collection:
        assert collection.contract is not None
        assert collection.contract.vectors.dimensions == 32
    for arguments in ({"dimensions": 16, "model": HashEmbedder()}, {"model": HashEmbedder(document_instruction="A page:")}):
        with pytest.raises(ContractMismatch):
            sightline.open_collection(url, create=True, **arguments)
