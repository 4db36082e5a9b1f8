"""Facts about trying again: what is retried, how long is waited, what is raised and logged. Nothing here sleeps."""

from __future__ import annotations

import logging
import random

import pytest

from sightline.stores.retries import retrying


class Flaky:
    """Fails with the given errors, then gives 'done'."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def is_transient(error: BaseException) -> bool:
    return isinstance(error, ConnectionError)


def run(call: Flaky, waits: list[float], **options: object) -> str:
    return retrying(call, is_transient=is_transient, what="writing to qdrant://x/y", sleep=waits.append, **options)


def test_success_waits_for_nothing():
    """What succeeds is called once."""
    waits: list[float] = []
    call = Flaky()
    assert run(call, waits) == "done"
    assert (call.calls, waits) == (1, [])


def test_transient_errors_are_tried_again():
    """Two refused connections are followed by the result."""
    waits: list[float] = []
    call = Flaky(ConnectionError("a"), ConnectionError("b"))
    assert run(call, waits) == "done"
    assert (call.calls, len(waits)) == (3, 2)


def test_permanent_errors_are_raised_at_once():
    """An error that waiting can't mend is not tried again."""
    waits: list[float] = []
    call = Flaky(ValueError("wrong dimension"))
    with pytest.raises(ValueError, match="wrong dimension"):
        run(call, waits)
    assert (call.calls, waits) == (1, [])


def test_an_interrupt_is_raised_at_once():
    """Ctrl-C ends a retried call."""
    with pytest.raises(KeyboardInterrupt):
        run(Flaky(KeyboardInterrupt()), [])


def test_the_last_error_is_raised_as_it_was():
    """After the last attempt the very object comes through, not a wrapper."""
    errors = [ConnectionError(str(number)) for number in range(4)]
    call = Flaky(*errors)
    with pytest.raises(ConnectionError) as raised:
        run(call, [], attempts=4)
    assert raised.value is errors[-1]
    assert call.calls == 4


def test_waits_double_up_to_a_ceiling_and_are_drawn_at_random():
    """Wait n lies between 0 and 0.5 * 2**(n-1) seconds, at most 30, and two runs differ."""
    random.seed(7)
    runs: list[list[float]] = [[], []]
    for waits in runs:
        run(Flaky(*[ConnectionError()] * 11), waits, attempts=12)
    for waits in runs:
        assert all(0 <= wait <= min(30.0, 0.5 * 2**number) for number, wait in enumerate(waits))
    assert runs[0] != runs[1]
    assert max(runs[0] + runs[1]) > 1.0


def test_what_the_server_asks_for_is_waited_for():
    """A wait that the server names is the least that is waited."""
    waits: list[float] = []
    run(Flaky(ConnectionError(), ConnectionError()), waits, wait_at_least=lambda error: 7.0)
    assert all(7.0 <= wait <= 8.0 for wait in waits)


def test_a_server_that_asks_for_hours_is_not_waited_for():
    """A wait beyond five minutes ends the retries with the error."""
    waits: list[float] = []
    with pytest.raises(ConnectionError):
        run(Flaky(ConnectionError()), waits, wait_at_least=lambda error: 3600.0)
    assert waits == []


def test_each_retry_is_logged(caplog: pytest.LogCaptureFixture):
    """A warning names what failed, how often, and the error in one line."""
    with caplog.at_level(logging.WARNING, logger="sightline.stores.retries"):
        run(Flaky(ConnectionError("refused\n\tby   the host")), [])
    [record] = caplog.records
    message = record.getMessage()
    assert message.startswith("writing to qdrant://x/y failed (attempt 1 of 6), trying again in ")
    assert message.endswith(": ConnectionError: refused by the host")
