"""LlamaIndex's metadata filters in Sightline's terms: conditions that must all hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from llama_index.vector_stores.sightline.nodes import DOCUMENT_KEY
from sightline.errors import UsageError

_BOUNDS = {FilterOperator.GT: "gt", FilterOperator.GTE: "gte", FilterOperator.LT: "lt", FilterOperator.LTE: "lte"}
_KNOWN = "A collection knows ==, in, >, >=, < and <=, all of which must hold (condition='and')."


def to_filter(filters: MetadataFilters | None, doc_ids: Sequence[str] | None = None) -> dict[str, Any]:
    """One filter of Sightline; empty where there is no condition.

    Raises:
        UsageError: A condition that a collection doesn't know, or two on one key that can't both be asked.
    """
    found: dict[str, Any] = {}
    for one in _flat(filters):
        _add(found, one.key, _condition(one))
    if doc_ids is not None:
        _add(found, DOCUMENT_KEY, list(doc_ids))
    return found


def _flat(filters: MetadataFilters | None) -> Iterator[MetadataFilter]:
    if filters is None:
        return
    if filters.condition not in (None, FilterCondition.AND):
        raise UsageError(f"The filters are combined by {filters.condition.value!r}. {_KNOWN} For one of several values: 'in'.")
    for one in filters.filters:
        if isinstance(one, MetadataFilters):
            yield from _flat(one)
        else:
            yield one


def _condition(one: MetadataFilter) -> Any:
    if one.operator in _BOUNDS:
        return {_BOUNDS[one.operator]: one.value}
    is_list = isinstance(one.value, list)
    if (one.operator is FilterOperator.EQ and not is_list) or (one.operator is FilterOperator.IN and is_list):
        return one.value
    if one.operator in (FilterOperator.EQ, FilterOperator.IN):
        wanted = "a list" if one.operator is FilterOperator.IN else "one value; for one of several, say 'in'"
        raise UsageError(f"The filter on {one.key!r} has the value {one.value!r}, but {one.operator.value!r} takes {wanted}.")
    raise UsageError(f"The filter on {one.key!r} has the operator {one.operator.value!r}. {_KNOWN}")


def _add(found: dict[str, Any], key: str, condition: Any) -> None:
    before = found.setdefault(key, condition)
    if before == condition:
        return
    if not (isinstance(before, dict) and isinstance(condition, dict)) or before.keys() & condition.keys():
        raise UsageError(f"Two conditions are on {key!r}: {before!r} and {condition!r}. A key takes one, or two bounds.")
    found[key] = {**before, **condition}
