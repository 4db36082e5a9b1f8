"""The indexer: files -> documents -> chunks -> plan -> vectors -> store -> committed.

Reading, chunking and planning run in one thread ahead of the embedder, writing in another behind it, with a bounded number of
windows between them, so that memory stays flat however large the folder is. Nothing has to be undone after a crash: what
isn't committed by a head is planned again, and vectors that were already written are read back instead of embedded.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np

from sightline.errors import StoreError
from sightline.indexing.background import Background
from sightline.indexing.chunking import ChunkSettings, chunk
from sightline.indexing.files import FoundFile, read_document
from sightline.indexing.plan import DocumentPlan, head_id, is_unchanged, plan_document
from sightline.protocols import Embedder, Store
from sightline.types import (
    Document,
    EmbeddingProgress,
    FloatArray,
    Head,
    IndexProgress,
    IndexSummary,
    OnIndexProgress,
    Point,
    Priority,
    Role,
    SkippedFile,
)

# A window is what about this long takes to embed, so that a slow machine commits as often as a quick one: what isn't
# committed is lost by a crash. Below the smallest, texts pack badly; above the largest, nothing is gained.
_WINDOW_SECONDS = 5.0
_SMALLEST_WINDOW, _LARGEST_WINDOW = 32, 512
_WINDOW_POINTS = 1024
# Two submissions in flight: the device has the next window while this one is handed to the store.
_IN_FLIGHT = 2
_DEPTH = 2


@dataclass
class Window:
    """What is embedded and committed together: points in writing order, heads behind their documents' other chunks.

    Args:
        limit: How many points may need a vector.
        points: What to write.
        kept: Ids among them whose vector is read back from the store.
        stale: Ids to delete when all points are written; heads of documents without text are the last.
        sources: Documents whose commit this window is.
    """

    limit: int
    points: list[Point] = field(default_factory=list)
    kept: set[str] = field(default_factory=set)
    stale: deque[str] = field(default_factory=deque)
    sources: list[str] = field(default_factory=list)

    def new(self) -> list[Point]:
        """The points that need a vector."""
        return [point for point in self.points if point.id not in self.kept]

    @property
    def is_full(self) -> bool:
        """Whether the next point belongs to the next window."""
        return len(self.points) - len(self.kept) >= self.limit or len(self.points) >= _WINDOW_POINTS


def windows(plans: Iterable[DocumentPlan], limit: Callable[[], int]) -> Iterator[Window]:
    """Cut a stream of plans into windows; a long document spans several and is committed in the last of them."""
    window = Window(limit())
    for plan in plans:
        for point in plan.points[:-1]:
            _add(window, plan, point)
            if window.is_full:
                yield window
                window = Window(limit())
        _end(window, plan)
        if window.is_full:
            yield window
            window = Window(limit())
    if window.sources or window.points:
        yield window


def _add(window: Window, plan: DocumentPlan, point: Point) -> None:
    window.points.append(point)
    if point.id in plan.kept:
        window.kept.add(point.id)


def _end(window: Window, plan: DocumentPlan) -> None:
    """The head, and with it what is deleted afterwards: nothing is deleted before the new head is written."""
    window.sources.append(plan.source)
    for point in plan.points[-1:]:
        _add(window, plan, point)
    for one in plan.stale:
        if one == head_id(plan.source):
            window.stale.append(one)
        else:
            window.stale.appendleft(one)


class Indexer:
    """Brings a collection up to date with files. One run at a time.

    Args:
        store: An existing collection, whose contract the embedder meets.
        embedder: Who embeds.
        settings: How documents are cut.
        dimensions: Length of the collection's vectors.
        on_progress: Called from several threads, never from two at once.
    """

    def __init__(
        self,
        store: Store,
        embedder: Embedder,
        settings: ChunkSettings,
        *,
        dimensions: int,
        on_progress: OnIndexProgress | None = None,
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._settings = settings
        self._label = settings.label()
        self._dimensions = dimensions
        self._on_progress = on_progress
        self._submitted: deque[_Submitted] = deque()
        self._limit = _SMALLEST_WINDOW

    def run(self, found: Sequence[FoundFile | SkippedFile]) -> IndexSummary:
        """Index `found`; a failure in any stage stops all of them and is raised as it was."""
        self._tally = _Tally(self._embedder, len(found), self._on_progress)
        with Background() as background:
            documents = self._documents(found)
            plans = self._plans(documents)
            ahead = background.ahead(windows(plans, lambda: self._limit), depth=_DEPTH)
            background.when_stopped(self._cancel)
            with closing(self._embedded(ahead)) as embedded:
                background.hand_over(embedded, self._commit, depth=_DEPTH)
        return self._tally.summary()

    def _documents(self, found: Iterable[FoundFile | SkippedFile]) -> Iterator[Document]:
        for file in found:
            document = file if isinstance(file, SkippedFile) else read_document(file)
            if isinstance(document, SkippedFile):
                self._tally.skipped(document)
            else:
                yield document

    def _plans(self, documents: Iterable[Document]) -> Iterator[DocumentPlan]:
        stored = _Stored(self._store)
        for document in documents:
            head = stored.whole_head(document.source)
            if head is not None and is_unchanged(document, self._label, head):
                self._tally.unchanged(head)
                continue
            chunks = chunk(document, self._settings, self._embedder)
            plan = plan_document(document, chunks, self._label, stored.ids(document.source))
            self._tally.planned(plan)
            yield plan

    def _embedded(self, ahead: Iterable[Window]) -> Generator[_Embedded, None, None]:
        try:
            for window in ahead:
                self._submitted.append(self._submit(window))
                if len(self._submitted) == _IN_FLIGHT:
                    yield self._result()
            while self._submitted:
                yield self._result()
        finally:
            self._cancel()
            self._submitted.clear()

    def _submit(self, window: Window) -> _Submitted:
        texts = list(dict.fromkeys(point.text for point in window.new()))
        counter = _Counter(self._tally.embedded)
        future = self._embedder.submit(
            texts, role=Role.DOCUMENT, dimensions=self._dimensions, priority=Priority.BULK, on_progress=counter
        )
        return _Submitted(window, texts, future, counter)

    def _result(self) -> _Embedded:
        submitted = self._submitted[0]
        rows = dict(zip(submitted.texts, submitted.future.result(), strict=True))
        self._submitted.popleft()
        submitted.counter(EmbeddingProgress(len(rows), len(rows), submitted.counter.tokens))
        fitting = int(self._tally.chunks_per_second() * _WINDOW_SECONDS)
        self._limit = min(max(fitting, _SMALLEST_WINDOW), _LARGEST_WINDOW, 2 * self._limit)
        return _Embedded(submitted.window, {point.id: rows[point.text] for point in submitted.window.new()})

    def _cancel(self) -> None:
        for submitted in tuple(self._submitted):
            submitted.future.cancel()

    def _commit(self, embedded: _Embedded) -> None:
        """Chunks, then heads, then what no head accounts for any more: a crash between any two leaves nothing wrong."""
        window, vectors = embedded.window, {**embedded.vectors, **self._read_back(embedded.window.kept)}
        self._write([point for point in window.points if point.head is None], vectors)
        self._write([point for point in window.points if point.head is not None], vectors)
        if window.stale:
            self._store.delete(list(window.stale))
        self._tally.committed(window)

    def _read_back(self, ids: set[str]) -> dict[str, FloatArray]:
        if not ids:
            return {}
        vectors = self._store.vectors(sorted(ids))
        if len(vectors) != len(ids):
            raise StoreError(
                f"{len(ids) - len(vectors)} of {len(ids)} points vanished from {self._store.url} during the run: somebody else "
                "is writing there. Wait until they are done and run the same command again."
            )
        return vectors

    def _write(self, points: Sequence[Point], vectors: dict[str, FloatArray]) -> None:
        if points:
            self._store.upsert(points, np.stack([vectors[point.id] for point in points]))


@dataclass(frozen=True)
class _Submitted:
    window: Window
    texts: list[str]
    future: Future[FloatArray]
    counter: _Counter


@dataclass(frozen=True)
class _Embedded:
    window: Window
    vectors: dict[str, FloatArray]


class _Stored:
    """What the collection holds, as far as planning needs it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._count = store.count()
        self._heads = {head.source: head for head in store.heads()} if self._count else {}
        # Equal sums mean that no run left half a document behind, so that no source has to be counted by itself.
        self._adds_up = sum(head.num_chunks for head in self._heads.values()) == self._count

    def whole_head(self, source: str) -> Head | None:
        """The head of a document that has all its chunks and no others; None sends the document to be planned again."""
        head = self._heads.get(source)
        if head is None or self._adds_up or len(self._store.chunk_ids(source)) == head.num_chunks:
            return head
        return None

    def ids(self, source: str) -> list[str]:
        """Ids of all points of a document."""
        return self._store.chunk_ids(source) if self._count else []


class _Tally:
    """Counts of one run, added to from all stages; every change is an event."""

    def __init__(self, embedder: Embedder, files: int, on_progress: OnIndexProgress | None) -> None:
        self._embedder = embedder
        self._before = embedder.stats()
        self._started = time.monotonic()
        self._files = files
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._skipped: list[SkippedFile] = []
        self._unchanged = self._changed = self._chunks = self._embedded = self._written = self._deleted = self._tokens = 0
        self._event("indexing")

    def skipped(self, file: SkippedFile) -> None:
        with self._lock:
            self._skipped.append(file)
            self._event("indexing")

    def unchanged(self, head: Head) -> None:
        with self._lock:
            self._unchanged += 1
            self._chunks += head.num_chunks
            self._event("indexing")

    def planned(self, plan: DocumentPlan) -> None:
        with self._lock:
            self._chunks += len(plan.points)

    def embedded(self, chunks: int, tokens: int) -> None:
        with self._lock:
            self._embedded += chunks
            self._tokens += tokens
            self._event("indexing")

    def chunks_per_second(self) -> float:
        with self._lock:
            return self._embedded / max(time.monotonic() - self._started, 1e-6)

    def committed(self, window: Window) -> None:
        with self._lock:
            self._changed += len(window.sources)
            self._written += len(window.points)
            self._deleted += len(window.stale)
            self._event("indexing")

    def summary(self) -> IndexSummary:
        after = self._embedder.stats()
        with self._lock:
            self._event("done")
            return IndexSummary(
                documents=self._unchanged + self._changed,
                documents_unchanged=self._unchanged,
                documents_failed=len(self._skipped),
                chunks=self._chunks,
                chunks_embedded=self._embedded,
                chunks_deleted=self._deleted,
                tokens_embedded=after.tokens - self._before.tokens,
                truncated_texts=after.truncated_texts - self._before.truncated_texts,
                seconds=time.monotonic() - self._started,
                skipped=tuple(self._skipped),
            )

    def _event(self, stage: str) -> None:
        if self._on_progress is not None:
            done = len(self._skipped) + self._unchanged + self._changed
            seconds = time.monotonic() - self._started
            self._on_progress(IndexProgress(stage, done, self._files, self._embedded, self._written, self._tokens, seconds))


class _Counter:
    """Turns the running totals of one submission into additions to the tally."""

    def __init__(self, add: Callable[[int, int], None]) -> None:
        self._add = add
        self.chunks = self.tokens = 0

    def __call__(self, progress: EmbeddingProgress) -> None:
        more = progress.texts_done - self.chunks, progress.tokens_done - self.tokens
        self.chunks, self.tokens = progress.texts_done, progress.tokens_done
        if any(more):
            self._add(*more)
