"""sentence-transformers: `encode`, as it comes, in a given number format, or compiled as its documentation says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy.typing as npt

PACKAGES = ("sentence-transformers", "torch", "transformers", "tokenizers")


def load(settings: dict[str, Any]) -> Callable[[list[str], int], npt.NDArray[Any]]:
    """The model; `compile` wraps it, and the first texts then wait for the compiler."""
    import torch
    from sentence_transformers import SentenceTransformer

    given = {"model_kwargs": {"dtype": getattr(torch, settings["dtype"])}} if "dtype" in settings else {}
    model = SentenceTransformer(settings["folder"], device=settings["device"], **given)
    if settings.get("compile"):
        model.compile(dynamic=True)

    def embed(texts: list[str], batch: int) -> npt.NDArray[Any]:
        size = {"batch_size": batch} if batch else {}
        vectors: npt.NDArray[Any] = model.encode(texts, normalize_embeddings=True, show_progress_bar=False, **size)
        return vectors

    return embed
