"""What runs in a side's own process: `python -m benchmarks.side MODULE:FUNCTION SETTINGS OUT`."""

from __future__ import annotations

import time

STARTED = time.perf_counter()  # before anything heavy is imported: imports are part of a side's cost

import importlib  # noqa: E402
import json  # noqa: E402
import resource  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402


def usage() -> dict[str, float]:
    """What this process and its children have used until now; a side asks before it reads its own results back."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return {
        "peak_mb": (own.ru_maxrss + children.ru_maxrss) / unit,
        "cpu_seconds": sum(one.ru_utime + one.ru_stime for one in (own, children)),
        "seconds_all": time.perf_counter() - STARTED,
    }


def main() -> None:
    """Call the side and write its figures; those that it didn't take itself are taken at its end."""
    name, settings, out = sys.argv[1:]
    module, function = name.split(":")
    figures: dict[str, Any] = getattr(importlib.import_module(module), function)(json.loads(settings))
    Path(out).write_text(json.dumps({**usage(), **figures}))


if __name__ == "__main__":
    # As a module of its own name, so that a side that imports `usage` sees the same STARTED.
    sys.modules["benchmarks.side"] = sys.modules["__main__"]
    main()
