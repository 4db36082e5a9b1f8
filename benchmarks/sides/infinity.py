"""Infinity: its offline Python engine; runs in `.venv-infinity`, because it needs an older transformers."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import numpy.typing as npt

PACKAGES = ("infinity-emb", "sentence-transformers", "torch", "transformers", "tokenizers")


class Infinity:
    """Texts and a batch size -> vectors. A batch size is fixed when an engine is made, so each has its own, one at a time."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._loop = asyncio.new_event_loop()
        self._engine: Any = None
        self._batch = -1

    def __call__(self, texts: list[str], batch: int) -> npt.NDArray[Any]:
        """Embed, with another engine first where the batch size is another one."""
        if batch != self._batch:
            self.close()
            self._engine, self._batch = self._loop.run_until_complete(_started(self._settings, batch)), batch
        vectors, _ = self._loop.run_until_complete(self._engine.embed(sentences=texts))
        return np.asarray(vectors, dtype=np.float32)

    def close(self) -> None:
        """Stop the engine, whose threads would keep the process alive."""
        if self._engine is not None:
            self._loop.run_until_complete(self._engine.astop())
            self._engine = None


def load(settings: dict[str, Any]) -> Infinity:
    """An engine, which loads at its first text."""
    embed = Infinity(settings)
    embed(["The first text loads the model."], settings.get("first_batch", 0))
    return embed


async def _started(settings: dict[str, Any], batch: int) -> Any:
    from infinity_emb import AsyncEmbeddingEngine, EngineArgs

    engine = AsyncEmbeddingEngine.from_args(
        EngineArgs(
            model_name_or_path=settings["folder"], engine="torch", device=settings["device"], dtype=settings["dtype"],
            batch_size=batch or 32, model_warmup=False, bettertransformer=False, compile=settings.get("compile", False),
        )
    )  # fmt: skip
    await engine.astart()
    return engine
