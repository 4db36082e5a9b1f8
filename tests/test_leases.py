"""The writer's lease on a server: who gets it, when it is taken over, and how its holder learns of that."""

import os
import socket
import subprocess
import sys
import threading

import pytest

from sightline.errors import StoreError, StoreLocked
from sightline.stores.leases import HEARTBEAT_S, STALE_S, Lease

URL = "chroma+http://localhost:8000/handbook"


class Table:
    """A server's place for a lease, in memory."""

    def __init__(self):
        self.record = None
        self.replaced = threading.Event()
        self.failures = 0

    def create(self, record):
        if self.record is not None:
            return False
        self.record = dict(record)
        return True

    def read(self):
        return None if self.record is None else dict(self.record)

    def replace(self, record):
        if self.failures:
            self.failures -= 1
            raise StoreError("gone for a moment")
        self.record = dict(record)
        self.replaced.set()

    def remove(self):
        self.record = None


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def table():
    return Table()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lease(table, clock):
    """Make leases on the table that are released when the test ends."""
    made = []

    def make(**options):
        made.append(Lease(table, URL, clock=clock, **options))
        return made[-1]

    yield make
    for one in made:
        one.release()


def dead_process() -> int:
    """The id of a process that was here."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def held(clock, **changes):
    """The record of a run on another machine."""
    return {"run": "r1", "host": "elsewhere", "pid": 77, "since": clock.now, "at": clock.now, **changes}


def test_a_lease_is_taken_and_given_back(table, lease):
    """It is there while it is held, and nothing is left behind."""
    first = lease()
    first.acquire()
    first.acquire()
    first.check()
    assert (table.record["host"], table.record["pid"]) == (socket.gethostname(), os.getpid())
    first.release()
    first.release()
    assert table.record is None


def test_a_second_one_of_this_process_is_refused(lease):
    """Two stores of one process exclude each other, and the message says so."""
    lease().acquire()
    with pytest.raises(StoreLocked, match="another store object of this process"):
        lease().acquire()


def test_another_machine_is_named_with_the_way_out(table, lease, clock):
    """Run, process, host and time are said, and the command that takes over."""
    table.record = held(clock)
    clock.now += 50
    with pytest.raises(StoreLocked) as caught:
        lease().acquire()
    for part in ("run r1", "process 77 on elsewhere", "1970-01-12", "last seen 50 s ago", f"--into {URL} --take-over"):
        assert part in str(caught.value)
    assert table.record["run"] == "r1"


def test_an_answer_that_got_lost_while_a_dead_lease_is_replaced_leaves_it_ours(table, lease, clock, monkeypatch):
    """The attempt after it finds the record there, and it is our own."""
    table.record = held(clock)
    clock.now += STALE_S + 1
    create = table.create

    def heard_too_late(record):
        create(record)
        return False

    monkeypatch.setattr(table, "create", heard_too_late)
    taken = lease()
    taken.acquire()
    taken.check()


def test_silence_ends_a_lease(table, lease, clock):
    """A holder elsewhere is replaced after minutes without a sign of life, not before."""
    table.record = held(clock)
    clock.now += STALE_S
    with pytest.raises(StoreLocked):
        lease().acquire()
    clock.now += 1
    lease().acquire()
    assert table.record["host"] == socket.gethostname()


def test_a_dead_process_of_this_machine_is_replaced_at_once(table, lease, clock):
    """Nobody waits for a run that was killed here."""
    table.record = held(clock, host=socket.gethostname(), pid=dead_process())
    lease().acquire()
    assert table.record["pid"] == os.getpid()


def test_a_living_process_of_this_machine_is_not_replaced(table, lease, clock):
    """The parent of this process lives."""
    table.record = held(clock, host=socket.gethostname(), pid=os.getppid())
    with pytest.raises(StoreLocked):
        lease().acquire()


def test_a_dead_process_of_another_machine_is_waited_for(table, lease, clock):
    """A process id means nothing elsewhere, nor in another container of the same host name."""
    for elsewhere in ({"host": "elsewhere"}, {"host": socket.gethostname(), "machine": "another container"}):
        table.record = held(clock, pid=dead_process(), **elsewhere)
        with pytest.raises(StoreLocked):
            lease().acquire()


def test_a_predecessor_of_the_same_process_id_is_replaced(table, lease, clock):
    """A restarted container often has the process id of the one before, which is dead."""
    table.record = held(clock, host=socket.gethostname(), pid=os.getpid())
    lease().acquire()
    assert table.record["run"] != "r1"


def test_taking_over_is_noticed_by_the_holder(table, lease):
    """The one that was replaced may not go on, can't come back, and leaves the new lease alone."""
    first, second = lease(), lease()
    first.acquire()
    second.acquire(take_over=True)
    for call in (first.check, first.acquire):
        with pytest.raises(StoreLocked, match="took it over"):
            call()
    second.check()
    first.release()
    assert table.record is not None
    second.check()


def test_of_two_racers_one_wins(table, lease, clock):
    """Whoever finds that somebody else was quicker is refused, and keeps off the winner's lease."""
    table.record = held(clock, at=0)
    winner = held(clock, run="winner")

    def quicker():
        table.record = winner

    table.remove = quicker
    with pytest.raises(StoreLocked, match="winner"):
        lease().acquire()
    assert table.record == winner


def test_a_lease_released_in_between_is_free(table, lease, clock):
    """A record that goes away between looking and reading is no obstacle."""
    table.record = held(clock)
    read = table.read

    def gone():
        table.record, table.read = None, read

    table.read = gone
    lease().acquire()
    assert table.record["pid"] == os.getpid()


def test_an_answer_that_got_lost_is_found_again(table, lease):
    """A lease whose creation was acknowledged to nobody is ours all the same."""
    create = table.create

    def lose_the_answer(record):
        create(record)
        return False

    table.create = lose_the_answer
    lease().acquire()
    assert table.record["pid"] == os.getpid()


def test_the_heartbeat_renews(table, lease, clock):
    """The sign of life follows the clock, and the rest of the record stays."""
    one = lease(heartbeat_s=0.001)
    one.acquire()
    run, since = table.record["run"], clock.now
    clock.now += 100
    table.replaced.clear()
    assert table.replaced.wait(10)
    assert table.replaced.wait(10)
    one.release()
    assert run is not None
    assert since < clock.now


def test_the_heartbeat_survives_a_bad_network(table, lease):
    """Failed renewals are tried again at the next beat."""
    table.failures = 3
    one = lease(heartbeat_s=0.001)
    one.acquire()
    assert table.replaced.wait(10)
    one.check()


def test_the_heartbeat_stops_for_another_run(table, lease, clock):
    """It never renews, or writes over, a lease that somebody else holds."""
    one = lease(heartbeat_s=0.001)
    one.acquire()
    thread = one._thread
    other = held(clock)
    table.record = other
    thread.join(10)
    assert not thread.is_alive()
    with pytest.raises(StoreLocked, match="took it over"):
        one.check()


def test_a_beat_is_far_more_often_than_the_end():
    """Several beats may fail before anybody takes a living run for dead."""
    assert HEARTBEAT_S * 5 < STALE_S
