"""The component for documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from haystack import Document, component

from haystack_integrations.components.embedders.sightline.model import SightlineModel
from sightline.api import DEFAULT_MODEL
from sightline.types import FloatArray


@component
class SightlineDocumentEmbedder(SightlineModel):
    """Embeds documents, and metadata of theirs where that is asked for, without an instruction.

    Args:
        model: A folder, `package:NAME` (a folder in an installed Python package), or a hub name.
        dimensions: Length of the vectors; None is the model's own. The queries' embedder needs the same.
        document_instruction: What documents look with: a name or a task sentence; None is the model's own, "" is none.
        instructions: Named instructions: name -> task sentence.
        instruction_template: Where a task sentence goes; None reads it off the model.
        meta_fields_to_embed: Metadata that is put before the text, in this order; what a document lacks is left out.
        embedding_separator: Between those and the text.
        settings: How the model runs, e.g. `device="cuda:1"` or `dtype="float32"`; see `sightline.EmbeddingEngine`.

    Raises:
        UsageError: A word of another embedder; says what to write here.
    """

    _own = (
        "dimensions", "document_instruction", "instructions", "instruction_template",
        "meta_fields_to_embed", "embedding_separator",
    )  # fmt: skip

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        dimensions: int | None = None,
        document_instruction: str | None = None,
        instructions: Mapping[str, str] | None = None,
        instruction_template: str | None = None,
        meta_fields_to_embed: Sequence[str] | None = None,
        embedding_separator: str = "\n",
        **settings: Any,
    ) -> None:
        SightlineModel.__init__(self, model, settings)  # the decorator makes the class anew, which super() does not survive
        self.dimensions = dimensions
        self.document_instruction = document_instruction
        self.instructions = None if instructions is None else dict(instructions)
        self.instruction_template = instruction_template
        self.meta_fields_to_embed = list(meta_fields_to_embed or [])
        self.embedding_separator = embedding_separator

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, list[Document]]:
        """Copies of the documents with their `embedding`: `dimensions` numbers each, of unit norm."""
        texts = self._texts(documents)
        return _embedded(documents, self._opened().embed_documents(texts))

    @component.output_types(documents=list[Document])
    async def run_async(self, documents: list[Document]) -> dict[str, list[Document]]:
        """As `run`; the event loop stays free, and queries overtake documents."""
        texts = self._texts(documents)
        return _embedded(documents, await self._opened().aembed_documents(texts))

    def _texts(self, documents: Any) -> list[str]:
        if not isinstance(documents, list) or not all(isinstance(document, Document) for document in documents):
            raise TypeError(
                f"documents is a list of Document; got {type(documents).__name__}. For a query there is SightlineTextEmbedder."
            )
        return [self._text(document) for document in documents]

    def _text(self, document: Document) -> str:
        fields = [document.meta.get(name) for name in self.meta_fields_to_embed]
        return self.embedding_separator.join([*(str(field) for field in fields if field is not None), document.content or ""])


def _embedded(documents: list[Document], vectors: FloatArray) -> dict[str, list[Document]]:
    return {"documents": [replace(one, embedding=row.tolist()) for one, row in zip(documents, vectors, strict=True)]}
