"""How fast an embedder is on this machine: a few seconds of the very texts that a run would embed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice

from sightline.planning import Calibration
from sightline.protocols import Embedder
from sightline.types import Priority, Role, TokenizedText

# A run hands over at most so many texts at once; a quick device is measured with as many, a slow one with few.
_FEWEST, _MOST = 8, 512
_SECONDS = 1.5


def calibrate(
    embedder: Embedder,
    sample: Sequence[tuple[str | TokenizedText, int | None]],
    *,
    dimensions: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Calibration | None:
    """Embed texts of the sample, again and again if they are few, for some seconds; None where there are none.

    Args:
        embedder: Who would embed; it is loaded if it isn't yet.
        sample: Texts with their tokens.
        dimensions: Length of the vectors.
        clock: Gives seconds.
    """
    if not sample:
        return None
    texts = cycle(sample)

    def seconds_for(some: Sequence[tuple[str | TokenizedText, int | None]]) -> float:
        began = clock()
        readable = [text for text, _ in some]
        embedder.submit(readable, role=Role.DOCUMENT, dimensions=dimensions, priority=Priority.BULK).result()
        return clock() - began

    loading = seconds_for(sample[:1])
    size, seconds = _FEWEST, 0.0
    measured: list[tuple[str | TokenizedText, int | None]] = []
    while seconds < _SECONDS:
        some = list(islice(texts, size))
        took = seconds_for(some)
        if took < _SECONDS and size < _MOST:
            size *= 2  # only a warm-up: the device isn't filled yet
            continue
        measured += some
        seconds += took
    counts = [count for _, count in measured if count is not None]
    tokens = sum(counts) if len(counts) == len(measured) else None
    return Calibration(texts=len(measured), tokens=tokens, seconds=seconds, loading_seconds=loading)
