"""The seams: what an embedder and a store are to the rest of Sightline, on one screen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from sightline.types import (
    EmbedderIdentity,
    EmbeddingStats,
    Filter,
    FloatArray,
    Head,
    Hit,
    Instruction,
    OnEmbeddingProgress,
    Point,
    Priority,
    Record,
    Role,
    Shortlist,
    TokenizedText,
    VectorLayout,
)

Texts: TypeAlias = Sequence[str] | Sequence[TokenizedText] | Sequence[str | TokenizedText]
InstructionLike: TypeAlias = str | Instruction | None


class Tokens(Protocol):
    """What cutting documents asks of an embedder: the tokens of its texts."""

    @property
    def max_length(self) -> int | None: ...
    def count_tokens(self, texts: Sequence[str]) -> list[int] | None: ...
    def token_spans(self, text: str) -> npt.NDArray[np.int32] | None: ...


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


class TokenReading(Protocol):
    """A text that was tokenised once, so that its stretches needn't be again."""

    @property
    def spans(self) -> npt.NDArray[np.int32]:
        """As `Embedder.token_spans` of the text."""
    def tokenized(self, stretches: Sequence[tuple[int, int]]) -> list[TokenizedText | None]:
        """Each `text[start:end]` exactly as it is read as a document by itself; None is to be embedded as a text."""


@runtime_checkable
class TokenReader(Protocol):
    """What an embedder may offer besides."""

    def read_tokens(self, texts: Sequence[str]) -> Sequence[TokenReading] | None:
        """Each text's tokens; None where nothing is known of how those of its stretches would differ."""


@runtime_checkable
class TokensElsewhere(Protocol):
    """What an embedder may offer besides, if it takes texts faster than one process can cut them."""

    def tokens_elsewhere(self) -> Mapping[str, Any] | None:
        """JSON of which another process makes what reads tokens as this one does; None where it isn't worth it.

        "make" is `module:name` of a function that gives `Tokens` (and `TokenReader`), all else are its arguments.
        """


@dataclass(frozen=True, slots=True)
class StoreCapabilities:
    """What a store can do. Asking for what it can't is an error at once, never a late surprise."""

    persistent: bool
    several_dimensions: bool
    quantization: bool
    float16: bool


class Readable(Protocol):
    """What a collection is copied from: a store, or a file."""

    @property
    def url(self) -> str: ...
    def layout(self) -> VectorLayout: ...
    def count(self) -> int: ...
    def read_contract(self) -> Mapping[str, Any] | None: ...
    def read_mark(self) -> Mapping[str, Any]: ...
    def records(self) -> Iterator[Record]: ...


class CollectionFile(Readable, Protocol):
    """A file that holds a collection, to be kept and moved; searched is what was copied from it into a store."""

    def exists(self) -> bool: ...
    def writing(
        self, layout: VectorLayout, contract: Mapping[str, Any], mark: Mapping[str, Any]
    ) -> AbstractContextManager[CollectionWriter]:
        """Write the file anew; it takes its place when the block ends without an error, and then it is whole and on disk."""


class CollectionWriter(Protocol):
    """A file that is being written."""

    def write(self, points: Sequence[Point], vectors: FloatArray) -> None:
        """Write points with their vectors `(n, dimensions)`."""
    def finished(self) -> Readable:
        """End the file; gives what reads it back before it takes its place."""


class Store(Protocol):
    """One collection in one database. A score is a cosine similarity; ids are UUID strings.

    Reading needs no lock. `acquire` makes this store the only writer until it is closed; what writes takes it too. A collection
    that Sightline didn't make (no contract) can be read, and is written only after `write_contract` adopted it. Points of ours
    carry a marker: `heads`, `sources`, `points`, `vectors_of` and all deletions see those only.
    """

    url: str
    capabilities: StoreCapabilities

    def exists(self) -> bool: ...
    def layout(self) -> VectorLayout:
        """How the collection keeps its vectors; `shorter` names a length from the moment on that new points get it."""
    def count(self) -> int:
        """How many points there are, whoever wrote them."""
    def disk_bytes(self) -> int | None:
        """What the database's directory takes; None where that can't be known or nothing is kept."""

    def acquire(self, *, take_over: bool = False) -> None:
        """Become the only writer or raise StoreLocked, which names the other one; `take_over` ends a server's lease."""
    def release(self) -> None:
        """Let the next writer in, and go on as a reader; what writes acquires again."""
    def create(self, layout: VectorLayout, contract: Mapping[str, Any]) -> None: ...
    def add_dimension(self, dimensions: int, on_progress: Callable[[int], None] | None = None) -> int:
        """Keep one more shorter length, cut from what is stored; gives how many points lacked it.

        One that was interrupted goes on. `on_progress` is told how many points got it so far.
        """
    def remove_dimension(self, dimensions: int) -> None:
        """Keep one of the shorter lengths no longer."""
    def read_contract(self) -> Mapping[str, Any] | None:
        """The stored contract as JSON data; None when there is no collection, or one that Sightline didn't make."""
    def write_contract(self, contract: Mapping[str, Any]) -> None:
        """Replace the contract of an existing collection at once, or give one to a collection that has none."""
    def read_mark(self) -> Mapping[str, Any]:
        """What the last run left word of, as JSON data; empty before the first `write_mark`."""
    def write_mark(self, mark: Mapping[str, Any]) -> None:
        """Replace the mark at once; it is durable when this returns."""

    def upsert(self, points: Sequence[Point], vectors: FloatArray) -> None:
        """Write points; returns only when the store has acknowledged them. An existing point is replaced whole.

        `vectors` are the main ones, `(n, dimensions)`; the store cuts the shorter ones from them.
        """
    def update(self, points: Sequence[Point]) -> None:
        """Replace everything but the vector and the text of existing points; ids that aren't there are left out."""
    def delete(self, ids: Sequence[str]) -> None: ...

    def heads(self) -> Iterator[Head]: ...
    def sources(self) -> dict[str, int]:
        """How many points each document has."""
    def points(self, source: str) -> list[Point]:
        """All points of a document, its head included."""
    def vectors_of(self, texts: Sequence[str]) -> dict[str, FloatArray]:
        """Stored vectors of those texts that some point of ours has."""
    def records(self, limit: int | None = None, *, filter: Filter | None = None) -> Iterator[Record]:
        """Points with their vectors, whoever wrote them; all that meet the filter, or `limit` of them."""
    def records_of(self, ids: Sequence[str]) -> list[Record]:
        """Points with their vectors by their ids, whoever wrote them, in any order; ids that aren't there are left out."""
    def search(
        self, vector: FloatArray, *, limit: int, filter: Filter | None = None, shortlist: Shortlist | None = None
    ) -> list[Hit]:
        """The nearest points, best first, by the vectors that are as long as `vector`; only a main one takes a shortlist.

        On a quantised collection the scores are those of the vectors themselves.
        """

    def staging(self) -> Store:
        """The collection beside this one that a rebuild fills under this one's lock; an interrupted one is there already."""
    def promote(self) -> None:
        """Put the staging collection in this one's place in one step; readers see the old one or the new one."""
    def drop_staging(self) -> None:
        """Remove the staging collection, if there is one."""
    def close(self) -> None: ...
