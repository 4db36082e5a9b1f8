"""The model behind the server, and the collection, from loading to the last vector."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Protocol

import numpy as np

from sightline import Collection, __version__
from sightline.errors import DimensionError, ModelError
from sightline.serving.admission import Admission
from sightline.serving.problems import Problem, unavailable
from sightline.serving.requests import Asked, SearchRequest
from sightline.serving.settings import Limits
from sightline.types import EmbedderIdentity, EmbeddingProgress, EmbeddingStats, FloatArray, Hit, Role, Truncation

log = logging.getLogger(__name__)

# Nearer than the number formats of any device leave one text to itself, farther than any other text.
_SAME = 0.99
_PROBES = ("The lamp is lit at dusk.", "a", "Wie hoch ist der Turm? 東京 🗼", "The keeper writes down wind, tide, ships. " * 12)


class Embedder(Protocol):
    """What the server asks of an embedder; `sightline.open_embedder` gives one. See `sightline.protocols.Embedder`."""

    @property
    def dimensions(self) -> int: ...
    @property
    def max_length(self) -> int | None: ...
    @property
    def instructions(self) -> Any: ...
    def identity(self) -> EmbedderIdentity: ...
    def stats(self) -> EmbeddingStats: ...
    def count_tokens(self, texts: Sequence[str], *, role: Role, instruction: Any = None) -> list[int] | None: ...
    def embed_queries(self, texts: Sequence[str]) -> FloatArray: ...
    def embed_documents(self, texts: Sequence[str]) -> FloatArray: ...
    def submit(
        self, texts: Any, *, role: Role, instruction: Any = None, dimensions: int | None = None, priority: Any = None,
        on_progress: Any = None,
    ) -> Future[FloatArray]: ...


class State(StrEnum):
    """Whether requests can be answered."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors, float32 `(texts, dimensions)`, the tokens that the model read for them, and what of the texts it didn't."""

    vectors: FloatArray
    tokens: int
    truncation: Truncation | None


class Service:
    """One model under its names, and what is asked of it.

    Args:
        embedder: Who embeds.
        names: What clients call it; the first one is what it calls itself.
        collection: What `/v1/search` asks, opened with the same embedder.
        limits: How much is taken in at a time.
        token_ids: Whether token ids may be sent.
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        names: Sequence[str],
        collection: Collection | None = None,
        limits: Limits | None = None,
        token_ids: bool = False,
    ) -> None:
        self.embedder, self.names, self.collection, self.token_ids = embedder, tuple(names), collection, token_ids
        self.admission = Admission(limits or Limits())
        self._state = State.LOADING
        self.started = int(time.time())

    @property
    def state(self) -> State:
        """Whether requests can be answered. An embedder that ended says so itself, whether or not a request met it."""
        return State.FAILED if self._state is State.READY and getattr(self.embedder, "ended", False) else self._state

    @state.setter
    def state(self, state: State) -> None:
        self._state = state

    def load(self) -> None:
        """Load the model and try it; from then on requests are answered.

        Raises:
            SightlineError: The model can't be loaded, or doesn't give what it should.
        """
        try:
            check(self.embedder)
        except BaseException:
            self.state = State.FAILED
            raise
        self.state = State.READY

    def require_ready(self) -> None:
        """Raise a Problem unless requests can be answered."""
        if self.state is State.LOADING:
            raise unavailable("The model is being loaded. Ask again in a moment.", "model_loading")
        if self.state is State.FAILED:
            raise unavailable("The model failed; the server must be started anew.", "model_failed")

    async def embed(self, asked: Asked) -> Embedded:
        """Vectors for a request; cancelling drops what of it waits.

        Raises:
            SightlineError: What is wrong with the request, or with the engine.
        """
        last = EmbeddingProgress(0, len(asked.texts), 0)

        def note(progress: EmbeddingProgress) -> None:
            nonlocal last
            last = progress

        future: Future[FloatArray] | None = None
        waiting: asyncio.Future[FloatArray] | None = None
        try:
            future = self.embedder.submit(
                asked.texts, role=asked.role, instruction=asked.instruction, dimensions=asked.dimensions,
                priority=asked.priority, on_progress=note,
            )  # fmt: skip
            waiting = asyncio.wrap_future(future)
            vectors = await waiting
        finally:
            future = waiting = None  # or an error, its frames and the texts keep one another
        return Embedded(vectors, last.tokens_done, last.truncation)

    async def search(self, asked: SearchRequest) -> list[Hit]:
        """Hits for a question.

        Raises:
            Problem: There is no collection, or the question is longer than the model reads.
            SightlineError: What is wrong with the request, with the engine, or with the collection.
        """
        if self.collection is None:
            raise Problem(404, "No collection is served here; an operator names one with --collection URL.", "no_collection")
        await asyncio.to_thread(self._check_length, asked, self.collection)
        try:
            return await self.collection.asearch(
                asked.query, k=asked.k, instruction=asked.instruction, filter=asked.filter, dimensions=asked.dimensions,
                shortlist=asked.shortlist,
            )  # fmt: skip
        except DimensionError as error:  # which names the collection's address, and what its owner could do
            what, given = ("shortlist", asked.shortlist) if asked.dimensions is None else ("dimensions", asked.dimensions)
            lengths = ", ".join(map(str, self.collection.lengths))
            message = f"The collection can't be searched by {what}={given}; its points have {lengths}."
            raise Problem(400, message, "invalid_dimensions", what) from error

    def describe(self) -> dict[str, Any]:
        """What the server is, as `/config` shows it; None is not known, e.g. before the model is loaded."""
        identity, limits = self.embedder.identity(), self.admission.limits
        describe = getattr(self.embedder, "describe", None)
        known = asdict(describe()) if describe is not None and self.state is State.READY else {}
        running = ("device", "devices", "dtype", "max_batch_tokens", "deterministic", "architecture", "minimum_dimensions")
        return {
            "model": self.names[0],
            "names": list(self.names),
            "revision": identity.revision,
            "embedding_dim": self.embedder.dimensions,
            "native_dim": identity.native_dimensions,
            "max_sequence_length": self.embedder.max_length,
            "supported_instructions": dict(self.embedder.instructions),
            "query_prompt": identity.query_prompt,
            "document_prompt": identity.document_prompt,
            "pooling": identity.pooling,
            "normalized": True,
            **{name: known.get(name) for name in running},
            "collection": self.collection is not None,
            "token_ids": self.token_ids,
            "max_queue_texts": limits.queue_texts,
            "max_body_bytes": limits.body_bytes,
            "version": __version__,
        }

    def _check_length(self, asked: SearchRequest, collection: Collection) -> None:
        """A question is never cut in silence, whatever stands before it."""
        longest = self.embedder.max_length
        if longest is None:
            return
        text, instruction, contract = asked.query, asked.instruction, collection.contract
        if instruction is None and contract is not None and contract.reading.query_prompt is not None:
            text, instruction = contract.reading.query_prompt + text, ""
        counts = self.embedder.count_tokens([text], role=Role.QUERY, instruction=instruction)
        if counts is not None and counts[0] > longest:
            message = f"The question has {counts[0]:,} tokens with its prompt; at most {longest:,} are read."
            raise Problem(400, message, "input_too_long", "query")


def check(embedder: Embedder) -> None:
    """Embed a few texts in both roles, together and alone: what can be seen to be wrong with a model is seen before anybody asks.

    Raises:
        ModelError: A vector isn't finite and of unit norm, or another one than the same text gets alone.
    """
    started = time.perf_counter()
    together = embedder.embed_documents(list(_PROBES))
    for role, vectors in (("documents", together), ("queries", embedder.embed_queries(list(_PROBES)))):
        lengths = np.linalg.norm(vectors, axis=1)
        if not np.all(np.abs(lengths - 1) < 1e-3):  # NaN isn't, either
            raise ModelError(f"The model gives {role} vectors of lengths {lengths.tolist()}, not 1. Try --dtype float32.")
    for row, text in enumerate(_PROBES):
        cosine = float(together[row] @ embedder.embed_documents([text])[0])
        if cosine < _SAME:
            raise ModelError(
                f"The model gives a text another vector beside others than alone (cosine {cosine:.4f}, probe {row}), so its "
                "answers can't be relied on. Please report it with the output of: sightline doctor"
            )
    log.info("model checked", extra={"fields": {"seconds": round(time.perf_counter() - started, 3)}})

