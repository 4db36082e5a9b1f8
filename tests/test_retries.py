"""Facts about trying again: what is retried, how long is waited, what is raised and logged. Nothing here sleeps."""

from __future__ import annotations

import logging
import random
import threading
import time

import pytest

from clocks import Clock
from sightline.patience import at_most, until
from sightline.retries import AWAY_S, FAILED_S, http_patience, retrying, seconds_asked


class Flaky:
    """Fails with the given errors, then gives 'done'; the last one comes for ever where it says so."""

    def __init__(self, *errors: BaseException, for_ever: bool = False) -> None:
        self.errors = list(errors)
        self.for_ever = for_ever
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors[0] if self.for_ever and len(self.errors) == 1 else self.errors.pop(0)
        return "done"


def patience_for(error: BaseException) -> float:
    return {ConnectionError: AWAY_S, RuntimeError: FAILED_S}.get(type(error), 0.0)


def run(call: Flaky, clock: Clock, **options: object) -> str:
    return retrying(call, patience_for=patience_for, what="writing to qdrant://x/y", sleep=clock.sleep, clock=clock, **options)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_success_waits_for_nothing(clock: Clock):
    """What succeeds is called once."""
    call = Flaky()
    assert run(call, clock) == "done"
    assert (call.calls, clock.waits) == (1, [])


def test_transient_errors_are_tried_again(clock: Clock):
    """Two refused connections are followed by the result."""
    call = Flaky(ConnectionError("a"), ConnectionError("b"))
    assert run(call, clock) == "done"
    assert (call.calls, len(clock.waits)) == (3, 2)


def test_permanent_errors_are_raised_at_once(clock: Clock):
    """An error that waiting can't mend is not tried again."""
    call = Flaky(ValueError("wrong dimension"))
    with pytest.raises(ValueError, match="wrong dimension"):
        run(call, clock)
    assert (call.calls, clock.waits) == (1, [])


def test_an_interrupt_is_raised_at_once(clock: Clock):
    """Ctrl-C ends a retried call."""
    with pytest.raises(KeyboardInterrupt):
        run(Flaky(KeyboardInterrupt()), clock)


@pytest.mark.parametrize("seed", range(20))
def test_an_outage_of_four_minutes_is_survived(clock: Clock, seed: int):
    """However the waits fall: the last attempt is made when the four minutes are over."""
    random.seed(seed)

    def call() -> str:
        if clock() < 239.9:
            raise ConnectionError
        return "done"

    assert retrying(call, patience_for=patience_for, what="reading", sleep=clock.sleep, clock=clock) == "done"
    assert clock() <= 240.1


@pytest.mark.parametrize(("error", "patience"), [(ConnectionError(), AWAY_S), (RuntimeError(), FAILED_S)])
def test_patience_ends_and_the_last_error_is_raised_as_it_was(clock: Clock, error: Exception, patience: float):
    """A server that is away is waited for longer than one that fails; the very object comes through, not a wrapper."""
    random.seed(3)
    with pytest.raises(type(error)) as raised:
        run(Flaky(error, for_ever=True), clock)
    assert raised.value is error
    assert clock() == pytest.approx(patience)


def test_each_kind_of_error_has_patience_of_its_own(clock: Clock):
    """A server that fails once while it starts, after a minute's absence, is asked again."""
    random.seed(3)
    call = Flaky(*[ConnectionError()] * 12, RuntimeError("starting"))
    assert run(call, clock) == "done"
    assert clock() > FAILED_S


def test_waits_double_up_to_a_ceiling_and_are_drawn_at_random():
    """Wait n lies between 0 and 0.5 * 2**(n-1) seconds, at most 30, and two runs differ."""
    random.seed(7)
    clocks = [Clock(), Clock()]
    for clock in clocks:
        with pytest.raises(ConnectionError):
            run(Flaky(ConnectionError(), for_ever=True), clock)
        assert all(0 <= wait <= min(30.0, 0.5 * 2**number) for number, wait in enumerate(clock.waits))
    assert clocks[0].waits != clocks[1].waits
    assert max(clocks[0].waits + clocks[1].waits) > 15


def test_what_the_server_asks_for_is_waited_for(clock: Clock):
    """A wait that the server names is the least that is waited."""
    run(Flaky(ConnectionError(), ConnectionError()), clock, asked_wait=lambda error: 7.0)
    assert all(7.0 <= wait <= 8.0 for wait in clock.waits)


def test_a_server_that_asks_for_hours_is_not_waited_for(clock: Clock):
    """A wait beyond what patience is left ends the retries with the error, for a caller of little patience too."""
    for seconds, asked in ((AWAY_S, 3600.0), (20.0, 21.0)):
        with at_most(seconds), pytest.raises(ConnectionError):
            run(Flaky(ConnectionError()), clock, asked_wait=lambda _error, asked=asked: asked)
    assert clock.waits == []


def test_retry_after_is_a_number_or_a_date():
    """Both forms of the header, dates in the past, and what is neither."""
    now = 1445412480.0  # Wed, 21 Oct 2015 07:28:00 GMT
    asked = {
        "120": 120.0, " 0 ": 0.0, "Wed, 21 Oct 2015 07:29:30 GMT": 90.0, "Wed, 21 Oct 2015 07:00:00 GMT": 0.0,
        "21 Oct 2015 07:29:30": 90.0, "soon": None, "": None, "-3": None, "1.5": None,
    }  # fmt: skip
    assert {text: seconds_asked(text, now=lambda: now) for text in asked} == asked


def test_what_a_status_is_worth():
    """Nobody there: minutes. A failure: seconds. A refusal, and what will not be there tomorrow either: nothing."""
    worth = {AWAY_S: [408, 425, 429, 502, 503, 504], FAILED_S: [500, 520, 599]}
    worth[0.0] = [200, 301, 400, 401, 403, 404, 405, 409, 410, 411, 413, 415, 422, 501, 505, 507, 511]
    assert {status: http_patience(status) for statuses in worth.values() for status in statuses} == {
        status: seconds for seconds, statuses in worth.items() for status in statuses
    }


def test_a_caller_may_have_less_patience(clock: Clock):
    """Within a block nothing is tried for longer than it says, not at all for 0, and outer blocks hold too."""
    call = Flaky(ConnectionError(), for_ever=True)
    with at_most(0), at_most(60), pytest.raises(ConnectionError):
        run(call, clock)
    assert (call.calls, clock.waits) == (1, [])
    with at_most(5), pytest.raises(ConnectionError):
        run(call, clock)
    assert clock() == pytest.approx(5)


def test_a_run_that_is_stopped_waits_no_longer():
    """A wait of many seconds ends when the run does, with the error that was waited for."""
    over, met = threading.Event(), []

    def wait() -> None:
        with until(over):
            try:
                retrying(call, patience_for=patience_for, what="reading", asked_wait=lambda error: 60.0)
            except ConnectionError as error:
                met.append(error)

    call = Flaky(ConnectionError(), for_ever=True)
    thread, started = threading.Thread(target=wait), time.monotonic()
    thread.start()
    while not call.calls:
        time.sleep(0.001)
    over.set()
    thread.join(10)
    assert len(met) == 1
    assert time.monotonic() - started < 10


def test_each_retry_is_logged(clock: Clock, caplog: pytest.LogCaptureFixture):
    """A warning names what failed, how often and for how long, and the error in one line."""
    with caplog.at_level(logging.WARNING, logger="sightline.retries"):
        run(Flaky(ConnectionError("refused\n\tby   the host")), clock)
    [record] = caplog.records
    message = record.getMessage()
    assert message.startswith("writing to qdrant://x/y failed (attempt 1, after 0 s of 240), trying again in ")
    assert message.endswith(": ConnectionError: refused by the host")
