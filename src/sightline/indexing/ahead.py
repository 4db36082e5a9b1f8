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
    waiting: deque[_Waiting] = deque()
    remaining = iter(files)
    while True:
        for file in islice(remaining, _FILES_AHEAD - len(waiting)):
            waiting.append(_Waiting(file, _is_isolated(file)))
        if not waiting:
            return
        _begin(waiting, parsers, is_known)
        turn = waiting.popleft()
        if has_rows(turn.found):
            yield turn.found, row_contents(turn.found, fields)
        else:
            yield turn.found, (turn.content(is_known),)


@dataclass(slots=True)
class _Waiting:
    """A file before its turn; `loaded` and `future` are there once it was handed to a parser."""

    found: FoundFile
    is_isolated: bool
    is_begun: bool = False
    loaded: LoadedFile | SkippedFile | Head | None = None
    future: Future[Reading] | None = None

    @property
    def held(self) -> int:
        """Bytes that wait in memory."""
        return len(self.loaded.data) if isinstance(self.loaded, LoadedFile) else 0

    def load(self, is_known: IsKnown) -> LoadedFile | SkippedFile | Head:
        """The file's bytes, or what makes them needless."""
        file = loaded(self.found)
        return file if isinstance(file, SkippedFile) else is_known(file) or file

    def content(self, is_known: IsKnown) -> Content:
        """The file's document."""
        file = self.loaded or self.load(is_known)
        if not isinstance(file, LoadedFile):
            return file
        future = self.future
        try:
            return document_of(file, lambda: future.result() if future else apply(file.reader, file.content, file.found.source))
        except CancelledError as error:
            raise Stopped from error


def _begin(waiting: Iterable[_Waiting], parsers: Parsers, is_known: IsKnown) -> None:
    """Hand files to parsers as far as is worth it; the first in line in any case."""
    begun = [file for file in waiting if file.future is not None]
    count, held = len(begun), sum(file.held for file in begun)
    for number, file in enumerate(waiting):
        if not file.is_isolated or file.is_begun:
            continue
        if number and (count >= parsers.depth or held + file.found.size > _BYTES_AHEAD):
            return
        file.is_begun = True
        file.loaded = file.load(is_known)
        if isinstance(file.loaded, LoadedFile):
            file.future = parsers.submit(file.loaded)
            count, held = count + 1, held + file.held


def _is_isolated(found: FoundFile) -> bool:
    reader = reader_of(found.path.suffix)
    return reader is not None and reader.isolated
