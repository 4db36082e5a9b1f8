"""Trying again what failed for the moment: exponential backoff with full jitter, a warning for each retry."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TypeVar

from sightline.errors import MissingExtra
from sightline.keys import hide_keys
from sightline.patience import patience

try:
    import tenacity
except ImportError as error:
    raise MissingExtra("Speaking to a server", package="tenacity", extra="qdrant,chroma,remote") from error

T = TypeVar("T")

_log = logging.getLogger(__name__)
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
# Nobody answers, or somebody says that the server can't answer now: a restart, an upgrade, a network that is mended. Shorter than
# the silence after which another machine may take the lease over (300 s), less what a renewal takes.
AWAY_S = 240.0
# The server answers that it failed. That is hardly the network, so a fault of the server's that stays isn't asked for minutes.
FAILED_S = 20.0
# Who only reads, perhaps to answer somebody, doesn't keep him waiting for minutes; a run under way loses more by giving up.
READING_S = 20.0
# At the first contact: who mistyped the address shall know at once.
FIRST_S = 2.0
PERMANENT = 0.0
# Out of time, too early, too often, and what proxies say of a server that is away.
_AWAY = {408, 425, 429, 502, 503, 504}
_NEVER = {501, 505, 507, 511}  # not known, not spoken, no room left (a quota is used up), not let in
_ERROR_CHARACTERS = 300


def retrying(
    call: Callable[[], T],
    *,
    patience_for: Callable[[BaseException], float],
    what: str,
    asked_wait: Callable[[BaseException], float | None] = lambda _error: None,
    sleep: Callable[[float], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """The result of `call`, tried again while it fails and there is patience left.

    Before retry n it waits a random time of at most 0.5 * 2**(n-1) seconds, 30 at most: callers that failed together don't
    come back together. The last attempt is made when patience ends. Raises what `call` raised last, as it was.

    Args:
        call: What to try. It must do no harm to make it twice: an answer that got lost is no sign that nothing was done.
        patience_for: Seconds for which an error of this kind is worth trying again, from the first one of that kind on; 0 for
            those that stay.
        what: Names the call in warnings.
        asked_wait: Seconds that the server asked for, which come on top. Where they are more than the patience that is left, a
            quota is used up, and the error is raised at once.
        sleep: Waits, for tests. By default a wait ends early when the run is over.
        clock: Seconds that pass.
    """
    backoff = tenacity.wait_random_exponential(multiplier=_FIRST_WAIT_S, max=_LONGEST_WAIT_S)
    limit = patience()
    began: dict[float, float] = {}

    def left(error: BaseException) -> float:
        """Seconds of patience with errors of this kind."""
        now, seconds = clock(), patience_for(error)
        return min(seconds, limit.seconds) - (now - began.setdefault(seconds, now))

    def is_worth_a_retry(error: BaseException) -> bool:
        return not limit.over.is_set() and left(error) > 0 and left(error) >= (asked_wait(error) or 0.0)

    def wait(state: tenacity.RetryCallState) -> float:
        error = _error_of(state)
        return min(backoff(state), max(0.0, left(error))) + (asked_wait(error) or 0.0)

    def wait_for_the_run(seconds: float) -> None:
        limit.over.wait(seconds)

    def warn(state: tenacity.RetryCallState) -> None:
        error = _error_of(state)
        text = hide_keys(" ".join(str(error).split()))[:_ERROR_CHARACTERS]
        seconds = min(patience_for(error), limit.seconds)
        # Two seconds later the error itself says it.
        _log.log(logging.WARNING if seconds > FIRST_S else logging.DEBUG,
                 "%s failed (attempt %d, after %.0f s of %.0f), trying again in %.1f s: %s: %s",
                 what, state.attempt_number, seconds - left(error), seconds, state.upcoming_sleep,
                 type(error).__name__, text)  # fmt: skip

    retry = tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_worth_a_retry),
        wait=wait,
        before_sleep=warn,
        sleep=sleep or wait_for_the_run,
    )
    return retry(call)


def http_patience(status: int) -> float:
    """Seconds for which an answer with this HTTP status is worth asking again."""
    if status in _AWAY:
        return AWAY_S
    return FAILED_S if status >= 500 and status not in _NEVER else PERMANENT


def seconds_asked(retry_after: str, *, now: Callable[[], float] = time.time) -> float | None:
    """Seconds from now that an HTTP header Retry-After asks for, as a number or as a date; None where it says neither."""
    text = retry_after.strip()
    if text.isdecimal():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return max(0.0, moment.timestamp() - now())


def _error_of(state: tenacity.RetryCallState) -> BaseException:
    error = state.outcome.exception() if state.outcome is not None else None
    if error is None:
        raise RuntimeError("a retry without an error")  # tenacity asks about failed attempts only
    return error
