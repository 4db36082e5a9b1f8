"""instruction -> tokens: the model's own tokenizer, the closing tokens, and what happens to a text that is too long.

`tokenizers` reads `tokenizer.json` directly: the same ids as transformers' AutoTokenizer (a test compares them) without its
import. Special tokens are put around the content here, so that truncation can neither lose nor double the appended one.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sightline.embedding import loading
from sightline.embedding.models import ModelSpec, normalizer_settings
from sightline.embedding.seams import Reading, find_seam
from sightline.errors import InputError, MissingExtra, ModelError, TextTooLong, UsageError
from sightline.types import TokenizedText

OnTooLong = Literal["truncate", "error", "average"]
ON_TOO_LONG: tuple[OnTooLong, ...] = ("truncate", "error", "average")

# A short text alone is read without letting the interpreter's lock go: while the device thread computes, getting it back takes a
# fifth of a millisecond, as long as reading these many characters.
_ONE_GO = 500
# Texts that are read with offsets at once: the tokenizer works on them side by side, and takes some 300 bytes for each character.
_AT_ONCE = 4
# A text longer than this many characters for each token it may keep is cut before it is tokenised.
_CHARS_PER_TOKEN = 16
# Tokens read beyond the limit, so that a cut through the text can't change a token that is kept.
_MARGIN = 64


@dataclass(frozen=True, slots=True)
class TokenizedPart:
    """What goes through the model for one text (or one part of it, with `on_too_long="average"`)."""

    ids: npt.NDArray[np.int32]
    prompt_length: int = 0


@dataclass(frozen=True, slots=True)
class TokenizedInput:
    """One text, tokenised: its parts (one, unless it is averaged) and how many tokens were dropped."""

    parts: tuple[TokenizedPart, ...]
    dropped_tokens: int = 0
    estimated: bool = False


class Tokenizer:
    """The tokenizer of one model. Safe to use from several threads.

    Raises:
        ModelError: The tokenizer doesn't append what the model needs, or can't be read.
        UsageError: `max_length` leaves no room for a text, or is beyond the model's.
    """

    def __init__(self, spec: ModelSpec, *, max_length: int | None = None, split_special_tokens: bool = False) -> None:
        self._tokenizer = _load(spec)
        self._tokenizer.encode_special_tokens = split_special_tokens
        self.prefix, self.suffix = self._special_tokens(spec)
        _check_closing_token(spec, self.suffix)
        self.max_length = _checked_length(spec, max_length, len(self.prefix) + len(self.suffix))
        self.room = self.max_length - len(self.prefix) - len(self.suffix)
        self._seam = find_seam(self._tokenizer)

    def tokenize(
        self, texts: Sequence[str], prompt: str = "", on_too_long: OnTooLong = "truncate", first: int = 0
    ) -> list[TokenizedInput]:
        """Tokenise `prompt + text` for each text; `first` is the number of the first one, for messages.

        Raises:
            TextTooLong: A text is beyond `max_length` and `on_too_long` is "error".
            InputError: A text isn't valid Unicode, or gives no token at all.
        """
        for number, text in enumerate(texts, start=first):
            check_unicode(text, number)
        contents = self._contents([prompt + text for text in texts], whole=on_too_long == "average")
        prompt_ids = self.bare([prompt])[0] if prompt else []
        prompt_length = len(self.prefix) + len(prompt_ids) if prompt else 0
        if len(prompt_ids) >= self.room:
            raise InputError(
                f"The instruction alone has {len(prompt_ids)} tokens; "
                f"{self.room} is all that a text and its instruction may have."
            )
        results = []
        for number, (ids, unread) in enumerate(contents, start=first):
            if not len(ids) and not self.prefix and not self.suffix:
                raise InputError(f"Text {number} gives no tokens at all, and this model's tokenizer adds none. Leave it out.")
            results.append(self._fit(number, ids, unread, prompt_ids, prompt_length, on_too_long))
        return results

    def ready(self, ids: Sequence[int], prompt_length: int, number: int, on_too_long: OnTooLong) -> TokenizedInput:
        """Take complete ids as they are; too many are truncated before the closing tokens, or refused.

        Raises:
            TextTooLong: Too many, and `on_too_long` isn't "truncate".
            InputError: None at all, or an id that the vocabulary lacks.
        """
        given = np.asarray(ids, dtype=np.int64)
        vocabulary = self._tokenizer.get_vocab_size(with_added_tokens=True)
        if given.ndim != 1 or not len(given) or given.min() < 0 or given.max() >= vocabulary:
            raise InputError(f"Text {number}: token ids are a non-empty list of 0..{vocabulary - 1}.")
        dropped = max(0, len(given) - self.max_length)
        if dropped and on_too_long != "truncate":
            raise TextTooLong(_too_long(number, str(len(given)), self.max_length), number)
        if dropped:
            given = np.concatenate([given[: self.max_length - len(self.suffix)], np.asarray(self.suffix, dtype=np.int64)])
        return TokenizedInput((TokenizedPart(given.astype(np.int32), prompt_length),), dropped)

    def count(self, texts: Sequence[str], prompt: str = "") -> list[int]:
        """Tokens of each text, prompt and special tokens included, however long."""
        for number, text in enumerate(texts):
            check_unicode(text, number)
        overhead = len(self.prefix) + len(self.suffix)
        return [len(ids) + overhead for ids in self.bare([prompt + text for text in texts])]

    def spans(self, text: str) -> npt.NDArray[np.int32]:
        """Character offsets `(num_tokens, 2)` of the text's own tokens."""
        return _spans(self._read([text])[0])

    def read(self, texts: Sequence[str], prompt: str = "") -> list[Reading] | None:
        """The tokens of each text and, without tokenising it again, of its stretches behind `prompt`.

        None where it isn't known how a stretch's tokens would differ from those that it has in the text.
        """
        seam = self._seam
        if seam is None:
            return None
        prompt_length = len(self.prefix) + len(self.bare([prompt])[0]) if prompt else 0
        return [
            Reading(text, np.asarray(encoding.ids, dtype=np.int32), _spans(encoding), prompt, prompt_length, seam, self)
            for start in range(0, len(texts), _AT_ONCE)
            for text, encoding in zip(texts[start : start + _AT_ONCE], self._read(texts[start : start + _AT_ONCE]), strict=True)
        ]

    def bare(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text without special tokens."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def complete(self, ids: list[int], prompt_length: int) -> TokenizedText | None:
        """Bare ids of a text with its prompt, within the special tokens; None where there are none, or more than fit."""
        if not 0 < len(ids) <= self.room:
            return None
        # Those of a whole document wait for their turn, and a list takes several times as much.
        return TokenizedText(array("i", [*self.prefix, *ids, *self.suffix]), prompt_length)

    def _fit(
        self, number: int, ids: list[int], unread: int, prompt_ids: list[int], prompt_length: int, on_too_long: OnTooLong
    ) -> TokenizedInput:
        if len(ids) <= self.room and not unread:
            return TokenizedInput((self._wrap(ids, prompt_length),))
        if on_too_long == "error":
            count = f"{len(ids) + self.max_length - self.room}{' at least' if unread else ''}"
            raise TextTooLong(_too_long(number, count, self.max_length), number)
        if on_too_long == "truncate":
            dropped = len(ids) - self.room + unread
            return TokenizedInput((self._wrap(ids[: self.room], prompt_length),), dropped, estimated=bool(unread))
        # Every part looks with the same instruction, so the prompt's tokens are put before each.
        body, step = ids[len(prompt_ids) :], self.room - len(prompt_ids)
        parts = tuple(self._wrap(prompt_ids + body[start : start + step], prompt_length) for start in range(0, len(body), step))
        return TokenizedInput(parts)

    def _wrap(self, ids: list[int], prompt_length: int) -> TokenizedPart:
        return TokenizedPart(np.asarray([*self.prefix, *ids, *self.suffix], dtype=np.int32), prompt_length)

    def _read(self, texts: Sequence[str]) -> list[Any]:
        """Encodings with their offsets. `encode` would hold the interpreter's lock for as long as it takes."""
        for number, text in enumerate(texts):
            check_unicode(text, number)
        if len(texts) == 1 and len(texts[0]) <= _ONE_GO:
            return [self._tokenizer.encode(texts[0], add_special_tokens=False)]
        return list(self._tokenizer.encode_batch(list(texts), add_special_tokens=False))

    def _contents(self, texts: list[str], *, whole: bool) -> list[tuple[list[int], int]]:
        """`(ids, estimated number of tokens not read)` of each text."""
        limit = self.room * _CHARS_PER_TOKEN
        short = [text if whole or len(text) <= limit else text[: _cut_point(text, limit)] for text in texts]
        if len(short) == 1 and len(short[0]) <= _ONE_GO:
            encodings = [self._tokenizer.encode(short[0], add_special_tokens=False)]
        else:
            encodings = self._tokenizer.encode_batch_fast(short, add_special_tokens=False)
        return [
            (encoding.ids, 0) if len(part) == len(text) else self._read_on(text, len(part), encoding.ids)
            for text, part, encoding in zip(texts, short, encodings, strict=True)
        ]

    def _read_on(self, text: str, read: int, ids: list[int]) -> tuple[list[int], int]:
        """Read further until more tokens are known than are kept, or the text ends."""
        while len(ids) < self.room + _MARGIN and read < len(text):
            read = _cut_point(text, 2 * read)
            ids = self._tokenizer.encode(text[:read], add_special_tokens=False).ids
        if read >= len(text):
            return ids, 0
        return ids, max(1, round((len(text) - read) * len(ids) / read))

    def _special_tokens(self, spec: ModelSpec) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and after every text."""
        bare = self._tokenizer.encode("a", add_special_tokens=False).ids
        full = self._tokenizer.encode("a").ids
        for start in range(len(full) - len(bare) + 1):
            if full[start : start + len(bare)] == bare:
                return full[:start], full[start + len(bare) :]
        raise ModelError(f"{spec.folder}: the tokenizer's special tokens can't be told from the text ({bare} in {full}).")


def _load(spec: ModelSpec) -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise MissingExtra("The embedding engine", package="tokenizers", extra="local") from error
    path = spec.folder / "tokenizer.json"
    if path.is_file():
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    else:
        with loading.alone():
            from transformers import AutoTokenizer

            try:
                # Said outright: else it asks whoever sits at the terminal whether to run the model's own code.
                tokenizer = AutoTokenizer.from_pretrained(spec.folder, trust_remote_code=False).backend_tokenizer
            except (ValueError, OSError, AttributeError) as error:
                raise ModelError(
                    f"{spec.folder}: its tokenizer can't be loaded ({str(error).splitlines()[0]}). Take tokenizer.json from the "
                    "model, or save one: AutoTokenizer.from_pretrained(MODEL).save_pretrained(FOLDER)."
                ) from error
    # What was stored from training (MiniLM: cut at 128, pad to 128) isn't what embedding means.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    _follow_config(tokenizer, spec)
    if spec.lowercase:
        lower = tokenizers.normalizers.Lowercase()
        tokenizer.normalizer = tokenizers.normalizers.Sequence([lower, tokenizer.normalizer] if tokenizer.normalizer else [lower])
    return tokenizer


def _follow_config(tokenizer: Any, spec: ModelSpec) -> None:
    """Let tokenizer_config.json overrule tokenizer.json on BERT's normaliser, as transformers does."""
    if type(tokenizer.normalizer).__name__ != "BertNormalizer":
        return
    normalizer = tokenizer.normalizer
    for name, value in normalizer_settings(spec.folder).items():
        if getattr(normalizer, name) != value:
            setattr(normalizer, name, value)
    tokenizer.normalizer = normalizer


def _check_closing_token(spec: ModelSpec, suffix: list[int]) -> None:
    if spec.pooling.modes != ("lasttoken",):
        return
    wanted = spec.family.closing_token if spec.family else None
    if wanted is not None and suffix != [wanted]:
        family = spec.family.name if spec.family else ""
        raise ModelError(
            f"{spec.folder}: this tokenizer appends {suffix or 'nothing'} to a text, but {family} pools the token {wanted} that "
            "its own tokenizer appends, so every vector would be wrong. "
            "This looks like the tokenizer of the plain language model; take tokenizer.json from the embedding model."
        )


def _checked_length(spec: ModelSpec, asked: int | None, overhead: int) -> int:
    if asked is None:
        return spec.max_length
    if not overhead < asked <= spec.max_length:
        raise UsageError(f"max_length={asked} is out of range: {spec.name} takes {overhead + 1} to {spec.max_length} tokens.")
    return asked


def _spans(encoding: Any) -> npt.NDArray[np.int32]:
    # Half the time of an array of pairs.
    return np.fromiter(chain.from_iterable(encoding.offsets), dtype=np.int32).reshape(-1, 2)


def check_unicode(text: str, number: int) -> None:
    """Raise InputError for what isn't a text that can be encoded; `number` is which one it is."""
    if not isinstance(text, str):
        raise InputError(f"Text {number} is {type(text).__name__}, not str. Pass a list of strings (or of TokenizedText).")
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"Text {number} isn't valid Unicode: a lone surrogate {text[error.start]!r} at character {error.start}. "
            "Decode the source with errors='replace', or leave the character out."
        ) from error


def _cut_point(text: str, limit: int) -> int:
    """The last place up to `limit` where no word is cut; a word of that length itself is cut hard."""
    if limit >= len(text):
        return len(text)
    for place in range(limit, max(limit // 2, 1), -1):
        if not text[place].isalnum() and text[place - 1].isalnum():
            return place
    return limit


def _too_long(number: int, count: str, allowed: int) -> str:
    return (
        f"Text {number} has {count} tokens; at most {allowed} are allowed. Split it, raise max_length if the model takes more, "
        "or choose on_too_long='truncate' or 'average'."
    )
