"""What indexing adds to embedding: `sightline.index` beside `embed_documents` on the same chunks, and where the rest goes.

On this machine's CPU with the real model. A GPU is stood in for by a device that sleeps as long as one of that speed would
compute: then tokenizer, chunker, planning and store are as they are, and what they take beside the device can be seen. Without
any sleeping it shows how fast the rest could go at best.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.corpus import Corpus
from benchmarks.measuring import PACKAGED, Figures, in_turn, middle, ratios, run_apart, table

if TYPE_CHECKING:
    from sightline import EmbeddingEngine
    from sightline.embedding.batching import BatchPolicy
    from sightline.embedding.submissions import Item, Submission, SubmissionQueue
    from sightline.types import Chunk, Document

GPU_TOKENS_PER_SECOND = 500_000
_GPU_BATCH_TOKENS = 16_384
_WARM_UP = ["The first texts of a model are slower than the others. " * 10] * 16


def indexed(settings: Figures) -> Figures:
    """A side: a folder becomes a collection. The model is loaded before, and the collection new."""
    import sightline

    with _engine(settings) as engine, _timed() as figures:
        summary = sightline.index([settings["folder"]], into=settings["into"], model=engine)
    return figures | {"chunks": summary.chunks_embedded, "tokens": summary.tokens_embedded}


def embedded(settings: Figures) -> Figures:
    """A side: the texts of that collection's chunks, each once, are embedded and nothing else."""
    texts: list[str] = json.loads(Path(settings["texts"]).read_text())
    with _engine(settings) as engine:
        before = engine.stats().tokens
        with _timed() as figures:
            engine.embed_documents(texts)
        return figures | {"chunks": len(texts), "tokens": engine.stats().tokens - before}


def stages(settings: Figures) -> Figures:
    """A side: seconds of each stage by itself, one after the other in one thread, over the whole corpus."""
    from sightline.indexing.chunking import chunk, default_settings
    from sightline.indexing.files import discover, roots_of
    from sightline.indexing.plan import plan_document
    from sightline.indexing.reading import read_documents
    from sightline.stores import open_store
    from sightline.types import Document, Role, VectorLayout

    figures: Figures = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        figures[name] = time.perf_counter() - began

    with _engine({**settings, "device_rate": math.inf}) as engine:
        cutting = default_settings(engine)
        with stage("read"):
            found = discover(roots_of([settings["folder"]]))
            read = (one for file in found.files for one in read_documents(file))
            documents: list[Document] = [one for one in read if isinstance(one, Document)]
        with stage("tokenise documents"):
            for document in documents:
                engine.token_spans(document.text)
        with stage("chunk, tokenising included"):
            cut: list[list[Chunk]] = [chunk(document, cutting, engine) for document in documents]
        with stage("plan"):
            plans = [
                plan_document(document, chunks, cutting.label(), ())
                for document, chunks in zip(documents, cut, strict=True)
                if chunks
            ]
        points = [point for plan in plans for point in (*plan.new, plan.head) if point is not None]
        texts = list(dict.fromkeys(point.text for point in points))
        with stage("tokenise chunks"):
            for start in range(0, len(texts), 512):
                engine.tokenize(texts[start : start + 512], role=Role.DOCUMENT)
        rows = {text: vector for text, vector in zip(texts, engine.embed_documents(texts), strict=True)}
        store = open_store(settings["into"])
        store.create(VectorLayout(engine.dimensions), {})
        with stage("look texts up"):
            for start in range(0, len(texts), 512):
                store.vectors_of(texts[start : start + 512])
        with stage("write"):
            for start in range(0, len(points), 512):
                some = points[start : start + 512]
                store.upsert(some, _stacked([rows[point.text] for point in some]))
        store.close()
    return figures | {"seconds": sum(figures.values()), "chunks": len(points)}


def chunk_texts(settings: Figures) -> Figures:
    """A side: write the texts that a collection's chunks have, each once and in the documents' order, to `texts`."""
    import sightline

    with sightline.open_collection(settings["into"], model=PACKAGED) as collection:
        rows = sorted(collection.find(), key=lambda row: (row.source, int(str(row.metadata["start"]))))
    texts = list(dict.fromkeys(row.text for row in rows))
    Path(settings["texts"]).write_text(json.dumps(texts))
    return {"texts": len(texts), "seconds": 0.0}


def measure(corpus: Corpus, work: Path, dtype: str | None, rounds: int, say: Callable[[str], None]) -> tuple[Figures, str]:
    """Every figure of every round, and the tables that show them."""
    base = {"folder": corpus.folder, "texts": str(work / "overhead.json"), "dtype": dtype}
    urls = (f"edge:{work / f'overhead-{number}'}" for number in range(10_000))
    settings = {"deterministic": True, "device_rate": math.inf, "into": next(urls)}
    run_apart(indexed, base | settings)
    run_apart(chunk_texts, base | settings)

    def runs(**more: Any) -> Mapping[str, Callable[[], Figures]]:
        return {
            "indexing": lambda: run_apart(indexed, {**base, **more, "deterministic": True, "into": next(urls)}),
            "embedding": lambda: run_apart(embedded, {**base, **more, "deterministic": True}),
            "embedding, not deterministic": lambda: run_apart(embedded, {**base, **more, "deterministic": False}),
        }

    figures = {
        "this CPU": in_turn(runs(), rounds, say),
        f"a device of {GPU_TOKENS_PER_SECOND:,} tokens/s": in_turn(runs(device_rate=GPU_TOKENS_PER_SECOND), rounds, say),
        "a device that takes no time": in_turn(runs(device_rate=math.inf), rounds, say),
    }
    alone = [run_apart(stages, {**base, "into": next(urls)}) for _ in range(rounds)]
    return {**figures, "stages": alone}, _report(figures, middle(alone))


def _report(figures: Mapping[str, Mapping[str, list[Figures]]], alone: Figures) -> str:
    rows = []
    for device, sides in figures.items():
        for name, each in sides.items():
            one = middle(each)
            compared = ratios(sides["indexing"], each, "seconds") if name != "indexing" else ""
            rows.append([
                f"{device}: {name}", f"{one['seconds']:.2f}", f"{one['cpu']:.2f}", f"{one['tokens'] / one['seconds']:,.0f}",
                f"{one['chunks'] / one['seconds']:,.0f}", compared,
            ])  # fmt: skip
    tokens = middle(figures["this CPU"]["embedding"])["tokens"]
    shares = [
        [name, f"{seconds:.2f}", f"{1e6 * seconds / alone['chunks']:.0f}", f"{tokens / seconds:,.0f}"]
        for name, seconds in alone.items()
        if name not in _NOT_STAGES
    ]
    return "\n\n".join([
        table(("device: what", "seconds", "CPU s", "tokens/s", "chunks/s", "indexing / this"), rows),
        "Each stage by itself in one thread; tokens are those that the model sees.",
        table(("stage", "seconds", "microseconds a chunk", "tokens/s"), shares),
    ])  # fmt: skip


_NOT_STAGES = ("seconds", "chunks", "peak_mb", "cpu_seconds", "seconds_all", "load_before")


@contextmanager
def _timed() -> Iterator[Figures]:
    """Seconds, and this process's CPU seconds, of what is done within."""
    figures: Figures = {}
    cpu, began = time.process_time(), time.perf_counter()
    yield figures
    figures |= {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}


def _engine(settings: Figures) -> EmbeddingEngine:
    """The engine, loaded and warm: a real one, or one whose device only takes its time."""
    from sightline import EmbeddingEngine

    rate = settings.get("device_rate")
    kind = EmbeddingEngine if rate is None else _engine_on(rate)
    engine = kind(
        settings.get("model", PACKAGED), device="cpu", dtype=settings["dtype"], deterministic=settings.get("deterministic", True)
    )
    engine.embed_documents(_WARM_UP)
    return engine


def _engine_on(rate: float) -> type[EmbeddingEngine]:
    """An engine like any other, with a device that sleeps instead of computing."""
    from sightline import EmbeddingEngine
    from sightline.embedding.batching import BatchPolicy

    class Engine(EmbeddingEngine):
        def _outruns_cutting(self) -> bool:
            return True

        def _started_worker(self) -> Any:
            with self._lock:
                if self._worker is None:
                    policy = BatchPolicy(_GPU_BATCH_TOKENS, packs=True, deterministic=self._run.deterministic)
                    dimensions = self._spec.native_dimensions
                    device: Any = _SleepingDevice(self._queue, policy, dimensions, rate, self._counts.add_batch)
                    self._worker = device
                return self._worker

    return Engine


class _SleepingDevice:
    """Takes batches as a device thread does, waits for as long as they would take, and delivers arbitrary unit vectors."""

    def __init__(
        self, queue: SubmissionQueue, policy: BatchPolicy, dimensions: int, rate: float, on_batch: Callable[[int, int], None]
    ) -> None:
        import numpy as np

        rows = np.random.default_rng(0).normal(size=(4096, dimensions)).astype(np.float32)
        self._vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        self._queue, self._policy, self._rate, self._on_batch = queue, policy, rate, on_batch
        self._thread = threading.Thread(target=self._run, name="sightline-device", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._queue.close(RuntimeError("stopped"))
        self._thread.join()

    def _run(self) -> None:
        """As the engine's own loop on CUDA: the next pass is launched before the last one's vectors are waited for."""
        launched: deque[tuple[list[Item], float]] = deque()
        free_at = 0.0
        while True:
            items = self._queue.next(self._policy, wait=not launched)
            if items:
                lengths = [len(item) for item in items]
                free_at = max(free_at, time.perf_counter()) + (sum(lengths) + self._policy.filler(lengths)) / self._rate
                launched.append((items, free_at))
            elif not launched:
                return
            while launched and (items is None or len(launched) > 1):
                self._deliver(*launched.popleft())

    def _deliver(self, items: list[Item], ready_at: float) -> None:
        time.sleep(max(0.0, ready_at - time.perf_counter()))
        self._on_batch(len(items), sum(map(len, items)))
        groups: dict[Submission, list[Item]] = defaultdict(list)
        for item in items:
            groups[item.submission].append(item)
        for submission, some in groups.items():
            submission.deliver(some, self._vectors[: len(some)])
        self._queue.finished(items)


def _stacked(rows: Sequence[Any]) -> Any:
    import numpy as np

    return np.stack(rows)
