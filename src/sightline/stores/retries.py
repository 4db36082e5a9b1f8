"""Trying again what failed for the moment: exponential backoff with full jitter, a warning for each retry."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from sightline.errors import MissingExtra
from sightline.keys import hide_keys

try:
    import tenacity
except ImportError as error:
    raise MissingExtra("A store on a server", package="tenacity", extra="qdrant,chroma") from error

T = TypeVar("T")

_log = logging.getLogger(__name__)
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
# A server that asks for more patience than this has a quota that is used up, not a busy moment.
_LONGEST_ASKED_WAIT_S = 300.0
_ERROR_CHARACTERS = 300


def retrying(
    call: Callable[[], T],
    *,
    is_transient: Callable[[BaseException], bool],
    what: str,
    attempts: int = 6,
    wait_at_least: Callable[[BaseException], float | None] = lambda _error: None,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """The result of `call`, tried up to `attempts` times while it fails with a transient error.

    Before retry n it waits a random time of at most 0.5 * 2**(n-1) seconds, 30 at most: callers that failed together don't
    come back together. `wait_at_least` gives the seconds that the server asked for, which come on top; beyond 300 s it is not
    waited for. Raises what `call` raised: a permanent error at once, the last transient one as it was.
    """
    backoff = tenacity.wait_random_exponential(multiplier=_FIRST_WAIT_S, max=_LONGEST_WAIT_S)

    def is_worth_a_retry(error: BaseException) -> bool:
        return is_transient(error) and (wait_at_least(error) or 0.0) <= _LONGEST_ASKED_WAIT_S

    def wait(state: tenacity.RetryCallState) -> float:
        return backoff(state) + (wait_at_least(_error_of(state)) or 0.0)

    def warn(state: tenacity.RetryCallState) -> None:
        text = hide_keys(" ".join(str(_error_of(state)).split()))[:_ERROR_CHARACTERS]
        name = type(_error_of(state)).__name__
        _log.warning("%s failed (attempt %d of %d), trying again in %.1f s: %s: %s",
                     what, state.attempt_number, attempts, state.upcoming_sleep, name, text)  # fmt: skip

    retry = tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_worth_a_retry),
        wait=wait,
        stop=tenacity.stop_after_attempt(attempts),
        before_sleep=warn,
        sleep=sleep,
        reraise=True,
    )
    return retry(call)


def _error_of(state: tenacity.RetryCallState) -> BaseException:
    error = state.outcome.exception() if state.outcome is not None else None
    if error is None:
        raise RuntimeError("a retry without an error")  # tenacity asks about failed attempts only
    return error
