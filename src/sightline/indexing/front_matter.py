"""What a Markdown file says of itself before its text begins: YAML between lines of `---`, or TOML between lines of `+++`.

It becomes metadata where all of it can be kept: a mapping of plain values, with dates as ISO text and keys as they are written.
Whatever can't be kept whole stays in the text, where it is found at least, and a warning says why.
"""

from __future__ import annotations

import datetime
import logging
import re
import tomllib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import yaml

from sightline.errors import UsageError
from sightline.metadata import plain_metadata

MAX_CHARACTERS = 64 * 2**10
_MAX_DEPTH = 32
# What follows the opening line has to be there: a rule with a blank line below it is a rule.
_OPENING = re.compile(r"(---|\+\+\+)[ \t]*\n(?=\S)")
_CLOSING = {
    "---": re.compile(r"^(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.MULTILINE),
    "+++": re.compile(r"^\+\+\+[ \t]*(?:\n|\Z)", re.MULTILINE),
}
_TEXT_TAG = "tag:yaml.org,2002:str"
_LINE = re.compile(r" \(at line (\d+), column \d+\)")
# A key of 30,000 parts keeps tomllib busy for 15 s.
_LONG_KEY = re.compile(r"(?<![\w-])(?:(?:[\w-]++|\"[^\"\n]*+\"|'[^'\n]*+')[ \t]*+\.[ \t]*+){32}")

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    _SafeLoader = yaml.SafeLoader
else:  # eight times as fast, and there wherever PyYAML was installed from a wheel
    _SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def without_front_matter(text: str, source: str) -> tuple[str, dict[str, Any]]:
    """The text with blanks in place of its front matter, and what that says; the text as it is where it has none."""
    opening = _OPENING.match(text)
    closing = opening and _CLOSING[opening[1]].search(text, opening.end())
    if opening is None or closing is None:
        return text, {}
    try:
        metadata = _metadata(text[opening.end() : closing.start()], _PARSERS[opening[1]], source)
    except _NotKept as error:
        log.warning("The front matter of %s stays part of its text: %s (line %d).", source, error, error.line + 1)
        return text, {}
    if metadata is None:
        return text, {}
    # As many characters and lines as before: the offsets of a chunk count those of the file.
    blank = re.sub(r"[^\n]", " ", text[: closing.end()])
    return blank + text[closing.end() :], metadata


class _NotKept(Exception):
    """Why front matter is no metadata, and in which of its lines, counted from 1."""

    def __init__(self, reason: str, line: int = 1) -> None:
        super().__init__(reason)
        self.line = line


def _metadata(data: str, parse: Callable[[str], Any], source: str) -> dict[str, Any] | None:
    """What front matter says, or None where it is something else that stands between two rules."""
    if not data.strip():
        return {}
    if len(data) > MAX_CHARACTERS:
        raise _NotKept(f"it is longer than {MAX_CHARACTERS // 2**10} KiB")
    try:
        parsed = parse(data)
        return plain_metadata(parsed, source) if isinstance(parsed, Mapping) else None
    except UsageError as error:
        raise _NotKept(str(error).rstrip(".")) from error
    except RecursionError as error:
        raise _NotKept("it is nested too deeply") from error


def _yaml(data: str) -> Any:
    try:
        _check(data)
        return yaml.load(data, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _NotKept(f"{error.problem or error.context}", mark.line + 1 if mark else 1) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # a sexagesimal number may have a thousand digits
        raise _NotKept(" ".join(str(error).split())) from error


def _toml(data: str) -> Any:
    if _LONG_KEY.search(data):
        raise _NotKept("a key of more than 32 parts")
    try:
        return _dates_as_text(tomllib.loads(data))
    except ValueError as error:
        line = _LINE.search(str(error))
        raise _NotKept(_LINE.sub("", str(error)), int(line[1]) if line else 1) from error


_PARSERS: dict[str, Callable[[str], Any]] = {"---": _yaml, "+++": _toml}


class _Loader(_SafeLoader):
    """Safe YAML with keys and dates as text: `on:` is a key of two letters, and no store knows dates."""

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        """A mapping by the text of its keys."""
        if not isinstance(node, yaml.MappingNode):
            raise yaml.constructor.ConstructorError(None, None, "something else than a mapping", node.start_mark)
        self.flatten_mapping(node)
        return {_key(key): self.construct_object(value, deep=deep) for key, value in node.value}

    def construct_date(self, node: yaml.ScalarNode) -> str:
        """A date in ISO text; what only looks like one, as it is written."""
        try:
            date: datetime.date = self.construct_yaml_timestamp(node)
        except ValueError:
            return str(node.value)
        return date.isoformat()


_Loader.add_constructor("tag:yaml.org,2002:timestamp", _Loader.construct_date)


def _key(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise yaml.constructor.ConstructorError(None, None, "a key that isn't a text", node.start_mark)
    return str(node.value)


class _Check:
    """Looks through the events of a YAML text, which cost as much as it has characters, before anything is built of them.

    libyaml's loader overruns its stack where a text is nested deeply, an alias of an alias of an alias can stand for gigabytes,
    and a key that comes twice would silently lose its first value.
    """

    def __init__(self) -> None:
        self._open: list[_Open] = [_Open(None, is_mapping=False)]
        self._weights: dict[str, int] = {}

    def see(self, event: yaml.Event) -> None:
        """Raise _NotKept where an event goes too far."""
        line = event.start_mark.line + 1 if event.start_mark else 1
        tag = getattr(event, "tag", None)
        if tag not in (None, "!", _TEXT_TAG):
            raise _NotKept(f"values of the kind {tag!r} have no plain form", line)
        if isinstance(event, yaml.CollectionStartEvent):
            self._open.append(_Open(event.anchor, is_mapping=isinstance(event, yaml.MappingStartEvent)))
            if len(self._open) > _MAX_DEPTH:
                raise _NotKept(f"it is nested more than {_MAX_DEPTH} levels deep", line)
        elif isinstance(event, yaml.CollectionEndEvent):
            closed = self._open.pop()
            self._add(closed.anchor, closed.weight, None, line)
        elif isinstance(event, yaml.ScalarEvent):
            self._add(event.anchor, 1 + len(event.value), event.value, line)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._weights:
                raise _NotKept(f"*{event.anchor} stands for nothing that came before it", line)
            self._add(None, self._weights[event.anchor], None, line)

    def _add(self, anchor: str | None, weight: int, key: str | None, line: int) -> None:
        if anchor is not None:
            self._weights[anchor] = weight
        above = self._open[-1]
        above.weight += weight
        # Without aliases nothing weighs more than its characters and as many nodes.
        if above.weight > 2 * MAX_CHARACTERS:
            raise _NotKept("its aliases stand for too much", line)
        above.count += 1
        if above.is_mapping and above.count % 2 and key is not None:
            if key in above.keys:
                raise _NotKept(f"the key {key!r} comes twice", line)
            above.keys.add(key)


class _Open:
    """A mapping or list whose end hasn't come yet; `weight` is how many nodes and characters it stands for."""

    __slots__ = ("anchor", "count", "is_mapping", "keys", "weight")

    def __init__(self, anchor: str | None, *, is_mapping: bool) -> None:
        self.anchor = anchor
        self.is_mapping = is_mapping
        self.weight = 1
        self.count = 0
        self.keys: set[str] = set()


def _check(data: str) -> None:
    check = _Check()
    for event in yaml.parse(data, Loader=_SafeLoader):
        check.see(event)


def _dates_as_text(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _dates_as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_dates_as_text(item) for item in value]
    return value.isoformat() if isinstance(value, (datetime.date, datetime.time)) else value
