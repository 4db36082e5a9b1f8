"""The device threads: load the model, take batches from the queue, run them, deliver the vectors.

Callers need no lock, and a global torch setting can be confined to these threads. On CUDA there is one, which launches the next
batch before it waits for the last one's vectors. On a CPU there are several streams, each running its own batches on its share
of the threads: small models spend much of a pass on handing work to threads and waiting for the last of them, which streams
don't do. A batch that runs alone gets all threads (unless the engine is deterministic), so that a lone query isn't slower.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import threading
import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sightline.embedding.batching import BatchPolicy, TokenBatch
from sightline.embedding.encoder import Encoder
from sightline.embedding.packing import Packing
from sightline.embedding.pooling import Pooler
from sightline.embedding.submissions import Item, Submission, SubmissionQueue
from sightline.errors import EmbedderClosed, NonFiniteEmbedding, SightlineError
from sightline.types import FloatArray

log = logging.getLogger(__name__)

# More streams than this wait for the interpreter's lock instead of computing.
_MOST_STREAMS = 4
# Below this many tokens a pass takes longer on several threads than on one: waking the others for each operator costs more than
# they bring (MiniLM, two cores: 8 tokens 4.1 ms on one thread and 7.0 on two, 250 tokens 28.9 and 30.7).
_WORTH_ALL_THREADS = 256

# Workers whose thread may still run. The interpreter's exit waits for them: a thread that it kills inside torch aborts the
# process.
_running: weakref.WeakSet[DeviceWorker] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    for worker in list(_running):
        worker.stop()


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model on its device, and how it is run."""

    encoder: Encoder
    pooler: Pooler
    device: torch.device
    dtype: str
    policy: BatchPolicy


class DeviceWorker:
    """Runs `load()` and then every batch of `queue` in threads of its own.

    Args:
        load: Makes the model; called in the first thread.
        queue: Where batches come from.
        threads: CPU threads of all streams together; None leaves torch's choice. Other threads' stay as they are.
        on_batch: Told `(texts, tokens)` after each batch.
    """

    def __init__(
        self, load: Callable[[], Loaded], queue: SubmissionQueue, threads: int | None, on_batch: Callable[[int, int], None]
    ) -> None:
        self._load, self._queue, self._on_batch = load, queue, on_batch
        self._threads = threads or torch.get_num_threads()
        self._ready = threading.Event()
        self._summary: tuple[str, str, Packing, int] | None = None
        self._error: BaseException | None = None
        self._process = os.getpid()
        self._thread = threading.Thread(target=self._run, name="sightline-device", daemon=True)
        self._thread.start()
        _running.add(self)

    def wait_loaded(self) -> tuple[str, str, Packing, int]:
        """Wait for the model: `(device, dtype, packing, max_batch_tokens)`; raises what loading it raised."""
        self._ready.wait()
        if self._error is not None:
            raise self._error
        assert self._summary is not None
        return self._summary

    def stop(self) -> None:
        """Close the queue, and wait for the threads to end where there are any (a forked child has none)."""
        self._queue.close(EmbedderClosed())
        if self._process == os.getpid() and not threading.current_thread().name.startswith("sightline-device"):
            self._thread.join()

    def _run(self) -> None:
        loaded: Loaded | None = None
        try:
            with torch.inference_mode():
                loaded = self._load()
            self._summary = (str(loaded.device), loaded.dtype, loaded.encoder.packing, loaded.policy.max_batch_tokens)
            self._ready.set()
            self._run_streams(loaded)
        except BaseException as error:  # noqa: BLE001 - whatever ended the thread must reach every caller, or they wait for ever
            self._error = error
            self._queue.close(error)
        finally:
            self._ready.set()
            loaded = None  # the model's memory can only be returned once nothing holds it
            _return_memory()

    def _run_streams(self, loaded: Loaded) -> None:
        streams = min(self._threads, _MOST_STREAMS) if loaded.device.type == "cpu" else 1
        shares = _ThreadShares(self._threads, streams, fixed=loaded.policy.deterministic)
        others = [
            threading.Thread(target=self._stream, args=(loaded, shares), name=f"sightline-device-{number}", daemon=True)
            for number in range(1, streams)
        ]
        for thread in others:
            thread.start()
        self._stream(loaded, shares)
        for thread in others:
            thread.join()

    def _stream(self, loaded: Loaded, shares: _ThreadShares) -> None:
        try:
            with torch.inference_mode():
                _Loop(loaded, self._queue, shares, self._on_batch).run()
        except BaseException as error:  # noqa: BLE001 - as above
            self._error = error
            self._queue.close(error)


class _ThreadShares:
    """How many CPU threads a pass gets: its stream's share, or all of them when it runs alone.

    torch's setter changes the calling thread's OpenMP setting and the default of threads to come. The default is put back by
    calling it once more from a thread that then ends.
    """

    def __init__(self, threads: int, streams: int, *, fixed: bool) -> None:
        self.streams = streams
        self._all, self._share, self._fixed = threads, max(1, threads // streams), fixed
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
        torch.get_num_threads()  # a thread's first use of torch sets it to the default: let that be over
        torch.set_num_threads(threads)
        self._current.threads = threads
        restorer = threading.Thread(target=torch.set_num_threads, args=(self._default,))
        restorer.start()
        restorer.join()


class _Loop:
    def __init__(
        self, loaded: Loaded, queue: SubmissionQueue, shares: _ThreadShares, on_batch: Callable[[int, int], None]
    ) -> None:
        self._loaded, self._queue, self._shares, self._on_batch = loaded, queue, shares, on_batch
        self._policy = loaded.policy
        self._depth = 1 if loaded.device.type == "cuda" else 0

    def run(self) -> None:
        """Until the queue is closed: launch, and deliver what was launched `depth` batches ago."""
        launched: deque[tuple[list[Item], Callable[[], FloatArray]]] = deque()
        while True:
            items = self._queue.next(self._policy, wait=not launched, streams=self._shares.streams)
            if items:
                with self._shares.taken(wants_all=self._queue.idle and sum(map(len, items)) >= _WORTH_ALL_THREADS):
                    launched.extend(self._launch(items))
            elif not launched:
                return
            while launched and (items is None or len(launched) > self._depth):
                self._deliver(*launched.popleft())
            self._queue.finished(items or ())

    def _launch(self, items: list[Item]) -> list[tuple[list[Item], Callable[[], FloatArray]]]:
        """Start a batch. Out of device memory: halve the budget for good, and this batch."""
        try:
            return [(items, self._forward(items))]
        except torch.OutOfMemoryError:
            if len(items) == 1 or self._policy.deterministic:
                message = "The device is out of memory for one batch. Lower max_length or max_batch_tokens, or free the device."
                _fail(items, SightlineError(message))
                return []
        except Exception as error:  # noqa: BLE001 - a failed batch fails its callers; the engine lives on for the others
            _fail(items, error)
            return []
        _return_memory()
        self._policy = replace(self._policy, max_batch_tokens=max(1, self._policy.max_batch_tokens // 2))
        log.warning("the device is out of memory; going on with max_batch_tokens=%d", self._policy.max_batch_tokens)
        half = len(items) // 2
        return self._launch(items[:half]) + self._launch(items[half:])

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
            _fail(items, error)
            return
        self._on_batch(sum(1 for item in items if item.num_parts == 1), sum(map(len, items)))
        finite: npt.NDArray[np.bool_] = np.asarray(np.isfinite(vectors).all(axis=1))
        groups: dict[Submission, list[int]] = defaultdict(list)
        for index, item in enumerate(items):
            groups[item.submission].append(index)
        for submission, indices in groups.items():
            if not submission.over:
                _deliver_group(submission, [items[index] for index in indices], vectors[indices], finite[indices])


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


def _fail(items: list[Item], error: Exception) -> None:
    for submission in {item.submission for item in items}:
        submission.fail(error)


def _to_host(vectors: Tensor) -> Callable[[], FloatArray]:
    """Start copying float32 vectors to the host; call the result to wait for them."""
    if vectors.device.type != "cuda":
        array: FloatArray = vectors.float().cpu().numpy()
        return lambda: array
    host = torch.empty(vectors.shape, dtype=torch.float32, pin_memory=True)
    host.copy_(vectors, non_blocking=True)
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record()

    def wait() -> FloatArray:
        copied.synchronize()
        rows: FloatArray = host.numpy()
        return rows

    return wait


def _return_memory() -> None:
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
