"""document -> chunks: cut at headings, and within a section that is too long at places that its content alone decides. Pure.

Every place where a long section may be cut has a strength: what begins there (a block, a list item, a sentence, a word), then a
hash of it. A place that is the strongest for half a chunk both ways is an anchor and is cut; elsewhere neighbours are joined,
the weakest place between them first, as long as both together fit; last, a piece below an eighth of the limit is joined across
an anchor. A cut so depends on what lies near it only, and falls in place again after an edit.

Measured on 494 real files, 2500 single-paragraph edits each at limits of 254 and 128 tokens: 1.34 and 1.27 chunks with new text
in the mean, at most three for 99.92 and 99.96 % of the edits, never more than five; at the top of a file never more than three.
Cutting at the strongest place again and again until all fits (a treap) gave more than three for 1.4 and 0.2 %, a fifth more
chunks, and 9.6 and 7.5 % of them below an eighth of the limit instead of 4.1 and 0.5 % (short sections included). Joining
without anchors gave slightly longer chunks, but more than three for 0.28 and 0.08 %. No way that was tried has a hard bound: with
the limit on length, what was just short enough may have to be cut anew on both sides of a new paragraph.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from hashlib import blake2b
from itertools import islice, pairwise

import numpy as np
import numpy.typing as npt

from sightline.errors import UsageError
from sightline.indexing.structure import Outline, outline
from sightline.protocols import TokenReader, TokenReading, Tokens
from sightline.types import Chunk, Document, TokenizedText

MIN_CHUNK_TOKENS = 16
DEFAULT_CHUNK_TOKENS = 512
_CHUNKER = "sections/2"  # another number for any change that moves a cut: collections then know that they are out of date
_CHARS_PER_TOKEN = 4  # where there is no tokenizer
# A token longer than this is an unknown word or a rule of dashes; it counts once for each so many characters, and may be cut.
_LONGEST_TOKEN = 128
# A piece that is shorter than the limit by this, or by an eighth, can't go beyond it by being tokenised alone: a tokenizer reads
# words, so only the first and the last one can change, and where a word is cut between two of its tokens, the next one at most
# (measured: never more than two tokens, over two tokenizers and nine kinds of text).
_SLACK = 8
# Characters that are tokenised at once: a tokenizer takes some 300 bytes for each, and takes longer for each the more they are.
_SEGMENT = 1 << 15
# Characters, or units, that are looked at together: as Python objects, all of a long text would take twenty times its size.
_BLOCK = 1 << 16
# Of long sections only so many of the strongest boundaries for each chunk are looked at one by one.
_CANDIDATES = 8
# Where segments of a text may part, the best first: a tokenizer that reads words finds the same ones there.
_SEGMENT_STARTS = (re.compile(r"(?<=\n)\S"), re.compile(r"(?<=\S) (?=\S)"))
_BLANK = np.asarray([chr(code).isspace() for code in range(0x3002)])  # U+3000 is the last one that is
# Of a row of dots only the first is tried: trying each would take the square of the row's length.
_SENTENCE_END = re.compile(r"""(?<![.!?…])[.!?…]+["'”’)\]*_]*\s+|[。！？；][”』」）]*\s*""")
_LINE_END = re.compile(r"[\r\n]\s*")
_WORD_END = re.compile(r"\s+")


Positions = npt.NDArray[np.int64]


class Level(IntEnum):
    """What begins at a place where a section may be cut; the lower, the better the place."""

    BLOCK = 0
    PART = 1
    SENTENCE = 2
    LINE = 3
    WORD = 4
    TOKEN = 5


@dataclass(frozen=True, slots=True)
class ChunkSettings:
    """How long a chunk may be, and how much of its end the next one repeats; in the model's own tokens without special ones.

    `estimated` where there is no tokenizer, so that tokens are guessed from the characters.
    """

    max_tokens: int
    overlap_tokens: int = 0
    estimated: bool = False

    def label(self) -> str:
        """What a collection remembers of how its documents were cut."""
        overlap = f"+{self.overlap_tokens}" if self.overlap_tokens else ""
        return f"{_CHUNKER}:{self.max_tokens}{overlap}{' estimated' if self.estimated else ''}"


def default_settings(
    embedder: Tokens, chunk_tokens: int | None = None, overlap_tokens: int | None = None
) -> ChunkSettings:
    """The settings that suit an embedder: 512 tokens, or what it can take where that is less, and no overlap.

    Raises:
        UsageError: `chunk_tokens` is out of the range that the embedder allows, or `overlap_tokens` of what that leaves.
    """
    capacity = _capacity(embedder)
    if chunk_tokens is None:
        chunk_tokens = DEFAULT_CHUNK_TOKENS if capacity is None else min(DEFAULT_CHUNK_TOKENS, capacity)
    if chunk_tokens < MIN_CHUNK_TOKENS or (capacity is not None and chunk_tokens > capacity):
        allowed = f"{MIN_CHUNK_TOKENS} or more" if capacity is None else f"{MIN_CHUNK_TOKENS} to {capacity} with this model"
        raise UsageError(f"A chunk can't have {chunk_tokens} tokens; allowed are {allowed}.")
    overlap = overlap_tokens or 0
    if not 0 <= overlap <= chunk_tokens // 2:
        raise UsageError(f"An overlap of {overlap} tokens is out of range: 0 to {chunk_tokens // 2}, half of a chunk.")
    return ChunkSettings(chunk_tokens, overlap, estimated=embedder.count_tokens([""]) is None)


def tokenized(documents: Sequence[Document], embedder: Tokens) -> list[DocumentTokens]:
    """The tokens of each document, all of them asked for at once: a tokenizer reads several texts side by side."""
    segments = [list(_segments(document.text)) for document in documents]
    together = [text for some in segments for _, text in some]
    readings = embedder.read_tokens(together) if isinstance(embedder, TokenReader) else None
    if readings is None:
        return [DocumentTokens(some, embedder, None) for some in segments]
    remaining = iter(readings)
    return [DocumentTokens(some, embedder, list(islice(remaining, len(some)))) for some in segments]


def chunk(
    document: Document, settings: ChunkSettings, embedder: Tokens, tokens: DocumentTokens | None = None
) -> list[Chunk]:
    """Chunks of a document in order: they cover its text but for the blank space between them, and none is too long.

    With an overlap, a chunk that goes on with the section of the one before begins with the end of that one. A document of
    blank space only has no chunks. `tokens` are the document's, where they are known already.
    """
    text = document.text
    room = settings.max_tokens - settings.overlap_tokens
    if tokens is None:
        [tokens] = tokenized([document], embedder)
    ruler = _Ruler.of(room, tokens.spans)
    found = outline(text, document.format)
    cutter = _Cutter(text, ruler, found)
    pieces = [
        _Piece(start, end, section)
        for section in _sections(text, found)
        for start, end in cutter.cut(section.start, section.end, section.body, ruler.limit)
    ]
    counted = _checked(pieces, cutter, room, tokens)
    if settings.overlap_tokens:
        counted = _overlapping(counted, cutter, settings, tokens)
    known = tokens.alone([(piece.start, piece.end) for piece, _ in counted])
    return [
        Chunk(text[piece.start : piece.end], piece.start, piece.end, piece.section.path, count, one)
        for (piece, count), one in zip(counted, known, strict=True)
    ]


class DocumentTokens:
    """What the embedder knows of a document's tokens, and of those of its stretches once they stand alone.

    It is read in segments: where a text has no blanks, a token at their ends may be another.
    """

    def __init__(self, segments: Sequence[tuple[int, str]], embedder: Tokens, readings: Sequence[TokenReading] | None) -> None:
        self._starts = [start for start, _ in segments]
        self._segments = [text for _, text in segments]
        self._embedder, self._readings = embedder, readings
        self._alone: dict[tuple[int, int], TokenizedText | None] = {}
        self.spans = self._joined()

    def alone(self, stretches: Sequence[tuple[int, int]]) -> list[TokenizedText | None]:
        """Each stretch as embedding it reads it; None where that isn't known."""
        readings = self._readings
        if readings is None:
            return [None] * len(stretches)
        unknown: dict[int, list[tuple[int, int]]] = {}
        for start, end in dict.fromkeys(stretches):
            segment = bisect_right(self._starts, start) - 1
            if (start, end) not in self._alone and end <= self._starts[segment] + len(self._segments[segment]):
                unknown.setdefault(segment, []).append((start, end))
        for segment, some in unknown.items():
            first = self._starts[segment]
            found = readings[segment].tokenized([(start - first, end - first) for start, end in some])
            self._alone.update(zip(some, found, strict=True))
        return [self._alone.get(stretch) for stretch in stretches]

    def counts(self, text: str, stretches: Sequence[tuple[int, int]]) -> list[int] | None:
        """Tokens of each stretch that stands alone, without its prompt and special ones; None without a tokenizer."""
        empty = self._embedder.count_tokens([""])
        if empty is None:
            return None
        known = [0 if tokens is None else len(tokens.ids) for tokens in self.alone(stretches)]
        for few in _batches([at for at, count in enumerate(known) if not count], stretches):
            texts = [text[start:end] for start, end in (stretches[at] for at in few)]
            for at, count in zip(few, self._embedder.count_tokens(texts) or (), strict=True):
                known[at] = count
        return [count - empty[0] for count in known]

    def _joined(self) -> npt.NDArray[np.int32] | None:
        """Where the document's tokens are; None without a tokenizer."""
        found: list[npt.NDArray[np.int32]] = []
        for number, (segment, start) in enumerate(zip(self._segments, self._starts, strict=True)):
            spans = self._embedder.token_spans(segment) if self._readings is None else self._readings[number].spans
            if spans is None:
                return None
            found.append(spans + np.int32(start))
        return np.concatenate(found)


def _segments(text: str) -> Iterator[tuple[int, str]]:
    """Segments of a text with their starts; one, however short it is."""
    start, end = 0, _segment_end(text, 0)
    yield start, text[start:end]
    while end < len(text):
        start, end = end, _segment_end(text, end)
        yield start, text[start:end]


def _segment_end(text: str, start: int) -> int:
    low, end = start + _SEGMENT * 7 // 8, start + _SEGMENT
    if end >= len(text):
        return len(text)
    for pattern in _SEGMENT_STARTS:
        last = max((match.start() for match in pattern.finditer(text, low, end)), default=None)
        if last is not None:
            return last
    # A place that the content decides is found again after an edit, and so are all segments behind it.
    return max(range(low, end), key=lambda place: text[place : place + 8])


def _capacity(embedder: Tokens) -> int | None:
    empty = embedder.count_tokens([""])
    if embedder.max_length is None:
        return None
    return embedder.max_length - (empty[0] if empty else 0)


@dataclass(frozen=True, slots=True)
class _Section:
    """`text[start:end]` under its headings; its own text begins at `body`."""

    start: int
    body: int
    end: int
    path: tuple[str, ...]


def _sections(text: str, found: Outline) -> Iterator[_Section]:
    """What lies between headings; a heading right above its first subheading goes with that one."""
    headings = found.headings
    if not headings:
        yield _Section(0, 0, len(text), ())
        return
    yield _Section(0, 0, headings[0].start, ())
    open_headings: list[tuple[int, str | None]] = []
    start = headings[0].start
    for heading, following in zip(headings, [*headings[1:], None], strict=True):
        while open_headings and open_headings[-1][0] >= heading.level:
            open_headings.pop()
        open_headings.append((heading.level, heading.title))
        end = following.start if following else len(text)
        if following and following.level > heading.level and not text[heading.end : end].strip():
            continue
        yield _Section(start, heading.end, end, tuple(title for _, title in open_headings if title is not None))
        start = end


@dataclass(frozen=True, slots=True)
class _Piece:
    """`text[start:end]` of a section, to become a chunk."""

    start: int
    end: int
    section: _Section


@dataclass(frozen=True, slots=True)
class _Units:
    """Stretches `text[starts[i]:ends[i]]` in order with blank space at most between them; `levels[i]` is what begins there."""

    starts: Positions
    ends: Positions
    levels: Positions


@dataclass(frozen=True, slots=True)
class _Ruler:
    """Measures stretches of a text in tokens, or in characters where there is no tokenizer.

    `endless` are the starts and the ends of what the tokenizer takes for one token and is measured as several: a guess.
    """

    starts: Positions | None
    ends: Positions | None
    limit: int  # for a piece
    endless: tuple[Positions, Positions]

    @classmethod
    def of(cls, max_tokens: int, spans: npt.NDArray[np.int32] | None) -> _Ruler:
        if spans is None:
            nothing = np.empty(0, dtype=np.int64)
            return cls(None, None, max_tokens * _CHARS_PER_TOKEN, (nothing, nothing))
        starts, ends = spans[:, 0].astype(np.int64), spans[:, 1].astype(np.int64)
        endless = np.flatnonzero(ends - starts > _LONGEST_TOKEN)
        guessed = starts[endless], ends[endless]
        inner = [np.arange(starts[token] + _LONGEST_TOKEN, ends[token], _LONGEST_TOKEN) for token in endless]
        if inner:
            after = np.repeat(endless, [len(each) for each in inner])
            starts, ends = np.insert(starts, after + 1, np.concatenate(inner)), np.insert(ends, after, np.concatenate(inner))
        return cls(starts, ends, max_tokens, guessed)

    def before(self, positions: Positions) -> Positions:
        """For each position, how much of the text ends at or before it."""
        return positions if self.ends is None else np.searchsorted(self.ends, positions, side="right")

    def until(self, positions: Positions) -> Positions:
        """For each position, how much of the text begins before it."""
        return positions if self.starts is None else np.searchsorted(self.starts, positions, side="left")

    def guesses(self, starts: Positions, ends: Positions) -> npt.NDArray[np.bool_]:
        """For which of the stretches the measure is a guess."""
        if self.starts is None:
            return np.ones(len(starts), dtype=np.bool_)
        first, last = np.searchsorted(self.endless[1], starts, side="right"), np.searchsorted(self.endless[0], ends, side="left")
        return np.less(first, last)

    def splits(self, positions: Positions) -> npt.NDArray[np.bool_]:
        """Which of the positions are inside a token."""
        return np.not_equal(self.before(positions), self.until(positions))

    def reach(self, start: int, tokens: int) -> int:
        """The first position from which at most so many tokens lie before `start`."""
        if self.ends is None:
            return max(0, start - tokens * _CHARS_PER_TOKEN)
        first = int(self.until(np.asarray([start]))[0]) - tokens
        return int(self.ends[first - 1]) if first > 0 else 0

    def measure(self, start: int, end: int) -> int:
        """Tokens (or characters) of `text[start:end]`; a token that is cut counts on both sides."""
        return int(self.until(np.asarray([end]))[0] - self.before(np.asarray([start]))[0])

    def inner_starts(self, start: int, end: int) -> Positions:
        """Where `text[start:end]` can be cut between tokens."""
        if self.starts is None or self.ends is None:
            return np.arange(start + _CHARS_PER_TOKEN, end, _CHARS_PER_TOKEN)
        first, last = np.searchsorted(self.starts, [start + 1, end])
        inner = self.starts[first:last]
        # Several byte tokens can share one character, which must stay whole.
        return inner[self.ends[max(first - 1, 0) : last - 1] <= inner] if first else inner


class _Hashes(dict[str, int]):
    """Texts and their hashes; tokens and words come again and again."""

    def __missing__(self, text: str) -> int:
        if len(self) >= _BLOCK:
            self.clear()
        made = int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
        self[text] = made
        return made


class _Cutter:
    """Cuts stretches of one text into pieces that aren't too long."""

    def __init__(self, text: str, ruler: _Ruler, found: Outline) -> None:
        self.text = text
        self.ruler = ruler
        self._blocks, self._parts, self._lines = (
            np.unique(np.asarray(starts, dtype=np.int64)) for starts in (found.blocks, found.parts, found.lines)
        )
        solid = np.empty(len(text), dtype=np.bool_)
        for start in range(0, len(text), _BLOCK):
            codes = np.frombuffer(text[start : start + _BLOCK].encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
            solid[start : start + _BLOCK] = ~_BLANK[np.minimum(codes, len(_BLANK) - 1)]
        self._solid = np.flatnonzero(solid).astype(np.int32)
        self._solid_before = np.zeros(len(text) + 1, dtype=np.int32)
        np.cumsum(solid, dtype=np.int32, out=self._solid_before[1:])

    def cut(self, start: int, end: int, body: int, limit: int) -> list[tuple[int, int]]:
        """Pieces `(start, end)` of `text[start:end]`, each at most `limit` long, without blank space around them.

        The first block from `body` on isn't parted from the headings before it unless it is too long itself.
        """
        whole = self._stripped([start], [end], [Level.BLOCK])
        if not len(whole.starts):
            return []
        start, end = int(whole.starts[0]), int(whole.ends[0])
        if self.ruler.measure(start, end) <= limit:
            return [(start, end)]
        glued = self.next_solid(body)
        units = whole
        for level in Level:
            units = self._expand(units, level, glued, limit)
        return self._merge(units, limit)

    def _expand(self, units: _Units, level: Level, glued: int, limit: int) -> _Units:
        """Cut the units that are too long wherever something of this level begins."""
        lows, highs = self._ends(units)
        cuts = []
        for unit in np.flatnonzero(highs - lows > limit):
            start, end = int(units.starts[unit]), int(units.ends[unit])
            inner = self._begin(start, end, level)
            floor = max(start, glued) if level < Level.LINE else start
            cuts.append(inner[(floor < inner) & (inner < end)])
        inner = np.concatenate([np.empty(0, dtype=np.int64), *cuts])
        if not len(inner):
            return units
        order = np.searchsorted(units.starts, inner)
        starts = np.insert(units.starts, order, inner)
        # What lies between units is blank, so that each may be taken to reach as far as the next one.
        return self._stripped(starts, np.append(starts[1:], units.ends[-1]), np.insert(units.levels, order, level))

    def _begin(self, start: int, end: int, level: Level) -> Positions:
        """Where things of this level begin in `text[start:end]`."""
        if level is Level.BLOCK:
            return _between(self._blocks, start, end)
        if level is Level.PART:
            return _between(self._parts, start, end)
        if level is Level.SENTENCE:
            lines = _between(self._lines, start, end)
            return lines if len(lines) else self._after(_SENTENCE_END, start, end)
        if level is Level.LINE:
            return self._after(_LINE_END, start, end)
        if level is Level.WORD:
            return self._after(_WORD_END, start, end)
        return self.ruler.inner_starts(start, end)

    def earlier(self, floor: int, start: int, reach: int) -> int:
        """The first sentence, else line, word or token that begins between `floor` and `start`, at `reach` or later."""
        for pattern in (_SENTENCE_END, _LINE_END, _WORD_END):
            places = self._after(pattern, floor, start)
            fitting = places[(reach <= places) & (places < start)]
            if len(fitting):
                return int(fitting[0])
        inner = self.ruler.inner_starts(floor, start)
        return int(next(iter(inner[inner >= reach]), start))

    def _after(self, pattern: re.Pattern[str], start: int, end: int) -> Positions:
        part = self.text[start:end]  # a pattern would look at what is before `start`
        return np.fromiter((start + match.end() for match in pattern.finditer(part)), dtype=np.int64)

    def _merge(self, units: _Units, limit: int) -> list[tuple[int, int]]:
        """Join neighbours, the weakest boundary between them first, wherever the two together aren't too long."""
        all_lows, all_highs = self._ends(units)
        hashes = self._hashes(units)
        kept = _worth_a_look(units.levels, hashes, all_lows, all_highs, limit)
        ends = np.append(kept[1:], len(hashes)) - 1
        lows, highs = array("q", all_lows[kept].tobytes()), array("q", all_highs[ends].tobytes())
        strength = _ranks(-units.levels[kept], hashes[kept])
        anchors = _anchors(strength, lows, highs[-1], limit // 2)
        is_anchor = np.zeros(len(kept), dtype=np.bool_)
        is_anchor[list(anchors)] = True
        # first[i] is right where i is the last unit of a piece, last[i] where it is the first.
        first, last = array("q", range(len(kept))), array("q", range(len(kept)))
        for unit in array("q", (np.lexsort((np.frombuffer(strength, np.int64)[1:], is_anchor[1:])) + 1).tobytes()):
            left, right = first[unit - 1], last[unit]
            smaller = min(highs[unit - 1] - lows[left], highs[right] - lows[unit])
            if highs[right] - lows[left] <= limit and (unit not in anchors or smaller < limit // 8):
                last[left], first[right] = right, left
        pieces = []
        unit = 0
        while unit < len(kept):
            pieces.append((int(units.starts[kept[unit]]), int(units.ends[ends[last[unit]]])))
            unit = last[unit] + 1
        return pieces

    def _hashes(self, units: _Units) -> npt.NDArray[np.uint64]:
        known = _Hashes()
        hashes = np.empty(len(units.starts), dtype=np.uint64)
        for at in range(0, len(hashes), _BLOCK):
            stretches = map(slice, units.starts[at : at + _BLOCK].tolist(), units.ends[at : at + _BLOCK].tolist())
            hashes[at : at + _BLOCK] = [known[self.text[stretch]] for stretch in stretches]
        return hashes

    def _ends(self, units: _Units) -> tuple[Positions, Positions]:
        return self.ruler.before(units.starts), self.ruler.until(units.ends)

    def _stripped(self, starts: npt.ArrayLike, ends: npt.ArrayLike, levels: npt.ArrayLike) -> _Units:
        """Units without the blank space at their ends; those of nothing else are left out."""
        first, last = self._solid_before[np.asarray(starts)], self._solid_before[np.asarray(ends)]
        some = first < last
        begin, end = self._solid[first[some]].astype(np.int64), self._solid[last[some] - 1].astype(np.int64) + 1
        return _Units(begin, end, np.asarray(levels, dtype=np.int64)[some])

    def next_solid(self, position: int) -> int:
        """Where the first character from a position on is that isn't blank."""
        number = self._solid_before[position]
        return int(self._solid[number]) if number < len(self._solid) else len(self.text)


def _worth_a_look(
    levels: Positions, hashes: npt.NDArray[np.uint64], lows: Positions, highs: Positions, limit: int
) -> Positions:
    """The units (the first one included) that may stay apart from the one before; the others are joined to that anyway.

    Between two neighbours among the strongest boundaries, all that is weaker is joined before these are thought of. Where it
    fits in one piece together and is too short for an anchor, the order in which it is joined doesn't matter.
    """
    count = len(hashes)
    wanted = _CANDIDATES * int(highs[-1] - lows[0]) // limit + 1
    if count < 2 * wanted:
        return np.arange(count)
    rough = (np.uint64(Level.TOKEN) - levels.astype(np.uint64) << np.uint64(61)) | (hashes >> np.uint64(3))
    strong = rough >= np.partition(rough, count - wanted)[count - wanted]
    strong[0] = True
    first = np.flatnonzero(strong)
    following = np.append(first[1:], count)
    reach = np.append(lows[first[1:]], highs[-1]) - lows[first]
    open_runs = (highs[following - 1] - lows[first] > limit) | (reach >= 2 * (limit // 2))
    return np.flatnonzero(strong | np.repeat(open_runs, following - first))


def _ranks(levels: Positions, hashes: npt.NDArray[np.uint64]) -> array[int]:
    """For each unit, how many different strengths are weaker than its own: by level, then by hash."""
    order = np.lexsort((hashes, levels))
    stronger = (np.diff(levels[order]) != 0) | (hashes[order][1:] != hashes[order][:-1])
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.concatenate([[0], np.cumsum(stronger)])
    return array("q", ranks.tobytes())


def _anchors(strength: Sequence[int], lows: Sequence[int], high: int, radius: int) -> set[int]:
    """The units before which the boundary is the strongest for at least `radius` both ways, the ends of the section included."""
    anchors: set[int] = set()
    stack: list[int] = []  # weaker and weaker; what is below a unit is the next stronger one to its left
    for unit in range(1, len(lows) + 1):
        while stack and (unit == len(lows) or strength[stack[-1]] < strength[unit]):
            at = stack.pop()
            after = (high if unit == len(lows) else lows[unit]) - lows[at]
            before = lows[at] - lows[stack[-1] if stack else 0]
            if min(before, after) >= radius:
                anchors.add(at)
        stack.append(unit)
    return anchors


def _between(positions: Positions, start: int, end: int) -> Positions:
    first, last = np.searchsorted(positions, [start + 1, end])
    return positions[first:last]


def _checked(pieces: list[_Piece], cutter: _Cutter, max_tokens: int, tokens: DocumentTokens) -> list[tuple[_Piece, int]]:
    """The pieces with their counts; those that have too many tokens once they stand alone are cut again."""
    counted = []
    while pieces:
        again: list[_Piece] = []
        for piece, count in zip(pieces, _counts(pieces, cutter, max_tokens, tokens), strict=True):
            smaller = [(piece.start, piece.end)]
            if count > max_tokens:
                limit = max(1, cutter.ruler.measure(piece.start, piece.end) * max_tokens // count - 1)
                smaller = cutter.cut(piece.start, piece.end, max(piece.start, min(piece.section.body, piece.end)), limit)
            if len(smaller) > 1:
                again.extend(_Piece(start, end, piece.section) for start, end in smaller)
            else:
                counted.append((piece, count))
        pieces = again
    return sorted(counted, key=lambda made: made[0].start)


def _overlapping(
    counted: list[tuple[_Piece, int]], cutter: _Cutter, settings: ChunkSettings, tokens: DocumentTokens
) -> list[tuple[_Piece, int]]:
    """Pieces that begin with the end of the one before, within their section, with their counts."""
    made = list(counted)
    wanted = {
        number: settings.overlap_tokens
        for number, ((before, _), (piece, _)) in enumerate(pairwise(counted), start=1)
        if before.section is piece.section
    }
    while wanted:
        longer: dict[int, _Piece] = {}
        repeated: dict[int, _Piece] = {}
        for number, overlap in wanted.items():
            piece = counted[number][0]
            before = counted[number - 1][0]
            start = _overlap_start(longer.get(number - 1, made[number - 1][0]), before, piece, overlap, cutter)
            if start < piece.start:
                longer[number] = _Piece(start, piece.end, piece.section)
                repeated[number] = _Piece(start, before.end, piece.section)
        counts = _counts(list(longer.values()), cutter, settings.max_tokens, tokens)
        overlaps = _counts(list(repeated.values()), cutter, settings.overlap_tokens, tokens)
        still = {}
        for (number, piece), count, overlap in zip(longer.items(), counts, overlaps, strict=True):
            # Standing alone, a text can have some tokens more than it had in the document.
            excess = max(count - settings.max_tokens, overlap - settings.overlap_tokens)
            if excess <= 0:
                made[number] = piece, count
            elif wanted[number] > excess:
                still[number] = wanted[number] - excess
        wanted = still
    return made


def _overlap_start(longer: _Piece, before: _Piece, piece: _Piece, tokens: int, cutter: _Cutter) -> int:
    """Where a piece begins that repeats at most so many tokens of the one before; its own start where there is no place.

    `longer` is the one before with what it repeats itself. It is never repeated as a whole, and neither are headings.
    """
    reach, floor = cutter.ruler.reach(piece.start, tokens), max(before.start, cutter.next_solid(before.section.body))
    if floor >= piece.start:
        return piece.start
    return floor if longer.start < floor and reach <= floor else cutter.earlier(floor, piece.start, reach)


def _counts(pieces: list[_Piece], cutter: _Cutter, max_tokens: int, tokens: DocumentTokens) -> list[int]:
    """Tokens of each piece standing alone: counted again where the difference could matter, else as they were in the document."""
    text, ruler = cutter.text, cutter.ruler
    starts, ends = np.asarray([(piece.start, piece.end) for piece in pieces], dtype=np.int64).reshape(-1, 2).T
    measures = ruler.until(ends) - ruler.before(starts)
    counts: list[int] = (measures if ruler.starts is not None else -(-measures // _CHARS_PER_TOKEN)).tolist()
    doubtful = ruler.guesses(starts, ends) | (measures > max_tokens - max(_SLACK, max_tokens // 8))
    splits = ruler.splits(starts) | ruler.splits(ends)
    recount = [at for at, piece in enumerate(pieces) if doubtful[at] or (splits[at] and _cuts_a_word(text, piece))]
    exact = tokens.counts(text, [(pieces[at].start, pieces[at].end) for at in recount]) if recount else None
    for at, count in zip(recount, exact or (), strict=exact is not None):
        counts[at] = count
    return counts


def _batches(numbers: list[int], stretches: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
    """As many stretches at a time as make a segment."""
    batch: list[int] = []
    chars = 0
    for number in numbers:
        batch.append(number)
        chars += stretches[number][1] - stretches[number][0]
        if chars >= _SEGMENT:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def _cuts_a_word(text: str, piece: _Piece) -> bool:
    before, after = text[piece.start - 1 : piece.start], text[piece.end : piece.end + 1]
    return bool(before and not before.isspace()) or bool(after and not after.isspace())
