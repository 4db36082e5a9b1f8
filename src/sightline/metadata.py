"""What metadata may hold: JSON data that every store gives back as it was, found out before anything is embedded."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from sightline.errors import UsageError
from sightline.types import Metadata, Point

RESERVED_PREFIX = "sightline_"
# The root of rows that were added one by one. No run may have it, so none ever takes a row for one of its documents.
ROW_ROOT = "sightline:rows"
ROW_PREFIX = f"{ROW_ROOT}/"
_SHOWN, _LONG_BITS = 200, 1_000
_INT64 = range(-(2**63), 2**63)
_ALLOWED = "str, int (64 bits), finite float, bool, None, and lists and dicts (with str keys) of them"


def plain_metadata(metadata: Metadata, source: str) -> dict[str, Any]:
    """A copy in plain JSON types (tuples become lists).

    Raises:
        UsageError: a key that Sightline keeps for itself, or a value that a store would lose or change.
    """
    for key in metadata:
        if isinstance(key, str) and key.startswith(RESERVED_PREFIX):
            raise UsageError(
                f"Metadata key {key!r} of {source!r} begins with {RESERVED_PREFIX!r}, which Sightline keeps for itself;"
                " rename the key."
            )
    plain: dict[str, Any] = _plain(dict(metadata), source, "metadata")
    return plain


def visible_source(source: str, metadata: Metadata) -> str:
    """What people and filters know a point by: its document, or what a row that was added says of itself."""
    own = metadata.get("source")
    return own if source.startswith(ROW_PREFIX) and isinstance(own, str) else source


def shown_metadata(source: str, metadata: Metadata) -> dict[str, Any]:
    """Metadata as frameworks show it: a row's as it was given; a chunk's with its document under `source`, as filters see it.

    A `source` of the document's own is `document_source` then.
    """
    if not source or source.startswith(ROW_PREFIX):
        return dict(metadata)
    own = metadata.get("source", source)
    return {**metadata, "source": source, **({} if own == source else {"document_source": own})}


def known_id(point_id: str, source: str) -> str:
    """What a reader knows a point by: a row has its caller's id, any other the point's."""
    return source.removeprefix(ROW_PREFIX) if source.startswith(ROW_PREFIX) else point_id


def payload_bytes(point: Point) -> int:
    """Bytes of what a point keeps beside its vector: text, source, and metadata as JSON."""
    metadata = json.dumps(dict(point.metadata), ensure_ascii=False, default=str)
    return len(point.text.encode()) + len(point.source.encode()) + len(metadata.encode())


def check_text(text: str, source: str, what: str) -> str:
    """Return `text`; raise UsageError when it is no str or holds half a character."""
    if not isinstance(text, str):
        raise UsageError(f"{what} of {source!r} is a {type(text).__name__}; it must be a str.")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"{what} of {source!r} holds the lone surrogate {text[error.start]!r} at character {error.start}, which is no"
                " valid Unicode; decode the file again, with errors='replace' if need be."
            ) from error
    return str(text)


def _plain(value: Any, source: str, path: str) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return check_text(value, source, path)
    if isinstance(value, int) and int(value) in _INT64:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item, source, f"{path}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {check_text(key, source, path): _plain(item, source, f"{path}[{key!r}]") for key, item in value.items()}
    raise UsageError(f"{path} of {source!r} is {_shown(value)} ({type(value).__name__}); a store keeps {_ALLOWED}.")


def _shown(value: Any) -> str:
    """A value in a message; Python writes no integer of thousands of digits."""
    text = hex(value) if isinstance(value, int) and value.bit_length() > _LONG_BITS else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
