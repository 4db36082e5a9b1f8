"""The command line: parse, call one library function, draw. Data goes to stdout, everything else to stderr."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

from sightline import __version__
from sightline.cli.adopt import adopt
from sightline.cli.copy import copy
from sightline.cli.dimensions import dimensions
from sightline.cli.doctor import doctor
from sightline.cli.embed import embed
from sightline.cli.formats import formats
from sightline.cli.index import index
from sightline.cli.inspect import inspect
from sightline.cli.output import echo
from sightline.cli.plan import plan
from sightline.cli.remove import remove
from sightline.cli.search import search
from sightline.cli.serve import serve
from sightline.cli.signals import Signals, exit_code
from sightline.errors import SightlineError

# As in BSD's sysexits: Python's own 1 would say that some documents couldn't be read.
_FAULT = 70
_EPILOG = """\
\b
Start here:
  sightline index docs --into edge:./kb
  sightline search "how do I reset my password?" --in edge:./kb

\b
Exit codes: 0 done; 1 some documents could not be read; 2 usage or configuration;
3 the collection was made by another model; 4 the store failed or can't be reached; 70 a fault of Sightline;
130 interrupted; 143 terminated.
"""


class _ReaderLeft(Exception):
    """Who read our output has seen enough, as in `sightline embed ... | head`. Click would take it for a failure."""


class _Commands(click.Group):
    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except BrokenPipeError as error:
            raise _ReaderLeft from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.version_option(__version__, prog_name="sightline")
def cli() -> None:
    """Turn a folder of documents into a collection that is searched by meaning."""


for _command in (index, search, inspect, remove, dimensions, adopt, copy, embed, formats, plan, serve, doctor):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit; an error that is Sightline's own shows its message and no traceback."""
    handler = _Stderr(logging.WARNING)
    logging.getLogger("sightline").addHandler(handler)
    signals = Signals()
    try:
        with signals:
            code = _run(arguments)
    except KeyboardInterrupt as error:  # in the last moment
        code = exit_code(error)
    finally:
        logging.getLogger("sightline").removeHandler(handler)
    signals.leave(code)


def _run(arguments: Sequence[str] | None) -> int:
    """Run the command line; gives the exit code."""
    try:
        code = cli.main(args=arguments, prog_name="sightline", standalone_mode=False)
        sys.stdout.flush()
    except SightlineError as error:
        return _failed(f"Error: {error}", error.exit_code)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort as error:
        return _failed("Interrupted.", exit_code(error.__cause__))
    except (_ReaderLeft, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit
        return 0
    except Exception:  # noqa: BLE001 - whatever it is, it is shown whole
        echo(traceback.format_exc(), err=True)
        return _failed("This is a fault of Sightline; please report it with the lines above. What was written stays.", _FAULT)
    return code if isinstance(code, int) else 0


def _failed(message: str, code: int) -> int:
    echo(message, err=True)
    return code


class _Stderr(logging.Handler):
    """The library's warnings; looked up at each one, because a live display takes stderr over while it draws."""

    def emit(self, record: logging.LogRecord) -> None:
        echo(f"Warning: {record.getMessage()}", err=True)
