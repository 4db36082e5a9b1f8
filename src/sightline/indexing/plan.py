"""chunks -> plan: what of a document differs from the collection. Pure: no store, no clock.

A document's first chunk is its head, under an id that depends on the source alone. It is written last: a head in the
collection means that the document is wholly there. Every other id depends on source and text, so that it survives when text
moves within its file, and so that the stored vector under that id is still the right one.

A head that is there already is written twice: before anything else of its document changes it loses its hash, and at the end
it gets the new one. So a run that was killed in between is mended by the next one, whatever the file holds by then.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sightline.metadata import RESERVED_PREFIX, check_text, plain_metadata
from sightline.types import Chunk, Document, Head, Metadata, Point, TokenizedText

# Never to change: every id of every collection hangs on it.
_NAMESPACE = uuid.UUID("b5d0c1f4-6f0e-5a43-9a5e-0d3c6a1f7e21")
_OWN_KEYS = frozenset({"heading", "start", "end", "tokens"})
_END = "_end"
_USER_PREFIX = "document_"


@dataclass(frozen=True, slots=True)
class DocumentPlan:
    """What has to be done about one document, in the order of the fields.

    Args:
        source: Whose plan it is.
        doubt: The stored head without its hash, to be written before anything else changes.
        new: Points that the collection doesn't have.
        moved: Points that it has under the same id and text, but with other metadata.
        stale: Ids of chunks that no longer exist, or of all but the head where the document is to go.
        head: The head to write at last; None where the document is to go.
        head_is_new: Whether the head needs a vector; else the stored one is right.
        num_chunks: How many chunks the document has when all is done.
        tokens: Of its texts, where they are known already.
    """

    source: str
    doubt: Point | None = None
    new: tuple[Point, ...] = ()
    moved: tuple[Point, ...] = ()
    stale: tuple[str, ...] = ()
    head: Point | None = None
    head_is_new: bool = False
    num_chunks: int = 0
    tokens: Mapping[str, TokenizedText] = field(default_factory=dict)

    @property
    def drops_head(self) -> str | None:
        """Id of the stored head where it goes with its document; the last thing to be deleted."""
        return head_id(self.source) if self.head is None else None


def head_id(source: str) -> str:
    """Id of a document's head."""
    return _identifier(["head", source])


def chunk_id(source: str, text: str, occurrence: int) -> str:
    """Id of the `occurrence`-th chunk (from 0) with this text in the document, the head not counted."""
    return _identifier(["chunk", source, text, occurrence])


def content_hash(document: Document) -> str:
    """What tells whether a document changed: the hash that it came with, or one over all that it says."""
    if document.content_hash:
        return document.content_hash
    said: list[Any] = [document.text, document.format, _user_metadata(document)]
    if document.anchors:
        said.append([[start, plain_metadata(place, document.source)] for start, place in document.anchors])
    return hashlib.sha256(_canonical(said).encode()).hexdigest()


def settings_of(reader: str, chunk_settings: str) -> str:
    """What a head remembers of how its document was read and cut."""
    return f"{reader} {chunk_settings}"


def is_unchanged(document_hash: str, reader: str, chunk_settings: str, head: Head) -> bool:
    """Whether the collection holds a document as it would be read and cut today."""
    return (head.document_hash, head.settings) == (document_hash, settings_of(reader, chunk_settings))


def plan_document(document: Document, chunks: Sequence[Chunk], chunk_settings: str, stored: Sequence[Point]) -> DocumentPlan:
    """What to write, move and delete, given all points that the collection has for this source; no chunks: it is to go.

    Raises:
        UsageError: text or metadata that no store could keep.
    """
    check_text(document.text, document.source, "the text")
    if not chunks:
        return plan_removal(document.source, stored)
    known = {point.id: point for point in stored}
    *others, head = _points(document, chunks, settings_of(document.reader, chunk_settings))
    wanted = {point.id for point in others} | {head.id}
    plan = DocumentPlan(
        document.source,
        new=tuple(point for point in others if not _has_vector(point, known)),
        moved=tuple(point for point in others if _has_vector(point, known) and not _is_same(point, known[point.id])),
        stale=tuple(sorted(set(known) - wanted)),
        head=head,
        head_is_new=not _has_vector(head, known),
        num_chunks=len(chunks),
        tokens={chunk.text: chunk.tokens for chunk in chunks if chunk.tokens is not None},
    )
    changes_more = plan.new or plan.moved or plan.stale
    return replace(plan, doubt=_doubt(known.get(head.id)) if changes_more else None)


def plan_removal(source: str, stored: Sequence[Point]) -> DocumentPlan:
    """How a document goes: its head says so first and is deleted last."""
    known = {point.id: point for point in stored}
    head = known.pop(head_id(source), None)
    return DocumentPlan(source, doubt=_doubt(head) if known else None, stale=tuple(sorted(known)))


def _has_vector(point: Point, known: dict[str, Point]) -> bool:
    """Whether the stored vector under a point's id is that of its text; a head's id doesn't say."""
    return point.id in known and known[point.id].text == point.text


def _is_same(point: Point, stored: Point) -> bool:
    # As JSON: in Python 1 equals True and 1.0.
    return _canonical(point.metadata) == _canonical(stored.metadata) and stored.head is None


def _doubt(head: Point | None) -> Point | None:
    if head is None or head.head is None or not head.head.document_hash:
        return None
    return replace(head, head=replace(head.head, document_hash=""))


def _points(document: Document, chunks: Sequence[Chunk], settings: str) -> Iterator[Point]:
    """Points of all chunks, the first one (the head) at the end."""
    theirs = _user_metadata(document)
    places = _Places(document)
    occurrences: Counter[str] = Counter()
    for chunk in chunks[1:]:
        identifier = chunk_id(document.source, chunk.text, occurrences[chunk.text])
        occurrences[chunk.text] += 1
        yield Point(identifier, chunk.text, document.source, {**theirs, **places.of(chunk), **_chunk_metadata(chunk)})
    head = Head(document.source, content_hash(document), len(chunks), settings)
    first = chunks[0]
    metadata = {**theirs, **places.of(first), **_chunk_metadata(first)}
    yield Point(head_id(document.source), first.text, document.source, metadata, head)


def _chunk_metadata(chunk: Chunk) -> Metadata:
    return {"heading": " > ".join(chunk.heading_path), "start": chunk.start, "end": chunk.end, "tokens": chunk.num_tokens}


class _Places:
    """Where the chunks of a document are from: a page, rows of a sheet, lines."""

    def __init__(self, document: Document) -> None:
        self._anchors = document.anchors
        self._source = document.source

    def of(self, chunk: Chunk) -> Metadata:
        """The place at a chunk's start; numbers also as they are at its end, so that bounds find what lies between."""
        if not self._anchors:
            return {}
        first, last = self._at(chunk.start), self._at(chunk.end - 1)
        ends = {f"{key}{_END}": last.get(key, value) for key, value in first.items() if _is_number(value)}
        return plain_metadata({**first, **ends}, self._source)

    def _at(self, position: int) -> Metadata:
        number = bisect_right(self._anchors, position, key=lambda anchor: anchor[0])
        return self._anchors[number - 1][1] if number else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _user_metadata(document: Document) -> Metadata:
    """The user's metadata; a key that is ours on its chunks, or begins like ours, is kept under another name."""
    given = document.metadata
    places = {key for _, place in document.anchors for key in place}
    taken = _OWN_KEYS.union(places, (f"{key}{_END}" for key in places))
    renamed = {_another_name(key, given) if _is_taken(key, taken) else key: value for key, value in given.items()}
    return plain_metadata(renamed, document.source)


def _is_taken(key: Any, taken: frozenset[str]) -> bool:
    return isinstance(key, str) and (key in taken or key.startswith(RESERVED_PREFIX))


def _another_name(key: str, metadata: Metadata) -> str:
    new = _USER_PREFIX + key
    while new in metadata:
        new = _USER_PREFIX + new
    return new


def _identifier(parts: list[Any]) -> str:
    return str(uuid.uuid5(_NAMESPACE, _canonical(parts)))


def _canonical(value: Any) -> str:
    # JSON, never a concatenation: ["a", "bc"] and ["ab", "c"] are two things. ASCII, so that every string has bytes.
    return json.dumps(value, ensure_ascii=True, sort_keys=True)
