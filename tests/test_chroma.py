"""Chroma in a directory and on a real server: the conformance suite, and what is special to each."""

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import threading
import uuid
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import chromadb
import httpx
import numpy as np
import pytest
from chromadb.api.models.Collection import Collection

import sightline
from clocks import Clock
from servers import ChromaServer, free_port
from sightline import retries
from sightline.errors import CollectionNotFound, StoreError, StoreLocked, StoreUnreachable, UsageError
from sightline.stores import chroma, chroma_server, open_store
from sightline.stores.filters import matches, parse_filter
from sightline.testing import HashEmbedder, StoreConformance
from sightline.types import Document, Head, Point, VectorLayout

VECTORS = np.eye(4, dtype=np.float32)
# Another process that makes a collection, if need be, and fills it with what `many` and `unit` make here.
FILL = """
import os, sys, uuid
import numpy as np
from sightline.stores import open_store
from sightline.types import Point, VectorLayout
store, count = open_store(sys.argv[1]), int(sys.argv[2])
store.acquire()
if not store.exists():
    store.create(VectorLayout(16), {})
rows = np.random.default_rng(1).normal(size=(count, 16))
vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
texts = [f"theirs {row}" for row in range(count)]
store.upsert([Point(str(uuid.uuid5(uuid.NAMESPACE_URL, one)), one, "docs/x.md", {}) for one in texts], vectors)
"""


def point(row: int = 0, source: str = "docs/a.md", **metadata: object) -> Point:
    return Point(str(uuid.UUID(int=row + 1)), f"text {row}", source, metadata)


def many(count: int, name: str) -> list[Point]:
    """Points of one document, with texts that begin with the name."""
    texts = [f"{name} {row}" for row in range(count)]
    ids = [str(uuid.uuid5(uuid.NAMESPACE_URL, one)) for one in texts]
    return [Point(ids[row], one, "docs/x.md", {"parity": row % 2}) for row, one in enumerate(texts)]


def unit(count: int, *, seed: int = 1, dimensions: int = 16) -> np.ndarray:
    """Random unit vectors, float32 `(count, dimensions)`."""
    rows = np.random.default_rng(seed).normal(size=(count, dimensions))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def fill_elsewhere(url: str, count: int) -> None:
    """Let another process write."""
    subprocess.run([sys.executable, "-c", FILL + "store.close()\n", url, str(count)], check=True, timeout=60)


def rebuild(store, *points: Point) -> None:
    """Fill the collection beside and put it in the place of the live one."""
    beside = store.staging()
    beside.create(VectorLayout(4), {"new": 1})
    beside.upsert(points, VECTORS[: len(points)])
    store.promote()


def collections_of(server) -> list[str]:
    """All names on a server."""
    answer = httpx.get(f"http://127.0.0.1:{server.port}/api/v2/tenants/default_tenant/databases/default_database/collections")
    return [one["name"] for one in answer.json()]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = ChromaServer(tmp_path_factory.mktemp("server"))
    yield running
    running.kill()


class TestDirectoryConformance(StoreConformance):
    @pytest.fixture
    def store(self, tmp_path):
        store = open_store(f"chroma:{tmp_path}/a b/handbook")
        yield store
        store.close()


class TestServerConformance(StoreConformance):
    many = 2500  # several requests; the pages are those of a directory

    @pytest.fixture
    def store(self, server):
        store = open_store(server.url())
        yield store
        store.close()


class TestDirectory:
    @pytest.fixture
    def client(self, tmp_path):
        with chromadb.PersistentClient(str(tmp_path)) as client:
            yield client

    def test_its_records_are_what_the_frameworks_read(self, opened, client, tmp_path):
        """Text as the document, flat metadata with the source, our integers, cosine space; what is odd is JSON text."""
        store = opened(f"chroma:{tmp_path}/handbook")
        store.create(VectorLayout(4), {"a": [1]})
        store.upsert([point(0, lang="en", tags=["a", "b"], none=None, deep={"x": 1})], VECTORS[:1])
        collection = client.get_collection("handbook", embedding_function=None)
        record = collection.get(point().id)
        assert collection.configuration_json["hnsw"]["space"] == "cosine"
        assert collection.metadata == {"sightline_contract": '{"a": [1]}', "sightline_dimensions": 4}
        assert record["documents"] == ["text 0"]
        [metadata] = record["metadatas"]
        assert json.loads(metadata.pop("sightline_metadata")) == {"none": None, "deep": {"x": 1}}
        assert len(metadata.pop("sightline_text")) == 32
        assert metadata == {
            "source": "docs/a.md", "sightline_source": "docs/a.md", "lang": "en", "tags": ["a", "b"], "sightline_point": 1
        }  # fmt: skip

    def test_collections_of_one_directory_are_apart(self, opened, tmp_path):
        """Each collection has its own points and contract."""
        first = opened(f"chroma:{tmp_path}/first")
        first.create(VectorLayout(4), {"n": 1})
        first.upsert([point()], VECTORS[:1])
        first.close()
        second = opened(f"chroma:{tmp_path}/second")
        assert second.exists() is False
        second.create(VectorLayout(3), {"n": 2})
        assert (second.count(), opened(f"chroma:{tmp_path}/first").count()) == (0, 1)

    def test_it_stays_out_of_an_edge_directory(self, opened, tmp_path):
        """Two databases don't share one directory."""
        (tmp_path / "sightline.json").write_text("{}")
        with pytest.raises(UsageError, match="Qdrant Edge"):
            opened(f"chroma:{tmp_path}/handbook").create(VectorLayout(4), {})

    def test_opening_sends_nothing(self, opened, tmp_path):
        """Chroma's telemetry is off."""
        store = opened(f"chroma:{tmp_path}/handbook")
        store.create(VectorLayout(4), {})
        assert store._database._client.get_settings().anonymized_telemetry is False

    @pytest.mark.parametrize("harm", ["garbage", "another version"])
    def test_a_database_that_chroma_cannot_read_is_named(self, opened, tmp_path, harm):
        """A damaged database, or one of another version, is a clear error."""
        store = opened(f"chroma:{tmp_path}/handbook")
        store.create(VectorLayout(4), {})
        store.close()
        database = tmp_path / "chroma.sqlite3"
        if harm == "garbage":
            database.write_bytes(b"garbage" * 1000)
        else:
            with contextlib.closing(sqlite3.connect(database)) as connection, connection:
                connection.execute("update migrations set hash = 'x' where version = 1")
        with pytest.raises(StoreError, match="damaged or of another version"):
            opened(f"chroma:{tmp_path}/handbook").count()

    def test_what_another_process_wrote_stays_searchable(self, opened, tmp_path):
        """A store that read before another process wrote, and writes after it, removes nothing from the index."""
        url = f"chroma:{tmp_path}/handbook"
        first = opened(url)
        first.create(VectorLayout(16), {})
        first.close()
        store = opened(url)
        assert store.search(unit(1)[0], limit=1) == []
        fill_elsewhere(url, 1500)
        store.upsert(many(1500, "mine"), unit(1500, seed=2))
        store.close()
        again = opened(url)
        vectors = unit(1500)
        assert all(again.search(vectors[row], limit=1)[0].text == f"theirs {row}" for row in range(0, 1500, 100))

    def test_a_stale_client_of_this_process_is_in_the_way(self, opened, tmp_path):
        """Where a client that can't be reopened would remove what another process wrote, writing is refused."""
        url = f"chroma:{tmp_path}/handbook"
        store = opened(url)
        store.create(VectorLayout(16), {})
        store.close()
        reader = opened(url)
        assert reader.count() == 0
        fill_elsewhere(url, 10)
        with pytest.raises(StoreError, match="another client of this process"):
            opened(url).acquire()
        reader.close()
        writer = opened(url)
        writer.acquire()
        assert writer.search(unit(10)[3], limit=1)[0].text == "theirs 3"


class TestForeignCollections:
    @pytest.fixture
    def client(self, tmp_path):
        with chromadb.PersistentClient(str(tmp_path)) as client:
            yield client

    @pytest.mark.parametrize("space", ["l2", "ip", "cosine"])
    def test_scores_are_cosines_whatever_the_distance(self, opened, client, tmp_path, space):
        """Best first and with the true cosine similarity, also of vectors that have no unit norm."""
        collection = client.create_collection("theirs", configuration={"hnsw": {"space": space}}, embedding_function=None)
        vectors = unit(40) * np.linspace(0.5, 2, 40, dtype=np.float32)[:, None]
        collection.add(ids=[str(row) for row in range(40)], embeddings=vectors, documents=[f"text {row}" for row in range(40)])
        store = opened(f"chroma:{tmp_path}/theirs")
        query = unit(1, seed=3)[0]
        exact = vectors @ query / np.linalg.norm(vectors, axis=1)
        hits = store.search(query * 5, limit=5)
        assert [hit.id for hit in hits] == [str(row) for row in np.argsort(-exact)[:5]]
        assert np.allclose([hit.score for hit in hits], np.sort(exact)[::-1][:5], atol=1e-5)

    def test_it_is_read_but_not_written(self, opened, client, tmp_path):
        """It is counted, listed and searched; ours sees none of it, and writing names the command that adopts it."""
        collection = client.create_collection("theirs", metadata={"by": "them"}, embedding_function=None)
        collection.add(ids=["a"], embeddings=VECTORS[:1], documents=["other"], metadatas=[{"source": "docs/a.md", "x": 1}])
        store = opened(f"chroma:{tmp_path}/theirs")
        assert (store.exists(), store.read_contract(), store.layout().dimensions, store.count()) == (True, None, 4, 1)
        [record] = store.records()
        assert (record.ours, record.point.id, record.point.text, record.point.metadata["x"]) == (False, "a", "other", 1)
        assert (list(store.heads()), store.sources(), store.points("docs/a.md"), store.vectors_of(["other"])) == ([], {}, [], {})
        assert [hit.id for hit in store.search(VECTORS[0], limit=3, filter={"x": 1})] == ["a"]
        writes = (lambda: store.delete([]), lambda: store.upsert([point()], VECTORS[:1]), lambda: store.write_mark({}))
        for write in (*writes, store.promote):
            with pytest.raises(StoreError):
                write()
        with pytest.raises(StoreError, match="sightline adopt"):
            store.update([])
        assert collection.metadata == {"by": "them"}

    @pytest.mark.parametrize("metadata", [{"by": "them"}, {"by": "them", "hnsw:space": "l2"}])
    def test_adopting_keeps_what_they_said(self, opened, client, tmp_path, metadata):
        """Their metadata and points stay, the distance is the same, and it can be written then."""
        collection = client.create_collection("theirs", metadata=metadata, embedding_function=None)
        collection.add(ids=[point(9).id], embeddings=VECTORS[:1], documents=["other"])
        store = opened(f"chroma:{tmp_path}/theirs")
        store.write_contract({"a": 1})
        store.write_mark({"b": 2})
        store.upsert([point(1)], VECTORS[1:2])
        store.delete([point(9).id, point(5).id])
        assert (store.read_contract(), store.read_mark(), store.layout().dimensions, store.count()) == ({"a": 1}, {"b": 2}, 4, 2)
        found = client.get_collection("theirs", embedding_function=None)
        assert metadata.items() <= found.metadata.items()
        assert found.configuration_json["hnsw"]["space"] == "l2"
        assert [round(hit.score, 5) for hit in store.search(VECTORS[1], limit=2)] == [1.0, 0.0]

    def test_an_empty_one_has_no_dimensions(self, opened, client, tmp_path):
        """Nothing says how long its vectors are, so it can't be adopted either."""
        client.create_collection("theirs", embedding_function=None)
        store = opened(f"chroma:{tmp_path}/theirs")
        for operation in (store.layout, lambda: store.write_contract({})):
            with pytest.raises(StoreError, match="empty"):
                operation()

    @pytest.mark.parametrize("suffix", [".next", ".old"])
    def test_a_name_that_a_rebuild_needs_is_not_taken_away(self, opened, client, tmp_path, suffix):
        """A collection of somebody else under such a name is never changed, replaced or removed."""
        theirs = client.create_collection(f"handbook{suffix}", embedding_function=None)
        theirs.add(ids=["a"], embeddings=VECTORS[:1])
        store = opened(f"chroma:{tmp_path}/handbook")
        store.create(VectorLayout(4), {})
        with pytest.raises(StoreError, match=rf"'handbook\{suffix}'.*Sightline didn't make"):
            rebuild(store)
        store.close()
        again = opened(f"chroma:{tmp_path}/handbook")
        again.acquire()
        assert again.read_contract() == {}
        assert client.get_collection(f"handbook{suffix}", embedding_function=None).count() == 1


class TestRebuilds:
    @pytest.fixture(params=["directory", "server"])
    def url(self, request, tmp_path):
        return f"chroma:{tmp_path}/handbook" if request.param == "directory" else request.getfixturevalue("server").url()

    def interrupted(self, opened, url, monkeypatch, *, after):
        """A store whose promotion ended after so many of its three changes to collections."""
        store = opened(url)
        store.create(VectorLayout(4), {"old": 1})
        store.upsert([point()], VECTORS[:1])
        modify, left = Collection.modify, [after]

        def until_the_end(self, *arguments, **named):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return modify(self, *arguments, **named)

        staged = store.staging()
        staged.create(VectorLayout(4), {"new": 1})
        monkeypatch.setattr(Collection, "modify", until_the_end)
        with pytest.raises(KeyboardInterrupt):
            store.promote()
        monkeypatch.undo()
        return store

    @pytest.mark.parametrize("after", [1, 2])
    def test_an_interrupted_promotion_is_read_and_finished(self, opened, url, monkeypatch, after):
        """Readers go on with the old collection, and the next writer brings in the new one."""
        self.interrupted(opened, url, monkeypatch, after=after).close()
        reader = opened(url)
        assert (reader.exists(), reader.read_contract(), reader.count()) == (True, {"old": 1}, 1)
        writer = opened(url)
        writer.acquire()
        for store in (writer, reader):
            assert (store.read_contract(), store.count(), store.staging().exists()) == ({"new": 1}, 0, False)

    def test_nothing_is_promoted_before_it_is_complete(self, opened, url, monkeypatch):
        """A rebuild that wasn't promoted stays beside."""
        self.interrupted(opened, url, monkeypatch, after=0).close()
        writer = opened(url)
        writer.acquire()
        assert (writer.read_contract(), writer.staging().read_contract()) == ({"old": 1}, {"new": 1})

    def test_readers_notice_and_finish_what_they_began(self, opened, url):
        """An open reader finds the new collection at its next call; what it was listing goes on from the old one."""
        writer = opened(url)
        writer.create(VectorLayout(4), {"old": 1})
        writer.upsert([point()], VECTORS[:1])
        reader = opened(url)
        listing = reader.records()
        rebuild(writer, point(7), point(8))
        assert (reader.read_contract(), reader.count()) == ({"new": 1}, 2)
        assert [record.point.id for record in listing] == [point().id]

    def test_the_old_one_is_removed_by_the_next_writer(self, opened, url):
        """Two rebuilds in one run, then another run: one collection is left."""
        writer = opened(url)
        writer.create(VectorLayout(4), {})
        rebuild(writer)
        rebuild(writer, point(1))
        writer.close()
        again = opened(url)
        old = f"{again._name}.old"
        assert again._database.find(old) is not None
        again.acquire()
        assert again._database.find(old) is None
        assert again.count() == 1

    def test_a_removed_collection_does_not_come_back(self, opened, url):
        """What a rebuild left for its readers is no collection when somebody removed the live one."""
        writer = opened(url)
        writer.create(VectorLayout(4), {})
        rebuild(writer)
        writer._database.delete(writer._name)
        assert writer.exists() is False
        with pytest.raises(CollectionNotFound):
            writer.count()

    @pytest.mark.parametrize("name", ["kb.next", "kb.old", "kb.writer", "k" * 506])
    def test_names_of_rebuilds_are_not_written(self, opened, tmp_path, name):
        """Such a name, or one too long for its companions, is refused before anything is made."""
        with pytest.raises(UsageError, match="can't be written"):
            opened(f"chroma:{tmp_path}/{name}").create(VectorLayout(4), {})
        assert list(tmp_path.iterdir()) == []


class TestSearch:
    def test_hits_that_the_index_misses_are_found(self, opened, tmp_path, monkeypatch):
        """Where Chroma's index gives fewer than there are, all that meet the filter are scored."""
        store = opened(f"chroma:{tmp_path}/handbook")
        store.create(VectorLayout(16), {})
        points, vectors = many(50, "t"), unit(50)
        store.upsert(points, vectors)
        query = Collection.query

        def forgetful(self, **named):  # stands for an index that lost its way
            return query(self, **{**named, "n_results": min(3, named["n_results"])})

        monkeypatch.setattr(Collection, "query", forgetful)
        hits = store.search(vectors[0], limit=20, filter={"parity": 1})
        exact = np.sort((vectors @ vectors[0])[1::2])[::-1][:20]
        assert np.allclose([hit.score for hit in hits], exact, atol=1e-5)

    def test_more_hits_than_a_page(self, opened, tmp_path, monkeypatch):
        """Many hits are described page by page, all of them."""
        monkeypatch.setattr(chroma, "_RECORDS_PER_PAGE", 100)
        store = opened(f"chroma:{tmp_path}/handbook")
        store.create(VectorLayout(16), {})
        points, vectors = many(350, "t"), unit(350)
        store.upsert(points, vectors)
        hits = store.search(vectors[0], limit=350)
        assert len({hit.id for hit in hits}) == 350
        assert all(hit.text for hit in hits)

    @pytest.mark.parametrize("key", ["", "$a", "#a", "chroma:x"])
    def test_a_key_that_chroma_keeps_as_text_is_refused(self, opened, tmp_path, key):
        """A filter that could not find what is there says so."""
        store = opened(f"chroma:{tmp_path}/handbook")
        store.create(VectorLayout(4), {})
        store.upsert([point()], VECTORS[:1])
        with pytest.raises(UsageError, match="Rename it"):
            store.search(VECTORS[0], limit=1, filter={key: 1})

    def test_a_filter_of_many_values(self, opened, tmp_path):
        """A thousand values are looked for, more are refused before Chroma's core falls over."""
        store = opened(f"chroma:{tmp_path}/handbook")
        store.create(VectorLayout(4), {})
        store.upsert([point(1, n=999), point(2, n=[7, 8]), point(3, n=5000)], VECTORS[:3])
        hits = store.search(VECTORS[0], limit=9, filter={"n": list(range(1000))})
        assert {hit.id for hit in hits} == {point(1).id, point(2).id}
        with pytest.raises(UsageError, match="at most 1,000"):
            store.search(VECTORS[0], limit=9, filter={"n": list(range(1001))})

    def test_our_own_keys_are_no_metadata(self, opened, tmp_path):
        """A filter on them finds nothing, as everywhere else."""
        store = opened(f"chroma:{tmp_path}/handbook")
        store.create(VectorLayout(4), {})
        store.upsert([point()], VECTORS[:1])
        assert store.search(VECTORS[0], limit=1, filter={"sightline_point": 1}) == []

    def test_every_filter_means_what_the_definition_says(self, opened, tmp_path):
        """Every kind of value against every kind of condition."""
        values = [0, 1, 2, 3, -2, -3, 4, 2**53, 2**63 - 1, -(2**63), 0.0, 3.0, 3.5, -2.5, -3.0, 1e300, True, False]
        values += ["3", "", "true", "x", [3], [3.0, 2.5], [True], ["x", "3"], [1, 2, 3], [-2.5]]
        bounds = [{name: bound} for name in ("gte", "gt", "lte", "lt") for bound in (3, 3.0, 3.5, 2.5, -2.5, -2, 0, 0.5, -0.5)]
        store = opened(f"chroma:{tmp_path}/handbook")
        store.create(VectorLayout(64), {})
        points = [point(row, key=value) for row, value in enumerate(values)]
        store.upsert(points, unit(len(points), dimensions=64))
        query = unit(1, dimensions=64)[0]
        conditions = [value for value in values if not isinstance(value, list)]
        conditions += [[one, other] for one in conditions[::3] for other in conditions[1::4]]
        for condition in [*conditions, *bounds, {"gt": -2.5, "lte": 3.5}, {"gte": 2.5, "lt": 3.5}]:
            wanted = {one.id for one in points if matches(parse_filter({"key": condition}), one.source, one.metadata)}
            found = {hit.id for hit in store.search(query, limit=len(points), filter={"key": condition})}
            assert found == wanted, condition


class TestServer:
    def test_a_writer_leaves_no_lease(self, opened, server):
        """The lease is there while a store writes, and gone when it is closed, also after an error."""
        store = opened(server.url())
        store.create(VectorLayout(4), {})
        lease = f"{store._name}.writer"
        reader = opened(store.url)
        assert reader._database.find(lease) is not None
        with pytest.raises(UsageError):
            store.upsert([point()], VECTORS[:1] * np.nan)
        store.close()
        assert reader._database.find(lease) is None
        assert [one for one in collections_of(server) if one.startswith(store._name)] == [store._name]

    @pytest.mark.slow
    def test_what_a_killed_release_left_goes_with_the_next(self, opened, server):
        """A lease is renamed and then removed; one that was only renamed isn't in the way of the next."""
        store = opened(server.url())
        store._database.create(f"{store._name}.writer.old", {"sightline_lease": 1})
        store.create(VectorLayout(4), {})
        store.close()
        assert [one for one in collections_of(server) if one.startswith(store._name)] == [store._name]

    def test_another_process_is_told_who_writes(self, opened, server):
        """The second one learns the process id of the first, and may read meanwhile."""
        store = opened(server.url())
        store.create(VectorLayout(16), {})
        answer = subprocess.run([sys.executable, "-c", FILL, store.url, "1"], capture_output=True, text=True, timeout=60)
        assert f"StoreLocked: {store.url} is being written by run" in answer.stderr
        assert f"process {os.getpid()} on" in answer.stderr
        assert opened(store.url).count() == 0

    def test_a_killed_writer_is_replaced_at_once(self, opened, server):
        """What it wrote is there, and its lease is taken over."""
        url = server.url()
        killed = subprocess.run([sys.executable, "-c", FILL + "os.kill(os.getpid(), 9)\n", url, "20"], timeout=60)
        assert killed.returncode != 0
        store = opened(url)
        assert (store.count(), store._database.find(f"{store._name}.writer") is None) == (20, False)
        store.delete([one.id for one in many(5, "theirs")])
        assert store.count() == 15

    def test_a_writer_that_was_replaced_stops(self, opened, server):
        """It writes no head, mark or deletion any more, and takes nothing away when it closes."""
        first = opened(server.url())
        first.create(VectorLayout(4), {})
        second = opened(first.url)
        second.acquire(take_over=True)
        head = replace(point(), head=Head("docs/a.md", "h", 1, "c"))
        writes = (lambda: first.upsert([head], VECTORS[:1]), lambda: first.write_mark({}), lambda: first.delete([point().id]))
        for write in writes:
            with pytest.raises(StoreLocked, match="took it over"):
                write()
        first.close()
        second.upsert([head], VECTORS[:1])
        assert second.count() == 1

    def test_a_collection_under_the_lease_name_is_left_alone(self, opened, server):
        """Somebody else's collection there is a clear error, and stays."""
        store = opened(server.url())
        store._database.create(f"{store._name}.writer", {"by": "them"})
        with pytest.raises(StoreError, match="Sightline didn't make"):
            store.create(VectorLayout(4), {})
        assert store._database.find(f"{store._name}.writer").metadata == {"by": "them"}

    def test_requests_are_bounded(self, opened, server):
        """By the number of points and by bytes; one that is larger than a request goes alone."""
        store = opened(server.url())
        database = store._database
        batches = database.requests.cut([10] * 2500 + [5_000_000, 5_000_000, 9_000_000, 1], database.most_points())
        sizes = [rows.stop - rows.start for rows in batches]
        assert sizes == [1000, 1000, 501, 1, 1, 1]
        assert database.requests.cut([], 1000) == []

    def test_a_point_beyond_the_servers_limit_is_named(self, opened, server):
        """A text of 42 MB is refused by the server, and that is what the message says."""
        store = opened(server.url())
        store.create(VectorLayout(4), {})
        with pytest.raises(StoreError, match="too large"):
            store.upsert([replace(point(), text="x" * 42_000_000)], VECTORS[:1])

    @pytest.mark.slow
    def test_a_killed_server_loses_nothing(self, opened, tmp_path):
        """A server that is killed in the middle of a load and started again gets the rest from the same run."""
        server = ChromaServer(tmp_path)
        try:
            store = opened(server.url())
            store.create(VectorLayout(16), {})
            points, vectors = many(4000, "t"), unit(4000)
            restart = threading.Thread(target=lambda: (server.kill(), server.start()))
            for start in range(0, 4000, 500):
                if start == 1500:
                    restart.start()
                store.upsert(points[start : start + 500], vectors[start : start + 500])
            restart.join()
            assert store.count() == 4000
            assert all(store.search(vectors[row], limit=1)[0].id == points[row].id for row in range(0, 4000, 250))
            store.close()
        finally:
            server.kill()


class Fake(ThreadingHTTPServer):
    """Not Chroma: a server that answers as the test says, to see what becomes of answers that Chroma seldom gives."""

    def __init__(self, answer):
        outer = self
        self.requests: list[tuple[str, dict[str, str]]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests.append((self.path, dict(self.headers)))
                status, body = answer(self.path)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_):
                """Say nothing."""

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}).start()

    def handle_error(self, *_):
        """A client that hangs up is nothing to report."""

    def url(self):
        return f"chroma+http://127.0.0.1:{self.server_port}/handbook"


@pytest.fixture
def fake():
    """Start fakes that end with the test."""
    started = []

    def start(answer):
        started.append(Fake(answer))
        return started[-1]

    yield start
    for one in started:
        one.shutdown()
        one.server_close()


def like_chroma(path):
    """What Chroma answers when it has no collections."""
    if path.endswith("/heartbeat"):
        return 200, '{"nanosecond heartbeat": 1}'
    if path.endswith("/auth/identity"):
        return 200, '{"user_id": "", "tenant": "default_tenant", "databases": ["default_database"]}'
    return 404, '{"error": "NotFoundError", "message": "no such collection"}'


@pytest.fixture
def clock(monkeypatch):
    """Retries wait for nothing."""
    clock = Clock()
    monkeypatch.setattr(chroma_server, "retrying", partial(retries.retrying, sleep=clock.sleep, clock=clock))
    return clock


class TestAnswers:
    def test_no_server_is_said_soon(self, opened, clock):
        """Nothing listens there: host, port and what to check are named, after about two seconds."""
        port = free_port()
        with pytest.raises(StoreUnreachable, match=rf"127\.0\.0\.1:{port} doesn't answer.*chroma run"):
            opened(f"chroma+http://127.0.0.1:{port}/handbook").exists()
        assert clock() == pytest.approx(2)

    @pytest.mark.parametrize("status", [401, 403])
    def test_a_wrong_key_is_said_without_showing_it(self, opened, fake, monkeypatch, status):
        """The key goes out in both headers that servers look at, and into no message."""
        monkeypatch.setenv("CHROMA_API_KEY", "s3cret")
        server = fake(lambda path: (status, "no s3cret for you"))
        with pytest.raises(StoreUnreachable, match=f"{server.server_port} refuses it.*Check the key") as caught:
            opened(server.url()).exists()
        assert "s3cret" not in str(caught.value)
        assert server.requests[0][1]["Authorization"] == "Bearer s3cret"
        assert server.requests[0][1]["x-chroma-token"] == "s3cret"

    def test_a_missing_key_is_said(self, opened, fake, monkeypatch):
        """Without a key the message names the variable."""
        monkeypatch.delenv("CHROMA_API_KEY", raising=False)
        with pytest.raises(StoreUnreachable, match="CHROMA_API_KEY is not set"):
            opened(fake(lambda path: (401, "")).url()).exists()

    @pytest.mark.parametrize(("status", "body"), [(200, "<html>"), (200, "[]"), (404, "<html>"), (410, '{"x": 1}'), (302, "")])
    def test_another_server_is_not_taken_for_chroma(self, opened, fake, status, body):
        """A web server that answers something is named as what it isn't."""
        with pytest.raises(StoreUnreachable, match=r"no Chroma server|not Chroma's"):
            opened(fake(lambda path: (status, body)).url()).exists()

    @pytest.mark.parametrize("status", [429, 500, 503])
    def test_a_busy_server_is_asked_again(self, opened, fake, caplog, clock, status):
        """Two refusals are waited for, each with a warning."""
        refusals = iter([(status, "later"), (status, "later")])
        server = fake(lambda path: like_chroma(path) if "collections" not in path else next(refusals, like_chroma(path)))
        assert opened(server.url()).exists() is False
        assert len([one for one in caplog.records if "trying again" in one.message]) == 2

    def test_a_refusal_is_not_asked_again(self, opened, fake):
        """What is wrong with a request stays wrong."""
        refusal = (400, '{"error": "InvalidArgumentError", "message": "odd"}')
        server = fake(lambda path: like_chroma(path) if "collections" not in path else refusal)
        with pytest.raises(StoreError, match="odd"):
            opened(server.url()).exists()
        assert len([path for path, _ in server.requests if "collections" in path]) == 1

    def test_a_server_that_hangs_is_not_waited_for_without_end(self, opened, fake, monkeypatch, clock):
        """Every request has a limit, which Chroma's own client lacks."""
        monkeypatch.setattr(chroma_server, "_TIMEOUT", httpx.Timeout(0.05))
        hang = threading.Event()
        server = fake(lambda path: (200, str(hang.wait(5))))
        with pytest.raises(StoreUnreachable, match="Timeout"):
            opened(server.url()).exists()
        hang.set()

    def test_a_panic_of_the_core_is_an_error(self, opened, tmp_path):
        """A list in a collection's metadata brings Chroma's core down, with what is no Exception."""
        store = opened(f"chroma:{tmp_path}/handbook")
        store.acquire()
        with pytest.raises(StoreError, match="Panic"):
            store._database.create("other", {"list": [1]})


def test_index_files_of_deleted_collections_go(tmp_path):
    """Chroma leaves a directory for each collection that ever was; a rebuild would leave one of the old collection's size."""
    url, documents = f"chroma:{tmp_path}/sea", [Document("a", "tide"), Document("b", "lamp")]
    for rebuild in (False, True, True, False):  # the last run removes what the one before it left for its readers
        sightline.index(documents=documents, into=url, model=HashEmbedder(), rebuild=rebuild)
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) <= 1
    with sightline.open_collection(url, model=HashEmbedder()) as collection:
        assert collection.search("tide", k=1)[0].text == "tide"
