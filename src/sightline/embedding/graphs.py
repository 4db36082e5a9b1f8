"""CUDA graphs for small batches: a pass is a few hundred launches, which take longer than the work they start.

A batch is filled up to a fixed number of tokens and texts, so that few graphs serve all; each is captured once it has been asked
for a few times, so that a small job doesn't pay for it. Filler is a text of its own behind the others; slots for texts that
aren't there are empty.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sightline.embedding.forward import Forward
from sightline.embedding.operators import Operators, Pack

log = logging.getLogger(__name__)

_TOKENS = (32, 64, 128, 256, 512, 1024, 2048)
_TEXTS = 32
# Asked for so often before it is captured.
_ASKED = 2
_WARM_UPS = 2
# torch allows one capture at a time in a process; there may be several devices and engines.
_capturing = threading.Lock()


class _Graph:
    """One captured pass and the buffers that it reads."""

    def __init__(self, forward: Forward, operators: Operators, tokens: int, device: torch.device, stream: Any, pool: Any) -> None:
        self._tokens = tokens
        self._inputs = torch.zeros(2 * tokens + 2 * _TEXTS + 2, dtype=torch.int64, device=device)
        self._inputs[2 * tokens + 1 : 2 * tokens + _TEXTS + 2] = tokens
        ids, positions, starts, rows = torch.split(self._inputs, [tokens, tokens, _TEXTS + 2, _TEXTS])

        def run() -> Tensor:
            return forward(Pack(ids, positions, starts.int(), (), tokens), operators, rows=rows)

        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                run()
        torch.cuda.current_stream(device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads may allocate meanwhile: by default that fails, here and there. The default stream of captures is one for
        # all devices and threads.
        with torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            self._output = run()

    def replay(self, inputs: npt.NDArray[np.int64], num_rows: int) -> Tensor:
        """Run it over new inputs; the result is overwritten by the next call."""
        self._inputs.copy_(torch.from_numpy(inputs).pin_memory(), non_blocking=True)
        self._graph.replay()
        return self._output[:num_rows]


class Graphs:
    """The graphs of one model on one device. For one thread."""

    def __init__(self, forward: Forward, operators: Operators, device: torch.device) -> None:
        self._forward, self._operators, self._device = forward, operators, device
        self._graphs: dict[int, _Graph] = {}
        self._asked: Counter[int] = Counter()
        self._stream: Any = None
        self._pool: Any = None
        self._off = False

    def replay(self, ids: npt.NDArray[np.int64], lengths: list[int], rows: npt.NDArray[np.int64]) -> Tensor | None:
        """Hidden states of `rows`; None where no graph serves the batch, or none yet."""
        tokens = next((size for size in _TOKENS if size >= len(ids)), None)
        if self._off or tokens is None or len(lengths) > _TEXTS:
            return None
        graph = self._graphs.get(tokens)
        if graph is None:
            self._asked[tokens] += 1
            if self._asked[tokens] <= _ASKED:
                return None
            graph = self._capture(tokens)
        return None if graph is None else graph.replay(_inputs(self._forward, ids, lengths, rows, tokens), len(rows))

    def _capture(self, tokens: int) -> _Graph | None:
        try:
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            self._stream = self._stream or torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            with _capturing:
                self._graphs[tokens] = _Graph(self._forward, self._operators, tokens, self._device, self._stream, self._pool)
        except RuntimeError as error:
            log.warning("CUDA graphs can't be used here, small batches take longer: %s", error)
            self._off = True
            return None
        return self._graphs[tokens]


def _inputs(
    forward: Forward, ids: npt.NDArray[np.int64], lengths: list[int], rows: npt.NDArray[np.int64], tokens: int
) -> npt.NDArray[np.int64]:
    """What a graph reads: ids, positions, starts and rows, each filled up, in one array."""
    inputs = np.zeros(2 * tokens + 2 * _TEXTS + 2, dtype=np.int64)
    inputs[: len(ids)] = ids
    positions = forward.positions.of(inputs[:tokens], np.asarray([*lengths, tokens - len(ids)], dtype=np.int64))
    inputs[tokens : 2 * tokens] = positions
    starts = inputs[2 * tokens : 2 * tokens + _TEXTS + 2]
    starts[:] = tokens
    starts[0] = 0
    starts[1 : len(lengths) + 1] = np.cumsum(lengths)
    inputs[2 * tokens + _TEXTS + 2 :][: len(rows)] = rows
    return inputs
