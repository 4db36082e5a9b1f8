"""What LlamaIndex asks of a vector store, as one search of a collection."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llama_index.core.indices.query.embedding_utils import get_top_k_mmr_embeddings
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode

from llama_index.vector_stores.sightline.filters import to_filter
from sightline import Instruction
from sightline.errors import UsageError
from sightline.types import FloatArray, Hit

# How many candidates diversity chooses from, for each one that is wanted; as in LlamaIndex's other stores.
_PREFETCH_FACTOR = 4.0
_MMR_ARGUMENTS = ("mmr_threshold", "mmr_prefetch_factor", "mmr_prefetch_k")


@dataclass(frozen=True, slots=True)
class Diversity:
    """How the hits of a search are thinned out: 0 avoids what is alike, 1 looks at the question only."""

    threshold: float
    k: int


@dataclass(frozen=True, slots=True)
class Search:
    """A question, in words or as a vector, and what may answer it."""

    question: str | Sequence[float]
    instruction: str | Instruction | None
    k: int
    filter: Mapping[str, Any]
    diversity: Diversity | None


def to_search(query: VectorStoreQuery, arguments: Mapping[str, Any], *, prefers_vector: bool) -> Search:
    """What `query` and the retriever's `vector_store_kwargs` ask for.

    Raises:
        UsageError: Something that a collection can't answer; says what.
    """
    _check(query, arguments)
    question = _question(query, prefers_vector)
    instruction = arguments.get("instruction")
    if instruction is not None and not isinstance(question, str):
        raise UsageError("instruction= is for a question in words, but this query is a vector. Leave one of them out.")
    diversity = _diversity(query, arguments)
    return Search(
        question=question,
        instruction=instruction,
        k=query.similarity_top_k if diversity is None else _prefetch(query.similarity_top_k, arguments),
        filter=to_filter(query.filters, query.doc_ids or None),
        diversity=diversity,
    )


def diverse(hits: Sequence[Hit], vectors: Sequence[FloatArray], diversity: Diversity) -> list[Hit]:
    """The hits that LlamaIndex's maximal marginal relevance chooses, in its order; `vectors` are theirs."""

    def similarity(one: Any, other: Any) -> float:
        return hits[other].score if one is None else float(vectors[one] @ vectors[other])

    # Rows instead of vectors, and none for the question: how near it is to each hit is known already.
    _, chosen = get_top_k_mmr_embeddings(
        None,  # type: ignore[arg-type]
        list(range(len(hits))),  # type: ignore[arg-type]
        similarity_fn=similarity,
        similarity_top_k=diversity.k,
        mmr_threshold=diversity.threshold,
    )
    return [hits[row] for row in chosen]


def _check(query: VectorStoreQuery, arguments: Mapping[str, Any]) -> None:
    if query.mode not in (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.MMR):
        raise UsageError(f"The query mode {query.mode.value!r} isn't known to a collection; it searches by 'default' and 'mmr'.")
    if query.node_ids:
        raise UsageError(
            "A collection isn't searched by node_ids. Filter by metadata or doc_ids, or read the nodes with get_nodes. (An index "
            "that holds IndexNodes or ImageNodes passes theirs: make its retriever with VectorIndexRetriever(index), or put them "
            "into another index.)"
        )
    known = ("instruction", *_MMR_ARGUMENTS) if query.mode is VectorStoreQueryMode.MMR else ("instruction",)
    unknown = next((name for name in arguments if name not in known), None)
    if unknown is not None:
        modes = f"in mode 'mmr' also {', '.join(_MMR_ARGUMENTS)}"
        raise UsageError(f"A query in mode {query.mode.value!r} doesn't take {unknown!r}. It takes instruction, and {modes}.")


def _question(query: VectorStoreQuery, prefers_vector: bool) -> str | Sequence[float]:
    if query.query_embedding is not None and (prefers_vector or not query.query_str):
        return query.query_embedding
    if query.query_str is None:
        raise UsageError("The query has neither query_str nor query_embedding. Give the question as query_str.")
    return query.query_str


def _diversity(query: VectorStoreQuery, arguments: Mapping[str, Any]) -> Diversity | None:
    if query.mode is not VectorStoreQueryMode.MMR:
        return None
    threshold = arguments.get("mmr_threshold", query.mmr_threshold)
    if threshold is None:
        threshold = 0.5
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
        raise UsageError(f"mmr_threshold={threshold!r} is out of range: 0 avoids what is alike, 1 looks at the question only.")
    return Diversity(float(threshold), query.similarity_top_k)


def _prefetch(k: int, arguments: Mapping[str, Any]) -> int:
    explicit, factor = arguments.get("mmr_prefetch_k"), arguments.get("mmr_prefetch_factor")
    if explicit is not None and factor is not None:
        raise UsageError("mmr_prefetch_k and mmr_prefetch_factor both say how many candidates there are. Give one of them.")
    return max(k, explicit if explicit is not None else math.ceil(k * (_PREFETCH_FACTOR if factor is None else factor)))
