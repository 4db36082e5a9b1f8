"""SightlineVectorStore and SightlineRetriever: nodes in and out of collections, and questions in the collection's own words."""

from __future__ import annotations

import asyncio
import pickle
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sightline
from llama_index.core import Document, QueryBundle, StorageContext, VectorStoreIndex
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.indices.query.query_transform import HyDEQueryTransform
from llama_index.core.llms import MockLLM
from llama_index.core.schema import (
    BaseNode,
    ImageNode,
    IndexNode,
    MetadataMode,
    Node,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)
from sightline.errors import CollectionNotFound, ContractMismatch, UsageError
from sightline.testing import HashEmbedder
from sightline.types import FloatArray

from llama_index.embeddings.sightline import SightlineEmbedding
from llama_index.retrievers.sightline import SightlineRetriever
from llama_index.vector_stores.sightline import SightlineVectorStore
from llama_index.vector_stores.sightline.filters import to_filter
from llama_index_setting import EXACT, PACKAGED, ROOT

QUESTION = "when does the last ferry leave?"


@pytest.fixture
def embed_model() -> SightlineEmbedding:
    """Embeds without weights, queries otherwise than texts."""
    return SightlineEmbedding(embedder=HashEmbedder())


@pytest.fixture(params=["memory", pytest.param("edge", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path: Path, embed_model: SightlineEmbedding) -> Iterator[SightlineVectorStore]:
    """A new collection, in memory and on disk."""
    url = f"memory:{uuid.uuid4()}" if request.param == "memory" else f"edge:{tmp_path}/new"
    with SightlineVectorStore(url, embed_model=embed_model) as opened:
        yield opened


@pytest.fixture(scope="module")
def handbook(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A collection that an index run wrote, by its URL."""
    url = f"edge:{tmp_path_factory.mktemp('handbook')}/kb"
    sightline.index([ROOT / "examples" / "knowledge_base" / "visitors"], into=url, model=PACKAGED, dimensions=256)
    return url


def nodes_of(store: SightlineVectorStore, *nodes: BaseNode) -> list[BaseNode]:
    """The nodes, embedded and added."""
    store.add(store.embed_model(nodes))
    return list(nodes)


def text(words: str, doc: str | None = None, **metadata: Any) -> TextNode:
    """A node of a document."""
    relationships = {} if doc is None else {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=doc)}
    return TextNode(text=words, metadata=metadata, relationships=relationships)


def ask(store: SightlineVectorStore, question: str, k: int = 10, **more: Any) -> list[str]:
    """Texts of the nearest nodes."""
    arguments = more.pop("arguments", {})
    query = VectorStoreQuery(query_str=question, similarity_top_k=k, **more)
    return [node.get_content(MetadataMode.NONE) for node in store.query(query, **arguments).nodes or []]


def where(*conditions: tuple[str, str, Any], condition: str = "and") -> MetadataFilters:
    """`where(("year", ">=", 2020))`."""
    filters = [MetadataFilter(key=key, operator=FilterOperator(operator), value=value) for key, operator, value in conditions]
    return MetadataFilters(filters=filters, condition=FilterCondition(condition))


class TestNodes:
    def test_a_node_comes_back_whole(self, store: SightlineVectorStore) -> None:
        """Id, text, metadata of every kind, relationships, templates and excluded keys; without the vector in a hit."""
        node = TextNode(
            id_="my own id/1", text="The ferry\n\n\tleaves at nine. ü 🙂", start_char_idx=3, end_char_idx=9,
            metadata={"title": "Ferry", "year": 2020, "tags": ["a", "b"], "deep": {"x": None}, "doc_id": "d", "source": "s"},
            excluded_embed_metadata_keys=["year"], excluded_llm_metadata_keys=["tags"], text_template="{content} {metadata_str}",
            relationships={
                NodeRelationship.SOURCE: RelatedNodeInfo(node_id="doc-1", metadata={"a": 1}),
                NodeRelationship.NEXT: RelatedNodeInfo(node_id="2"),
            },
        )  # fmt: skip
        nodes_of(store, node)
        vector = node.embedding
        result = store.query(VectorStoreQuery(query_str="ferry", similarity_top_k=1))
        assert result.ids == ["my own id/1"]
        [found] = result.nodes
        node.embedding = None
        assert found == node
        [stored] = store.get_nodes(["my own id/1"])
        assert np.abs(np.array(stored.embedding) - np.array(vector)).max() <= 1e-6

    @pytest.mark.parametrize(
        "node",
        [
            IndexNode(text="about lamps", index_id="lamps"),
            ImageNode(text="a lamp", image_url="https://example.org/lamp.png"),
            Node(text_resource={"text": "about lamps"}),
            Document(text="a whole document about lamps", metadata={"a": 1}),
        ],
        ids=lambda node: node.class_name(),
    )
    def test_every_kind_of_node_comes_back(self, store: SightlineVectorStore, node: BaseNode) -> None:
        """A Document as a TextNode, as in LlamaIndex's other stores."""
        nodes_of(store, node)
        [found] = store.get_nodes()
        assert (found.node_id, found.metadata) == (node.node_id, node.metadata)
        assert found.get_content(MetadataMode.NONE) == node.get_content(MetadataMode.NONE)
        assert isinstance(found, type(node)) or isinstance(node, Document)

    def test_the_text_is_stored_without_its_metadata(self, store: SightlineVectorStore) -> None:
        """The vector is of the metadata too, and the collection knows that it isn't of the text alone."""
        [node] = nodes_of(store, text("It leaves at nine.", title="Ferry"))
        [row] = store.client.get([node.node_id])
        assert row.text == "It leaves at nine."
        [vector] = HashEmbedder().embed_documents(["title: Ferry\n\nIt leaves at nine."])
        assert np.abs(row.vector - vector).max() <= 1e-6
        store.client.add(["It leaves at nine."], ids=["bare"])
        [bare] = store.client.get(["bare"])
        assert np.abs(bare.vector - HashEmbedder().embed_documents(["It leaves at nine."])[0]).max() <= 1e-6

    def test_an_id_that_is_there_is_replaced(self, store: SightlineVectorStore) -> None:
        """Any text can be an id; Chroma's own store would keep the old one."""
        for words in ("old words", "new words"):
            nodes_of(store, TextNode(id_="one", text=words))
        assert [node.text for node in store.get_nodes()] == ["new words"]

    def test_a_node_without_a_vector_is_refused(self, store: SightlineVectorStore) -> None:
        """Before anything is written."""
        with pytest.raises(UsageError, match="embed_model"):
            store.add([text("a"), text("b")])
        assert store.get_nodes() == []

    def test_vectors_of_another_model_are_refused(self, store: SightlineVectorStore) -> None:
        """Of the same length, which is what no other store notices."""
        strange = SightlineEmbedding(embedder=HashEmbedder(document_instruction="something else entirely: "))
        with pytest.raises(ContractMismatch, match="sightline-hash"):
            store.add(strange([text("a lamp")]))
        assert store.client.count() == 0

    def test_no_nodes_are_fine(self, store: SightlineVectorStore) -> None:
        """An empty batch writes nothing."""
        assert store.add([]) == []

    def test_nodes_are_got_by_ids_and_filters(self, store: SightlineVectorStore) -> None:
        """In the order asked, both together, all of them; missing ones are left out."""
        one, two, three = nodes_of(store, text("one", year=1), text("two", year=2), text("three", year=2))
        ids = [three.node_id, "missing", one.node_id]
        assert [node.text for node in store.get_nodes(ids)] == ["three", "one"]
        assert {node.text for node in store.get_nodes(filters=where(("year", "==", 2)))} == {"two", "three"}
        assert [node.text for node in store.get_nodes(ids, where(("year", "==", 2)))] == ["three"]
        assert len(store.get_nodes()) == 3
        assert store.get_nodes([]) == []
        assert two.node_id not in {node.node_id for node in store.get_nodes(ids)}


class TestDeleting:
    def test_a_documents_nodes_go_together(self, store: SightlineVectorStore) -> None:
        """And nobody else's, not those of no document either."""
        nodes_of(store, text("a", "doc-1"), text("b", "doc-1"), text("c", "doc-2"), text("d"))
        store.delete("doc-1")
        store.delete("missing")
        store.delete("None")
        assert {node.text for node in store.get_nodes()} == {"c", "d"}

    def test_nodes_go_by_ids_and_filters(self, store: SightlineVectorStore) -> None:
        """Both together mean both."""
        nodes = nodes_of(store, *(text(f"n{row}", year=row) for row in range(6)))
        store.delete_nodes([nodes[0].node_id, "missing"])
        store.delete_nodes(filters=where(("year", ">=", 5)))
        store.delete_nodes([nodes[1].node_id, nodes[2].node_id], where(("year", "==", 2)))
        store.delete_nodes([])
        assert {node.text for node in store.get_nodes()} == {"n1", "n3", "n4"}

    def test_everything_goes_with_clear_only(self, store: SightlineVectorStore) -> None:
        """No condition is a mistake, not a wish."""
        nodes_of(store, text("a"), text("b"))
        with pytest.raises(UsageError, match="clear"):
            store.delete_nodes()
        assert store.client.count() == 2
        store.clear()
        store.clear()
        assert store.client.count() == 0

    @pytest.mark.asyncio
    async def test_async_does_the_same(self, store: SightlineVectorStore) -> None:
        """Adding, reading, deleting."""
        nodes = await store.embed_model.acall([text("a", "doc-1"), text("b", "doc-2"), text("c")])
        assert await store.async_add(nodes) == [node.node_id for node in nodes]
        await store.adelete("doc-1")
        assert {node.text for node in await store.aget_nodes()} == {"b", "c"}
        await store.adelete_nodes([nodes[1].node_id])
        assert [node.text for node in await store.aget_nodes()] == ["c"]
        await store.aclear()
        assert await store.aget_nodes() == []


class TestFilters:
    @pytest.mark.parametrize(
        ("filters", "wanted"),
        [
            (where(("lang", "==", "de")), "bd"),
            (where(("lang", "in", ["de", "fr"])), "bcd"),
            (where(("year", ">", 2020), ("year", "<=", 2022)), "bc"),
            (where(("year", ">=", 2021), ("lang", "==", "de")), "bd"),
            (where(("year", "<", 2021)), "a"),
            (MetadataFilters(filters=[where(("lang", "==", "de")), where(("year", ">", 2021))]), "d"),
            (where(), "abcd"),
        ],
        ids=range(7),
    )
    def test_they_mean_what_they_say(self, store: SightlineVectorStore, filters: MetadataFilters, wanted: str) -> None:
        """In questions, in reading and in deleting alike."""
        nodes_of(store, text("a", year=2020, lang="en"), text("b", year=2021, lang="de"), text("c", year=2022, lang="fr"))
        nodes_of(store, text("d", year=2023, lang="de"))
        assert set(ask(store, "words", filters=filters)) == set(wanted)
        assert {node.text for node in store.get_nodes(filters=filters)} == set(wanted)

    @pytest.mark.parametrize("operator", ["!=", "nin", "any", "all", "text_match", "contains", "is_empty"])
    def test_other_operators_are_refused_by_name(self, operator: str) -> None:
        """With those that there are."""
        with pytest.raises(UsageError, match=rf"'{operator}'.*'and'"):
            to_filter(where(("lang", operator, "de")))

    @pytest.mark.parametrize("condition", ["or", "not"])
    def test_other_combinations_are_refused_by_name(self, condition: str) -> None:
        """Also deep inside."""
        inner = where(("lang", "==", "de"), ("lang", "==", "fr"), condition=condition)
        with pytest.raises(UsageError, match=f"'{condition}'.*'in'"):
            to_filter(MetadataFilters(filters=[inner]))

    @pytest.mark.parametrize(
        "filters",
        [
            where(("lang", "==", ["de"])), where(("lang", "in", "de")), where(("lang", "==", "de"), ("lang", "==", "fr")),
            where(("year", ">", 1), ("year", ">", 2)), where(("year", "==", 1), ("year", "<", 2)),
        ],
        ids=str,
    )  # fmt: skip
    def test_what_cannot_be_asked_is_refused(self, filters: MetadataFilters) -> None:
        """Nothing is left out of a filter in silence."""
        with pytest.raises(UsageError, match=r"lang|year"):
            to_filter(filters)

    def test_documents_narrow_a_search(self, store: SightlineVectorStore) -> None:
        """A retriever's doc_ids."""
        nodes_of(store, text("a", "doc-1"), text("b", "doc-2"), text("c", "doc-3"))
        assert set(ask(store, "words", doc_ids=["doc-1", "doc-3"])) == {"a", "c"}
        assert len(ask(store, "words", doc_ids=[])) == 3


class TestQueries:
    def test_similarities_are_cosines(self, store: SightlineVectorStore) -> None:
        """Of the question as a query, best first."""
        nodes = nodes_of(store, text("the lamp is clean"), text("the ferry leaves at nine"), text("a lamp"))
        result = store.query(VectorStoreQuery(query_str="clean the lamp", similarity_top_k=3))
        [question] = HashEmbedder().embed_queries(["clean the lamp"])
        expected = {node.node_id: float(np.array(node.embedding) @ question) for node in nodes}
        assert result.similarities == sorted(result.similarities, reverse=True)
        assert dict(zip(result.ids, result.similarities, strict=True)) == pytest.approx(expected, abs=1e-6)

    def test_the_question_counts_rather_than_a_vector_that_came_along(self, store: SightlineVectorStore) -> None:
        """A query that went through another index before may carry the vector of another model."""
        one, two = nodes_of(store, text("the lamp is clean"), text("the ferry leaves"))
        query = VectorStoreQuery(query_str="lamp", query_embedding=two.embedding, similarity_top_k=1)
        assert store.query(query).ids == [one.node_id]

    def test_a_bare_vector_counts(self, store: SightlineVectorStore) -> None:
        """Where there is no question in words."""
        _, two = nodes_of(store, text("the lamp is clean"), text("the ferry leaves"))
        result = store.query(VectorStoreQuery(query_embedding=two.embedding, similarity_top_k=1))
        assert result.ids == [two.node_id]
        assert result.similarities == pytest.approx([1], abs=1e-6)

    def test_the_index_may_embed_the_question(self, embed_model: SightlineEmbedding) -> None:
        """Which is how HyDE's invented answer comes to count; without it the collection embeds the question."""
        store = SightlineVectorStore(f"memory:{uuid.uuid4()}", embed_model=embed_model, is_embedding_query=True)
        nodes_of(store, text("the lamp is clean"), text("vinegar"))
        retriever = VectorStoreIndex.from_vector_store(store, embed_model=embed_model).as_retriever(similarity_top_k=1)
        assert retriever.retrieve("lamp")[0].text == "the lamp is clean"
        assert retriever.retrieve(QueryBundle("lamp", custom_embedding_strs=["vinegar"]))[0].text == "vinegar"
        store.close()

    def test_the_index_needs_no_right_model_to_ask(self, store: SightlineVectorStore) -> None:
        """Whatever the application's embedding model is, the collection's own looks at the question."""
        [node, _] = nodes_of(store, text("the lamp is clean"), text("the ferry leaves"))
        index = VectorStoreIndex.from_vector_store(store, embed_model=MockEmbedding(embed_dim=64))
        assert index.as_retriever(similarity_top_k=1).retrieve("lamp")[0].node_id == node.node_id

    def test_an_instruction_may_be_said(self, qwen3_folder: Path, tmp_path: Path) -> None:
        """By a retriever's keyword arguments; None is the collection's own, with which nothing has to be said."""
        model = SightlineEmbedding(str(qwen3_folder), **EXACT)
        with SightlineVectorStore(f"memory:{uuid.uuid4()}", embed_model=model) as store:
            nodes_of(store, text("the lamp is clean"))
            engine, [document] = model.embedder, model.embedder.embed_documents(["the lamp is clean"])
            for instruction in (None, "", "Find the manual's page"):
                arguments = {} if instruction is None else {"instruction": instruction}
                result = store.query(VectorStoreQuery(query_str="lamp", similarity_top_k=1), **arguments)
                expected = float(engine.embed_queries(["lamp"], instruction=instruction)[0] @ document)
                assert result.similarities == pytest.approx([expected], abs=1e-5)

    @pytest.mark.asyncio
    async def test_async_gives_the_same(self, store: SightlineVectorStore) -> None:
        """By question, by vector, with diversity."""
        nodes = nodes_of(store, *(text(f"lamp {row} and lamp {row % 2}") for row in range(6)))
        for query in (
            VectorStoreQuery(query_str="lamp 1", similarity_top_k=3),
            VectorStoreQuery(query_embedding=nodes[3].embedding, similarity_top_k=3),
            VectorStoreQuery(query_str="lamp 1", similarity_top_k=3, mode=VectorStoreQueryMode.MMR),
        ):
            expected, found = store.query(query), await store.aquery(query)
            assert (found.ids, found.similarities) == (expected.ids, expected.similarities)

    @pytest.mark.parametrize("mode", [mode for mode in VectorStoreQueryMode if mode.value not in ("default", "mmr")])
    def test_other_modes_are_refused_by_name(self, store: SightlineVectorStore, mode: VectorStoreQueryMode) -> None:
        """There is no index of words to ask."""
        with pytest.raises(UsageError, match=f"'{mode.value}'"):
            ask(store, "a", mode=mode)

    def test_what_a_query_cannot_ask_is_refused(self, store: SightlineVectorStore, embed_model: SightlineEmbedding) -> None:
        """Node ids, unknown arguments, no question, an instruction for a vector."""
        with pytest.raises(UsageError, match="node_ids"):
            ask(store, "a", node_ids=["x"])
        with pytest.raises(UsageError, match="'where'"):
            ask(store, "a", arguments={"where": {}})
        with pytest.raises(UsageError, match="'mmr_threshold'"):
            ask(store, "a", arguments={"mmr_threshold": 0.5})
        with pytest.raises(UsageError, match="query_str"):
            store.query(VectorStoreQuery())
        vector = embed_model.get_query_embedding("a")
        with pytest.raises(UsageError, match="instruction"):
            store.query(VectorStoreQuery(query_embedding=vector), instruction="x")


class TestDiversity:
    NEAR = ("clean the lamp", "clean the lamp now", "clean the lamp today", "a lamp stands on the tower", "the ferry leaves")

    def test_what_is_alike_is_avoided(self, store: SightlineVectorStore) -> None:
        """Plain search gives the three that are nearly the same, diversity does not."""
        nodes_of(store, *map(text, self.NEAR))
        plain = ask(store, "clean the lamp", 3)
        diverse = ask(store, "clean the lamp", 3, mode=VectorStoreQueryMode.MMR, arguments={"mmr_threshold": 0.3})
        assert set(plain) == set(self.NEAR[:3])
        assert diverse[0] == plain[0]
        assert set(diverse) - set(plain)

    def test_a_threshold_of_one_is_plain_search(self, store: SightlineVectorStore) -> None:
        """In order, with cosines as similarities."""
        nodes_of(store, *map(text, self.NEAR))
        query = VectorStoreQuery(query_str="clean the lamp", similarity_top_k=4)
        plain = store.query(query)
        query.mode, query.mmr_threshold = VectorStoreQueryMode.MMR, 1.0
        found = store.query(query)
        assert found.ids == plain.ids
        assert found.similarities == pytest.approx(plain.similarities, abs=1e-6)

    def test_it_chooses_as_llama_index_does(self, store: SightlineVectorStore) -> None:
        """From the same candidates, by LlamaIndex's own function on the vectors themselves."""
        from llama_index.core.indices.query.embedding_utils import get_top_k_mmr_embeddings

        nodes = nodes_of(store, *map(text, self.NEAR))
        question = HashEmbedder().embed_queries(["lamp on the tower"])[0].tolist()
        vectors = [node.embedding for node in nodes]
        _, rows = get_top_k_mmr_embeddings(question, vectors, similarity_top_k=3, mmr_threshold=0.4)
        arguments = {"mmr_threshold": 0.4, "mmr_prefetch_k": 5}
        found = ask(store, "lamp on the tower", 3, mode=VectorStoreQueryMode.MMR, arguments=arguments)
        assert found == [self.NEAR[row] for row in rows]

    @pytest.mark.parametrize(
        "arguments", [{"mmr_threshold": 1.5}, {"mmr_threshold": "x"}, {"mmr_prefetch_k": 5, "mmr_prefetch_factor": 2.0}], ids=str
    )
    def test_odd_arguments_are_refused(self, store: SightlineVectorStore, arguments: dict[str, Any]) -> None:
        """By name."""
        with pytest.raises(UsageError, match="mmr_"):
            ask(store, "a", mode=VectorStoreQueryMode.MMR, arguments=arguments)


class TestOpening:
    def test_nothing_there_is_told(self, tmp_path: Path) -> None:
        """A mistyped URL makes no collection."""
        for opener in (SightlineVectorStore, SightlineRetriever):
            with pytest.raises(CollectionNotFound, match="typo"):
                opener(f"edge:{tmp_path}/typo")

    def test_a_collection_of_another_model_is_refused(self, handbook: str) -> None:
        """When it is opened, before anything is asked or added."""
        other = SightlineEmbedding(embedder=HashEmbedder(dimensions=256, native_dimensions=384))
        with pytest.raises(ContractMismatch, match="sightline-hash"):
            SightlineVectorStore(handbook, embed_model=other)

    def test_a_collection_of_other_dimensions_is_refused(self, handbook: str) -> None:
        """The right model, cut to another length."""
        with pytest.raises(ContractMismatch, match="256"):
            SightlineVectorStore(handbook, embed_model=SightlineEmbedding(PACKAGED))

    def test_it_is_written_down_as_its_url(self, handbook: str) -> None:
        """The collection itself says all else."""
        with SightlineVectorStore(handbook, is_embedding_query=True) as store:
            data = store.to_dict()
        with SightlineVectorStore.from_dict(data) as again:
            assert (again.url, again.is_embedding_query, again.embed_model.dimensions) == (handbook, True, 256)
            assert again.class_name() == "SightlineVectorStore"
            with pytest.raises(UsageError, match="another process"):
                pickle.dumps(again)

    def test_a_second_opener_loads_nothing(self, handbook: str) -> None:
        """Collection, its embedding model and the application's share the weights."""
        with SightlineVectorStore(handbook) as store, SightlineRetriever(handbook) as retriever:
            engines = {
                id(embedder.engine)
                for embedder in (
                    store.client.embedder, store.embed_model.embedder, retriever.vector_store.client.embedder,
                    SightlineEmbedding(PACKAGED).embedder,
                )
            }  # fmt: skip
        assert len(engines) == 1


class TestWhatAnIndexRunWrote:
    def test_it_is_read_through_an_index(self, handbook: str) -> None:
        """Text, source and right answer first, with the collection's dimensions; the node belongs to its source."""
        with SightlineVectorStore(handbook) as store:
            index = VectorStoreIndex.from_vector_store(store, embed_model=store.embed_model)
            [best, *_] = index.as_retriever(similarity_top_k=3).retrieve(QUESTION)
        assert best.metadata["source"] == "visitors/timetable-ferry.txt"
        assert best.node.ref_doc_id == "visitors/timetable-ferry.txt"
        assert best.text.startswith("FERRY PETREL, SUMMER TIMETABLE")

    def test_it_is_as_the_collection_says(self, handbook: str) -> None:
        """Ids, scores and texts of a search by Sightline itself."""
        with sightline.open_collection(handbook) as collection, SightlineRetriever(handbook, similarity_top_k=5) as retriever:
            hits, found = collection.search(QUESTION, k=5), retriever.retrieve(QUESTION)
        assert [(hit.id, hit.text) for hit in hits] == [(one.node_id, one.text) for one in found]
        assert [one.score for one in found] == pytest.approx([hit.score for hit in hits], abs=1e-6)

    def test_what_is_embedded_again_is_the_text_alone(self, handbook: str) -> None:
        """As Sightline did; and a language model isn't told where in its file a chunk begins."""
        with SightlineVectorStore(handbook) as store:
            node = store.get_nodes(filters=where(("source", "==", "visitors/timetable-ferry.txt")))[0]
            assert np.abs(np.array(store.embed_model([node])[0].embedding) - np.array(node.embedding)).max() < 0.02
        assert node.get_content(MetadataMode.EMBED) == node.get_content(MetadataMode.NONE)
        assert "source: visitors/timetable-ferry.txt" in node.get_content(MetadataMode.LLM)
        assert "tokens" not in node.get_content(MetadataMode.LLM)

    def test_its_documents_are_not_deleted_here(self, handbook: str) -> None:
        """They go as a whole, by the command that the error names."""
        with SightlineVectorStore(handbook) as store:
            before = store.client.count()
            with pytest.raises(UsageError, match=r"sightline remove visitors/timetable-ferry\.txt"):
                store.delete("visitors/timetable-ferry.txt")
            with pytest.raises(UsageError, match="sightline remove"):
                store.clear()
            assert store.client.count() == before

    def test_rows_of_another_adapter_are_nodes_too(self, store: SightlineVectorStore) -> None:
        """With the metadata that they came with."""
        store.client.add(["a lamp"], ids=["theirs"], metadatas=[{"source": "lamp.md", "page": 3}])
        [node] = store.query(VectorStoreQuery(query_str="lamp", similarity_top_k=1)).nodes
        assert (node.node_id, node.text, node.metadata) == ("theirs", "a lamp", {"source": "lamp.md", "page": 3})
        store.delete("lamp.md")
        assert store.client.count() == 1


class TestIndexes:
    def documents(self) -> list[Document]:
        return [
            Document(id_="lamp", text="The lamp is cleaned with vinegar.", metadata={"topic": "lamp"}),
            Document(id_="ferry", text="The last ferry leaves at nine.", metadata={"topic": "ferry"}),
        ]

    def test_documents_become_an_index(self, store: SightlineVectorStore) -> None:
        """Made, asked, added to, answered from, taken out of; and the collection alone is enough to go on."""
        context = StorageContext.from_defaults(vector_store=store)
        index = VectorStoreIndex.from_documents(self.documents(), storage_context=context, embed_model=store.embed_model)
        assert index.as_retriever(similarity_top_k=1).retrieve("last ferry")[0].node.ref_doc_id == "ferry"
        index.insert(Document(id_="tickets", text="Tickets cost five euros."))
        answer = index.as_query_engine(llm=MockLLM(), similarity_top_k=1).query("what do tickets cost?")
        assert answer.source_nodes[0].text == "Tickets cost five euros."
        index.delete_ref_doc("ferry")
        again = VectorStoreIndex.from_vector_store(store, embed_model=store.embed_model)
        assert {one.node.ref_doc_id for one in again.as_retriever(similarity_top_k=9).retrieve("ferry")} == {"lamp", "tickets"}

    @pytest.mark.asyncio
    async def test_an_index_works_async(self, store: SightlineVectorStore) -> None:
        """Inserting, asking, answering, deleting, without a blocking call."""
        index = VectorStoreIndex.from_vector_store(store, embed_model=store.embed_model)
        for document in self.documents():
            await index.ainsert(document)
        found = await index.as_retriever(similarity_top_k=1).aretrieve("last ferry")
        assert found[0].node.ref_doc_id == "ferry"
        answer = await index.as_query_engine(llm=MockLLM(), similarity_top_k=1).aquery("how is the lamp cleaned?")
        assert answer.source_nodes[0].node.ref_doc_id == "lamp"
        await index.adelete_ref_doc("lamp")
        assert [node.ref_doc_id for node in await store.aget_nodes()] == ["ferry"]

    def test_an_index_of_nodes_that_stand_for_others_asks_otherwise(self, store: SightlineVectorStore) -> None:
        """LlamaIndex then narrows the search to such nodes alone; a collection says so instead of losing the others."""
        nodes = [text("the lamp is clean"), IndexNode(text="about the ferry", index_id="ferry")]
        context = StorageContext.from_defaults(vector_store=store)
        index = VectorStoreIndex(nodes, storage_context=context, embed_model=store.embed_model)
        with pytest.raises(UsageError, match="VectorIndexRetriever"):
            index.as_retriever().retrieve("lamp")

    @pytest.mark.slow
    @pytest.mark.parametrize("url", ["chroma:{}/kb/nodes", "qdrant:{}/kb/nodes", "edge:{}/kb"])
    def test_every_store_does(self, url: str, tmp_path: Path) -> None:
        """With a real model, closed and opened again."""
        model = SightlineEmbedding(PACKAGED, dimensions=128)
        with SightlineVectorStore(url.format(tmp_path), embed_model=model) as store:
            context = StorageContext.from_defaults(vector_store=store)
            VectorStoreIndex.from_documents(self.documents(), storage_context=context, embed_model=model)
        with SightlineVectorStore(url.format(tmp_path)) as store:
            index = VectorStoreIndex.from_vector_store(store, embed_model=store.embed_model)
            index.insert(Document(id_="tickets", text="Tickets cost five euros."))
            assert index.as_retriever(similarity_top_k=1).retrieve("when does the last ferry go?")[0].node.ref_doc_id == "ferry"
            index.delete_ref_doc("ferry")
            assert {node.ref_doc_id for node in store.get_nodes()} == {"lamp", "tickets"}


class TestRetriever:
    def test_it_asks_sync_and_async(self, handbook: str) -> None:
        """The same nodes and scores."""
        filters = where(("source", "in", ["visitors/tickets.html"]))
        with SightlineRetriever(handbook, similarity_top_k=2, filters=filters) as retriever:
            found = retriever.retrieve("what is refunded?")
            again = asyncio.run(retriever.aretrieve("what is refunded?"))
        assert {one.metadata["source"] for one in found} == {"visitors/tickets.html"}
        assert [(one.node_id, one.score) for one in found] == [(one.node_id, pytest.approx(one.score, abs=1e-6)) for one in again]

    def test_it_answers_in_a_query_engine(self, handbook: str) -> None:
        """The prompt of the language model holds what was found."""
        from llama_index.core.query_engine import RetrieverQueryEngine

        with SightlineRetriever(handbook, mode="mmr", mmr_threshold=0.7) as retriever:
            response = RetrieverQueryEngine.from_args(retriever, llm=MockLLM()).query(QUESTION)
        assert "visitors/timetable-ferry.txt" in str(response)
        assert len(response.source_nodes) == 2

    def test_invented_answers_are_not_dropped_in_silence(self, handbook: str) -> None:
        """HyDE's texts would have to be embedded; the error says where that goes."""
        with SightlineRetriever(handbook) as retriever:
            bundle = HyDEQueryTransform(llm=MockLLM())(QUESTION)
            with pytest.raises(UsageError, match="is_embedding_query=True"):
                retriever.retrieve(bundle)

    def test_an_odd_mode_is_refused(self, handbook: str) -> None:
        """When it is asked."""
        with SightlineRetriever(handbook, mode="hybrid") as retriever, pytest.raises(UsageError, match="'hybrid'"):
            retriever.retrieve("a")


def test_many_questions_at_once_share_batches(handbook: str) -> None:
    """64 concurrent questions through one retriever are a few passes of the model."""

    async def ask_all(retriever: SightlineRetriever) -> int:
        await retriever.aretrieve("loads the model")
        embedder = retriever.vector_store.client.embedder
        before = embedder.stats().batches
        await asyncio.gather(*(retriever.aretrieve(f"question number {row}") for row in range(64)))
        return embedder.stats().batches - before

    with SightlineRetriever(handbook) as retriever:
        assert asyncio.run(ask_all(retriever)) <= 16


def test_vectors_are_the_engines(minilm: sightline.EmbeddingEngine) -> None:
    """What a document of an index is stored with is what the engine gives its embedded text."""
    model = SightlineEmbedding(PACKAGED, **EXACT)
    with SightlineVectorStore(f"memory:{uuid.uuid4()}", embed_model=model) as store:
        context = StorageContext.from_defaults(vector_store=store)
        VectorStoreIndex.from_documents([Document(text="A lamp\nstands.")], storage_context=context, embed_model=model)
        [node] = store.get_nodes()
    expected: FloatArray = minilm.embed_documents(["A lamp\nstands."])[0]
    assert np.abs(np.array(node.embedding, dtype=np.float32) - expected).max() <= 1e-6
