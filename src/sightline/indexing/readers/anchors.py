"""Anchors kept small: a file of a million lines has as many places, and as dictionaries they would take 300 MB."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, overload

Anchor = tuple[int, Mapping[str, Any]]
_INT64 = range(-(2**63), 2**63)


class PackedAnchors(Sequence[Anchor]):
    """Pairs of a start and a place, in order; of two with the same start, the later one counts.

    Places that differ in one integer only, and otherwise hold nothing but the same texts, make a run: 16 bytes for each.
    """

    def __init__(self, anchors: Iterable[Anchor] = ()) -> None:
        self._starts, self._numbers = array("q"), array("q")
        # Of each run: its first anchor, what its places share, and the key of their number ("" where all of it is shared).
        self._firsts: list[int] = []
        self._runs: list[tuple[Mapping[str, Any], str]] = []
        for start, place in anchors:
            self.append(start, place)

    @classmethod
    def numbered(cls, key: str, starts: array[int], numbers: array[int]) -> PackedAnchors:
        """Places that are a number each."""
        return cls.unpacked([[0, {}, key]] if starts else [], starts.tobytes(), numbers.tobytes())

    @classmethod
    def unpacked(cls, runs: Iterable[Sequence[Any]], starts: bytes, numbers: bytes) -> PackedAnchors:
        """What `packed` told."""
        made = cls()
        made._starts.frombytes(starts)
        made._numbers.frombytes(numbers)
        for first, shared, key in runs:
            made._firsts.append(first)
            made._runs.append((shared, key))
        return made

    def packed(self) -> tuple[list[list[Any]], bytes, bytes]:
        """All of it as JSON data, and two rows of int64."""
        runs = [[first, dict(shared), key] for first, (shared, key) in zip(self._firsts, self._runs, strict=True)]
        return runs, self._starts.tobytes(), self._numbers.tobytes()

    def append(self, start: int, place: Mapping[str, Any]) -> None:
        """From this character on, the text is from this place."""
        if self._starts and self._starts[-1] == start:
            self._drop_last()
        shared, key, number = _split(place)
        if not key or not self._runs or self._runs[-1] != (shared, key):
            self._firsts.append(len(self._starts))
            self._runs.append((shared, key))
        self._starts.append(start)
        self._numbers.append(number)

    @property
    def is_in_order(self) -> bool:
        """Whether the starts are."""
        return all(before <= after for before, after in pairwise(self._starts))

    def _drop_last(self) -> None:
        self._starts.pop()
        self._numbers.pop()
        if self._firsts[-1] == len(self._starts):
            self._firsts.pop()
            self._runs.pop()

    def _place(self, run: int, at: int) -> Mapping[str, Any]:
        shared, key = self._runs[run]
        return {**shared, key: self._numbers[at]} if key else shared

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, at: int) -> Anchor: ...

    @overload
    def __getitem__(self, at: slice) -> tuple[Anchor, ...]: ...

    def __getitem__(self, at: int | slice) -> Anchor | tuple[Anchor, ...]:
        if isinstance(at, slice):
            return tuple(self[one] for one in range(*at.indices(len(self))))
        start = self._starts[at]  # raises IndexError
        at %= len(self)
        return start, self._place(bisect_right(self._firsts, at) - 1, at)

    def __iter__(self) -> Iterator[Anchor]:
        for run, (first, end) in enumerate(pairwise([*self._firsts, len(self)])):
            for at in range(first, end):
                yield self._starts[at], self._place(run, at)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, (str, bytes)):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    def __repr__(self) -> str:
        more = ", ..." if len(self) > 3 else ""
        return f"<{len(self):,} anchors: {', '.join(map(repr, self[:3]))}{more}>"


def _split(place: Mapping[str, Any]) -> tuple[Mapping[str, Any], str, int]:
    """What a place may share with its neighbours, the key of its number, and that."""
    numbers = [key for key, value in place.items() if type(value) is int and value in _INT64]
    if len(numbers) == 1 and numbers[0]:
        shared = {key: value for key, value in place.items() if key != numbers[0]}
        if all(type(value) is str for value in shared.values()):
            return shared, numbers[0], place[numbers[0]]
    return dict(place), "", 0
