"""source code -> definitions: where functions, classes and the like begin and end, and what they are called. Pure.

Python is read by its own tokenizer. In every other language a definition is what its layout shows: a line, mostly with a brace,
above lines that are indented more; what lies in a class is looked at in the same way. So no grammar has to be kept for each
language, and code that isn't laid out like that is cut at blank lines.
"""

from __future__ import annotations

import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

# A class that isn't longer stays whole: its methods alone would say little.
_WHOLE = 1_000
# Python's tokenizer takes about a second for so many characters.
_LONGEST_PYTHON = 2**20
_DEEPEST = 6
_LONGEST_TITLE = 80
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


def definitions(text: str, starts: list[int], language: str) -> list[Definition]:
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


def _in_python(text: str, starts: list[int]) -> list[Definition]:
    """Classes and functions, and those within classes."""
    ends = [*starts[1:], len(text)]
    lines = iter([text[start:end] for start, end in pairwise([*starts, len(text)])])
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


def _closed(one: _Open, starts: list[int], ends: list[int], last: int, text: str) -> Definition:
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


@dataclass(frozen=True, slots=True)
class _Line:
    """A line that isn't blank; `is_apart` where a blank one comes before it."""

    start: int
    end: int
    indent: int
    said: str
    is_apart: bool


def _by_layout(text: str, starts: list[int]) -> Iterator[Definition]:
    lines: list[_Line] = []
    is_apart = True
    for start, end in pairwise([*starts, len(text)]):
        line = text[start:end]
        said = line.strip()
        if said:
            lines.append(_Line(start, end, len(line) - len(line.lstrip()), said, is_apart))
        is_apart = not said
    yield from _within(lines, 0, len(lines), 1)


def _within(lines: list[_Line], first: int, last: int, level: int) -> Iterator[Definition]:
    """Definitions among `lines[first:last]`, which are indented as the least of them."""
    if first >= last or level > _DEEPEST:
        return
    indent = min(line.indent for line in lines[first:last])
    at, free = first, first
    while at < last:
        line = lines[at]
        if line.indent != indent or not _is_definition(lines, at, last):
            at += 1
            continue
        stop = _end(lines, at, last)
        begin = _begin(lines, at, free, indent)
        body = _body(lines, at, stop)
        end = lines[stop - 1].end
        yield Definition(lines[begin].start, lines[body].start if body < stop else end, end, level, _title(line.said))
        if _CONTAINER.search(line.said) and end - lines[begin].start > _WHOLE:
            inner = body
            while inner < stop and _CLOSING.match(lines[inner].said):
                inner += 1
            tail = stop
            while tail > inner and lines[tail - 1].indent <= indent:
                tail -= 1
            yield from _within(lines, inner, tail, level + 1)
        at = free = stop


def _is_definition(lines: list[_Line], at: int, last: int) -> bool:
    """Whether lines that are indented more follow, on a line that says what they are."""
    said = lines[at].said
    if at + 1 >= last or _CONTROL.match(said) or _COMMENT.match(said) or not _BEGINS.match(said):
        return False
    following = lines[at + 1]
    if following.said.startswith("{") and following.indent == lines[at].indent:
        following = lines[at + 2] if at + 2 < last else following
    return following.indent > lines[at].indent


def _end(lines: list[_Line], at: int, last: int) -> int:
    """The number of the first line that isn't the definition's any more."""
    stop = at + 1
    while stop < last and (lines[stop].indent > lines[at].indent or _CLOSING.match(lines[stop].said)):
        stop += 1
    # A comment that is indented and stands right above what comes next stays here; nothing more can be known of it.
    return stop


def _begin(lines: list[_Line], at: int, free: int, indent: int) -> int:
    """The number of the first line right above a definition that belongs to it."""
    while at > free and not lines[at].is_apart:
        above = lines[at - 1]
        belongs = _ABOVE.match(above.said) or (above.indent == indent and _UNFINISHED.fullmatch(above.said))
        if above.indent < indent or not belongs:
            break
        at -= 1
    return at


def _body(lines: list[_Line], at: int, stop: int) -> int:
    """The number of the line after a definition's first ones, up to its brace."""
    for number in range(at, min(at + 8, stop)):
        if lines[number].said.endswith(("{", ":", "=>", "->", "=")):
            return number + 1
    return at + 1


def _title(said: str) -> str:
    title = _TITLE_END.sub("", " ".join(said.split())) or said
    return title if len(title) <= _LONGEST_TITLE else f"{title[: _LONGEST_TITLE - 3]}..."
