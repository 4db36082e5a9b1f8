"""Sightline in LangChain: embeddings, a vector store and a retriever over any Sightline collection."""

from langchain_sightline.embeddings import SightlineEmbeddings
from langchain_sightline.retrievers import SightlineRetriever
from langchain_sightline.vectorstores import SightlineVectorStore

__all__ = ["SightlineEmbeddings", "SightlineRetriever", "SightlineVectorStore"]
