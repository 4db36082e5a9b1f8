"""Questions to collections of Sightline in LlamaIndex: `from llama_index.retrievers.sightline import SightlineRetriever`."""

from llama_index.retrievers.sightline.base import SightlineRetriever

__all__ = ["SightlineRetriever"]
