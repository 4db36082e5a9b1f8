"""What of a folder is left out: ignore files as Git reads them, and the caller's globs in the same syntax.

A pattern is asked about a file or folder itself, never about the folders above it: a walk from the top down has decided on those
already. Libraries that match a whole path at once can't tell the two apart, and take `!logs/` for a word about every file in it.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from sightline.errors import UsageError

# In this order: where both speak of a file, the second has the last word.
IGNORE_FILES = (".gitignore", ".sightlineignore")
MAX_IGNORE_BYTES = 2**18  # as expressions, so much takes 2 s
_BRACKET = re.compile(r"\[(?P<negated>[!^]?)(?P<members>\]?(?:\[:\w+:\]|\\.|[^\]\\])*)\]", re.DOTALL)
_MEMBER = re.compile(r"\[:(?P<kind>\w+):\]|(?P<first>\\.|.)(?:-(?P<last>\\.|[^\]]))?", re.DOTALL)
_STAR = "[^/]*"
_ANY_PARTS = "(?:[^/]*/)*?"
_CLASSES = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "blank": " \\t",
    "cntrl": "\\x00-\\x1f\\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": "!-/:-@\\[-`{-~",
    "space": "\\s",
    "upper": "A-Z",
    "xdigit": "0-9a-fA-F",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Pattern:
    """One line of an ignore file. `by_name` looks at the last part of a path only."""

    regex: str
    takes_in: bool
    folders_only: bool
    by_name: bool


@dataclass(frozen=True, slots=True)
class _Level:
    """Patterns of one place, the last first; neighbours that mean the same are one expression.

    Args:
        depth: How many characters of a path lead to that place.
        patterns: Expressions, each with the kind of pattern that it stands for.
    """

    depth: int
    patterns: tuple[tuple[re.Pattern[str], _Pattern], ...]

    def verdict(self, relative: str, name: str, *, folder: bool) -> bool | None:
        """True: left out; False: taken in again; None: nothing is said of it."""
        for expression, kind in self.patterns:
            if (folder or not kind.folders_only) and expression.fullmatch(name if kind.by_name else relative[self.depth :]):
                return not kind.takes_in
        return None


@dataclass(frozen=True, slots=True)
class Rules:
    """What counts in one folder of a root.

    Args:
        include: Globs of which a file, or a folder above it, must meet one; None takes all.
        exclude: Globs that leave out, whatever else is said.
        levels: The folder's own ignore files and those above it, innermost first.
    """

    include: _Level | None = None
    exclude: _Level | None = None
    levels: tuple[_Level, ...] = ()

    @classmethod
    def of_globs(cls, include: Sequence[str], exclude: Sequence[str]) -> Rules:
        """The rules at a root.

        Raises:
            UsageError: A glob isn't one.
        """
        return cls(_globs(include, "include"), _globs(exclude, "exclude"))

    def within(self, depth: int, lines: Iterable[str], where: str) -> Rules:
        """The rules in a folder with ignore files of its own.

        Args:
            depth: How many characters of a path lead into that folder.
            lines: What its ignore files say.
            where: What people call it.
        """
        return replace(self, levels=(_level(depth, _patterns(lines, where)), *self.levels))

    def below(self, relative: str, name: str) -> Rules | None:
        """The rules in a folder of this one; None leaves it out, and as with Git nothing in it can be taken in again."""
        if self._drop(relative, name, folder=True):
            return None
        return replace(self, include=None) if self.include and self.include.verdict(relative, name, folder=True) else self

    def drop_file(self, relative: str, name: str) -> bool:
        """Whether a file of this folder is left out; `relative` is its path from the root, `name` the end of that."""
        return self._drop(relative, name, folder=False) or (
            self.include is not None and not self.include.verdict(relative, name, folder=False)
        )

    def _drop(self, relative: str, name: str, *, folder: bool) -> bool:
        if self.exclude is not None and self.exclude.verdict(relative, name, folder=folder):
            return True
        for level in self.levels:
            verdict = level.verdict(relative, name, folder=folder)
            if verdict is not None:
                return verdict
        return False


def ignore_lines(path: str) -> list[str]:
    """Lines of an ignore file. Bytes that aren't UTF-8 stand for themselves, as they do in the names of files.

    Raises:
        OSError: It can't be read.
    """
    with open(path, "rb") as file:
        data = file.read(MAX_IGNORE_BYTES + 1)
    if len(data) > MAX_IGNORE_BYTES:
        raise OSError(0, f"it is larger than {MAX_IGNORE_BYTES // 2**10} KiB")
    return [line.removesuffix("\r") for line in os.fsdecode(data.removeprefix(b"\xef\xbb\xbf")).split("\n")]


def _globs(globs: Sequence[str], name: str) -> _Level | None:
    if isinstance(globs, str):
        raise UsageError(f"{name} is a list of globs; got {globs!r}. Write [{globs!r}].")
    patterns = []
    for glob in globs:
        pattern = None if _says_nothing(glob) else _pattern(glob)
        if pattern is None:
            raise UsageError(f"{glob!r} is no glob to {name}. Globs are as in .gitignore, e.g. '*.md', '/drafts/' or 'docs/**'.")
        patterns.append(pattern)
    return _level(0, patterns) if patterns else None


def _patterns(lines: Iterable[str], where: str) -> list[_Pattern]:
    """Git passes over what is no pattern, and so does this, but not in silence."""
    patterns = []
    for line in lines:
        if _says_nothing(line):
            continue
        pattern = _pattern(line)
        if pattern is None:
            log.warning("An ignore file in %s holds %r, which is no pattern; it was passed over.", where, line)
        else:
            patterns.append(pattern)
    return patterns


def _level(depth: int, patterns: Sequence[_Pattern]) -> _Level:
    """Neighbours of one kind are one expression, so that a file is asked a few times instead of once for each pattern."""
    groups = groupby(reversed(patterns), key=lambda pattern: (pattern.takes_in, pattern.folders_only, pattern.by_name))
    joined = []
    for _, group in groups:
        same = list(group)
        joined.append((re.compile("|".join(pattern.regex for pattern in same), re.DOTALL), same[0]))
    return _Level(depth, tuple(joined))


def _says_nothing(line: str) -> bool:
    return not line.strip() or line.startswith("#")


def _pattern(line: str) -> _Pattern | None:
    """What a line says, or None where it is no pattern; https://git-scm.com/docs/gitignore has the rules."""
    line = _without_trailing_spaces(line)
    takes_in = line.startswith("!")
    glob = line[1:] if takes_in else line
    folders_only = glob.endswith("/")
    glob = glob.removesuffix("/")
    by_name = "/" not in glob
    regex = _translated(glob.removeprefix("/"))
    return _Pattern(regex, takes_in, folders_only, by_name) if regex else None


def _without_trailing_spaces(line: str) -> str:
    bare = line.rstrip(" ")
    backslashes = len(bare) - len(bare.rstrip("\\"))
    return line[: len(bare) + 1] if backslashes % 2 else bare


def _translated(glob: str) -> str | None:
    """The expression that a path meets where it meets the glob; None for a bracket or backslash with nothing to close it.

    It takes no more time than path and glob are long, multiplied: of several stars in a part of the path, and of several `**`,
    only the last is tried at other places than the first that fits, which is as good as any.
    """
    whole: list[str] = []  # each but the last ends before a `**`
    parts = [""]  # of the path, since the last `**`
    stars = [""]  # of the current part, each with what follows it
    position = 0
    while position < len(glob):
        expression, position = _next_part(glob, position)
        if expression is None:
            return None
        if expression in ("/", _ANY_PARTS):
            parts[-1] += _joined_stars(stars)
            stars = [""]
            if expression == "/":
                parts[-1] += "/"
            else:
                whole.append(parts[-1])
                parts.append("")
        elif expression == _STAR:
            stars.append("")
        else:
            stars[-1] += expression
    parts[-1] += _joined_stars(stars)
    whole.append(parts[-1])
    first, *others = whole
    return first + "".join(f"(?>{_ANY_PARTS}{one})" for one in others[:-1]) + "".join(_ANY_PARTS + one for one in others[-1:])


def _joined_stars(stars: list[str]) -> str:
    """A part of a path: what comes before its first star, and after each."""
    first, *others = stars
    return first + "".join(f"(?>{_STAR}?{one})" for one in others[:-1]) + "".join(_STAR + one for one in others[-1:])


def _next_part(glob: str, position: int) -> tuple[str | None, int]:
    """The expression for what stands at a position, and where the next begins; None where it is no glob."""
    character = glob[position]
    if character == "*":
        return _stars(glob, position)
    if character == "?":
        return "[^/]", position + 1
    if character == "[":
        return _bracket(glob, position)
    if character == "\\":
        return (re.escape(glob[position + 1]), position + 2) if position + 1 < len(glob) else (None, position)
    return re.escape(character), position + 1


def _stars(glob: str, position: int) -> tuple[str, int]:
    """Two asterisks that are a whole part of the path stand for any number of parts; others don't go beyond a slash."""
    end = position
    while end < len(glob) and glob[end] == "*":
        end += 1
    is_whole_part = (position == 0 or glob[position - 1] == "/") and (end == len(glob) or glob[end] == "/")
    if end - position < 2 or not is_whole_part:
        return _STAR, end
    return (".*", end) if end == len(glob) else (_ANY_PARTS, end + 1)


def _bracket(glob: str, position: int) -> tuple[str | None, int]:
    found = _BRACKET.match(glob, position)
    if found is None:
        return None, len(glob)
    members = "".join(map(_member, _MEMBER.finditer(found["members"])))
    return f"(?!/)[{'^' if found['negated'] else ''}{members}]" if members else "(?!)", found.end()


def _member(found: re.Match[str]) -> str:
    """One character, range or class between brackets. A range that runs backwards holds nothing."""
    if found["kind"]:
        return _CLASSES.get(found["kind"], "")
    first = found["first"][-1]
    last = (found["last"] or first)[-1]
    return f"{re.escape(first)}-{re.escape(last)}" if first <= last else ""
