"""Plain transformers: padded batches, sorted by length, as a careful person writes it by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy.typing as npt

PACKAGES = ("transformers", "torch", "tokenizers")


def load(settings: dict[str, Any]) -> Callable[[list[str], int], npt.NDArray[Any]]:
    """The model with pooling behind it."""
    import torch

    from benchmarks.sides.padded import Pooled, embedder

    model = Pooled(settings["folder"], settings["dtype"]).to(settings["device"])

    def run(ids: npt.NDArray[Any], mask: npt.NDArray[Any]) -> npt.NDArray[Any]:
        with torch.inference_mode():
            vectors = model(torch.from_numpy(ids).to(settings["device"]), torch.from_numpy(mask).to(settings["device"]))
            return vectors.cpu().numpy()  # type: ignore[no-any-return]

    return embedder(settings["folder"], run)
