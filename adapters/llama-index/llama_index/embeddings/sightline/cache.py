"""LlamaIndex's `embeddings_cache`, with a collection of its own for each role and model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from llama_index.core.base.embeddings.base import Embedding
from llama_index.core.storage.kvstore.types import BaseKVStore

_KEY = "embedding"


class NamespacedCache:
    """What was embedded before, in the user's key-value store.

    LlamaIndex itself keys it by the bare text, so that a query is answered with the vector of the same text as a document, and
    with that of any other model that ever used the store.
    """

    def __init__(self, store: BaseKVStore, namespace: str) -> None:
        self._store = store
        self._namespace = namespace

    def get(self, texts: Sequence[str]) -> dict[str, Embedding]:
        """The vectors of those texts that are there."""
        return _found((text, self._store.get(text, collection=self._namespace)) for text in dict.fromkeys(texts))

    def put(self, vectors: Mapping[str, Embedding]) -> None:
        """Keep vectors by their texts."""
        for text, vector in vectors.items():
            self._store.put(text, {_KEY: vector}, collection=self._namespace)

    async def aget(self, texts: Sequence[str]) -> dict[str, Embedding]:
        """As `get`."""
        return _found([(text, await self._store.aget(text, collection=self._namespace)) for text in dict.fromkeys(texts)])

    async def aput(self, vectors: Mapping[str, Embedding]) -> None:
        """As `put`."""
        for text, vector in vectors.items():
            await self._store.aput(text, {_KEY: vector}, collection=self._namespace)


def _found(entries: Iterable[tuple[str, Mapping[str, Embedding] | None]]) -> dict[str, Embedding]:
    return {text: entry[_KEY] for text, entry in entries if entry is not None}
