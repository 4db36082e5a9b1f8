"""An embedder behind a server that speaks OpenAI's `/v1/embeddings`: SGLang, vLLM, TEI, Infinity, Ollama, llama.cpp, our own.

It is named as `openai+http://HOST:PORT/v1#MODEL`. Prompts are put before the texts here, where they are known; vectors are cut
and given unit norm here, whatever the server does. What can't be known of a server (weights, pooling) is None in its identity, so
that a collection's probe vectors judge it.
"""

from __future__ import annotations

import fnmatch
import logging
import math
import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from sightline.cutting import cut
from sightline.embedding.base import BaseEmbedder
from sightline.embedding.dimensions import UNTRAINED_CUT, DimensionRange
from sightline.embedding.elsewhere import ReadTokens
from sightline.embedding.instructions import Instructions, template_of
from sightline.embedding.lanes import Lanes
from sightline.embedding.models import REMOTE_SCHEMES, ModelSpec, is_local, is_matryoshka, load_spec
from sightline.embedding.tokens import check_unicode
from sightline.embedding.wire import API_KEY_VARIABLE, Answer, RefusedTogether, Wire
from sightline.errors import (
    EmbedderClosed,
    InputError,
    MissingExtra,
    ModelError,
    NonFiniteEmbedding,
    ServerFailed,
    UsageError,
)
from sightline.patience import at_most, until
from sightline.protocols import InstructionLike, Texts
from sightline.retries import READING_S
from sightline.types import (
    EmbedderIdentity,
    EmbeddingProgress,
    EmbeddingStats,
    FloatArray,
    Instruction,
    OnEmbeddingProgress,
    Priority,
    Role,
)

_EXAMPLE = "openai+http://localhost:30000/v1#Qwen/Qwen3-Embedding-0.6B"
# What a call of up to so many texts is: a question, not a job.
_FEW_TEXTS = 8
_MOST_BYTES = 1_000_000  # of texts in a request; Text Embeddings Inference takes 2 MB of everything
_OUR_SERVER = "sightline"
_FIRST_TEXTS = ("tide", "The lighthouse keeper wrote down the wind.")
_UNIT = 1e-3  # how far a norm may be from 1
# A server isn't asked for shorter vectors than this, because what it would do with fewer isn't known; they are cut here.
_LEAST_ASKED = 32

# Prompts of models that are served by name, from their cards (huggingface.co/Qwen/Qwen3-Embedding-0.6B, intfloat/e5-base-v2,
# intfloat/multilingual-e5-base).
_QWEN3 = {"query": "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:", "document": ""}
_E5 = {"query": "query: ", "document": "passage: "}
_PROMPTS = {
    "*Qwen3-Embedding-*": _QWEN3,
    "*e5-small-v2": _E5, "*e5-base-v2": _E5, "*e5-large-v2": _E5,
    "*multilingual-e5-small": _E5, "*multilingual-e5-base": _E5, "*multilingual-e5-large": _E5,
}  # fmt: skip

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RemoteServer:
    """What a server turned out to be at the first contact.

    Args:
        name: Which program it is, by what it says of itself; None where it doesn't.
        model: The name that the model has there.
        native_dimensions: Length of its vectors when no other is asked for.
        normalised: Whether they have unit norm; they are given it here in any case.
        counts_characters: Whether what it calls tokens is characters, as Infinity's are unless it is told to count tokens.
        tells_truncation: Whether it says what it cut off.
    """

    name: str | None
    model: str
    native_dimensions: int
    normalised: bool
    counts_characters: bool = False
    tells_truncation: bool = False


class RemoteEmbedder(BaseEmbedder):
    """Queries and documents embedded by a server. Thread-safe; nothing is asked before the first use.

    Args:
        base_url: Where its API begins, e.g. "http://localhost:30000/v1".
        model: The model's name there; None takes the only one that the server lists.
        api_key: None takes the environment variable SIGHTLINE_API_KEY.
        dimensions: Length of the vectors; None is the server's own. Shorter ones are asked for, and cut here where the server
            gives longer ones.
        query_instruction: What queries look with; None is the model's own, if its prompts are known.
        document_instruction: The same for documents.
        instructions: Named instructions: name -> task sentence.
        instruction_template: Where a task sentence goes; None reads it off the model's query prompt.
        tokenizer: The same model on this machine (a folder, `package:NAME`, a hub name that is in the cache): its tokenizer
            counts the tokens of chunks, and its prompts are known. None looks for one of the model's name.
        timeout_s: How long an answer may take.
        start_timeout_s: How long the first contact is tried while nobody answers, or a model is still being loaded.
        max_concurrency: Requests on their way at a time.
        max_batch_texts: Texts in a request at most; fewer once the server refused so many.

    Raises:
        UsageError: An address, a key or a number that can't be used; an unknown instruction.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        *,
        api_key: str | None = None,
        dimensions: int | None = None,
        query_instruction: InstructionLike = None,
        document_instruction: InstructionLike = None,
        instructions: Mapping[str, str | Instruction] | None = None,
        instruction_template: str | None = None,
        tokenizer: str | Path | None = None,
        timeout_s: float = 120.0,
        start_timeout_s: float = 60.0,
        max_concurrency: int = 8,
        max_batch_texts: int = 64,
    ) -> None:
        self._base_url = _checked_url(base_url)
        for name, value in (("max_concurrency", max_concurrency), ("max_batch_texts", max_batch_texts)):
            if value < 1:
                raise UsageError(f"{name}={value} is out of range: at least 1.")
        if not timeout_s > 0:
            raise UsageError(f"timeout_s={timeout_s} is out of range: more than 0.")
        self._asked_model, self._asked_dimensions = model, dimensions
        self._start_timeout_s = start_timeout_s
        self._tokenizer = tokenizer
        self._said = _Said(query_instruction, document_instruction, dict(instructions or {}), instruction_template)
        key = os.environ.get(API_KEY_VARIABLE) if api_key is None else api_key
        self._wire = Wire(
            self._base_url, api_key=key, timeout_s=timeout_s, most_texts=max_batch_texts, most_bytes=_MOST_BYTES
        )  # fmt: skip
        self._lanes = Lanes(max_concurrency, "sightline-remote")
        self._starting = threading.Lock()
        self._started: _Started | None = None
        self._counting = threading.Lock()
        self._stats = EmbeddingStats()
        self._closed = threading.Event()
        self._process = os.getpid()

    @classmethod
    def from_url(cls, url: str, **settings: Any) -> RemoteEmbedder:
        """One that is named as `openai+http://HOST:PORT/v1#MODEL`; `settings` are the constructor's."""
        base_url, model = parse_url(url)
        return cls(base_url, model, **settings)

    def __repr__(self) -> str:
        return f"RemoteEmbedder({self._base_url!r}, {self._asked_model!r})"

    @property
    def server(self) -> RemoteServer:
        """What the server turned out to be; asks it the first time.

        Raises:
            ServerFailed: It doesn't answer, refuses the key or the model, or answers what it shouldn't.
        """
        return self._ready().server

    @property
    def dimensions(self) -> int:
        """Length of the vectors that are given when no other is asked for."""
        return self._ready().dimensions

    @property
    def max_length(self) -> int | None:
        """Longest input in tokens, as the tokenizer at hand has it; None without one."""
        tokens = self._ready().tokens
        return None if tokens is None else tokens.max_length

    @property
    def instructions(self) -> Mapping[str, str]:
        """The known names with the literal prompts they stand for."""
        return self._ready().instructions.known()

    @property
    def is_started(self) -> bool:
        """Whether the server was asked what it is."""
        return self._started is not None

    def identity(self) -> EmbedderIdentity:
        """Where the embedder is, and what is known of it: its weights and pooling aren't."""
        ready = self._ready()
        return EmbedderIdentity(
            model=url_of(self._base_url, ready.server.model),
            revision=None,
            fingerprint=None,
            native_dimensions=ready.server.native_dimensions,
            pooling=None,
            document_prompt=ready.instructions.prompt(Role.DOCUMENT) if ready.knows_prompts else None,
            query_prompt=ready.instructions.prompt(Role.QUERY) if ready.knows_prompts else None,
            max_length=self.max_length,
            matryoshka=ready.range.matryoshka,
        )

    def stats(self) -> EmbeddingStats:
        """Texts and requests so far, and the tokens that the server says it read.

        Where a server counts characters instead, and for texts that it may have cut off without saying so, the tokenizer at hand
        counts; without one such tokens are 0, and what was cut off isn't known.
        """
        return self._stats

    def count_tokens(self, texts: Sequence[str]) -> list[int] | None:
        """Tokens of each text as a document, by the tokenizer at hand; None without one."""
        tokens = self._ready().tokens
        return None if tokens is None else tokens.count_tokens(texts)

    def token_spans(self, text: str) -> npt.NDArray[np.int32] | None:
        """Character offsets `(num_tokens, 2)` of the text's own tokens, by the tokenizer at hand; None without one."""
        tokens = self._ready().tokens
        return None if tokens is None else tokens.token_spans(text)

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
        """Queue `texts`; the future gives float32 `(n, dimensions)`. The first call asks the server what it is."""
        if self._closed.is_set():
            raise EmbedderClosed()
        if isinstance(texts, str):
            raise UsageError("Pass a list of texts, not one string: [text].")
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"Text {row} is {type(text).__name__}, not str: a server takes texts.", row)
            check_unicode(text, row)
        ready = self._ready()
        length = ready.dimensions if dimensions is None else ready.range.check(dimensions)
        prompt = ready.instructions.prompt(role, instruction)
        prompted = [prompt + text for text in texts if isinstance(text, str)]
        call = _Call(prompted, length, on_progress)
        if not prompted:
            call.future.set_result(np.empty((0, length), dtype=np.float32))
            return call.future
        urgency = (Priority.INTERACTIVE if len(prompted) <= _FEW_TEXTS else Priority.BULK) if priority is None else priority
        self._queue(call, 0, len(prompted), urgency)
        return call.future

    def close(self) -> None:
        """Refuse further use and close the connections. Closing twice is fine; in a forked child they are the parent's."""
        self._closed.set()
        if self._process != os.getpid():
            return
        for job in self._lanes.close():
            job()  # which tells whoever waits for it
        self._wire.close()

    def _queue(self, call: _Call, start: int, stop: int, priority: Priority) -> None:
        sizes = [len(text.encode()) for text in call.texts[start:stop]]
        parts = [(start + one.start, start + one.stop) for one in self._wire.batches(sizes)]
        if not self._lanes.put(priority, [partial(self._send, call, first, last, priority) for first, last in parts]):
            call.fail(EmbedderClosed())

    def _send(self, call: _Call, start: int, stop: int, priority: Priority) -> None:
        """One request; what it raises is the call's."""
        if call.future.done():
            return
        if self._closed.is_set():
            call.fail(EmbedderClosed())
            return
        try:
            # Who asks a question waits less long for a server than a job does.
            with until(self._closed), at_most(READING_S if priority is Priority.INTERACTIVE else math.inf):
                rows = self._embed(call.texts[start:stop], call.dimensions, first_row=start)
            call.deliver(start, rows)  # whose progress callback is the caller's, and may raise anything
        except RefusedTogether:
            middle = (start + stop) // 2
            self._queue(call, start, middle, priority)
            self._queue(call, middle, stop, priority)
        except BaseException as error:  # noqa: BLE001  # whoever waits for the call has to hear of it
            call.fail(EmbedderClosed() if self._closed.is_set() else error)

    def _embed(self, texts: list[str], dimensions: int, *, first_row: int) -> FloatArray:
        """Unit vectors of texts that stand in one request."""
        server = self._ready().server
        asked = dimensions if _LEAST_ASKED <= dimensions < server.native_dimensions else None
        try:
            answer = self._wire.embed(server.model, texts, asked)
        except InputError as error:
            raise type(error)(f"Text {first_row}: {error}", first_row) from error
        if answer.rows.shape[1] < dimensions:
            raise ServerFailed(
                f"The embedding server at {self._base_url} gave vectors of {answer.rows.shape[1]} dimensions where {dimensions}"
                f" were asked for; at its first answer it gave {server.native_dimensions}."
            )
        for row, vector in enumerate(answer.rows):
            if not np.isfinite(vector).all() or not vector.any():
                what = "zeros alone" if not vector.any() else "NaN or infinity"
                raise NonFiniteEmbedding(
                    f"The embedding server at {self._base_url} gave {what} for text {first_row + row}. With float16 weights some"
                    " texts overflow: run its model in bfloat16 or float32.",
                    first_row + row,
                )
        self._count(_completed(answer, texts, self._ready()))
        return cut(answer.rows, dimensions)

    def _count(self, answer: Answer) -> None:
        with self._counting:
            old = self._stats
            if answer.truncated and not old.truncated_texts:
                _log.warning("%s was given texts that are longer than its model reads; see stats().", self._base_url)
            self._stats = EmbeddingStats(
                texts=old.texts + len(answer.rows), tokens=old.tokens + answer.tokens, batches=old.batches + 1,
                truncated_texts=old.truncated_texts + answer.truncated,
                dropped_tokens=old.dropped_tokens + answer.dropped_tokens,
                dropped_tokens_estimated=old.dropped_tokens_estimated or answer.dropped_tokens_estimated,
            )  # fmt: skip

    def _ready(self) -> _Started:
        if self._process != os.getpid():
            raise EmbedderClosed("This embedder was made before the process forked; its threads aren't here. Make another in it.")
        if self._started is None:
            with self._starting:
                if self._closed.is_set():
                    raise EmbedderClosed()
                if self._started is None:
                    with at_most(self._start_timeout_s):
                        self._started = self._start()
        return self._started

    def _start(self) -> _Started:
        """Ask the server what it is, and find out what is known of its model here."""
        listed = self._wire.models()
        model = self._asked_model or _only(listed, self._base_url)
        began = time.monotonic()
        answer = self._wire.embed(model, _FIRST_TEXTS, None)
        norms = np.linalg.norm(answer.rows.astype(np.float64), axis=1)
        normalised = bool((abs(norms - 1) < _UNIT).all())
        program, characters = _program(listed, model), sum(map(len, _FIRST_TEXTS))
        server = RemoteServer(
            program, model, answer.rows.shape[1], normalised, answer.tokens == characters, program == _OUR_SERVER
        )  # fmt: skip
        _log.info(
            "%s (%s) serves %s: %d dimensions, %s, first answer after %.2f s",
            self._base_url, server.name or "it doesn't say which program", model, server.native_dimensions,
            "of unit norm" if normalised else "not of unit norm, which they are given here", time.monotonic() - began,
        )  # fmt: skip
        spec = self._spec(model)
        prompts = _known_prompts(model) if spec is None else dict(spec.prompts)
        known = prompts is not None or self._said.settles_both
        if not known:
            _log.warning(
                "Nothing is known of the prompts of %s, so queries and documents are sent as they are. If it has some, name the "
                "same model on this machine (tokenizer=), or say what is put before (query_instruction=, document_instruction=).",
                model,
            )
        matryoshka = spec.matryoshka if spec is not None else is_matryoshka(model)
        lengths = DimensionRange(1, server.native_dimensions, matryoshka)
        if self._asked_dimensions not in (None, server.native_dimensions) and not matryoshka:
            _log.warning(UNTRAINED_CUT, model, server.native_dimensions, self._asked_dimensions)
        instructions = self._said.instructions(prompts or {}, spec)
        started = _Started(
            server, instructions, known, lengths, lengths.check(self._asked_dimensions), self._tokens(spec, instructions)
        )
        _check_tokens(started, answer, self._base_url)
        return started

    def _spec(self, model: str) -> ModelSpec | None:
        """The same model on this machine, if there is one."""
        if self._tokenizer is not None:
            return load_spec(self._tokenizer)
        try:
            return load_spec(model) if is_local(model) else None
        except ModelError as error:
            _log.info("the model %s on this machine isn't used to count tokens: %s", model, error)
            return None

    def _tokens(self, spec: ModelSpec | None, instructions: Instructions) -> ReadTokens | None:
        if spec is None:
            return None
        try:
            return ReadTokens(
                spec.name, revision=spec.revision, pooling=None, prompt=instructions.prompt(Role.DOCUMENT), max_length=None,
                clean=(), split_special_tokens=False,
            )  # fmt: skip
        except MissingExtra:
            if self._tokenizer is not None:
                raise
            _log.info("tokens are estimated: the tokenizer of %s is here, but 'tokenizers' isn't installed", spec.name)
            return None


@dataclass(frozen=True, slots=True)
class _Said:
    """What the caller said of instructions, before the model's prompts are known."""

    query: InstructionLike
    document: InstructionLike
    custom: Mapping[str, str | Instruction]
    template: str | None

    @property
    def settles_both(self) -> bool:
        return self.query is not None and self.document is not None

    def instructions(self, prompts: Mapping[str, str], spec: ModelSpec | None) -> Instructions:
        """Those of a model with these prompts."""
        template = self.template or (spec.template if spec is not None else template_of(prompts))
        default = spec.default_prompt_name if spec is not None else None
        return Instructions(dict(prompts), template, self.custom, default, self.query, self.document)


@dataclass(frozen=True, slots=True)
class _Started:
    """What is known after the first contact."""

    server: RemoteServer
    instructions: Instructions
    knows_prompts: bool
    range: DimensionRange
    dimensions: int
    tokens: ReadTokens | None


@dataclass(eq=False)
class _Call:
    """One call on its way in several requests."""

    texts: list[str]
    dimensions: int
    on_progress: OnEmbeddingProgress | None
    future: Future[FloatArray] = field(default_factory=Future)

    def __post_init__(self) -> None:
        self._rows: FloatArray = np.empty((len(self.texts), self.dimensions), dtype=np.float32)
        self._done = 0
        self._lock = threading.Lock()

    def deliver(self, start: int, rows: FloatArray) -> None:
        """Take the vectors of some texts; the last ones answer the call."""
        with self._lock:
            self._rows[start : start + len(rows)] = rows
            self._done += len(rows)
            done = self._done
            if self.on_progress is not None and not self.future.done():
                self.on_progress(EmbeddingProgress(done, len(self.texts), 0))
        if done == len(self.texts):
            self._settle(partial(self.future.set_result, self._rows))

    def fail(self, error: BaseException) -> None:
        """Answer the call with an error, unless it has one already."""
        self._settle(partial(self.future.set_exception, error))

    def _settle(self, settle: partial[None]) -> None:
        with self._lock:
            try:
                settle()
            except InvalidStateError:
                _log.debug("an answer came after the call was over")


def parse_url(url: str) -> tuple[str, str | None]:
    """Base URL and model (None where none is named) of `openai+http://HOST:PORT/v1#MODEL`; raises UsageError for others."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in REMOTE_SCHEMES:
        raise UsageError(f"{url.partition('@')[2] or url!r} is no address of an embedding server; write e.g. {_EXAMPLE}.")
    address, _, model = rest.partition("#")
    return _checked_url(f"{REMOTE_SCHEMES[scheme]}://{address}"), model or None


def url_of(base_url: str, model: str) -> str:
    """What `parse_url` reads."""
    return f"openai+{base_url}#{model}"


def _checked_url(base_url: str) -> str:
    try:
        parts = urlsplit(base_url)
        _ = parts.port, (parts.hostname or "").encode("idna")
    except ValueError:  # whose message may hold a password
        message = "The address of an embedding server has a host or a port that can't be; write e.g. http://localhost:30000/v1."
        raise UsageError(message) from None
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            "The address of an embedding server holds no user and no key, because addresses are logged: set the environment"
            f" variable {API_KEY_VARIABLE}."
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise UsageError(f"{base_url!r} is no address of an embedding server's API; write e.g. http://localhost:30000/v1.")
    return base_url.rstrip("/")


def _only(listed: Sequence[Mapping[str, Any]], base_url: str) -> str:
    names = [str(one.get("id")) for one in listed if one.get("id")]
    if len(names) == 1:
        return names[0]
    known, example = (f"it lists {', '.join(names)}", names[0]) if names else ("it lists none", "MODEL")
    raise UsageError(f"Name the model that {base_url} is asked for ({known}), e.g. {url_of(base_url, example)}")


def _program(listed: Sequence[Mapping[str, Any]], model: str) -> str | None:
    """Which program a server is, by who it says owns the model."""
    owners = [one.get("owned_by") for one in listed if one.get("id") == model] or [one.get("owned_by") for one in listed]
    return next((str(owner) for owner in owners if owner), None)


def _known_prompts(model: str) -> dict[str, str] | None:
    return next((dict(prompts) for pattern, prompts in _PROMPTS.items() if fnmatch.fnmatchcase(model, pattern)), None)


def _check_tokens(started: _Started, answer: Answer, base_url: str) -> None:
    """Warn where the server reads other tokens than the tokenizer at hand: perhaps it leaves out the closing one."""
    tokens, unknown = started.tokens, not answer.tokens or started.server.counts_characters
    if tokens is None or unknown or started.instructions.prompt(Role.DOCUMENT):
        return
    expected = sum(tokens.count_tokens(_FIRST_TEXTS))
    if answer.tokens != expected:
        _log.warning(
            "%s counts %d tokens where the model's tokenizer counts %d. If it leaves out a closing token its vectors are others; "
            "a collection's probe vectors will tell.", base_url, answer.tokens, expected,
        )  # fmt: skip


def _completed(answer: Answer, texts: Sequence[str], started: _Started) -> Answer:
    """An answer with the tokens that its server doesn't tell, by the tokenizer at hand."""
    server, tokens = started.server, started.tokens
    if tokens is None:
        return replace(answer, tokens=0) if server.counts_characters else answer
    # A token is a byte at least, but for special ones and what a normaliser makes longer; most texts needn't be read for that.
    suspected = [] if server.tells_truncation else [text for text in texts if len(text.encode()) > tokens.max_length // 2]
    counts = tokens.count_complete(texts if server.counts_characters else suspected)
    lost = [count - tokens.max_length for count in counts if count > tokens.max_length]
    if lost and not server.tells_truncation:
        answer = replace(answer, truncated=len(lost), dropped_tokens=sum(lost), dropped_tokens_estimated=True)
    return replace(answer, tokens=sum(counts)) if server.counts_characters else answer
