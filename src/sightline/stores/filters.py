"""Metadata filters: what a caller writes, as conditions that every store answers alike.

    {"lang": "de"}                     the value is "de", or a list that holds it
    {"lang": ["de", "fr"]}             one of these
    {"year": {"gte": 2020, "lt": 2024}}  a number within bounds; lists are not looked into
    {"source": "handbook/lamp.md"}     the document; for a row that was added, the source that its metadata names

All keys must hold. 3 and 3.0 are the same number, True is not 1, and "3" is neither. None, dicts and lists of several kinds
are not for filtering. `matches` is the meaning; the stores' own filters are held equal to it by the conformance suite.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from sightline.errors import UsageError
from sightline.metadata import visible_source
from sightline.types import Filter, Metadata

SOURCE_KEY = "source"
# Databases compare numbers as 64-bit floats, which hold every whole number up to here.
_EXACT = 2**53
_FORMS = 'a text, number or bool, a list of them, or bounds such as {"gte": 2020, "lt": 2024}'

Value: TypeAlias = str | int | float | bool


@dataclass(frozen=True, slots=True)
class AnyOf:
    """The value under `key`, or an item of the list there, is one of `values`."""

    key: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Within:
    """The number under `key` is within the bounds that are given."""

    key: str
    gte: float | None = None
    gt: float | None = None
    lte: float | None = None
    lt: float | None = None

    def bounds(self) -> dict[str, float]:
        """The given bounds by their names."""
        named = {name: getattr(self, name) for name in _BOUNDS}
        return {name: bound for name, bound in named.items() if bound is not None}


Condition: TypeAlias = AnyOf | Within
_BOUNDS = tuple(field.name for field in fields(Within) if field.name != "key")


def parse_filter(given: Filter | None) -> list[Condition]:
    """The conditions of a filter; none for None or an empty one.

    Raises:
        UsageError: a key or value that no store could compare.
    """
    if given is None:
        return []
    if not isinstance(given, Mapping):
        raise UsageError(f"A filter is a mapping of metadata keys, e.g. {{'lang': 'de'}}; got {given!r}.")
    return [_condition(key, value) for key, value in given.items()]


def matches(conditions: Sequence[Condition], source: str, metadata: Metadata) -> bool:
    """Whether a point with this source and metadata meets all conditions."""
    return all(
        _meets(one, visible_source(source, metadata) if one.key == SOURCE_KEY else metadata.get(one.key)) for one in conditions
    )


def is_exact(value: float) -> bool:
    """Whether a number is compared rightly as a 64-bit float."""
    return abs(value) <= _EXACT


def _condition(key: Any, value: Any) -> Condition:
    if not isinstance(key, str):
        raise UsageError(f"A filter's keys are metadata keys; got {key!r}.")
    if isinstance(value, Mapping):
        return _within(key, value)
    values = tuple(value) if isinstance(value, (list, tuple, set, frozenset)) else (value,)
    if not values:
        raise UsageError(f"The filter on {key!r} lists no value, so nothing could match. Give {_FORMS}.")
    return AnyOf(key, tuple(_value(key, one) for one in values))


def _within(key: str, bounds: Mapping[Any, Any]) -> Within:
    unknown = [name for name in bounds if name not in _BOUNDS]
    if unknown or not bounds:
        found = f"the unknown bound {unknown[0]!r}" if unknown else "no bound"
        raise UsageError(f"The filter on {key!r} has {found}; known are {', '.join(_BOUNDS)}.")
    for name, bound in bounds.items():
        if isinstance(bound, bool) or not isinstance(bound, (int, float)) or not math.isfinite(bound) or not is_exact(bound):
            raise UsageError(f"The bound {name}={bound!r} of the filter on {key!r} must be a number of at most 2**53.")
    return Within(key, **bounds)


def _value(key: str, value: Any) -> Value:
    if isinstance(value, (str, bool)) or (isinstance(value, int) and -(2**63) <= value < 2**63):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise UsageError(f"The filter on {key!r} has the value {value!r}; a filter's value is {_FORMS}.")


def _meets(condition: Condition, value: Any) -> bool:
    if isinstance(condition, Within):
        return _is_number(value) and all(_compare(name, value, bound) for name, bound in condition.bounds().items())
    items = value if isinstance(value, list) else [value]
    if len({type(item) for item in items}) > 1:
        return False
    return any(_same(item, wanted) for item in items for wanted in condition.values)


def _compare(name: str, value: float, bound: float) -> bool:
    return {"gte": value >= bound, "gt": value > bound, "lte": value <= bound, "lt": value < bound}[name]


def _same(item: Any, wanted: Value) -> bool:
    if _is_number(item) and _is_number(wanted):
        return bool(item == wanted)
    return type(item) is type(wanted) and bool(item == wanted)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
