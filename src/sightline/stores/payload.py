"""How a point becomes a payload and back: one place for both layouts, so that the frameworks' own stores read them too.

Nested (Qdrant and Edge): `{page_content, metadata: {source, **metadata}, source, sightline_*}`.
Flat (Chroma): the text is the document, the metadata is `{source, **metadata, sightline_*}`.

`source` is for people and filters; a row that was added shows there what its own metadata names. `sightline_source` is the
document's identity. Further ours are, as integers because a boolean filter finds nothing on Edge: `sightline_point` (1 on every
point of ours) and `sightline_head` (1 on heads only, with `sightline_hash`, `sightline_chunks` and `sightline_settings`); and
`sightline_text`, a digest of the text that was embedded, by which its vector is found again. What can't stand under its own key
is kept in `sightline_metadata` and put back on reading: a user's own `source` in both layouts; in the flat one also None, dicts,
empty or mixed lists and keys that Chroma refuses. It is an object when nested and JSON text when flat.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from sightline.metadata import RESERVED_PREFIX, visible_source
from sightline.types import Head, Hit, Point

POINT_KEY = "sightline_point"
TEXT_KEY = "sightline_text"
HEAD_KEY = "sightline_head"
HASH_KEY = "sightline_hash"
CHUNKS_KEY = "sightline_chunks"
SETTINGS_KEY = "sightline_settings"
METADATA_KEY = "sightline_metadata"
SOURCE_KEY = "sightline_source"
VISIBLE_SOURCE_KEY = "source"
HEAD_FIELDS = [SOURCE_KEY, HASH_KEY, CHUNKS_KEY, SETTINGS_KEY]

NESTED_KEY = "metadata"
_CONTENT_KEY = "page_content"
# Where other programs keep the text; LlamaIndex's Qdrant store has it in a JSON object under the last one.
_OTHER_CONTENT_KEYS = ("text", "content", "document")
_NODE_KEY = "_node_content"


def text_digest(text: str) -> str:
    """What a text is found by: 32 hexadecimal digits."""
    return blake2b(text.encode(), digest_size=16).hexdigest()


def embedded_digest(point: Point) -> str:
    """What the text that a point's vector is of is found by."""
    if point.embedded_digest is not None:
        return point.embedded_digest
    return text_digest(point.text if point.embedded_text is None else point.embedded_text)


def to_nested(point: Point) -> dict[str, Any]:
    """The payload of `point` on Qdrant and Edge."""
    shown = {VISIBLE_SOURCE_KEY: visible_source(point.source, point.metadata)}
    payload = {_CONTENT_KEY: point.text, NESTED_KEY: {**point.metadata, **shown}, **shown, **_bookkeeping(point)}
    if VISIBLE_SOURCE_KEY in point.metadata:
        payload[METADATA_KEY] = {VISIBLE_SOURCE_KEY: point.metadata[VISIBLE_SOURCE_KEY]}
    return payload


def to_flat(point: Point) -> dict[str, Any]:
    """The metadata of `point` on Chroma; its text is the document."""
    kept = {key: value for key, value in point.metadata.items() if _fits_flat(key, value)}
    flat = {**kept, VISIBLE_SOURCE_KEY: visible_source(point.source, point.metadata), **_bookkeeping(point)}
    rest = {key: value for key, value in point.metadata.items() if key not in kept}
    if rest:
        flat[METADATA_KEY] = json.dumps(rest, ensure_ascii=False, allow_nan=False)
    return flat


def is_ours(payload: Mapping[str, Any] | None) -> bool:
    """Whether Sightline wrote the point, in either layout."""
    return payload is not None and POINT_KEY in payload


def point_from_nested(point_id: str, payload: Mapping[str, Any] | None) -> Point:
    """The point of a Qdrant or Edge payload, ours or somebody else's."""
    given = payload or {}
    nested = given.get(NESTED_KEY)
    if not is_ours(given):
        metadata = dict(nested) if isinstance(nested, Mapping) else _plain(given)
        return Point(point_id, _foreign_text(given), _foreign_source(given, metadata), metadata)
    metadata = {key: value for key, value in (nested or {}).items() if key != VISIBLE_SOURCE_KEY}
    metadata.update(given.get(METADATA_KEY, {}))
    text = given[_CONTENT_KEY]
    return Point(point_id, text, given[SOURCE_KEY], metadata, _head(given), embedded_digest=_other_digest(given, text))


def point_from_flat(point_id: str, document: str | None, flat: Mapping[str, Any] | None) -> Point:
    """The point of a Chroma record, ours or somebody else's."""
    given = flat or {}
    metadata = {key: value for key, value in given.items() if not key.startswith(RESERVED_PREFIX)}
    if not is_ours(given):
        return Point(point_id, _text(document), _foreign_source(given, metadata), metadata)
    metadata.pop(VISIBLE_SOURCE_KEY, None)
    metadata.update(json.loads(given.get(METADATA_KEY, "{}")))
    text = _text(document)
    return Point(point_id, text, given[SOURCE_KEY], metadata, _head(given), embedded_digest=_other_digest(given, text))


def hit(point: Point, score: float) -> Hit:
    """A search result."""
    return Hit(point.id, score, point.text, point.source, point.metadata)


def head_from(payload: Mapping[str, Any]) -> Head:
    """The head in a payload of either layout."""
    return Head(
        source=payload[SOURCE_KEY],
        document_hash=payload[HASH_KEY],
        num_chunks=payload[CHUNKS_KEY],
        settings=payload[SETTINGS_KEY],
    )


def _head(payload: Mapping[str, Any]) -> Head | None:
    return head_from(payload) if HEAD_KEY in payload else None


def _other_digest(payload: Mapping[str, Any], text: str) -> str | None:
    """The digest of what was embedded; None where that is the text itself."""
    digest = payload.get(TEXT_KEY)
    return None if digest is None or digest == text_digest(text) else str(digest)


def _bookkeeping(point: Point) -> dict[str, Any]:
    ours: dict[str, Any] = {POINT_KEY: 1, SOURCE_KEY: point.source, TEXT_KEY: embedded_digest(point)}
    if point.head is not None:
        ours |= {
            HEAD_KEY: 1,
            HASH_KEY: point.head.document_hash,
            CHUNKS_KEY: point.head.num_chunks,
            SETTINGS_KEY: point.head.settings,
        }
    return ours


def _fits_flat(key: str, value: Any) -> bool:
    if key in ("", VISIBLE_SOURCE_KEY) or key.startswith(("$", "#", "chroma:")):
        return False
    if isinstance(value, list):
        return len({type(item) for item in value}) == 1 and isinstance(value[0], (str, int, float))
    return isinstance(value, (str, int, float))  # bool is an int


def _foreign_text(payload: Mapping[str, Any]) -> str:
    for key in (_CONTENT_KEY, *_OTHER_CONTENT_KEYS):
        if isinstance(payload.get(key), str):
            return str(payload[key])
    try:
        return _text(json.loads(payload[_NODE_KEY])["text"])
    except (KeyError, TypeError, ValueError):  # another program's payload may hold anything, a text among it or not
        return ""


def _foreign_source(payload: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    return _text(payload.get(VISIBLE_SOURCE_KEY, metadata.get(VISIBLE_SOURCE_KEY)))


def _plain(payload: Mapping[str, Any]) -> dict[str, Any]:
    """A payload without a `metadata` object is the metadata itself, but for its text and what its writer keeps for itself."""
    own = (_CONTENT_KEY, *_OTHER_CONTENT_KEYS)
    return {key: value for key, value in payload.items() if key not in own and not key.startswith("_")}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
