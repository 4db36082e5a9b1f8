"""The indexer: files -> documents -> chunks -> plan -> vectors -> store -> committed.

Reading and tokenising run in one thread, chunking and planning in another ahead of the embedder, writing in one behind it, with a
bounded number of documents and windows between them, so that memory stays flat however large the folder is. Parsers of heavy
formats, and for a model on a GPU tokenising and chunking too, run in processes of their own. Nothing has to be
undone after a crash: what isn't committed by a head is planned again, and a text whose vector the collection has is never
embedded.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np

from sightline.contract import Mark
from sightline.errors import DeletionRefused, InputError, UsageError
from sightline.indexing.ahead import read_files
from sightline.indexing.background import Background
from sightline.indexing.chunking import ChunkSettings
from sightline.indexing.cutters import Cutters, MakeChunks
from sightline.indexing.files import Discovered, FoundFile
from sightline.indexing.jsonl import JsonlFields
from sightline.indexing.parsers import ParseLimits, Parsers
from sightline.indexing.plan import DocumentPlan, content_hash, is_unchanged, plan_document, plan_removal
from sightline.indexing.reading import LoadedFile, has_rows
from sightline.indexing.reconcile import Stored, is_within
from sightline.indexing.rehearsal import Rehearsal, Rehearsed
from sightline.indexing.windows import Window, windows
from sightline.metadata import check_text
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
# Two submissions in flight: the device has the next window while this one is handed to the store.
_IN_FLIGHT = 2
_DEPTH = 2
# Characters of documents that are tokenised at once and handed on to the chunker together.
_TOGETHER = 1 << 16
_NAMES_SHOWN = 5
_SHOWN = 40
_NAMESAKE = "a document of the same source came before it; give each its own"


@dataclass(frozen=True, slots=True)
class Corpus:
    """What a run is given: files, and documents from elsewhere.

    Args:
        found: What was found below the paths.
        fields: Which fields of a jsonl row mean what.
        documents: Documents from Python, drawn one by one in another thread; their sources are put below `root`.
        root: Name of the root that `documents` is the whole of; None without documents.
        parsing: How far parsing a file may go.
    """

    found: Discovered
    fields: JsonlFields = field(default_factory=JsonlFields)
    documents: Iterable[Document] = ()
    root: str | None = None
    parsing: ParseLimits = field(default_factory=ParseLimits)

    @property
    def scopes(self) -> frozenset[str]:
        """What this run knows the whole of."""
        return frozenset(self.found.scopes) | ({self.root} if self.root is not None else set())


class Indexer:
    """Brings a collection up to date with a corpus. One run at a time.

    Args:
        store: An existing collection, whose contract the embedder meets, and whose only writer this is.
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
        # Texts that are embedded but not yet in the store, with who has them.
        self._pending: dict[str, _Submitted] = {}
        self._limit = _SMALLEST_WINDOW

    def run(self, corpus: Corpus, *, prune: bool = False, force: bool = False) -> IndexSummary:
        """Index a corpus; a failure in any stage stops all of them and is raised as it was.

        Args:
            corpus: What to index.
            prune: Delete the documents that vanished from it.
            force: Also when that is more than half of what the collection has of it.

        Raises:
            DeletionRefused: more than half vanished; all else was done.
        """
        review = self._begin(corpus, prune=prune, force=force)
        with self._reading(corpus) as reading:
            ahead = self._windows(reading, corpus, review)
            reading.background.when_stopped(self._cancel)
            with closing(self._embedded(ahead)) as embedded:
                reading.background.hand_over(embedded, self._commit, depth=_DEPTH)
        return self._finish(review)

    def rehearse(self, corpus: Corpus, *, prune: bool = False, force: bool = False) -> Rehearsed:
        """What `run` would do: the same stages, but windows are counted instead of embedded, and nothing is written."""
        review = self._begin(corpus, prune=prune, force=force)
        self._limit = _LARGEST_WINDOW
        rehearsal = Rehearsal(self._store, self._embedder)
        with self._reading(corpus, elsewhere=False) as reading:  # which torch would be loaded for
            for window in self._windows(reading, corpus, review):
                self._tally.embedded(*rehearsal.count(window, review.stored))
                self._tally.committed(window)
        tally = self._tally
        return Rehearsed(
            summary=rehearsal.summary(tally.summary(vanished=len(review.kept))),
            added=tuple(rehearsal.added),
            changed=tuple(rehearsal.changed),
            unchanged=tuple(tally.unchanged_sources),
            empty=tuple(sorted(tally.empty_sources)),
            removed=tuple(sorted(tally.removed_sources)),
            kept=tuple(review.kept),
            refusal=None if review.refusal is None else str(review.refusal),
            tokens=rehearsal.tokens,
            points=rehearsal.points,
            more_points=rehearsal.more_points,
            payload_bytes=rehearsal.payload_bytes,
            sample=rehearsal.sample.texts,
        )

    def _begin(self, corpus: Corpus, *, prune: bool, force: bool) -> _Review:
        self._scopes = corpus.scopes
        self._tally = _Tally(self._embedder, corpus, self._on_progress)
        self._mark = Mark.from_json(self._store.read_mark())
        self._is_marked = False
        return _Review(Stored(self._store, self._scopes, self._mark), prune=prune, force=force)

    @contextmanager
    def _reading(self, corpus: Corpus, *, elsewhere: bool = True) -> Iterator[_Reading]:
        """Threads and processes for a run. The processes end first: a stage may be waiting for one."""
        made = Cutters(self._embedder, self._settings, elsewhere=elsewhere)
        with Background() as background, made as cutters, Parsers(corpus.parsing) as parsers:
            background.when_stopped(cutters.close)
            background.when_stopped(parsers.close)
            yield _Reading(background, cutters, parsers)

    def _windows(self, reading: _Reading, corpus: Corpus, review: _Review) -> Iterator[Window]:
        """What the run has to do, found in threads of their own ahead of who draws it."""
        background = reading.background
        documents = _together(self._changed(self._documents(corpus, review, reading.parsers), review.stored))
        plans = self._plans(background.ahead(reading.cutters.cut(documents), depth=1), review)
        return background.ahead(windows(plans, lambda: self._limit), depth=_DEPTH)

    @property
    def empty_sources(self) -> frozenset[str]:
        """Documents of the last run that had no text, so that the collection has none of them."""
        return frozenset(self._tally.empty_sources)

    def _documents(self, corpus: Corpus, review: _Review, parsers: Parsers) -> Iterator[Document]:
        for skipped in corpus.found.skipped:
            review.protect(skipped.source)

        def is_known(file: LoadedFile) -> Head | None:
            head = review.stored.whole_head(file.found.source)
            return head if head and is_unchanged(file.content_hash, file.reader.name, self._label, head) else None

        for file, contents in read_files(corpus.found.files, corpus.fields, parsers, is_known):
            yield from self._taken(file, contents, review)
        for document in corpus.documents:
            try:
                renamed = _below(document, corpus.root)
            except UsageError as error:
                self._tally.skipped(SkippedFile(ascii(document.source), str(error)))
                continue
            if not review.is_first(renamed.source):
                self._tally.skipped(SkippedFile(renamed.source, _NAMESAKE))
            else:
                yield renamed

    def _taken(
        self, file: FoundFile, contents: Iterable[Document | SkippedFile | Head], review: _Review
    ) -> Iterator[Document]:
        """Documents of a file that may have changed."""
        unread = file.size
        for found in contents:
            if isinstance(found, SkippedFile):
                review.protect(file.source)
                self._tally.skipped(found)
                continue
            if not review.is_first(found.source):
                self._tally.skipped(SkippedFile(found.source, _NAMESAKE))
                continue
            size = min(unread, len(found.text) if isinstance(found, Document) and found.source != file.source else file.size)
            unread -= size
            self._tally.found(found.source, size)
            if isinstance(found, Head):
                self._tally.unchanged(found)
            else:
                yield found
        self._tally.passed(unread)

    def _changed(self, documents: Iterable[Document], stored: Stored) -> Iterator[Document]:
        """Those that the collection doesn't hold as they would be read and cut today."""
        return (document for document in documents if self._is_changed(document, stored))

    def _is_changed(self, document: Document, stored: Stored) -> bool:
        with self._skipping(document):
            head = stored.whole_head(document.source)
            if head is None or not is_unchanged(content_hash(document), document.reader, self._label, head):
                return True
            self._tally.unchanged(head)
        return False

    def _plans(self, cut: Iterable[list[tuple[Document, MakeChunks]]], review: _Review) -> Iterator[DocumentPlan]:
        for some in cut:
            for document, make_chunks in some:
                plan = self._plan(document, make_chunks, review.stored)
                if plan is not None:
                    yield plan
        yield from self._removals(review)

    def _plan(self, document: Document, make_chunks: MakeChunks, stored: Stored) -> DocumentPlan | None:
        with self._skipping(document):
            chunks = make_chunks()
            points = stored.points(document.source)
            plan = plan_document(document, chunks, self._label, points)
            if chunks:
                return plan
            self._tally.empty(document.source)
            return plan if points else None
        return None

    @contextmanager
    def _skipping(self, document: Document) -> Iterator[None]:
        """What goes wrong is this document's fault, not the run's."""
        try:
            yield
        except UsageError as error:  # metadata or text that no store could keep
            self._tally.skipped(SkippedFile(document.source, str(error)))
        except RecursionError:
            self._tally.skipped(SkippedFile(document.source, "nested too deeply to be read"))

    def _removals(self, review: _Review) -> Iterator[DocumentPlan]:
        """What a killed run left without a head, and what vanished; at the end, when all that is left has been found."""
        for source in review.leftovers():
            yield plan_removal(source, review.stored.points(source))
        for source in review.to_remove():
            self._tally.removed(source)
            yield plan_removal(source, review.stored.points(source))

    def _embedded(self, ahead: Iterable[Window]) -> Generator[_Submitted, None, None]:
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
            self._pending.clear()

    def _submit(self, window: Window) -> _Submitted:
        """Ask the windows before this one, then the collection, then the embedder for the vectors of its texts."""
        texts = window.texts()
        # In this order: what leaves `pending` is in the store by then.
        lenders = {text: self._pending.get(text) for text in texts}
        borrowed = {text: lender for text, lender in lenders.items() if lender is not None}
        stored = self._store.vectors_of([text for text in texts if text not in borrowed]) if texts else {}
        fresh = [text for text in texts if text not in borrowed and text not in stored]
        counter = _Counter(self._tally.embedded)
        submitted = _Submitted(window, fresh, counter, borrowed, stored)
        if fresh:
            readable = [window.tokens.get(text, text) for text in fresh]
            submitted.future = self._embedder.submit(
                readable, role=Role.DOCUMENT, dimensions=self._dimensions, priority=Priority.BULK, on_progress=counter
            )
        self._pending.update(dict.fromkeys(fresh, submitted))
        return submitted

    def _result(self) -> _Submitted:
        submitted = self._submitted[0]
        submitted.collect()
        self._submitted.popleft()
        fitting = int(self._tally.chunks_per_second() * _WINDOW_SECONDS)
        self._limit = min(max(fitting, _SMALLEST_WINDOW), _LARGEST_WINDOW, 2 * self._limit)
        return submitted

    def _cancel(self) -> None:
        for submitted in tuple(self._submitted):
            if submitted.future is not None:
                submitted.future.cancel()

    def _commit(self, submitted: _Submitted) -> None:
        """Nothing goes before its successor is there, and the heads come last: a crash between any two leaves nothing wrong."""
        window, store = submitted.window, self._store
        self._set_mark()
        store.update(window.doubts)
        self._upsert(window.new, submitted)
        store.update(window.moved)
        store.delete(window.stale)
        self._upsert(window.new_heads, submitted)
        store.update(window.moved_heads)
        store.delete(window.gone)
        for text in submitted.fresh:
            self._pending.pop(text, None)
        self._tally.committed(window)

    def _upsert(self, points: Sequence[Point], submitted: _Submitted) -> None:
        if points:
            self._store.upsert(points, np.stack([submitted.vectors[point.text] for point in points]))

    def _set_mark(self) -> None:
        """Before the first write: until the run is over, its scopes may hold half of something."""
        if not self._is_marked:
            unfinished = self._mark.unfinished | self._scopes
            if unfinished != self._mark.unfinished:
                self._store.write_mark(replace(self._mark, unfinished=unfinished).to_json())
            self._is_marked = True

    def _finish(self, review: _Review) -> IndexSummary:
        summary = self._tally.summary(vanished=len(review.kept))
        given = {one for one in self._mark.unfinished if is_within(one, self._scopes)}
        unfinished = (self._mark.unfinished - given) | review.unsettled(self._scopes)
        self._store.write_mark(Mark(unfinished, _last_run(summary)).to_json())
        if review.refusal is not None:
            review.refusal.summary = summary
            raise review.refusal
        return summary


@dataclass(frozen=True, slots=True)
class _Reading:
    """Where documents are read, parsed and cut beside the embedding."""

    background: Background
    cutters: Cutters
    parsers: Parsers


class _Review:
    """What of the collection this run has found again, and what becomes of the rest."""

    def __init__(self, stored: Stored, *, prune: bool, force: bool) -> None:
        self.stored = stored
        self.refusal: DeletionRefused | None = None
        self.kept: list[str] = []
        self._prune = prune
        self._force = force
        self._seen: set[str] = set()
        self._protected: set[str] = set()

    def is_first(self, source: str) -> bool:
        """Note that a source was found; False when it was found before."""
        count = len(self._seen)
        self._seen.add(source)
        return len(self._seen) > count

    def protect(self, source: str) -> None:
        """What can't be read now, a file or a folder, keeps all that the collection has of it."""
        self._protected.add(source)

    def leftovers(self) -> list[str]:
        """Sources that a killed run began and whose files are gone: nothing could finish them."""
        return sorted(self._unseen(self.stored.headless()))

    def to_remove(self) -> list[str]:
        """Documents that vanished, if this run may delete them; else they are kept and told."""
        vanished, refused, total = [], [], 0
        for committed in self.stored.committed().values():
            gone = self._unseen(committed)
            if self._prune and not self._force and 2 * len(gone) > len(committed):
                refused += sorted(gone)
                total += len(committed)
            else:
                vanished += sorted(gone)
        if refused:
            self.refusal = _refusal(refused, total)
        self.kept = refused if self._prune else vanished
        return vanished if self._prune else []

    def unsettled(self, scopes: frozenset[str]) -> frozenset[str]:
        """Scopes that stay unfinished: a killed run left something in them whose file can't be read now."""
        left = self.stored.headless() - self._seen
        return frozenset(scope for scope in scopes if any(is_within(source, {scope}) for source in left - self._unseen(left)))

    def _unseen(self, sources: set[str]) -> set[str]:
        return {source for source in sources - self._seen if not is_within(source, self._protected)}


def _refusal(vanished: Sequence[str], total: int) -> DeletionRefused:
    names = ", ".join(vanished[:_NAMES_SHOWN]) + (", ..." if len(vanished) > _NAMES_SHOWN else "")
    return DeletionRefused(
        f"{len(vanished):,} of the {total:,} documents that the collection has of these paths weren't found ({names}). More than "
        "half is deleted only on demand, because a share that isn't mounted looks like this. All else was done. "
        "If they are to go, run the same command with --force."
    )


def _together(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """As many documents at a time as are worth handing over."""
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= _TOGETHER:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _below(document: Document, root: str | None) -> Document:
    """A document from Python, with its source below its root."""
    if not isinstance(document, Document):
        raise TypeError(f"An iterator of documents gave a {type(document).__name__}; it must give sightline.Document objects.")
    check_text(document.text, document.source, "the text")
    if not isinstance(document.metadata, Mapping):
        raise UsageError(f"The metadata of {document.source!r} is a {type(document.metadata).__name__}; it must be a mapping.")
    source = check_text(document.source, document.source, "the source")
    if not source or any(character < " " for character in source):
        raise UsageError(f"A document's source is a text without control characters; got {source!r}.")
    return replace(document, source=f"{root}/{source}")


def _last_run(summary: IndexSummary) -> dict[str, object]:
    names = ("documents", "documents_unchanged", "documents_failed", "documents_removed", "chunks", "chunks_embedded")
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    return {"finished": finished, "seconds": round(summary.seconds, 1), **{name: getattr(summary, name) for name in names}}


@dataclass(eq=False)
class _Submitted:
    """A window on its way: where the vectors of its texts come from, and all of them once `collect` was called."""

    window: Window
    fresh: list[str]
    counter: _Counter
    borrowed: dict[str, _Submitted]
    vectors: dict[str, FloatArray]
    future: Future[FloatArray] | None = None

    def collect(self) -> None:
        """Wait for the embedder; windows are collected in order, so what was borrowed is there."""
        if self.future is not None:
            try:
                vectors = self.future.result()
            except InputError as error:
                raise self._with_source(error) from error
            self.vectors.update(zip(self.fresh, vectors, strict=True))
            self.counter(EmbeddingProgress(len(self.fresh), len(self.fresh), self.counter.tokens))
        self.vectors.update({text: lender.vectors[text] for text, lender in self.borrowed.items()})
        self.borrowed.clear()

    def _with_source(self, error: InputError) -> InputError:
        """The error with the document that its text is of; the number of a text says nothing to who gave a folder."""
        if error.row is None:
            return error
        text = self.fresh[error.row]
        source = next(point.source for point in (*self.window.new, *self.window.new_heads) if point.text == text)
        return type(error)(f"{source}: {error} The text begins with {text[:_SHOWN]!r}.", error.row)


class _Tally:
    """Counts of one run, added to from all stages; every change is an event."""

    def __init__(self, embedder: Embedder, corpus: Corpus, on_progress: OnIndexProgress | None) -> None:
        self._embedder = embedder
        self._before = embedder.stats()
        self._started = time.monotonic()
        self._on_progress = on_progress
        self._lock = threading.Lock()
        files = corpus.found.files
        self._ignored = corpus.found.ignored
        self._skipped = list(corpus.found.skipped)
        self._documents_total = None if corpus.root is not None or any(map(has_rows, files)) else len(self._skipped) + len(files)
        self._bytes_total = None if corpus.root is not None else sum(file.size for file in files)
        self._sizes: dict[str, int] = {}
        self.removed_sources: set[str] = set()
        self.empty_sources: set[str] = set()
        self.unchanged_sources: list[str] = []
        self._changed = self._removed = self._bytes = 0
        self._chunks = self._embedded = self._written = self._deleted = self._tokens = 0
        self._event("indexing")

    def found(self, source: str, size: int) -> None:
        """A document whose end counts `size` bytes."""
        with self._lock:
            self._sizes[source] = size

    def passed(self, size: int) -> None:
        """Bytes of a file that are in none of its documents; a file of rows has another number of documents than one."""
        with self._lock:
            self._bytes += size

    def skipped(self, file: SkippedFile) -> None:
        with self._lock:
            self._skipped.append(file)
            self._done(file.source)

    def unchanged(self, head: Head) -> None:
        with self._lock:
            self.unchanged_sources.append(head.source)
            self._chunks += head.num_chunks
            self._done(head.source)

    def empty(self, source: str) -> None:
        with self._lock:
            self.empty_sources.add(source)
            self._done(source)

    def removed(self, source: str) -> None:
        with self._lock:
            self.removed_sources.add(source)

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
            kept = len(window.new_heads) + len(window.moved_heads)
            removed = len(self.removed_sources.intersection(window.sources))
            self._changed += kept
            self._removed += removed
            self._written += window.num_points
            self._chunks += window.chunks
            self._deleted += len(window.stale) + len(window.gone)
            for source in window.sources:
                self._bytes += self._sizes.pop(source, 0)
            self._event("indexing")

    def summary(self, *, vanished: int) -> IndexSummary:
        after = self._embedder.stats()
        with self._lock:
            self._event("done")
            return IndexSummary(
                documents=len(self.unchanged_sources) + self._changed,
                documents_unchanged=len(self.unchanged_sources),
                documents_empty=len(self.empty_sources),
                documents_failed=len(self._skipped),
                documents_vanished=vanished,
                documents_removed=self._removed,
                files_ignored=self._ignored,
                chunks=self._chunks,
                chunks_embedded=self._embedded,
                chunks_deleted=self._deleted,
                tokens_embedded=after.tokens - self._before.tokens,
                truncated_texts=after.truncated_texts - self._before.truncated_texts,
                seconds=time.monotonic() - self._started,
                skipped=tuple(self._skipped),
            )

    def _done(self, source: str) -> None:
        self._bytes += self._sizes.pop(source, 0)
        self._event("indexing")

    def _event(self, stage: str) -> None:
        if self._on_progress is None:
            return
        done = len(self._skipped) + len(self.unchanged_sources) + self._changed + len(self.empty_sources)
        total = self._documents_total
        self._on_progress(
            IndexProgress(
                stage,
                documents_done=done,
                documents_total=None if total is None else max(total, done),
                bytes_done=self._bytes,
                bytes_total=self._bytes_total,
                chunks_embedded=self._embedded,
                chunks_written=self._written,
                tokens_embedded=self._tokens,
                seconds=time.monotonic() - self._started,
            )
        )


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
