"""How a caller says which vectors a collection shall keep and which a search goes by, and whether that fits the collection."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from enum import StrEnum
from numbers import Integral
from typing import TypeAlias, TypeVar

from sightline.contract import Contract
from sightline.errors import ContractMismatch, DimensionError, UsageError
from sightline.types import Quantization, Shortlist, VectorLayout, VectorStorage

Lengths: TypeAlias = int | Sequence[int] | None
_SHORTLIST = re.compile(r"\s*(\d+)\s*:\s*(\d+)\s*")
_CANT_ADD = "This store keeps one vector for each point; copy the collection to one that keeps several: sightline copy --help"
_Kind = TypeVar("_Kind", bound=StrEnum)


def check_stored(contract: Contract, layout: VectorLayout, url: str) -> None:
    """Raise ContractMismatch where a collection's vectors have another length than its contract says."""
    if layout.dimensions != contract.vectors.dimensions:
        raise ContractMismatch(
            f"dimensions: the vectors of {url} have {layout.dimensions}, its contract says {contract.vectors.dimensions}. One of "
            "them was changed by another program: restore it, or index again into another collection: "
            "sightline index PATH --into OTHER_URL"
        )


def read_lengths(given: Lengths) -> tuple[int | None, tuple[int, ...]]:
    """The main length, None for the embedder's own, and the shorter ones, longest first: the longest one given is the main one.

    Raises:
        DimensionError: None is given at all, one comes twice or isn't a positive whole number.
    """
    if given is None:
        return None, ()
    lengths = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    wrong = [one for one in lengths if isinstance(one, bool) or not isinstance(one, Integral) or one < 1]
    if wrong or not lengths or len(set(lengths)) != len(lengths):
        raise DimensionError(f"dimensions={given!r} names no lengths: give one, or several that differ, e.g. [1024, 256].")
    main, *shorter = sorted(map(int, lengths), reverse=True)
    return main, tuple(shorter)


def read_shortlist(given: Shortlist | str | None) -> Shortlist | None:
    """A shortlist as a value or as a text DIMENSIONS:CANDIDATES, e.g. "256:200".

    Raises:
        UsageError: A text of another form.
    """
    if given is None or isinstance(given, Shortlist):
        return given
    found = _SHORTLIST.fullmatch(given) if isinstance(given, str) else None
    if found is None or not int(found[1]) or not int(found[2]):
        raise UsageError(f"shortlist={given!r} isn't of the form DIMENSIONS:CANDIDATES, e.g. 256:200.")
    return Shortlist(int(found[1]), int(found[2]))


def read_quantization(given: Quantization | str | None) -> Quantization | None:
    """A quantisation by its name; raises UsageError for an unknown one."""
    return None if given is None else _named(Quantization, given, "quantization")


def read_storage(given: VectorStorage | str | None) -> VectorStorage:
    """A number format by its name, float32 for None; raises UsageError for an unknown one."""
    return VectorStorage.FLOAT32 if given is None else _named(VectorStorage, given, "storage")


def check_lengths(contract: Contract, given: Lengths, url: str, *, can_add: bool) -> None:
    """Raise ContractMismatch where shorter lengths are asked for that the collection's points lack."""
    _, shorter = read_lengths(given)
    lacking = [one for one in shorter if one not in contract.vectors.shorter]
    if lacking:
        hint = (
            "Add them from what is stored, which embeds nothing: sightline dimensions add "
            f"{lacking[0]} --in {shlex.quote(url)}" if can_add else _CANT_ADD
        )  # fmt: skip
        raise ContractMismatch(
            f"{url} has vectors of {', '.join(map(str, contract.vectors.lengths))} dimensions, and none of {lacking[0]}. {hint}"
        )


def check_settings(
    layout: VectorLayout, quantization: Quantization | str | None, storage: VectorStorage | str | None, url: str
) -> None:
    """Raise UsageError where another quantisation or number format is asked for than an existing collection has."""
    wanted: list[tuple[str, StrEnum | None, StrEnum | None]] = []
    if quantization is not None:
        wanted.append(("quantization", read_quantization(quantization), layout.quantization))
    if storage is not None:
        wanted.append(("storage", read_storage(storage), layout.storage))
    for name, asked, has in wanted:
        if asked != has:
            raise UsageError(
                f"{url} was made with {name} {has or 'none'}, not {asked}, and keeps it. Leave --{name} out, or make the "
                f"collection anew: sightline index PATH --into {shlex.quote(url)} --{name} {asked} --rebuild"
            )


def check_reading(
    lengths: Sequence[int], dimensions: int | None, shortlist: Shortlist | None, url: str, *, can_add: bool
) -> None:
    """Raise DimensionError unless a search asks for one of the lengths that all points have, the main one first."""
    if dimensions is not None and shortlist is not None:
        raise UsageError(
            f"dimensions={dimensions} and a shortlist by {shortlist.dimensions} exclude each other: a search goes by short"
            " vectors alone, or rescores what they find."
        )
    asked = dimensions if shortlist is None else shortlist.dimensions
    if asked is None or asked in (lengths if shortlist is None else lengths[1:]):
        return
    hint = ""
    if 0 < asked < lengths[0]:
        hint = f" Add it with: sightline dimensions add {asked} --in {shlex.quote(url)}" if can_add else f" {_CANT_ADD}"
    what = "searched" if shortlist is None else "shortlisted"
    raise DimensionError(f"{url} can't be {what} by {asked} dimensions; its points have {', '.join(map(str, lengths))}.{hint}")


def _named(kinds: type[_Kind], given: str, what: str) -> _Kind:
    try:
        return kinds(given)
    except ValueError as error:
        raise UsageError(f"{what}={given!r} is unknown. Known: {', '.join(kinds)}.") from error
