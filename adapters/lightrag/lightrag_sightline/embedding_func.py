"""LightRAG's embedding function around an embedder of Sightline."""

from __future__ import annotations

import hashlib
from typing import Literal

from lightrag.utils import EmbeddingFunc
from sightline.errors import UsageError
from sightline.protocols import Embedder
from sightline.types import FloatArray


def as_embedding_func(embedder: Embedder) -> EmbeddingFunc:
    """What LightRAG takes as `embedding_func`, around `embedder`, which stays the caller's to close.

    LightRAG says of every text whether it is a query or a document: a query is embedded with the embedder's instruction for
    queries, chunks, entities and relations as documents. The arrays are float32 `(len(texts), dimensions)`, of unit norm.
    """

    # A function and no object: LightRAG copies its settings deeply, and an embedder can't be copied.
    async def embed(texts: list[str], context: Literal["query", "document"] = "document") -> FloatArray:
        if context == "query":
            return await embedder.aembed_queries(texts)
        if context == "document":
            return await embedder.aembed_documents(texts)
        raise UsageError(f"context={context!r} is no role of a text. Allowed: 'query', 'document'.")

    return EmbeddingFunc(
        embedding_dim=embedder.dimensions,
        func=embed,
        max_token_size=embedder.max_length,
        model_name=_model_name(embedder),
        supports_asymmetric=True,
    )


def _model_name(embedder: Embedder) -> str:
    """A name for LightRAG's tables and collections: another one wherever stored vectors couldn't be compared."""
    identity = embedder.identity()
    name = identity.model.rstrip("/").rsplit("/", 1)[-1].removeprefix("package:")
    sight = f"{identity.fingerprint}\0{identity.document_prompt}"
    return f"{name}-{hashlib.sha256(sight.encode()).hexdigest()[:8]}"
