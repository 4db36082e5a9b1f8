"""A document's tokens -> those of its stretches, so that what was tokenised to cut a document isn't again to embed its chunks.

A seam is a place where any text may be parted so that the tokens of the parts are those of the whole, whatever else stands there.
Between its first and its last seam a stretch therefore has the tokens that it has in its document; what is before and behind
is tokenised by itself. Where seams are follows from what the tokenizer takes for a word, since no token reaches beyond one, so
they are known only for tokenizers whose every part is known:

BERT: a word ends at each blank. Only those count that its normaliser leaves (it removes form feeds, for one).

Qwen: a word may begin with one blank that isn't a line end, marks take the line ends behind them, and a row of blanks with a line
end in it is a word up to its last line end. So there are seams before a blank that follows a word, and where a line's text
begins. (What Python takes for a blank is all that the tokenizer's pattern does, and four control characters.)

Of the normalisers, none moves, removes or makes a blank that counts here, nor looks across one: a blank is no part of a composed
character, and marks that belong to one aren't sorted across it. And no token that is added to the vocabulary has a blank in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sightline.types import TokenizedText

_BERT_SEAM = re.compile(r"(?<=[ \t\r\n])|(?=[ \t\r\n])")
_QWEN_SEAM = re.compile(r"(?<=[\r\n])(?=\S)|(?<=\S)(?= )")
_QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN_PRE_TOKENIZER = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": _QWEN_WORDS}, "behavior": "Isolated", "invert": False},
        # Nothing here depends on `trim_offsets`: it is the post-processor's that moves offsets.
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
    ],
}
_NORMALIZERS = frozenset({"NFC", "Lowercase", "BertNormalizer"})
# How far back from its end a stretch is searched for its last seam; where there is none, all of it is tokenised again.
_WINDOW = 256


class Encoder(Protocol):
    """What makes the tokens."""

    def bare(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text without special tokens."""
    def complete(self, ids: list[int], prompt_length: int) -> TokenizedText | None:
        """Bare ids of a text with its prompt, within the special tokens; None where there are none, or too many."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A text, its own tokens and where they are, to be embedded in stretches behind `prompt`.

    `prompt_length` counts the prompt's tokens and the special ones before it.
    """

    text: str
    ids: npt.NDArray[np.int32]
    spans: npt.NDArray[np.int32]
    prompt: str
    prompt_length: int
    seam: re.Pattern[str]
    encoder: Encoder

    def tokenized(self, stretches: Sequence[tuple[int, int]]) -> list[TokenizedText | None]:
        """Each `text[start:end]` exactly as it is read as a document by itself; None is to be embedded as a text."""
        seams = [self._seams(start, end) for start, end in stretches]
        heads = [self.prompt + self.text[start:first] for (start, _), (first, _) in zip(stretches, seams, strict=True)]
        tails = [self.text[last:end] for (_, end), (_, last) in zip(stretches, seams, strict=True)]
        known = self._encoded([*heads, *tails])
        inner = np.searchsorted(self.spans[:, 0], np.asarray(seams, dtype=np.int32).reshape(-1, 2)).tolist()
        return [
            self.encoder.complete([*known[head], *self.ids[first:last].tolist(), *known[tail]], self.prompt_length)
            for head, (first, last), tail in zip(heads, inner, tails, strict=True)
        ]

    def _seams(self, start: int, end: int) -> tuple[int, int]:
        """The first and the last seam of a stretch; its own end for both where it has none."""
        first = start
        if self.prompt or (start and not self.seam.match(self.text, start)):
            # Behind the first character both sides of a seam are in the stretch, whatever is put before it.
            found = self.seam.search(self.text, start + 1, end)
            first = found.start() if found else end
        if end == len(self.text) or self.seam.match(self.text, end):
            return first, end
        inner = self.seam.finditer(self.text, max(first, end - _WINDOW), end)
        return first, max((found.start() for found in inner), default=first)

    def _encoded(self, texts: Iterable[str]) -> dict[str, list[int]]:
        wanted = list(set(texts) - {""})
        return {"": [], **dict(zip(wanted, self.encoder.bare(wanted), strict=True))}


def find_seam(tokenizer: Any) -> re.Pattern[str] | None:
    """What finds a tokenizer's seams; None for one that isn't known in every part.

    Args:
        tokenizer: A `tokenizers.Tokenizer`.
    """
    if not all(_is_plain(token) for token in tokenizer.get_added_tokens_decoder().values()):
        return None
    if not set(_kinds(_state(tokenizer.normalizer))) <= _NORMALIZERS or _trims(_state(tokenizer.post_processor)):
        return None
    words, model = _state(tokenizer.pre_tokenizer), type(tokenizer.model).__name__
    if (words.get("type"), model) == ("BertPreTokenizer", "WordPiece"):
        return _BERT_SEAM
    if (words, model) == (_QWEN_PRE_TOKENIZER, "BPE") and not tokenizer.model.dropout:
        return _QWEN_SEAM
    return None


def _is_plain(token: Any) -> bool:
    return not (token.lstrip or token.rstrip or any(character.isspace() for character in token.content))


def _state(part: Any) -> dict[str, Any]:
    """A tokenizer's part as tokenizer.json has it; empty where there is none."""
    if part is None:
        return {}
    try:
        return dict(json.loads(part.__getstate__()))
    except Exception:  # noqa: BLE001 - what a part written in Python raises, which can't be told
        return {"type": "written in Python"}


def _kinds(normalizer: dict[str, Any]) -> list[str]:
    if normalizer.get("type") == "Sequence":
        return [kind for one in normalizer["normalizers"] for kind in _kinds(one)]
    return [normalizer["type"]] if normalizer else []


def _trims(post_processor: dict[str, Any]) -> bool:
    """Whether offsets leave out blanks, so that a token could seem to begin behind a seam that it is before."""
    return any(_trims(one) for one in post_processor.get("processors", ())) or bool(post_processor.get("trim_offsets"))
