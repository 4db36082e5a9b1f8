"""`sightline formats`: which files are read, and by what."""

from __future__ import annotations

import dataclasses
import shlex
from itertools import groupby

import click

from sightline import api
from sightline.cli.options import json_option
from sightline.cli.output import echo, json_text


@click.command(short_help="List which files are read.")
@json_option("the list")
def formats(as_json: bool) -> int:
    """List the readers with their versions, the suffixes of the files that each reads, and what would have to be installed.

    \b
    Examples:
      sightline formats
      sightline formats --json
    """
    found = api.formats()
    if as_json:
        echo(json_text([dataclasses.asdict(one) for one in found]))
        return 0
    rows = [(reader, [one.suffix for one in some]) for reader, some in groupby(found, lambda one: one.reader)]
    width = max(len(reader) for reader, _ in rows)
    missing = {one.reader: one.missing for one in found if one.missing}
    for reader, suffixes in rows:
        needs = f"  (needs {' and '.join(missing[reader])})" if reader in missing else ""
        echo(f"{reader:<{width}}  {' '.join(suffixes)}{needs}")
    if missing:
        echo(f"Install what is needed with: pip install {shlex.quote('sightline[files]')}", err=True)
    return 0
