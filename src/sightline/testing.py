"""What tests of Sightline, its adapters and its users share: an embedder without weights, and the conformance suites."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sightline.cutting import cut
from sightline.embedding.base import BaseEmbedder
from sightline.embedding.dimensions import DimensionRange
from sightline.embedding.instructions import Instructions
from sightline.errors import (
    CollectionNotFound,
    DimensionError,
    EmbedderClosed,
    InputError,
    SightlineError,
    StoreError,
    StoreLocked,
    UsageError,
)
from sightline.metadata import ROW_PREFIX
from sightline.protocols import InstructionLike, Store, Texts
from sightline.stores import open_store
from sightline.stores.filters import matches, parse_filter
from sightline.types import (
    EmbedderIdentity,
    EmbeddingProgress,
    EmbeddingStats,
    Filter,
    FloatArray,
    Head,
    Hit,
    Instruction,
    OnEmbeddingProgress,
    Point,
    Priority,
    Quantization,
    Role,
    Shortlist,
    VectorLayout,
    VectorStorage,
)

_WORD = re.compile(r"\w+")


class HashEmbedder(BaseEmbedder):
    """A deterministic embedder without weights or tokenizer: a text's vector is the sum of its words' hashed directions.

    Texts that share words are near each other, prompts count as words of lesser weight, and the same text gives the same bits
    on every machine. What it cannot know (tokens, maximum length) is None.
    """

    def __init__(
        self,
        *,
        dimensions: int | None = None,
        native_dimensions: int = 64,
        instructions: Mapping[str, str | Instruction] | None = None,
        query_instruction: InstructionLike = None,
        document_instruction: InstructionLike = None,
        name: str = "sightline-hash",
    ) -> None:
        self._range = DimensionRange(minimum=1, native=native_dimensions, matryoshka=True)
        self._dimensions = self._range.check(dimensions)
        self._instructions = Instructions(
            prompts={"query": "query: ", "document": ""},
            custom=instructions or {},
            query=query_instruction,
            document=document_instruction,
        )
        self._name = name
        self._stats = EmbeddingStats()
        self._closed = False
        self._directions: dict[str, FloatArray] = {}

    @property
    def dimensions(self) -> int:
        """Length of the vectors that are given when no other is asked for."""
        return self._dimensions

    @property
    def max_length(self) -> int | None:
        """Unknown: there is no tokenizer."""
        return None

    @property
    def instructions(self) -> Mapping[str, str]:
        """The known names with their literal prompts."""
        return self._instructions.known()

    def identity(self) -> EmbedderIdentity:
        """Name and length are all of its identity."""
        return EmbedderIdentity(
            model=self._name,
            revision=None,
            fingerprint=hashlib.sha256(f"{self._name}/{self._range.native}".encode()).hexdigest(),
            native_dimensions=self._range.native,
            pooling=None,
            document_prompt=self._instructions.prompt(Role.DOCUMENT),
            query_prompt=self._instructions.prompt(Role.QUERY),
            max_length=None,
            matryoshka=self._range.matryoshka,
        )

    def stats(self) -> EmbeddingStats:
        """Texts and batches so far; tokens are unknown and stay 0."""
        return self._stats

    def count_tokens(self, texts: Sequence[str]) -> list[int] | None:
        """None: there is no tokenizer."""
        return None

    def token_spans(self, text: str) -> npt.NDArray[np.int32] | None:
        """None: there is no tokenizer."""
        return None

    def submit(
        self,
        texts: Texts,
        *,
        role: Role,
        instruction: InstructionLike = None,
        dimensions: int | None = None,
        priority: Priority | None = None,
        on_progress: OnEmbeddingProgress | None = None,
    ) -> Future[FloatArray]:
        """Embed at once; the future is done when it is returned."""
        if self._closed:
            raise EmbedderClosed()
        length = self._dimensions if dimensions is None else self._range.check(dimensions)
        prompt = self._instructions.prompt(role, instruction)
        rows = np.zeros((len(texts), self._range.native), dtype=np.float32)
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError("The hash embedder has no tokenizer: it takes texts, not token ids.")
            rows[row] = self._vector(text) + np.float32(0.25) * self._vector(prompt, empty=False)
        self._stats = EmbeddingStats(texts=self._stats.texts + len(texts), batches=self._stats.batches + 1)
        if on_progress is not None:
            on_progress(EmbeddingProgress(len(texts), len(texts), 0))
        future: Future[FloatArray] = Future()
        future.set_result(cut(rows, length))
        return future

    def close(self) -> None:
        """Refuse further use."""
        self._closed = True

    def _vector(self, text: str, *, empty: bool = True) -> FloatArray:
        total = np.zeros(self._range.native, dtype=np.float32)
        words = _WORD.findall(text.lower()) or ([""] if empty else [])
        for word in words:
            total += self._direction(word)
        return total

    def _direction(self, word: str) -> FloatArray:
        if word not in self._directions:
            seed = int.from_bytes(hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest()[:8], "little")
            signs = np.random.Generator(np.random.PCG64(seed)).integers(0, 2, self._range.native)
            self._directions[word] = (signs * 2 - 1).astype(np.float32)
        return self._directions[word]


class StoreConformance:
    """What every store must do. Subclass it in a pytest file and give a fixture `store`: an open store without a collection.

    A store that `open_store` doesn't know overrides `reopen`.
    """

    dimensions = 16
    short = (8, 4)
    # More points than any store reads or writes in one request; a store that takes a second for a few hundred lowers it.
    many = 5500
    contract: Mapping[str, Any] = {"format": 1, "model": "hash", "nested": {"list": [1, 2.5, None, "ü"], "yes": True}}

    def reopen(self, store: Store) -> Store:
        """Close `store` and open the same collection again."""
        store.close()
        return open_store(store.url)

    def make_points(
        self, count: int, source: str = "docs/a.md", *, head: bool = True, metadata: Mapping[str, Any] | None = None
    ) -> list[Point]:
        """Points of one document; the first one is its head unless `head` is False."""
        points = [
            Point(str(uuid.uuid5(uuid.NAMESPACE_URL, f"{source}#{row}")), f"text {row} of {source}", source, metadata or {})
            for row in range(count)
        ]
        if head and points:
            points[0] = replace(points[0], head=Head(source, f"hash of {source}", count, "chunks/1"))
        return points

    def make_vectors(self, count: int, seed: int = 7) -> FloatArray:
        """Random unit vectors, float32 `(count, dimensions)`."""
        rows = np.random.default_rng(seed).normal(size=(count, self.dimensions))
        unit: FloatArray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        return unit

    def make_clusters(self, count: int, seed: int = 7) -> FloatArray:
        """Unit vectors of 64 dimensions about a dozen centres, as those of texts are, float32 `(count, 64)`."""
        centres = np.random.default_rng(1).normal(size=(12, 64))
        numbers = np.random.default_rng(seed)
        rows = centres[numbers.integers(12, size=count)] + 0.7 * numbers.normal(size=(count, 64))
        unit: FloatArray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        return unit

    def skip_unless(self, store: Store, can: bool, what: str) -> None:
        """End a test here where a store doesn't have what it is about."""
        import pytest

        if not can:
            pytest.skip(f"{store.url} has no {what}")

    def fill(self, store: Store, points: Sequence[Point], shorter: tuple[int, ...] = ()) -> FloatArray:
        """Make the collection and write `points`; gives their vectors."""
        store.create(VectorLayout(self.dimensions, shorter), self.contract)
        vectors = self.make_vectors(len(points))
        store.upsert(points, vectors)
        return vectors

    def only_hit(self, store: Store, point: Point) -> Hit:
        """Write `point` alone into a new collection and find it again."""
        vectors = self.fill(store, [point])
        [hit] = store.search(vectors[0], limit=1)
        return hit

    def test_a_fresh_store_has_no_collection(self, store: Store) -> None:
        """Before `create` nothing exists and there is no contract."""
        assert store.exists() is False
        assert store.read_contract() is None

    def test_an_absent_collection_names_the_command_that_makes_it(self, store: Store) -> None:
        """Every operation on a collection that isn't there says how to make it."""
        import pytest

        vector = self.make_vectors(1)
        operations = (
            store.count,
            store.layout,
            store.heads,
            store.sources,
            store.read_mark,
            lambda: store.points("docs/a.md"),
            lambda: store.vectors_of(["text"]),
            lambda: list(store.records()),
            lambda: store.delete([]),
            lambda: store.search(vector[0], limit=1),
            lambda: store.update(self.make_points(1)),
            lambda: store.upsert(self.make_points(1), vector),
            lambda: store.write_mark({}),
            lambda: store.write_contract(self.contract),
        )
        for operation in operations:
            with pytest.raises(CollectionNotFound, match="sightline index"):
                operation()
        assert store.exists() is False

    def test_create_keeps_the_contract(self, store: Store) -> None:
        """The contract comes back as it was given, and the collection is empty."""
        store.create(VectorLayout(self.dimensions), self.contract)
        assert store.exists() is True
        assert store.read_contract() == self.contract
        assert store.read_mark() == {}
        assert (store.count(), store.layout().dimensions) == (0, self.dimensions)
        assert store.search(self.make_vectors(1)[0], limit=3) == []

    def test_create_refuses_what_is_there(self, store: Store) -> None:
        """A second `create` is refused and leaves the first one's contract."""
        import pytest

        store.create(VectorLayout(self.dimensions), self.contract)
        with pytest.raises(StoreError):
            store.create(VectorLayout(self.dimensions), {"other": 1})
        assert store.read_contract() == self.contract

    def test_create_refuses_odd_dimensions_and_contracts(self, store: Store) -> None:
        """Vectors have at least one dimension, and a contract is JSON data."""
        import pytest

        with pytest.raises(DimensionError):
            store.create(VectorLayout(0), self.contract)
        for contract in ({"x": float("nan")}, {"x": {1, 2}}, {1: "x"}):
            with pytest.raises(UsageError):
                store.create(VectorLayout(self.dimensions), contract)  # type: ignore[arg-type]
        assert store.exists() is False

    def test_contract_and_mark_are_replaced_whole(self, store: Store) -> None:
        """Writing one leaves the other, and no key of the old one stays."""
        self.fill(store, self.make_points(3))
        store.write_mark({"unfinished": ["docs", "ü"], "nested": {"a": [1, None]}, "text": "x" * 2000})
        store.write_contract({"other": {"list": [2]}})
        store.write_mark({"unfinished": []})
        assert store.read_contract() == {"other": {"list": [2]}}
        assert store.read_mark() == {"unfinished": []}
        assert store.count() == 3

    def test_search_gives_exact_cosines_in_order(self, store: Store) -> None:
        """Hits come best first, with the exact cosine similarity as their score, also for a query that has no unit norm."""
        points = self.make_points(60)
        vectors = self.fill(store, points)
        query = self.make_vectors(1, seed=8)[0]
        hits = store.search(query * np.float32(3), limit=10)
        exact = vectors.astype(np.float64) @ query.astype(np.float64)
        best = np.argsort(-exact)[:10]
        assert [hit.id for hit in hits] == [points[row].id for row in best]
        assert [hit.text for hit in hits] == [points[row].text for row in best]
        assert np.allclose([hit.score for hit in hits], exact[best], rtol=0, atol=1e-5)

    def test_a_limit_beyond_the_collection_gives_all(self, store: Store) -> None:
        """A limit larger than the collection returns every point once."""
        points = self.make_points(5)
        vectors = self.fill(store, points)
        hits = store.search(vectors[0], limit=1_000_000)
        assert sorted(hit.id for hit in hits) == sorted(point.id for point in points)

    def test_a_limit_below_one_is_refused(self, store: Store) -> None:
        """A search for no hits is a mistake."""
        import pytest

        vectors = self.fill(store, self.make_points(1))
        with pytest.raises(UsageError, match="at least 1"):
            store.search(vectors[0], limit=0)

    def test_count_counts_points(self, store: Store) -> None:
        """Writing a point again adds none."""
        points = self.make_points(5)
        vectors = self.fill(store, points)
        store.upsert(points[:2], vectors[:2])
        assert store.count() == 5

    def test_an_empty_upsert_writes_nothing(self, store: Store) -> None:
        """No points with no vectors is fine."""
        store.create(VectorLayout(self.dimensions), self.contract)
        store.upsert([], self.make_vectors(0))
        assert store.count() == 0

    def test_an_existing_point_is_replaced_whole(self, store: Store) -> None:
        """Old text, vector, metadata keys and head are gone, whatever the new ones are."""
        [old] = self.make_points(1, metadata={"old": "x", "both": [1, 2], "odd": {"a": None}, "source": "mine"})
        self.fill(store, [old])
        new = Point(old.id, "new", "docs/b.md", {"both": 2})
        vector = self.make_vectors(1, seed=9)
        store.upsert([new], vector)
        [hit] = store.search(vector[0], limit=5)
        assert hit.score > 1 - 1e-5
        assert (hit.text, hit.source, hit.metadata) == ("new", "docs/b.md", {"both": 2})
        assert list(store.heads()) == []
        assert store.sources() == {"docs/b.md": 1}
        assert sorted(store.vectors_of([old.text, new.text])) == ["new"]

    def test_update_replaces_all_but_the_vector(self, store: Store) -> None:
        """Metadata, source and head are the new ones, old keys are gone, the vector stays; unknown ids add nothing."""
        points = self.make_points(3, metadata={"old": "x", "both": [1, 2], "odd": {"a": None}, "source": "mine"})
        vectors = self.fill(store, points)
        before = {record.point.id: record.vector for record in store.records()}
        head = Head("docs/b.md", "other", 7, "chunks/2")
        moved = [replace(one, source="docs/b.md", metadata={"both": 2}, head=None) for one in points[:2]]
        moved[1] = replace(moved[1], head=head)
        stranger = replace(points[0], id=str(uuid.UUID(int=5)), head=None)
        store.update([*moved, stranger])
        store.update([])
        assert store.count() == 3
        assert list(store.heads()) == [head]
        assert store.sources() == {"docs/b.md": 2, "docs/a.md": 1}
        for point, vector in zip(moved, vectors, strict=False):
            [hit] = store.search(vector, limit=1)
            assert (hit.id, hit.text, hit.source, hit.metadata) == (point.id, point.text, point.source, {"both": 2})
        after = {record.point.id: record.vector for record in store.records()}
        assert all(np.array_equal(after[one], before[one]) for one in before)

    def test_update_refuses_what_upsert_refuses(self, store: Store) -> None:
        """Reserved keys, repeated ids and values that would be lost are refused before anything is written."""
        import pytest

        [point] = self.make_points(1, metadata={"a": 1})
        self.fill(store, [point])
        for points in ([replace(point, metadata={"sightline_head": 1})], [point, point], [replace(point, metadata={"a": {1}})]):
            with pytest.raises(UsageError):
                store.update(points)
        assert store.points(point.source) == [point]

    def test_heads_gives_all_heads_and_nothing_else(self, store: Store) -> None:
        """Three documents with several chunks have three heads."""
        documents = [self.make_points(size, f"docs/{size}.md") for size in (1, 3, 4)]
        self.fill(store, [point for points in documents for point in points])
        assert sorted(store.heads(), key=lambda head: head.source) == [points[0].head for points in documents]

    def test_heads_are_not_cut_at_a_page(self, store: Store) -> None:
        """More heads than any store reads at once all come back, once each, also while the caller writes."""
        count = self.many
        points = [self.make_points(1, f"docs/{row}.md")[0] for row in range(count)]
        vectors = self.fill(store, points)
        seen: list[str] = []
        for head in store.heads():
            if not seen:
                store.delete([points[0].id])
                store.upsert(points[1:2], vectors[1:2])
            seen.append(head.source)
        assert len(seen) == len(set(seen))
        assert set(seen) >= {f"docs/{row}.md" for row in range(1, count)}

    def test_records_are_filtered_as_hits_are(self, store: Store) -> None:
        """All points that meet a filter, or as many as are asked for, with their vectors."""
        points = [replace(one, metadata={"row": row, "even": row % 2 == 0}) for row, one in enumerate(self.make_points(7))]
        vectors = self.fill(store, points)
        found = {record.point.id: record.vector for record in store.records(filter={"even": True, "row": {"gt": 0}})}
        assert set(found) == {points[row].id for row in (2, 4, 6)}
        for row in (2, 4, 6):
            np.testing.assert_allclose(found[points[row].id], vectors[row], atol=1e-6)
        assert len(list(store.records(2, filter={"even": True}))) == 2
        assert list(store.records(filter={"even": 3})) == []

    def test_records_are_found_by_their_ids(self, store: Store) -> None:
        """Text, metadata and vector of those that are there; what isn't, or can't be an id, is left out."""
        points = self.make_points(4)
        vectors = self.fill(store, points)
        wanted = [points[2].id, "no uuid", str(uuid.UUID(int=5)), points[0].id, points[2].id]
        found = {record.point.id: record for record in store.records_of(wanted)}
        assert set(found) == {points[0].id, points[2].id}
        for row in (0, 2):
            record = found[points[row].id]
            assert (record.point, record.ours) == (points[row], True)
            np.testing.assert_allclose(record.vector, vectors[row], atol=1e-6)
        assert len(store.records_of(wanted)) == 2
        assert store.records_of([]) == []

    def test_a_row_is_found_by_the_source_that_it_names(self, store: Store) -> None:
        """Its identity is another one: rows of the same source are documents of their own."""
        named, other = self.make_points(2, "row", metadata={"source": "https://sea.example", "a": 1}, head=False)
        rows = [replace(named, source=f"{ROW_PREFIX}1"), replace(other, source=f"{ROW_PREFIX}2")]
        self.fill(store, [*rows, *(replace(one, source="docs/a.md", id=str(uuid.uuid4())) for one in self.make_points(1))])
        assert store.sources() == {f"{ROW_PREFIX}1": 1, f"{ROW_PREFIX}2": 1, "docs/a.md": 1}
        assert store.points(f"{ROW_PREFIX}1") == [rows[0]]
        filters = [{"source": "https://sea.example"}, {"source": f"{ROW_PREFIX}1"}, {"source": "docs/a.md"}]
        counts = [len(store.search(self.make_vectors(1)[0], limit=9, filter=one)) for one in filters]
        assert counts == [2, 0, 1]

    def test_a_vector_is_found_by_what_it_is_of(self, store: Store) -> None:
        """A text that was embedded with more around it lends its vector to no other text."""
        [plain, more] = self.make_points(2, head=False)
        whole = "title: lamp\n\n" + more.text
        vectors = self.fill(store, [plain, replace(more, embedded_text=whole)])
        found = store.vectors_of([plain.text, more.text, whole])
        assert set(found) == {plain.text, whole}
        np.testing.assert_allclose(found[whole], vectors[1], atol=1e-6)

    def test_a_stored_point_written_again_is_the_same(self, store: Store) -> None:
        """What is read is all that there is to write: also what the vector is found by, where that isn't the text."""
        [plain, more] = self.make_points(2, metadata={"odd": [1, {"a": None}], "source": "mine"})
        whole = "title: lamp\n\n" + more.text
        vectors = self.fill(store, [plain, replace(more, embedded_text=whole)])
        before = {record.point.id: record for record in store.records()}
        assert before[plain.id].point == plain
        assert before[more.id].point.embedded_digest is not None
        store.delete([plain.id, more.id])
        store.upsert([record.point for record in before.values()], np.stack([one.vector for one in before.values()]))
        assert {record.point.id: record.point for record in store.records()} == {one: before[one].point for one in before}
        np.testing.assert_allclose(store.vectors_of([whole])[whole], vectors[1], atol=1e-6)

    def test_a_released_collection_has_another_writer(self, store: Store) -> None:
        """Whoever released it reads on, and writes again when the other one is done."""
        import pytest

        if not store.capabilities.persistent:
            pytest.skip(f"{store.url} is nobody else's")
        points = self.make_points(3)
        vectors = self.fill(store, points)
        for _ in range(2):
            store.release()
            store.release()
            assert store.count() == 3
            store.upsert(points[:1], vectors[:1])
        store.release()
        other = self.reopen(store)
        try:
            other.upsert(points[1:2], vectors[1:2])
        finally:
            other.close()

    def test_points_gives_a_whole_document(self, store: Store) -> None:
        """All points of a source as they were written, its head included, and of no other source."""
        metadata = {"lang": "ü", "odd": {"a": [None, 1.0]}, "source": "mine"}
        first, second = self.make_points(4, "docs/a.md", metadata=metadata), self.make_points(3, "docs/a.md.md")
        self.fill(store, [*first, *second])
        assert sorted(store.points("docs/a.md"), key=lambda point: point.text) == first
        assert store.points("docs") == []

    def test_sources_counts_the_points_of_each_document(self, store: Store) -> None:
        """Documents without a head are there too."""
        sizes = {"docs/a.md": 4, "docs/ü b.md": 1, "other/a.md": 2}
        documents = [self.make_points(size, source, head=source != "other/a.md") for source, size in sizes.items()]
        self.fill(store, [point for points in documents for point in points])
        assert store.sources() == sizes

    def test_delete_removes_what_is_there(self, store: Store) -> None:
        """Given points go, the others stay, ids that aren't there are fine, and twice is fine."""
        points = self.make_points(4)
        vectors = self.fill(store, points)
        gone = [points[1].id, str(uuid.UUID(int=5)), points[2].id]
        store.delete(gone)
        store.delete(gone)
        store.delete([])
        assert store.count() == 2
        assert sorted(point.id for point in store.points("docs/a.md")) == sorted([points[0].id, points[3].id])
        assert {hit.id for hit in store.search(vectors[1], limit=4)} == {points[0].id, points[3].id}

    def test_records_are_points_with_their_vectors(self, store: Store) -> None:
        """Vectors are float32 and equal to 1e-6, points as they were written; a limit is kept."""
        points = self.make_points(30, metadata={"lang": "de", "none": None})
        vectors = self.fill(store, points)
        found = {record.point.id: record for record in store.records()}
        assert sorted(found) == sorted(point.id for point in points)
        assert all(record.ours and record.vector.dtype == np.float32 for record in found.values())
        assert [found[point.id].point for point in points] == points
        assert np.abs(np.stack([found[point.id].vector for point in points]) - vectors).max() <= 1e-6
        assert len(list(store.records(7))) == 7

    def test_vectors_are_found_by_their_text(self, store: Store) -> None:
        """Whatever document a text stands in; texts that nobody has are left out, and a text must be equal to the letter."""
        points = [*self.make_points(3), *self.make_points(3, "docs/b.md")]
        points[4] = replace(points[4], text=points[1].text)
        vectors = self.fill(store, points)
        asked = [point.text for point in points] + ["nobody's", points[0].text.upper(), points[0].text + " ", ""]
        found = store.vectors_of(asked)
        assert sorted(found) == sorted({point.text for point in points})
        assert np.abs(found[points[0].text] - vectors[0]).max() <= 1e-6
        assert min(np.abs(found[points[1].text] - vectors[row]).max() for row in (1, 4)) <= 1e-6
        assert store.vectors_of([]) == {}

    def test_filters_mean_what_they_say(self, store: Store) -> None:
        """Every kind of condition finds the points that the definition says, over every kind of value."""
        values: list[Any] = [3, 3.0, 3.5, -2, 0, 2**53 + 1, True, False, 1, 1.0, "3", "x", "True", "", "a b", "ü"]
        values += [["x", "y"], [3, 4], [3.0, 9.5], [True], ["3"], [1, 2], None, {"a": 3}, []]
        points = [
            replace(point, head=None, source=f"docs/{row % 3}.md", metadata={"key": value, 'a."b [c': value, "row": row})
            for row, (point, value) in enumerate(zip(self.make_points(len(values)), values, strict=True))
        ]
        vectors = self.fill(store, points)
        filters: list[Filter] = [{"key": value} for value in values if not isinstance(value, (list, dict, type(None)))]
        filters += [{"key": ["x", 3, True]}, {"key": ["nothing", -2]}, {"missing": 1}, {"key": 2**53}, {"key": "X"}]
        bounds = ({"gte": 3}, {"gt": 3}, {"lte": 3.0}, {"lt": 1}, {"gte": 3, "lt": 3.25})
        filters += [{"key": bound} for bound in bounds]
        filters += [{'a."b [c': "x"}, {'a."b [c': False}, {'a."b [c': {"gt": 2}}]
        filters += [{"source": "docs/1.md"}, {"source": ["docs/0.md", "x"]}]
        filters += [{"key": [3, "x"], "row": {"lt": 12}, "source": "docs/0.md"}, {}]
        for given in filters:
            conditions = parse_filter(given)
            wanted = {point.id for point in points if matches(conditions, point.source, point.metadata)}
            found = store.search(vectors[0], limit=len(points), filter=given)
            assert {hit.id for hit in found} == wanted, given
            assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)

    def test_a_filter_that_no_store_could_answer_is_refused(self, store: Store) -> None:
        """Odd values, empty lists and unknown bounds are mistakes, not conditions that match nothing."""
        import pytest

        vectors = self.fill(store, self.make_points(1))
        odd: list[Any] = [{"a": None}, {"a": []}, {"a": {}}, {"a": {"above": 1}}, {"a": {"gt": "x"}}, {"a": float("nan")}, {1: 2}]
        for given in odd:
            with pytest.raises(UsageError):
                store.search(vectors[0], limit=1, filter=given)

    def test_a_filter_finds_a_rare_point(self, store: Store) -> None:
        """The one point that matches is found, however far from the query it is."""
        points = self.make_points(self.many // 5)
        points[-1] = replace(points[-1], metadata={"rare": "yes"})
        vectors = self.fill(store, points)
        hits = store.search(-vectors[-1], limit=10, filter={"rare": "yes"})
        assert [hit.id for hit in hits] == [points[-1].id]

    def test_a_second_writer_is_refused(self, store: Store) -> None:
        """One store writes at a time; closing it lets the next one in, and readers need no leave."""
        import pytest

        if not store.capabilities.persistent:
            pytest.skip(f"{store.url} is nobody else's")
        self.fill(store, self.make_points(2))
        store.acquire()
        store.acquire()
        other = open_store(store.url)
        try:
            with pytest.raises(StoreLocked):
                other.acquire()
            store.close()
            other.acquire()
            other.write_mark({"by": "the other"})
            assert other.count() == 2
        finally:
            other.close()

    def test_a_rebuild_takes_the_place_of_the_old_collection(self, store: Store) -> None:
        """What is built beside shows only after `promote`, then wholly: contract, mark, dimensions and points."""
        import pytest

        self.fill(store, self.make_points(5))
        with pytest.raises(StoreError):
            store.promote()
        beside = store.staging()
        assert beside.exists() is False
        beside.create(VectorLayout(self.dimensions // 2), {"new": True})
        half = cut(self.make_vectors(3, seed=3), self.dimensions // 2)
        fresh = self.make_points(3, "docs/new.md")
        beside.upsert(fresh, half)
        beside.write_mark({"unfinished": ["docs"]})
        assert (store.count(), store.read_contract(), store.layout().dimensions) == (5, self.contract, self.dimensions)
        assert store.staging().count() == 3
        store.promote()
        assert (store.count(), store.layout().dimensions) == (3, self.dimensions // 2)
        assert (store.read_contract(), store.read_mark()) == ({"new": True}, {"unfinished": ["docs"]})
        [hit] = store.search(half[1], limit=1)
        assert hit.id == fresh[1].id
        assert store.staging().exists() is False
        store.write_mark({})
        store.delete([fresh[0].id])
        assert store.count() == 2

    def test_a_rebuild_goes_on_or_is_dropped(self, store: Store) -> None:
        """What an interrupted rebuild left is there again, until it is dropped; the live collection doesn't notice."""
        import pytest

        if not store.capabilities.persistent:
            pytest.skip(f"{store.url} keeps nothing")
        self.fill(store, self.make_points(5))
        beside = store.staging()
        beside.create(VectorLayout(self.dimensions), {"new": True})
        beside.upsert(self.make_points(3, "docs/new.md"), self.make_vectors(3))
        again = self.reopen(store)
        try:
            assert (again.count(), again.staging().count(), again.staging().read_contract()) == (5, 3, {"new": True})
            again.drop_staging()
            again.drop_staging()
            assert again.staging().exists() is False
            assert again.count() == 5
        finally:
            again.close()

    def test_vectors_of_several_lengths_are_searched_alone(self, store: Store) -> None:
        """A query of a shorter length ranks by the vectors of that length, cut and of unit norm; records have the main ones."""
        self.skip_unless(store, store.capabilities.several_dimensions, "several dimensions")
        points = self.make_points(60)
        vectors = self.fill(store, points, self.short)
        assert store.layout() == VectorLayout(self.dimensions, self.short)
        for length in (self.dimensions, *self.short):
            query = self.make_vectors(1, seed=8)[0, :length]
            exact = cut(vectors, length).astype(np.float64) @ query / np.linalg.norm(query)
            hits = store.search(query, limit=10)
            assert [hit.id for hit in hits] == [points[row].id for row in np.argsort(-exact)[:10]]
            assert np.allclose([hit.score for hit in hits], np.sort(exact)[::-1][:10], rtol=0, atol=1e-5)
        assert {len(record.vector) for record in store.records()} == {self.dimensions}
        assert {len(record.vector) for record in store.records_of([point.id for point in points])} == {self.dimensions}
        assert {len(row) for row in store.vectors_of([points[3].text]).values()} == {self.dimensions}

    def test_a_shortlist_is_rescored_by_the_main_vectors(self, store: Store) -> None:
        """The hits are the best of the candidates by their main vectors, with the exact cosines of those."""
        self.skip_unless(store, store.capabilities.several_dimensions, "several dimensions")
        points = self.make_points(200)
        vectors = self.fill(store, points, self.short)
        query, length = self.make_vectors(1, seed=9)[0], self.short[-1]
        candidates = np.argsort(-(cut(vectors, length) @ cut(query[None], length)[0]))[:20]
        scores = vectors[candidates] @ query
        hits = store.search(query, limit=5, shortlist=Shortlist(length, 20))
        assert [hit.id for hit in hits] == [points[candidates[at]].id for at in np.argsort(-scores)[:5]]
        assert np.allclose([hit.score for hit in hits], np.sort(scores)[::-1][:5], rtol=0, atol=1e-5)

    def test_a_shortlist_meets_the_filter(self, store: Store) -> None:
        """Candidates are counted among what the filter allows, so none is lost to what it doesn't."""
        self.skip_unless(store, store.capabilities.several_dimensions, "several dimensions")
        points = [replace(one, metadata={"even": row % 2 == 0}) for row, one in enumerate(self.make_points(60))]
        vectors = self.fill(store, points, self.short)
        hits = store.search(vectors[1], limit=30, filter={"even": True}, shortlist=Shortlist(self.short[0], 30))
        assert sorted(hit.id for hit in hits) == sorted(point.id for point in points[::2])

    def test_a_replaced_point_is_found_by_its_new_short_vector(self, store: Store) -> None:
        """All lengths of a point are of one vector."""
        self.skip_unless(store, store.capabilities.several_dimensions, "several dimensions")
        points = self.make_points(30)
        self.fill(store, points, self.short)
        new = self.make_vectors(1, seed=4)
        store.upsert(points[7:8], new)
        for length in self.short:
            [hit] = store.search(cut(new, length)[0], limit=1)
            assert (hit.id, round(hit.score, 4)) == (points[7].id, 1.0)

    def test_a_shortlist_that_can_not_be_made_is_refused(self, store: Store) -> None:
        """No vectors of that length, or fewer candidates than hits, is a clear error."""
        import pytest

        self.skip_unless(store, store.capabilities.several_dimensions, "several dimensions")
        vectors = self.fill(store, self.make_points(9), self.short)
        for query, shortlist in (
            (vectors[0], Shortlist(self.dimensions - 1, 20)),
            (cut(vectors, self.short[0])[0], Shortlist(self.short[1], 20)),
        ):
            with pytest.raises(DimensionError):
                store.search(query, limit=5, shortlist=shortlist)
        with pytest.raises(UsageError, match="can't give 5 hits"):
            store.search(vectors[0], limit=5, shortlist=Shortlist(self.short[0], 4))

    def test_a_shortlist_of_more_than_there_is_finds_all(self, store: Store) -> None:
        """However many candidates are asked for: no database counts so far, or makes room for them."""
        self.skip_unless(store, store.capabilities.several_dimensions, "several dimensions")
        vectors = self.fill(store, self.make_points(9), self.short)
        everything = [hit.id for hit in store.search(vectors[0], limit=9)]
        assert [hit.id for hit in store.search(vectors[0], limit=9, shortlist=Shortlist(self.short[0], 10**30))] == everything

    def test_a_length_that_a_collection_was_made_with_is_there_already(self, store: Store) -> None:
        """Adding it finds nothing to do; once it was removed, it is cut anew from what is stored then."""
        self.skip_unless(store, store.capabilities.several_dimensions, "several dimensions")
        points, length = self.make_points(30), self.short[0]
        vectors = self.fill(store, points, self.short)
        assert store.add_dimension(length) == 0
        assert store.layout() == VectorLayout(self.dimensions, self.short)
        store.remove_dimension(length)
        store.upsert(points, vectors[::-1].copy())
        store.add_dimension(length)
        query = cut(vectors, length)[0]
        assert store.search(query, limit=1)[0].id == points[-1].id

    def test_a_length_is_added_from_what_is_stored(self, store: Store) -> None:
        """Points that were there and new ones have it; adding it again finds nothing to do, and removing it takes it away."""
        import pytest

        self.skip_unless(store, store.capabilities.several_dimensions, "several dimensions")
        length = self.short[0]
        points = self.make_points(300)
        vectors = self.fill(store, points[:290])
        seen: list[int] = []
        store.add_dimension(length, seen.append)
        assert (store.layout().shorter, sorted(seen)) == ((length,), seen)
        more = self.make_vectors(10, seed=3)
        store.upsert(points[290:], more)
        assert store.add_dimension(length) == 0
        exact = cut(np.concatenate([vectors, more]), length)
        query = self.make_vectors(1, seed=8)[0, :length]
        expected = [points[row].id for row in np.argsort(-(exact @ query))[:10]]
        assert [hit.id for hit in store.search(query, limit=10)] == expected
        if store.capabilities.persistent:
            store = self.reopen(store)
            assert [hit.id for hit in store.search(query, limit=10)] == expected
        try:
            store.remove_dimension(length)
            assert store.layout() == VectorLayout(self.dimensions)
            with pytest.raises(DimensionError):
                store.search(query, limit=10)
            store.upsert(points[:1], vectors[:1])
            assert store.count() == 300
        finally:
            store.close()

    def test_lengths_that_make_no_sense_are_refused(self, store: Store) -> None:
        """A shorter length is shorter, comes once, and was there before it goes."""
        import pytest

        for shorter in ((self.dimensions,), (self.short[1], self.short[0]), (self.short[0],) * 2, (0,)):
            with pytest.raises(DimensionError):
                store.create(VectorLayout(self.dimensions, shorter), self.contract)
        assert store.exists() is False
        self.fill(store, self.make_points(1))
        with pytest.raises(DimensionError, match="shorter"):
            store.add_dimension(self.dimensions)
        with pytest.raises(DimensionError, match="none"):
            store.remove_dimension(self.short[0])

    def test_what_a_store_can_not_keep_is_refused(self, store: Store) -> None:
        """Several lengths, quantisation and float16 are refused before anything is made, with the stores that have them."""
        import pytest

        can = store.capabilities
        layouts = {
            VectorLayout(self.dimensions, self.short): can.several_dimensions,
            VectorLayout(self.dimensions, quantization=Quantization.SCALAR): can.quantization,
            VectorLayout(self.dimensions, storage=VectorStorage.FLOAT16): can.float16,
        }
        for layout in [one for one, is_possible in layouts.items() if not is_possible]:
            with pytest.raises(StoreError, match="edge:DIR"):
                store.create(layout, self.contract)
        assert store.exists() is False
        if not can.several_dimensions:
            vectors = self.fill(store, self.make_points(1))
            with pytest.raises(StoreError, match="edge:DIR"):
                store.search(vectors[0], limit=1, shortlist=Shortlist(self.short[0], 1))
            with pytest.raises(StoreError, match="edge:DIR"):
                store.add_dimension(self.short[0])

    def test_a_quantised_collection_is_searched_by_its_vectors(self, store: Store) -> None:
        """Whatever they are compressed to, a plain search and a shortlist find and score by the vectors themselves."""
        self.skip_unless(store, store.capabilities.quantization, "quantisation")
        self.fill(store, self.make_points(1))
        points, vectors, queries = self.make_points(600), self.make_clusters(600), self.make_clusters(20, seed=8)
        for kind in Quantization:
            beside = store.staging()
            beside.create(VectorLayout(64, (32,), kind), self.contract)
            store.promote()
            assert store.layout() == VectorLayout(64, (32,), kind)
            store.upsert(points, vectors)
            for shortlist in (None, Shortlist(32, 200)):
                found = 0
                for query in queries:
                    hits = store.search(query, limit=10, shortlist=shortlist)
                    scores = {point.id: float(row @ query) for point, row in zip(points, vectors, strict=True)}
                    best = sorted(scores, key=lambda one: -scores[one])[:10]
                    found += len(set(best) & {hit.id for hit in hits})
                    assert np.allclose([hit.score for hit in hits], [scores[hit.id] for hit in hits], rtol=0, atol=1e-4)
                assert found >= 0.9 * 10 * len(queries), (kind, shortlist)

    def test_float16_vectors_come_back_nearly(self, store: Store) -> None:
        """Half the bytes, three digits."""
        self.skip_unless(store, store.capabilities.float16, "float16")
        points = self.make_points(30)
        store.create(VectorLayout(self.dimensions, self.short, storage=VectorStorage.FLOAT16), self.contract)
        vectors = self.make_vectors(30)
        store.upsert(points, vectors)
        assert store.layout().storage == VectorStorage.FLOAT16
        stored = {record.point.id: record.vector for record in store.records()}
        assert np.allclose([stored[point.id] for point in points], vectors, rtol=0, atol=1e-3)
        [hit] = store.search(cut(vectors[4:5], self.short[0])[0], limit=1)
        assert hit.id == points[4].id

    def test_texts_come_back_as_they_are(self, store: Store) -> None:
        """Scripts, emoji, newlines, blanks, NUL and the empty text survive, in texts and sources."""
        texts = ["", " ", "\n", "a\r\nb\tc\n\n", "日本語のテキスト", "שלום, مرحبا", "👩\u200d👩\u200d👧 e\u0301"]
        texts += ["nul\0l", "\u2028'\"\\{}", "x" * 50_000]
        blank = self.make_points(len(texts), head=False)
        points = [replace(one, text=text, source=f"docs/{text[:8]}/ü ñ.md") for one, text in zip(blank, texts, strict=True)]
        vectors = self.fill(store, points)
        for point, vector in zip(points, vectors, strict=True):
            [hit] = store.search(vector, limit=1)
            assert (hit.id, hit.text, hit.source) == (point.id, point.text, point.source)
            assert store.points(point.source) == [point]

    def test_metadata_comes_back_as_it_is(self, store: Store) -> None:
        """Every allowed kind of value keeps its value and its type, whatever the store can hold by itself."""
        metadata = {
            "text": "ü", "empty": "", "int": 3, "big": 2**63 - 1, "small": -(2**63), "float": 2.0, "tiny": 1e-300,
            "true": True, "false": False, "none": None,
            "texts": ["a", ""], "ints": [1, 2], "floats": [1.0, 2.5], "bools": [True, False],
            "mixed": [1, 1.5, "a", True, None], "no_items": [], "deep_list": [[1], [], {"a": [None]}],
            "dict": {"a": {"b": [1, {"c": None}]}}, "no_keys": {},
            "": "no name", "$set": 1, "#hash": 2, "a.b": 3, "a[0]": 4, "ключ": 5, "with space": 6,
            "source": "the user's own", "page_content": "too", "document": "too", "metadata": {"too": 1}, "id": "x",
            "chroma:document": "x",
        }  # fmt: skip
        hit = self.only_hit(store, replace(self.make_points(1)[0], metadata=metadata))
        assert hit.source == "docs/a.md"
        assert hit.metadata == metadata
        assert _types(dict(hit.metadata)) == _types(metadata)

    def test_no_metadata_comes_back_as_none_at_all(self, store: Store) -> None:
        """What Sightline keeps for itself doesn't show."""
        assert self.only_hit(store, self.make_points(1)[0]).metadata == {}

    def test_metadata_that_would_be_lost_is_refused(self, store: Store) -> None:
        """What isn't JSON data is refused with its place, and nothing is written."""
        import pytest

        store.create(VectorLayout(self.dimensions), self.contract)
        values: list[Any] = [float("nan"), float("inf"), {1, 2}, b"bytes", object(), 2**63, {1: "x"}, ["ok", {"a": float("nan")}]]
        for value in values:
            points = self.make_points(2)
            points[1] = replace(points[1], metadata={"fine": 1, "odd": value})
            with pytest.raises(UsageError, match=r"odd.*docs/a\.md"):
                store.upsert(points, self.make_vectors(2))
        assert store.count() == 0

    def test_reserved_keys_are_refused(self, store: Store) -> None:
        """Metadata can't pretend to be our bookkeeping."""
        import pytest

        store.create(VectorLayout(self.dimensions), self.contract)
        with pytest.raises(UsageError, match="sightline_head"):
            store.upsert(self.make_points(1, metadata={"sightline_head": 1}), self.make_vectors(1))
        assert store.count() == 0

    def test_lone_surrogates_are_refused(self, store: Store) -> None:
        """Half a character in text or metadata is refused with the name of its source, and nothing is written."""
        import pytest

        store.create(VectorLayout(self.dimensions), self.contract)
        [point] = self.make_points(1)
        odd = (replace(point, text="a\ud800b"), replace(point, metadata={"k": "\udfff"}), replace(point, metadata={"\ud800": 1}))
        for one in odd:
            with pytest.raises(UsageError, match=r"docs/a\.md"):
                store.upsert([one], self.make_vectors(1))
        assert store.count() == 0

    def test_vectors_that_are_not_finite_are_refused(self, store: Store) -> None:
        """NaN or infinity anywhere in a batch is refused before anything of it is written."""
        import pytest

        vectors = self.fill(store, self.make_points(2))
        for value in (np.nan, np.inf, -np.inf):
            odd = self.make_vectors(300)
            odd[299, 3] = value
            with pytest.raises(UsageError, match="finite"):
                store.upsert(self.make_points(300, "docs/b.md"), odd)
            with pytest.raises(UsageError, match="finite"):
                store.search(odd[299], limit=1)
        assert store.count() == len(vectors)

    def test_vectors_of_another_shape_are_refused(self, store: Store) -> None:
        """Another dimension, another count, or one bare vector is refused before anything is written."""
        import pytest

        store.create(VectorLayout(self.dimensions), self.contract)
        points, vectors = self.make_points(3), self.make_vectors(3)
        for odd in (vectors[:, :-1], np.hstack([vectors, vectors]), vectors[:2], vectors[0], np.zeros((3, 0), np.float32)):
            with pytest.raises(UsageError):
                store.upsert(points, odd)
        for query in (vectors[0, :-1], vectors[:1]):
            with pytest.raises(UsageError):
                store.search(query, limit=1)
        assert store.count() == 0

    def test_ids_are_uuids_and_unique(self, store: Store) -> None:
        """An id that isn't a UUID, or twice the same id in one batch, is refused."""
        import pytest

        store.create(VectorLayout(self.dimensions), self.contract)
        [point] = self.make_points(1)
        for points in ([replace(point, id="doc-1")], [replace(point, id=point.id.upper())], [point, point]):
            with pytest.raises(UsageError):
                store.upsert(points, self.make_vectors(len(points)))
        assert store.count() == 0

    def test_a_large_batch_is_written_whole(self, store: Store) -> None:
        """A batch beyond what the store takes in one request is split, not refused."""
        points = self.make_points(self.many)
        self.fill(store, points)
        assert store.count() == self.many
        assert len(store.points("docs/a.md")) == self.many
        assert len(store.vectors_of([point.text for point in points])) == self.many
        assert len({record.point.id for record in store.records()}) == self.many
        store.update([replace(point, metadata={"new": 1}) for point in points])
        assert all(point.metadata == {"new": 1} for point in store.points("docs/a.md"))
        store.delete([point.id for point in points])
        assert store.count() == 0

    def test_a_collection_survives_reopening(self, store: Store) -> None:
        """Contract, points, heads and scores are there when the store is opened again."""
        import pytest

        if not store.capabilities.persistent:
            pytest.skip(f"{store.url} keeps nothing")
        points = self.make_points(20)
        vectors = self.fill(store, points)
        again = self.reopen(store)
        try:
            assert again.read_contract() == self.contract
            assert again.count() == 20
            assert list(again.heads()) == [points[0].head]
            [hit] = again.search(vectors[7], limit=1)
            assert (hit.id, hit.text) == (points[7].id, points[7].text)
            again.upsert(self.make_points(1, "docs/new.md"), vectors[:1])
            assert again.count() == 21
        finally:
            again.close()

    def test_a_closed_store_refuses_use(self, store: Store) -> None:
        """Closing twice is fine; using a closed store is a clear error."""
        import pytest

        vectors = self.fill(store, self.make_points(2))
        store.close()
        store.close()
        for operation in (store.exists, store.read_contract, store.count, lambda: store.search(vectors[0], limit=1)):
            with pytest.raises(SightlineError, match="closed"):
                operation()


def _types(value: Any) -> Any:
    """The types inside a value: `1 == 1.0 == True`, but a store must not swap them."""
    if isinstance(value, dict):
        return {key: _types(item) for key, item in value.items()}
    return [_types(item) for item in value] if isinstance(value, list) else type(value)
