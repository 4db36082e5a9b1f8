"""question -> instruction -> vector -> (shortlist ->) hits, with instruction and dimensions taken from the contract."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from sightline.contract import ReadingDefaults, behind_prompt
from sightline.errors import UsageError
from sightline.metadata import known_id
from sightline.protocols import Embedder, InstructionLike, Store
from sightline.types import Filter, FloatArray, Hit, Shortlist


def search(
    store: Store,
    embedder: Embedder,
    reading: ReadingDefaults,
    text: str,
    *,
    k: int = 10,
    instruction: InstructionLike = None,
    filter: Filter | None = None,
    shortlist: Shortlist | None = None,
) -> list[Hit]:
    """The `k` chunks nearest to a question, best first.

    Args:
        store: An existing collection.
        embedder: One that meets its contract.
        reading: How the collection is read: query prompt and dimensions.
        text: The question.
        k: How many hits, at least 1.
        instruction: What the question looks with; None is the collection's own.
        filter: What the hits' metadata must hold.
        shortlist: How candidates are found by shorter vectors first, if at all.
    """
    check_k(k)
    return nearest(store, query_vector(embedder, reading, text, instruction), k=k, filter=filter, shortlist=shortlist)


async def asearch(
    store: Store,
    embedder: Embedder,
    reading: ReadingDefaults,
    text: str,
    *,
    k: int = 10,
    instruction: InstructionLike = None,
    filter: Filter | None = None,
    shortlist: Shortlist | None = None,
) -> list[Hit]:
    """As `search`; the event loop stays free, and questions that are asked at once share a batch."""
    check_k(k)
    vector = await aquery_vector(embedder, reading, text, instruction)
    return await asyncio.to_thread(nearest, store, vector, k=k, filter=filter, shortlist=shortlist)


def nearest(
    store: Store, vector: FloatArray, *, k: int, filter: Filter | None = None, shortlist: Shortlist | None = None
) -> list[Hit]:
    """The `k` chunks nearest to a vector; rows that were added have their callers' ids."""
    check_k(k)
    hits = store.search(vector, limit=k, filter=filter, shortlist=shortlist)
    return [replace(hit, id=known_id(hit.id, hit.source)) for hit in hits]


def query_vector(embedder: Embedder, reading: ReadingDefaults, text: str, instruction: InstructionLike = None) -> FloatArray:
    """The vector of a question as the collection is read: float32 `(dimensions,)`."""
    texts, looking = _looking(embedder, reading, text, instruction)
    row: FloatArray = embedder.embed_queries(texts, instruction=looking, dimensions=reading.dimensions)[0]
    return row


async def aquery_vector(
    embedder: Embedder, reading: ReadingDefaults, text: str, instruction: InstructionLike = None
) -> FloatArray:
    """As `query_vector`; the event loop stays free."""
    # Telling how to look may read the model's files.
    texts, looking = await asyncio.to_thread(_looking, embedder, reading, text, instruction)
    row: FloatArray = (await embedder.aembed_queries(texts, instruction=looking, dimensions=reading.dimensions))[0]
    return row


def check_k(k: int) -> None:
    """Raise UsageError unless `k` is a number of hits."""
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise UsageError(f"k={k!r} is out of range: a search returns at least 1 hit.")


def _looking(
    embedder: Embedder, reading: ReadingDefaults, text: str, instruction: InstructionLike
) -> tuple[list[str], InstructionLike]:
    """What to embed and with which instruction: the caller's, or the collection's own."""
    if instruction is not None:
        return [text], instruction
    return behind_prompt(embedder, [text], reading.query_prompt)
