"""Run the cases in turn, print Markdown tables, and write every figure to `benchmarks/results/`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import embedding, growth, indexing, questions, updates
from benchmarks.corpus import Corpus, prepare
from benchmarks.measuring import circumstances

_RESULTS = Path(__file__).parent / "results"
_CASES = ("indexing", "embedding", "updates", "growth", "questions")


def main() -> None:
    """Parse the options, measure, print."""
    options = _options()
    facts = circumstances() | {"settings": vars(options)}
    dtype = options.dtype or facts["machine"]["dtype"]
    with tempfile.TemporaryDirectory(prefix="sightline-bench-") as name:
        work = Path(name)
        corpus = prepare(work, options.files)
        facts |= {"corpus": corpus.facts(), "dtype": dtype}
        print(_heading(facts, corpus, dtype), flush=True)
        if "indexing" in options.cases:
            facts["indexing"], text = indexing.measure(corpus, work, dtype, options.rounds, _say)
            print(f"\n## Indexing\n\n{text}", flush=True)
        if "embedding" in options.cases:
            facts["embedding"], text = embedding.measure(corpus, work, dtype, options.rounds, options.texts, _say)
            print(f"\n## Embedding\n\n{text}", flush=True)
        if "updates" in options.cases:
            facts["updates"], text = updates.measure(corpus, work, dtype, _say)
            print(f"\n## What a change costs\n\n{text}", flush=True)
        if "growth" in options.cases:
            facts["growth"], text = growth.measure(work, _say)
            print(f"\n## Growth\n\n{text}", flush=True)
        if "questions" in options.cases:
            facts["questions"], text = questions.measure(dtype, options.rounds, _say)
            print(f"\n## Questions at once\n\n{text}", flush=True)
    _RESULTS.mkdir(exist_ok=True)
    path = _RESULTS / f"{time.strftime('%Y-%m-%d-%H%M%S', time.gmtime())}.json"
    path.write_text(json.dumps(facts, indent=1) + "\n")
    print(f"\nEvery figure of every round: {path.relative_to(_RESULTS.parent.parent)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure Sightline beside its peers.")
    parser.add_argument("--cases", nargs="+", choices=_CASES, default=["indexing", "embedding"], help="which cases to run")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side runs (3)")
    parser.add_argument("--files", type=int, help="take about so many files, spread evenly (all)")
    parser.add_argument("--texts", type=int, default=2000, help="at most so many chunks in the embedding case (2000)")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), help="of both sides (what this CPU computes fast)")
    options = parser.parse_args()
    if options.rounds < 1 or options.texts < 1 or (options.files is not None and options.files < 1):
        parser.error("--rounds, --texts and --files are at least 1")
    return options


def _heading(facts: dict[str, Any], corpus: Corpus, dtype: str) -> str:
    machine, versions = facts["machine"], facts["versions"]
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in corpus.by_suffix.items() if count)
    return (
        f"# Sightline {versions['sightline']} beside its peers, {facts['date'][:10]}\n\n"
        f"{machine['cpu']}, {machine['cores']} cores ({', '.join(machine['cpu_features']) or 'no bf16 units'}), load "
        f"{machine['load_before']} before the first run. Both sides {dtype}, {machine['torch_threads']} torch threads, the "
        f"packaged MiniLM.\n\nCorpus: {corpus.name}: {corpus.files} files ({kinds}), {corpus.characters:,} characters. "
        f"Rounds: {facts['settings']['rounds']}; figures are medians, ratios the median of each round's own (and their range)."
    )


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
