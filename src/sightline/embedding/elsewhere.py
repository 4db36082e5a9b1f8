"""The tokens of an engine's documents without the engine: what a process that only cuts documents needs of it. No torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sightline.embedding.cleaning import clean
from sightline.embedding.models import load_spec
from sightline.embedding.seams import Reading
from sightline.embedding.tokens import Tokenizer


class ReadTokens:
    """Reads tokens as the engine does that gave its arguments (`EmbeddingEngine.tokens_elsewhere`)."""

    def __init__(
        self,
        model: str,
        *,
        revision: str | None,
        pooling: str | Sequence[str] | None,
        prompt: str,
        max_length: int | None,
        clean: Sequence[str],
        split_special_tokens: bool,
    ) -> None:
        self._prompt, self._clean = prompt, tuple(clean)
        spec = load_spec(model, revision=revision, pooling=pooling)
        self._tokenizer = Tokenizer(spec, max_length=max_length, split_special_tokens=split_special_tokens)

    @property
    def max_length(self) -> int:
        """Longest input in tokens, prompt and special tokens included."""
        return self._tokenizer.max_length

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as a document, prompt and special tokens included, however long it is."""
        return self._tokenizer.count([clean(text, self._clean) for text in texts], self._prompt)

    def count_complete(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text that has its prompt already, special tokens included, however long it is."""
        return self._tokenizer.count(texts)

    def token_spans(self, text: str) -> npt.NDArray[np.int32]:
        """Character offsets `(num_tokens, 2)` of the text's own tokens, no special ones."""
        return self._tokenizer.spans(text)

    def read_tokens(self, texts: Sequence[str]) -> Sequence[Reading] | None:
        """Each text's tokens, of whose stretches those of a document can be had; None if not."""
        # A cleaned text is another one, with other tokens at other places.
        return None if self._clean else self._tokenizer.read(texts, self._prompt)
