"""document -> outline: where the headings, blocks and lesser parts of a text begin, as its format has them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise

from markdown_it import MarkdownIt

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
    blocks: list[int] = field(default_factory=list)
    parts: list[int] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)


def outline(text: str, text_format: str) -> Outline:
    """The outline of a text in the format "markdown", "rst", "python", "code" or anything else, which is read as paragraphs."""
    starts = [0, *(match.end() for match in _NEWLINE.finditer(text))]
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


def _markdown(text: str, starts: list[int]) -> Outline:
    found = Outline()
    front = _FRONT_MATTER.match(text)
    hidden = front.end() if front else 0
    ends = [*starts[1:], len(text)]
    tokens = _markdown_parser().parse("\n" * text.count("\n", 0, hidden) + text[hidden:])
    if front:
        found.blocks.append(0)
    for position, token in enumerate(tokens):
        if token.map is None or token.nesting < 0 or token.type == "inline":
            continue
        first, last = token.map[0], min(token.map[1], len(starts))
        if token.level:
            found.parts.append(starts[first])
        else:
            found.blocks.append(starts[first])
        if token.type == "heading_open" and not token.level:
            title = _HEADING_ID.sub("", " ".join(tokens[position + 1].content.split()))
            found.headings.append(Heading(starts[first], ends[last - 1], int(token.tag[1:]), title))
        elif token.type in _LINES_MATTER:
            found.lines.extend(starts[first + 1 : last])
    found.parts.extend(_after_blank_lines(text, starts))
    return found


def _code(text: str, starts: list[int], language: str) -> Outline:
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


def _paragraphs(text: str, starts: list[int]) -> Outline:
    """Blocks begin after blank lines; what is indented belongs to the block above, as its part."""
    found = Outline()
    for start in _after_blank_lines(text, starts):
        (found.parts if text[start] in " \t" else found.blocks).append(start)
    found.parts.extend(start for start in starts if _LIST_ITEM.match(text, start))
    return found


def _after_blank_lines(text: str, starts: list[int]) -> Iterator[int]:
    """Starts of the lines with text that follow a line without."""
    blank = True
    for start, end in pairwise([*starts, len(text)]):
        was_blank, blank = blank, not text[start:end].strip()
        if was_blank and not blank:
            yield start


def _rst_headings(text: str, starts: list[int]) -> Iterator[Heading]:
    """Titles by their underline (and overline); a style's level is the order in which it first appears."""
    lines = [text[start:end].rstrip() for start, end in pairwise([*starts, len(text)])]
    ends = [*starts[1:], len(text)]
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
