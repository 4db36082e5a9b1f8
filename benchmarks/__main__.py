"""Run the cases in turn, print Markdown tables, and write every figure of each case to a file in `benchmarks/results/`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import (
    copying,
    dimensions,
    engine,
    growth,
    indexing,
    instruction,
    mixes,
    models,
    overhead,
    peers,
    questions,
    serving,
    sizes,
    startup,
    tokenizing,
    unchanged,
    updates,
    volume,
)  # fmt: skip
from benchmarks.corpus import Corpus, prepare
from benchmarks.measuring import circumstances

_RESULTS = Path(__file__).parent / "results"
_ON_CORPUS = ("indexing", "overhead", "updates")
_TITLES = {
    "engine": "Embedding",
    "startup": "Start to first answer",
    "instruction": "A shared instruction",
    "tokenize": "Tokenising alone",
    "volume": "Growth of work",
    "indexing": "Indexing",
    "overhead": "What indexing adds to embedding",
    "updates": "What a change costs",
    "unchanged": "The speed of doing nothing",
    "growth": "Growth",
    "copy": "Copying",
    "questions": "Questions at once",
    "serving": "The server",
    "dimensions": "Dimensions and quantisation",
    "sizes": "What a stored point takes",
}
_DEFAULT_CASES = ("engine", "startup", "indexing")
_QUICK_MIXES = ("queries", "chunks", "one")


def main() -> None:
    """Parse the options, measure, print."""
    options = _options()
    facts = circumstances()
    dtype = options.dtype or facts["machine"]["dtype"]
    with tempfile.TemporaryDirectory(prefix="sightline-bench-") as name:
        work = Path(name)
        corpus = prepare(work, options.files) if set(options.cases) & set(_ON_CORPUS) else None
        print(_heading(facts, options), flush=True)
        for case in options.cases:
            more = {"corpus": corpus.facts()} if corpus is not None and case in _ON_CORPUS else {}
            found, text = _measure(case, options, facts["machine"], corpus, work, dtype)
            path = _write(case, {**facts, "case": case, "settings": vars(options), "dtype": dtype, **more, case: found})
            about = f"{_about(corpus, dtype)}\n\n" if more else ""
            print(f"\n## {_TITLES[case]}\n\n{about}{text}\n\nEvery figure: {path}", flush=True)


def _measure(
    case: str, options: argparse.Namespace, machine: dict[str, Any], corpus: Corpus | None, work: Path, dtype: str
) -> tuple[Any, str]:
    """One case's figures and its tables."""
    rounds = options.rounds
    runs: dict[str, Callable[[], tuple[Any, str]]] = {
        "engine": lambda: engine.measure(options.models, work, _plan(options), machine, _say),
        "startup": lambda: startup.measure(rounds, _say),
        "instruction": lambda: instruction.measure(work, dtype, options.layers, rounds, _say),
        "tokenize": lambda: tokenizing.measure(work, rounds, _say),
        "volume": lambda: volume.measure(work, options.sizes, _say),
        "unchanged": lambda: unchanged.measure(work, rounds, _say),
        "growth": lambda: growth.measure(work, _say),
        "copy": lambda: copying.measure(work, _say),
        "questions": lambda: questions.measure(dtype, rounds, _say),
        "serving": lambda: serving.measure(work, dtype, rounds, _say),
        "dimensions": lambda: dimensions.measure(work, _say),
        "sizes": lambda: sizes.measure(work, _say),
    }
    if corpus is not None:
        runs["indexing"] = lambda: indexing.measure(corpus, work, dtype, rounds, _say)
        runs["overhead"] = lambda: overhead.measure(corpus, work, dtype, rounds, _say)
        runs["updates"] = lambda: updates.measure(corpus, work, dtype, _say)
    return runs[case]()


def _plan(options: argparse.Namespace) -> engine.Plan:
    quick = options.quick
    earlier = json.loads(options.sweeps_of.read_text())["engine"]["models"] if options.sweeps_of else {}
    return engine.Plan(
        mixes=options.mixes, sides=options.sides, rounds=options.rounds, passes=1, sizes=(4, 16) if quick else peers.BATCHES,
        budget=options.tokens or (16_000 if quick else None), sweep_tokens=4_000 if quick else 12_000, layers=options.layers,
        device=options.device, is_quick=quick, earlier=earlier,
    )  # fmt: skip


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure Sightline beside its peers.")
    parser.add_argument(
        "--cases", nargs="+", choices=_TITLES, default=_DEFAULT_CASES, help="engine, startup and indexing by default"
    )
    parser.add_argument("--quick", action="store_true", help="the engine case in under five minutes: small samples, one round")
    parser.add_argument("--rounds", type=int, help="how often each side runs (3)")
    engine_only = parser.add_argument_group("the engine case")
    engine_only.add_argument("--models", nargs="+", choices=models.NAMES, default=["minilm"], help="minilm by default")
    engine_only.add_argument(
        "--mixes", nargs="+", choices=mixes.NAMES, default=_QUICK_MIXES, help="queries, chunks and one by default"
    )
    engine_only.add_argument("--sides", nargs="+", default=[], metavar="WORD", help="only sides with one of these in their name")
    engine_only.add_argument("--tokens", type=int, help="about so many tokens in each mix (what suits model and device)")
    engine_only.add_argument("--layers", type=int, help="of the models with random weights (4 for Qwen3, 12 for XLM-R)")
    engine_only.add_argument("--sweeps-of", type=Path, metavar="RESULT.json", help="take what an earlier result's sweeps chose")
    engine_only.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the models run (cpu)")
    others = parser.add_argument_group("other cases")
    others.add_argument("--files", type=int, help="indexing, updates: take about so many files, spread evenly (all)")
    others.add_argument("--dtype", choices=("bfloat16", "float32"), help="of both sides (what this CPU computes fast)")
    others.add_argument("--sizes", nargs="+", type=int, default=[1_000, 10_000, 100_000], help="volume: how many texts")
    options = parser.parse_args()
    if options.quick and options.cases is _DEFAULT_CASES:
        options.cases = ["engine"]
    options.rounds = options.rounds or (1 if options.quick else 3)
    given = [one for one in (options.files, options.tokens, options.layers) if one is not None]
    if min(options.rounds, *options.sizes, *given) < 1:
        parser.error("--rounds, --sizes, --files, --tokens and --layers are at least 1")
    return options


def _heading(facts: dict[str, Any], options: argparse.Namespace) -> str:
    machine, versions = facts["machine"], facts["versions"]
    return (
        f"# Sightline {versions['sightline']} beside its peers, {facts['date'][:10]}\n\n"
        f"{machine['cpu']}, {machine['cores']} cores ({', '.join(machine['cpu_features']) or 'no bf16 units'}), load "
        f"{machine['load_before']} before the first run, {machine['torch_threads']} torch threads. Rounds: {options.rounds}; "
        "figures are medians, ratios the median of each round's own (and their range)."
    )


def _about(corpus: Corpus | None, dtype: str) -> str:
    if corpus is None:
        return ""
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in corpus.by_suffix.items() if count)
    return (
        f"Corpus: {corpus.name}: {corpus.files} files ({kinds}), {corpus.characters:,} characters. Both sides {dtype}, the "
        "packaged MiniLM."
    )


def _write(case: str, found: dict[str, Any]) -> Path:
    _RESULTS.mkdir(exist_ok=True)
    path = _RESULTS / f"{time.strftime('%Y-%m-%d-%H%M%S', time.gmtime())}-{case}.json"
    path.write_text(json.dumps(found, indent=1, default=str) + "\n")
    return path.relative_to(_RESULTS.parent.parent)


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
