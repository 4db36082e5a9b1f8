"""The four blocking and async calls of an embedder, written once over `submit`."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Self

from sightline.protocols import InstructionLike, Texts
from sightline.types import FloatArray, OnEmbeddingProgress, Priority, Role


class BaseEmbedder(ABC):
    """What an embedder inherits once it can `submit`. See `sightline.protocols.Embedder` for the meaning of each call."""

    @abstractmethod
    def submit(
        self,
        texts: Texts,
        *,
        role: Role,
        instruction: InstructionLike = None,
        dimensions: int | None = None,
        priority: Priority | None = None,
        on_progress: OnEmbeddingProgress | None = None,
    ) -> Future[FloatArray]:
        """Queue `texts`; the future gives float32 `(n, dimensions)`."""

    @abstractmethod
    def close(self) -> None:
        """Give back what is held. Closing twice is fine."""

    def embed_queries(
        self,
        texts: Texts,
        *,
        instruction: InstructionLike = None,
        dimensions: int | None = None,
        priority: Priority | None = None,
        on_progress: OnEmbeddingProgress | None = None,
    ) -> FloatArray:
        """Vectors of queries, float32 `(n, dimensions)`, unit norm, in input order."""
        return _wait(
            self.submit(
                texts, role=Role.QUERY, instruction=instruction, dimensions=dimensions, priority=priority, on_progress=on_progress
            )
        )

    def embed_documents(
        self,
        texts: Texts,
        *,
        instruction: InstructionLike = None,
        dimensions: int | None = None,
        priority: Priority | None = None,
        on_progress: OnEmbeddingProgress | None = None,
    ) -> FloatArray:
        """Vectors of documents, float32 `(n, dimensions)`, unit norm, in input order."""
        return _wait(
            self.submit(
                texts,
                role=Role.DOCUMENT,
                instruction=instruction,
                dimensions=dimensions,
                priority=priority,
                on_progress=on_progress,
            )
        )

    async def aembed_queries(
        self,
        texts: Texts,
        *,
        instruction: InstructionLike = None,
        dimensions: int | None = None,
        priority: Priority | None = None,
    ) -> FloatArray:
        """As `embed_queries`; the event loop stays free and cancelling the task drops the work."""
        return await self._awaited(
            partial(self.submit, texts, role=Role.QUERY, instruction=instruction, dimensions=dimensions, priority=priority)
        )

    async def aembed_documents(
        self,
        texts: Texts,
        *,
        instruction: InstructionLike = None,
        dimensions: int | None = None,
        priority: Priority | None = None,
    ) -> FloatArray:
        """As `embed_documents`; the event loop stays free and cancelling the task drops the work."""
        return await self._awaited(
            partial(self.submit, texts, role=Role.DOCUMENT, instruction=instruction, dimensions=dimensions, priority=priority)
        )

    @property
    def is_started(self) -> bool:
        """Whether `submit` only queues; before, it may import libraries and read files, which would hold up an event loop."""
        return True

    async def _awaited(self, submit: Callable[[], Future[FloatArray]]) -> FloatArray:
        future = submit() if self.is_started else await asyncio.to_thread(submit)
        return await asyncio.wrap_future(future)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _wait(future: Future[FloatArray]) -> FloatArray:
    try:
        return future.result()
    except BaseException:  # Ctrl-C in the caller: drop the work that nobody waits for any more
        future.cancel()
        raise
