"""Checks and measures Sightline on a CUDA device, in one call of a few minutes: `python benchmarks/gpu.py`.

Needs torch, transformers and sentence-transformers; Sightline needn't be installed, and nothing is downloaded: models are of the
true shapes with random weights, written to a temporary folder. `--smoke` tries every part on the CPU with tiny shapes, which says
that the script runs and nothing else. The card's settings are left alone.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Instead of this file's own folder, whose other files have names that anybody may use.
sys.path[0] = str(ROOT)

from benchmarks.cuda.lab import Record  # noqa: E402 - the path is set above
from benchmarks.cuda.report import Result, collected, summary, went_wrong  # noqa: E402 - the path is set above

MODELS = ("0.6b", "4b", "8b", "xlm-r", "minilm")
# Part -> seconds that it may take, the most important first; a part is told its time and leaves out what doesn't fit.
_FIRST = {
    "environment": 30, "ceilings": 20, "operators": 60, "attention": 25, "models": 60, "ways": 60, "engines": 30, "formats": 25,
}  # fmt: skip
_SPEED = {"0.6b": 90, "4b": 60, "8b": 80, "xlm-r": 25, "minilm": 20}
_NEXT = {"latency": 35, "trace": 20, "prefixes": 15, "host": 12}
_LAST = {"budgets": 30, "devices": 20}
# A part that outlasts its time by so much hangs: its process is killed, and the rest runs in another.
_PATIENCE = 45
_LEAST = 15


def main() -> int:
    """Run the parts, print the table, write the result; 1 if a part or a check failed."""
    options = _options()
    ends = time.monotonic() + 60 * options.minutes
    out = options.out or ROOT / "benchmarks" / "results" / f"gpu-{datetime.datetime.now(datetime.UTC):%Y-%m-%d-%H%M%S}.json"
    with tempfile.TemporaryDirectory(prefix="sightline-gpu-", dir=options.work) as name:
        work = Path(name)
        facts = work / "facts.jsonl"
        waiting = [part for part in _plan(options.models) if not options.parts or part in options.parts]
        while waiting and ends - time.monotonic() > _LEAST:
            waiting = _run(options, waiting, work, facts, ends)
        result = collected(facts)
        result["left_out"] += [f"{part}: no time was left" for part in waiting]
    result |= {"date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "command": sys.argv[1:]}
    _write(result, out)
    print(f"{summary(result)}\nwhole     {out}", flush=True)
    return int(went_wrong(result) or not result["parts"])


def _plan(models: list[str]) -> dict[str, float]:
    plan: dict[str, float] = dict(_FIRST)
    speeds = {f"speed {name}": _SPEED[name] for name in MODELS if name in models}
    plan |= {name: speeds.pop(name) for name in ("speed 0.6b",) if name in speeds}
    return plan | _NEXT | speeds | _LAST


def _run(options: argparse.Namespace, parts: list[str], work: Path, facts: Path, ends: float) -> list[str]:
    """Run parts in a process until it ends or must be ended; the parts that it didn't come to."""
    plan, left = _plan(options.models), ends - time.monotonic()
    command = [
        sys.executable, "-m", "benchmarks.cuda.work", "--facts", str(facts), "--work", str(work), "--seconds", str(left),
        *(["--smoke"] if options.smoke else []), "--models", *options.models,
        "--parts", *(f"{part}={plan[part] if not options.smoke else min(plan[part], 20)}" for part in parts),
    ]  # fmt: skip
    paths = [str(ROOT / "src"), str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    settings = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)), "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1",
        "TOKENIZERS_PARALLELISM": "true",
    }  # fmt: skip
    worker = subprocess.Popen(command, cwd=ROOT, env=settings, stderr=subprocess.STDOUT)
    reason = ""
    while worker.poll() is None and not reason:
        time.sleep(0.2)
        reason = _overdue(facts, ends)
    if reason:
        worker.kill()
        worker.wait()
    begun = collected(facts)["parts"]
    done = [part for part in parts if part in begun]
    last = parts.index(done[-1]) if done else -1
    died = reason or (f"its process ended with {worker.returncode}" if worker.returncode not in (0, 3) else "")
    if died:
        record = Record(facts)
        record.write(part=parts[max(last, 0)], kind="failure", value=died)
        record.write(part=parts[max(last, 0)], kind="end", seconds=0.0)  # or it would seem to run still
    if worker.returncode == 0:
        return []
    return parts[last + 1 :] if done else []  # where not one was begun, none ever is


def _overdue(facts: Path, ends: float) -> str:
    """Why the process must be ended, if it must."""
    running = [one for one in collected(facts)["parts"].values() if "began" in one and "seconds" not in one]
    if any(time.time() > one["began"] + one["allowed"] + _PATIENCE for one in running):
        return "it hung, and was ended"
    return "the time was over, and it was ended" if time.monotonic() > ends + _LEAST else ""


def _write(result: Result, out: Path) -> None:
    text = json.dumps(result, indent=1) + "\n"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)
    if os.environ.get("OUT"):
        (Path(os.environ["OUT"]) / "gpu.json").write_text(text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Check and measure Sightline on a CUDA device.")
    parser.add_argument("--out", type=Path, help="where the whole result goes (benchmarks/results/gpu-DATE.json)")
    parser.add_argument("--smoke", action="store_true", help="try the script itself on the CPU, with tiny shapes")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="whose throughput is measured (all)")
    parser.add_argument("--work", type=Path, help="where models lie meanwhile, 20 GB at most (the temporary folder)")
    parser.add_argument("--parts", nargs="+", help="run these parts only (all): environment, ceilings, operators, ...")
    parser.add_argument("--minutes", type=float, default=8, help="it ends by then (8)")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
