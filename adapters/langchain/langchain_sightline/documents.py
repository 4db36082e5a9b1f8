"""What a collection holds as documents of LangChain."""

from __future__ import annotations

from langchain_core.documents import Document
from sightline.metadata import shown_metadata
from sightline.types import Hit, Row


def document_of(found: Hit | Row) -> Document:
    """A document with the caller's id and metadata; a chunk of an indexed file has its source in its metadata."""
    return Document(id=found.id, page_content=found.text, metadata=shown_metadata(found.source, found.metadata))
