"""The seam of a hand-written forward pass: what `packed_encoder.py` needs of a model family (`bert.py`, `qwen3.py`)."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from sightline.embedding.operators import Operators, Pack, Prefix
from sightline.embedding.packing import Positions


class Unsupported(Exception):
    """A model that the hand-written forward doesn't cover; its message says what about it."""


class Forward(Protocol):
    """The layers of one model.

    `positions` says how tokens are numbered, `causal` whether a token sees only those before it.
    """

    positions: Positions
    causal: bool

    @property
    def vocabulary(self) -> int: ...

    def __call__(
        self,
        pack: Pack,
        operators: Operators,
        *,
        rows: Tensor | None = None,
        dtype: torch.dtype | None = None,
        prefix: list[Prefix] | None = None,
        keep: list[Prefix] | None = None,
    ) -> Tensor:
        """One pass.

        Args:
            pack: The texts.
            operators: Who computes what lies between the products.
            rows: int64; only these tokens' hidden states are wanted.
            dtype: Compute in this number format instead of the weights' own (which is slow, and made for checks).
            prefix: Keys and values of each layer that every text sees in front of itself (causal models only).
            keep: Takes the keys and values of each layer (causal models only).

        Returns:
            Hidden states `(tokens, hidden)`, or `(len(rows), hidden)`.
        """
        ...
