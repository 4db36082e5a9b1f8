"""The one place where vectors are cut, for models and stores alike."""

from __future__ import annotations

import numpy as np

from sightline.errors import DimensionError
from sightline.types import FloatArray


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
