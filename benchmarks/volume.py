"""Case 6: more and more short texts in one call of the engine. Is the time linear, and does memory stay where it is?"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import mixes, models
from benchmarks.measuring import PACKAGED, Figures, run_apart, table
from benchmarks.side import usage

_MEAN_TOKENS = 20
_CORPUS = 20_000  # different texts; beyond that they come again with a number before them


def embed(settings: Figures) -> Figures:
    """A side: `count` texts in one call. What isn't the texts nor the vectors is the engine's own memory."""
    from sightline import EmbeddingEngine

    base: list[str] = json.loads(Path(settings["texts"]).read_text())
    with EmbeddingEngine(PACKAGED, device="cpu") as engine:
        engine.embed_documents(base[:200])
        texts = [*base, *(f"{number} {base[number % len(base)]}" for number in range(len(base), settings["count"]))]
        texts = texts[: settings["count"]]
        before, tokens = usage()["peak_mb"], engine.stats().tokens
        began = time.perf_counter()
        vectors = engine.embed_documents(texts)
        seconds = time.perf_counter() - began
        used, tokens = usage(), engine.stats().tokens - tokens
    return {
        **used, "before_mb": before, "vectors_mb": vectors.nbytes / 2**20, "seconds": seconds, "tokens": tokens,
        "tokens_per_second": tokens / seconds,
    }  # fmt: skip


def measure(work: Path, sizes: Sequence[int], say: Callable[[str], None]) -> tuple[Figures, str]:
    """The figures, and the table that shows them."""
    tokenizer, source = mixes.open_tokenizer(models.minilm_folder()), mixes.open_source(("en",))
    made = mixes.make("queries", _MEAN_TOKENS * min(_CORPUS, max(sizes)), 256, tokenizer, source)
    path = work / "volume.json"
    path.write_text(json.dumps(made.texts))
    found = {}
    for count in sizes:
        found[count] = run_apart(embed, {"texts": str(path), "count": count})
        say(f"{count:,} texts: {found[count]['seconds']:.1f} s")
    rows = [
        [f"{count:,}", f"{one['tokens']:,}", f"{one['seconds']:.1f}", f"{one['tokens_per_second']:,.0f}",
         f"{1e6 * one['seconds'] / one['tokens']:.1f}", f"{one['peak_mb']:.0f}", f"{one['vectors_mb']:.0f}",
         f"{one['peak_mb'] - one['before_mb'] - one['vectors_mb']:.0f}"]
        for count, one in found.items()
    ]  # fmt: skip
    header = ["texts", "tokens", "seconds", "tokens/s", "µs a token", "peak MB", "of which vectors", "grown beside them"]
    return found, table(header, rows)
