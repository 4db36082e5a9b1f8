"""document -> outline: where the headings, blocks and lesser parts of a text begin, as its format has them. Pure."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, pairwise

from markdown_it import MarkdownIt
from markdown_it.token import Token

from sightline.indexing.definitions import Definition, definitions

_NEWLINE = re.compile(r"\r\n?|\n")
# CommonMark would read its last line as the underline of a heading.
_FRONT_MATTER = re.compile(r"---[ \t]*\n(?=[\w\"'#])(?:.*\n)*?(?:---|\.\.\.)[ \t]*(?:\n|\Z)")
_HEADING_ID = re.compile(r"\s*\{#[^{}]*\}\s*$")
_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1+[ \t\x0c]*$")
_LIST_ITEM = re.compile(r"[ \t]*(?:[-*+•]|\(?\w{1,3}[.)])[ \t]+\S")
_MIN_UNDERLINE = 4  # docutils takes a shorter underline only where it is as long as its title
_BRACKETS = " \t\r\n()[]{};,"
_LINES_MATTER = frozenset({"fence", "code_block", "html_block"})
# Characters of Markdown that are parsed at once: the parser takes up to 4,000 bytes for each line.
_PIECE = 1 << 16
# Of what stands in one block, such as a list, so many are parsed at once before it is taken apart.
_LONGEST_BLOCK = 1 << 18


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading at `text[start:end]`; `level` 1 is the outermost. Without a title, it ends what was open and opens nothing."""

    start: int
    end: int
    level: int
    title: str | None


@dataclass(frozen=True, slots=True)
class Outline:
    """Character positions at which things begin, in no order and possibly more than once.

    Args:
        headings: In order.
        blocks: Paragraphs, lists, tables, code: what stands side by side in a section.
        parts: What such a block is made of: list items, rows, groups of code lines between blank ones.
        lines: Lines that are known to be code: there a line is what a sentence is in prose.
    """

    headings: list[Heading] = field(default_factory=list)
    blocks: array[int] = field(default_factory=lambda: array("q"))
    parts: array[int] = field(default_factory=lambda: array("q"))
    lines: array[int] = field(default_factory=lambda: array("q"))


def outline(text: str, text_format: str) -> Outline:
    """The outline of a text in the format "markdown", "rst", "python", "code" or anything else, which is read as paragraphs."""
    starts = array("q", [0])  # of lines; as a list, those of a large file would take five times as much
    starts.extend(match.end() for match in _NEWLINE.finditer(text))
    if text_format == "markdown":
        return _markdown(text, starts)
    if text_format in ("python", "code"):
        return _code(text, starts, text_format)
    found = _paragraphs(text, starts)
    if text_format == "rst":
        found.headings.extend(_rst_headings(text, starts))
    return found


@cache
def _markdown_parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark").enable("table")
    parser.core.ruler.disable(["inline", "text_join"])  # only the blocks matter, and they are half the time
    parser.block.ruler.disable("reference")  # link definitions are text to be covered like any other
    return parser


def _markdown(text: str, starts: array[int]) -> Outline:
    found = Outline()
    front = _FRONT_MATTER.match(text)
    begin = bisect_left(starts, front.end()) if front else 0
    ends = starts[1:] + array("q", [len(text)])
    if front:
        found.blocks.append(0)
    for piece in _pieces(text, starts, begin):
        for position, token in enumerate(piece.tokens):
            if token.map is None or token.nesting < 0 or token.type == "inline":
                continue
            first, last = piece.line + token.map[0], min(piece.line + token.map[1], len(starts))
            if token.level or (piece.goes_on and not position):
                found.parts.append(starts[first])
            else:
                found.blocks.append(starts[first])
            if token.type == "heading_open" and not token.level:
                title = _HEADING_ID.sub("", " ".join(piece.tokens[position + 1].content.split()))
                found.headings.append(Heading(starts[first], ends[last - 1], int(token.tag[1:]), title))
            elif token.type in _LINES_MATTER:
                found.lines.extend(starts[first + 1 : last])
            elif piece.goes_on == "table_open" and not position:
                found.parts.extend(starts[first + 1 : last])  # its rows, which without their header look like a paragraph
    found.parts.extend(_after_blank_lines(text, starts))
    return found


@dataclass(frozen=True, slots=True)
class _Piece:
    """Tokens of some blocks, which count lines from `line`; the first block goes on with one of this type, if any."""

    line: int
    goes_on: str
    tokens: list[Token]


def _pieces(text: str, starts: array[int], line: int) -> Iterator[_Piece]:
    """The blocks from a line on, as parsing all of them at once would find them, but for less memory.

    Only the last block of a piece may go on behind it, so the next piece begins with that one. A list, quote or table that is
    too long for that is parted between its items; one item that is too long is read as if it stood alone.
    """
    size, goes_on = _PIECE, ""
    while line < len(starts):
        stop = bisect_left(starts, starts[line] + size)
        is_last = stop >= len(starts)
        tokens = _markdown_parser().parse(text[starts[line] : len(text) if is_last else starts[stop]])
        if is_last:
            yield _Piece(line, goes_on, tokens)
            return
        cut = _last_start(tokens, levels=None if size >= _LONGEST_BLOCK else 1)
        if not cut:
            size *= 2
            continue
        yield _Piece(line, goes_on, tokens[:cut])
        line += tokens[cut].map[0]  # type: ignore[index]
        size, goes_on = _PIECE, tokens[0].type if tokens[cut].level else ""


def _last_start(tokens: list[Token], levels: int | None) -> int:
    """The number of the last token of the lowest level, of so many, that begins on a later line than the first; 0 for none."""
    found: dict[int, int] = {}
    for number, token in enumerate(tokens):
        if token.map is not None and token.nesting >= 0 and token.map[0] and token.type != "inline":
            found[token.level] = number
    level = min(found, default=0)
    return found[level] if found and (levels is None or level < levels) else 0


def _code(text: str, starts: array[int], language: str) -> Outline:
    """Definitions are headings; in a long one, what begins after a blank line is a block, and a line is what a sentence is."""
    found = Outline(lines=starts[1:])
    for start in _after_blank_lines(text, starts):
        (found.parts if text[start] in " \t" else found.blocks).append(start)
    open_ones: list[Definition] = []
    for definition in definitions(text, starts, language):
        found.headings.extend(_ends(open_ones, text, definition.start))
        found.headings.append(Heading(definition.start, definition.body, definition.level, definition.title))
        open_ones.append(definition)
    found.headings.extend(_ends(open_ones, text, len(text)))
    return found


def _ends(open_ones: list[Definition], text: str, position: int) -> Iterator[Heading]:
    """Close the definitions that end before a position, where more than brackets comes after them."""
    while open_ones and open_ones[-1].end <= position:
        closed = open_ones.pop()
        following = min(position, open_ones[-1].end) if open_ones else position
        if text[closed.end : following].strip(_BRACKETS):
            yield Heading(closed.end, closed.end, closed.level, None)


def _paragraphs(text: str, starts: array[int]) -> Outline:
    """Blocks begin after blank lines; what is indented belongs to the block above, as its part."""
    found = Outline()
    for start in _after_blank_lines(text, starts):
        (found.parts if text[start] in " \t" else found.blocks).append(start)
    found.parts.extend(start for start in starts if _LIST_ITEM.match(text, start))
    return found


def _after_blank_lines(text: str, starts: array[int]) -> Iterator[int]:
    """Starts of the lines with text that follow a line without."""
    blank = True
    for start, end in pairwise(chain(starts, [len(text)])):
        was_blank, blank = blank, not text[start:end].strip()
        if was_blank and not blank:
            yield start


def _rst_headings(text: str, starts: array[int]) -> Iterator[Heading]:
    """Titles by their underline (and overline); a style's level is the order in which it first appears."""
    lines = [text[start:end].rstrip() for start, end in pairwise([*starts, len(text)])]
    ends = starts[1:] + array("q", [len(text)])
    styles: list[str] = []
    last_used = -1
    for number in range(1, len(lines)):
        title, rule = lines[number - 1], lines[number]
        if number - 1 <= last_used or not title or _is_rule(title) or not _is_rule(rule):
            continue
        if len(rule) < min(len(title.strip()), _MIN_UNDERLINE):
            continue
        before = lines[number - 2] if number - 2 > last_used else ""
        overlined = _is_rule(before) and before[0] == rule[0]
        if not overlined and (before.strip() or title[0].isspace()):
            continue
        style = rule[0] * (2 if overlined else 1)
        if style not in styles:
            styles.append(style)
        last_used = number
        first = number - 2 if overlined else number - 1
        yield Heading(starts[first], ends[number], styles.index(style) + 1, " ".join(title.split()))


def _is_rule(line: str) -> bool:
    return _ADORNMENT.match(line) is not None
