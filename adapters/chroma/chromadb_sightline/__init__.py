"""Sightline's embeddings in Chroma. Importing this registers the embedding function, so that Chroma can rebuild it."""

from chromadb_sightline.embedding_function import SightlineEmbeddingFunction
from chromadb_sightline.opening import open_collection, verify

__all__ = ["SightlineEmbeddingFunction", "open_collection", "verify"]
