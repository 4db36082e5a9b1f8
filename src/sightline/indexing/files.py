"""paths -> roots -> files: what is found, and what each file is called.

A source is `root-name/relative/posix/path`. A root's name is the folder's own unless the caller gives one; a file named by itself
is called as if its folder had been named, and is always read. Left out by convention: names that begin with a dot, and files of
a suffix that has no reader inside a folder. Left out by choice, and counted: what ignore files and globs say. Links
are followed, also out of the root; a folder that several links lead to is read once. Everything else that can't be read comes
back as a `SkippedFile` with its reason.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sightline.errors import UsageError
from sightline.indexing.ignoring import IGNORE_FILES, Rules, ignore_lines
from sightline.indexing.readers import is_readable, named_suffixes
from sightline.metadata import ROW_ROOT
from sightline.types import SkippedFile

_LOOK_AGAIN = "check that it still exists and may be read, then run again"
_WRITTEN_OUT = "another file has the name that its bytes, which aren't UTF-8, are written out as; rename it"
_NO_FILE = "not a regular file (a pipe, socket or device)"


@dataclass(frozen=True, slots=True)
class Root:
    """What the caller named: a folder, or a file by itself. `name` is what its sources begin with."""

    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class Selection:
    """Which files below a folder count.

    Args:
        include: Globs as in .gitignore, relative to the root, of which a file must meet one; none takes all readable kinds.
        exclude: Globs of what is left out, whatever else is said.
        ignore_files: Obey .gitignore and .sightlineignore, at the root and below it.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    ignore_files: bool = True


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file that is to be read, the source that it is called by, and its size in bytes."""

    path: Path
    source: str
    size: int


@dataclass(frozen=True, slots=True)
class Discovered:
    """What lies below the roots.

    Args:
        files: In the order of their sources.
        skipped: Files and folders that can't be read; what was indexed below such a source is not gone.
        ignored: How many files, and folders with all that is in them, the selection left out.
        scopes: Sources that were looked through: a root's name, or the source of a file named by itself.
    """

    files: tuple[FoundFile, ...]
    skipped: tuple[SkippedFile, ...]
    ignored: int
    scopes: tuple[str, ...]


_EVERYTHING = Selection()


def roots_of(paths: Sequence[str | Path], named: Mapping[str, str | Path] | None = None) -> list[Root]:
    """Roots of paths, by the names of their folders, and of paths that the caller gave a name.

    Raises:
        UsageError: A name that can't begin a source.
    """
    if isinstance(paths, (str, Path)):
        raise UsageError(f"paths is a list of files and folders; got {paths!r}. Write [{str(paths)!r}].")
    given = [Root(_checked_name(name), _absolute(path)) for name, path in (named or {}).items()]
    return [_named_by_itself(path) for path in paths] + given


def discover(roots: Sequence[Root], selection: Selection = _EVERYTHING, *, empty_ok: bool = False) -> Discovered:
    """Files below the given folders, and the given files themselves.

    Args:
        roots: From `roots_of`.
        selection: Which files below a folder count.
        empty_ok: A folder without a readable file is no error, for who removes what vanished.

    Raises:
        UsageError: A path doesn't exist, holds no readable file, or two files would be called by the same source.
    """
    if not roots:
        raise UsageError("No path was given; name at least one folder or file.")
    listing = _Listing()
    rules = Rules.of_globs(selection.include, selection.exclude)
    for root in roots:
        _look_through(root, listing, rules, obey=selection.ignore_files, empty_ok=empty_ok)
    return listing.discovered()


@dataclass(slots=True)
class _Listing:
    """What was found so far, by its source."""

    files: dict[str, FoundFile] = field(default_factory=dict)
    skipped: dict[str, SkippedFile] = field(default_factory=dict)
    ignored: int = 0
    scopes: dict[str, None] = field(default_factory=dict)
    met: int = 0

    def add(self, path: str, source: str, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            self.skip(source, _NO_FILE)
            return
        self.met += 1
        known = self.files.get(source)
        if known is not None and not _is_same_file(known, path):
            if _is_written_out(path):
                self.skip(source, _WRITTEN_OUT)
                return
            if not _is_written_out(str(known.path)):
                raise _namesake(known, path)
            self.skip(source, _WRITTEN_OUT)
        self.files[source] = FoundFile(Path(path), source, status.st_size)

    def skip(self, source: str, reason: str) -> None:
        self.met += 1
        self.skipped[source] = SkippedFile(source, reason)

    def discovered(self) -> Discovered:
        files = tuple(self.files[source] for source in sorted(self.files))
        return Discovered(files, tuple(self.skipped[source] for source in sorted(self.skipped)), self.ignored, tuple(self.scopes))


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder to be looked at; `relative` is empty for the root and else ends in a slash."""

    path: str
    relative: str
    rules: Rules


@dataclass(slots=True)
class _Walk:
    """Folders still to be looked at. Links come last, so that a folder is read under its own name rather than a link's."""

    name: str
    obey: bool
    folders: list[_Folder]
    links: list[_Folder] = field(default_factory=list)
    seen: set[tuple[int, int]] = field(default_factory=set)

    def next(self) -> _Folder:
        """The next folder."""
        return self.folders.pop() if self.folders else self.links.pop(0)

    def source(self, relative: str) -> str:
        """What a file or folder is called."""
        return f"{self.name}/{_readable(relative)}".rstrip("/")


def _look_through(root: Root, listing: _Listing, rules: Rules, *, obey: bool, empty_ok: bool) -> None:
    """List what lies at a path that the caller named."""
    try:
        status = root.path.stat()
    except FileNotFoundError as error:
        raise UsageError(f"{str(root.path)!r} doesn't exist. Check the spelling, or whether it is mounted.") from error
    except OSError as error:
        what = f"{str(root.path)!r} can't be read: {error.strerror}"
        raise UsageError(f"{what}. Name a folder or file that may be read.") from error
    if not stat.S_ISDIR(status.st_mode):
        _list_file(root, listing, status)
        return
    met, ignored = listing.met, listing.ignored
    listing.scopes[root.name] = None
    _walk(_Walk(root.name, obey, [_Folder(str(root.path), "", rules)]), listing)
    if listing.met == met and not empty_ok:
        raise UsageError(_nothing_in(root, listing.ignored - ignored))


def _nothing_in(root: Root, ignored: int) -> str:
    if ignored:
        return (
            f"{str(root.path)!r} holds no file that can be read: {ignored:,} files and folders in it are left out by ignore "
            "files or globs. Change those, or name the files themselves."
        )
    return f"{str(root.path)!r} holds no file that can be read. Read are: {named_suffixes()}."


def _list_file(root: Root, listing: _Listing, status: os.stat_result) -> None:
    source = f"{root.name}/{_readable(root.path.name)}"
    listing.scopes[source] = None
    if _is_readable_kind(root.path.name):
        listing.add(str(root.path), source, status)
    else:
        kind = root.path.suffix or root.path.name
        listing.skip(source, f"no reader for {kind!r}; read are: {named_suffixes()}")


def _walk(walk: _Walk, listing: _Listing) -> None:
    while walk.folders or walk.links:
        folder = walk.next()
        try:
            status = os.stat(folder.path)
            if (status.st_dev, status.st_ino) in walk.seen:
                continue
            walk.seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder.path) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except OSError as error:
            listing.skip(walk.source(folder.relative), f"the folder can't be read: {error.strerror}; {_LOOK_AGAIN}")
            continue
        try:
            rules = _rules_in(folder, entries, walk) if walk.obey else folder.rules
        except OSError as error:
            # Without its rules, what was meant to stay out would be let in.
            listing.skip(walk.source(folder.relative), f"its ignore file can't be read: {error.strerror}; {_LOOK_AGAIN}")
            continue
        _list(entries, folder, rules, walk, listing)


def _rules_in(folder: _Folder, entries: Iterable[os.DirEntry[str]], walk: _Walk) -> Rules:
    own = {entry.name: entry.path for entry in entries if entry.name in IGNORE_FILES and entry.is_file()}
    if not own:
        return folder.rules
    lines = [line for name in IGNORE_FILES if name in own for line in ignore_lines(own[name])]
    return folder.rules.within(len(folder.relative), lines, walk.source(folder.relative))


def _list(entries: Iterable[os.DirEntry[str]], folder: _Folder, rules: Rules, walk: _Walk, listing: _Listing) -> None:
    for entry in entries:
        if entry.name.startswith("."):
            continue
        relative = folder.relative + entry.name
        try:
            if _is_folder(entry):
                _list_folder(entry, relative, rules, walk, listing)
            # A link that leads nowhere may have been a folder, whatever its name.
            elif _is_readable_kind(entry.name) or (entry.is_symlink() and not os.path.exists(entry.path)):
                if rules.drop_file(relative, entry.name):
                    listing.ignored += 1
                else:
                    listing.add(entry.path, walk.source(relative), entry.stat())
        except OSError as error:
            listing.skip(walk.source(relative), f"can't be read: {error.strerror}; {_LOOK_AGAIN}")


def _list_folder(entry: os.DirEntry[str], relative: str, rules: Rules, walk: _Walk, listing: _Listing) -> None:
    below = rules.below(relative, entry.name)
    if below is None:
        listing.ignored += 1
    else:
        (walk.links if entry.is_symlink() else walk.folders).append(_Folder(entry.path, f"{relative}/", below))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle is no folder; its status says why it can't be read
        return False


def _is_readable_kind(name: str) -> bool:
    return is_readable(os.path.splitext(name)[1])


def _readable(name: str) -> str:
    """A file name with the bytes that aren't UTF-8 written out."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")


def _is_written_out(path: str) -> bool:
    """Whether a path has bytes that aren't UTF-8: how its source writes them may be the plain name of another file."""
    try:
        os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError:
        return True
    return False


def _is_same_file(known: FoundFile, path: str) -> bool:
    return os.path.realpath(known.path) == os.path.realpath(path)


def _namesake(known: FoundFile, path: str) -> UsageError:
    return UsageError(
        f"Both {str(known.path)!r} and {path!r} would be called {known.source!r}. Give one of the two folders another name, e.g. "
        f"--root NAME={os.path.dirname(path)!r}, or name a folder that holds both."
    )


def _absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(path))


def _named_by_itself(path: str | Path) -> Root:
    """A root with the name of its folder."""
    absolute = _absolute(path)
    folder = absolute.parent if os.path.exists(absolute) and not os.path.isdir(absolute) else absolute
    if folder.name == ROW_ROOT:
        raise UsageError(f"The folder {str(folder)!r} has the name of added rows. Give it another: --root NAME={absolute}")
    if not folder.name:
        raise UsageError(f"{str(folder)!r} has no name that its files could be called by. Give it one: --root NAME={absolute}")
    return Root(_readable(folder.name), absolute)


def _checked_name(name: str) -> str:
    if not name.strip() or name in (".", "..", ROW_ROOT) or "/" in name or not name.isprintable():
        raise UsageError(
            f"{name!r} can't be the name of a root: it is what sources begin with, e.g. 'handbook', and holds no '/' and no "
            "control characters. Write --root NAME=PATH."
        )
    return name
