"""Documents cut in processes of their own, for an embedder that takes texts faster than one interpreter can cut them.

A GPU takes half a million tokens a second. Tokenising a document, finding its outline and cutting it takes a core 0.4 ms for each
chunk of 150 tokens, most of it with the interpreter's lock held, which the thread that feeds the device then waits for.
"""

from __future__ import annotations

import json
import threading
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import asdict
from functools import partial
from itertools import chain
from types import TracebackType
from typing import Any, Self

from sightline.errors import SightlineError, UsageError
from sightline.indexing.background import Stopped
from sightline.indexing.children import Child, Children, cores
from sightline.indexing.chunking import ChunkSettings, chunk, tokenized
from sightline.protocols import Embedder, TokensElsewhere
from sightline.types import Chunk, Document, TokenizedText

_MOST_PROCESSES = 4

# The chunks of a document, or the error that cutting it ends in.
MakeChunks = Callable[[], list[Chunk]]


class Cutters:
    """Cuts documents: in other processes where their embedder outruns this one, else here. A context manager.

    Args:
        embedder: Whose tokens they are cut by.
        settings: How long a chunk may be.
        elsewhere: False cuts here in any case.
    """

    def __init__(self, embedder: Embedder, settings: ChunkSettings, *, elsewhere: bool = True) -> None:
        self._embedder, self._settings = embedder, settings
        self._shipping = embedder if elsewhere and isinstance(embedder, TokensElsewhere) else None
        self._children: Children | None = None
        self._lock = threading.Lock()
        self._closed = False

    def cut(self, batches: Iterable[Sequence[Document]]) -> Iterator[list[tuple[Document, MakeChunks]]]:
        """Each batch in its turn with its documents' chunks. Nothing is begun, and no model looked at, before the first.

        Raises:
            SightlineError: A process ended.
            Stopped: This was closed.
        """
        remaining = iter(batches)
        first = next(remaining, None)
        if first is None:
            return
        recipe = None if self._shipping is None else self._shipping.tokens_elsewhere()
        every = chain([first], remaining)
        yield from map(self._here, every) if recipe is None else self._elsewhere(every, self._begin(recipe))

    def close(self) -> None:
        """End all processes."""
        with self._lock:
            self._closed = True
            children = self._children
        if children is not None:
            children.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _here(self, batch: Sequence[Document]) -> list[tuple[Document, MakeChunks]]:
        """Tokenised in this thread, and cut in the one that asks for the chunks."""
        every = zip(batch, tokenized(batch, self._embedder), strict=True)
        return [(document, partial(chunk, document, self._settings, self._embedder, tokens)) for document, tokens in every]

    def _elsewhere(
        self, batches: Iterable[Sequence[Document]], children: Children
    ) -> Iterator[list[tuple[Document, MakeChunks]]]:
        """Some batches ahead of the one that is waited for."""
        ahead: deque[tuple[Sequence[Document], Future[list[MakeChunks]]]] = deque()
        for batch in batches:
            ahead.append((batch, children.submit(partial(_cut, batch))))
            if len(ahead) > children.count + 1:
                yield _collected(*ahead.popleft())
        while ahead:
            yield _collected(*ahead.popleft())

    def _begin(self, recipe: Mapping[str, Any]) -> Children:
        arguments = (json.dumps(dict(recipe)), json.dumps(asdict(self._settings)))
        count = min(_MOST_PROCESSES, cores())
        with self._lock:
            if self._closed:
                raise Stopped
            self._children = Children("sightline.indexing.cutter_process", arguments, count, "sightline-cutter")
            return self._children


def _collected(batch: Sequence[Document], future: Future[list[MakeChunks]]) -> list[tuple[Document, MakeChunks]]:
    try:
        return list(zip(batch, future.result(), strict=True))
    except CancelledError as error:
        raise Stopped from error


def _cut(batch: Sequence[Document], child: Child) -> list[MakeChunks]:
    job = json.dumps([[document.text, document.format, document.source] for document in batch]).encode()
    answer = child.ask(job)
    ids = None if answer is None else child.receive()
    if answer is None or ids is None:
        child.kill()
        raise SightlineError(
            f"A process that cuts documents ended (exit code {child.exit_code}): {child.last_words() or 'it said nothing'}. "
            "What is committed stays; run the same command again."
        )
    tokens = array("i")
    tokens.frombytes(ids)
    made: list[MakeChunks] = []
    start = 0
    for document, found in zip(batch, json.loads(answer), strict=True):
        if "unusable" in found:
            made.append(partial(_refuse, UsageError(found["unusable"])))
        elif "too_deep" in found:
            made.append(partial(_refuse, RecursionError()))
        else:
            chunks = []
            for first, last, path, count, length, prompt_length in found["chunks"]:
                own = None if length is None else TokenizedText(tokens[start : start + length], prompt_length)
                chunks.append(Chunk(document.text[first:last], first, last, tuple(path), count, own))
                start += length or 0
            made.append(partial(list, chunks))
    return made


def _refuse(error: Exception) -> list[Chunk]:
    raise error
