"""Metadata filters in Qdrant's own words, as plain data: what is surely not wanted is left out by the database.

A Qdrant filter can't say all that ours means: it can't name a key that holds a quote, it looks into lists of several kinds, and
it compares large whole numbers as floats. So it lets through a little more than it should, never less, and whoever searches
asks `filters.matches` about each hit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sightline.stores.filters import SOURCE_KEY, AnyOf, Condition, Value, is_exact
from sightline.stores.payload import NESTED_KEY

# Inside a quoted key there is no way to write these.
_UNQUOTABLE = ('"', "\\")


def native_filter(conditions: Sequence[Condition], *, flat_too: bool) -> dict[str, Any]:
    """The conditions as the fields of a Qdrant filter; `flat_too` looks for metadata at the payload's top level as well."""
    must = [_one(condition, _paths(condition.key, flat_too)) for condition in conditions if _is_sayable(condition.key)]
    return {"must": must} if must else {}


def _is_sayable(key: str) -> bool:
    return not any(character in key for character in _UNQUOTABLE)


def _paths(key: str, flat_too: bool) -> list[str]:
    nested = f'{NESTED_KEY}."{key}"'
    if key == SOURCE_KEY:
        return [SOURCE_KEY, nested] if flat_too else [SOURCE_KEY]
    return [nested, f'"{key}"'] if flat_too else [nested]


def _one(condition: Condition, paths: Sequence[str]) -> dict[str, Any]:
    if isinstance(condition, AnyOf):
        return {"should": [same for path in paths for same in _same(path, condition.values)]}
    bounds = {name: float(bound) for name, bound in condition.bounds().items()}
    return {"should": [_scalar_within(path, bounds) for path in paths]}


def _scalar_within(path: str, bounds: dict[str, float]) -> dict[str, Any]:
    """Qdrant looks into lists, our bounds don't: an item within the bounds rules its list out."""
    return {"must": [{"key": path, "range": bounds}], "must_not": [{"key": f"{path}[]", "range": bounds}]}


def _same(path: str, values: Sequence[Value]) -> list[dict[str, Any]]:
    texts = [value for value in values if isinstance(value, str)]
    same: list[dict[str, Any]] = [{"key": path, "match": {"any": texts}}] if texts else []
    for value in values:
        if isinstance(value, bool):
            same.append({"key": path, "match": {"value": value}})
        elif not isinstance(value, str):
            # A range and not a match, which would tell 3 from 3.0.
            same.append({"key": path, "range": dict(zip(("gte", "lte"), _around(value), strict=True))})
    return same


def _around(value: float) -> tuple[float, float]:
    """The number itself, or the floats on both sides of one that no float equals."""
    near = float(value)
    return (near, near) if is_exact(value) else (math.nextafter(near, -math.inf), math.nextafter(near, math.inf))
