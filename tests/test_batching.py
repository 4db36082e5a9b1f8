"""Which texts share a pass, and who is served first."""

from __future__ import annotations

import gc
import heapq
import threading
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.embedding.batching import BatchPolicy
from sightline.embedding.submissions import Item, Submission, SubmissionQueue
from sightline.embedding.tokens import TokenizedPart
from sightline.errors import EmbedderClosed
from sightline.types import Priority

PACKED = BatchPolicy(100)


def items(submission: Submission, lengths: list[int]) -> list[Item]:
    return [Item(submission, row, TokenizedPart(np.zeros(length, dtype=np.int32))) for row, length in enumerate(lengths)]


def submit(queue: SubmissionQueue, lengths: list[int], priority: Priority = Priority.BULK, dimensions: int = 2) -> Submission:
    submission = Submission(len(lengths), dimensions, priority)
    queue.open(submission)
    queue.add(submission, items(submission, lengths), exhausted=True)
    return submission


def drain(queue: SubmissionQueue, policy: BatchPolicy) -> list[list[Item]]:
    batches = []
    while batch := queue.next(policy, wait=False):
        batches.append(batch)
    return batches


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 400), st.booleans())
def test_every_item_is_served_once_within_the_budget(lengths, budget, packs):
    """Nothing is lost or doubled, and only a single text may exceed the budget."""
    queue, policy = SubmissionQueue(), BatchPolicy(budget, packs=packs)
    submit(queue, lengths)
    batches = drain(queue, policy)
    assert sorted(item.row for batch in batches for item in batch) == list(range(len(lengths)))
    for batch in batches:
        sizes = [len(item) for item in batch]
        cost = sum(sizes) if packs else max(sizes) * len(sizes)
        assert cost <= budget or len(batch) == 1


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=40))
def test_deterministic_packs_have_the_rows_of_their_texts_class(lengths):
    """With its filler, a pack always has the number of rows that each of its texts would have alone."""
    queue, policy = SubmissionQueue(), BatchPolicy(2048, deterministic=True)
    submit(queue, lengths)
    for batch in drain(queue, policy):
        sizes = [len(item) for item in batch]
        assert {policy.size_class(size) for size in sizes} == {sum(sizes) + policy.filler(sizes)}


def test_deterministic_packs_are_filled_with_what_fits():
    """What is left is given to the longest text of the same class that fits, also where shorter ones of another class wait."""
    queue, policy = SubmissionQueue(), BatchPolicy(2048, deterministic=True)
    submit(queue, [500, 500, 500, 400, 300, 140, 90, 70, 30])
    assert [[len(item) for item in batch] for batch in drain(queue, policy)] == [[500, 500, 500, 400, 140], [300, 90, 70], [30]]


def test_deterministic_without_packing_goes_one_by_one():
    """Padding would make a text's bits depend on its neighbours."""
    queue = SubmissionQueue()
    submit(queue, [3, 3, 3])
    assert [len(batch) for batch in drain(queue, BatchPolicy(100, packs=False, deterministic=True))] == [1, 1, 1]


def test_lone_query_overtakes_a_bulk_job():
    """It is in the very next batch, first."""
    queue = SubmissionQueue()
    submit(queue, [50] * 20)
    assert queue.next(PACKED)
    query = submit(queue, [5], Priority.INTERACTIVE)
    assert queue.next(PACKED)[0].submission is query


def test_a_querys_pass_isnt_filled_up_with_bulk_work():
    """It would wait for all that it is put together with."""
    queue = SubmissionQueue()
    submit(queue, [50] * 20)
    queries = {submit(queue, [10], Priority.INTERACTIVE) for _ in range(2)}
    assert {item.submission for item in queue.next(PACKED)} == queries


def test_bulk_batches_are_small_as_long_as_queries_come():
    """The next query waits for one of them; after some time without any they are whole again."""
    queue, policy = SubmissionQueue(), BatchPolicy(2000)
    submit(queue, [50] * 1000)
    assert len(queue.next(policy)) == 40
    submit(queue, [10], Priority.INTERACTIVE)
    sizes = [len(batch) for batch in drain(queue, policy)]
    assert sizes[:66] == [1] + [5] * 64 + [40]


def test_bulk_batches_beside_queries_are_no_larger_than_the_budget():
    """However small that is."""
    queue, policy = SubmissionQueue(), BatchPolicy(64)
    submit(queue, [30] * 20)
    submit(queue, [30], Priority.INTERACTIVE)
    assert max(sum(map(len, batch)) for batch in drain(queue, policy)) <= 64


def test_a_deterministic_pack_is_as_large_beside_queries():
    """And holds whatever fits, because it takes as long empty."""
    queue, policy = SubmissionQueue(), BatchPolicy(2048, deterministic=True)
    submit(queue, [500] * 8)
    submit(queue, [400], Priority.INTERACTIVE)
    assert [[len(item) for item in batch] for batch in drain(queue, policy)] == [[400, 500, 500, 500], [500] * 4, [500]]


def test_small_call_of_the_same_priority_waits_for_one_batch_at_most():
    """A bulk job doesn't starve another caller of its own priority."""
    queue = SubmissionQueue()
    submit(queue, [50] * 20)
    queue.next(PACKED)
    small = submit(queue, [5])
    assert small in [item.submission for item in queue.next(PACKED)]


@pytest.mark.parametrize(("tokens", "turns"), [(250, [8, 15, 22]), (10, [15, 30, 45])])
def test_a_flood_of_queries_doesnt_starve_a_bulk_job(tokens, turns):
    """It gets an eighth of the work: after 1,750 tokens 250. A short query is reckoned as what a pass costs."""
    queue, policy = SubmissionQueue(), BatchPolicy(2000)
    bulk = submit(queue, [50] * 15)
    served = []
    for _ in range(turns[-1]):
        submit(queue, [tokens], Priority.INTERACTIVE)
        served.append(queue.next(policy)[0].submission is bulk)
    assert [turn for turn, was_bulk in enumerate(served, start=1) if was_bulk] == turns
    assert not bulk.waiting


def test_an_answered_call_is_freed_at_once():
    """Not when Python next looks for cycles, by when a busy server holds the results of thousands."""
    queue = SubmissionQueue()
    submission = submit(queue, [5])
    batch = queue.next(PACKED)
    gc.disable()
    try:
        submission.deliver(batch, np.ones((1, 2), dtype=np.float32))
        kept = weakref.ref(submission)
        result = submission.future.result()
        del submission, batch
        assert queue.next(PACKED, wait=False) is None
        assert (kept(), result.shape) == (None, (1, 2))
    finally:
        gc.enable()


def test_concurrent_callers_share_a_batch():
    """Two small calls make one pass."""
    queue = SubmissionQueue()
    first, second = submit(queue, [5]), submit(queue, [6])
    assert {item.submission for item in queue.next(PACKED)} == {first, second}


def test_what_waits_is_shared_out_among_streams():
    """One batch of all would leave the other streams idle; a few tokens aren't worth dividing."""
    queue = SubmissionQueue()
    submit(queue, [10] * 60)
    roomy = BatchPolicy(2000)
    assert [len(queue.next(roomy, streams=2)) for _ in range(2)] == [31, 29]
    submit(queue, [10] * 60)
    assert len(queue.next(roomy, streams=2)) == 60, "the others are busy with as much"


@pytest.mark.parametrize("streams", [2, 4])
@pytest.mark.parametrize("texts", [30, 42, 57, 120, 500])
def test_streams_end_together_where_a_smaller_pass_costs_no_more(texts, streams):
    """Full batches would leave some of them idle at the end, for a third of the time where three are for two streams."""
    queue = SubmissionQueue()
    submit(queue, [100] * texts)
    policy = BatchPolicy(2000, evens_out=True)
    ends = [(0, stream, []) for stream in range(streams)]
    last = 0
    while ends:
        now, stream, items = heapq.heappop(ends)
        queue.finished(items)
        items = queue.next(policy, streams=streams, wait=False)
        if items:
            last = now + sum(map(len, items))
            heapq.heappush(ends, (last, stream, items))
    assert last <= 100 * (texts / streams + 1)


def test_a_stream_that_is_done_takes_its_part_again():
    """Of what waits and of what the others are still at."""
    queue = SubmissionQueue()
    submit(queue, [10] * 2)
    first = queue.next(BatchPolicy(2000), streams=2)
    submit(queue, [10] * 60)
    assert len(queue.next(BatchPolicy(2000), streams=2)) == 32
    queue.finished(first)
    assert len(queue.next(BatchPolicy(2000), streams=2)) == 28


def test_a_few_tokens_are_not_divided():
    """A pass has a price of its own."""
    queue = SubmissionQueue()
    submit(queue, [10] * 12)
    assert len(queue.next(BatchPolicy(2000), streams=2)) == 12


def test_a_second_stream_waits_for_more_than_a_few_tokens():
    """The first will be through in a moment; beside a large batch it doesn't wait."""
    roomy, queue = BatchPolicy(2000), SubmissionQueue()
    submit(queue, [10])
    first = queue.next(roomy, streams=2)
    submit(queue, [10])
    assert queue.next(roomy, streams=2, wait=False) is None
    queue.finished(first)
    assert len(queue.next(roomy, streams=2, wait=False)) == 1
    queue = SubmissionQueue()
    submit(queue, [200])
    assert len(queue.next(roomy, streams=2)) == 1
    submit(queue, [10])
    assert len(queue.next(roomy, streams=2, wait=False)) == 1


def test_deterministic_packs_are_not_shared_out():
    """Their rows depend on a text's own length."""
    queue = SubmissionQueue()
    submit(queue, [64] * 4)
    assert len(queue.next(BatchPolicy(2000, deterministic=True), streams=2)) == 4


@given(length=st.integers(1, 9000))
def test_the_shortest_text_of_a_deterministic_pack(length):
    """No shorter one has as many rows, and it has them itself."""
    policy = BatchPolicy(2000, deterministic=True)
    shortest = policy.shortest_of(policy.size_class(length))
    assert shortest <= length
    assert policy.size_class(shortest) == policy.size_class(length)
    assert shortest == 1 or policy.size_class(shortest - 1) != policy.size_class(length)


def test_a_deterministic_pack_takes_what_still_fits():
    """Longer texts that don't, and those of another class, stay in their order."""
    queue = SubmissionQueue()
    submit(queue, [500, 500, 500, 400, 300, 90, 80, 30])
    policy = BatchPolicy(2000, deterministic=True)
    assert [sorted(map(len, queue.next(policy))) for _ in range(3)] == [[90, 400, 500, 500, 500], [80, 300], [30]]


def test_cancelled_call_is_not_computed():
    """Its items leave the queue."""
    queue = SubmissionQueue()
    submission = submit(queue, [5, 5])
    submission.future.cancel()
    assert queue.next(PACKED, wait=False) is None


def test_closing_fails_what_waits_and_what_comes():
    """Nobody waits for ever."""
    queue = SubmissionQueue()
    before = submit(queue, [5])
    queue.close(EmbedderClosed("closed"))
    after = submit(queue, [5])
    for submission in (before, after):
        with pytest.raises(EmbedderClosed):
            submission.future.result(timeout=0)


def test_closing_leaves_the_queue_free_for_a_callback_of_a_call_under_delivery():
    """A delivery holds its call's lock while the caller's callback asks for the queue; closing must not hold that."""
    queue, entered, closing = SubmissionQueue(), threading.Event(), threading.Event()

    def callback(_: object) -> None:
        entered.set()
        assert closing.wait(timeout=10)
        submit(queue, [5])

    submission = Submission(1, 2, Priority.BULK, on_progress=callback)
    queue.open(submission)
    [item] = items(submission, [3])
    delivery = threading.Thread(target=submission.deliver, args=([item], np.ones((1, 2), dtype=np.float32)), daemon=True)
    delivery.start()
    assert entered.wait(timeout=10)
    close = threading.Thread(target=queue.close, args=(EmbedderClosed(),), daemon=True)
    close.start()
    while not queue.closed:
        pass
    closing.set()
    for thread in (delivery, close):
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_waiting_ends_with_the_close():
    """The device thread wakes up and ends."""
    queue = SubmissionQueue()
    thread = threading.Thread(target=queue.next, args=(PACKED,))
    thread.start()
    queue.close(EmbedderClosed("closed"))
    thread.join(timeout=10)
    assert not thread.is_alive()


def test_refill_is_asked_for_when_few_items_wait():
    """Tokenising goes on before the device runs dry, and not all at once."""
    queue, asked = SubmissionQueue(low_water=4), []
    submission = Submission(100, 2, Priority.BULK, refill=lambda: asked.append(True))
    queue.open(submission)
    assert not queue.add(submission, items(submission, [50] * 10), exhausted=False)
    while len(submission.waiting) > 4:
        queue.next(PACKED)
        assert len(submission.waiting) < 4 or not asked
    queue.next(PACKED)
    assert asked == [True]


def test_results_come_back_in_input_order_with_unit_norm():
    """Whatever the order of service."""
    queue = SubmissionQueue()
    submission = submit(queue, [3, 60, 10], dimensions=2)
    for batch in drain(queue, BatchPolicy(60)):
        submission.deliver(batch, np.array([[item.row + 1, 0, 9] for item in batch], dtype=np.float32))
    assert submission.future.result(timeout=0).tolist() == [[1, 0], [1, 0], [1, 0]]


def test_parts_of_a_text_are_averaged_by_their_tokens():
    """Unit vectors of the parts, weighted by length, then unit norm."""
    submission = Submission(1, 2, Priority.BULK)
    ids = [np.zeros(length, dtype=np.int32) for length in (3, 1)]
    parts = [Item(submission, 0, TokenizedPart(one), 2, index) for index, one in enumerate(ids)]
    submission.deliver(parts[:1], np.array([[5, 0]], dtype=np.float32))
    assert not submission.future.done()
    submission.deliver(parts[1:], np.array([[0, 7]], dtype=np.float32))
    assert np.allclose(submission.future.result(timeout=0), np.array([[3, 1]]) / np.sqrt(10))
