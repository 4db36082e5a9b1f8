"""Index folders in a process of its own, each into a collection in memory, and tell what became of it and what that took.

`python one_run.py OUT FOLDER...` writes a list of results, one for each folder, as JSON. With SIGHTLINE_TEST_USER, all but the
first folder are indexed as that user; by then everything is imported, so that he needn't be able to read it.
"""

from __future__ import annotations

import json
import os
import pwd
import resource
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import sightline
from sightline.stores import open_store
from sightline.testing import HashEmbedder

LIMITS = sightline.ParseLimits(timeout_s=60, memory_mib=1024, processes=1)


def main(out: str, folders: list[str]) -> None:
    """Index them one after the other."""
    file = open(out, "w", encoding="utf-8")  # noqa: SIM115 - before he may not
    results = []
    for number, folder in enumerate(folders):
        if number == 1 and "SIGHTLINE_TEST_USER" in os.environ:
            _become(os.environ["SIGHTLINE_TEST_USER"])
        results.append(_indexed(Path(folder), f"memory:{number}"))
    with file:
        json.dump(results, file)


def _become(name: str) -> None:
    user = pwd.getpwnam(name)
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)


def _indexed(folder: Path, url: str) -> dict[str, Any]:
    before = _forget_peak()
    started = time.monotonic()
    summary = sightline.index([folder], into=url, model=HashEmbedder(), parsing=LIMITS)
    seconds = time.monotonic() - started
    with closing(open_store(url)) as store:
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
    """Have the system count the peak of this process anew, where it may; what it holds now, in MiB."""
    with suppress(PermissionError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    return _peak_mib()


def _peak_mib() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(status.partition("VmHWM:")[2].split()[0]) // 2**10


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
