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

from sightline.embedding.base import BaseEmbedder
from sightline.embedding.dimensions import DimensionRange, cut
from sightline.embedding.instructions import Instructions
from sightline.errors import (
    CollectionNotFound,
    DimensionError,
    EmbedderClosed,
    InputError,
    SightlineError,
    StoreError,
    UsageError,
)
from sightline.protocols import InstructionLike, Store, Texts
from sightline.stores import open_store
from sightline.types import (
    EmbedderIdentity,
    EmbeddingProgress,
    EmbeddingStats,
    FloatArray,
    Head,
    Hit,
    Instruction,
    OnEmbeddingProgress,
    Point,
    Priority,
    Role,
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

    def fill(self, store: Store, points: Sequence[Point]) -> FloatArray:
        """Make the collection and write `points`; gives their vectors."""
        store.create(self.dimensions, self.contract)
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
            store.heads,
            lambda: store.chunk_ids("docs/a.md"),
            lambda: store.vectors([]),
            lambda: store.delete([]),
            lambda: store.search(vector[0], limit=1),
            lambda: store.upsert(self.make_points(1), vector),
        )
        for operation in operations:
            with pytest.raises(CollectionNotFound, match="sightline index"):
                operation()
        assert store.exists() is False

    def test_create_keeps_the_contract(self, store: Store) -> None:
        """The contract comes back as it was given, and the collection is empty."""
        store.create(self.dimensions, self.contract)
        assert store.exists() is True
        assert store.read_contract() == self.contract
        assert store.count() == 0
        assert store.search(self.make_vectors(1)[0], limit=3) == []

    def test_create_refuses_what_is_there(self, store: Store) -> None:
        """A second `create` is refused and leaves the first one's contract."""
        import pytest

        store.create(self.dimensions, self.contract)
        with pytest.raises(StoreError):
            store.create(self.dimensions, {"other": 1})
        assert store.read_contract() == self.contract

    def test_create_refuses_odd_dimensions_and_contracts(self, store: Store) -> None:
        """Vectors have at least one dimension, and a contract is JSON data."""
        import pytest

        with pytest.raises(DimensionError):
            store.create(0, self.contract)
        for contract in ({"x": float("nan")}, {"x": {1, 2}}, {1: "x"}):
            with pytest.raises(UsageError):
                store.create(self.dimensions, contract)  # type: ignore[arg-type]
        assert store.exists() is False

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
        store.create(self.dimensions, self.contract)
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
        assert store.chunk_ids("docs/a.md") == []

    def test_heads_gives_all_heads_and_nothing_else(self, store: Store) -> None:
        """Three documents with several chunks have three heads."""
        documents = [self.make_points(size, f"docs/{size}.md") for size in (1, 3, 4)]
        self.fill(store, [point for points in documents for point in points])
        assert sorted(store.heads(), key=lambda head: head.source) == [points[0].head for points in documents]

    def test_heads_are_not_cut_at_a_page(self, store: Store) -> None:
        """More heads than any store reads at once all come back, once each, also while the caller writes."""
        count = 5500
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

    def test_chunk_ids_gives_a_whole_document(self, store: Store) -> None:
        """All points of a source, its head included, and of no other source."""
        first, second = self.make_points(4, "docs/a.md"), self.make_points(3, "docs/a.md.md")
        self.fill(store, [*first, *second])
        assert sorted(store.chunk_ids("docs/a.md")) == sorted(point.id for point in first)
        assert store.chunk_ids("docs") == []

    def test_delete_removes_what_is_there(self, store: Store) -> None:
        """Given points go, the others stay, ids that aren't there are fine, and twice is fine."""
        points = self.make_points(4)
        vectors = self.fill(store, points)
        gone = [points[1].id, str(uuid.UUID(int=5)), points[2].id]
        store.delete(gone)
        store.delete(gone)
        store.delete([])
        assert store.count() == 2
        assert sorted(store.chunk_ids("docs/a.md")) == sorted([points[0].id, points[3].id])
        assert {hit.id for hit in store.search(vectors[1], limit=4)} == {points[0].id, points[3].id}

    def test_vectors_come_back(self, store: Store) -> None:
        """Stored vectors are float32 and equal to 1e-6; ids that aren't there are left out."""
        points = self.make_points(30)
        vectors = self.fill(store, points)
        found = store.vectors([*[point.id for point in reversed(points)], str(uuid.UUID(int=5))])
        assert sorted(found) == sorted(point.id for point in points)
        assert all(row.dtype == np.float32 and row.shape == (self.dimensions,) for row in found.values())
        assert np.abs(np.stack([found[point.id] for point in points]) - vectors).max() <= 1e-6
        assert store.vectors([]) == {}

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
            assert store.chunk_ids(point.source) == [point.id]

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

        store.create(self.dimensions, self.contract)
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

        store.create(self.dimensions, self.contract)
        with pytest.raises(UsageError, match="sightline_head"):
            store.upsert(self.make_points(1, metadata={"sightline_head": 1}), self.make_vectors(1))
        assert store.count() == 0

    def test_lone_surrogates_are_refused(self, store: Store) -> None:
        """Half a character in text or metadata is refused with the name of its source, and nothing is written."""
        import pytest

        store.create(self.dimensions, self.contract)
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

        store.create(self.dimensions, self.contract)
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

        store.create(self.dimensions, self.contract)
        [point] = self.make_points(1)
        for points in ([replace(point, id="doc-1")], [replace(point, id=point.id.upper())], [point, point]):
            with pytest.raises(UsageError):
                store.upsert(points, self.make_vectors(len(points)))
        assert store.count() == 0

    def test_a_large_batch_is_written_whole(self, store: Store) -> None:
        """A batch beyond what the store takes in one request is split, not refused."""
        points = self.make_points(5500)
        self.fill(store, points)
        assert store.count() == 5500
        assert len(store.chunk_ids("docs/a.md")) == 5500
        assert len(store.vectors([point.id for point in points])) == 5500
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
