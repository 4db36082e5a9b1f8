"""A file of rows -> documents: one JSON object a line, read one line at a time, so that the file may be larger than memory."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from sightline.errors import UsageError
from sightline.metadata import check_text, plain_metadata
from sightline.types import Document, SkippedFile

READER = "jsonl/1"
_DEFAULT_ID = "id"
_DIGEST_CHARACTERS = 32
_SHOWN_FIELDS = 8
# Of a row; in Python each takes up to 100 bytes.
_MOST_VALUES = 1_000_000
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"')
_SHOWN_CHARACTERS = 40

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class JsonlFields:
    """Which fields of a row mean what.

    Args:
        text: Field with the text.
        id: Field with the row's id, a text or integer that no other row of the file has; None takes "id" where a row has it, and
            else a digest of the text.
        metadata: Fields to keep, where a row has them; None keeps all but text and id.
    """

    text: str = "text"
    id: str | None = None
    metadata: tuple[str, ...] | None = None


def row_documents(lines: Iterable[bytes | None], source: str, fields: JsonlFields) -> Iterator[Document | SkippedFile]:
    """The document in each line, or why there is none; None stands for a line that is longer than a document may be."""
    rows = _Rows(source, fields)
    for number, line in enumerate(lines, start=1):
        if line is None or line.strip():
            try:
                yield rows.document(line)
            except (_NoRow, UsageError) as error:
                yield SkippedFile(f"{source}:{number}", str(error))
            except RecursionError:
                yield SkippedFile(f"{source}:{number}", "nested too deeply to be parsed")
    rows.warn_of_unmet_fields()


class _NoRow(Exception):
    """Why a line is no document."""


@dataclass(slots=True)
class _Rows:
    """What has to be known of the rows before: their ids, and which fields they had. Their texts aren't kept."""

    source: str
    fields: JsonlFields
    ids: set[str] = field(default_factory=set)
    met: set[str] = field(default_factory=set)

    def document(self, line: bytes | None) -> Document:
        """The document in a line."""
        if line is None:
            raise _NoRow("longer than a document may be; split it")
        row = _parsed(line)
        self.met.update(row)
        text = _text_of(row, self.fields.text)
        name, id_field = self._id_of(row, text)
        source = f"{self.source}/{name}"
        metadata = plain_metadata(self._kept(row, id_field), source)
        self.ids.add(name)
        return Document(source, text, "text", READER, _content_hash(text, metadata), metadata)

    def _id_of(self, row: dict[str, Any], text: str) -> tuple[str, str | None]:
        """The row's id, and the field that it is from."""
        chosen = self.fields.id or _DEFAULT_ID
        if row.get(chosen) is None:
            if self.fields.id is not None:
                raise _NoRow(f"no id: the field {chosen!r} isn't there. {_fields_of(row)}")
            return self._digest(text), None
        name = _checked_id(row[chosen], chosen)
        if name in self.ids:
            raise _NoRow(f"the id {name!r} has come before in this file; give each row its own")
        return name, chosen

    def _digest(self, text: str) -> str:
        """An id for a row that has none; the second row with the same text has its own."""
        digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARACTERS]
        occurrence, name = 1, digest
        while name in self.ids:
            occurrence += 1
            name = f"{digest}-{occurrence}"
        return name

    def _kept(self, row: dict[str, Any], id_field: str | None) -> dict[str, Any]:
        if self.fields.metadata is not None:
            return {key: row[key] for key in self.fields.metadata if key in row}
        return {key: value for key, value in row.items() if key not in (self.fields.text, id_field)}

    def warn_of_unmet_fields(self) -> None:
        """A field that no row has is a slip of the pen, most likely."""
        unmet = [key for key in self.fields.metadata or () if key not in self.met]
        if unmet and self.met:
            log.warning("No row of %s has the metadata fields %s.", self.source, ", ".join(map(repr, unmet)))


def _parsed(line: bytes) -> dict[str, Any]:
    if _count_values(line) > _MOST_VALUES and _count_values(_STRING.sub(b"", line)) > _MOST_VALUES:
        raise _NoRow(f"more than {_MOST_VALUES:,} values; metadata can't be that much")
    try:
        row = json.loads(line.decode(), parse_constant=_refuse_constant, object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise _NoRow(f"not UTF-8 at byte {error.start} of the line") from error
    except json.JSONDecodeError as error:
        raise _NoRow(f"no JSON: {error.msg} at character {error.pos} of the line") from error
    except ValueError as error:  # an integer of thousands of digits
        raise _NoRow(f"no JSON that can be read: {error}") from error
    if not isinstance(row, dict):
        raise _NoRow(f"a JSON {type(row).__name__}; a row is an object with fields")
    return row


def _count_values(line: bytes) -> int:
    """Values at most, where no string has a sign that separates them."""
    return line.count(b",") + line.count(b"[") + line.count(b"{")


def _refuse_constant(name: str) -> NoReturn:
    raise _NoRow(f"{name} is no JSON; numbers are finite")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        (twice, _) = Counter(key for key, _ in pairs).most_common(1)[0]
        raise _NoRow(f"the field {twice!r} comes twice")
    return members


def _text_of(row: dict[str, Any], name: str) -> str:
    if name not in row:
        raise _NoRow(f"no text: the field {name!r} isn't there. {_fields_of(row)}")
    text = row[name]
    if not isinstance(text, str):
        raise _NoRow(f"the text in {name!r} is {_shown(text)}; it must be a string")
    if "\0" in text:
        raise _NoRow(f"the text in {name!r} holds a zero byte at character {text.index(chr(0))}")
    return check_text(text, "the row", f"the text in {name!r}")


def _checked_id(value: Any, name: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise _NoRow(f"the id in {name!r} is {_shown(value)}; it must be a string or an integer")
    checked = check_text(str(value), "the row", f"the id in {name!r}")
    if not checked or any(character < " " or "\x7f" <= character <= "\x9f" for character in checked):
        raise _NoRow(f"the id in {name!r} is {checked!r}; it must have characters, and no control characters")
    return checked


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _fields_of(row: dict[str, Any]) -> str:
    names = ", ".join(map(repr, list(row)[:_SHOWN_FIELDS]))
    return f"Fields of this row: {names}{', ...' if len(row) > _SHOWN_FIELDS else ''}" if names else "This row has no fields"


def _content_hash(text: str, metadata: dict[str, Any]) -> str:
    canonical = json.dumps({"text": text, "metadata": metadata}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
