"""Sightline's embeddings in LightRAG."""

from lightrag_sightline.embedding_func import as_embedding_func

__all__ = ["as_embedding_func"]
