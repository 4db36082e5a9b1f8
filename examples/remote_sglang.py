"""Index and search with a model on an SGLang server. Prompts, dimensions and norms are seen to here; torch isn't needed.

    sglang serve --model-path Qwen/Qwen3-Embedding-0.6B --is-embedding --port 30000
"""

import os
from pathlib import Path

import sightline
from sightline import RemoteEmbedder

FOLDER = Path(__file__).parent / "knowledge_base" / "visitors"
COLLECTION = "edge:example-sglang"  # a directory where you run this
QUESTION = "when does the last ferry leave?"


def main() -> None:
    server = os.environ.get("SERVER", "http://localhost:30000/v1")
    # Queries look with Qwen3-Embedding's own instruction: its prompts are known by the name.
    with RemoteEmbedder(server, "Qwen/Qwen3-Embedding-0.6B", dimensions=256, max_concurrency=16) as embedder:
        summary = sightline.index([FOLDER], into=COLLECTION, model=embedder)
        print(f"{summary.chunks} chunks by {embedder.server.name}, {embedder.server.native_dimensions} dimensions cut to 256")
        with sightline.open_collection(COLLECTION, model=embedder) as collection:
            for hit in collection.search(QUESTION, k=3):
                print(f"{hit.score:.2f}  {hit.source}")


if __name__ == "__main__":
    main()
