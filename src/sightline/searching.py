"""question -> instruction -> vector -> hits, with instruction and dimensions taken from the contract."""

from __future__ import annotations

from sightline.contract import ReadingDefaults, embed_with_prompt
from sightline.errors import UsageError
from sightline.protocols import Embedder, InstructionLike, Store
from sightline.types import Filter, FloatArray, Hit


def search(
    store: Store,
    embedder: Embedder,
    reading: ReadingDefaults,
    text: str,
    *,
    k: int = 10,
    instruction: InstructionLike = None,
    filter: Filter | None = None,
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
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise UsageError(f"k={k!r} is out of range: a search returns at least 1 hit.")
    return store.search(query_vector(embedder, reading, text, instruction), limit=k, filter=filter)


def query_vector(embedder: Embedder, reading: ReadingDefaults, text: str, instruction: InstructionLike = None) -> FloatArray:
    """The vector of a question as the collection is read: float32 `(dimensions,)`."""
    if instruction is None:
        vectors = embed_with_prompt(embedder, [text], reading.query_prompt, reading.dimensions)
    else:
        vectors = embedder.embed_queries([text], instruction=instruction, dimensions=reading.dimensions)
    row: FloatArray = vectors[0]
    return row
