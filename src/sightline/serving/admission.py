"""How much is taken in at a time. Used by the event loop alone, so without locks."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

from starlette.requests import Request

from sightline.serving.problems import Problem, busy
from sightline.serving.settings import MEGABYTE, Limits

_BODIES = 8
_LONGEST_PAUSE = 30


class Admission:
    """What was taken in and isn't answered yet, in texts and in bytes of bodies. An exchange gives back what it took."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.texts = 0
        self.bytes = 0
        self._last_seconds = 0.0

    def take_texts(self, count: int, until: ExitStack) -> None:
        """Take in a request of `count` texts.

        Raises:
            Problem: 413 for more than could ever be taken in, 429 for more than there is room for now.
        """
        limit = self.limits.queue_texts
        if count > limit:
            raise Problem(
                413, f"{count:,} inputs are more than one request may have: {limit:,}. Send them in several requests.",
                "too_many_inputs", "input",
            )  # fmt: skip
        if self.texts + count > limit:
            raise busy(
                f"{self.texts:,} texts are waiting, and at most {limit:,} may. Send the {count:,} again later.", "queue_full",
                self._pause(),
            )  # fmt: skip
        self.texts += count
        until.callback(self._give_back_texts, count)

    def take_bytes(self, count: int) -> None:
        """Hold `count` more bytes of a body, until they are given back.

        Raises:
            Problem: 429 where there is no room for them now.
        """
        if self.bytes + count > _BODIES * self.limits.body_bytes:
            message = "The bodies of the requests that are waiting take all room. Send this one again later."
            raise busy(message, "queue_full", self._pause())
        self.bytes += count

    def give_back_bytes(self, count: int) -> None:
        """They are held no more."""
        self.bytes -= count

    def note(self, seconds: float) -> None:
        """What a request took from its beginning to its answer."""
        self._last_seconds = seconds

    def _give_back_texts(self, count: int) -> None:
        self.texts -= count

    def _pause(self) -> int:
        """As long as the last answer took: by then about as much has been done as there was to do."""
        return min(max(1, round(self._last_seconds)), _LONGEST_PAUSE)


async def read_body(request: Request, admission: Admission, until: ExitStack) -> bytes:
    """The body, held in `admission` until `until` is closed.

    Raises:
        Problem: 413 for one that is too large, 429 where there is no room for it, 408 for a client that is too slow.
        ClientDisconnect: The client hung up.
    """
    limit, seconds = admission.limits.body_bytes, admission.limits.read_seconds
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)
    body, held = bytearray(), 0  # not a list of chunks, which may be of a byte each and then take fifty times as much
    until.callback(lambda: admission.give_back_bytes(held))
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                if held + len(chunk) > limit:
                    raise _too_large(limit)
                admission.take_bytes(len(chunk))
                held += len(chunk)
                body += chunk
    except TimeoutError as error:
        message = f"The request wasn't complete after {seconds:g} seconds."
        raise Problem(408, message, "request_timeout", headers={"Connection": "close"}) from error
    return bytes(body)


def _too_large(limit: int) -> Problem:
    message = f"The body is larger than {limit / MEGABYTE:.4g} MB, which is the most for one request. Send its inputs in several."
    return Problem(413, message, "request_too_large")
