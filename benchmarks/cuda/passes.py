"""Whole passes against float32: transformers' own module on the same weights, and every way that a pass can take on a device."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.cuda.lab import Lab
from benchmarks.cuda.operators import distance
from benchmarks.cuda.shapes import Shape, model_folder, shape_of
from benchmarks.cuda.speed import token_texts
from sightline import EmbeddingEngine
from sightline.embedding.batching import TokenBatch
from sightline.embedding.graphs import _TEXTS, _inputs
from sightline.embedding.models import load_spec
from sightline.embedding.operators import Pack
from sightline.embedding.packed_encoder import PackedEncoder
from sightline.embedding.pooling import Pooler

_LENGTHS = (1, 7, 33, 64, 129, 500)
# Of plain transformers' error in the same number format.
_FACTOR = 1.5
_PROMPT = tuple(range(400, 421))


class Subject:
    """An encoder with its pooling, run in this thread. A few layers are enough for what is looked for here."""

    def __init__(self, lab: Lab, name: str, *, deterministic: bool = False) -> None:
        self.shape: Shape = shape_of(lab, name, layers=4)
        self.folder: Path = model_folder(lab, self.shape)
        spec = load_spec(self.folder)
        self.encoder = PackedEncoder(spec, lab.device, lab.dtype, deterministic=deterministic)
        self.pooler = Pooler(spec.pooling, spec.head, lab.device)

    def vectors(self, batch: TokenBatch) -> Tensor:
        """As the engine's device thread runs a batch, without the copy to the host."""
        rows = self.pooler.rows(batch.lengths, batch.prompt_lengths)
        hidden = self.encoder.hidden_states(batch, rows)
        return self.pooler(hidden, batch.lengths, batch.prompt_lengths) if rows is None else self.pooler.finish(hidden)


def a_batch(lengths: Sequence[int], seed: int = 0, prompt: Sequence[int] = ()) -> TokenBatch:
    """Random ids; each text begins with `prompt`, which counts."""
    texts = token_texts(lengths, seed, prompt)
    ids = np.concatenate([np.asarray(text.ids, dtype=np.int64) for text in texts])
    return TokenBatch(ids, list(lengths), prompt_lengths=[len(prompt)] * len(lengths))


@torch.inference_mode()
def whole_models(lab: Lab) -> None:
    """A few layers of each shape in the device's number format; the yardstick is plain transformers in the same one."""
    for name in ("0.6b", "xlm-r", "minilm", "4b", "8b"):
        if name not in lab.models or not lab.enough(8, name):
            continue
        subject = Subject(lab, name)
        lab.note(f"{name} runs", subject.encoder.packing.reason)
        if lab.on_cuda:
            lab.check(f"{name}: fused operators left aside", subject.encoder._operators.name != "triton", 0)
        lengths = [length for length in _LENGTHS if length <= subject.shape.longest][: 4 if lab.smoke else None]
        batch = a_batch(lengths)
        exact, plain = (_reference(lab, subject, batch, dtype) for dtype in ("float32", lab.dtype))
        allowed = _FACTOR * distance(plain, exact) + 1e-4
        lab.check(f"{name} against float32", distance(subject.vectors(batch), exact), allowed)
        one_by_one = torch.cat([subject.vectors(a_batch([length], seed)) for seed, length in enumerate(lengths)])
        together = torch.cat([subject.vectors(_joined([a_batch([n], seed) for seed, n in enumerate(lengths)]))])
        lab.check(f"{name} alone and together", distance(one_by_one, together), 2 * allowed)


@torch.inference_mode()
def ways(lab: Lab) -> None:
    """Graphs, a shared instruction, long texts, compiles and waits: each a way in which a pass on a device can go wrong."""
    subject = Subject(lab, "0.6b")
    if lab.on_cuda:
        _graphs(lab, subject)
    _shared_instruction(lab, subject)
    _long(lab, subject)
    mean = Subject(lab, "xlm-r")
    if lab.on_cuda:
        _compiles(lab, [subject, mean])
        _waits(lab, subject, mean)


def engines(lab: Lab) -> None:
    """Through the engine: determinism to the bit, vectors that don't mix between batches in flight, and cut dimensions."""
    shape = shape_of(lab, "0.6b", layers=4)
    folder = model_folder(lab, shape)
    lengths = np.random.default_rng(3).integers(1, 700 if lab.on_cuda else 60, size=60 if lab.on_cuda else 12).tolist()
    texts = token_texts(lengths)
    with EmbeddingEngine(folder, device=str(lab.device), dtype=lab.dtype, deterministic=True) as engine:
        whole = engine.embed_documents(texts)
        differing = sum(
            int((engine.embed_documents([texts[row] for row in rows]) != whole[rows]).any(axis=1).sum())
            for rows in _orders(len(texts), 25 if lab.on_cuda else 4)
        )
        lab.check("deterministic: rows that differ over random batchings", differing, 0)
    with EmbeddingEngine(folder, device=str(lab.device), dtype=lab.dtype) as engine:
        plain = engine.embed_documents(texts)
        lab.check("deterministic beside not", _apart(plain, whole), 0.05)
        futures = [(rows, engine.submit([texts[row] for row in rows], role=_document())) for rows in _orders(len(texts), 40)]
        apart = max(_apart(future.result(), whole[rows]) for rows, future in futures)
        lab.check("many small calls in flight", apart, 0.05)
        lab.check("unit norm", float(np.abs(np.linalg.norm(plain, axis=1) - 1).max()), 1e-5)
        length = 32 if lab.smoke else 256
        cut = engine.embed_documents(texts, dimensions=length)
        lab.check("unit norm when cut", float(np.abs(np.linalg.norm(cut, axis=1) - 1).max()), 1e-5)
        shortened = plain[:, :length] / np.linalg.norm(plain[:, :length], axis=1, keepdims=True)
        lab.check("cut is the beginning of the whole", _apart(cut, shortened), 0.05)


def formats(lab: Lab) -> None:
    """The other number formats, which take other ways: the same vectors as ever more often as small batches are asked for."""
    folder = model_folder(lab, shape_of(lab, "0.6b", layers=4))
    texts = token_texts([9, 30, 2, 400 if lab.on_cuda else 40])
    found: dict[str, npt.NDArray[Any]] = {}
    for dtype in ("float32", "bfloat16", "float16") if lab.on_cuda else ("float32", "bfloat16"):
        with EmbeddingEngine(folder, device=str(lab.device), dtype=dtype) as engine:
            found[dtype] = engine.embed_documents(texts)
            again = [engine.embed_documents(texts) for _ in range(6)]
            one_by_one = [np.concatenate([engine.embed_documents([text]) for text in texts]) for _ in range(4)]
        lab.check(f"{dtype}: again and again", max(_apart(one, found[dtype]) for one in again), 0.03)
        lab.check(f"{dtype}: one by one", max(_apart(one, found[dtype]) for one in one_by_one), 0.03)
        lab.check(f"{dtype} beside float32", _apart(found[dtype], found["float32"]), 0.05)


def _document() -> Any:
    from sightline.types import Role

    return Role.DOCUMENT


def _apart(found: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> float:
    return float(np.linalg.norm(found - wanted, axis=1).max())


def _orders(count: int, times: int) -> Iterator[npt.NDArray[np.int64]]:
    random = np.random.default_rng(9)
    for _ in range(times):
        yield random.permutation(count)[: int(random.integers(1, count + 1))]


def _joined(batches: Sequence[TokenBatch]) -> TokenBatch:
    lengths = [length for batch in batches for length in batch.lengths]
    return TokenBatch(np.concatenate([batch.ids for batch in batches]), lengths, prompt_lengths=[0] * len(lengths))


def _reference(lab: Lab, subject: Subject, batch: TokenBatch, dtype: str) -> Tensor:
    """transformers' own module text by text, with our pooling (which is float32 whatever the states are)."""
    import transformers

    model = transformers.AutoModel.from_pretrained(subject.folder, dtype=getattr(torch, dtype)).to(lab.device).eval()
    starts = np.cumsum(batch.lengths) - batch.lengths
    states = []
    for start, length in zip(starts, batch.lengths, strict=True):
        ids = torch.from_numpy(batch.ids[start : start + length]).to(lab.device)[None]
        states.append(model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0])
    return subject.pooler(torch.cat(states), batch.lengths, batch.prompt_lengths)


def _graphs(lab: Lab, subject: Subject) -> None:
    """The same rows with a graph as without, and the same bits as the same filled-up pass; also when replays follow closely."""
    random = np.random.default_rng(7)
    encoder, forward = subject.encoder, subject.encoder._forward
    lab.check("graphs left aside", encoder._graphs is None, 0)
    if encoder._graphs is None:
        return
    for tokens in (32, 64, 256, 512, 2048):
        lengths = [tokens // 2, *[3] * min(5, tokens // 8)]
        batch = a_batch(lengths, seed=tokens)
        rows = np.cumsum(lengths) - 1
        first = encoder.hidden_states(batch, rows).clone()
        for _ in range(3):
            encoder.hidden_states(a_batch(lengths, seed=int(random.integers(1 << 30))), rows)
        replayed = encoder.hidden_states(batch, rows).clone()
        size = next(size for size in sorted(encoder._graphs._graphs) if size >= sum(lengths))
        inputs = torch.from_numpy(_inputs(forward, batch.ids, lengths, rows, size)).to(lab.device)
        ids, positions, starts, filled = inputs.split([size, size, _TEXTS + 2, _TEXTS])
        eager = forward(Pack(ids, positions, starts.int(), (), size), encoder._operators, rows=filled)[: len(rows)]
        lab.check(f"graph of {size}: elements that differ from the same pass", float((replayed != eager).sum()), 0)
        lab.check(f"graph of {size} beside none", distance(replayed, first), 2e-2)
    lab.note("graphs", sorted(encoder._graphs._graphs))
    wanted, found = [], []
    for seed in range(40):  # no wait in between: a replay may not overtake the reading of the last one's rows
        lengths = random.integers(1, 60, size=int(random.integers(1, 30))).tolist()
        batch, rows = a_batch(lengths, seed), np.cumsum(lengths) - 1
        found.append(subject.pooler.finish(encoder.hidden_states(batch, rows)))
        wanted.append(subject.pooler.finish(encoder.hidden_states(batch)[torch.from_numpy(rows).to(lab.device)]))
    lab.check("graphs, one upon the other", max(distance(one, other) for one, other in zip(found, wanted, strict=True)), 3e-2)


def _shared_instruction(lab: Lab, subject: Subject) -> None:
    lengths = [len(_PROMPT) + own for own in ([12] * 300 + [1, 2, 100, 800] if lab.on_cuda else [3, 12, 1])]
    batch = a_batch(lengths, 5, _PROMPT)
    rows = np.cumsum(lengths) - 1
    whole = subject.encoder.hidden_states(batch)[torch.from_numpy(rows).to(lab.device)]
    for time in ("first", "second"):
        lab.check(f"shared instruction, {time} time", distance(subject.encoder.hidden_states(batch, rows), whole), 2e-2)


def _long(lab: Lab, subject: Subject) -> None:
    lengths = [32768, 5, 8192] if lab.on_cuda else [700, 5]
    lengths = [min(length, subject.shape.longest) for length in lengths]
    together = subject.vectors(_joined([a_batch([length], seed) for seed, length in enumerate(lengths)]))
    alone = torch.cat([subject.vectors(a_batch([length], seed)) for seed, length in enumerate(lengths)])
    lab.check("long texts: not finite", float((~torch.isfinite(together)).sum()), 0)
    lab.check("long texts alone and together", distance(together, alone), 3e-2)


def _compiles(lab: Lab, subjects: Sequence[Subject]) -> None:
    """Over many shapes of batches, nothing is compiled after the first ones."""
    random = np.random.default_rng(11)

    def some_batches(times: int) -> None:
        for seed in range(times):
            lengths = random.integers(1, 400, size=int(random.integers(1, 120))).tolist()
            for subject in subjects:
                subject.vectors(a_batch(lengths, seed))

    some_batches(6)
    before = compiled_kernels()
    some_batches(40)
    after = compiled_kernels()
    lab.note("compiled kernels", {"before": before, "after": after})
    if before is not None and after is not None:
        lab.check("kernels compiled in the steady state", after - before, 0)


def compiled_kernels() -> int | None:
    """How many kernels Triton holds; None where this release keeps them elsewhere."""
    from sightline.embedding import triton_operators

    kernels = [one for one in vars(triton_operators).values() if hasattr(one, "device_caches")]
    if not kernels:
        return None
    return sum(len(cache[0]) for kernel in kernels for cache in kernel.device_caches.values())


@contextmanager
def _counted_waits(found: list[str]) -> Iterator[None]:
    """Notes where the host waits for the device, as torch sees it: `.item()`, boolean indices, copies of pageable memory."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
    found += [f"{Path(one.filename).name}:{one.lineno}" for one in caught if "synchroniz" in str(one.message)]


def _waits(lab: Lab, subject: Subject, mean: Subject) -> None:
    """Launching a batch never waits for the device, or the next one couldn't be launched ahead."""
    long, short = a_batch([100] * 60), a_batch([9] * 3)
    shared = a_batch([len(_PROMPT) + 12] * 200, 5, _PROMPT)
    runs = {"last token": (subject, long), "graph": (subject, short), "instruction": (subject, shared), "mean": (mean, long)}
    for name, (one, batch) in runs.items():
        for _ in range(4):
            one.vectors(batch)
        found: list[str] = []
        with _counted_waits(found):
            one.vectors(batch)
        if found:
            lab.note(f"waits in {name}", sorted(set(found)))
        lab.check(f"waits for the device in a pass, {name}", len(found), 0)


