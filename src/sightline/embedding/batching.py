"""tokens -> packed batches: which texts share one pass. Pure arithmetic on token counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

# Deterministic packs: a text of at most this many tokens -> rows of its pack. A text's class depends on its own length only,
# so its matrix products always have the same number of rows, and with them the same bits. A short text doesn't pay for 2,048.
_SIZE_CLASSES = ((64, 256), (512, 2048))
_LARGE = 2048
_FILLER_TEXT = 64


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """How batches are filled.

    Args:
        max_batch_tokens: Token budget of one pass; a single longer text goes alone.
        packs: Sequences lie back to back; False pads them to the longest.
        deterministic: A text's vector may not depend on what it is batched with.
        evens_out: Smaller passes cost no more for each token (a CPU), so batches may be smaller for streams to end together.
    """

    max_batch_tokens: int
    packs: bool = True
    deterministic: bool = False
    evens_out: bool = False

    def size_class(self, length: int) -> int:
        """Rows of the deterministic pack that a text of `length` tokens belongs to."""
        for longest, rows in _SIZE_CLASSES:
            if length <= longest:
                return rows
        return -(-length // _LARGE) * _LARGE

    def shortest_of(self, rows: int) -> int:
        """Tokens of the shortest text that belongs to the deterministic pack of so many rows."""
        shortest = 1
        for longest, fewer in _SIZE_CLASSES:
            if rows > fewer:
                shortest = longest + 1
        return shortest if rows <= _LARGE else rows - _LARGE + 1

    def size(self, lengths: Sequence[int]) -> int:
        """Tokens of a pass of these texts, with what they are padded or filled up to."""
        if self.packs:
            return sum(lengths) + self.filler(lengths)
        return max(lengths) * len(lengths)

    def filler(self, lengths: Sequence[int]) -> int:
        """Tokens to add behind the texts of a batch so that a deterministic pack has its fixed number of rows."""
        return self.size_class(lengths[0]) - sum(lengths) if self.deterministic and self.packs else 0


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Token ids back to back, int64 `(tokens,)`, and how many belong to each text; `filler` more follow the last text.

    `prompt_lengths` says how many of each text's tokens are its prompt's; empty where nobody looks.
    """

    ids: npt.NDArray[np.int64]
    lengths: list[int]
    filler: int = 0
    prompt_lengths: list[int] = field(default_factory=list)

    def filled(self, pad_id: int) -> tuple[npt.NDArray[np.int64], list[int]]:
        """Ids and lengths with the filler, which is short texts of its own: cheap to attend, and out of everybody's sight."""
        if not self.filler:
            return self.ids, self.lengths
        pieces = [min(_FILLER_TEXT, self.filler - start) for start in range(0, self.filler, _FILLER_TEXT)]
        return np.concatenate([self.ids, np.full(self.filler, pad_id, dtype=np.int64)]), self.lengths + pieces


@dataclass(slots=True)
class Filling:
    """A batch while it is being filled: what it holds so far and what it still admits."""

    policy: BatchPolicy
    lengths: list[int] = field(default_factory=list)
    total: int = 0
    longest: int = 0

    def admits(self, length: int) -> bool:
        """Whether a text of `length` tokens may join. The first one always may."""
        if not self.lengths:
            return True
        if self.policy.deterministic:
            rows = self.policy.size_class(self.lengths[0])
            return self.policy.packs and self.policy.size_class(length) == rows and self.total + length <= rows
        if self.policy.packs:
            return self.total + length <= self.policy.max_batch_tokens
        return max(self.longest, length) * (len(self.lengths) + 1) <= self.policy.max_batch_tokens

    def add(self, length: int) -> None:
        """Take a text of `length` tokens in."""
        self.lengths.append(length)
        self.total += length
        self.longest = max(self.longest, length)
