"""The embedding engine: text -> instruction -> tokens -> packed batches -> hidden states -> pooled -> dimensions -> vectors.

    cleaning       optional, off by default
    instructions   which prompt is put before a text
    tokens         the model's tokenizer, closing tokens, what happens to long texts
    batching       which texts share a pass
    submissions    the queue: priorities, sharing, where results go
    worker         the device threads that run the next four
    attention      each text attends to itself only
    encoder        the model (packing decides whether its texts may be packed)
    pooling        hidden states to one vector a text
    dimensions     cut, then unit norm

`models` says what a model folder is and `identity` tells two models apart, both without loading weights.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

import numpy as np
import numpy.typing as npt

from sightline.embedding.base import BaseEmbedder
from sightline.embedding.batching import BatchPolicy
from sightline.embedding.cleaning import check_steps, clean
from sightline.embedding.device import Place, check_devices, check_dtype, choose_places, common_dtype, default_batch_tokens
from sightline.embedding.dimensions import UNTRAINED_CUT, DimensionRange
from sightline.embedding.elsewhere import ReadTokens
from sightline.embedding.identity import fingerprint
from sightline.embedding.instructions import Instructions, check_template
from sightline.embedding.models import DEFAULT_MODEL, ModelSpec, full_name, load_spec, refuse_own_code
from sightline.embedding.seams import Reading
from sightline.embedding.submissions import Item, Submission, SubmissionQueue
from sightline.embedding.tokens import ON_TOO_LONG, OnTooLong, TokenizedInput, Tokenizer
from sightline.errors import EmbedderClosed, SightlineError, UsageError
from sightline.protocols import InstructionLike, Texts
from sightline.types import (
    EmbedderIdentity,
    EmbeddingStats,
    FloatArray,
    Instruction,
    OnEmbeddingProgress,
    Priority,
    Role,
    TokenizedText,
    Truncation,
)

if TYPE_CHECKING:
    from sightline.embedding.worker import DeviceWorkers, Loaded

log = logging.getLogger(__name__)

ENCODERS = ("auto", "transformers")
# Texts tokenised at a time: enough to sort by length, few enough that memory stays flat and the device starts early.
_WINDOW_TEXTS, _WINDOW_CHARACTERS = 1024, 1_000_000
# A call up to this size is tokenised in the caller's thread: quicker than waking another one.
_INLINE_TEXTS, _INLINE_CHARACTERS = 64, 20_000


@dataclass(frozen=True, slots=True)
class EngineDescription:
    """What an engine is and how it runs; what has a default is known once it is loaded.

    With several devices, `device` is the kind of all and `max_batch_tokens` the budget of each.
    """

    model: str
    revision: str | None
    folder: str
    family: str | None
    architecture: str
    pooling: str
    native_dimensions: int
    dimensions: int
    minimum_dimensions: int
    max_length: int
    opening_tokens: tuple[int, ...]
    closing_tokens: tuple[int, ...]
    instructions: Mapping[str, str]
    template: str | None
    deterministic: bool
    device: str | None = None
    dtype: str | None = None
    packs: bool | None = None
    packing: str | None = None
    max_batch_tokens: int | None = None
    devices: tuple[str, ...] | None = None


class EmbeddingEngine(BaseEmbedder):
    """Embeds texts with a model on this machine. Cheap to make: weights load at the first text, or with `load()`.

    Args:
        model: A folder, `package:NAME` (a folder in an installed Python package), or a hub name.
        dimensions: Length of the vectors; None is the model's own.
        device: "cuda", "cuda:1", "mps", "cpu"; None chooses.
        devices: Instead of `device`, several that share the work, each with a copy of the weights: ["cuda:0", "cuda:1"], NUMA
            nodes as ["cpu:0", "cpu:1"], or all of a kind as "cuda" or "cpu".
        dtype: "bfloat16", "float32" or "float16"; None takes bfloat16 where the device computes it fast. "int8" has products in
            8 bits and all else in bfloat16, on CPUs with AVX-512 BF16, for models that have a forward pass of our own. It is up
            to twice as quick there (unless the CPU has AMX), less exact, and refused for a model that it changes too much.
        revision: Branch, tag or commit of a hub model.
        max_batch_tokens: Token budget of one pass, which bounds memory; None suits the device.
        max_length: Longest input in tokens, prompt and special tokens included; None is the model's own.
        on_too_long: "truncate" (counted in `stats()` and logged), "error", or "average" (the text is split, its parts averaged).
        instructions: Your own named instructions: name -> task sentence.
        query_instruction: What queries look with when a call says nothing; None is the model's own.
        document_instruction: The same for documents.
        instruction_template: Where a task sentence goes, e.g. "Instruct: {instruction}\\nQuery:"; None reads it off the model.
        pooling: For a bare transformers folder, which doesn't say how to pool.
        deterministic: A text's vector is the same to the bit whatever it is embedded with.
        clean: Cleaning steps for texts: any of "bom", "zero_width", "blanks", "newlines".
        split_special_tokens: Read special tokens that stand in a text as plain text. The reference doesn't, so off by default.
        pack: False pads batches even where the model could be packed.
        encoder: "auto" takes a forward pass of our own where there is one for the model, "transformers" its stock module always.
        threads: CPU threads for the model, all NUMA nodes together; None leaves torch's choice, and its global setting stays.
        trust_remote_code: Run the Python code that ships with a model.

    Raises:
        ModelNotFound: No such model here, and the hub can't be reached or doesn't have it.
        ModelError: The model folder can't be used; says what was found.
        DimensionError: `dimensions` is out of the model's range.
        UnknownInstruction: A default instruction is a name that nobody defined.
        UsageError: Another argument can't be used.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        *,
        dimensions: int | None = None,
        device: str | None = None,
        devices: Sequence[str] | str | None = None,
        dtype: str | None = None,
        revision: str | None = None,
        max_batch_tokens: int | None = None,
        max_length: int | None = None,
        on_too_long: OnTooLong = "truncate",
        instructions: Mapping[str, str | Instruction] | None = None,
        query_instruction: InstructionLike = None,
        document_instruction: InstructionLike = None,
        instruction_template: str | None = None,
        pooling: str | Sequence[str] | None = None,
        deterministic: bool = False,
        clean: Sequence[str] = (),
        split_special_tokens: bool = False,
        pack: bool = True,
        encoder: str = "auto",
        threads: int | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        _check_arguments(on_too_long, dtype, encoder, max_batch_tokens, threads)
        self._spec = load_spec(model, revision=revision, pooling=pooling)
        if not trust_remote_code:
            refuse_own_code(self._spec)
        self._model, self._pooling = full_name(model), pooling
        self._range = _dimension_range(self._spec)
        self._has_warned_of_cut = False
        self._dimensions = self.check_dimensions(dimensions)
        self._instructions = self.make_instructions(
            custom=instructions, query=query_instruction, document=document_instruction, template=instruction_template
        )
        self._on_too_long = on_too_long
        self._max_length = max_length
        self._clean = check_steps(clean)
        self._split_special_tokens = split_special_tokens
        self._threads = threads
        placed = check_devices(devices, device)
        self._run = _RunSettings(device, placed, dtype, max_batch_tokens, deterministic, pack, encoder, trust_remote_code)
        self._counts = _Counts()
        self._queue = SubmissionQueue()
        self._lock = threading.Lock()
        self._worker: DeviceWorkers | None = None
        self._feeder: ThreadPoolExecutor | None = None
        self._process = os.getpid()
        weakref.finalize(self, _close_queue, self._queue, self._process)

    @property
    def dimensions(self) -> int:
        """Length of the vectors that are given when no other is asked for."""
        return self._dimensions

    @property
    def max_length(self) -> int:
        """Longest input in tokens, prompt and special tokens included."""
        return self._max_length or self._spec.max_length

    @property
    def instructions(self) -> Mapping[str, str]:
        """The known names with the literal prompts they stand for."""
        return self._instructions.known()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, loaded and checked at first use."""
        return Tokenizer(self._spec, max_length=self._max_length, split_special_tokens=self._split_special_tokens)

    def identity(self) -> EmbedderIdentity:
        """Who this embedder is, without loading weights or torch."""
        return EmbedderIdentity(
            model=self._spec.name,
            revision=self._spec.revision,
            fingerprint=self._fingerprint,
            native_dimensions=self._spec.native_dimensions,
            pooling="+".join(self._spec.pooling.modes),
            document_prompt=self._instructions.prompt(Role.DOCUMENT),
            query_prompt=self._instructions.prompt(Role.QUERY),
            max_length=self.max_length,
            matryoshka=self._range.matryoshka,
        )

    def stats(self) -> EmbeddingStats:
        """What was done so far, truncation included."""
        return self._counts.snapshot()

    @property
    def ended(self) -> bool:
        """Whether it answers nobody any more: it was closed, or its device failed."""
        return self._queue.closed

    def describe(self) -> EngineDescription:
        """What this engine is, and how it runs if it is loaded."""
        loaded = self._worker.wait_loaded() if self._worker else []
        device, dtype, packing, max_batch_tokens = loaded[0] if loaded else (None, None, None, None)
        return EngineDescription(
            model=self._spec.name,
            revision=self._spec.revision,
            folder=str(self._spec.folder),
            family=self._spec.family.name if self._spec.family else None,
            architecture=str(self._spec.config.get("model_type")),
            pooling="+".join(self._spec.pooling.modes),
            native_dimensions=self._spec.native_dimensions,
            dimensions=self._dimensions,
            minimum_dimensions=self._range.minimum,
            max_length=self.max_length,
            opening_tokens=tuple(self.tokenizer.prefix),
            closing_tokens=tuple(self.tokenizer.suffix),
            instructions=self.instructions,
            template=self._instructions.template,
            deterministic=self._run.deterministic,
            device=device.partition(":")[0] if device and len(loaded) > 1 else device,
            dtype=dtype,
            packs=packing.packs if packing else None,
            packing=packing.reason if packing else None,
            max_batch_tokens=max_batch_tokens,
            devices=tuple(name for name, *_ in loaded) or None,
        )

    def load(self) -> Self:
        """Load tokenizer and weights now and run the self-checks; raises what is wrong with them."""
        self._check_usable()
        _ = self.tokenizer
        self._started_worker().wait_loaded()
        return self

    def make_instructions(
        self,
        *,
        custom: Mapping[str, str | Instruction] | None = None,
        query: InstructionLike = None,
        document: InstructionLike = None,
        template: str | None = None,
    ) -> Instructions:
        """The model's prompts with somebody's own instructions and defaults."""
        return Instructions(
            prompts=self._spec.prompts,
            template=check_template(template) if template else self._spec.template,
            custom=custom or {},
            default_name=self._spec.default_prompt_name,
            query=query,
            document=document,
        )

    def check_dimensions(self, dimensions: int | None) -> int:
        """Return `dimensions`, or the model's own for None; raise DimensionError when the model can't give them.

        Warns once of a model that isn't known to be trained for it.
        """
        length = self._range.check(dimensions)
        if length < self._range.native and not self._range.matryoshka and not self._has_warned_of_cut:
            self._has_warned_of_cut = True
            log.warning(UNTRAINED_CUT, self._spec.name, self._range.native, length)
        return length

    def count_tokens(self, texts: Sequence[str], prompt: str | None = None) -> list[int]:
        """Tokens of each text behind `prompt` (None is the documents' own), special tokens included, however long it is."""
        behind = self._instructions.prompt(Role.DOCUMENT) if prompt is None else prompt
        return self.tokenizer.count([clean(text, self._clean) for text in texts], behind)

    def token_spans(self, text: str) -> npt.NDArray[np.int32]:
        """Character offsets `(num_tokens, 2)` of the text's own tokens, no special ones."""
        return self.tokenizer.spans(text)

    def read_tokens(self, texts: Sequence[str], prompt: str | None = None) -> Sequence[Reading] | None:
        """Each text's tokens, of whose stretches those behind `prompt` (None is the documents' own) can be had; None if not."""
        behind = self._instructions.prompt(Role.DOCUMENT) if prompt is None else prompt
        # A cleaned text is another one, with other tokens at other places.
        return None if self._clean else self.tokenizer.read(texts, behind)

    def tokens_elsewhere(self, prompt: str | None = None) -> Mapping[str, Any] | None:
        """Of what another process makes `ReadTokens`, for a model on a GPU; one on a CPU takes longer than cutting its texts."""
        if not self._outruns_cutting():
            return None
        behind = self._instructions.prompt(Role.DOCUMENT) if prompt is None else prompt
        return {
            "make": f"{ReadTokens.__module__}:{ReadTokens.__name__}", "model": self._model, "revision": self._spec.revision,
            "pooling": self._pooling, "prompt": behind, "max_length": self._max_length, "clean": self._clean,
            "split_special_tokens": self._split_special_tokens,
        }  # fmt: skip

    def tokenize(self, texts: Sequence[str], *, role: Role, instruction: InstructionLike = None) -> list[TokenizedText]:
        """Texts as the model reads them; embedding them gives what embedding the texts gives.

        Raises:
            TextTooLong: A text is too long, and the engine doesn't truncate (one list of ids can't be averaged).
        """
        call = _Call(texts, self._instructions.prompt(role, instruction))
        cleaned = [clean(text, self._clean) for text in texts]
        inputs = self.tokenizer.tokenize(cleaned, call.prompt, "truncate" if self._on_too_long == "truncate" else "error")
        for row, one in enumerate(inputs):
            call.note(row, one)
        self._report_truncation(call)
        return [TokenizedText(one.parts[0].ids.tolist(), one.parts[0].prompt_length) for one in inputs]

    @property
    def is_started(self) -> bool:
        """Whether the device thread was started and the tokenizer is there."""
        return self._worker is not None and "tokenizer" in self.__dict__

    def submit(
        self,
        texts: Texts,
        *,
        role: Role,
        instruction: InstructionLike = None,
        dimensions: int | None = None,
        priority: Priority | None = None,
        on_progress: OnEmbeddingProgress | None = None,
    ) -> Future[FloatArray]:
        """Queue `texts`; the future gives float32 `(n, dimensions)`. Wrong arguments raise here, wrong texts in the future.

        Raises:
            DimensionError, UnknownInstruction, UsageError: As for the engine.
            EmbedderClosed: After `close()`.
        """
        return self.submit_with(
            self._instructions, texts, role=role, instruction=instruction, dimensions=dimensions, priority=priority,
            on_progress=on_progress,
        )  # fmt: skip

    def submit_with(
        self,
        instructions: Instructions,
        texts: Texts,
        *,
        role: Role,
        instruction: InstructionLike,
        dimensions: int | None,
        priority: Priority | None,
        on_progress: OnEmbeddingProgress | None,
    ) -> Future[FloatArray]:
        """As `submit`, with somebody's instructions instead of the engine's own."""
        self._check_usable()
        call = _Call(texts, _prompt(instructions, texts, role, instruction))
        if priority is None:
            priority = Priority.INTERACTIVE if role is Role.QUERY else Priority.BULK
        length = self._dimensions if dimensions is None else self._range.check(dimensions)
        submission = Submission(len(texts), length, priority, on_progress)
        if not len(texts):
            submission.deliver([], np.empty((0, self._spec.native_dimensions), dtype=np.float32))
            return submission.future
        self._started_worker()
        self._queue.open(submission)
        if call.is_small and "tokenizer" in self.__dict__:
            self._feed(submission, call)
        else:
            submission.refill = lambda: self._feed_later(submission, call)
            submission.refill()
        return submission.future

    def close(self) -> None:
        """Stop, fail what waits, and give the memory back. Closing twice is fine; in a forked child there is nothing to stop."""
        if self._process != os.getpid():
            return
        self._queue.close(EmbedderClosed())
        with self._lock:
            worker, self._worker = self._worker, None
            feeder, self._feeder = self._feeder, None
        if feeder is not None:
            feeder.shutdown(wait=True, cancel_futures=True)
        if worker is not None:
            worker.stop()

    def __reduce__(self) -> NoReturn:
        raise TypeError("An engine can't be sent to another process: its model and threads are this one's. Make one there.")

    @cached_property
    def _fingerprint(self) -> str | None:
        if self._run.trust_remote_code and self._spec.config.get("auto_map"):
            return None  # its code makes it what it is, and isn't hashed: the probes tell
        return fingerprint(self._spec, {"clean": self._clean, "split_special_tokens": self._split_special_tokens})

    def _outruns_cutting(self) -> bool:
        return any(place.device.type != "cpu" for place in choose_places(self._run.device, self._run.devices))

    def _check_usable(self) -> None:
        if self._process != os.getpid():
            raise SightlineError(
                "This engine was made before the process forked; its device thread isn't here. Make an engine in the child."
            )
        if self._queue.closed and self._worker is None:
            raise EmbedderClosed()

    def _started_worker(self) -> DeviceWorkers:
        with self._lock:
            if self._worker is None:
                places = choose_places(self._run.device, self._run.devices, alike=self._run.deterministic)
                from sightline.embedding.worker import DeviceWorkers

                self._worker = DeviceWorkers(
                    places, _loader(self._spec, self._run, places), self._queue, self._threads, self._counts.add_batch,
                    even=self._run.deterministic,
                )  # fmt: skip
            return self._worker

    def _feed_later(self, submission: Submission, call: _Call) -> None:
        with self._lock:
            if self._queue.closed:  # which has answered the submission
                return
            if self._feeder is None:
                self._feeder = ThreadPoolExecutor(1, thread_name_prefix="sightline-tokens")
            self._feeder.submit(self._feed, submission, call)

    def _feed(self, submission: Submission, call: _Call) -> None:
        """Tokenise the next window of a call and queue it. Windows of concurrent calls take turns."""
        if submission.over:
            return
        try:
            items = self._tokenized(submission, call)
        except Exception as error:  # noqa: BLE001 - the caller waits on the future, so whatever went wrong goes there
            submission.fail(error)
            return
        if call.exhausted:
            submission.truncation = call.truncation()
            self._report_truncation(call)
        if self._queue.add(submission, items, exhausted=call.exhausted):
            self._feed_later(submission, call)

    def _report_truncation(self, call: _Call) -> None:
        self._counts.add_truncation(len(call.truncated_rows), call.dropped_tokens, call.estimated)
        call.warn_of_truncation(self.max_length)

    def _tokenized(self, submission: Submission, call: _Call) -> list[Item]:
        first, texts = call.next_window()
        inputs: list[TokenizedInput] = []
        for start, kind, run in _runs(texts):
            if kind is TokenizedText:
                inputs += [
                    self.tokenizer.ready(one.ids, one.prompt_length, number, self._on_too_long)
                    for number, one in enumerate(run, start=first + start)
                ]
            else:
                cleaned = [clean(text, self._clean) if isinstance(text, str) else text for text in run]
                inputs += self.tokenizer.tokenize(cleaned, call.prompt, self._on_too_long, first + start)
        for row, one in enumerate(inputs, start=first):
            call.note(row, one)
        return [
            Item(submission, row, part, len(one.parts), index)
            for row, one in enumerate(inputs, start=first)
            for index, part in enumerate(one.parts)
        ]


@dataclass(frozen=True, slots=True)
class _RunSettings:
    device: str | None
    devices: tuple[str, ...] | None
    dtype: str | None
    max_batch_tokens: int | None
    deterministic: bool
    pack: bool
    encoder: str
    trust_remote_code: bool


@dataclass(slots=True)
class _Call:
    """The texts of one submission, handed out in windows, and what was cut of them."""

    texts: Texts
    prompt: str
    position: int = 0
    truncated_rows: list[int] = field(default_factory=list)
    dropped_tokens: int = 0
    estimated: bool = False

    @property
    def is_small(self) -> bool:
        return len(self.texts) <= _INLINE_TEXTS and sum(_size(text) for text in self.texts) <= _INLINE_CHARACTERS

    @property
    def exhausted(self) -> bool:
        return self.position >= len(self.texts)

    def next_window(self) -> tuple[int, Sequence[str | TokenizedText]]:
        first, characters = self.position, 0
        while not self.exhausted and self.position - first < _WINDOW_TEXTS and characters < _WINDOW_CHARACTERS:
            characters += _size(self.texts[self.position])
            self.position += 1
        return first, self.texts[first : self.position]

    def note(self, row: int, tokenized: TokenizedInput) -> None:
        if tokenized.dropped_tokens:
            self.truncated_rows.append(row)
            self.dropped_tokens += tokenized.dropped_tokens
            self.estimated |= tokenized.estimated

    def truncation(self) -> Truncation | None:
        return Truncation(tuple(self.truncated_rows), self.dropped_tokens, self.estimated) if self.truncated_rows else None

    def warn_of_truncation(self, max_length: int) -> None:
        if self.truncated_rows:
            about = "about " if self.estimated else ""
            log.warning(
                "%d of %d texts were longer than %d tokens and lost %s%d tokens (on_too_long='error' or 'average' instead)",
                len(self.truncated_rows), len(self.texts), max_length, about, self.dropped_tokens,
            )  # fmt: skip


@dataclass
class _Counts:
    """`EmbeddingStats`, added to from several threads."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    stats: EmbeddingStats = field(default_factory=EmbeddingStats)

    def snapshot(self) -> EmbeddingStats:
        with self.lock:
            return self.stats

    def add_batch(self, texts: int, tokens: int) -> None:
        with self.lock:
            old = self.stats
            self.stats = replace(old, texts=old.texts + texts, tokens=old.tokens + tokens, batches=old.batches + 1)

    def add_truncation(self, texts: int, tokens: int, estimated: bool) -> None:
        with self.lock:
            old = self.stats
            self.stats = replace(
                old,
                truncated_texts=old.truncated_texts + texts,
                dropped_tokens=old.dropped_tokens + tokens,
                dropped_tokens_estimated=old.dropped_tokens_estimated or estimated,
            )


def _prompt(instructions: Instructions, texts: Texts, role: Role, instruction: InstructionLike) -> str:
    if isinstance(texts, str):
        raise UsageError("Pass a list of texts, not one string: [text].")
    if instruction is not None and any(isinstance(text, TokenizedText) for text in texts):
        raise UsageError("Token ids hold their prompt already, so they take no instruction. Leave instruction out.")
    return instructions.prompt(role, instruction)


def _check_arguments(
    on_too_long: str, dtype: str | None, encoder: str, max_batch_tokens: int | None, threads: int | None
) -> None:
    if on_too_long not in ON_TOO_LONG:
        raise UsageError(f"on_too_long={on_too_long!r} is unknown. Allowed: {', '.join(ON_TOO_LONG)}.")
    if dtype is not None:
        check_dtype(dtype)
    if encoder not in ENCODERS:
        raise UsageError(f"encoder={encoder!r} is unknown. Allowed: {', '.join(ENCODERS)}.")
    for name, value in (("max_batch_tokens", max_batch_tokens), ("threads", threads)):
        if value is not None and value < 1:
            raise UsageError(f"{name}={value} is out of range: at least 1.")


def _dimension_range(spec: ModelSpec) -> DimensionRange:
    if spec.family is not None:
        return DimensionRange(spec.family.minimum_dimensions, spec.native_dimensions, spec.matryoshka)
    return DimensionRange(1, spec.native_dimensions, spec.matryoshka)


def _loader(spec: ModelSpec, run: _RunSettings, places: Sequence[Place]) -> Any:
    """What each device's thread calls; it holds no reference to the engine, so that a forgotten one can be collected."""

    def load(place: Place) -> Loaded:
        from sightline.embedding.encoder import load_encoder
        from sightline.embedding.pooling import Pooler
        from sightline.embedding.worker import Loaded

        device, dtype = place.device, common_dtype(run.dtype, places)
        encoder = load_encoder(
            spec, device, dtype, encoder=run.encoder, trust_remote_code=run.trust_remote_code, pack=run.pack,
            deterministic=run.deterministic,
        )  # fmt: skip
        budget = run.max_batch_tokens or default_batch_tokens(device)
        policy = BatchPolicy(budget, encoder.packing.packs, run.deterministic, evens_out=device.type == "cpu")
        return Loaded(encoder, Pooler(spec.pooling, spec.head, device), device, dtype, policy)

    return load


def _runs(texts: Sequence[str | TokenizedText]) -> Iterator[tuple[int, type, Sequence[Any]]]:
    """`(start, kind, texts)` of each run of one kind: usually the whole window."""
    start = 0
    while start < len(texts):
        kind = TokenizedText if isinstance(texts[start], TokenizedText) else str
        end = start + 1
        while end < len(texts) and isinstance(texts[end], TokenizedText) == (kind is TokenizedText):
            end += 1
        yield start, kind, texts[start:end]
        start = end


def _size(text: str | TokenizedText) -> int:
    """Characters, or about as many as its ids stand for; 0 for what isn't a text (the tokenizer refuses it by its number)."""
    if isinstance(text, TokenizedText):
        return 4 * len(text.ids)
    return len(text) if isinstance(text, str) else 0


def _close_queue(queue: SubmissionQueue, process: int) -> None:
    if process != os.getpid():  # a forked child, where a thread that isn't there may hold the queue's lock
        return
    queue.close(EmbedderClosed("The engine was dropped; keep a reference to it while you wait for its results."))
