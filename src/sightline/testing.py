"""What tests of Sightline, its adapters and its users share: an embedder without weights, and the conformance suites."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import Future

import numpy as np
import numpy.typing as npt

from sightline.embedding.base import BaseEmbedder
from sightline.embedding.dimensions import DimensionRange, cut
from sightline.embedding.instructions import Instructions
from sightline.errors import EmbedderClosed, InputError
from sightline.protocols import InstructionLike, Texts
from sightline.types import (
    EmbedderIdentity,
    EmbeddingProgress,
    EmbeddingStats,
    FloatArray,
    Instruction,
    OnEmbeddingProgress,
    Priority,
    Role,
    TokenizedText,
)

_WORD = re.compile(r"\w+")


class HashEmbedder(BaseEmbedder):
    """A deterministic embedder without weights or tokenizer: a text's vector is the sum of its words' hashed directions.

    Texts that share words are near each other, prompts count as words of lesser weight, and the same text gives the same bits
    on every machine. What it cannot know (tokens, maximum length) is None.
    """

    def __init__(
        self,
        *,
        dimensions: int | None = None,
        native_dimensions: int = 64,
        instructions: Mapping[str, str | Instruction] | None = None,
        query_instruction: InstructionLike = None,
        document_instruction: InstructionLike = None,
        name: str = "sightline-hash",
    ) -> None:
        self._range = DimensionRange(minimum=1, native=native_dimensions, matryoshka=True)
        self._dimensions = self._range.check(dimensions)
        self._instructions = Instructions(
            prompts={"query": "query: ", "document": ""},
            custom=instructions or {},
            query=query_instruction,
            document=document_instruction,
        )
        self._name = name
        self._stats = EmbeddingStats()
        self._closed = False
        self._directions: dict[str, FloatArray] = {}

    @property
    def dimensions(self) -> int:
        """Length of the vectors that are given when no other is asked for."""
        return self._dimensions

    @property
    def max_length(self) -> int | None:
        """Unknown: there is no tokenizer."""
        return None

    @property
    def instructions(self) -> Mapping[str, str]:
        """The known names with their literal prompts."""
        return self._instructions.known()

    def identity(self) -> EmbedderIdentity:
        """Name and length are all of its identity."""
        return EmbedderIdentity(
            model=self._name,
            revision=None,
            fingerprint=hashlib.sha256(f"{self._name}/{self._range.native}".encode()).hexdigest(),
            native_dimensions=self._range.native,
            pooling=None,
            document_prompt=self._instructions.prompt(Role.DOCUMENT),
            query_prompt=self._instructions.prompt(Role.QUERY),
            max_length=None,
        )

    def stats(self) -> EmbeddingStats:
        """Texts and batches so far; tokens are unknown and stay 0."""
        return self._stats

    def count_tokens(self, texts: Sequence[str]) -> list[int] | None:
        """None: there is no tokenizer."""
        return None

    def token_spans(self, text: str) -> npt.NDArray[np.int32] | None:
        """None: there is no tokenizer."""
        return None

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
        """Embed at once; the future is done when it is returned."""
        if self._closed:
            raise EmbedderClosed("This embedder was closed; make a new one.")
        length = self._dimensions if dimensions is None else self._range.check(dimensions)
        prompt = self._instructions.prompt(role, instruction)
        rows = np.zeros((len(texts), self._range.native), dtype=np.float32)
        for row, text in enumerate(texts):
            if isinstance(text, TokenizedText):
                raise InputError("The hash embedder has no tokenizer: it takes texts, not token ids.")
            rows[row] = self._vector(text) + np.float32(0.25) * self._vector(prompt, empty=False)
        self._stats = EmbeddingStats(texts=self._stats.texts + len(texts), batches=self._stats.batches + 1)
        if on_progress is not None:
            on_progress(EmbeddingProgress(len(texts), len(texts), 0))
        future: Future[FloatArray] = Future()
        future.set_result(cut(rows, length))
        return future

    def close(self) -> None:
        """Refuse further use."""
        self._closed = True

    def _vector(self, text: str, *, empty: bool = True) -> FloatArray:
        total = np.zeros(self._range.native, dtype=np.float32)
        words = _WORD.findall(text.lower()) or ([""] if empty else [])
        for word in words:
            total += self._direction(word)
        return total

    def _direction(self, word: str) -> FloatArray:
        if word not in self._directions:
            seed = int.from_bytes(hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest()[:8], "little")
            signs = np.random.Generator(np.random.PCG64(seed)).integers(0, 2, self._range.native)
            self._directions[word] = (signs * 2 - 1).astype(np.float32)
        return self._directions[word]
