"""Which texts are embedded: real ones, cut and joined to token counts that are drawn with a fixed seed."""

from __future__ import annotations

import json
import os
import random
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ROOT = Path(__file__).parent.parent
LONG = (512, 2048, 8192, 32768)
NAMES = ("queries", "chunks", *map(str, LONG), "one")
_SEED = 20_261
_CHARACTERS_PER_TOKEN = 12  # more than any text here has
_TRIES = 8
_SHORTEST_CHUNK = 8


@dataclass(frozen=True)
class Mix:
    """Texts of one distribution of lengths, with the model's own count of their tokens, special ones included."""

    name: str
    texts: list[str]
    lengths: list[int]

    @property
    def tokens(self) -> int:
        """Of all texts."""
        return sum(self.lengths)

    def facts(self) -> dict[str, Any]:
        """What the result file keeps of it."""
        return {
            "texts": len(self.texts), "tokens": self.tokens, "shortest": min(self.lengths), "longest": max(self.lengths),
            "mean": round(mean(self.lengths), 1), "median": median(self.lengths),
        }  # fmt: skip

    def sample(self, tokens: int) -> Mix:
        """At most about so many tokens of it, spread evenly over its texts; one text at least."""
        step = max(1, -(-self.tokens // tokens))
        return Mix(self.name, self.texts[::step], self.lengths[::step])


@dataclass(frozen=True)
class Source:
    """What texts are cut from: one stream of sentences and questions, one of documents."""

    name: str
    sentences: str
    documents: str


def lengths_of(name: str, tokens: int, limit: int, chooser: random.Random) -> list[int]:
    """Token counts of a mix, drawn until they sum up to `tokens`; one text at least, and none beyond the model's `limit`.

    Raises:
        ValueError: The model doesn't take texts as long as the mix wants them.
    """
    if name in ("queries", "one"):
        draw = lambda: chooser.randint(8, 32)  # noqa: E731
    elif name == "chunks":
        draw = lambda: min(limit, max(_SHORTEST_CHUNK, round(chooser.lognormvariate(4.7, 0.7))))  # noqa: E731
    elif int(name) <= limit:
        draw = lambda: int(name)  # noqa: E731
    else:
        raise ValueError(f"texts of {name} tokens: the model takes {limit}")
    lengths = [draw()]
    while sum(lengths) < tokens:
        lengths.append(draw())
    return lengths


def make(name: str, tokens: int, limit: int, tokenizer: Tokenizer, source: Source) -> Mix:
    """A mix of about `tokens` tokens; the same arguments give the same texts."""
    chooser = random.Random(f"{_SEED} {name}")
    lengths = lengths_of(name, tokens, limit, chooser)
    stream = source.sentences if name in ("queries", "one") else source.documents
    return Mix(name, [_draw(length, tokenizer, stream, chooser) for length in lengths], lengths)


def open_tokenizer(folder: str | Path) -> Tokenizer:
    """A model's tokenizer, which cuts nothing off and pads nothing."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def open_source(languages: Sequence[str]) -> Source:
    """The shared test data where there is any, else the shipped examples."""
    data = test_data()
    documents = documents_of(data, languages)
    sentences = [*questions(data, languages), *_sentences(data / "tatoeba", languages)]
    name = f"shared test data ({', '.join(languages)})"
    if not documents:
        name = "examples/knowledge_base (shipped, small)"
        documents = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "examples/knowledge_base").rglob("*.md"))]
    if not sentences:
        sentences = [line for text in documents for line in re.split(r"(?<=[.?!])\s+|\n+", text) if len(line) > 40]
    random.Random(_SEED).shuffle(documents)
    random.Random(_SEED).shuffle(sentences)
    longest = LONG[-1] * _CHARACTERS_PER_TOKEN
    return Source(name, _at_least("\n".join(sentences), 20_000), _at_least("\n\n".join(documents), 2 * longest))


def test_data() -> Path:
    """Where the shared test data lies, if there is any."""
    return Path(os.environ.get("SIGHTLINE_TEST_DATA", ROOT.parent / "shared" / "data"))


def documents_of(data: Path, languages: Sequence[str], pages: int = 2_000) -> list[str]:
    """Whole documents of the test data, with about so many of its short pages."""
    return [*_knowledge_base(data / "kb-small", languages), *_pages(data / "tldr" / "tldr-pages.tar.gz", languages, pages)]


def questions(data: Path, languages: Sequence[str]) -> Iterator[str]:
    """Questions of the test data."""
    yield from _texts_of(data / "xquad", languages, "queries.jsonl")


def passages(data: Path, languages: Sequence[str]) -> Iterator[str]:
    """The passages that answer those questions."""
    yield from _texts_of(data / "xquad", languages, "corpus.jsonl")


def _draw(tokens: int, tokenizer: Tokenizer, stream: str, chooser: random.Random) -> str:
    """A text of exactly `tokens` tokens from somewhere in the stream; it begins with a line."""
    while True:
        start = stream.find("\n", chooser.randrange(len(stream))) + 1
        window = stream[start : start + tokens * _CHARACTERS_PER_TOKEN]
        text = cut(window, tokens, tokenizer)
        if text is not None:
            return text


def cut(window: str, tokens: int, tokenizer: Tokenizer) -> str | None:
    """The beginning of `window` that has exactly `tokens` tokens, special ones included; None where no cut was found.

    A cut can change how the last word is read, so the count is taken again and the cut moved until it holds.
    """
    ends = [end for _, end in tokenizer.encode(window, add_special_tokens=False).offsets]
    last = tokens - (len(tokenizer.encode("a").ids) - len(tokenizer.encode("a", add_special_tokens=False).ids))
    for _ in range(_TRIES):
        if not 0 < last <= len(ends):
            return None
        text = window[: ends[last - 1]].strip()
        excess = len(tokenizer.encode(text).ids) - tokens
        if not excess:
            return text
        last -= excess
    return None


def _at_least(stream: str, characters: int) -> str:
    return stream + "\n" + (stream + "\n") * (characters // max(1, len(stream)))


def _knowledge_base(folder: Path, languages: Sequence[str]) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        language = "zh" if "vue-zh-cn" in path.parts else "en"
        if language in languages and path.suffix in (".md", ".rst", ".txt") and path.name != "origin.txt":
            yield path.read_text(encoding="utf-8", errors="replace")


def _pages(path: Path, languages: Sequence[str], most: int = 2_000) -> Iterator[str]:
    """Short pages of tldr, an equal number for each language."""
    if not path.is_file():
        return
    with tarfile.open(path) as archive:
        members = [one for one in archive if one.isfile() and one.name.endswith(".md") and one.name.startswith("pages")]
        for language in languages:
            folder = "pages/" if language == "en" else f"pages.{language}/"
            found = [one for one in members if one.name.startswith(folder)]
            for member in found[:: -(-len(found) * len(languages) // most) or 1]:
                yield archive.extractfile(member).read().decode()  # type: ignore[union-attr]


def _texts_of(folder: Path, languages: Sequence[str], name: str) -> Iterator[str]:
    for language in languages:
        path = folder / language / name
        if path.is_file():
            yield from (json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines())


def _sentences(folder: Path, languages: Sequence[str]) -> Iterator[str]:
    names = {"en": "eng", "de": "deu", "zh": "cmn"}
    for language in languages:
        for path in sorted(folder.glob(f"*.{names.get(language, '-')}")):
            yield from path.read_text(encoding="utf-8").splitlines()
