"""What a run would do, counted: windows come here instead of going to the embedder and the store."""

from __future__ import annotations

import random
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

from sightline.indexing.windows import Window
from sightline.metadata import payload_bytes
from sightline.protocols import Embedder, Store
from sightline.types import IndexSummary, TokenizedText

_SAMPLED = 1024


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What a run would do.

    Args:
        summary: What it would report; the seconds are the rehearsal's own.
        added: Documents that the collection doesn't have yet.
        changed: Those that it has otherwise.
        unchanged: Those that it has as they are.
        empty: Those without text.
        removed: Those that vanished and would be deleted.
        kept: Those that vanished and would stay.
        refusal: Why it would refuse to delete what vanished; None if it wouldn't.
        tokens: What the model would read; None where they can't be counted.
        points: How many points would be written or updated.
        more_points: How many more there would be in the end.
        payload_bytes: What those keep beside their vectors.
        sample: Some of the texts that would be embedded, with their tokens.
    """

    summary: IndexSummary
    added: tuple[str, ...]
    changed: tuple[str, ...]
    unchanged: tuple[str, ...]
    empty: tuple[str, ...]
    removed: tuple[str, ...]
    kept: tuple[str, ...]
    refusal: str | None
    tokens: int | None
    points: int
    more_points: int
    payload_bytes: int
    sample: Sequence[tuple[str | TokenizedText, int | None]]


class Sample:
    """Some of a stream's texts with their tokens (None where they can't be counted): each is equally likely, memory is flat."""

    def __init__(self, size: int = _SAMPLED) -> None:
        self.texts: list[tuple[str | TokenizedText, int | None]] = []
        self._size = size
        self._offered = 0
        self._random = random.Random(0)  # two plans of one corpus measure the same texts

    def offer(self, text: str | TokenizedText, tokens: int | None) -> None:
        """The next text of the stream; an early one may go for it."""
        self._offered += 1
        if len(self.texts) < self._size:
            self.texts.append((text, tokens))
            return
        place = self._random.randrange(self._offered)
        if place < self._size:
            self.texts[place] = text, tokens


class Rehearsal:
    """The count of a run that embeds nothing and writes nothing; `Indexer.rehearse` makes it.

    A run that takes a text out of one document and meets it again in another, windows later, embeds it a second time; here it
    counts once. All else is what the run itself reports.
    """

    def __init__(self, store: Store, embedder: Embedder) -> None:
        self.added: list[str] = []
        self.changed: list[str] = []
        self.sample = Sample()
        self.points = self.more_points = 0
        self.payload_bytes = 0
        self.tokens: int | None = 0
        self.truncated_texts = 0
        self._store = store
        self._embedder = embedder
        # Digests of what was counted: by then a run would have its vector.
        self._counted: set[bytes] = set()

    def count(self, window: Window, stored: Container[str]) -> tuple[int, int]:
        """Count a window, given the sources that the collection has; gives how many texts and tokens it would embed."""
        heads = (*window.new_heads, *window.moved_heads)
        for head in heads:
            (self.changed if head.source in stored else self.added).append(head.source)
        added = sum(head.source not in stored for head in heads)
        self.more_points += len(window.new) + added - len(window.stale) - len(window.gone)
        for point in (*window.new, *window.moved, *heads):
            self.points += 1
            self.payload_bytes += payload_bytes(point)
        fresh = self._without_vector(window.texts())
        counts = self._token_counts(fresh, window)
        for text, count in zip(fresh, counts, strict=True):
            self.sample.offer(window.tokens.get(text, text), count)
        known = [count for count in counts if count is not None]
        self.tokens = None if self.tokens is None or len(known) < len(counts) else self.tokens + sum(known)
        return len(fresh), sum(known)

    def summary(self, summary: IndexSummary) -> IndexSummary:
        """A run's summary with what the embedder would have counted."""
        return replace(summary, tokens_embedded=self.tokens or 0, truncated_texts=self.truncated_texts)

    def _without_vector(self, texts: Sequence[str]) -> list[str]:
        """Those that the collection doesn't have and that didn't come before."""
        digests = {text: blake2b(text.encode(), digest_size=16).digest() for text in texts}
        unknown = [text for text in texts if digests[text] not in self._counted]
        stored = self._store.vectors_of(unknown) if unknown else {}
        fresh = [text for text in unknown if text not in stored]
        self._counted.update(digests[text] for text in fresh)
        return fresh

    def _token_counts(self, texts: Sequence[str], window: Window) -> list[int | None]:
        """What the model reads of each text, prompt and special tokens included; None without a tokenizer."""
        known = {text: len(tokens.ids) for text, tokens in window.tokens.items()}
        others = [text for text in texts if text not in known]
        counted = self._embedder.count_tokens(others) if others else []
        if counted is None:
            return [None] * len(texts)
        known |= dict(zip(others, counted, strict=True))
        longest = self._embedder.max_length
        if longest is None:
            return [known[text] for text in texts]
        self.truncated_texts += sum(known[text] > longest for text in texts)
        return [min(known[text], longest) for text in texts]
