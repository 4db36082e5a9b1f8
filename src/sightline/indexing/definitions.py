"""source code -> definitions: where functions, classes and the like begin and end, and what they are called. Pure.

Python is read by its own tokenizer. In every other language a definition is what its layout shows: a line, mostly with a brace,
above lines that are indented more; what lies in a class is looked at in the same way. So no grammar has to be kept for each
language, and code that isn't laid out like that is cut at blank lines.
"""

from __future__ import annotations

import re
import tokenize
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, pairwise

# A class that isn't longer stays whole: its methods alone would say little.
_WHOLE = 1_000
# Python's tokenizer takes about a second for so many characters.
_LONGEST_PYTHON = 2**20
_DEEPEST = 6
_LONGEST_TITLE = 80
_LONGEST_LINE = 1_000  # of a line, so much is looked at for its title
_SKIPPED_TOKENS = frozenset({tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING})
_BEGINS = re.compile(r"[^\W\d][^;]*$|[.#:*@\[][\w-].*\{\s*$|template\s*<")
_CONTROL = re.compile(
    r"(?:if|elif|else|for|foreach|while|until|unless|switch|case|match|select|try|catch|finally|do|with|begin|return|import|from|"
    r"use|using|include|require|default|then|loop|throw|await|yield|in|let|and|or|not|new|delete)\b"
)
_CONTAINER = re.compile(
    r"\b(?:class|interface|struct|enum|impl|trait|namespace|module|object|extension|protocol|record|union|mod)\b"
)
# Comments, annotations and attributes: what stands right above a definition belongs to it.
_ABOVE = re.compile(r"//|/\*|\*|#|--|@|\[|;;|%|'''|\"\"\"|template\s*<")
_COMMENT = re.compile(r"//|/\*|\*|#(?!\w+\s*\{)|--|;;|%|<!--")
_UNFINISHED = re.compile(r"[\w>*&\s,:]+[^;{}:,)=]$")
# What goes on with the definition above it, though it is indented like that.
_CLOSING = re.compile(r"[{})\]]|end\b|else\b|catch\b|finally\b|elif\b|rescue\b|ensure\b|fi\b|done\b|esac\b")
_TITLE_END = re.compile(r"(?:[\s{(\[:=,&|-]|=>)+$")


@dataclass(frozen=True, slots=True)
class Definition:
    """A definition at `text[start:end]` with what stands right above it; after its first lines, `body` begins."""

    start: int
    body: int
    end: int
    level: int
    title: str


def definitions(text: str, starts: array[int], language: str) -> list[Definition]:
    """Definitions in the order in which they begin; those of a higher level lie within one of the level below.

    Args:
        text: Source code.
        starts: Where its lines begin.
        language: "python", or anything else for what the layout shows.
    """
    if language == "python" and len(text) <= _LONGEST_PYTHON:
        try:
            return _in_python(text, starts)
        except (tokenize.TokenError, SyntaxError):  # of another version, or a template
            return list(_by_layout(text, starts))
    return list(_by_layout(text, starts))


@dataclass(slots=True)
class _Open:
    """A definition of Python whose end hasn't come yet; `depth` is how deeply it is indented. Lines count from 0."""

    line: int
    depth: int
    kind: str
    title: str
    level: int
    body: int = 0


def _in_python(text: str, starts: array[int]) -> list[Definition]:
    """Classes and functions, and those within classes."""
    ends = starts[1:] + array("q", [len(text)])
    lines = (text[start:end] for start, end in zip(starts, ends, strict=True))
    found: list[Definition] = []
    open_ones: list[_Open] = []
    depth, last, decorated = 0, 0, -1
    logical: list[tokenize.TokenInfo] = []
    for token in tokenize.generate_tokens(lambda: next(lines, "")):
        if token.type in (tokenize.INDENT, tokenize.DEDENT):
            depth += 1 if token.type == tokenize.INDENT else -1
        if token.type in _SKIPPED_TOKENS:
            continue
        if token.type not in (tokenize.NEWLINE, tokenize.ENDMARKER):
            logical.append(token)
            continue
        first = logical[0].start[0] - 1 if logical else len(starts)
        while open_ones and open_ones[-1].depth >= (depth if logical else 0):
            found.append(_closed(open_ones.pop(), starts, ends, last, text))
        if logical and logical[0].string == "@":
            decorated = first if decorated < 0 else decorated
        elif logical:
            words = [one.string for one in logical[:3]]
            words = words[1:] if words[0] == "async" else words
            if words[0] in ("class", "def") and len(words) > 1 and all(one.kind == "class" for one in open_ones):
                line = first if decorated < 0 else decorated
                one = _Open(line, depth, words[0], f"{words[0]} {words[1]}", len(open_ones) + 1, logical[-1].end[0])
                open_ones.append(one)
            decorated = -1
        last, logical = token.start[0] - 1, []
    found.sort(key=lambda one: (one.start, one.level))
    return _without_parts_of_short(found)


def _closed(one: _Open, starts: array[int], ends: array[int], last: int, text: str) -> Definition:
    line = one.line
    while line and text[starts[line - 1] : ends[line - 1]].lstrip().startswith("#"):
        line -= 1
    body = starts[one.body] if one.body < len(starts) else len(text)
    return Definition(starts[line], min(body, ends[last]), ends[last], one.level, one.title)


def _without_parts_of_short(found: list[Definition]) -> list[Definition]:
    kept: list[Definition] = []
    whole = 0
    for one in found:
        if one.start >= whole:
            kept.append(one)
            if one.end - one.start <= _WHOLE:
                whole = one.end
    return kept


class _Lines:
    """Lines that aren't blank, by their numbers; some bytes for each, since a file may have millions.

    `indents` and `is_apart` (a blank line comes before it) are of each line; `starts` and `ends` are where it lies in the text.
    """

    def __init__(self, text: str, starts: array[int]) -> None:
        self._text = text
        self.starts, self.ends, self.indents, self._lengths = array("q"), array("q"), array("i"), array("i")
        self.is_apart = bytearray()
        is_apart = True
        for start, end in pairwise(chain(starts, [len(text)])):
            line = text[start:end]
            said = line.strip()
            if said:
                self.starts.append(start)
                self.ends.append(end)
                self.indents.append(len(line) - len(line.lstrip()))
                self._lengths.append(len(said))
                self.is_apart.append(is_apart)
            is_apart = not said

    def said(self, at: int) -> str:
        """A line without the blanks around it."""
        start = self.starts[at] + self.indents[at]
        return self._text[start : start + self._lengths[at]]

    def __len__(self) -> int:
        return len(self.starts)


def _by_layout(text: str, starts: array[int]) -> Iterator[Definition]:
    lines = _Lines(text, starts)
    yield from _within(lines, 0, len(lines), 1)


def _within(lines: _Lines, first: int, last: int, level: int) -> Iterator[Definition]:
    """Definitions among the lines from `first` to before `last`, which are indented as the least of them."""
    if first >= last or level > _DEEPEST:
        return
    indent = min(lines.indents[first:last])
    at, free = first, first
    while at < last:
        if lines.indents[at] != indent or not _is_definition(lines, at, last):
            at += 1
            continue
        said = lines.said(at)
        stop = _end(lines, at, last)
        begin = _begin(lines, at, free, indent)
        body = _body(lines, at, stop)
        end = lines.ends[stop - 1]
        yield Definition(lines.starts[begin], lines.starts[body] if body < stop else end, end, level, _title(said))
        if _CONTAINER.search(said) and end - lines.starts[begin] > _WHOLE:
            inner = body
            while inner < stop and _CLOSING.match(lines.said(inner)):
                inner += 1
            tail = stop
            while tail > inner and lines.indents[tail - 1] <= indent:
                tail -= 1
            yield from _within(lines, inner, tail, level + 1)
        at = free = stop


def _is_definition(lines: _Lines, at: int, last: int) -> bool:
    """Whether lines that are indented more follow, on a line that says what they are."""
    if at + 1 >= last:
        return False
    following = at + 1
    if lines.indents[following] == lines.indents[at] and at + 2 < last and lines.said(following).startswith("{"):
        following = at + 2
    if lines.indents[following] <= lines.indents[at]:
        return False
    said = lines.said(at)
    return not (_CONTROL.match(said) or _COMMENT.match(said)) and _BEGINS.match(said) is not None


def _end(lines: _Lines, at: int, last: int) -> int:
    """The number of the first line that isn't the definition's any more."""
    stop = at + 1
    while stop < last and (lines.indents[stop] > lines.indents[at] or _CLOSING.match(lines.said(stop))):
        stop += 1
    # A comment that is indented and stands right above what comes next stays here; nothing more can be known of it.
    return stop


def _begin(lines: _Lines, at: int, free: int, indent: int) -> int:
    """The number of the first line right above a definition that belongs to it."""
    while at > free and not lines.is_apart[at]:
        above = lines.said(at - 1)
        belongs = _ABOVE.match(above) or (lines.indents[at - 1] == indent and _UNFINISHED.fullmatch(above))
        if lines.indents[at - 1] < indent or not belongs:
            break
        at -= 1
    return at


def _body(lines: _Lines, at: int, stop: int) -> int:
    """The number of the line after a definition's first ones, up to its brace."""
    for number in range(at, min(at + 8, stop)):
        if lines.said(number).endswith(("{", ":", "=>", "->", "=")):
            return number + 1
    return at + 1


def _title(said: str) -> str:
    said = said[:_LONGEST_LINE]
    title = _TITLE_END.sub("", " ".join(said.split())) or said
    return title if len(title) <= _LONGEST_TITLE else f"{title[: _LONGEST_TITLE - 3]}..."
