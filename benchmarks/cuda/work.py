"""The process that does the parts one after another; `benchmarks/gpu.py` starts it, and starts another where it dies.

A part that fails is written down and the next one runs. Where its failure broke the CUDA context, which a process can't mend,
the process ends, and the rest runs in a fresh one.
"""

from __future__ import annotations

import argparse
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.cuda import ceilings, latency, operators, passes, speed, trace
from benchmarks.cuda.lab import Lab, Record
from benchmarks.cuda.shapes import SHAPES

PARTS: dict[str, Callable[[Lab], None]] = {
    "environment": ceilings.environment,
    "ceilings": ceilings.ceilings,
    "operators": operators.operators,
    "attention": operators.attends,
    "models": passes.whole_models,
    "ways": passes.ways,
    "engines": passes.engines,
    "formats": passes.formats,
    "latency": latency.latency,
    "trace": trace.trace,
    "prefixes": latency.prefixes,
    "host": speed.host,
    "budgets": speed.budgets,
    "devices": speed.devices,
    **{f"speed {name}": (lambda lab, name=name: speed.throughput(lab, name)) for name in SHAPES},
}
BROKEN = 3
# With less than this share of what a part wants, it isn't begun.
_WORTH_BEGINNING = 0.4
_TRACEBACK_LINES = 12


def main() -> int:
    """Run the parts that are named, each with its seconds: `name=seconds`."""
    options = _options()
    device = torch.device("cuda" if torch.cuda.is_available() and not options.smoke else "cpu")
    lab = Lab(
        device, "bfloat16" if device.type == "cuda" else "float32", options.smoke or device.type != "cuda", options.work,
        Record(options.facts), tuple(options.models),
    )  # fmt: skip
    ends = time.monotonic() + options.seconds
    for part in options.parts:
        name, _, seconds = part.rpartition("=")
        lab.part, wanted, left = name, float(seconds), ends - time.monotonic()
        if left < _WORTH_BEGINNING * wanted:
            lab.leave_out(name, f"{left:.0f} s were left, it wants {wanted:.0f}")
            continue
        lab.ends = time.monotonic() + min(wanted, left)
        if not _done(lab, name, min(wanted, left)):
            return BROKEN
    return 0


def _done(lab: Lab, name: str, seconds: float) -> bool:
    """Run a part; False if the process is of no more use."""
    began = time.monotonic()
    print(f"\n== {name} (up to {seconds:.0f} s)", flush=True)
    lab.record.write(part=name, kind="begin", allowed=seconds, at=time.time())
    try:
        PARTS[name](lab)
    except Exception:  # noqa: BLE001 - whatever fails is a finding, and the parts behind it still count
        lines = traceback.format_exc().strip().splitlines()[-_TRACEBACK_LINES:]
        lab.record.write(part=name, kind="failure", value="\n".join(lines))
        print("\n".join(f"  ! {line}" for line in lines), flush=True)
    lab.record.write(part=name, kind="end", seconds=time.monotonic() - began)
    return _is_whole(lab)


def _is_whole(lab: Lab) -> bool:
    try:
        if lab.on_cuda:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
    except RuntimeError as error:
        lab.record.write(part=lab.part, kind="failure", value=f"the CUDA context is broken: {error}")
        return False
    return True


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda.work")
    parser.add_argument("--facts", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--parts", nargs="+", required=True)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
