"""One engine for each model and way of running it in a process, for many, each with dimensions and instructions of its own.

An application has a model in its framework's embeddings, in a retriever and in an open collection: its weights are loaded once,
and what all of them ask for at the same time shares batches.
"""

from __future__ import annotations

import inspect
import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypedDict, Unpack

import numpy as np
import numpy.typing as npt

from sightline.embedding.base import BaseEmbedder
from sightline.embedding.engine import EmbeddingEngine, EngineDescription
from sightline.embedding.models import DEFAULT_MODEL, full_name, is_remote
from sightline.embedding.seams import Reading
from sightline.embedding.tokens import OnTooLong
from sightline.errors import EmbedderClosed, UsageError
from sightline.protocols import InstructionLike, Texts
from sightline.types import (
    EmbedderIdentity,
    EmbeddingStats,
    FloatArray,
    Instruction,
    OnEmbeddingProgress,
    Priority,
    Role,
)

if TYPE_CHECKING:
    from sightline.embedding.remote import RemoteEmbedder

_engines: weakref.WeakValueDictionary[Any, EmbeddingEngine] = weakref.WeakValueDictionary()
_lock = threading.Lock()
_DEFAULTS = {name: one.default for name, one in inspect.signature(EmbeddingEngine.__init__).parameters.items()}


class _Sight(TypedDict):
    """What each has of its own."""

    dimensions: int | None
    query_instruction: InstructionLike
    document_instruction: InstructionLike
    instructions: Mapping[str, str | Instruction] | None
    instruction_template: str | None


class RunSettings(TypedDict, total=False):
    """What makes another engine of the same model; the meanings are those of `EmbeddingEngine`."""

    device: str | None
    devices: Sequence[str] | str | None
    dtype: str | None
    encoder: str
    revision: str | None
    max_batch_tokens: int | None
    max_length: int | None
    on_too_long: OnTooLong
    pooling: str | Sequence[str] | None
    deterministic: bool
    clean: Sequence[str]
    split_special_tokens: bool
    pack: bool
    threads: int | None
    trust_remote_code: bool


def open_embedder(
    model: str | Path = DEFAULT_MODEL,
    *,
    dimensions: int | None = None,
    query_instruction: InstructionLike = None,
    document_instruction: InstructionLike = None,
    instructions: Mapping[str, str | Instruction] | None = None,
    instruction_template: str | None = None,
    **settings: Unpack[RunSettings],
) -> SharedEmbedder | RemoteEmbedder:
    """An embedder that shares its model with every other one of the same model and settings in this process.

    Cheap to make: weights load at the first text of the first of them, and go when the last one is closed or forgotten. A model
    on a server is a `RemoteEmbedder`.

    Args:
        model: A folder, `package:NAME` (a folder in an installed Python package), a hub name, or a server's model:
            `openai+http://HOST:PORT/v1#MODEL`.
        dimensions: Length of this one's vectors; None is the model's own.
        query_instruction: What this one's queries look with; None is the model's own.
        document_instruction: The same for documents.
        instructions: This one's named instructions: name -> task sentence.
        instruction_template: Where a task sentence goes; None reads it off the model.
        settings: How the model runs, e.g. `device="cuda:1"`; see `EmbeddingEngine`.

    Raises:
        ModelNotFound, ModelError, DimensionError, UnknownInstruction, UsageError: As for `EmbeddingEngine`.
    """
    sight: _Sight = {
        "dimensions": dimensions,
        "query_instruction": query_instruction,
        "document_instruction": document_instruction,
        "instructions": instructions,
        "instruction_template": instruction_template,
    }
    if is_remote(model):
        return _remote(str(model), settings, sight)
    return SharedEmbedder(_shared_engine(model, settings), **sight)


class SharedEmbedder(BaseEmbedder):
    """One sight through a shared engine; `open_embedder` makes it. Closing one leaves the others as they are."""

    def __init__(
        self,
        engine: EmbeddingEngine,
        *,
        dimensions: int | None,
        query_instruction: InstructionLike,
        document_instruction: InstructionLike,
        instructions: Mapping[str, str | Instruction] | None,
        instruction_template: str | None,
    ) -> None:
        self._engine: EmbeddingEngine | None = engine
        self._dimensions = engine.check_dimensions(dimensions)
        self._instructions = engine.make_instructions(
            custom=instructions, query=query_instruction, document=document_instruction, template=instruction_template
        )

    @property
    def engine(self) -> EmbeddingEngine:
        """The engine that all of them share.

        Raises:
            EmbedderClosed: After `close()`.
        """
        if self._engine is None:
            raise EmbedderClosed
        return self._engine

    @property
    def dimensions(self) -> int:
        """Length of the vectors that are given when no other is asked for."""
        return self._dimensions

    @property
    def max_length(self) -> int:
        """Longest input in tokens, prompt and special tokens included."""
        return self.engine.max_length

    @property
    def instructions(self) -> Mapping[str, str]:
        """The known names with the literal prompts they stand for."""
        return self._instructions.known()

    def identity(self) -> EmbedderIdentity:
        """Who this embedder is, without loading weights or torch."""
        document, query = self._instructions.prompt(Role.DOCUMENT), self._instructions.prompt(Role.QUERY)
        return replace(self.engine.identity(), document_prompt=document, query_prompt=query)

    @property
    def ended(self) -> bool:
        """Whether it answers nobody any more: it was closed, or the device of the shared engine failed."""
        return self._engine is None or self._engine.ended

    def describe(self) -> EngineDescription:
        """What the shared engine is and how it runs, with this one's own dimensions and instructions."""
        return replace(self.engine.describe(), dimensions=self._dimensions, instructions=self.instructions)

    def stats(self) -> EmbeddingStats:
        """What the shared engine has done so far, for whomever."""
        return self.engine.stats()

    def count_tokens(
        self, texts: Sequence[str], *, role: Role = Role.DOCUMENT, instruction: InstructionLike = None
    ) -> list[int]:
        """Tokens of each text as embedding it reads it, prompt and special tokens included, however long it is."""
        return self.engine.count_tokens(texts, prompt=self._instructions.prompt(role, instruction))

    def token_spans(self, text: str) -> npt.NDArray[np.int32]:
        """Character offsets `(num_tokens, 2)` of the text's own tokens, no special ones."""
        return self.engine.token_spans(text)

    def read_tokens(self, texts: Sequence[str]) -> Sequence[Reading] | None:
        """Each text's tokens, of whose stretches those behind this one's own document prompt can be had; None if not."""
        return self.engine.read_tokens(texts, prompt=self._instructions.prompt(Role.DOCUMENT))

    def tokens_elsewhere(self) -> Mapping[str, Any] | None:
        """Of what another process makes what reads tokens behind this one's own document prompt; None for a model on a CPU."""
        return self.engine.tokens_elsewhere(prompt=self._instructions.prompt(Role.DOCUMENT))

    @property
    def is_started(self) -> bool:
        """Whether the shared engine is."""
        return self.engine.is_started

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
        """Queue `texts`; the future gives float32 `(n, dimensions)`, and keeps the model until then."""
        engine = self.engine
        future = engine.submit_with(
            self._instructions, texts, role=role, instruction=instruction,
            dimensions=self._dimensions if dimensions is None else dimensions, priority=priority, on_progress=on_progress,
        )  # fmt: skip
        kept = [engine]
        future.add_done_callback(lambda _: kept.clear())
        return future

    def __reduce__(self) -> NoReturn:
        raise TypeError("An embedder can't be sent to another process: its model and threads are this one's. Make one there.")

    def close(self) -> None:
        """Let the model go; the last one to do so frees it. Closing twice is fine."""
        self._engine = None


def _remote(url: str, settings: RunSettings, sight: _Sight) -> RemoteEmbedder:
    """An embedder of its own: what is shared is the server."""
    from sightline.embedding.remote import RemoteEmbedder  # loads an HTTP client

    # A server batches as it likes; which of its vectors agree to the bit isn't for us to say.
    theirs = [name for name, value in settings.items() if value not in (None, _DEFAULTS.get(name)) and name != "deterministic"]
    if theirs:
        names = ", ".join(theirs)
        raise UsageError(f"{url} runs as its server was started, and {names} is for a model on this machine. Leave it out.")
    return RemoteEmbedder.from_url(url, **sight)


def _shared_engine(model: str | Path, settings: RunSettings) -> EmbeddingEngine:
    name = full_name(model)
    # What is said and what goes without saying are the same engine.
    frozen = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    given: dict[str, Any] = {key: value for key, value in frozen.items() if value is not None and value != _DEFAULTS.get(key)}
    key = (name, *sorted(given.items()))
    with _lock:
        engine = _engines.get(key)
        if engine is None:
            engine = _engines[key] = EmbeddingEngine(name, **given)
        return engine


def _forget() -> None:
    """In a forked child: the engines' threads are not here, and whoever held the lock isn't either."""
    global _lock
    _lock = threading.Lock()
    _engines.clear()


if hasattr(os, "register_at_fork"):  # not on Windows, which doesn't fork
    os.register_at_fork(after_in_child=_forget)
