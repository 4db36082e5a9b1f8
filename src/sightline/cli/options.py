"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click

from sightline.errors import UsageError
from sightline.types import Filter, Quantization, VectorStorage

_CONDITION = re.compile(r"(?P<key>.+?)(?P<operator>>=|<=|=|>|<)(?P<value>.*)", re.DOTALL)
_BOUNDS = {">=": "gte", ">": "gt", "<=": "lte", "<": "lt"}


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where and how a model runs."""
    device = click.option("--device", metavar="DEVICE", help="cuda, cuda:1, mps or cpu. Default: the best there is.")
    devices = click.option(
        "--devices",
        metavar="DEVICE,...",
        callback=lambda _context, _parameter, given: _names(given),
        help="Instead, several that share the work: cuda:0,cuda:1, all GPUs as cuda, NUMA nodes as cpu:0,cpu:1.",
    )
    dtype = click.option("--dtype", metavar="TYPE", help="bfloat16, float32 or int8. Default: what the device computes fast.")
    return device(devices(dtype(command)))


def _names(given: str | None) -> tuple[str, ...] | None:
    return None if given is None else tuple(name.strip() for name in given.split(",") if name.strip())


def layout_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Which vectors a new collection keeps."""
    lengths = click.option(
        "--dimensions",
        metavar="N,...",
        callback=lambda _context, _parameter, given: lengths_of(given),
        help="Length of the vectors, or several to keep: 1024,256. Default: the collection's own, or the model's.",
    )
    quantization = click.option(
        "--quantization",
        type=click.Choice(list(map(str, Quantization))),
        help="What a new collection's vectors are compressed to besides, for less memory.",
    )
    storage = click.option(
        "--storage", type=click.Choice(list(map(str, VectorStorage))), help="Number format of a new collection's vectors."
    )
    return lengths(quantization(storage(command)))


def lengths_of(given: str | None) -> tuple[int, ...] | None:
    """Lengths of a text like 1024,256."""
    if given is None:
        return None
    try:
        return tuple(int(one) for one in given.split(","))
    except ValueError as error:
        raise UsageError(f"--dimensions {given!r} isn't a length or several, e.g. 256 or 1024,256.") from error


def json_option(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--json`, for programs."""
    return click.option("--json", "as_json", is_flag=True, help=f"Print {what} as JSON.")


def pairs(given: Iterable[str], form: str) -> dict[str, str]:
    """Texts NAME=VALUE as a mapping; a name that comes twice is an error."""
    found: dict[str, str] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or not name or not value:
            raise UsageError(f"{one!r} isn't of the form {form}.")
        if name in found:
            raise UsageError(f"{name!r} is given twice ({found[name]!r} and {value!r}); give each name once.")
        found[name] = value
    return found


def parse_filters(given: Iterable[str]) -> Filter:
    """Conditions KEY=VALUE, KEY>=NUMBER and so on as one filter; the same KEY= again is another allowed value."""
    values: dict[str, list[Any]] = {}
    bounds: dict[str, dict[str, Any]] = {}
    for one in given:
        match = _CONDITION.fullmatch(one)
        if match is None:
            raise UsageError(f"The filter {one!r} isn't of the form KEY=VALUE (or KEY>=NUMBER, KEY<NUMBER, ...).")
        key, operator, value = match["key"].strip(), match["operator"], match["value"].strip()
        if operator == "=":
            values.setdefault(key, []).extend(_readings(value))
        else:
            bounds.setdefault(key, {})[_BOUNDS[operator]] = _number(one, value)
    both = values.keys() & bounds.keys()
    if both:
        raise UsageError(f"The filters on {sorted(both)[0]!r} are values and bounds at once; give one kind for each key.")
    return {**values, **bounds}


def _readings(value: str) -> list[Any]:
    """What a text may mean: on the command line 3 is the number or the text, "3" with quotes the text only."""
    try:
        read = json.loads(value)
    except ValueError:
        return [value]
    if isinstance(read, list):
        return read
    return [read] if isinstance(read, str) else [read, value]


def _number(condition: str, value: str) -> float | int:
    try:
        read = json.loads(value)
    except ValueError:
        read = None
    if isinstance(read, bool) or not isinstance(read, (int, float)):
        raise UsageError(f"The filter {condition!r} compares with {value!r}, which is no number.")
    return read


def counted(number: int, what: str) -> str:
    """1 document, 2 documents, 1,000 documents."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def amount(size: float) -> str:
    """Bytes for people: 12 kB, 3.4 MB, 5.6 GB, 7.8 TB."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size / 1e3:,.0f} kB"


def rows_of(rows: Sequence[tuple[str, str]]) -> str:
    """Labels and values in two columns."""
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"{label:<{width}}  {value}".rstrip() for label, value in rows)
