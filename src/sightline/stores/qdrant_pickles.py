"""What qdrant-client's local mode would unpickle, looked through first: a pickle can run any code.

The client keeps each point as a pickle in SQLite, and names the directories of its collections in a JSON file. One that Sightline
filled has points of plain data in directories below its own; anything else is refused before the client sees it.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sightline.errors import StoreError

_META_NAME = "meta.json"
# As the client lays them out: DIR/collection/NAME/storage.sqlite.
_COLLECTIONS, _STORAGE = "collection", "storage.sqlite"
_NAME = re.compile(r"[^./\\\0][^/\\\0]*")
_POINT = ("qdrant_client.http.models.models", "PointStruct")


class _PlainData(pickle.Unpickler):
    """Unpickles points of numbers and texts; asks for nothing else by name, so it runs nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) != _POINT:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def refuse_code(directory: Path, url: str) -> None:
    """Raise StoreError where opening a local database would run what somebody put into it, or would lead out of its directory."""
    try:
        for name in _names(directory):
            if not _NAME.fullmatch(name):
                raise ValueError(f"a collection is called {name!r}")
            for row in _rows(directory / _COLLECTIONS / name / _STORAGE):
                _PlainData(io.BytesIO(row)).load()
    # A broken pickle can raise anything; whatever it is, the client would meet it too.
    except Exception as error:
        raise StoreError(
            f"{url} can't be opened: it holds what qdrant-client's local mode never wrote for Sightline "
            f"({type(error).__name__}: {error}). It is damaged, or made to run code where it is opened; don't open it otherwise."
        ) from error


def _names(directory: Path) -> list[str]:
    meta = directory / _META_NAME
    if not meta.is_file():
        return []
    return list(json.loads(meta.read_text(encoding="utf-8"))["collections"])


def _rows(storage: Path) -> Iterator[bytes]:
    if not storage.is_file():
        return
    # A writer that was killed leaves a journal, which only who may write can roll back.
    mode = "rw" if storage.with_name(f"{storage.name}-journal").exists() else "ro"
    with closing(sqlite3.connect(f"file:{quote(str(storage))}?mode={mode}", uri=True)) as database:
        kinds = database.execute("SELECT type, sql FROM sqlite_master WHERE name = 'points'").fetchall()
        if kinds and (kinds[0][0] != "table" or "virtual" in str(kinds[0][1]).lower()):
            raise ValueError("its points are no table")
        for (row,) in database.execute("SELECT point FROM points") if kinds else ():
            yield bytes(row)
