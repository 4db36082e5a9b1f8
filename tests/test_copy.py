"""Facts about copying: what arrives is what was there, half a copy is never taken for a whole one, and nothing is embedded."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sightline
from servers import ChromaServer
from sightline import copying
from sightline.cli import main
from sightline.cli.progress import points as points_done
from sightline.contract import Contract
from sightline.errors import CollectionNotFound, MissingExtra, StoreError, StoreLocked, UnfinishedCopy, UnknownStore, UsageError
from sightline.protocols import Embedder
from sightline.stores import open_store
from sightline.stores.memory import MemoryStore
from sightline.testing import HashEmbedder
from sightline.types import CopyProgress, Document, FloatArray, Point, Quantization, Record, VectorLayout, VectorStorage

KNOWLEDGE_BASE = Path(__file__).parent.parent / "examples" / "knowledge_base"
AWKWARD = {
    "text": "ü", "int": 3, "float": 2.0, "true": True, "none": None, "mixed": [1, 1.5, "a", True, None], "empty": [],
    "texts": ["a", "b"], "dict": {"a": {"b": [1, {"c": None}]}}, "": "no name", "$set": 1, "source": "the user's own",
}  # fmt: skip
POINTS = 60


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The example knowledge base with two rows beside it: one with awkward metadata, one embedded with a title."""
    url = f"edge:{tmp_path_factory.mktemp('origin') / 'kb'}"
    fill(url, HashEmbedder())
    return url


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A collection of sixty points."""
    url = f"edge:{tmp_path_factory.mktemp('source') / 'kb'}"
    write(url, range(POINTS))
    return url


@pytest.fixture
def changing(tmp_path: Path) -> str:
    """A collection of sixty points, to be changed."""
    url = f"edge:{tmp_path / 'changing'}"
    write(url, range(POINTS))
    return url


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten points a page."""
    monkeypatch.setattr(copying, "_PAGE", 10)


@pytest.fixture
def adopted(tmp_path: Path) -> str:
    """A collection that another program made, with four points, and a row of Sightline's."""
    import chromadb

    texts, embedder = ["a tide", "a lamp", "a rope", "a gull"], HashEmbedder()
    with chromadb.PersistentClient(str(tmp_path / "theirs")) as client:
        theirs = client.create_collection("theirs", embedding_function=None, configuration={"hnsw": {"space": "cosine"}})
        vectors, named = embedder.embed_documents(texts), [{"source": "sea.md", "n": number} for number in range(4)]
        theirs.add(ids=["a", "b", "c", "d"], embeddings=vectors, documents=texts, metadatas=named)
    url = f"chroma:{tmp_path / 'theirs'}/theirs"
    sightline.adopt(url, model=embedder)
    with sightline.open_collection(url, model=embedder) as collection:
        collection.add(["ours"], ids=["e"])
    return url


def fill(url: str, embedder: Embedder | str) -> None:
    """Index the example knowledge base and add two rows."""
    sightline.index([KNOWLEDGE_BASE], into=url, model=embedder)
    with sightline.open_collection(url, model=embedder) as collection:
        added = {"metadatas": [AWKWARD, {}], "embedded_texts": ["A title. lamp oil", "rope"]}
        collection.add(["lamp oil", "rope"], ids=["row 1", "row/2"], **added)


def write(url: str, numbers: range, **more: Any) -> None:
    """Bring a collection up to date with these documents."""
    documents = [Document(str(number), f"document {number} {'tide' * (number % 3)}", metadata=more) for number in numbers]
    sightline.index(documents=documents, into=url, model=HashEmbedder(), prune=True, force=True)


def contents(url: str) -> tuple[dict[str, Point], dict[str, FloatArray], Any, Any]:
    """Points and vectors by their ids, contract and mark."""
    store = open_store(url)
    try:
        records = list(store.records())
        return (
            {one.point.id: one.point for one in records}, {one.point.id: one.vector for one in records},
            store.read_contract(), store.read_mark(),
        )  # fmt: skip
    finally:
        store.close()


def assert_same(one: str, other: str) -> None:
    """Ids, texts, payloads with their types, contract and mark are equal; vectors to a last bit."""
    (points, vectors, *rest), (other_points, other_vectors, *other_rest) = contents(one), contents(other)
    assert (other_points, other_rest) == (points, rest)
    written, other_written = ({key: json.dumps(one.metadata, sort_keys=True) for key, one in some.items()}
                              for some in (points, other_points))  # fmt: skip
    assert other_written == written
    for key, vector in vectors.items():
        np.testing.assert_allclose(other_vectors[key], vector, rtol=0, atol=1e-6)


def answers(url: str, embedder: Embedder, questions: list[str]) -> list[dict[str, float]]:
    """Ids and scores of the ten best of each question."""
    with sightline.open_collection(url, model=embedder) as collection:
        return [{hit.id: hit.score for hit in collection.search(question, k=10)} for question in questions]


def assert_same_answers(one: list[dict[str, float]], other: list[dict[str, float]]) -> None:
    """The same hits with the same scores; which of several equal ones is the tenth is anybody's choice."""
    for hits, others in zip(one, other, strict=True):
        np.testing.assert_allclose(sorted(others.values()), sorted(hits.values()), rtol=0, atol=1e-5)
        for some, rest in ((hits, others), (others, hits)):
            assert {one for one, score in some.items() if score > min(some.values()) + 1e-5} <= rest.keys()


def questions(url: str, count: int) -> list[str]:
    """The first words of so many chunks."""
    texts = sorted(point.text for point in contents(url)[0].values())
    return [" ".join(texts[number % len(texts)].split()[number % 5 :][:8]) or "tide" for number in range(count)]


class Interrupted(Exception):
    """What a test stops a copy with."""


def stop_after(pages: int) -> Callable[[CopyProgress], None]:
    """Fail at an event, as a killed process would."""
    events = iter(range(pages))

    def on_progress(progress: CopyProgress) -> None:
        if next(events, None) is None:
            raise Interrupted

    return on_progress


def interrupt(src: str, dst: str, pages: int = 2, **more: Any) -> None:
    """Copy no more than some pages."""
    with pytest.raises(Interrupted):
        sightline.copy(src, dst, on_progress=stop_after(pages), **more)


# --- the round trip


def test_a_collection_comes_home_from_all_stores_as_it_was(origin: str, tmp_path: Path) -> None:
    """Edge to Chroma to Qdrant to a file and back: all points, contract and mark, and the answers to 100 questions."""
    chroma, qdrant = f"chroma:{tmp_path / 'chroma'}/handbook", f"qdrant:{tmp_path / 'qdrant'}/handbook"
    file, home = f"parquet:{tmp_path / 'kb.parquet'}", f"edge:{tmp_path / 'home'}"
    for src, dst in ((origin, chroma), (chroma, qdrant), (qdrant, file), (file, home)):
        summary = sightline.copy(src, dst)
        assert (summary.points, summary.rows) == (summary.points_written, 2)
        assert summary.vectors_compared == summary.points
        assert summary.largest_difference <= 1e-6
    for url in (chroma, qdrant, home):
        assert_same(origin, url)
    embedder = HashEmbedder()
    asked = questions(origin, 100)
    expected = answers(origin, embedder, asked)
    for url in (chroma, qdrant, home):
        assert_same_answers(expected, answers(url, embedder, asked))


def test_what_a_row_was_embedded_as_is_carried_over(origin: str, tmp_path: Path) -> None:
    """A vector that isn't of the text beside it is still found by what it is of, and lent to nothing else."""
    sightline.copy(origin, f"edge:{tmp_path / 'copy'}")
    store = open_store(f"edge:{tmp_path / 'copy'}")
    assert set(store.vectors_of(["A title. lamp oil", "lamp oil", "rope"])) == {"A title. lamp oil", "rope"}
    store.close()


def test_a_copied_collection_is_indexed_on_without_embedding(origin: str, tmp_path: Path) -> None:
    """Heads arrive with everything else, so a run over the same folder has nothing to do."""
    url = f"edge:{tmp_path / 'copy'}"
    sightline.copy(origin, url)
    summary = sightline.index([KNOWLEDGE_BASE], into=url, model=HashEmbedder())
    assert (summary.documents_unchanged, summary.chunks_embedded) == (summary.documents, 0)


def test_copying_loads_neither_torch_nor_a_model(origin: str, tmp_path: Path) -> None:
    """The contract names a model that exists nowhere, and nobody asks for it."""
    code = f"import sightline, sys; sightline.copy({origin!r}, 'parquet:{tmp_path}/kb.parquet'); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_an_empty_collection_is_copied(tmp_path: Path) -> None:
    """There is a contract to carry over, and nothing else."""
    src, file, dst = f"edge:{tmp_path / 'a'}", f"parquet:{tmp_path / 'kb.parquet'}", f"edge:{tmp_path / 'b'}"
    sightline.open_collection(src, model=HashEmbedder(), create=True).close()
    assert sightline.copy(src, file).points == sightline.copy(file, dst).points == 0
    assert_same(src, dst)


@pytest.mark.slow
def test_real_vectors_come_home_as_they_were(tmp_path: Path, minilm: Embedder) -> None:
    """The round trip with MiniLM's vectors, by way of a real Chroma server too."""
    origin = f"edge:{tmp_path / 'origin'}"
    fill(origin, minilm)
    server = ChromaServer(tmp_path / "server")
    try:
        places = [f"chroma:{tmp_path / 'chroma'}/handbook", server.url(), f"qdrant:{tmp_path / 'qdrant'}/handbook",
                  f"parquet:{tmp_path / 'kb.parquet'}", f"edge:{tmp_path / 'home'}"]  # fmt: skip
        asked = questions(origin, 100)
        expected = answers(origin, minilm, asked)
        for src, dst in zip([origin, *places], places, strict=False):
            sightline.copy(src, dst)
            if not dst.startswith("parquet:"):
                assert_same(origin, dst)
                assert_same_answers(expected, answers(dst, minilm, asked))
    finally:
        server.kill()


# --- half a copy


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("place", ["edge:{}/dst", "chroma:{}/dst/handbook", "qdrant:{}/dst/handbook"])
def test_an_interrupted_copy_goes_on_where_it_stopped(source: str, tmp_path: Path, place: str) -> None:
    """The same call writes what is missing and nothing else."""
    url = place.format(tmp_path)
    interrupt(source, url, pages=3)
    summary = sightline.copy(source, url)
    assert summary.points == POINTS
    assert 0 < summary.points_written <= POINTS - 30
    assert_same(source, url)


@pytest.mark.usefixtures("small_pages")
def test_half_a_copy_is_opened_by_nobody(source: str, tmp_path: Path) -> None:
    """Whoever searches, indexes, looks at, removes from or copies it is told what finishes it."""
    url = f"edge:{tmp_path / 'dst'}"
    interrupt(source, url)
    uses: list[Callable[[], Any]] = [
        lambda: sightline.open_collection(url, model=HashEmbedder()),
        lambda: sightline.index([KNOWLEDGE_BASE], into=url, model=HashEmbedder()),
        lambda: sightline.index([KNOWLEDGE_BASE], into=url, model=HashEmbedder(), rebuild=True),
        lambda: sightline.inspect(url),
        lambda: sightline.adopt(url, model=HashEmbedder()),
        lambda: sightline.add_dimension(url, 16),
        lambda: sightline.remove(["documents/1"], from_url=url),
        lambda: sightline.copy(url, f"edge:{tmp_path / 'third'}"),
    ]
    for use in uses:
        with pytest.raises(UnfinishedCopy, match=rf"sightline copy {source} {url};"):
            use()
    sightline.copy(source, url)
    assert_same(source, url)


@pytest.mark.usefixtures("small_pages")
def test_the_command_that_finishes_a_copy_has_its_options(adopted: str, tmp_path: Path) -> None:
    """What the copy was begun with is said again."""
    url = f"edge:{tmp_path / 'dst'}"
    interrupt(adopted, url, pages=1, foreign="rows", only_main=True)
    with pytest.raises(UnfinishedCopy, match=rf"{url} --foreign rows --only-main;"):
        sightline.inspect(url)


@pytest.mark.usefixtures("small_pages")
def test_a_source_that_changed_between_two_attempts_is_copied_as_it_is_now(changing: str, tmp_path: Path) -> None:
    """What is new, changed or gone since the interruption is written, written again and removed."""
    url = f"edge:{tmp_path / 'dst'}"
    interrupt(changing, url, pages=4)
    write(changing, range(20, POINTS + 20), lang="en")
    summary = sightline.copy(changing, url)
    assert summary.points == POINTS
    assert summary.points_removed > 0
    assert_same(changing, url)


@pytest.mark.usefixtures("small_pages")
def test_half_a_copy_of_something_else_is_not_gone_on_with(source: str, origin: str, tmp_path: Path) -> None:
    """Another source is refused, with the command that finishes the first; `replace` puts it in its place."""
    url = f"edge:{tmp_path / 'dst'}"
    interrupt(source, url)
    with pytest.raises(UnfinishedCopy, match=rf"sightline copy {source} {url};"):
        sightline.copy(origin, url)
    sightline.copy(origin, url, replace=True)
    assert_same(origin, url)


def test_a_finished_copy_is_not_written_again(source: str, tmp_path: Path) -> None:
    """A copy that was killed in its last moment may be run again: it is compared, and that is all."""
    url = f"edge:{tmp_path / 'dst'}"
    sightline.copy(source, url)
    again = sightline.copy(source, url)
    assert (again.points, again.points_written) == (POINTS, 0)
    write(url, range(POINTS + 1))
    with pytest.raises(UsageError, match="--replace"):
        sightline.copy(source, url)


def test_what_comes_out_differently_is_named_and_not_opened(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that changes a payload or a vector is found out before anybody reads from it."""
    name = f"memory:{tmp_path}"
    write_right = MemoryStore.upsert
    chosen = next(iter(contents(source)[0]))

    def write_wrong(store: MemoryStore, points: list[Point], vectors: FloatArray) -> None:
        write_right(store, [replace(point, text="other") if point.id == chosen else point for point in points], vectors)

    monkeypatch.setattr(MemoryStore, "upsert", write_wrong)
    with pytest.raises(StoreError, match=f"came out differently.*Among them: {chosen}"):
        sightline.copy(source, name)
    with pytest.raises(UnfinishedCopy):
        sightline.inspect(name)
    monkeypatch.setattr(MemoryStore, "upsert", lambda store, points, vectors: write_right(store, points, vectors[::-1]))
    with pytest.raises(StoreError, match="came back changed"):
        sightline.copy(source, f"{name}2")
    monkeypatch.undo()
    sightline.copy(source, name)
    assert_same(source, name)


def test_the_source_is_held(source: str, tmp_path: Path) -> None:
    """Nobody writes to it while it is copied."""
    refused: list[StoreLocked] = []

    def on_progress(progress: CopyProgress) -> None:
        with pytest.raises(StoreLocked) as caught:
            write(source, range(3))
        refused.append(caught.value)

    sightline.copy(source, f"edge:{tmp_path / 'dst'}", on_progress=on_progress)
    assert refused


def test_a_source_that_another_program_changes_is_noticed(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our locks keep out Sightline alone; points that come or go meanwhile don't add up."""
    monkeypatch.setattr(copying.Copy, "_event", lambda copy, stage, done: setattr(copy, "_total", copy._total + 1))
    with pytest.raises(StoreError, match="another program changed the collection"):
        sightline.copy(source, f"edge:{tmp_path / 'dst'}")


def test_the_vectors_of_the_sample_dont_hold_their_pages() -> None:
    """A row is a view of its page's array, and a thousand of them would keep the whole collection in memory."""
    page, sample = np.ones((1000, 16), np.float32), copying._Sample()
    sample.offer(Record(Point("a", "", "", {}), page[3]), digest=1)
    held = weakref.ref(page)
    del page
    assert held() is None


# --- what is there already


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("place", ["edge:{}/dst", "chroma:{}/dst/handbook", "qdrant:{}/dst/handbook"])
def test_a_collection_is_replaced_whole(source: str, tmp_path: Path, place: str) -> None:
    """Without `replace` it is refused; with it, readers have the old one until the new one is whole, also after a kill."""
    url = place.format(tmp_path)
    write(url, range(3))
    before = contents(url)[0]
    with pytest.raises(UsageError, match=rf"sightline copy {source} {url} --replace"):
        sightline.copy(source, url)
    interrupt(source, url, replace=True)
    assert contents(url)[0] == before
    assert sightline.copy(source, url, replace=True).points_written < POINTS
    assert_same(source, url)


@pytest.mark.usefixtures("small_pages")
def test_half_a_replacement_is_told_from_a_rebuild(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What goes on with it is the copy; a rebuild would drop it."""
    url = f"edge:{tmp_path / 'dst'}"
    write(url, range(3))
    interrupt(source, url, replace=True)
    found, command = sightline.inspect(url), f"sightline copy {source} {url} --replace"
    assert (found.points, found.being_rebuilt, found.unfinished_copy) == (3, False, command)
    assert run("inspect", url) == 0
    assert command in capsys.readouterr().out
    sightline.copy(source, url, replace=True)
    assert sightline.inspect(url).unfinished_copy is None


@pytest.mark.parametrize("place", ["edge:{}/dst", "parquet:{}/kb.parquet"])
def test_the_command_that_replaces_has_the_options_that_were_said(adopted: str, source: str, tmp_path: Path, place: str) -> None:
    """Without them it would be refused in turn."""
    sightline.copy(source, url := place.format(tmp_path))
    with pytest.raises(UsageError, match=rf"sightline copy {adopted} {url} --foreign rows .*--replace"):
        sightline.copy(adopted, url, foreign="rows", only_main=True)


@pytest.mark.usefixtures("small_pages")
def test_a_rebuild_drops_half_a_replacement(source: str, tmp_path: Path) -> None:
    """Who rebuilds a collection means it; the copy that was to replace it had replaced nothing."""
    url = f"edge:{tmp_path / 'dst'}"
    write(url, range(3))
    interrupt(source, url, replace=True)
    sightline.index([KNOWLEDGE_BASE], into=url, model=HashEmbedder(), rebuild=True, force=True)
    assert sightline.inspect(url).roots.keys() == {"knowledge_base"}


def test_a_collection_of_another_program_is_never_replaced(adopted: str, source: str, tmp_path: Path) -> None:
    """What Sightline didn't make has no contract, and stays."""
    import chromadb

    with chromadb.PersistentClient(str(tmp_path / "alone")) as client:
        client.create_collection("alone", embedding_function=None)
    with pytest.raises(StoreError, match="didn't make"):
        sightline.copy(source, f"chroma:{tmp_path / 'alone'}/alone", replace=True)


def test_points_of_another_program_are_never_dropped(adopted: str, source: str) -> None:
    """A collection that was adopted holds them, and no copy has them."""
    with pytest.raises(StoreError, match="4 points that another program wrote"):
        sightline.copy(source, adopted, replace=True)


@pytest.mark.parametrize(
    ("src", "dst", "message"),
    [
        ("edge:kb", "edge:kb", "to itself"),
        ("edge:kb", "edge:./kb", "to itself"),
        ("chroma:db/one", "chroma:./db/two", "by way of a file"),
        ("qdrant:db/one", "qdrant:db/two", "by way of a file"),
    ],
)
def test_two_collections_of_one_directory_go_by_way_of_a_file(src: str, dst: str, message: str) -> None:
    """One store at a time may write such a directory, so both can't be held."""
    with pytest.raises(UsageError, match=message):
        sightline.copy(src, dst)


def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Nothing is made at the destination."""
    with pytest.raises(CollectionNotFound):
        sightline.copy(f"edge:{tmp_path / 'none'}", f"edge:{tmp_path / 'dst'}")
    with pytest.raises(CollectionNotFound, match="There is no file"):
        sightline.copy(f"parquet:{tmp_path / 'none.parquet'}", f"edge:{tmp_path / 'dst'}")
    assert list(tmp_path.iterdir()) == []


# --- foreign points


def test_foreign_points_are_not_dropped_in_silence(adopted: str, tmp_path: Path) -> None:
    """They are refused, unless the caller says what becomes of them; nothing is written then."""
    url = f"edge:{tmp_path / 'dst'}"
    with pytest.raises(StoreError, match=r"4 of the 5 points.*--foreign rows"):
        sightline.copy(adopted, url)
    with pytest.raises(UsageError, match="'refuse', 'rows', 'leave'"):
        sightline.copy(adopted, url, foreign="drop")
    assert not (tmp_path / "dst").exists()
    summary = sightline.copy(adopted, url, foreign="leave")
    assert (summary.points, summary.foreign_points, summary.foreign_left) == (1, 4, 4)


def test_foreign_points_become_rows(adopted: str, tmp_path: Path) -> None:
    """They keep the id by which their program knows them, text, metadata and vector."""
    url = f"edge:{tmp_path / 'dst'}"
    summary = sightline.copy(adopted, url, foreign="rows")
    assert (summary.points, summary.rows, summary.foreign_points, summary.foreign_left) == (5, 5, 4, 0)
    with sightline.open_collection(url, model=HashEmbedder()) as collection:
        [row] = collection.get(["b"])
        assert (row.text, row.metadata) == ("a lamp", {"source": "sea.md", "n": 1})
        assert collection.search("a lamp", k=1)[0].id == "b"
        assert len(list(collection.find({"source": "sea.md"}))) == 4


# --- how vectors are kept


def test_several_lengths_go_where_they_can_be_kept(tmp_path: Path) -> None:
    """Edge keeps all, a file remembers them, and Chroma is refused them until the main ones alone are asked for."""
    rich, chroma = f"edge:{tmp_path / 'rich'}", f"chroma:{tmp_path / 'chroma'}/handbook"
    settings = {"dimensions": [64, 32, 16], "quantization": "scalar", "storage": "float16"}
    sightline.index([KNOWLEDGE_BASE], into=rich, model=HashEmbedder(), **settings)
    with pytest.raises(StoreError, match=r"32, 16 dimensions.*scalar quantisation.*float16.*--only-main"):
        sightline.copy(rich, chroma)
    assert sightline.copy(rich, chroma, only_main=True).dimensions == (64,)
    with sightline.open_collection(chroma, model=HashEmbedder()) as collection:
        assert collection.contract.vectors.lengths == (64,)
    file, home = f"parquet:{tmp_path / 'kb.parquet'}", f"edge:{tmp_path / 'home'}"
    sightline.copy(rich, file)
    assert sightline.copy(file, home).dimensions == (64, 32, 16)
    layouts = []
    for url in (rich, home):
        store = open_store(url)
        layouts.append(store.layout())
        store.close()
    assert layouts == [VectorLayout(64, (32, 16), Quantization.SCALAR, VectorStorage.FLOAT16)] * 2
    with sightline.open_collection(home, model=HashEmbedder()) as collection:
        short, shortlisted = collection.search("tide", k=5, dimensions=16), collection.search("tide", k=5, shortlist="16:50")
        assert len(short) == len(shortlisted) == 5


# --- the file


def rewrite(path: Path, without: str = "", **changes: Any) -> None:
    """Write a Parquet file again, as other programs do: without a column, with other metadata; None removes a key."""
    table = pq.read_table(path)
    table = table.drop_columns([without]) if without else table
    described = {key.decode(): value.decode() for key, value in pq.ParquetFile(path).metadata.metadata.items()}
    described.pop("ARROW:schema", None)
    given = {key: value for key, value in {**described, **changes}.items() if value is not None}
    pq.write_table(table.replace_schema_metadata(given), path)


def test_a_file_is_read_by_whatever_reads_parquet(origin: str, tmp_path: Path) -> None:
    """Its columns are plain texts and numbers, vectors are of a fixed length, and the contract is in the metadata."""
    path = tmp_path / "kb.parquet"
    sightline.copy(origin, f"parquet:{path}")
    points, vectors, contract, mark = contents(origin)
    table = pq.read_table(path)
    head = ["head_hash", "head_chunks", "head_settings"]
    assert table.column_names == ["id", "text", "source", "metadata", *head, "embedded_digest", "vector"]
    assert table.schema.field("vector").type == pa.list_(pa.field("element", pa.float32(), nullable=False), 64)
    for row in table.to_pylist():
        point = points[row["id"]]
        assert (row["text"], row["source"], json.loads(row["metadata"])) == (point.text, point.source, point.metadata)
        assert (row["head_hash"] is None) == (point.head is None)
        assert row["vector"] == vectors[row["id"]].tolist()
    described = pq.ParquetFile(path).metadata.metadata
    assert json.loads(described[b"sightline_contract"]) == contract
    assert json.loads(described[b"sightline_mark"]) == mark
    assert (described[b"sightline_format"], described[b"sightline_points"]) == (b"1", str(len(points)).encode())
    Contract.from_json(json.loads(described[b"sightline_contract"]))


def test_a_file_is_whole_or_not_there(changing: str, tmp_path: Path) -> None:
    """An interruption leaves what was there before; only `replace` puts something else in its place."""
    path = tmp_path / "kb.parquet"
    interrupt(changing, f"parquet:{path}", pages=1)
    assert not path.exists()
    sightline.copy(changing, f"parquet:{path}")
    before = path.read_bytes()
    assert sightline.copy(changing, f"parquet:{path}").points_written == 0
    write(changing, range(5))
    with pytest.raises(UsageError, match="--replace"):
        sightline.copy(changing, f"parquet:{path}")
    interrupt(changing, f"parquet:{path}", pages=1, replace=True)
    assert path.read_bytes() == before
    assert sightline.copy(changing, f"parquet:{path}", replace=True).points == 5
    assert sorted(one.name for one in tmp_path.iterdir()) == ["changing", "kb.parquet"]


def test_two_copies_into_one_file_exclude_each_other(source: str, origin: str, tmp_path: Path) -> None:
    """The second one is told who is at it."""
    url = f"parquet:{tmp_path / 'kb.parquet'}"
    refused: list[StoreLocked] = []

    def on_progress(progress: CopyProgress) -> None:
        with pytest.raises(StoreLocked, match="is being written by") as caught:
            sightline.copy(origin, url)
        refused.append(caught.value)

    sightline.copy(source, url, on_progress=on_progress)
    assert refused


def test_what_is_no_file_of_ours_is_refused(source: str, tmp_path: Path) -> None:
    """Truncated, damaged, another program's, a newer version's, or changed by another program: each in its own words."""
    path, dst = tmp_path / "kb.parquet", f"edge:{tmp_path / 'dst'}"
    sightline.copy(source, f"parquet:{path}")
    whole = path.read_bytes()

    def refuses(message: str) -> None:
        with pytest.raises(StoreError, match=message):
            sightline.copy(f"parquet:{path}", dst)
        assert not (tmp_path / "dst").exists()

    for content in (whole[:-20], whole[: len(whole) // 2], b"", b"no parquet at all"):
        path.write_bytes(content)
        refuses("isn't a whole Parquet file")
    pq.write_table(pa.table({"id": ["a"]}), path)
    refuses("isn't a collection that Sightline wrote")
    for changes, message in (
        ({"sightline_format": "2"}, "has format 2; this Sightline reads 1"),
        ({"sightline_points": "61"}, "60 rows of 61"),
        ({"sightline_mark": None}, "says of itself what Sightline can't read"),
        ({"sightline_layout": "[]"}, "says of itself what Sightline can't read"),
    ):
        path.write_bytes(whole)
        rewrite(path, **changes)
        refuses(message)
    path.write_bytes(whole)
    rewrite(path, without="source")
    refuses("other columns")


def test_a_file_with_a_changed_bit_is_noticed(source: str, tmp_path: Path) -> None:
    """Pages have checksums, so a backup that rotted isn't taken for a good one."""
    path = tmp_path / "kb.parquet"
    sightline.copy(source, f"parquet:{path}")
    content = bytearray(path.read_bytes())
    group = pq.ParquetFile(path).metadata.row_group(0)
    content[group.column(8).data_page_offset + 200] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match="isn't a whole Parquet file"):
        sightline.copy(f"parquet:{path}", f"edge:{tmp_path / 'dst'}")


def test_a_file_is_no_store(source: str, tmp_path: Path) -> None:
    """Searching or indexing into one is answered with the copy that makes it searchable."""
    url = f"parquet:{tmp_path / 'kb.parquet'}"
    uses: list[Callable[[], Any]] = [
        lambda: sightline.open_collection(url),
        lambda: sightline.inspect(url),
        lambda: sightline.index([KNOWLEDGE_BASE], into=url),
        lambda: sightline.plan_index([KNOWLEDGE_BASE], into=url),
    ]
    for use in uses:
        with pytest.raises(UsageError, match=rf"sightline copy {url} edge:DIR"):
            use()
    for odd in ("parquet:", "parquet: ", f"parquet:{tmp_path}/"):
        with pytest.raises(UnknownStore, match="parquet:FILE"):
            sightline.copy(source, odd)
    with pytest.raises(UsageError, match="names a directory"):
        sightline.copy(source, f"parquet:{tmp_path}", replace=True)


def test_without_pyarrow_a_file_names_its_extra(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "sightline.stores.parquet", raising=False)
    with pytest.raises(MissingExtra, match=r"pip install 'sightline\[parquet\]'"):
        sightline.copy(source, "parquet:kb.parquet")


# --- on the command line


def run(*arguments: object) -> int:
    """Run the command line; gives its exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(one) for one in arguments])
    return int(ended.value.code or 0)


def test_the_command_says_what_it_did(source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Counts and what was verified go to stderr, the summary as JSON to stdout."""
    assert run("copy", source, f"parquet:{tmp_path / 'kb.parquet'}", "--json") == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["points"] == POINTS
    assert f"{POINTS} points in parquet:{tmp_path / 'kb.parquet'}: {POINTS} written" in told.err
    assert f"Verified: all ids, texts and metadata, {POINTS} vectors" in told.err
    assert run("copy", source, f"parquet:{tmp_path / 'kb.parquet'}") == 0
    assert f"0 written, {POINTS} there already" in capsys.readouterr().err


def test_the_command_keeps_nothing_in_memory(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What it made would be gone with it."""
    assert run("copy", source, "memory:kb") == 2
    assert "gone when this command ends" in capsys.readouterr().err


def test_a_file_of_something_else_is_never_replaced(source: str, tmp_path: Path) -> None:
    """Whatever is said."""
    path = tmp_path / "other.parquet"
    path.write_bytes(b"other")
    for replace_it in (False, True):
        with pytest.raises(UsageError, match="delete it first"):
            sightline.copy(source, f"parquet:{path}", replace=replace_it)
    assert path.read_bytes() == b"other"


def test_the_command_tells_of_foreign_points(adopted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was left out or changed is never unsaid."""
    assert run("copy", adopted, f"edge:{tmp_path / 'a'}") == 4
    assert run("copy", adopted, f"edge:{tmp_path / 'b'}", "--foreign", "leave") == 0
    assert "4 of another program left out" in capsys.readouterr().err
    assert run("copy", adopted, f"edge:{tmp_path / 'c'}", "--foreign", "rows") == 0
    assert "4 of another program made rows" in capsys.readouterr().err


def test_ctrl_c_says_how_to_go_on(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An interruption by hand isn't a fault."""

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(copying, "copy_into_store", interrupted)
    assert run("copy", source, f"edge:{tmp_path / 'dst'}") == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_progress_says_how_far_and_how_fast() -> None:
    """Both passes count all points."""
    assert points_done(CopyProgress("copying", 2000, 5000, 1000, 2.0)) == "copying 2,000/5,000 points, 500 written/s"
    assert points_done(CopyProgress("verifying", 2000, 5000, 5000, 9.0)) == "verifying 2,000/5,000 points"


# --- kill -9

COPY = """
import sys
from sightline import api, copying
copying._PAGE = int(sys.argv[3])
said = []
def say(progress):
    if not said:
        said.append(print("begun", flush=True))
api.copy(sys.argv[1], sys.argv[2], replace=len(sys.argv) > 4, on_progress=say)
"""


def begun(src: str, dst: str, page: int, *more: str) -> subprocess.Popen[str]:
    """A copy in a process of its own, after its first page."""
    command = [sys.executable, "-c", COPY, src, dst, str(page), *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def kill_at(process: subprocess.Popen[str], seconds: float) -> bool:
    """Kill a copy so long after its first page; False when it was done before."""
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    return process.returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
def test_a_killed_copy_is_finished_by_the_same_call(origin: str, tmp_path: Path) -> None:
    """Killed at four random instants, one after the other, it is not open in between and whole in the end."""
    url, instants, killed = f"edge:{tmp_path / 'dst'}", random.Random(3), 0
    process, started = begun(origin, f"edge:{tmp_path / 'rehearsal'}", 2), time.monotonic()
    process.communicate(timeout=60)
    whole = time.monotonic() - started
    for _ in range(4):
        killed += kill_at(begun(origin, url, 2), whole * instants.uniform(0, 0.6))
        assert_whole_or_closed(url, replaces=False)
    sightline.copy(origin, url)
    assert_same(origin, url)
    assert killed


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaServer]:
    """A real Chroma server."""
    running = ChromaServer(tmp_path_factory.mktemp("server"))
    yield running
    running.kill()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
@pytest.mark.parametrize("scheme", ["edge", "chroma", "chroma+http", "qdrant", "parquet"])
@pytest.mark.parametrize("replaces", [False, True])
def test_kills_leave_nothing_that_the_same_call_does_not_mend(
    scheme: str, replaces: bool, origin: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Ten copies, each killed at a random instant and run again; one that replaces leaves the old one until it is whole."""
    instants, killed, whole = random.Random(scheme), 0, 0.0
    more = ["replace"] * replaces
    for number in range(10):
        place = {
            "edge": f"edge:{tmp_path / str(number)}",
            "chroma": f"chroma:{tmp_path / str(number)}/handbook",
            "qdrant": f"qdrant:{tmp_path / str(number)}/handbook",
            "parquet": f"parquet:{tmp_path / str(number)}.parquet",
        }
        url = request.getfixturevalue("server").url() if scheme == "chroma+http" else place[scheme]
        if replaces:
            write(f"edge:{tmp_path / 'small'}", range(3))
            sightline.copy(f"edge:{tmp_path / 'small'}", url)
        process, started = begun(origin, url, 10, *more), time.monotonic()
        if number == 0:
            process.communicate(timeout=60)
            whole = time.monotonic() - started
        elif kill_at(process, whole * instants.uniform(0, 1.2)):
            killed += 1
            looked = url
            if scheme == "parquet" and replaces:
                looked = f"edge:{tmp_path / 'restored'}"
                shutil.rmtree(tmp_path / "restored", ignore_errors=True)
                sightline.copy(url, looked)
            if scheme != "parquet" or replaces:
                assert_whole_or_closed(looked, replaces=replaces)
            sightline.copy(origin, url, replace=replaces)
        if scheme != "parquet":
            assert_same(origin, url)
    assert killed >= 4


def assert_whole_or_closed(url: str, *, replaces: bool) -> None:
    """Nobody sees a part of the copy."""
    try:
        points = sightline.inspect(url).points
    except UnfinishedCopy:
        assert not replaces
    else:
        assert points in ((3, 164) if replaces else (164,))
