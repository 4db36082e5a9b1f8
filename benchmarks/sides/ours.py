"""Sightline: `EmbeddingEngine`, with its own token budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy.typing as npt

PACKAGES = ("sightline", "torch", "transformers", "tokenizers")


def load(settings: dict[str, Any]) -> Callable[[list[str], int], npt.NDArray[Any]]:
    """The engine, loaded."""
    from sightline import EmbeddingEngine

    options = {name: settings[name] for name in ("dtype", "deterministic") if name in settings}
    engine = EmbeddingEngine(settings["folder"], device=settings["device"], **options).load()
    return lambda texts, batch: engine.embed_documents(texts)
