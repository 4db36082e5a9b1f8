"""The component for queries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from haystack import component

from haystack_integrations.components.embedders.sightline.model import SightlineModel
from sightline.api import DEFAULT_MODEL


@component
class SightlineTextEmbedder(SightlineModel):
    """Embeds a query with the model's instruction for queries.

    Args:
        model: A folder, `package:NAME` (a folder in an installed Python package), or a hub name.
        dimensions: Length of the vectors; None is the model's own. The documents' embedder needs the same.
        query_instruction: What the query looks with: a name or a task sentence; None is the model's own, "" is none.
        instructions: Named instructions: name -> task sentence.
        instruction_template: Where a task sentence goes; None reads it off the model.
        settings: How the model runs, e.g. `device="cuda:1"` or `dtype="float32"`; see `sightline.EmbeddingEngine`.

    Raises:
        UsageError: A word of another embedder; says what to write here.
    """

    _own = ("dimensions", "query_instruction", "instructions", "instruction_template")

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        dimensions: int | None = None,
        query_instruction: str | None = None,
        instructions: Mapping[str, str] | None = None,
        instruction_template: str | None = None,
        **settings: Any,
    ) -> None:
        SightlineModel.__init__(self, model, settings)  # the decorator makes the class anew, which super() does not survive
        self.dimensions = dimensions
        self.query_instruction = query_instruction
        self.instructions = None if instructions is None else dict(instructions)
        self.instruction_template = instruction_template

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, list[float]]:
        """Embed a query: `embedding` has `dimensions` numbers and unit norm."""
        return {"embedding": self._opened().embed_queries([_checked(text)])[0].tolist()}

    @component.output_types(embedding=list[float])
    async def run_async(self, text: str) -> dict[str, list[float]]:
        """As `run`; the event loop stays free, and concurrent queries share batches."""
        return {"embedding": (await self._opened().aembed_queries([_checked(text)]))[0].tolist()}


def _checked(text: Any) -> str:
    if not isinstance(text, str):
        raise TypeError(f"text is one query; got {type(text).__name__}. For documents there is SightlineDocumentEmbedder.")
    return text
