"""The lengths that a model's vectors can have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sightline.errors import DimensionError

# For a log line: model, its own length, the length it is cut to.
UNTRAINED_CUT = (
    "%s isn't known to be trained to be cut (Matryoshka): its vectors of %d dimensions, cut to %d, may find less. "
    "Measure it on your own questions, or take a model that was trained for it."
)


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
