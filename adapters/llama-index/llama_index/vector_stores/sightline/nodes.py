"""Nodes of LlamaIndex as rows of a collection, and back."""

from __future__ import annotations

from typing import Any

from llama_index.core.schema import BaseNode, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict

from sightline.metadata import ROW_PREFIX, shown_metadata
from sightline.types import Hit, Row

# What every vector store of LlamaIndex writes beside a node's own metadata.
NODE_KEY = "_node_content"
DOCUMENT_KEY = "doc_id"
# Where a chunk stands in its document and how long it is: of no use to who answers a question.
_PLACE_KEYS = ("start", "end", "tokens")
_DOCUMENT_KEYS = (DOCUMENT_KEY, "document_id", "ref_doc_id")


def metadata_of(node: BaseNode) -> dict[str, Any]:
    """A node's metadata, and the node without text and vector as JSON beside it."""
    metadata = node_to_metadata_dict(node, remove_text=True)
    if node.ref_doc_id is None:  # LlamaIndex writes "None", which could be a document's id
        metadata = {key: value for key, value in metadata.items() if key not in _DOCUMENT_KEYS}
    return metadata


def node_of(found: Hit | Row) -> BaseNode:
    """The node that was added; of what an index run or another program wrote, a node whose document is its source.

    Such a node's metadata isn't for embedding, because Sightline embeds the text alone.
    """
    if NODE_KEY in found.metadata:
        return metadata_dict_to_node(dict(found.metadata), text=found.text)
    if found.source.startswith(ROW_PREFIX):  # of another framework's adapter; what source it has is in its metadata
        return TextNode(id_=found.id, text=found.text, metadata=dict(found.metadata))
    metadata = shown_metadata(found.source, found.metadata)
    return TextNode(
        id_=found.id,
        text=found.text,
        metadata=metadata,
        excluded_embed_metadata_keys=list(metadata),
        excluded_llm_metadata_keys=[key for key in _PLACE_KEYS if key in metadata],
        start_char_idx=metadata.get("start"),
        end_char_idx=metadata.get("end"),
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=found.source)},
    )
