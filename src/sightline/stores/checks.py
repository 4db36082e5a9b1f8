"""What every store checks before it writes anything, so that all of them refuse alike."""

from __future__ import annotations

import copy
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sightline.errors import CollectionNotFound, ContractMismatch, DimensionError, StoreError, UsageError
from sightline.metadata import check_text, plain_metadata
from sightline.protocols import StoreCapabilities
from sightline.stores.room import disk_full, is_full
from sightline.types import FloatArray, Point, Shortlist, VectorLayout, VectorStorage

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_EXAMPLE_ID = "7d444840-9dc0-11d1-b245-5ffdce74fad2"


def checked_points(points: Sequence[Point], vectors: FloatArray, dimensions: int) -> tuple[list[Point], FloatArray]:
    """Return the points with plain JSON metadata and their vectors as float32 `(n, dimensions)`.

    Raises:
        UsageError: what a store could lose or garble: counts that differ, NaN, repeated ids, lone surrogates, odd metadata.
    """
    array = _finite_rows(vectors, dimensions, [f"point {point.id} of {point.source!r}" for point in points])
    return checked_updates(points), array


def checked_updates(points: Sequence[Point]) -> list[Point]:
    """Return the points with plain JSON metadata; raise UsageError as `checked_points` does."""
    plain = [_checked_point(point) for point in points]
    if len({point.id for point in plain}) != len(plain):
        ids = [point.id for point in plain]
        twice = next(one for one in ids if ids.count(one) > 1)
        raise UsageError(f"The id {twice} occurs more than once in one call; give each point once.")
    return plain


def checked_query(vector: FloatArray, layout: VectorLayout, shortlist: Shortlist | None = None, limit: int = 1) -> FloatArray:
    """Return a query vector as float32, as long as one of the layout's; a shortlist must suit it and the limit.

    Raises:
        UsageError: what can't be searched by; its kind DimensionError where a length is none of the layout's.
    """
    if np.ndim(vector) != 1:
        raise UsageError(f"A query is one vector of shape ({layout.dimensions},); got an array of shape {np.shape(vector)}.")
    length = len(vector) if len(vector) in layout.shorter else layout.dimensions
    row: FloatArray = _finite_rows(np.asarray(vector)[None, :], length, ["the query"])[0]
    if shortlist is not None:
        _check_shortlist(shortlist, row, layout, limit)
    return row


def _check_shortlist(shortlist: Shortlist, row: FloatArray, layout: VectorLayout, limit: int) -> None:
    if len(row) != layout.dimensions or shortlist.dimensions not in layout.shorter:
        others = ", ".join(map(str, layout.shorter)) or "none"
        raise DimensionError(
            f"A shortlist by {shortlist.dimensions} dimensions with a query of {len(row)} can't be made: the query has the main"
            f" {layout.dimensions} dimensions, and the collection's shorter ones are: {others}."
        )
    if shortlist.candidates < limit:
        raise UsageError(f"A shortlist of {shortlist.candidates} can't give {limit} hits; give more candidates than hits.")


def checked_ids(ids: Sequence[str]) -> list[str]:
    """Return `ids` as they are; raise UsageError on one that isn't a UUID in its usual spelling."""
    for one in ids:
        _check_id(one)
    return list(ids)


def only_uuids(ids: Sequence[str]) -> list[str]:
    """Those that can be ids of points at all, each once: a store that takes no others has no others."""
    return [one for one in dict.fromkeys(ids) if isinstance(one, str) and _UUID.fullmatch(one)]


def checked_limit(limit: int) -> int:
    """Return `limit`; raise UsageError below 1."""
    if isinstance(limit, bool) or not isinstance(limit, (int, np.integer)) or limit < 1:
        raise UsageError(f"limit={limit!r} is out of range: a search returns at least 1 hit.")
    return int(limit)


def checked_layout(layout: VectorLayout, capabilities: StoreCapabilities, url: str) -> VectorLayout:
    """Return how a new collection keeps its vectors.

    Raises:
        DimensionError: a length below 1, or shorter ones that aren't shorter or come twice.
        StoreError: the store can't keep vectors so.
    """
    lengths = [checked_dimensions(one) for one in layout.lengths]
    if sorted(set(lengths), reverse=True) != lengths:
        raise DimensionError(
            f"shorter={layout.shorter!r} is out of order: each is given once, the longest first, and all are shorter than"
            f" {layout.dimensions}."
        )
    check_capable(layout, capabilities, url)
    return layout


def check_capable(layout: VectorLayout, capabilities: StoreCapabilities, url: str) -> None:
    """Raise StoreError unless a store can keep vectors so."""
    if layout.shorter and not capabilities.several_dimensions:
        raise incapable(url, f"keeps one vector for each point, so {layout.shorter[0]} can't lie beside {layout.dimensions}")
    if layout.quantization is not None and not capabilities.quantization:
        raise incapable(url, f"can't quantise vectors ({layout.quantization})")
    if layout.storage != VectorStorage.FLOAT32 and not capabilities.float16:
        raise incapable(url, f"keeps vectors as float32 only, not as {layout.storage}")


def checked_dimensions(dimensions: int) -> int:
    """Return the length of vectors to be kept; raise DimensionError below 1."""
    if isinstance(dimensions, bool) or not isinstance(dimensions, (int, np.integer)) or dimensions < 1:
        raise DimensionError(f"dimensions={dimensions!r} is out of range: a collection's vectors have at least 1.")
    return int(dimensions)


def checked_addition(dimensions: int, layout: VectorLayout, capabilities: StoreCapabilities, url: str) -> VectorLayout:
    """Return the layout with one more shorter length, or as it is where that is there already; raises as `checked_layout`."""
    if dimensions in layout.shorter:
        return layout
    if checked_dimensions(dimensions) >= layout.dimensions:
        raise DimensionError(
            f"dimensions={dimensions} is out of range: what is added to {url} is cut from its {layout.dimensions} dimensions,"
            " so it must be shorter."
        )
    longer = replace(layout, shorter=tuple(sorted({*layout.shorter, dimensions}, reverse=True)))
    return checked_layout(longer, capabilities, url)


def checked_removal(dimensions: int, layout: VectorLayout, url: str) -> VectorLayout:
    """Return the layout without one of its shorter lengths; raise DimensionError where it isn't one."""
    if dimensions not in layout.shorter:
        others = ", ".join(map(str, layout.shorter)) or "none"
        raise DimensionError(f"{url} keeps no shorter vectors of {dimensions} dimensions; those that can go: {others}.")
    return replace(layout, shorter=tuple(one for one in layout.shorter if one != dimensions))


def contract_json(contract: Mapping[str, Any]) -> str:
    """The contract as JSON text; raise UsageError when it wouldn't come back as it is."""
    try:
        text = json.dumps(contract, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise UsageError(f"The contract is not JSON data: {error}.") from error
    if json.loads(text) != contract:
        raise UsageError("The contract would change on its way through JSON; use str keys, and lists instead of tuples.")
    return text


def stored_object(stored: Any, what: str, url: str) -> dict[str, Any]:
    """A copy of the JSON object, or of what its JSON text holds, that is kept with a collection.

    Raises:
        ContractMismatch: It is none: damaged, or changed by another program.
    """
    try:
        found = json.loads(stored) if isinstance(stored, str) else copy.deepcopy(stored)
    except ValueError as error:
        raise _damaged(url, what, str(error)) from error
    if not isinstance(found, Mapping):
        raise _damaged(url, what, f"it is {type(found).__name__}, no object")
    return dict(found)


def _damaged(url: str, what: str, why: str) -> ContractMismatch:
    return ContractMismatch(
        f"{url}: its {what} can't be read ({why}). It may be damaged: restore it, or index again into another collection: "
        "sightline index PATH --into OTHER_URL"
    )


def collection_not_found(url: str) -> CollectionNotFound:
    """The error of every operation on a collection that isn't there."""
    return CollectionNotFound(f"There is no collection at {url}. Make one with: sightline index PATH --into {shlex.quote(url)}")


def collection_exists(url: str) -> StoreError:
    """The error of making a collection that is there already."""
    return StoreError(f"There is a collection at {url} already; it can't be created again. Choose another name for a new one.")


def nothing_staged(url: str) -> StoreError:
    """The error of promoting a collection that nobody filled."""
    command = f"sightline index PATH --into {shlex.quote(url)} --rebuild"
    return StoreError(f"No collection was built beside {url}. Build one with: {command}")


def not_ours(url: str) -> StoreError:
    """The error of writing to a collection without a contract."""
    return StoreError(
        f"There is a collection at {url}, but Sightline didn't make it, so nothing says how its vectors were made. "
        f"Adopt it with: sightline adopt {shlex.quote(url)} --model MODEL, "
        "or index into another one: sightline index PATH --into OTHER_URL"
    )


def incapable(url: str, what: str) -> StoreError:
    """The error of asking a store for what it can't do."""
    return StoreError(f"{url} {what}. Stores that can: edge:DIR and a server, qdrant://HOST:PORT/COLLECTION.")


def store_closed(url: str) -> StoreError:
    """The error of every operation after `close()`."""
    return StoreError(f"The store {url} was closed; open it again with open_store({url!r}).")


def _finite_rows(vectors: FloatArray, dimensions: int, names: list[str]) -> FloatArray:
    given = np.asarray(vectors)
    if given.ndim != 2 or given.dtype.kind != "f":
        raise UsageError(f"Vectors are a float array (n, {dimensions}); got {given.dtype} of shape {given.shape}.")
    if given.shape[0] != len(names):
        raise UsageError(f"{len(names)} points came with {given.shape[0]} vectors; each point takes one.")
    if given.shape[1] != dimensions:
        raise DimensionError(f"The vectors have {given.shape[1]} dimensions; this collection takes {dimensions}.")
    with np.errstate(over="ignore"):  # what float32 can't hold turns infinite, and is refused as such
        array: FloatArray = np.ascontiguousarray(given, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if bad.size:
        raise UsageError(f"The vector of {names[bad[0]]} holds NaN or infinity; every number must be finite.")
    return array


def _checked_point(point: Point) -> Point:
    _check_id(point.id)
    check_text(point.source, point.source, "the source")
    check_text(point.text, point.source, "the text")
    if point.head is not None and point.head.source != point.source:
        raise UsageError(f"The head of {point.head.source!r} can't stand on a point of {point.source!r}.")
    return replace(point, metadata=plain_metadata(point.metadata, point.source))


def _check_id(one: str) -> None:
    if not isinstance(one, str) or not _UUID.fullmatch(one):
        raise UsageError(f"{one!r} is not a point id: ids are UUIDs in lower case with hyphens, e.g. {_EXAMPLE_ID}.")


def make_directory(directory: Path, url: str) -> None:
    """Make a store's directory where there is none; raise UsageError where that can't be."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if is_full(error):
            raise disk_full(url, directory) from error
        raise UsageError(f"The directory of {url} can't be made: {error}. Give a writable directory.") from error


def directory_bytes(directory: Path) -> int:
    """What the files of a directory take on disk; databases lay out files that are mostly holes."""
    files = (path.stat() for path in directory.rglob("*") if path.is_file())
    return sum(status.st_blocks * 512 if hasattr(status, "st_blocks") else status.st_size for status in files)
