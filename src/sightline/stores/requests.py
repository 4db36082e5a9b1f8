"""How much goes into one request to a server: what its limits are known to be, and what is learnt when it refuses one."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Sequence

from sightline.errors import StoreError
from sightline.portions import portions

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
        return list(portions(slice(0, len(sizes)), sizes, most=most, most_bytes=self.most_bytes))

    def send(
        self, rows: slice, sizes: Sequence[int], send: Callable[[slice], None], name: Callable[[int], str] = lambda _row: "it"
    ) -> None:
        """Send these rows; where they are refused as too large, in requests of half the size, and those to come as well.

        Raises:
            StoreError: a single row is too large; `name` says which one it is.
        """
        count = rows.stop - rows.start
        parts = list(portions(rows, sizes, most=count, most_bytes=self.most_bytes))
        if len(parts) > 1:  # a smaller limit was learnt since they were cut
            for part in parts:
                self.send(part, sizes, send, name)
            return
        try:
            send(rows)
        except RequestTooLarge as error:
            size = sum(sizes[rows])
            if count == 1:
                raise StoreError(
                    f"{self._url} takes no request as large as this: {name(rows.start)} has about {size:,} bytes, alone. {error}"
                    f" Cut smaller chunks: sightline index PATH --into {shlex.quote(self._url)} --chunk-tokens 256, or let the"
                    " server, and a proxy before it, take larger requests."
                ) from error
            self.most_bytes = min(self.most_bytes, size // 2)
            _log.warning("%s refuses a request of %d points and about %s bytes as too large; it is sent in halves, and those to"
                         " come are no larger: %s", self._url, count, f"{size:,}", error)  # fmt: skip
            self.send(rows, sizes, send, name)
