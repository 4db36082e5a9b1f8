"""The device threads: load the model, take batches from the queue, run them, deliver the vectors.

Callers need no lock, and a global torch setting can be confined to these threads. On CUDA there is one, which launches the next
batch before it waits for the last one's vectors. On a CPU there are several streams, each running its own batches on its share
of the threads: small models spend much of a pass on handing work to threads and waiting for the last of them, which streams
don't do. A batch that runs alone gets all threads (unless the engine is deterministic), so that a lone query isn't slower.

Several devices have a worker each, with a copy of the model, and all of them ask one queue. There are no processes: what waits
for another process may wait for ever when that one dies, and a thread can't die without saying so.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import threading
import traceback
import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from types import TracebackType

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sightline.embedding import numa
from sightline.embedding.batching import BatchPolicy, TokenBatch
from sightline.embedding.device import Place
from sightline.embedding.encoder import Encoder
from sightline.embedding.packing import Packing
from sightline.embedding.pooling import Pooler
from sightline.embedding.submissions import Item, Submission, SubmissionQueue
from sightline.errors import DeviceFailed, EmbedderClosed, NonFiniteEmbedding, SightlineError
from sightline.types import FloatArray

log = logging.getLogger(__name__)

# More streams than this wait for the interpreter's lock instead of computing.
_MOST_STREAMS = 4
# Below this many tokens a pass takes longer on several threads than on one: waking the others for each operator costs more than
# they bring (MiniLM, two cores, one thread and two: bfloat16 8 tokens 3.5 and 5.3 ms, 64 tokens 10.2 and 10.0, 128 17.6 and 14.3,
# 250 33.4 and 22.0; float32 8.6 and 11.0, 22.7 and 25.8, 41.2 and 33.9, 75.0 and 46.6; int8 about the same from 96 on).
_WORTH_ALL_THREADS = 128

# Workers whose thread may still run. The interpreter's exit waits for them: a thread that it kills inside torch aborts the
# process.
_running: weakref.WeakSet[DeviceWorker] = weakref.WeakSet()

# Held while torch's default number of threads is another one for a moment: a thread that then met torch would keep it.
_setting_threads = threading.Lock()


@atexit.register
def _stop_all() -> None:
    for worker in list(_running):
        worker.stop()


def _forget() -> None:
    """In a forked child: whoever held the lock isn't there, and neither are the threads."""
    global _setting_threads
    _setting_threads = threading.Lock()
    _running.clear()


if hasattr(os, "register_at_fork"):  # not on Windows, which doesn't fork
    os.register_at_fork(after_in_child=_forget)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model on its device, and how it is run."""

    encoder: Encoder
    pooler: Pooler
    device: torch.device
    dtype: str
    policy: BatchPolicy


# Device, number format, whether texts are packed, and the token budget of a pass.
Summary = tuple[str, str, Packing, int]


class DeviceWorkers:
    """A worker for each place, all served from one queue. One that fails ends them all, and every caller hears of it.

    Args:
        places: Where copies of the model run.
        load: Makes the model at a place; called in the first thread of each, at the same time.
        queue: Where batches come from.
        threads: CPU threads of all of them together; None leaves torch's choice. Other threads' stay as they are.
        on_batch: Told `(texts, tokens)` after each batch.
        even: Every place gets the same number of threads, which the same bits need.
    """

    def __init__(
        self,
        places: Sequence[Place],
        load: Callable[[Place], Loaded],
        queue: SubmissionQueue,
        threads: int | None,
        on_batch: Callable[[int, int], None],
        *,
        even: bool = False,
    ) -> None:
        shares = _threads_of(places, threads, even=even)
        self._fate = _Fate(queue, places, sum(map(_num_streams, places, shares)))
        self._workers = [DeviceWorker(*each, load, queue, self._fate, on_batch) for each in zip(places, shares, strict=True)]

    def wait_loaded(self) -> list[Summary]:
        """Wait for all copies of the model; raises what ended a worker, without waiting for the others."""
        return self._fate.wait_loaded()

    def stop(self) -> None:
        """Close the queue, and wait for the threads to end."""
        for worker in self._workers:
            worker.stop()


class DeviceWorker:
    """Runs `load(place)` and then batches of `queue`, in threads of its own."""

    def __init__(
        self,
        place: Place,
        threads: int,
        load: Callable[[Place], Loaded],
        queue: SubmissionQueue,
        fate: _Fate,
        on_batch: Callable[[int, int], None],
    ) -> None:
        self._place, self._threads, self._load, self._queue, self._fate = place, threads, load, queue, fate
        self._on_batch = on_batch
        self._process = os.getpid()
        self._name = "sightline-device" if fate.shared_by == 1 else f"sightline-device-{place.name}"
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()
        _running.add(self)

    def stop(self) -> None:
        """Close the queue, and wait for the threads to end where there are any (a forked child has none)."""
        self._queue.close(EmbedderClosed())
        if self._process == os.getpid() and not threading.current_thread().name.startswith("sightline-device"):
            self._thread.join()

    def _run(self) -> None:
        loaded: Loaded | None = None
        try:
            _settle(self._place)
            with torch.inference_mode():
                loaded = self._load(self._place)
            summary = (self._place.name, loaded.dtype, loaded.encoder.packing, loaded.policy.max_batch_tokens)
            self._fate.loaded(self._place, summary)
            self._run_streams(loaded)
        except BaseException as error:  # noqa: BLE001 - whatever ended the thread must reach every caller, or they wait for ever
            self._fate.failed(self._place, error)
        finally:
            loaded = None  # the model's memory can only be returned once nothing holds it
            self._fate.forget_frames()
            with suppress(RuntimeError):  # which a lost device answers to everything
                _return_memory()

    def _run_streams(self, loaded: Loaded) -> None:
        streams = _num_streams(self._place, self._threads)
        shares = _ThreadShares(self._threads, streams, fixed=loaded.policy.deterministic)
        others = [
            threading.Thread(target=self._stream, args=(loaded, shares), name=f"{self._name}-{number}", daemon=True)
            for number in range(1, streams)
        ]
        for thread in others:
            thread.start()
        self._stream(loaded, shares)
        for thread in others:
            thread.join()
        del loaded  # where a stream ended in an error, its traceback leads here

    def _stream(self, loaded: Loaded, shares: _ThreadShares) -> None:
        try:
            with torch.inference_mode():
                _Loop(self._place, loaded, self._queue, shares, self._fate.streams, self._on_batch).run()
        except BaseException as error:  # noqa: BLE001 - as above
            self._fate.failed(self._place, error)


class _Fate:
    """What the workers of one queue share: who has loaded, and the first error, which ends them all."""

    def __init__(self, queue: SubmissionQueue, places: Sequence[Place], streams: int) -> None:
        self.streams, self.shared_by = streams, len(places)
        self._queue, self._places = queue, places
        self._summaries: dict[Place, Summary] = {}
        self._error: BaseException | None = None
        self._traces: list[TracebackType] = []
        self._changed = threading.Condition()

    def loaded(self, place: Place, summary: Summary) -> None:
        """The model is at `place`."""
        with self._changed:
            self._summaries[place] = summary
            self._changed.notify_all()

    def failed(self, place: Place, error: BaseException) -> None:
        """Answer everybody who waits, and everybody who comes, with `error` and the name of the device."""
        with self._changed:
            self._traces += [one.__traceback__ for one in _and_causes(error) if one.__traceback__ is not None]
            if self._error is None:
                self._error = self._named(place, error)
            self._changed.notify_all()
        self._queue.close(self._error)

    def wait_loaded(self) -> list[Summary]:
        """Wait until the model is everywhere; raises what ended a worker."""
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or len(self._summaries) == self.shared_by)
            if self._error is not None:
                raise self._error
            return [self._summaries[place] for place in self._places]

    def forget_frames(self) -> None:
        """An error's frames name the model; whoever keeps the error must not keep that."""
        with self._changed:
            for trace in self._traces:
                traceback.clear_frames(trace)

    def _named(self, place: Place, error: BaseException) -> BaseException:
        """What is wrong with the model is wrong everywhere; anything else is one device's of several."""
        if self.shared_by == 1 or isinstance(error, SightlineError) or not isinstance(error, Exception):
            return error
        doing = "embedding" if place in self._summaries else "loading the model"
        others = [other.name for other in self._places if other is not place]
        return _device_failed(place, doing, error, f"Make a new engine, without it for example: devices={others}.")


def _device_failed(place: Place, doing: str, error: BaseException, advice: str) -> DeviceFailed:
    failed = DeviceFailed(f"The device {place.name} failed while {doing} ({type(error).__name__}: {error}). {advice}", place.name)
    failed.__cause__ = error
    return failed


def _and_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _settle(place: Place) -> None:
    """Make this thread one of the place's: pinned to its cores, or with its GPU as the current one, where kernels launch."""
    if place.cores is not None:
        numa.pin(place.cores)
    if place.device.type == "cuda" and place.device.index is not None:
        torch.cuda.set_device(place.device)


def _num_streams(place: Place, threads: int) -> int:
    return min(threads, _MOST_STREAMS) if place.device.type == "cpu" else 1


def _threads_of(places: Sequence[Place], threads: int | None, *, even: bool) -> list[int]:
    """The threads of each place. Nodes divide them by their cores: what was asked for among themselves, else torch's choice."""
    with _setting_threads:
        total = threads or torch.get_num_threads()
    cores = [len(place.cores) for place in places if place.cores is not None]
    if not cores:
        return [total] * len(places)
    all_cores = len(numa.usable_cores()) if threads is None else sum(cores)
    shares = [max(1, total * count // all_cores) for count in cores]
    return [min(shares)] * len(shares) if even else shares


class _ThreadShares:
    """How many CPU threads a pass gets: its stream's share, or all of them when it runs alone.

    torch's setter changes the calling thread's OpenMP setting and the default of threads to come. The default is put back by
    calling it once more from a thread that then ends.
    """

    def __init__(self, threads: int, streams: int, *, fixed: bool) -> None:
        self._all, self._share, self._fixed = threads, max(1, threads // streams), fixed
        with _setting_threads:
            self._default = torch.get_num_threads()
        self._busy = 0
        self._lock = threading.Lock()
        self._current = threading.local()

    @contextmanager
    def taken(self, *, wants_all: bool) -> Iterator[None]:
        """Hold threads for one pass; all of them if it wants them and nobody else runs."""
        with self._lock:
            self._busy += 1
            alone = self._busy == 1 and wants_all and not self._fixed
        try:
            self._set(self._all if alone else self._share)
            yield
        finally:
            with self._lock:
                self._busy -= 1

    def _set(self, threads: int) -> None:
        if getattr(self._current, "threads", None) == threads:
            return
        with _setting_threads:
            torch.get_num_threads()  # a thread's first use of torch sets it to the default: let that be over
            torch.set_num_threads(threads)
            restorer = threading.Thread(target=torch.set_num_threads, args=(self._default,))
            restorer.start()
            restorer.join()
        self._current.threads = threads


class _Loop:
    def __init__(
        self,
        place: Place,
        loaded: Loaded,
        queue: SubmissionQueue,
        shares: _ThreadShares,
        streams: int,
        on_batch: Callable[[int, int], None],
    ) -> None:
        self._place, self._loaded, self._queue, self._shares, self._on_batch = place, loaded, queue, shares, on_batch
        self._streams = streams
        self._policy = loaded.policy
        self._depth = 1 if loaded.device.type == "cuda" else 0
        self._launched: deque[tuple[list[Item], Callable[[], FloatArray]]] = deque()

    def run(self) -> None:
        """Until the queue is closed: launch, and deliver what was launched `depth` batches ago."""
        while True:
            items = self._queue.next(self._policy, wait=not self._launched, streams=self._streams)
            if items:
                with self._shares.taken(wants_all=self._queue.idle and sum(map(len, items)) >= _WORTH_ALL_THREADS):
                    self._launch(items)
            elif not self._launched:
                return
            self._deliver_all_but(0 if items is None else self._depth)

    def _launch(self, items: list[Item]) -> None:
        """Start a batch. Out of device memory: in halves, with half the budget for good; a whole one is tried again."""
        pieces, tried_again = [items], None
        while pieces:
            piece = pieces.pop()
            size, is_whole = self._policy.size(list(map(len, piece))), len(piece) == 1 or self._policy.deterministic
            if size > self._policy.max_batch_tokens and not is_whole:
                pieces += [piece[len(piece) // 2 :], piece[: len(piece) // 2]]
                continue
            if self._is_started(piece):
                continue
            self._deliver_all_but(0)
            _return_memory()
            if not is_whole:
                self._halve_budget(size)
                pieces.append(piece)
            elif tried_again is not piece:
                pieces.append(tried_again := piece)
            else:
                self._fail(piece, SightlineError(
                    f"The device {self._place.name} has no memory for a pass of {size:,} tokens, which can't be smaller. Free the"
                    " device, choose another one, or lower max_length if texts are that long."
                ))  # fmt: skip

    def _is_started(self, items: list[Item]) -> bool:
        """Start a pass; False when the device has no memory for it. What else goes wrong is its callers' to hear."""
        try:
            self._launched.append((items, self._forward(items)))
        except torch.OutOfMemoryError:
            return False
        except Exception as error:  # noqa: BLE001 - a failed batch fails its callers; the engine lives on for the others
            self._fail(items, error)
        return True

    def _halve_budget(self, size: int) -> None:
        """Until what a pass of `size` tokens needed isn't allowed any more."""
        budget = self._policy.max_batch_tokens
        while budget >= size:
            budget //= 2
        self._policy = replace(self._policy, max_batch_tokens=budget)
        log.warning("%s is out of memory; going on with max_batch_tokens=%d", self._place.name, budget)

    def _deliver_all_but(self, kept: int) -> None:
        while len(self._launched) > kept:
            self._deliver(*self._launched.popleft())

    def _forward(self, items: list[Item]) -> Callable[[], FloatArray]:
        lengths = [len(item) for item in items]
        ids = np.concatenate([item.part.ids for item in items]).astype(np.int64)
        prompts = [item.part.prompt_length for item in items]
        batch = TokenBatch(ids, lengths, self._policy.filler(lengths), prompts)
        # A product over the pooled tokens alone has another number of rows in every batch, and with it other bits.
        rows = None if self._policy.deterministic else self._loaded.pooler.rows(lengths, prompts)
        hidden = self._loaded.encoder.hidden_states(batch, rows)
        return _to_host(self._loaded.pooler(hidden, lengths, prompts) if rows is None else self._loaded.pooler.finish(hidden))

    def _deliver(self, items: list[Item], wait: Callable[[], FloatArray]) -> None:
        try:
            vectors = wait()
        except Exception as error:  # noqa: BLE001 - CUDA reports a failed launch here; its callers must hear of it
            self._fail(items, error)
            return
        self._on_batch(sum(1 for item in items if item.num_parts == 1), sum(map(len, items)))
        finite: npt.NDArray[np.bool_] = np.asarray(np.isfinite(vectors).all(axis=1))
        groups: dict[Submission, list[int]] = defaultdict(list)
        for index, item in enumerate(items):
            groups[item.submission].append(index)
        for submission, indices in groups.items():
            if not submission.over:
                _deliver_group(submission, [items[index] for index in indices], vectors[indices], finite[indices])
        self._queue.finished(items)

    def _fail(self, items: list[Item], error: Exception) -> None:
        """A bad batch is its callers' only; but after some errors a GPU gives nothing else any more: that one is everybody's."""
        if _is_lost(self._place.device):
            raise _device_failed(self._place, "embedding", error, "Its state is lost until the process ends: start it anew.")
        for submission in {item.submission for item in items}:
            submission.fail(error)
        self._queue.finished(items)


def _is_lost(device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
    except Exception:  # noqa: BLE001 - whatever it is, nothing can be asked of the device any more
        return True
    return False


def _deliver_group(submission: Submission, items: list[Item], vectors: FloatArray, finite: npt.NDArray[np.bool_]) -> None:
    if not finite.all():
        row = items[int(np.argmin(finite))].row
        error = NonFiniteEmbedding(
            f"The model gave NaN or infinity for text {row}. Load it with dtype='float32' (float16 overflows in many models).",
            row,
        )
        submission.fail(error)
        return
    try:
        submission.deliver(items, vectors)
    except Exception as error:  # noqa: BLE001 - the caller's own progress callback may raise anything; it is theirs to hear
        submission.fail(error)


def _to_host(vectors: Tensor) -> Callable[[], FloatArray]:
    """Start copying float32 vectors to the host; call the result to wait for them."""
    if vectors.device.type != "cuda":
        array: FloatArray = vectors.float().cpu().numpy()
        return lambda: array
    host = torch.empty(vectors.shape, dtype=torch.float32, pin_memory=True)
    host.copy_(vectors, non_blocking=True)
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record(torch.cuda.current_stream(vectors.device))

    def wait() -> FloatArray:
        copied.synchronize()
        rows: FloatArray = host.numpy()
        return rows

    return wait


def _return_memory() -> None:
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
