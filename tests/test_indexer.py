"""Facts about the indexer: what it writes, in which order, and that no failure at any place loses or doubles anything."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightline.errors import StoreError
from sightline.indexing import indexer as module
from sightline.indexing.background import Background
from sightline.indexing.chunking import default_settings
from sightline.indexing.files import discover
from sightline.indexing.indexer import Indexer
from sightline.indexing.plan import head_id
from sightline.stores.memory import MemoryStore
from sightline.testing import HashEmbedder
from sightline.types import FloatArray, Head, IndexProgress, IndexSummary, Point

DIMENSIONS = 16
WORDS = ["tide", "wind", "swell", "lamp", "rope", "anchor", "harbour", "keeper", "storm", "gull", "größer", "潮汐", "маяк"]


class RecordingStore(MemoryStore):
    """A memory store that writes down every change and fails at the one that it is told."""

    def __init__(self) -> None:
        super().__init__("memory:", None)
        self.create(DIMENSIONS, {})
        self.changes: list[tuple[str, tuple[str, ...]]] = []
        self.fail_at: int | None = None

    def upsert(self, points: Sequence[Point], vectors: FloatArray) -> None:
        self._note("head" if points[0].head else "chunk", [point.id for point in points])
        assert len({point.head is None for point in points}) == 1, "heads and chunks in one request"
        super().upsert(points, vectors)

    def delete(self, ids: Sequence[str]) -> None:
        self._note("delete", ids)
        super().delete(ids)

    def contents(self) -> Mapping[str, tuple[Point, bytes]]:
        """Everything that it holds."""
        collection = self._collection()
        return {one: (point, collection.vectors[one].tobytes()) for one, point in collection.points.items()}

    def kinds(self) -> list[str]:
        """The changes without their ids."""
        return [kind for kind, _ in self.changes]

    def _note(self, kind: str, ids: Sequence[str]) -> None:
        if len(self.changes) == self.fail_at:
            self.fail_at = None
            raise StoreError("the disk is full")
        self.changes.append((kind, tuple(ids)))


class StuckEmbedder(HashEmbedder):
    """Its answers never come, as long as nobody cancels them."""

    def submit(self, texts: Any, **more: Any) -> Future[FloatArray]:
        return Future()


@pytest.fixture
def store() -> RecordingStore:
    """An empty collection."""
    return RecordingStore()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve documents of several sections, some of them with equal texts."""
    root = tmp_path / "kb"
    (root / "deep").mkdir(parents=True)
    for number in range(12):
        path = root / ("deep" if number % 3 == 0 else ".") / f"doc{number}.md"
        path.write_text("\n\n".join(sections(number)), encoding="utf-8")
    return root


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of five chunks, so that documents span several."""
    monkeypatch.setattr(module, "_SMALLEST_WINDOW", 5)
    monkeypatch.setattr(module, "_LARGEST_WINDOW", 5)
    monkeypatch.setattr(module, "_WINDOW_POINTS", 8)


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    """Whatever happened, the indexer's threads are over."""
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name in ("sightline-reader", "sightline-writer")]


def sections(number: int, count: int = 6) -> list[str]:
    """Texts of one document; the last section is the same everywhere."""
    generator = np.random.default_rng(number)
    made = [f"# Part {part}\n\n{' '.join(generator.choice(WORDS, 30))} {number}." for part in range(count)]
    return [*made, "# Closing\n\nThe same words stand at the end of every page."]


def run(store: MemoryStore, folder: Path, embedder: HashEmbedder | None = None, **more: Any) -> IndexSummary:
    """Index a folder."""
    embedder = embedder or HashEmbedder()
    settings = default_settings(embedder, 64)
    return Indexer(store, embedder, settings, dimensions=DIMENSIONS, **more).run(discover([folder]))


def undisturbed(folder: Path) -> Mapping[str, tuple[Point, bytes]]:
    """What a collection holds that was made in one go."""
    store = RecordingStore()
    run(store, folder)
    return store.contents()


def test_every_document_is_there_whole(store: RecordingStore, folder: Path) -> None:
    """Each has a head that counts its chunks."""
    summary = run(store, folder)
    heads = list(store.heads())
    assert (summary.documents, len(heads)) == (12, 12)
    assert summary.chunks == store.count() == sum(head.num_chunks for head in heads)
    assert all(len(store.chunk_ids(head.source)) == head.num_chunks for head in heads)


def test_vectors_are_those_of_the_texts(store: RecordingStore, folder: Path) -> None:
    """No vector is under another text's id, duplicates and non-ASCII text included."""
    run(store, folder)
    for point, vector in store.contents().values():
        expected = HashEmbedder().embed_documents([point.text], dimensions=DIMENSIONS)[0]
        np.testing.assert_allclose(np.frombuffer(vector, np.float32), expected, atol=1e-6)


def test_an_unchanged_run_embeds_and_writes_nothing(store: RecordingStore, folder: Path) -> None:
    """What is there stays untouched."""
    run(store, folder)
    store.changes.clear()
    embedder = HashEmbedder()
    summary = run(store, folder, embedder)
    assert (summary.documents_unchanged, summary.chunks, summary.chunks_embedded) == (12, store.count(), 0)
    assert (store.changes, embedder.stats().texts) == ([], 0)


def test_an_edit_embeds_only_what_is_new(store: RecordingStore, folder: Path) -> None:
    """An inserted section costs itself and the head; the rest is read back."""
    run(store, folder)
    path = folder / "doc1.md"
    parts = sections(1)
    path.write_text("\n\n".join([*parts[:3], "# New\n\nSomething else.", *parts[3:]]), encoding="utf-8")
    summary = run(store, folder)
    assert (summary.documents_unchanged, summary.chunks_embedded) == (11, 2)
    assert store.contents() == undisturbed(folder)


def test_a_removed_section_is_deleted(store: RecordingStore, folder: Path) -> None:
    """The collection is what a new one would be."""
    run(store, folder)
    (folder / "doc1.md").write_text("\n\n".join(sections(1)[:2]), encoding="utf-8")
    assert run(store, folder).chunks_deleted == 5
    assert store.contents() == undisturbed(folder)


def test_a_document_that_vanished_is_left_alone(store: RecordingStore, folder: Path) -> None:
    """A run doesn't delete what it wasn't given."""
    run(store, folder)
    (folder / "doc1.md").unlink()
    summary = run(store, folder)
    assert (summary.documents, summary.chunks_deleted, len(list(store.heads()))) == (11, 0, 12)


def test_other_chunk_settings_cut_again(store: RecordingStore, folder: Path) -> None:
    """A head remembers how its document was cut."""
    run(store, folder)
    embedder = HashEmbedder()
    summary = Indexer(store, embedder, default_settings(embedder, 32), dimensions=DIMENSIONS).run(discover([folder]))
    assert summary.documents_unchanged == 0
    assert {head.settings for head in store.heads()} == {next(store.heads()).settings}


def test_equal_texts_are_embedded_once(store: RecordingStore, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve closings are one text within a window."""
    monkeypatch.setattr(module, "_SMALLEST_WINDOW", 512)
    summary = run(store, folder)
    assert summary.chunks - summary.chunks_embedded == 11


def test_chunks_before_heads_before_deletions(store: RecordingStore, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head is written when all else of its document is acknowledged, and nothing is deleted before."""
    monkeypatch.setattr(module, "_SMALLEST_WINDOW", 512)
    run(store, folder)
    store.changes.clear()
    for path in folder.rglob("*.md"):
        path.write_text("\n\n".join(["# First\n\nnew beginning", *sections(99, 2)]), encoding="utf-8")
    run(store, folder)
    assert store.kinds() == ["chunk", "head", "delete"]


@pytest.mark.usefixtures("small_windows")
def test_a_long_document_spans_windows(store: RecordingStore, folder: Path) -> None:
    """Its head comes in the last of them, after all its chunks."""
    (folder / "long.md").write_text("\n\n".join(sections(77, 40)), encoding="utf-8")
    run(store, folder)
    source = next(head.source for head in store.heads() if head.source.endswith("long.md"))
    head, others = head_id(source), set(store.chunk_ids(source)) - {head_id(source)}
    written = [one for _, ids in store.changes for one in ids]
    assert max(written.index(one) for one in others) < written.index(head)
    assert store.contents() == undisturbed(folder)


@pytest.mark.usefixtures("small_windows")
def test_a_failure_anywhere_is_mended_by_the_same_command(folder: Path) -> None:
    """After a failure at any change of the store, a rerun gives the collection that an undisturbed run gives."""
    wanted = undisturbed(folder)
    clean = RecordingStore()
    run(clean, folder)
    for place in range(len(clean.changes)):
        store = RecordingStore()
        store.fail_at = place
        with pytest.raises(StoreError, match="the disk is full"):
            run(store, folder)
        run(store, folder)
        assert store.contents() == wanted, f"failed at change {place}"


@pytest.mark.usefixtures("small_windows")
def test_an_interrupted_edit_is_mended_even_when_it_is_taken_back(folder: Path) -> None:
    """A file that changes, fails and reverts has the head of before: its extra points are found by counting."""
    store = RecordingStore()
    run(store, folder)
    before, texts = store.contents(), {path: path.read_text(encoding="utf-8") for path in folder.rglob("*.md")}
    for path in texts:
        path.write_text("\n\n".join(sections(50 + len(path.name), 3)), encoding="utf-8")
    store.fail_at = len(store.changes) + 2
    with pytest.raises(StoreError):
        run(store, folder)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    run(store, folder)
    assert store.contents() == before


@pytest.mark.usefixtures("small_windows")
def test_a_rerun_reads_written_vectors_back(store: RecordingStore, folder: Path) -> None:
    """What was acknowledged before the failure isn't embedded again, heads aside."""
    whole = run(RecordingStore(), folder).chunks_embedded
    store.fail_at = 9
    with pytest.raises(StoreError):
        run(store, folder)
    assert run(store, folder).chunks_embedded < whole - 10


def test_a_document_that_lost_its_text_leaves(
    store: RecordingStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An emptied file has nothing to be found by."""
    run(store, folder)
    found = discover([folder])
    monkeypatch.setattr(module, "chunk", lambda *_: [])
    (folder / "doc1.md").write_text("---\ntitle: nothing else\n---\n", encoding="utf-8")
    settings = default_settings(HashEmbedder(), 64)
    summary = Indexer(store, HashEmbedder(), settings, dimensions=DIMENSIONS).run(found)
    assert not [head for head in store.heads() if head.source.endswith("doc1.md")]
    assert (summary.chunks_embedded, summary.chunks_deleted) == (0, 7)


def test_an_embedder_that_fails_stops_the_run(store: RecordingStore, folder: Path) -> None:
    """Its error arrives as it was raised."""

    class Failing(HashEmbedder):
        def submit(self, texts: Any, **more: Any) -> Future[FloatArray]:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run(store, folder, Failing())


def test_a_reader_that_fails_stops_the_run(
    store: RecordingStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while the embedder is busy."""

    def broken(*_: object) -> None:
        raise RuntimeError("the reader broke")

    monkeypatch.setattr(module, "read_document", broken)
    with pytest.raises(RuntimeError, match="the reader broke"):
        run(store, folder)


@pytest.mark.usefixtures("small_windows")
def test_a_stuck_embedder_doesnt_keep_a_failed_run_alive(
    store: RecordingStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure elsewhere cancels what the caller's thread waits for."""
    read, count = module.read_document, iter(range(100))

    def broken(*arguments: Any) -> Any:
        if next(count) == 3:
            raise RuntimeError("the reader broke")
        return read(*arguments)

    monkeypatch.setattr(module, "read_document", broken)
    with pytest.raises(RuntimeError, match="the reader broke"):
        run(store, folder, StuckEmbedder())


@pytest.mark.usefixtures("small_windows")
def test_ctrl_c_stops_all_stages(store: RecordingStore, folder: Path) -> None:
    """KeyboardInterrupt passes through; what was committed is whole."""

    class Interrupted(HashEmbedder):
        calls = 0

        def submit(self, texts: Any, **more: Any) -> Future[FloatArray]:
            self.calls += 1
            if self.calls == 6:
                raise KeyboardInterrupt
            return super().submit(texts, **more)

    with pytest.raises(KeyboardInterrupt):
        run(store, folder, Interrupted())
    assert all(len(store.chunk_ids(head.source)) == head.num_chunks for head in store.heads())
    run(store, folder)
    assert store.contents() == undisturbed(folder)


@pytest.mark.usefixtures("small_windows")
def test_progress_only_grows_and_ends_with_everything(store: RecordingStore, folder: Path) -> None:
    """The last event has the summary's figures."""
    events: list[IndexProgress] = []
    summary = run(store, folder, on_progress=events.append)
    for field in ("files_done", "chunks_embedded", "chunks_written", "seconds"):
        values = [getattr(event, field) for event in events]
        assert values == sorted(values), field
    last = events[-1]
    assert (last.stage, last.files_done, last.files_total) == ("done", 12, 12)
    assert (last.chunks_embedded, last.chunks_written) == (summary.chunks_embedded, summary.chunks)


def test_files_that_cannot_be_read_are_told(store: RecordingStore, folder: Path) -> None:
    """The rest is indexed, and the summary names each with its reason."""
    (folder / "broken.txt").write_bytes(b"\x00\x01\x02\xff\xfe" * 100)
    summary = run(store, folder)
    assert (summary.documents, summary.documents_failed) == (12, 1)
    assert summary.skipped[0].source.endswith("broken.txt")
    assert summary.skipped[0].reason


def test_the_reader_stays_near_the_embedder() -> None:
    """At most `depth` items wait between two stages, however many there are."""
    drawn: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(100):
            drawn.append(number)
            yield number

    with Background() as background:
        for seen, number in enumerate(background.ahead(numbers(), depth=2)):
            assert number == seen
            assert len(drawn) <= seen + 4  # two wait, one is in the producer's hand, one in ours


def test_a_failing_writer_stops_its_producer() -> None:
    """The producer isn't drawn to the end for nothing, and the original error arrives."""
    drawn: list[int] = []
    error = ValueError("full")

    def fail(_: int) -> None:
        raise error

    def numbers() -> Iterator[int]:
        for number in range(10_000):
            drawn.append(number)
            yield number

    with pytest.raises(ValueError, match="full") as caught, Background() as background:
        background.hand_over(numbers(), fail, depth=2)
    assert caught.value is error
    assert len(drawn) < 10_000


def test_a_vanished_point_is_an_error_not_a_guess(store: RecordingStore, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's writing shows when a vector is to be read back."""
    run(store, folder)
    (folder / "doc1.md").write_text("\n\n".join(["# New\n\nbeginning", *sections(1)]), encoding="utf-8")
    empty: Callable[[Sequence[str]], dict[str, FloatArray]] = lambda ids: {}  # noqa: E731
    monkeypatch.setattr(store, "vectors", empty)
    with pytest.raises(StoreError, match="vanished"):
        run(store, folder)


def test_a_head_names_hash_and_settings(store: RecordingStore, folder: Path) -> None:
    """What the next run compares is all there."""
    run(store, folder)
    head: Head = next(store.heads())
    assert head.document_hash
    assert "64" in head.settings
