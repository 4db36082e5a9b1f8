"""Metadata filters in Chroma's words. Its ways, measured on 1.5.9:

`$in` takes values of one type and finds scalars only, 3 and 3.0 alike; `$contains` finds items of a list and tells 3 from 3.0.
Where an integer is stored, 3.5 is cut to 3 and -3.5 to -3 before they are compared, so that a fraction takes a second clause.
An expression takes one operator; `$or` and `$and` take two conditions or more. A long flat `$or` is too deep for SQLite beyond
about 1,000 and ends the process at 10,000, so it is written as a tree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sightline.errors import UsageError
from sightline.metadata import RESERVED_PREFIX
from sightline.stores.filters import SOURCE_KEY, AnyOf, Condition, Value, Within, is_exact

# Every value of a list is looked for by itself, which takes about 1 ms.
MAX_VALUES = 1000
# Such keys can't stand in Chroma's metadata; what has them is kept as JSON text, which Chroma can't look into.
_KEPT_AS_TEXT = ("$", "#", "chroma:")


class Nothing(Exception):
    """No stored point can meet the conditions."""


def where(conditions: Sequence[Condition], key: str | None = None) -> dict[str, Any] | None:
    """The conditions as Chroma's `where`, and `key` that every point must have as 1; None for no condition at all.

    Raises:
        Nothing: no point can meet them.
        UsageError: Chroma can't answer one of them.
    """
    clauses: list[dict[str, Any]] = [] if key is None else [{key: 1}]
    for condition in conditions:
        clauses += _clauses(condition)
    return both(clauses) if clauses else None


def both(clauses: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All of one clause or more."""
    return clauses[0] if len(clauses) == 1 else {"$and": list(clauses)}


def _clauses(condition: Condition) -> list[dict[str, Any]]:
    key = condition.key
    if key.startswith(RESERVED_PREFIX):
        raise Nothing  # ours are no metadata, though Chroma would find them
    if not key or key.startswith(_KEPT_AS_TEXT):
        raise UsageError(
            f"Chroma can't filter on the metadata key {key!r}: a key there is not empty and begins with none of"
            f" {', '.join(_KEPT_AS_TEXT)}. Rename it in the documents and index them again."
        )
    if isinstance(condition, Within):
        if key == SOURCE_KEY:
            raise Nothing  # a source is a text
        return [_bound(key, name, bound) for name, bound in condition.bounds().items()]
    return [_any_of(condition)]


def _any_of(condition: AnyOf) -> dict[str, Any]:
    key, values = condition.key, list(dict.fromkeys((type(value), value) for value in condition.values))
    if len(values) > MAX_VALUES:
        raise UsageError(f"The filter on {key!r} lists {len(values):,} values; on Chroma it takes at most {MAX_VALUES:,}.")
    if key == SOURCE_KEY:
        texts = [value for _, value in values if isinstance(value, str)]
        if not texts:
            raise Nothing
        return {key: {"$in": texts}}
    whole = [(kind, value) for kind, value in values if not _is_fraction(value)]
    kinds = list(dict.fromkeys(kind for kind, _ in whole))
    scalars = [{key: {"$in": [value for one, value in whole if one is kind]}} for kind in kinds]
    fractions = [both([_bound(key, "gte", value), _bound(key, "lte", value)]) for _, value in values if _is_fraction(value)]
    items = [{key: {"$contains": twin}} for _, value in values for twin in _twins(value)]
    return _either([*scalars, *fractions, *items])


def _bound(key: str, name: str, bound: Any) -> dict[str, Any]:
    clause = {key: {f"${name}": bound}}
    if not _is_fraction(bound):
        return clause
    cut = max(-(2**63), min(2**63 - 1, math.trunc(bound)))  # what Chroma compares integers with
    is_within = cut > bound if name in ("gt", "gte") else cut < bound
    if is_within and name in ("gt", "lt"):
        return {"$or": [clause, {key: cut}]}
    if not is_within and name in ("gte", "lte"):
        return {"$and": [clause, {key: {"$ne": cut}}]}
    return clause


def _is_fraction(value: Value) -> bool:
    """Whether no 64-bit integer is equal to the number."""
    return isinstance(value, float) and not (value.is_integer() and -(2**63) <= value < 2**63)


def _twins(value: Value) -> list[Value]:
    """The value and, of a number, the one of the other type that is equal."""
    if isinstance(value, (str, bool)) or _is_fraction(value):
        return [value]
    if isinstance(value, int):
        return [value, float(value)] if is_exact(value) else [value]
    return [value, int(value)]


def _either(clauses: list[dict[str, Any]]) -> dict[str, Any]:
    """One of the clauses, as a balanced tree."""
    if len(clauses) == 1:
        return clauses[0]
    middle = len(clauses) // 2
    return {"$or": [_either(clauses[:middle]), _either(clauses[middle:])]}
