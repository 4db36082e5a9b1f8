"""What flows between the stages. Plain data: no behaviour beyond checks, no imports from the rest of the package."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float32]
Metadata: TypeAlias = Mapping[str, Any]
# Key -> a value, a list of values (any of them), or bounds {"gte": 2020, "lt": 2024}; all keys must hold. A key is one of the
# metadata's, or "source". A list in the metadata holds what any of its items is; bounds look at numbers, not into lists.
Filter: TypeAlias = Mapping[str, Any]
# (start, place): from this character of a text on, up to the next anchor, it is from this place, e.g. (1200, {"page": 3}).
Anchors: TypeAlias = Sequence[tuple[int, Metadata]]


class Role(StrEnum):
    """The line of sight of a text: a query looks with an instruction, a document is looked at as it is."""

    QUERY = "query"
    DOCUMENT = "document"


class Priority(IntEnum):
    """Which submission the device serves first; lower goes first."""

    INTERACTIVE = 0
    BULK = 1


@dataclass(frozen=True, slots=True)
class Instruction:
    """A free instruction, said outright, so that it can't be taken for a name."""

    text: str


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """A text as the model reads it: prompt and special tokens included.

    Args:
        ids: Token ids of the model's own tokenizer.
        prompt_length: How many leading ids belong to the prompt (only pooling without the prompt needs it).
    """

    ids: Sequence[int]
    prompt_length: int = 0


@dataclass(frozen=True, slots=True)
class EmbedderIdentity:
    """What an embedder is, as far as it knows without loading weights; None is "can't be known".

    Args:
        model: Name, for people.
        revision: Revision, for people.
        fingerprint: Hash over tokenizer, configuration and samples of the weights. Equal means equal.
        native_dimensions: Length of an uncut vector.
        pooling: Name of the pooling, e.g. "lasttoken".
        document_prompt: What is put before every document; "" is nothing.
        query_prompt: What is put before a query by default; "" is nothing.
        max_length: Longest input in tokens.
        matryoshka: Whether it was trained so that a vector's beginning stands for the whole.
    """

    model: str
    revision: str | None
    fingerprint: str | None
    native_dimensions: int
    pooling: str | None
    document_prompt: str | None
    query_prompt: str | None
    max_length: int | None
    matryoshka: bool | None = None


@dataclass(frozen=True, slots=True)
class Truncation:
    """Which of one call's texts were too long, and how many of their tokens the model doesn't read.

    `dropped_tokens` is exact unless `estimated`, as in `EmbeddingStats`.
    """

    rows: tuple[int, ...]
    dropped_tokens: int
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class EmbeddingProgress:
    """How far one embedding call is. Counts are of this call only.

    `truncation` is known once all texts are tokenised, and so in the last event at the latest; None is that nothing was lost.
    """

    texts_done: int
    texts_total: int
    tokens_done: int
    truncation: Truncation | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingStats:
    """What an embedder has done since it was made. Truncation is never silent: it is counted here and logged.

    `dropped_tokens` is exact unless `dropped_tokens_estimated`: very long texts aren't tokenised beyond what is kept.
    """

    texts: int = 0
    tokens: int = 0
    batches: int = 0
    truncated_texts: int = 0
    dropped_tokens: int = 0
    dropped_tokens_estimated: bool = False


@dataclass(frozen=True, slots=True)
class Document:
    """One readable thing of a knowledge base.

    Args:
        source: `root-name/relative/posix/path`, the document's identity.
        text: The text as the reader gave it; chunk offsets count its characters.
        format: How the chunker reads it: "markdown", "rst", "python", "code" or "text".
        reader: Name and version of the reader, e.g. "markdown/1".
        content_hash: Hash of the bytes it was read from.
        metadata: What the user said of it.
        anchors: Where stretches of the text are from, in order.
    """

    source: str
    text: str
    format: str = "text"
    reader: str = "text/1"
    content_hash: str = ""
    metadata: Metadata = field(default_factory=dict)
    anchors: Anchors = ()


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file that could not be read, and why. Nothing is skipped in silence."""

    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document: `document.text[start:end] == text`.

    `num_tokens` counts the model's own tokens without special tokens (an estimate where the embedder has no tokenizer).
    `tokens` are those that embedding the text would make, where they are known already.
    """

    text: str
    start: int
    end: int
    heading_path: tuple[str, ...]
    num_tokens: int
    tokens: TokenizedText | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Head:
    """The commit of a document: its presence in a collection means that the document is wholly there.

    While a document is being changed, its head has an empty `document_hash`, so that a run that was killed in between is
    followed by one that plans the document again, whatever its file holds by then.
    """

    source: str
    document_hash: str
    num_chunks: int
    settings: str


@dataclass(frozen=True, slots=True)
class Point:
    """What a store keeps beside a vector.

    Args:
        id: A UUID.
        text: What is read.
        source: Its document's identity.
        metadata: Beyond the source.
        head: Set on a document's first chunk only.
        embedded_text: What the vector is of, for who writes; None is `text`. A stored point doesn't say.
        embedded_digest: What that text is found by, where a stored point's vector is of another text than `text`.
    """

    id: str
    text: str
    source: str
    metadata: Metadata
    head: Head | None = None
    embedded_text: str | None = None
    embedded_digest: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """A point with its stored vector, float32 `(dimensions,)`. `ours` is False for what another program wrote."""

    point: Point
    vector: FloatArray
    ours: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """A point as its reader knows it: a row that was added has its caller's id, a chunk that of its point.

    `source` is the document's identity, and `vector` is float32 `(dimensions,)`.
    """

    id: str
    text: str
    source: str
    metadata: Metadata
    vector: FloatArray


class Quantization(StrEnum):
    """A compressed copy of each vector that searching looks at first; the number is turbo's bits for each dimension."""

    SCALAR = "scalar"
    BINARY = "binary"
    TURBO1 = "turbo1"
    TURBO2 = "turbo2"
    TURBO4 = "turbo4"
    TURBO8 = "turbo8"


class VectorStorage(StrEnum):
    """The number format in which vectors are kept."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"


@dataclass(frozen=True, slots=True)
class VectorLayout:
    """How a collection keeps its vectors.

    Args:
        dimensions: Length of the main vectors, which have no name.
        shorter: Lengths of others, named by them, longest first: the main ones, cut and of unit norm again.
        quantization: What each vector is compressed to besides; None is nothing.
        storage: The number format of the vectors themselves.
    """

    dimensions: int
    shorter: tuple[int, ...] = ()
    quantization: Quantization | None = None
    storage: VectorStorage = VectorStorage.FLOAT32

    @property
    def lengths(self) -> tuple[int, ...]:
        """All lengths, the main one first."""
        return (self.dimensions, *self.shorter)


@dataclass(frozen=True, slots=True)
class Shortlist:
    """A search in two steps: so many candidates by the vectors of this length, then the best of them by the main ones."""

    dimensions: int
    candidates: int

    def among(self, points: int) -> Shortlist:
        """With no more candidates than there are points: a database makes room for as many as are asked for."""
        return replace(self, candidates=min(self.candidates, points))


@dataclass(frozen=True, slots=True)
class Hit:
    """A search result. `score` is the cosine similarity on every store."""

    id: str
    score: float
    text: str
    source: str
    metadata: Metadata


@dataclass(frozen=True, slots=True)
class IndexProgress:
    """How far an index run is.

    `documents_total` is None where it can't be known before the end (rows of a file, an iterator), and so is `bytes_total` for
    an iterator. Bytes are those of the files, as far as their documents are committed.
    """

    stage: str
    documents_done: int
    documents_total: int | None
    bytes_done: int
    bytes_total: int | None
    chunks_embedded: int
    chunks_written: int
    tokens_embedded: int
    seconds: float


@dataclass(frozen=True, slots=True)
class IndexSummary:
    """What an index run did.

    Args:
        documents: Documents that were found and are in the collection now.
        documents_unchanged: Those of them for which nothing had to be done.
        documents_empty: Documents without text: none of their chunks is in the collection.
        documents_failed: Files and rows that couldn't be read; what the collection had of them stays.
        documents_vanished: In the collection, but no longer found; they stay unless the run prunes.
        documents_removed: Vanished documents that were deleted.
        files_ignored: Files and folders left out by ignore files and globs.
        chunks: Chunks of the documents that were found.
        chunks_embedded: Chunk texts that went through the model; the vectors of all others were there already.
        chunks_deleted: Chunks that are gone.
        tokens_embedded: What the model read.
        truncated_texts: Texts that were longer than the model reads.
        seconds: Wall-clock time.
        skipped: What couldn't be read, and why.
    """

    documents: int
    documents_unchanged: int
    documents_empty: int
    documents_failed: int
    documents_vanished: int
    documents_removed: int
    files_ignored: int
    chunks: int
    chunks_embedded: int
    chunks_deleted: int
    tokens_embedded: int
    truncated_texts: int
    seconds: float
    skipped: tuple[SkippedFile, ...] = ()


class Foreign(StrEnum):
    """What becomes of the points that another program wrote, when their collection is copied."""

    REFUSE = "refuse"
    ROWS = "rows"
    LEAVE = "leave"


@dataclass(frozen=True, slots=True)
class CopyProgress:
    """How far a copy is. `stage` is "copying", then "verifying", for each of which the points are counted anew."""

    stage: str
    points_done: int
    points_total: int
    points_written: int
    seconds: float


@dataclass(frozen=True, slots=True)
class CopySummary:
    """What a copy did.

    Args:
        source: URL that was copied from.
        destination: URL that was copied to.
        points: Points in the destination.
        points_written: Those of them that were written; the others were there from an interrupted attempt.
        points_removed: What an interrupted attempt had written and the source no longer has.
        documents: Documents of the source that are wholly there.
        rows: Rows that a program added one by one.
        foreign_points: Points of the source that another program wrote.
        foreign_left: Those of them that were left out, as the caller said; the others are rows now.
        dimensions: Lengths of the vectors, the main ones first.
        vectors_compared: Vectors of the sample that were read back and compared.
        largest_difference: How far a number of these was from what it was, at most; all of unit norm.
        seconds: Wall-clock time.
    """

    source: str
    destination: str
    points: int
    points_written: int
    points_removed: int
    documents: int
    rows: int
    foreign_points: int
    foreign_left: int
    dimensions: tuple[int, ...]
    vectors_compared: int
    largest_difference: float
    seconds: float


OnEmbeddingProgress: TypeAlias = Callable[[EmbeddingProgress], None]
OnIndexProgress: TypeAlias = Callable[[IndexProgress], None]
OnCopyProgress: TypeAlias = Callable[[CopyProgress], None]
