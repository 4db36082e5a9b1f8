"""The directory of an Edge collection: its manifest, its only writer, and its shards.

`sightline.json` names the shard that is current, and the one that a rebuild fills beside it, each with length, contract and mark.
It is replaced at once, so a reader sees one state or the next. A shard that it doesn't name is what something killed left.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sightline.errors import StoreError, UsageError
from sightline.stores.checks import collection_exists, make_directory
from sightline.stores.locks import LOCK_NAME, DirectoryLock
from sightline.stores.room import disk_full, is_full
from sightline.stores.turns import Turn
from sightline.types import Quantization, VectorLayout, VectorStorage

MANIFEST_NAME = "sightline.json"
_TEMPORARY_NAME = "sightline.json.tmp"
# A manifest whose collections have nothing but vectors of one length in float32 is written as format 1, which older ones read.
_PLAIN_FORMAT, _FORMAT = 1, 2
_SHARD = re.compile(r"shard-[0-9a-f]{12}")
_BESIDE_SHARD = re.compile(r"shard-[0-9a-f]{12}\.(lock|wanted)")
# Where an optimisation that was killed leaves its half-made segments for ever.
_TEMPORARY_SEGMENTS = "temp_segments"


@dataclass(frozen=True, slots=True)
class Entry:
    """One collection of the directory; `leaving` are lengths that the layout has no more and the shard may still have."""

    shard: str
    layout: VectorLayout
    contract: Mapping[str, Any]
    mark: Mapping[str, Any] = field(default_factory=dict)
    leaving: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """The collection that readers see, and the one that a rebuild fills."""

    current: Entry
    staging: Entry | None = None


class EdgeDirectory:
    """Reads and changes the manifest; one for a store and the staging store beside it."""

    def __init__(self, url: str, path: Path) -> None:
        self.url = url
        self.path = path
        self._lock = DirectoryLock(path)
        self.guard = threading.RLock()
        self._seen: tuple[tuple[int, int, int], Manifest] | None = None

    @property
    def is_writer(self) -> bool:
        """Whether this process is the only writer."""
        return self._lock.is_held

    def manifest(self) -> Manifest | None:
        """The manifest as it is now; read again only when the file is another one."""
        path = self.path / MANIFEST_NAME
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreError(f"{path} can't be read: {error}. Check the permissions of its directory.") from error
        signature = (status.st_mtime_ns, status.st_ino, status.st_size)
        seen = self._seen
        if seen is None or seen[0] != signature:
            self._seen = seen = (signature, _read(path))
        return seen[1]

    def acquire(self) -> None:
        """Become the only writer of a directory that holds a collection, and clear away what a killed one left."""
        with self.guard:
            if not self._lock.is_held:
                self._lock.acquire(self.url)
                self._tidy()

    def release(self) -> None:
        """Let the next writer in."""
        with self.guard:
            self._lock.release()

    def prepare(self) -> None:
        """Take a new or empty directory for a collection.

        Raises:
            UsageError: it holds something else, or can't be made.
            StoreError: it holds a collection already.
            StoreLocked: another process is at it.
        """
        with self.guard:
            self._refuse_contents()
            make_directory(self.path, self.url)
            self._lock.acquire(self.url)
            try:
                self._refuse_contents()  # again: now nobody else can be making it
                self._tidy()
            except BaseException:
                self._lock.release()
                raise

    @contextmanager
    def changing(self) -> Iterator[Callable[[Manifest], None]]:
        """Hold what may change the manifest; gives what replaces it."""
        with self.guard:
            yield self._write

    def turn(self, shard: str, guard: threading.RLock, give_up: Callable[[], None]) -> Turn:
        """The right to have a shard open."""
        return Turn(self.path / shard, self.url, guard, give_up)

    def remove_shard(self, shard: str) -> None:
        """Remove a shard that the manifest no longer names, when the readers who have it open have given it up."""
        turn = self.turn(shard, threading.RLock(), lambda: None)
        turn.take()
        try:
            shutil.rmtree(self.path / shard, ignore_errors=True)
            for ending in (".lock", ".wanted"):
                (self.path / f"{shard}{ending}").unlink(missing_ok=True)
        finally:
            turn.release()

    def _write(self, manifest: Manifest) -> None:
        """Replace the manifest at once and for good: after a crash there is the old one or the new one, never half of one."""
        temporary = self.path / _TEMPORARY_NAME
        entries = {"current": manifest.current, "staging": manifest.staging}
        is_plain = all(entry is None or entry.layout == VectorLayout(entry.layout.dimensions) for entry in entries.values())
        content: dict[str, Any] = {"format": _PLAIN_FORMAT if is_plain else _FORMAT}
        content |= {key: None if entry is None else _entry_json(entry) for key, entry in entries.items()}
        try:
            temporary.unlink(missing_ok=True)  # a link of that name would lead elsewhere
            with temporary.open("x", encoding="utf-8") as file:
                json.dump(content, file, ensure_ascii=True, indent=1)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path / MANIFEST_NAME)
            if os.name == "posix":  # elsewhere a directory can't be opened
                descriptor = os.open(self.path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        except OSError as error:
            if is_full(error):
                raise disk_full(self.url, self.path) from error
            raise StoreError(f"{self.path / MANIFEST_NAME} can't be written: {error}.") from error

    def _tidy(self) -> None:
        """Remove shards that the manifest doesn't name, and what an optimisation left; nobody else writes here now."""
        manifest = self.manifest()
        named = set() if manifest is None else {entry.shard for entry in (manifest.current, manifest.staging) if entry}
        orphans = set()
        for entry in self.path.iterdir():
            if _is_of_shard(entry.name) and entry.name.partition(".")[0] not in named:
                orphans.add(entry.name.partition(".")[0])
        for name in orphans:
            self.remove_shard(name)
        for name in named:
            for half_made in (self.path / name / _TEMPORARY_SEGMENTS).glob("*"):
                shutil.rmtree(half_made, ignore_errors=True)

    def _refuse_contents(self) -> None:
        if self.manifest() is not None:
            raise collection_exists(self.url)
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise UsageError(f"{self.url} names a file ({self.path}); give a directory that is new or empty.")
        names = sorted(entry.name for entry in self.path.iterdir())
        ours = LOCK_NAME in names
        foreign = [name for name in names if not (ours and _is_half_made(name))]
        if foreign:
            raise UsageError(
                f"The directory of {self.url} holds something else ({', '.join(foreign[:3])}{', ...' * (len(foreign) > 3)});"
                " give one that is new or empty."
            )


def new_shard_name() -> str:
    """A name that no shard has."""
    return f"shard-{uuid.uuid4().hex[:12]}"


def _is_half_made(name: str) -> bool:
    if name in (LOCK_NAME, _TEMPORARY_NAME):
        return True
    return _is_of_shard(name)


def _is_of_shard(name: str) -> bool:
    return _SHARD.fullmatch(name) is not None or _BESIDE_SHARD.fullmatch(name) is not None


def _read(path: Path) -> Manifest:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} can't be read: {error}. Restore it, or index again into a new directory.") from error
    version = data.get("format") if isinstance(data, dict) else None
    if isinstance(version, int) and not _PLAIN_FORMAT <= version <= _FORMAT:
        what = "Upgrade with: pip install --upgrade sightline" if version > _FORMAT else "Index again into a new directory."
        raise StoreError(f"{path} has format {version}; this Sightline reads formats {_PLAIN_FORMAT} to {_FORMAT}. {what}")
    try:
        staging = data["staging"]
        return Manifest(_entry(data["current"]), None if staging is None else _entry(staging))
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"{path} is not a manifest that Sightline wrote. Restore it, or index again into a new directory."
        ) from error


def _entry_json(entry: Entry) -> dict[str, Any]:
    """An entry as JSON data; what its layout says beyond the length stands under one key, where it says anything."""
    layout = entry.layout
    data: dict[str, Any] = {"shard": entry.shard, "dimensions": layout.dimensions}
    if entry.leaving or layout != VectorLayout(layout.dimensions):
        leaving = {"leaving": entry.leaving} if entry.leaving else {}
        data["layout"] = {
            "shorter": layout.shorter, "quantization": layout.quantization, "storage": layout.storage, **leaving,
        }  # fmt: skip
    return {**data, "contract": entry.contract, "mark": entry.mark}


def _entry(data: Mapping[str, Any]) -> Entry:
    more = data.get("layout", {})
    layout = _layout(data["dimensions"], more)
    given = {key: value for key, value in data.items() if key not in ("dimensions", "layout", "leaving")}
    entry = Entry(layout=layout, leaving=tuple(more.get("leaving", ())), **given)
    fits = isinstance(entry.contract, dict) and isinstance(entry.mark, dict)
    fits = fits and all(isinstance(one, int) for one in entry.leaving)
    # A name, never a path: a manifest from elsewhere must not lead out of its directory.
    if not fits or not isinstance(entry.shard, str) or not _SHARD.fullmatch(entry.shard):
        raise ValueError("an entry of another shape")
    return entry


def _layout(dimensions: Any, more: Any) -> VectorLayout:
    if not isinstance(more, dict):
        raise ValueError("a layout of another shape")
    quantization = more.get("quantization")
    layout = VectorLayout(
        dimensions,
        tuple(more.get("shorter", ())),
        None if quantization is None else Quantization(quantization),
        VectorStorage(more.get("storage", VectorStorage.FLOAT32)),
    )
    if not all(isinstance(one, int) for one in layout.lengths):
        raise ValueError("lengths that are no numbers")
    return layout
