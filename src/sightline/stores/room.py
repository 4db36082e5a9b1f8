"""Room on the disk of a store that lies in a directory."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from sightline.errors import DiskFull

# What SQLite, Rust and Python say where there is no room, or no more of a user's share.
_SIGNS = ("database or disk is full", "No space left on device", "Disk quota exceeded", "os error 28", "os error 122")
_LITTLE_BYTES = 4 * 2**20
_NUMBERS = {errno.ENOSPC, errno.EDQUOT} if hasattr(errno, "EDQUOT") else {errno.ENOSPC}


def check_room(url: str, directory: Path, needed: int) -> None:
    """Raise DiskFull unless so many bytes are free for files in `directory`, which exists."""
    if shutil.disk_usage(directory).free < needed:
        raise disk_full(url, directory, needed)


def is_full(error: BaseException) -> bool:
    """Whether an error says that there is no room."""
    return getattr(error, "errno", None) in _NUMBERS or any(sign in str(error) for sign in _SIGNS)


def has_little_room(directory: Path) -> bool:
    """Whether so little is free that a failure without a cause has it there."""
    return shutil.disk_usage(directory).free < _LITTLE_BYTES


def disk_full(url: str, directory: Path, needed: int | None = None) -> DiskFull:
    """The error of writing without room; `needed` is how many bytes are to be free, where that is known."""
    there = next(one for one in (directory, *directory.absolute().parents) if one.exists())
    free = f"{shutil.disk_usage(there).free / 1e6:,.2f} MB are free"
    wanted = "" if needed is None else f", and what is written next needs {needed / 1e6:,.2f} MB"
    return DiskFull(
        f"There is not enough room on the disk of {directory}, where {url} lies: {free}{wanted}. What was written stays."
        " Make room, then run the same command again: it goes on where this one stopped."
    )
