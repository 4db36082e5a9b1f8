"""Index folders in a process of its own, each into a collection in memory, and tell what became of it and what that took.

`python one_run.py OUT FOLDER...` writes a list of results, one for each folder, as JSON. A run that is to be an ordinary user's
is started as one.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import sightline
from sightline.stores import open_store
from sightline.testing import HashEmbedder

LIMITS = sightline.ParseLimits(timeout_s=60, memory_mib=1024, processes=1)


def main(out: str, folders: list[str]) -> None:
    """Index them one after the other."""
    results = [_indexed(Path(folder), f"memory:{number}") for number, folder in enumerate(folders)]
    Path(out).write_text(json.dumps(results), encoding="utf-8")


def _indexed(folder: Path, url: str) -> dict[str, Any]:
    before = _forget_peak()
    started = time.monotonic()
    summary = sightline.index([folder], into=url, model=HashEmbedder(), parsing=LIMITS)
    seconds = time.monotonic() - started
    with open_store(url) as store:
        sources = store.sources()
    return {
        "sources": sorted(sources),
        "skipped": {one.source: one.reason for one in summary.skipped},
        "empty": summary.documents_empty,
        "seconds": seconds,
        "mib": _peak_mib() - before,
        "children_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 2**10,
    }


def _forget_peak() -> int:
    """Have the system count the peak of this process anew, where it can; what it holds now, in MiB."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    return _peak_mib()


def _peak_mib() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(status.partition("VmHWM:")[2].split()[0]) // 2**10


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
