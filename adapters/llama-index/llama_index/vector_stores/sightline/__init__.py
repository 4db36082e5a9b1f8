"""Collections of Sightline in LlamaIndex: `from llama_index.vector_stores.sightline import SightlineVectorStore`."""

from llama_index.vector_stores.sightline.base import SightlineVectorStore

__all__ = ["SightlineVectorStore"]
