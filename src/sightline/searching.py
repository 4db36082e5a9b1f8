"""question -> instruction -> vector -> hits, with instruction and dimensions taken from the contract."""

from __future__ import annotations

from sightline.contract import Contract, embed_with_prompt
from sightline.errors import UsageError
from sightline.protocols import Embedder, InstructionLike, Store
from sightline.types import FloatArray, Hit


def search(
    store: Store, embedder: Embedder, contract: Contract, text: str, *, k: int = 10, instruction: InstructionLike = None
) -> list[Hit]:
    """The `k` chunks nearest to a question, best first.

    Args:
        store: An existing collection.
        embedder: One that meets the contract.
        contract: The collection's.
        text: The question.
        k: How many hits, at least 1.
        instruction: What the question looks with; None is the collection's own.
    """
    if isinstance(k, bool) or k < 1:
        raise UsageError(f"k={k!r} is out of range: a search returns at least 1 hit.")
    return store.search(query_vector(embedder, contract, text, instruction), limit=k)


def query_vector(embedder: Embedder, contract: Contract, text: str, instruction: InstructionLike = None) -> FloatArray:
    """The vector of a question as the collection is read: float32 `(dimensions,)`."""
    reading = contract.reading
    if instruction is None:
        vectors = embed_with_prompt(embedder, [text], reading.query_prompt, reading.dimensions)
    else:
        vectors = embedder.embed_queries([text], instruction=instruction, dimensions=reading.dimensions)
    row: FloatArray = vectors[0]
    return row
