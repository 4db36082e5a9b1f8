"""files -> documents, some files ahead: while the first of them is waited for, the next are parsed in other processes.

Every file comes out in its turn. Only files that need a parser of their own are looked at ahead of it; what the collection holds
already isn't parsed at all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from itertools import islice

from sightline.indexing.background import Stopped
from sightline.indexing.files import FoundFile
from sightline.indexing.jsonl import JsonlFields
from sightline.indexing.parsers import Parsers
from sightline.indexing.readers import Reading, apply, reader_of
from sightline.indexing.reading import LoadedFile, document_of, has_rows, loaded, row_contents
from sightline.types import Document, Head, SkippedFile

# How far to look for files that need a parser, and how many bytes of them may be held.
_FILES_AHEAD = 256
_BYTES_AHEAD = 128 * 2**20

IsKnown = Callable[[LoadedFile], Head | None]
Content = Document | SkippedFile | Head


def read_files(
    files: Sequence[FoundFile], fields: JsonlFields, parsers: Parsers, is_known: IsKnown
) -> Iterator[tuple[FoundFile, Iterable[Content]]]:
    """Each file with its documents, or why there are none, or its head where the collection holds it as it would be read today.

    Args:
        files: From `discover`.
        fields: Which fields of a jsonl row mean what.
        parsers: Where files are parsed that need a process of their own.
        is_known: Gives the head of what wouldn't change; called in this thread.

    Raises:
        MissingExtra: A file needs a parser that isn't installed.
        Stopped: The parsers were closed.
    """
    ahead = _Ahead(parsers, is_known)
    remaining = iter(files)
    while True:
        ahead.take(islice(remaining, _FILES_AHEAD - len(ahead.waiting)))
        if not ahead.waiting:
            return
        turn = ahead.next()
        contents = row_contents(turn.found, fields) if has_rows(turn.found) else (turn.content(is_known),)
        yield turn.found, contents


@dataclass(slots=True)
class _Waiting:
    """A file before its turn; `loaded` and `future` are there once it was handed to a parser."""

    found: FoundFile
    loaded: LoadedFile | SkippedFile | Head | None = None
    future: Future[Reading] | None = None

    def content(self, is_known: IsKnown) -> Content:
        """The file's document."""
        file = self.loaded or _load(self.found, is_known)
        if not isinstance(file, LoadedFile):
            return file
        future = self.future
        try:
            return document_of(file, lambda: future.result() if future else apply(file.reader, file.content, file.found.source))
        except CancelledError as error:
            raise Stopped from error


class _Ahead:
    """Files before their turn, some of which are being parsed."""

    def __init__(self, parsers: Parsers, is_known: IsKnown) -> None:
        self.waiting: deque[_Waiting] = deque()
        self._parsers = parsers
        self._is_known = is_known
        self._to_begin: deque[_Waiting] = deque()
        self._begun = 0
        self._held = 0

    def take(self, files: Iterable[FoundFile]) -> None:
        """Put files at the end of the line."""
        for found in files:
            file = _Waiting(found)
            self.waiting.append(file)
            if _is_isolated(found):
                self._to_begin.append(file)

    def next(self) -> _Waiting:
        """The file whose turn it is; parsers are given as many of those behind it as is worth it."""
        turn = self.waiting.popleft()
        if self._to_begin and self._to_begin[0] is turn:
            self._begin()
        if turn.future is not None:
            self._begun -= 1
            self._held -= turn.found.size
        while self._to_begin and self._has_room(self._to_begin[0]):
            self._begin()
        return turn

    def _has_room(self, file: _Waiting) -> bool:
        return self._begun < self._parsers.depth and self._held + file.found.size <= _BYTES_AHEAD

    def _begin(self) -> None:
        """Hand the next file to a parser, unless nothing has to be parsed."""
        file = self._to_begin.popleft()
        file.loaded = _load(file.found, self._is_known)
        if isinstance(file.loaded, LoadedFile):
            file.future = self._parsers.submit(file.loaded)
            self._begun += 1
            self._held += file.found.size


def _load(found: FoundFile, is_known: IsKnown) -> LoadedFile | SkippedFile | Head:
    """A file's bytes, or what makes them needless."""
    file = loaded(found)
    return file if isinstance(file, SkippedFile) else is_known(file) or file


def _is_isolated(found: FoundFile) -> bool:
    reader = reader_of(found.path.suffix)
    return reader is not None and reader.isolated
