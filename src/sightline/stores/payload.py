"""How a point becomes a payload and back: one place for both layouts, so that the frameworks' own stores read them too.

Nested (Qdrant and Edge): `{page_content, metadata: {source, **metadata}, source, sightline_*}`.
Flat (Chroma): the text is the document, the metadata is `{source, **metadata, sightline_*}`.

Ours are, as integers because a boolean filter finds nothing on Edge: `sightline_point` (1 on every point of ours) and
`sightline_head` (1 on heads only, with `sightline_hash`, `sightline_chunks` and `sightline_settings`). What can't stand
under its own key is kept in `sightline_metadata` and put back on reading: a user's own `source` in both layouts; in the
flat one also None, dicts, empty or mixed lists and keys that Chroma refuses. It is an object when nested and JSON text when flat.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sightline.stores.checks import RESERVED_PREFIX
from sightline.types import Head, Hit, Point

POINT_KEY = "sightline_point"
HEAD_KEY = "sightline_head"
HASH_KEY = "sightline_hash"
CHUNKS_KEY = "sightline_chunks"
SETTINGS_KEY = "sightline_settings"
METADATA_KEY = "sightline_metadata"
SOURCE_KEY = "source"
HEAD_FIELDS = [SOURCE_KEY, HASH_KEY, CHUNKS_KEY, SETTINGS_KEY]

_TEXT_KEY = "page_content"
_NESTED_KEY = "metadata"


def to_nested(point: Point) -> dict[str, Any]:
    """The payload of `point` on Qdrant and Edge."""
    payload = {
        _TEXT_KEY: point.text,
        _NESTED_KEY: {**point.metadata, SOURCE_KEY: point.source},
        SOURCE_KEY: point.source,
        **_bookkeeping(point),
    }
    if SOURCE_KEY in point.metadata:
        payload[METADATA_KEY] = {SOURCE_KEY: point.metadata[SOURCE_KEY]}
    return payload


def to_flat(point: Point) -> dict[str, Any]:
    """The metadata of `point` on Chroma; its text is the document."""
    kept = {key: value for key, value in point.metadata.items() if _fits_flat(key, value)}
    flat = {**kept, SOURCE_KEY: point.source, **_bookkeeping(point)}
    rest = {key: value for key, value in point.metadata.items() if key not in kept}
    if rest:
        flat[METADATA_KEY] = json.dumps(rest, ensure_ascii=False, allow_nan=False)
    return flat


def hit_from_nested(point_id: str, score: float, payload: Mapping[str, Any]) -> Hit:
    """A hit from a Qdrant or Edge payload, ours or somebody else's."""
    nested = payload.get(_NESTED_KEY)
    metadata = dict(nested) if isinstance(nested, Mapping) else {}
    source = payload.get(SOURCE_KEY, metadata.get(SOURCE_KEY))
    if POINT_KEY in payload:
        metadata.pop(SOURCE_KEY, None)
        metadata.update(payload.get(METADATA_KEY, {}))
    return Hit(point_id, score, _text(payload.get(_TEXT_KEY)), _text(source), metadata)


def hit_from_flat(point_id: str, score: float, document: str | None, flat: Mapping[str, Any] | None) -> Hit:
    """A hit from a Chroma record, ours or somebody else's."""
    given = flat or {}
    metadata = {key: value for key, value in given.items() if not key.startswith(RESERVED_PREFIX)}
    if POINT_KEY in given:
        metadata.pop(SOURCE_KEY, None)
        metadata.update(json.loads(given.get(METADATA_KEY, "{}")))
    return Hit(point_id, score, _text(document), _text(given.get(SOURCE_KEY)), metadata)


def head_from(payload: Mapping[str, Any]) -> Head:
    """The head in a payload of either layout."""
    return Head(
        source=payload[SOURCE_KEY],
        document_hash=payload[HASH_KEY],
        num_chunks=payload[CHUNKS_KEY],
        settings=payload[SETTINGS_KEY],
    )


def _bookkeeping(point: Point) -> dict[str, Any]:
    ours: dict[str, Any] = {POINT_KEY: 1}
    if point.head is not None:
        ours |= {
            HEAD_KEY: 1,
            HASH_KEY: point.head.document_hash,
            CHUNKS_KEY: point.head.num_chunks,
            SETTINGS_KEY: point.head.settings,
        }
    return ours


def _fits_flat(key: str, value: Any) -> bool:
    if key in ("", SOURCE_KEY) or key.startswith(("$", "#", "chroma:")):
        return False
    if isinstance(value, list):
        return len({type(item) for item in value}) == 1 and isinstance(value[0], (str, int, float))
    return isinstance(value, (str, int, float))  # bool is an int


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
