"""Links among a database's files: there are none in one that Sightline made.

A directory that came from elsewhere, unpacked from an archive for example, could lead by them to any file of whoever opens it: a
lock file is emptied, a temporary one written, a shard mapped into memory and changed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from sightline.errors import StoreError
from sightline.stores.locks import LOCK_NAME


def without_links(url: str, directory: Path, names: Sequence[str]) -> Path:
    """Return the directory of a database, which may be a link itself, and may not be there.

    Args:
        url: The store's, for messages.
        directory: Where the database is, or is to be.
        names: Globs of what belongs to it; the first is the file without which there is none.

    Raises:
        StoreError: One of its files, or its lock, is a link.
    """
    is_there = os.path.lexists(directory / names[0])  # else it is any folder, whose other files don't matter
    for name in (LOCK_NAME, *(names if is_there else ())):
        for entry in directory.glob(name):
            link = next(_links(entry), None)
            if link is not None:
                raise StoreError(
                    f"{url} can't be opened: {link} is a link, which no database of Sightline's has, and which may lead to "
                    "any file of yours. If you put it there, put the file itself there instead; if not, don't use this directory."
                )
    return directory


def _links(path: Path) -> Iterator[Path]:
    if path.is_symlink():
        yield path
    elif path.is_dir():
        with os.scandir(path) as entries:
            for entry in entries:
                yield from _links(Path(entry.path))
