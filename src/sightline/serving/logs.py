"""Logs as JSON, a line each, on stderr. They say what happened and how long it took, never a text."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import orjson

from sightline.keys import hide_keys

_LOGGERS = ("sightline", "uvicorn")


class JsonLines(logging.Handler):
    """A record's message, and what its `fields` say."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line. An error is told by its type and its place: its message may hold a text."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line["trace"] = [f"{one.filename}:{one.lineno} {one.name}" for one in traceback.extract_tb(record.exc_info[2])]
        sys.stderr.write(hide_keys(orjson.dumps(line, default=str).decode()) + "\n")
        sys.stderr.flush()


@contextmanager
def json_lines() -> Iterator[None]:
    """Sightline's and the web server's logs as JSON, instead of as they were; put back afterwards."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(one, one.handlers, one.level, one.propagate) for one in loggers]
    handler = JsonLines()
    for one in loggers:
        one.handlers, one.propagate = [handler], False
        one.setLevel(logging.INFO)
    try:
        yield
    finally:
        for one, handlers, level, propagate in before:
            one.handlers, one.propagate = handlers, propagate
            one.setLevel(level)
