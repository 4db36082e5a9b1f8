"""pooled -> dimensions: cut to the asked length, then normalise. The one place where vectors are cut."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sightline.errors import DimensionError
from sightline.types import FloatArray


@dataclass(frozen=True, slots=True)
class DimensionRange:
    """The lengths that a model's vectors can have.

    Args:
        minimum: Shortest length that makes sense; 1 where nothing is known.
        native: Length of an uncut vector.
        matryoshka: Whether the model was trained to be cut; None is unknown.
    """

    minimum: int
    native: int
    matryoshka: bool | None = None

    def check(self, dimensions: int | None) -> int:
        """Return the length to cut to (`native` for None); raise DimensionError outside `minimum..native`."""
        if dimensions is None:
            return self.native
        is_integer = isinstance(dimensions, (int, np.integer)) and not isinstance(dimensions, bool)
        if not is_integer or not self.minimum <= dimensions <= self.native:
            raise DimensionError(f"dimensions={dimensions!r} is out of range: this model gives {self.minimum} to {self.native}.")
        return int(dimensions)


def cut(vectors: FloatArray, dimensions: int) -> FloatArray:
    """Cut rows of `(n, native)` to `(n, dimensions)` and give them unit norm. Non-finite rows stay non-finite.

    Raises:
        DimensionError: `dimensions` is longer than the vectors.
    """
    if dimensions > vectors.shape[1]:
        raise DimensionError(f"dimensions={dimensions} is out of range: the vectors have {vectors.shape[1]}.")
    short = np.ascontiguousarray(vectors[:, :dimensions], dtype=np.float32)
    # float64 norm: the unit norm is then right to float32's last bit, whatever the length.
    norms = np.sqrt(np.einsum("ij,ij->i", short, short, dtype=np.float64, casting="same_kind"))
    norms[norms == 0] = 1.0
    result: FloatArray = (short / norms[:, None]).astype(np.float32)
    return result
