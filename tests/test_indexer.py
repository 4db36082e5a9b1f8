"""Facts about the indexer: what it writes, in which order, and that no failure at any place loses or doubles anything."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightline.contract import Mark
from sightline.errors import DeletionRefused, NonFiniteEmbedding, StoreError
from sightline.indexing import ahead, windows
from sightline.indexing import indexer as module
from sightline.indexing.background import Background
from sightline.indexing.chunking import default_settings
from sightline.indexing.files import Discovered, discover, roots_of
from sightline.indexing.indexer import Corpus, Indexer
from sightline.indexing.plan import head_id
from sightline.stores.memory import MemoryStore
from sightline.testing import HashEmbedder
from sightline.types import Document, FloatArray, Head, IndexProgress, IndexSummary, Point, SkippedFile, VectorLayout

DIMENSIONS = 16
WORDS = ["tide", "wind", "swell", "lamp", "rope", "anchor", "harbour", "keeper", "storm", "gull", "größer", "潮汐", "маяк"]


class RecordingStore(MemoryStore):
    """A memory store that writes down every change and fails at the one that it is told."""

    def __init__(self) -> None:
        super().__init__("memory:", None)
        self.changes: list[tuple[str, tuple[str, ...]]] = []
        self.fail_at: int | None = None
        self.create(VectorLayout(DIMENSIONS), {})

    def upsert(self, points: Sequence[Point], vectors: FloatArray) -> None:
        assert len({point.head is None for point in points}) == 1, "heads and chunks in one request"
        self._note("head" if points[0].head else "chunk", [point.id for point in points])
        super().upsert(points, vectors)

    def update(self, points: Sequence[Point]) -> None:
        if points:
            doubted = points[0].head is not None and not points[0].head.document_hash
            self._note("doubt" if doubted else "head" if points[0].head else "move", [point.id for point in points])
        super().update(points)

    def delete(self, ids: Sequence[str]) -> None:
        if ids:
            self._note("delete", ids)
        super().delete(ids)

    def write_mark(self, mark: Mapping[str, Any]) -> None:
        self._note("mark", mark["unfinished"])
        super().write_mark(mark)

    def contents(self) -> Mapping[str, tuple[Point, bytes]]:
        """Everything that it holds."""
        return {record.point.id: (record.point, record.vector.tobytes()) for record in self.records()}

    def unfinished(self) -> frozenset[str]:
        """The scopes that its mark lists."""
        return Mark.from_json(self.read_mark()).unfinished

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
    monkeypatch.setattr(windows, "_MOST_CHANGES", 8)


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


def indexer(store: MemoryStore, embedder: HashEmbedder | None = None, *, tokens: int = 64, **more: Any) -> Indexer:
    """An indexer with small chunks."""
    embedder = embedder or HashEmbedder()
    return Indexer(store, embedder, default_settings(embedder, tokens), dimensions=DIMENSIONS, **more)


def run(store: MemoryStore, folder: Path, embedder: HashEmbedder | None = None, **more: Any) -> IndexSummary:
    """Index a folder."""
    choices = {key: more.pop(key) for key in ("prune", "force") if key in more}
    return indexer(store, embedder, **more).run(Corpus(discover(roots_of([folder]))), **choices)


def run_documents(store: MemoryStore, documents: Iterable[Document], **more: Any) -> IndexSummary:
    """Index documents from Python under the root `tickets`."""
    nothing = Discovered(files=(), skipped=(), ignored=0, scopes=())
    return indexer(store).run(Corpus(nothing, documents=documents, root="tickets"), **more)


def fail_somewhere(store: RecordingStore, folder: Path, kind: str, number: int = 0, **more: Any) -> None:
    """A run that fails at its `number`-th change of a kind."""
    rehearsal = RecordingStore()
    rehearsal._slot.collection = copy.deepcopy(store._slot.collection)
    run(rehearsal, folder, **more)
    places = [place for place, one in enumerate(rehearsal.kinds()) if one == kind]
    store.changes.clear()
    store.fail_at = places[number]
    with pytest.raises(StoreError, match="the disk is full"):
        run(store, folder, **more)


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
    assert store.sources() == {head.source: head.num_chunks for head in heads}


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
    assert (store.kinds(), embedder.stats().texts) == (["mark"], 0)


def test_an_edit_embeds_only_what_is_new(store: RecordingStore, folder: Path) -> None:
    """An inserted section costs itself; the rest stays where it is."""
    run(store, folder)
    path = folder / "doc1.md"
    parts = sections(1)
    path.write_text("\n\n".join([*parts[:3], "# New\n\nSomething else.", *parts[3:]]), encoding="utf-8")
    summary = run(store, folder)
    assert (summary.documents_unchanged, summary.chunks_embedded) == (11, 1)
    assert store.contents() == undisturbed(folder)


def test_a_removed_section_is_deleted(store: RecordingStore, folder: Path) -> None:
    """The collection is what a new one would be."""
    run(store, folder)
    (folder / "doc1.md").write_text("\n\n".join(sections(1)[:2]), encoding="utf-8")
    assert run(store, folder).chunks_deleted == 5
    assert store.contents() == undisturbed(folder)


def test_an_inserted_beginning_embeds_only_itself(store: RecordingStore, folder: Path) -> None:
    """The text that was the head has a vector in the collection, though it lies under another id now."""
    run(store, folder)
    path = folder / "doc1.md"
    path.write_text("\n\n".join(["# New\n\nSomething else.", *sections(1)]), encoding="utf-8")
    assert run(store, folder).chunks_embedded == 1
    assert store.contents() == undisturbed(folder)


def test_a_renamed_document_embeds_nothing(store: RecordingStore, folder: Path) -> None:
    """Its texts have vectors under the old name, which goes when the run prunes."""
    run(store, folder)
    (folder / "doc1.md").rename(folder / "deep" / "other.md")
    summary = run(store, folder, prune=True)
    assert (summary.chunks_embedded, summary.documents_removed) == (0, 1)
    assert store.contents() == undisturbed(folder)


def test_changed_front_matter_embeds_nothing(store: RecordingStore, folder: Path) -> None:
    """Metadata is updated in place, on every chunk."""
    path = folder / "doc1.md"
    path.write_text("---\nlang: de\n---\n" + "\n\n".join(sections(1)), encoding="utf-8")
    run(store, folder)
    path.write_text("---\nlang: en\nyear: 2020\n---\n" + "\n\n".join(sections(1)), encoding="utf-8")
    embedder = HashEmbedder()
    summary = run(store, folder, embedder)
    assert (summary.documents_unchanged, embedder.stats().texts) == (11, 0)
    assert {point.metadata["year"] for point in store.points("kb/doc1.md")} == {2020}
    assert store.contents() == undisturbed(folder)


def test_a_document_that_vanished_is_left_alone(store: RecordingStore, folder: Path) -> None:
    """A run doesn't delete unless it is told to, but says what it found missing."""
    run(store, folder)
    (folder / "doc1.md").unlink()
    summary = run(store, folder)
    assert (summary.documents, summary.documents_vanished, summary.chunks_deleted) == (11, 1, 0)
    assert len(list(store.heads())) == 12


def test_pruning_removes_what_vanished(store: RecordingStore, folder: Path) -> None:
    """The collection is what a new one would be."""
    run(store, folder)
    (folder / "doc1.md").unlink()
    summary = run(store, folder, prune=True)
    assert (summary.documents_vanished, summary.documents_removed, summary.chunks_deleted) == (0, 1, 7)
    assert store.contents() == undisturbed(folder)


def test_pruning_more_than_half_is_refused_without_force(store: RecordingStore, folder: Path) -> None:
    """All else is done; the message names some of them and the way."""
    run(store, folder)
    before = store.count()
    for number in range(1, 9):
        next(folder.rglob(f"doc{number}.md")).unlink()
    (folder / "new.md").write_text("# New\n\nsomething else\n", encoding="utf-8")
    with pytest.raises(DeletionRefused, match=r"8 of the 12 documents .*doc1\.md.*--force"):
        run(store, folder, prune=True)
    assert store.count() == before + 1
    assert run(store, folder, prune=True, force=True).documents_removed == 8
    assert store.contents() == undisturbed(folder)


def test_a_text_that_cannot_be_embedded_is_told_with_its_document(store: RecordingStore, folder: Path) -> None:
    """Its number among the texts of a window says nothing to who gave a folder."""

    class Failing(HashEmbedder):
        def submit(self, texts: Any, **options: Any) -> Future[FloatArray]:
            future: Future[FloatArray] = Future()
            future.set_exception(NonFiniteEmbedding("The model gave NaN for text 0.", 0))
            return future

    with pytest.raises(NonFiniteEmbedding, match=r"^kb/.*doc\d+\.md: The model gave NaN for text 0\. The text begins with '"):
        run(store, folder, Failing())


def test_a_root_that_is_empty_is_refused_though_the_others_are_whole(
    store: RecordingStore, folder: Path, tmp_path: Path
) -> None:
    """Each root is asked by itself: one that isn't mounted may be the smaller one."""
    wiki = tmp_path / "wiki"
    wiki.mkdir()
    (wiki / "a.md").write_text("# Wiki", encoding="utf-8")
    both = lambda: Corpus(discover(roots_of([folder, wiki]), empty_ok=True))  # noqa: E731
    indexer(store).run(both())
    (wiki / "a.md").unlink()
    (folder / "doc1.md").unlink()
    with pytest.raises(DeletionRefused, match=r"1 of the 1 documents .*wiki/a\.md"):
        indexer(store).run(both(), prune=True)
    assert set(store.sources()) >= {"wiki/a.md", "kb/doc2.md"}
    assert "kb/doc1.md" not in store.sources()


def test_removals_come_in_windows_too(store: RecordingStore) -> None:
    """A large pruning neither holds all heads at once nor deletes at its end only."""
    run_documents(store, (Document(str(number), f"ticket {number}") for number in range(3000)))
    store.changes.clear()
    run_documents(store, [], prune=True, force=True)
    assert store.count() == 0
    assert max(len(ids) for _, ids in store.changes) <= windows._MOST_CHANGES


def test_pruning_stays_within_the_roots_of_the_run(store: RecordingStore, folder: Path, tmp_path: Path) -> None:
    """Compared by path parts: `kb` isn't the beginning of `kb2`, nor is a file named by itself its whole folder."""
    other = tmp_path / "kb2"
    other.mkdir()
    (other / "a.md").write_text("# Other\n\nof another root\n", encoding="utf-8")
    run(store, folder)
    run(store, other)
    (folder / "doc1.md").unlink()
    (other / "a.md").rename(other / "b.md")
    assert run(store, folder / "doc2.md", prune=True).documents_removed == 0
    assert run(store, folder, prune=True).documents_removed == 1
    assert "kb2/a.md" in store.sources()


def test_what_cannot_be_read_now_is_not_pruned(store: RecordingStore, folder: Path) -> None:
    """A file that turned unreadable keeps its old chunks."""
    run(store, folder)
    (folder / "doc1.md").write_bytes(b"\x00\xff\xfe\x00 binary")
    summary = run(store, folder, prune=True)
    assert (summary.documents_failed, summary.documents_removed, summary.documents_vanished) == (1, 0, 0)
    assert len(store.points("kb/doc1.md")) == 7


def test_a_folder_that_cannot_be_read_now_protects_all_below_it(store: RecordingStore, folder: Path) -> None:
    """The skipped folder stands for its documents."""
    run(store, folder)
    found = discover(roots_of([folder]))
    left = tuple(file for file in found.files if not file.source.startswith("kb/deep/"))
    blocked = replace(found, files=left, skipped=(SkippedFile("kb/deep", "the folder can't be read"),))
    summary = indexer(store).run(Corpus(blocked), prune=True, force=True)
    assert (summary.documents_removed, len(list(store.heads()))) == (0, 12)


def test_other_chunk_settings_cut_again(store: RecordingStore, folder: Path) -> None:
    """A head remembers how its document was cut."""
    run(store, folder)
    summary = run(store, folder, tokens=32)
    assert summary.documents_unchanged == 0
    assert {head.settings for head in store.heads()} == {next(store.heads()).settings}


@pytest.mark.parametrize("size", [5, 512])
def test_equal_texts_are_embedded_once(store: RecordingStore, folder: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Twelve closings are one text, in one window or in many."""
    monkeypatch.setattr(module, "_SMALLEST_WINDOW", size)
    monkeypatch.setattr(module, "_LARGEST_WINDOW", size)
    embedder = HashEmbedder()
    summary = run(store, folder, embedder)
    assert summary.chunks - summary.chunks_embedded == 11
    assert embedder.stats().texts == summary.chunks_embedded


def test_nothing_goes_before_its_successor_and_heads_come_last(
    store: RecordingStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark, doubts, new chunks, deletions, and then the heads that commit it all."""
    monkeypatch.setattr(module, "_SMALLEST_WINDOW", 512)
    run(store, folder)
    store.changes.clear()
    for path in folder.rglob("*.md"):
        path.write_text("\n\n".join(["# First\n\nnew beginning", *sections(99, 2)]), encoding="utf-8")
    run(store, folder)
    assert store.kinds() == ["mark", "doubt", "chunk", "move", "delete", "head", "mark"]


@pytest.mark.usefixtures("small_windows")
def test_a_long_document_spans_windows(store: RecordingStore, folder: Path) -> None:
    """Its head comes in the last of them, after all its chunks."""
    (folder / "long.md").write_text("\n\n".join(sections(77, 40)), encoding="utf-8")
    run(store, folder)
    source = next(head.source for head in store.heads() if head.source.endswith("long.md"))
    head = head_id(source)
    others = {point.id for point in store.points(source)} - {head}
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
    """A file that changes, fails and reverts has a head in doubt: the old hash would be equal (H1)."""
    store = RecordingStore()
    run(store, folder)
    before, texts = store.contents(), {path: path.read_text(encoding="utf-8") for path in folder.rglob("*.md")}
    for path in texts:
        path.write_text("\n\n".join(sections(50 + len(path.name), 3)), encoding="utf-8")
    store.fail_at = len(store.changes) + 4
    with pytest.raises(StoreError):
        run(store, folder)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    run(store, folder)
    assert store.contents() == before
    assert store.unfinished() == frozenset()


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("kind", ["mark", "doubt", "chunk", "move", "delete", "head"])
def test_a_failure_at_any_kind_of_change_is_mended(folder: Path, kind: str) -> None:
    """Whether the edit stays, is taken back, or the documents vanish before the next run."""
    for number in range(3):
        for ending in ("stays", "reverts", "vanishes"):
            store = RecordingStore()
            run(store, folder)
            old = {path: path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.md"))}
            edited = list(old)[: 5 + number]
            for path in edited:
                lines = old[path].split("\n\n")
                path.write_text("\n\n".join(["# New", f"beginning {path.name}", *lines[:6], *lines[8:]]), encoding="utf-8")
            (folder / "added.md").write_text("\n\n".join(sections(200, 9)), encoding="utf-8")
            fail_somewhere(store, folder, kind, min(number, 1) if kind == "mark" else number)
            if ending != "stays":
                (folder / "added.md").unlink()
            for path in edited:
                if ending == "reverts":
                    path.write_text(old[path], encoding="utf-8")
                elif ending == "vanishes":
                    path.unlink()
            run(store, folder, prune=True, force=True)
            assert store.contents() == undisturbed(folder), (kind, number, ending)
            assert store.unfinished() == frozenset()
            for path, text in old.items():
                path.write_text(text, encoding="utf-8")
            (folder / "added.md").unlink(missing_ok=True)


@pytest.mark.usefixtures("small_windows")
def test_a_failed_pruning_is_mended_when_the_file_comes_back(store: RecordingStore, folder: Path) -> None:
    """Half of a document's chunks are gone, its head is in doubt, and its file is there again with the same bytes."""
    run(store, folder)
    wanted, text = store.contents(), (folder / "doc1.md").read_text(encoding="utf-8")
    (folder / "doc1.md").unlink()
    fail_somewhere(store, folder, "delete", 1, prune=True)
    (folder / "doc1.md").write_text(text, encoding="utf-8")
    run(store, folder)
    assert store.contents() == wanted


@pytest.mark.usefixtures("small_windows")
def test_another_root_leaves_the_mark_alone(store: RecordingStore, folder: Path, tmp_path: Path) -> None:
    """A run clears only what it has replanned whole (H2), and a file by itself isn't its folder."""
    fail_somewhere(store, folder, "chunk", 2)
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.md").write_text("# Other\n\nof another root\n", encoding="utf-8")
    run(store, other)
    run(store, folder / "doc1.md")
    assert store.unfinished() == {"kb"}
    run(store, folder)
    assert store.unfinished() == frozenset()


@pytest.mark.usefixtures("small_windows")
def test_what_a_killed_run_began_goes_with_its_file(store: RecordingStore, folder: Path) -> None:
    """Points without a head and without a file are nobody's (H3)."""
    (folder / "aaa.md").write_text("\n\n".join(sections(77, 20)), encoding="utf-8")
    fail_somewhere(store, folder, "chunk", 2)
    assert store.points("kb/aaa.md")
    (folder / "aaa.md").unlink()
    run(store, folder)
    assert store.contents() == undisturbed(folder)


@pytest.mark.usefixtures("small_windows")
def test_what_a_killed_run_began_waits_for_a_file_that_cannot_be_read_now(store: RecordingStore, folder: Path) -> None:
    """The scope stays unfinished until then."""
    path = folder / "aaa.md"
    path.write_text("\n\n".join(sections(77, 20)), encoding="utf-8")
    text = path.read_bytes()
    fail_somewhere(store, folder, "chunk", 2)
    path.write_bytes(b"\x00\xff")
    run(store, folder)
    assert (bool(store.points("kb/aaa.md")), store.unfinished()) == (True, {"kb"})
    path.write_bytes(text)
    run(store, folder)
    assert (store.contents(), store.unfinished()) == (undisturbed(folder), frozenset())


def test_a_lost_chunk_is_noticed_without_a_mark(store: RecordingStore, folder: Path) -> None:
    """Heads that don't add up to the count send the run to look at every source."""
    run(store, folder)
    wanted = store.contents()
    store.delete([store.points("kb/doc1.md")[2].id])
    summary = run(store, folder)
    assert (summary.documents_unchanged, store.contents()) == (11, wanted)


def test_documents_from_python_are_indexed_under_their_root(store: RecordingStore) -> None:
    """Their metadata is kept, one that changes is updated, one that vanished is pruned, and files have nothing to do with it."""
    documents = [Document(str(number), f"ticket {number}", metadata={"state": "open"}) for number in range(4)]
    assert run_documents(store, documents).chunks_embedded == 4
    closed = [replace(documents[0], metadata={"state": "closed"}), *documents[1:3]]
    summary = run_documents(store, iter(closed), prune=True)
    assert (summary.chunks_embedded, summary.documents_unchanged, summary.documents_removed) == (0, 2, 1)
    assert store.sources() == {"tickets/0": 1, "tickets/1": 1, "tickets/2": 1}
    assert store.points("tickets/0")[0].metadata["state"] == "closed"


def test_a_document_that_no_store_could_keep_is_told_and_the_rest_is_indexed(store: RecordingStore) -> None:
    """Odd metadata, half characters, odd sources and a source that came before: each with its reason."""
    good = Document("good", "text")
    odd = [
        Document("a", "text", metadata={"x": object()}),
        Document("b", "te\ud800xt"),
        Document("c\n", "text"),
        Document("\udfff", "text"),
        Document("d", None),
        Document("e", "text", metadata=[1]),
        good,
    ]
    summary = run_documents(store, [good, *odd])
    assert (summary.documents, summary.documents_failed, store.sources()) == (1, 7, {"tickets/good": 1})
    assert all(skipped.reason for skipped in summary.skipped)


def test_something_else_than_a_document_is_a_mistake(store: RecordingStore) -> None:
    """The caller's iterator is wrong, not one of its documents."""
    with pytest.raises(TypeError, match="Document"):
        run_documents(store, ["text"])


def test_an_iterator_is_drawn_no_further_than_needed(store: RecordingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failing store stops it long before its end."""
    monkeypatch.setattr(module, "_SMALLEST_WINDOW", 5)
    drawn = []

    def endless() -> Iterator[Document]:
        for number in range(100_000):
            drawn.append(number)
            yield Document(str(number), f"ticket {number}")

    store.fail_at = len(store.changes) + 3
    with pytest.raises(StoreError):
        run_documents(store, endless())
    assert len(drawn) < 20_000


@pytest.mark.usefixtures("small_windows")
def test_a_rerun_reads_written_vectors_back(store: RecordingStore, folder: Path) -> None:
    """What was acknowledged before the failure isn't embedded again, heads aside."""
    whole = run(RecordingStore(), folder).chunks_embedded
    store.fail_at = 9
    with pytest.raises(StoreError):
        run(store, folder)
    assert run(store, folder).chunks_embedded < whole - 10


def test_a_document_that_lost_its_text_leaves(store: RecordingStore, folder: Path) -> None:
    """An emptied file has nothing to be found by, is no failure, and is nothing new next time (H8)."""
    run(store, folder)
    (folder / "doc1.md").write_text("---\ntitle: nothing else\n---\n", encoding="utf-8")
    summary = run(store, folder)
    assert "kb/doc1.md" not in store.sources()
    assert (summary.chunks_embedded, summary.chunks_deleted) == (0, 7)
    assert (summary.documents, summary.documents_empty, summary.documents_failed) == (11, 1, 0)
    store.changes.clear()
    assert run(store, folder).documents_empty == 1
    assert store.kinds() == ["mark"]


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

    monkeypatch.setattr(ahead, "loaded", broken)
    with pytest.raises(RuntimeError, match="the reader broke"):
        run(store, folder)


@pytest.mark.usefixtures("small_windows")
def test_a_stuck_embedder_doesnt_keep_a_failed_run_alive(
    store: RecordingStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure elsewhere cancels what the caller's thread waits for."""
    read, count = ahead.loaded, iter(range(100))

    def broken(*arguments: Any) -> Any:
        if next(count) == 3:
            raise RuntimeError("the reader broke")
        return read(*arguments)

    monkeypatch.setattr(ahead, "loaded", broken)
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
    counts = store.sources()
    assert all(counts[head.source] == head.num_chunks for head in store.heads() if head.document_hash)
    run(store, folder)
    assert store.contents() == undisturbed(folder)


@pytest.mark.usefixtures("small_windows")
def test_progress_only_grows_and_ends_with_everything(store: RecordingStore, folder: Path) -> None:
    """The last event has the summary's figures."""
    events: list[IndexProgress] = []
    summary = run(store, folder, on_progress=events.append)
    for field in ("documents_done", "bytes_done", "chunks_embedded", "chunks_written", "seconds"):
        values = [getattr(event, field) for event in events]
        assert values == sorted(values), field
    last = events[-1]
    assert (last.stage, last.documents_done, last.documents_total) == ("done", 12, 12)
    assert last.bytes_done == last.bytes_total == sum(path.stat().st_size for path in folder.rglob("*.md"))
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


def test_a_stage_that_begins_after_another_failed_ends() -> None:
    """Nobody waits for what will never come."""
    error = ValueError("unreadable")

    def fail() -> Iterator[int]:
        raise error
        yield 0

    def begin_late() -> None:
        with Background() as background:
            first = background.ahead(fail(), depth=1)
            for thread in background._threads:
                thread.join()
            list(background.ahead(first, depth=1))

    with pytest.raises(ValueError, match="unreadable") as caught:
        begin_late()
    assert caught.value is error


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


def test_a_head_names_hash_and_settings(store: RecordingStore, folder: Path) -> None:
    """What the next run compares is all there."""
    run(store, folder)
    head: Head = next(store.heads())
    assert head.document_hash
    assert "64" in head.settings
