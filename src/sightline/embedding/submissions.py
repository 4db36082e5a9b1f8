"""The queue under the blocking calls: who is served next, and where the results go. No torch, no clock.

A submission is one call. Batches are filled from the most urgent submission first, then from the others, so that concurrent
callers share batches. Within a priority the submission that has had the fewest tokens goes first: a query beside a bulk job of
the same priority waits for one batch, not for the job. Now and then it is the turn of whoever is here longest.

A query that comes while a batch runs waits for it. So as long as queries come, batches of bulk work are small.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from sightline.cutting import cut
from sightline.embedding.batching import BatchPolicy, Filling
from sightline.embedding.tokens import TokenizedPart
from sightline.types import EmbeddingProgress, FloatArray, OnEmbeddingProgress, Priority, Truncation

# A batch of fewer tokens isn't worth a stream of its own.
LEAST_SHARE = 128
# Whoever is here longest gets at least this part of the work, or a flood of more urgent calls would starve it.
_PART_OF_THE_OLDEST = 8
# Beside queries a batch of bulk work has this part of the budget. With MiniLM on two cores, one query after the other beside bulk
# work (p50 and p99 in ms, tokens/s of all): the whole 169, 487, 15,900; a quarter 47, 116, 14,600; an eighth 14, 31, 13,500; a
# sixteenth 16, 35, 12,900.
_PART_BESIDE_QUERIES = 8
# So many batches after the last query there are none to be expected.
_BATCHES_AFTER_QUERY = 64
# Shares are a little larger than even, or one text would be left over for a pass of its own.
_SLACK = 16


@dataclass(eq=False, slots=True)
class Item:
    """One part of one text on its way through the model."""

    submission: Submission
    row: int
    part: TokenizedPart
    num_parts: int = 1
    index: int = 0

    def __len__(self) -> int:
        return len(self.part.ids)


@dataclass(eq=False)
class Submission:
    """One call: its result array, what of it waits, and the future that the caller holds.

    Args:
        num_texts: Rows of the result.
        dimensions: Columns of the result.
        priority: Lower is served first.
        on_progress: Called in the device thread after each batch that held texts of this call.
        refill: Called (outside the queue's lock) when few items wait and `exhausted` isn't set.
    """

    num_texts: int
    dimensions: int
    priority: Priority
    on_progress: OnEmbeddingProgress | None = None
    refill: Callable[[], None] | None = None
    future: Future[FloatArray] = field(default_factory=Future)
    waiting: deque[Item] = field(default_factory=deque)
    shortest: int = 0  # of all items so far, in tokens
    exhausted: bool = False
    refilling: bool = True
    served_tokens: int = 0
    tokens_done: int = 0
    rows_done: int = 0
    truncation: Truncation | None = None  # set before the last items are queued

    def __post_init__(self) -> None:
        self._result: FloatArray = np.empty((self.num_texts, self.dimensions), dtype=np.float32)
        self._parts: dict[int, dict[int, FloatArray]] = {}
        self._lock = threading.RLock()  # several streams may deliver at once
        # Weakly: a future keeps its callbacks, and a cycle would keep the result until Python looks for cycles, which is rare.
        self.future.add_done_callback(partial(_let_go, weakref.ref(self)))

    @property
    def over(self) -> bool:
        """Answered, failed or cancelled: nothing more is to be computed for it."""
        return self.future.done()

    def deliver(self, items: list[Item], vectors: FloatArray) -> None:
        """Take the uncut vectors `(len(items), native)` of items of this submission; answer the caller after the last."""
        with self._lock:
            if self.over:
                return
            self.rows_done += self._store(items, vectors)
            self.tokens_done += sum(map(len, items))
            if self.on_progress is not None:
                self.on_progress(EmbeddingProgress(self.rows_done, self.num_texts, self.tokens_done, self.truncation))
            if self.rows_done == self.num_texts and self.future.set_running_or_notify_cancel():
                self.future.set_result(self._result)

    def fail(self, error: BaseException) -> None:
        """Answer the caller with `error`; later results of this submission are dropped."""
        with self._lock:
            if not self.over and self.future.set_running_or_notify_cancel():
                self.future.set_exception(error)

    def _store(self, items: list[Item], vectors: FloatArray) -> int:
        """Write finished rows; returns how many."""
        single = [index for index, item in enumerate(items) if item.num_parts == 1]
        if single:
            self._result[[items[index].row for index in single]] = cut(vectors[single], self.dimensions)
        return len(single) + sum(self._average(item, vectors[index]) for index, item in enumerate(items) if item.num_parts > 1)

    def _average(self, item: Item, vector: FloatArray) -> int:
        """Keep the part's unit vector, weighted by its tokens; sum them in the text's order when all are there."""
        parts = self._parts.setdefault(item.row, {})
        parts[item.index] = len(item) * cut(vector[None], len(vector))
        if len(parts) < item.num_parts:
            return 0
        total = sum(parts[index] for index in range(item.num_parts))
        self._result[item.row] = cut(np.asarray(total), self.dimensions)[0]
        del self._parts[item.row]
        return 1


def _let_go(done: weakref.ref[Submission], _: Future[FloatArray]) -> None:
    """The device thread remembers its last submissions, which must not keep the engine of who asked."""
    submission = done()
    if submission is not None:
        submission.refill = None


class SubmissionQueue:
    """Items of all submissions, handed out batch by batch. Thread-safe."""

    def __init__(self, low_water: int = 512) -> None:
        self._condition = threading.Condition()
        self._active: list[Submission] = []
        self._low_water = low_water
        self._closed_with: BaseException | None = None
        self._running_tokens = 0
        self._passed_over = 0  # work that was done since it was the turn of whoever is here longest
        self._most_urgent = Priority.BULK  # of the last batches
        self._batches_since = 0  # that one

    def open(self, submission: Submission) -> None:
        """Take a submission on, before its first items are there, so that `close` answers it whatever happens."""
        with self._condition:
            closed_with = self._closed_with
            if closed_with is None:
                peers = [other.served_tokens for other in self._active if other.priority == submission.priority]
                submission.served_tokens = min(peers, default=1) - 1
                self._active.append(submission)
        if closed_with is not None:
            submission.fail(closed_with)

    def add(self, submission: Submission, items: Iterable[Item], *, exhausted: bool) -> bool:
        """Queue `items`, longest first. True if more are wanted at once; otherwise `refill` will be called later."""
        with self._condition:
            if submission.over:
                return False
            ordered = sorted(items, key=len, reverse=True)
            submission.waiting.extend(ordered)
            if ordered:
                submission.shortest = min(submission.shortest or len(ordered[-1]), len(ordered[-1]))
            submission.exhausted = exhausted
            submission.refilling = not exhausted and len(submission.waiting) < 2 * self._low_water
            self._condition.notify_all()
            return submission.refilling

    def next(self, policy: BatchPolicy, *, wait: bool = True, streams: int = 1) -> list[Item] | None:
        """The items of the next batch; None when closed, or when nothing is ready and `wait` is False.

        `streams` threads ask for batches side by side and say when each is `finished`: what there is to do is shared out.
        """
        with self._condition:
            while True:
                self._active = [submission for submission in self._active if not submission.over]
                items = [] if self._is_too_little(policy, streams) else self._fill(policy, streams)
                if items:
                    break
                if self._closed_with is not None or not wait:
                    return None
                self._condition.wait()
            self._running_tokens += sum(map(len, items))
            self._note_urgency(items[0].submission.priority)
            hungry = [submission for submission in self._active if self._is_hungry(submission)]
            for submission in hungry:
                submission.refilling = True
        for submission in hungry:
            refill = submission.refill
            if refill is not None:
                refill()
        return items

    def finished(self, items: Iterable[Item]) -> None:
        """A batch was computed."""
        with self._condition:
            self._running_tokens -= sum(map(len, items))
            self._condition.notify()

    def close(self, error: BaseException) -> None:
        """Fail everything that waits, and everything that comes later, with `error`."""
        with self._condition:
            self._closed_with = self._closed_with or error
            waiting, self._active = self._active, []
            self._condition.notify_all()
        # Outside the queue's lock: a submission that is being delivered holds its own, and its caller's callback may want ours.
        for submission in waiting:
            submission.fail(error)

    @property
    def idle(self) -> bool:
        """Whether nothing waits."""
        with self._condition:
            return not any(submission.waiting for submission in self._active)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed_with is not None

    def _is_hungry(self, submission: Submission) -> bool:
        return not submission.exhausted and not submission.refilling and len(submission.waiting) < self._low_water

    def _shared_out(self, policy: BatchPolicy, streams: int) -> BatchPolicy:
        """A smaller budget where full batches would leave some stream less than its part of all that is to be done."""
        if streams == 1 or not policy.packs or policy.deterministic:
            return policy
        waiting = self._waiting_tokens()
        if policy.evens_out:
            # Rounds of one size, and smaller and smaller passes at the end: else the last one is one stream's alone. What runs
            # doesn't count, because it may be over in a moment as well as in a while.
            rounds = max(-(-waiting // (streams * policy.max_batch_tokens)), 1)
            even = -(-waiting // (streams * rounds))
        else:
            even = -(-(waiting + self._running_tokens) // streams)
        share = max(even + _SLACK, LEAST_SHARE)
        return policy if share >= policy.max_batch_tokens else replace(policy, max_batch_tokens=share)

    def _is_too_little(self, policy: BatchPolicy, streams: int) -> bool:
        """Whether a second stream had better wait: the first will be through in a moment, and more may have come by then."""
        if streams == 1 or policy.deterministic or not self._running_tokens:
            return False
        return self._waiting_tokens() + self._running_tokens < LEAST_SHARE

    def _waiting_tokens(self) -> int:
        return sum(len(item) for submission in self._active for item in submission.waiting)

    def _fill(self, policy: BatchPolicy, streams: int) -> list[Item]:
        first, oldest = self._whose_turn(policy)
        if first is None:
            return []
        if first.priority > self._most_urgent and not policy.deterministic:
            policy = _small(policy)
        filling = Filling(self._shared_out(policy, streams))
        items: list[Item] = []
        for submission in sorted(self._active, key=lambda one: (one is not first, one.priority, one.served_tokens)):
            if submission.priority > first.priority and not policy.deterministic:
                break  # whose texts the urgent ones would wait for; a deterministic pack has its size whatever is in it
            taken = _take(submission, filling)
            submission.served_tokens += sum(map(len, taken))
            items += taken
        self._passed_over = 0 if first is oldest else self._passed_over + max(sum(map(len, items)), LEAST_SHARE)
        return items

    def _whose_turn(self, policy: BatchPolicy) -> tuple[Submission | None, Submission | None]:
        """Whom the next batch begins with, and who is here longest."""
        waiting = [one for one in self._active if one.waiting]  # in the order in which they came
        if not waiting:
            return None, None
        first = min(waiting, key=lambda one: (one.priority, one.served_tokens))
        share = _small(policy) if waiting[0].priority > first.priority else policy
        due = self._passed_over >= (_PART_OF_THE_OLDEST - 1) * share.max_batch_tokens
        return (waiting[0] if due else first), waiting[0]

    def _note_urgency(self, priority: Priority) -> None:
        """Called for each batch: how urgent the work of late was."""
        self._batches_since += 1
        if priority <= self._most_urgent or self._batches_since >= _BATCHES_AFTER_QUERY:
            self._most_urgent, self._batches_since = priority, 0


def _small(policy: BatchPolicy) -> BatchPolicy:
    """For bulk work beside queries."""
    least = min(LEAST_SHARE, policy.max_batch_tokens)
    return replace(policy, max_batch_tokens=max(policy.max_batch_tokens // _PART_BESIDE_QUERIES, least))


def _take(submission: Submission, filling: Filling) -> list[Item]:
    """Longest first; then, where nothing is padded, the shortest fill what is left of the budget."""
    waiting, taken = submission.waiting, []
    if filling.policy.deterministic and filling.policy.packs:
        return _take_fitting(submission, filling)
    while waiting and filling.admits(len(waiting[0])):
        filling.add(len(waiting[0]))
        taken.append(waiting.popleft())
    while waiting and filling.policy.packs and filling.admits(len(waiting[-1])):
        filling.add(len(waiting[-1]))
        taken.append(waiting.pop())
    return taken


def _take_fitting(submission: Submission, filling: Filling) -> list[Item]:
    """Longest first, each that still fits: what a pack of fixed length leaves empty is computed all the same."""
    waiting, policy = submission.waiting, filling.policy
    if not waiting:
        return []
    rows = policy.size_class(filling.lengths[0] if filling.lengths else len(waiting[0]))
    least = max(policy.shortest_of(rows), submission.shortest)
    taken, passed = [], []
    while waiting and filling.total + least <= rows:
        item = waiting.popleft()
        length = len(item)
        if filling.total + length <= rows and policy.size_class(length) == rows:
            filling.add(length)
            taken.append(item)
        else:
            passed.append(item)
    waiting.extendleft(reversed(passed))
    return taken
