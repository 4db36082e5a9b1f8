"""NUMA nodes: the cores of each, threads that stay on one, and weights in its memory.

A core reaches the memory of its own socket faster than that of another. A copy of the model on each node, used by that node's
cores alone, keeps every weight near to who multiplies with it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

_SYSTEM = Path("/sys/devices/system/node")


def usable_cores() -> frozenset[int]:
    """The cores that this thread may run on."""
    return frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset(range(os.cpu_count() or 1))


def nodes(system: Path = _SYSTEM) -> dict[int, tuple[int, ...]]:
    """Each node's usable cores, for nodes that have some; where the system doesn't tell, all are node 0."""
    usable, found = usable_cores(), {}
    for folder in system.glob("node[0-9]*"):
        cores = usable & _cores((folder / "cpulist").read_text())
        if cores:
            found[int(folder.name.removeprefix("node"))] = tuple(sorted(cores))
    return dict(sorted(found.items())) or {0: tuple(sorted(usable))}


def pin(cores: Iterable[int]) -> None:
    """Keep this thread, and the threads that it will start, on `cores`, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def own_memory(model: nn.Module) -> None:
    """Copy the weights: as loaded they may be pages of the file, which all copies of the model share, wherever they lie."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()


def _cores(listed: str) -> set[int]:
    """`0-3,8` as {0, 1, 2, 3, 8}."""
    spans = [span.partition("-") for span in listed.strip().split(",") if span]
    return {core for first, _, last in spans for core in range(int(first), int(last or first) + 1)}
