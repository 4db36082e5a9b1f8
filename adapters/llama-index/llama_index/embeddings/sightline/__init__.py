"""Sightline's embeddings in LlamaIndex: `from llama_index.embeddings.sightline import SightlineEmbedding`."""

from llama_index.embeddings.sightline.base import SightlineEmbedding

__all__ = ["SightlineEmbedding"]
