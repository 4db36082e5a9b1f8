"""What is shown: texts of documents, collections and servers are data, so they neither steer the terminal nor tell a key."""

from __future__ import annotations

import json
import re
from typing import Any

import click

from sightline.keys import hide_keys

_ODD = re.compile(r"[^\n -~]")


def echo(text: str = "", *, err: bool = False) -> None:
    """Show lines of text; what isn't printable (escape sequences, bidi overrides) is shown as its number."""
    shown = hide_keys(text) if err else text  # what goes to stdout is data, and stays as it is
    click.echo(_ODD.sub(lambda found: found[0] if found[0].isprintable() else repr(found[0])[1:-1], shown), err=err)


def plain(text: str) -> str:
    """Text on one line without control characters: a document must not steer the terminal."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def json_text(data: Any, *, indent: int | None = 2) -> str:
    """JSON text that can be read; what isn't printable stands in it as an escape, which means the same to any program."""
    return _ODD.sub(_escaped, json.dumps(data, ensure_ascii=False, indent=indent, default=str))


def _escaped(found: re.Match[str]) -> str:
    if found[0].isprintable():
        return found[0]
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{int.from_bytes(units[at : at + 2], 'big'):04x}" for at in range(0, len(units), 2))
