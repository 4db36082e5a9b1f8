"""Many rows -> requests of a bounded size, for stores and embedders on servers alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def portions(rows: slice, sizes: Sequence[int], *, most: int, most_bytes: float) -> Iterator[slice]:
    """Cut rows into runs of at most `most` rows and `most_bytes` bytes; a row that is larger than that goes alone.

    Args:
        rows: Which of `sizes`, with start and stop.
        sizes: Of each row, in bytes.
        most: Rows in one request.
        most_bytes: Bytes in one request.
    """
    start, filled = rows.start, 0
    for row in range(rows.start, rows.stop):
        if row > start and (filled + sizes[row] > most_bytes or row - start >= most):
            yield slice(start, row)
            start, filled = row, 0
        filled += sizes[row]
    if rows.stop > start:
        yield slice(start, rows.stop)
