"""How much goes into one request to a server: what its limits are known to be, and what is learnt when it refuses one."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Sequence

from sightline.errors import StoreError

_log = logging.getLogger(__name__)


class RequestTooLarge(StoreError):
    """The server, or a proxy before it, refuses a request because of its size."""


class Requests:
    """Cuts what is written or read by ids into requests; one collection's, shared by its threads."""

    def __init__(self, url: str, most_bytes: float) -> None:
        self._url = url
        self.most_bytes = most_bytes

    def cut(self, sizes: Sequence[int], most: int) -> list[slice]:
        """Rows of these sizes in bytes, in requests of at most `most` of them; one that is larger than a request goes alone."""
        cuts: list[slice] = []
        start, filled = 0, 0
        for row, size in enumerate(sizes):
            if row > start and (filled + size > self.most_bytes or row - start == most):
                cuts.append(slice(start, row))
                start, filled = row, 0
            filled += size
        return [*cuts, slice(start, len(sizes))] if sizes else []

    def send(
        self, rows: slice, sizes: Sequence[int], send: Callable[[slice], None], name: Callable[[int], str] = lambda _row: "it"
    ) -> None:
        """Send these rows; where they are refused as too large, the two halves of them, and from then on no larger requests.

        Raises:
            StoreError: a single row is too large; `name` says which one it is.
        """
        try:
            send(rows)
        except RequestTooLarge as error:
            size, count = sum(sizes[rows]), rows.stop - rows.start
            if count == 1:
                raise StoreError(
                    f"{self._url} takes no request as large as this: {name(rows.start)} has about {size:,} bytes, alone. {error}"
                    f" Cut smaller chunks: sightline index PATH --into {shlex.quote(self._url)} --chunk-tokens 256, or let the"
                    " server, and a proxy before it, take larger requests."
                ) from error
            self.most_bytes = min(self.most_bytes, size // 2)
            _log.warning("%s refuses a request of %d points and about %s bytes as too large; it is sent in halves, and those to"
                         " come are no larger: %s", self._url, count, f"{size:,}", error)  # fmt: skip
            middle = rows.start + count // 2
            for half in (slice(rows.start, middle), slice(middle, rows.stop)):
                self.send(half, sizes, send, name)
