"""chunks -> plan: what of a document differs from the collection. Pure: no store, no clock.

A document's first chunk is its head, under an id that depends on the source alone. It is written last: a head in the
collection means that the document is wholly there. Every other id depends on source and text, so that it survives when text
moves within its file, and so that a stored vector under that id is still the right one.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sightline.types import Chunk, Document, Head, Metadata, Point

# Never to change: every id of every collection hangs on it.
_NAMESPACE = uuid.UUID("b5d0c1f4-6f0e-5a43-9a5e-0d3c6a1f7e21")
_OWN_KEYS = frozenset({"heading", "start", "end", "tokens"})
_STORE_PREFIX = "sightline_"
_USER_PREFIX = "document_"


@dataclass(frozen=True, slots=True)
class DocumentPlan:
    """What has to be done about one document.

    Args:
        source: Whose plan it is.
        points: What to write, in this order; the head is the last. Empty for a document without text.
        kept: Ids among `points` whose stored vector is still right, so that nothing is embedded for them.
        stale: Ids to delete once the head is written; the old head of a document without text is the last.
    """

    source: str
    points: tuple[Point, ...]
    kept: frozenset[str]
    stale: tuple[str, ...]


def head_id(source: str) -> str:
    """Id of a document's head."""
    return _identifier(["head", source])


def chunk_id(source: str, text: str, occurrence: int) -> str:
    """Id of the `occurrence`-th chunk (from 0) with this text in the document, the head not counted."""
    return _identifier(["chunk", source, text, occurrence])


def settings_of(document: Document, chunk_settings: str) -> str:
    """What a head remembers of how its document was read and cut."""
    return f"{document.reader} {chunk_settings}"


def is_unchanged(document: Document, chunk_settings: str, head: Head | None) -> bool:
    """Whether the collection holds this document as it would be read and cut today."""
    today = (document.content_hash, settings_of(document, chunk_settings))
    return head is not None and (head.document_hash, head.settings) == today


def plan_document(document: Document, chunks: Sequence[Chunk], chunk_settings: str, stored_ids: Sequence[str]) -> DocumentPlan:
    """What to write, keep and delete, given the ids that the collection has for this source.

    The head is always embedded: its id says nothing of its text, so the stored vector may be of another one.
    """
    points = tuple(_points(document, chunks, settings_of(document, chunk_settings)))
    stored, wanted = set(stored_ids), {point.id for point in points}
    kept = frozenset(point.id for point in points if point.head is None and point.id in stored)
    head = head_id(document.source)
    stale = sorted(stored - wanted, key=lambda one: (one == head, one))
    return DocumentPlan(document.source, points, kept, tuple(stale))


def _points(document: Document, chunks: Sequence[Chunk], settings: str) -> Iterator[Point]:
    """Points of all chunks, the first one (the head) at the end."""
    occurrences: Counter[str] = Counter()
    for chunk in chunks[1:]:
        identifier = chunk_id(document.source, chunk.text, occurrences[chunk.text])
        occurrences[chunk.text] += 1
        yield Point(identifier, chunk.text, document.source, _metadata(document, chunk))
    for chunk in chunks[:1]:
        head = Head(document.source, document.content_hash, len(chunks), settings)
        yield Point(head_id(document.source), chunk.text, document.source, _metadata(document, chunk), head)


def _metadata(document: Document, chunk: Chunk) -> Metadata:
    """The user's metadata and ours; a key of the user's that we or the store need is kept under another name."""
    theirs = {_user_key(key): value for key, value in document.metadata.items()}
    return {
        **theirs,
        "heading": " > ".join(chunk.heading_path),
        "start": chunk.start,
        "end": chunk.end,
        "tokens": chunk.num_tokens,
    }


def _user_key(key: str) -> str:
    return _USER_PREFIX + key if key in _OWN_KEYS or key.startswith(_STORE_PREFIX) else key


def _identifier(parts: list[Any]) -> str:
    # A JSON list, never a concatenation: ["a", "bc"] and ["ab", "c"] are two things. ASCII, so that every string has bytes.
    return str(uuid.uuid5(_NAMESPACE, json.dumps(parts, ensure_ascii=True)))
