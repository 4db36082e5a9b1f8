"""Metadata filters in Edge's own objects.

Qdrant's words (`qdrant_filters`), but for bools: Edge takes True for the integer 1 and finds nothing. So every point carries
`sightline_flags`, a list of texts such as `draft=true`, and bools are looked for there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sightline.stores.edge_engine import engine
from sightline.stores.filters import Condition
from sightline.stores.payload import NESTED_KEY
from sightline.stores.qdrant_filters import native_filter
from sightline.types import Point

FLAGS_KEY = "sightline_flags"


def flags_of(point: Point) -> dict[str, list[str]]:
    """The payload's flags: the bools of the metadata, those in lists too; nothing where there are none."""
    flags = [
        _flag(key, item)
        for key, value in point.metadata.items()
        for item in (value if isinstance(value, list) else [value])
        if isinstance(item, bool)
    ]
    return {FLAGS_KEY: sorted(set(flags))} if flags else {}


def engine_filter(conditions: Sequence[Condition]) -> engine.Filter | None:
    """The conditions as an Edge filter, which lets through a little more than it should; None for none."""
    data = native_filter(conditions, flat_too=False)
    return _filter(data) if data else None


def equals(same: Mapping[str, Any]) -> engine.Filter:
    """Points that have all these values; a list is any of its items."""
    matches = {
        key: engine.MatchAny(value) if isinstance(value, list) else engine.MatchValue(value) for key, value in same.items()
    }
    return engine.Filter(must=[engine.FieldCondition(key, match=match) for key, match in matches.items()])


def _filter(data: Mapping[str, Any]) -> engine.Filter:
    must, should, must_not = ([_condition(one) for one in data.get(part, ())] for part in ("must", "should", "must_not"))
    return engine.Filter(must=must, should=should, must_not=must_not)


def _condition(data: Mapping[str, Any]) -> Any:
    if "key" not in data:
        return _filter(data)
    key = data["key"]
    if "range" in data:
        return engine.FieldCondition(key, range=engine.RangeFloat(**data["range"]))
    match = data["match"]
    if "any" in match:
        return engine.FieldCondition(key, match=engine.MatchAny(match["any"]))
    if isinstance(match["value"], bool):
        return engine.FieldCondition(FLAGS_KEY, match=engine.MatchValue(_flag(_metadata_key(key), match["value"])))
    return engine.FieldCondition(key, match=engine.MatchValue(match["value"]))


def _metadata_key(path: str) -> str:
    return path.removeprefix(f'{NESTED_KEY}."').removesuffix('"')


def _flag(key: str, value: bool) -> str:
    return f"{key}={str(value).lower()}"
