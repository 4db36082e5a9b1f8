"""The seams: what an embedder and a store are to the rest of Sightline, on one screen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from sightline.types import (
    EmbedderIdentity,
    EmbeddingStats,
    FloatArray,
    Head,
    Hit,
    Instruction,
    OnEmbeddingProgress,
    Point,
    Priority,
    Role,
    TokenizedText,
)

Texts: TypeAlias = Sequence[str] | Sequence[TokenizedText]
InstructionLike: TypeAlias = str | Instruction | None


@runtime_checkable
class Embedder(Protocol):
    """Texts in, unit vectors out, queries and documents told apart by the method's name.

    The blocking and the async calls all stand on `submit`: one queue, served by priority, so that a lone query overtakes a
    bulk job and concurrent callers share batches. Vectors are float32, C-contiguous, `(len(texts), dimensions)`, of unit
    norm, in input order; an empty list gives `(0, dimensions)`. `instruction=None` is the role's default, `""` is none,
    what matches `[A-Za-z0-9_.-]{1,64}` is a name, anything else a free sentence. `TokenizedText` is embedded as it is: the
    prompt is in it already, so it takes no instruction.
    """

    @property
    def dimensions(self) -> int: ...
    @property
    def max_length(self) -> int | None: ...
    @property
    def instructions(self) -> Mapping[str, str]: ...
    def identity(self) -> EmbedderIdentity: ...
    def stats(self) -> EmbeddingStats: ...
    def submit(
        self, texts: Texts, *, role: Role, instruction: InstructionLike = None, dimensions: int | None = None,
        priority: Priority | None = None, on_progress: OnEmbeddingProgress | None = None,
    ) -> Future[FloatArray]: ...
    def embed_queries(
        self, texts: Texts, *, instruction: InstructionLike = None, dimensions: int | None = None,
        priority: Priority | None = None, on_progress: OnEmbeddingProgress | None = None,
    ) -> FloatArray: ...
    def embed_documents(
        self, texts: Texts, *, instruction: InstructionLike = None, dimensions: int | None = None,
        priority: Priority | None = None, on_progress: OnEmbeddingProgress | None = None,
    ) -> FloatArray: ...
    async def aembed_queries(
        self, texts: Texts, *, instruction: InstructionLike = None, dimensions: int | None = None,
        priority: Priority | None = None,
    ) -> FloatArray: ...
    async def aembed_documents(
        self, texts: Texts, *, instruction: InstructionLike = None, dimensions: int | None = None,
        priority: Priority | None = None,
    ) -> FloatArray: ...
    def count_tokens(self, texts: Sequence[str]) -> list[int] | None:
        """Tokens of each text as a document, prompt and special tokens included; None without a tokenizer."""
    def token_spans(self, text: str) -> npt.NDArray[np.int32] | None:
        """Character offsets `(num_tokens, 2)` of the text's own tokens, no special ones; None without a tokenizer."""
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class StoreCapabilities:
    """What a store can do. Asking for what it can't is an error at once, never a late surprise."""

    persistent: bool
    several_dimensions: bool
    quantization: bool


class Store(Protocol):
    """One collection in one database. A score is a cosine similarity; ids are UUID strings."""

    url: str
    capabilities: StoreCapabilities

    def read_contract(self) -> Mapping[str, Any] | None:
        """The stored contract as JSON data; None when there is no collection, or one that Sightline didn't make."""
    def exists(self) -> bool: ...
    def create(self, dimensions: int, contract: Mapping[str, Any]) -> None: ...
    def upsert(self, points: Sequence[Point], vectors: FloatArray) -> None:
        """Write points; returns only when the store has acknowledged them. An existing point is replaced whole."""
    def delete(self, ids: Sequence[str]) -> None: ...
    def heads(self) -> Iterator[Head]: ...
    def chunk_ids(self, source: str) -> list[str]: ...
    def vectors(self, ids: Sequence[str]) -> dict[str, FloatArray]:
        """Stored vectors of those ids that exist."""
    def search(self, vector: FloatArray, *, limit: int) -> list[Hit]: ...
    def count(self) -> int: ...
    def close(self) -> None: ...
