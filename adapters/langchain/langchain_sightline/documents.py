"""What a collection holds as documents of LangChain."""

from __future__ import annotations

from langchain_core.documents import Document
from sightline.metadata import ROW_PREFIX
from sightline.types import Hit, Row


def document_of(found: Hit | Row) -> Document:
    """A document with the caller's id and metadata; a chunk of an indexed file has its source in its metadata."""
    metadata = dict(found.metadata)
    if found.source and not found.source.startswith(ROW_PREFIX):  # what source a row has is in its own metadata
        metadata = {"source": found.source, **metadata}
    return Document(id=found.id, page_content=found.text, metadata=metadata)
