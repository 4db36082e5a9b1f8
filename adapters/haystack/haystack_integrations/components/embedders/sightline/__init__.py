"""Sightline's embedders for Haystack."""

from haystack_integrations.components.embedders.sightline.document_embedder import SightlineDocumentEmbedder
from haystack_integrations.components.embedders.sightline.text_embedder import SightlineTextEmbedder

__all__ = ["SightlineDocumentEmbedder", "SightlineTextEmbedder"]
