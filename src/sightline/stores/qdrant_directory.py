"""Which directories qdrant-client's local mode may open: it unpickles what it finds, so only those that bear our mark."""

from __future__ import annotations

import json
import os
from pathlib import Path

from sightline.errors import StoreError, UsageError
from sightline.stores.locks import LOCK_NAME

MARK_NAME = "sightline-qdrant.json"
_TEMPORARY = f"{MARK_NAME}.tmp"
_FORMAT = 1
_META_NAME = "meta.json"


def is_marked(directory: Path, url: str) -> bool:
    """Whether the directory holds a database of ours; False where there is none yet.

    Raises:
        UsageError: something else lies there.
        StoreError: the mark is another version's, or can't be read.
    """
    try:
        data = json.loads((directory / MARK_NAME).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        _refuse_contents(directory, url)
        return False
    except (OSError, ValueError) as error:
        raise StoreError(f"{directory / MARK_NAME} can't be read: {error}. Restore it, or use a new directory.") from error
    found = data.get("format") if isinstance(data, dict) else None
    if found != _FORMAT:
        raise StoreError(
            f"{directory / MARK_NAME} says format {found!r}; this Sightline knows {_FORMAT}. Upgrade with:"
            " pip install --upgrade sightline, or index again into a new directory."
        )
    return True


def write_mark_file(directory: Path, url: str) -> None:
    """Mark an empty directory as ours, at once and for good."""
    temporary = directory / _TEMPORARY
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump({"format": _FORMAT}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, directory / MARK_NAME)
    except OSError as error:
        raise StoreError(f"The directory of {url} can't be written: {error}. Give a writable directory.") from error


def remove_half_made(directory: Path) -> None:
    """Remove the empty list of collections that a start killed at its first write left; the client couldn't read it."""
    meta = directory / _META_NAME
    if meta.is_file() and meta.stat().st_size == 0:
        meta.unlink()


def _refuse_contents(directory: Path, url: str) -> None:
    if not directory.exists():
        return
    if not directory.is_dir():
        raise UsageError(f"{url} lies in {directory}, which is a file; give a directory that is new or empty.")
    others = sorted(entry.name for entry in directory.iterdir() if entry.name not in (LOCK_NAME, _TEMPORARY))
    if not others:
        return
    more = ", ..." if len(others) > 3 else ""
    hint = " qdrant-client's local mode unpickles what it opens, so data from elsewhere is not opened." * (_META_NAME in others)
    raise UsageError(
        f"The directory of {url} holds something that Sightline didn't make ({', '.join(others[:3])}{more}).{hint}"
        " Give one that is new or empty."
    )
