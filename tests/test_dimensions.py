"""Cut, then unit norm."""

from __future__ import annotations

import numpy as np
import pytest

from sightline.cutting import cut
from sightline.embedding.dimensions import DimensionRange
from sightline.errors import DimensionError

ROWS = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)


def test_rows_have_unit_norm_after_the_cut():
    """Normalising first and cutting then would give shorter rows."""
    assert np.abs(np.linalg.norm(cut(ROWS, 4).astype(np.float64), axis=1) - 1).max() < 1e-6


def test_cut_keeps_the_direction_of_the_first_dimensions():
    """The first `dimensions` numbers, and nothing else, decide."""
    expected = ROWS[:, :4] / np.linalg.norm(ROWS[:, :4], axis=1, keepdims=True)
    assert np.allclose(cut(ROWS, 4), expected, atol=1e-6)


def test_result_is_contiguous_float32():
    """What stores and frameworks take without a copy."""
    result = cut(ROWS, 7)
    assert result.dtype == np.float32
    assert result.flags["C_CONTIGUOUS"]


def test_zero_rows_stay_zero_and_nan_rows_stay_nan():
    """Neither is turned into something that looks like a vector."""
    rows = ROWS.copy()
    rows[0], rows[1, 0] = 0, np.nan
    assert (cut(rows, 8)[0] == 0).all()
    assert np.isnan(cut(rows, 8)[1]).any()


def test_cut_longer_than_the_vectors_is_refused():
    """There is nothing to fill up with."""
    with pytest.raises(DimensionError, match="have 16"):
        cut(ROWS, 17)


@pytest.mark.parametrize("dimensions", [31, 1025, 0, -1, True, 64.0, "64"])
def test_out_of_range_names_the_range(dimensions):
    """The message says what is allowed."""
    with pytest.raises(DimensionError, match="32 to 1024"):
        DimensionRange(32, 1024).check(dimensions)


@pytest.mark.parametrize(("asked", "given"), [(None, 1024), (32, 32), (1024, 1024), (np.int64(100), 100)])
def test_in_range_is_given(asked, given):
    """Both ends belong to the range; None is the model's own."""
    assert DimensionRange(32, 1024).check(asked) == given
