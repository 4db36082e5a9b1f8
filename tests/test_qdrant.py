"""Facts about the Qdrant store: local mode, a real server where there is one, and a stand-in that speaks its gRPC."""

from __future__ import annotations

import email.utils
import http.server
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import grpc
import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client import grpc as proto
from qdrant_client.local.local_collection import LocalCollection

import sightline
from clocks import Clock
from qdrant_stand_in import NEVER_SET_KB, RunningServer
from sightline import retries
from sightline.errors import CollectionNotFound, StoreError, StoreLocked, StoreUnreachable, UsageError
from sightline.stores import open_store, qdrant, qdrant_directory, qdrant_server
from sightline.stores.filters import matches, parse_filter
from sightline.stores.requests import RequestTooLarge
from sightline.testing import HashEmbedder, StoreConformance
from sightline.types import Document, Head, Point, Quantization, Shortlist, VectorLayout, VectorStorage

CONTRACT = {"format": 1, "model": "hash"}
DIMENSIONS = 8


def make_points(count: int, source: str = "docs/a.md", **fields: Any) -> list[Point]:
    ids = [str(uuid.uuid5(uuid.NAMESPACE_URL, f"{source}#{row}")) for row in range(count)]
    return [Point(one, f"text {row} of {source}", source, **{"metadata": {}, **fields}) for row, one in enumerate(ids)]


def make_vectors(count: int, seed: int = 3) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, DIMENSIONS))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def server() -> Iterator[RunningServer]:
    running = RunningServer()
    yield running
    running.stop()


@pytest.fixture
def store(server: RunningServer) -> Iterator[qdrant.QdrantStore]:
    opened = open_store(server.url())
    yield opened
    opened.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Retries wait for nothing."""
    clock = Clock()
    monkeypatch.setattr(qdrant_server, "retrying", partial(retries.retrying, sleep=clock.sleep, clock=clock))
    return clock


@pytest.fixture
def patient(clock: Clock) -> list[float]:
    """Retries wait for nothing; what they would have waited is noted."""
    return clock.waits


@pytest.fixture
def local(tmp_path: Path) -> Iterator[qdrant.QdrantStore]:
    opened = open_store(f"qdrant:{tmp_path}/kb/handbook")
    yield opened
    opened.close()


class TestLocalMode(StoreConformance):
    """qdrant-client's local mode does what every store does; it writes some 200 points a second."""

    many = 600

    @pytest.fixture
    def store(self, local: qdrant.QdrantStore) -> qdrant.QdrantStore:
        return local


class TestOverTheWire(StoreConformance):
    """What every store does, over gRPC to a stand-in: many requests of many pages, several in flight."""

    many = 1200

    @pytest.fixture
    def store(self, store: qdrant.QdrantStore) -> qdrant.QdrantStore:
        return store


@pytest.mark.skipif("QDRANT_URL" not in os.environ, reason="QDRANT_URL names no Qdrant server, e.g. qdrant://localhost:6334")
class TestServer(StoreConformance):
    """What every store does, on a real server; the collections have names of their own and are removed."""

    @pytest.fixture
    def store(self) -> Iterator[qdrant.QdrantStore]:
        name = f"sightline-test-{uuid.uuid4().hex[:12]}"
        opened = open_store(f"{os.environ['QDRANT_URL'].rstrip('/')}/{name}")
        yield opened
        opened.close()
        client = opened._database._make_client(True, 60)
        for one in client.get_collections().collections:
            if one.name.startswith(name):
                client.delete_collection(one.name)
        client.close()


# Filters

VALUES: list[Any] = [
    3, 3.0, 3.5, 0, -2, 2**53 + 1, 2**60, float(2**60), True, False, 1, "3", "x", "", None, {"a": 3}, [],
    [3, 4], [1, 2.5, 9], [3, 3.0], ["x", "y"], ["x", 3], [True], [True, 1], [[3]], [2**53 + 1], ["3"],
]  # fmt: skip
CONDITIONS: list[Any] = [
    3, 3.0, 3.5, 0, 2**53, 2**53 + 1, 2**60, True, False, 1, "3", "x", "", ["x", 3], [True, "3"], [0, -2.0],
    {"gte": 3}, {"gt": 3}, {"lte": 3}, {"lt": 3.5, "gte": 0}, {"gt": 2**53}, {"lt": 0},
]  # fmt: skip
KEYS = ["key", "a.b", "", 'quoted "key"', "back\\slash", "a[0]", "source"]


def check_filters(opened: Any, points: list[Point], vectors: np.ndarray, key: str) -> None:
    for value in CONDITIONS:
        conditions = parse_filter({key: value})
        wanted = {point.id for point in points if matches(conditions, point.source, point.metadata)}
        hits = opened.search(vectors[0], limit=len(points), filter={key: value})
        assert {hit.id for hit in hits} == wanted, value
        best = opened.search(vectors[0], limit=1, filter={key: value})
        assert [hit.id for hit in best] == [hit.id for hit in hits][:1], value


@pytest.mark.parametrize("key", KEYS)
def test_a_filter_means_what_the_definition_says(store: qdrant.QdrantStore, key: str):
    """Every kind of condition over every kind of value, under keys that a Qdrant path can and can't name."""
    points = [replace(point, metadata={key: value}) for point, value in zip(make_points(len(VALUES)), VALUES, strict=True)]
    vectors = make_vectors(len(points))
    store.create(VectorLayout(DIMENSIONS), CONTRACT)
    store.upsert(points, vectors)
    check_filters(store, points, vectors, key)


def test_a_filter_finds_metadata_at_the_top_of_a_foreign_payload(server: RunningServer):
    """A program that keeps metadata flat beside the text is filtered alike."""
    points = [replace(point, metadata={"key": value}) for point, value in zip(make_points(len(VALUES)), VALUES, strict=True)]
    vectors = make_vectors(len(points))
    payloads = [{"text": point.text, **point.metadata} for point in points]
    make_foreign(server.stand_in.client, "handbook", vectors, payloads, ids=[point.id for point in points])
    with_source = [replace(point, source="") for point in points]
    opened = open_store(server.url())
    check_filters(opened, with_source, vectors, "key")
    opened.close()


# Collections that another program made


def make_foreign(
    client: QdrantClient, name: str, vectors: np.ndarray, payloads: list[dict[str, Any]], *, ids: list[Any] | None = None,
    distance: models.Distance = models.Distance.COSINE, vector_name: str = "",
) -> None:
    params = models.VectorParams(size=vectors.shape[1], distance=distance)
    client.create_collection(name, {vector_name: params} if vector_name else params)
    rows: list[Any] = [{vector_name: row} if vector_name else row for row in vectors.tolist()]
    given = ids or list(range(1, len(rows) + 1))
    points = [models.PointStruct(id=one, vector=row, payload=p) for one, row, p in zip(given, rows, payloads, strict=True)]
    client.upsert(name, points)


def langchain_payloads(count: int) -> list[dict[str, Any]]:
    return [{"page_content": f"text {row}", "metadata": {"source": "theirs.md", "row": row}} for row in range(count)]


def test_a_foreign_collection_is_read(server: RunningServer, store: qdrant.QdrantStore):
    """Length, number, records and hits of a collection without contract; whole-number ids are shown as text."""
    vectors = make_vectors(6)
    make_foreign(server.stand_in.client, "handbook", vectors, langchain_payloads(6))
    assert (store.exists(), store.read_contract(), store.layout().dimensions, store.count()) == (True, None, DIMENSIONS, 6)
    [hit] = store.search(vectors[2], limit=1, filter={"row": {"lt": 5}})
    assert (hit.id, hit.text, hit.source, hit.metadata["row"]) == ("3", "text 2", "theirs.md", 2)
    records = list(store.records())
    assert [record.ours for record in records] == [False] * 6
    assert np.allclose(np.stack([record.vector for record in records]), vectors, atol=1e-6)
    assert (list(store.heads()), store.sources(), store.points("theirs.md"), store.vectors_of(["text 2"])) == ([], {}, [], {})


def test_a_foreign_collection_is_not_written_before_it_is_adopted(server: RunningServer, store: qdrant.QdrantStore):
    """Writing is refused with the command that adopts, and leaves no lease behind; adopted, only ours can be changed."""
    vectors = make_vectors(3)
    make_foreign(server.stand_in.client, "handbook", vectors, langchain_payloads(3))
    with pytest.raises(StoreError, match="sightline adopt"):
        store.upsert(make_points(1), vectors[:1])
    assert [one.name for one in server.stand_in.client.get_collections().collections] == ["handbook"]
    store.write_contract(CONTRACT)
    store.upsert(make_points(2), vectors[:2])
    assert (store.read_contract(), store.count(), store.sources()) == (CONTRACT, 5, {"docs/a.md": 2})
    store.delete([point.id for point in make_points(2)])
    assert store.count() == 3


def test_deleting_leaves_another_programs_points(server: RunningServer, store: qdrant.QdrantStore):
    """A foreign point under an id that is asked for is neither deleted nor updated."""
    [point] = make_points(1)
    make_foreign(server.stand_in.client, "handbook", make_vectors(1), langchain_payloads(1), ids=[point.id])
    store.write_contract(CONTRACT)
    store.delete([point.id])
    store.update([point])
    [record] = store.records()
    assert (record.ours, record.point.source) == (False, "theirs.md")


def test_a_foreign_name_of_the_vector_is_kept(server: RunningServer, store: qdrant.QdrantStore):
    """The only dense vector is used under its name, for reading and, after adoption, for writing."""
    vectors = make_vectors(4)
    make_foreign(server.stand_in.client, "handbook", vectors[:3], langchain_payloads(3), vector_name="text-dense")
    store.write_contract(CONTRACT)
    store.upsert(make_points(1), vectors[3:])
    assert [hit.id for hit in store.search(vectors[3], limit=1)] == [make_points(1)[0].id]
    assert np.allclose(next(iter(store.vectors_of(["text 0 of docs/a.md"]).values())), vectors[3], atol=1e-6)
    [stored] = server.stand_in.client.retrieve("handbook", [make_points(1)[0].id], with_vectors=True)
    assert list(stored.vector) == ["text-dense"]


def test_several_dense_vectors_are_an_error_that_names_them(server: RunningServer, store: qdrant.QdrantStore):
    """Which of them to read can't be guessed."""
    params = models.VectorParams(size=4, distance=models.Distance.COSINE)
    server.stand_in.client.create_collection("handbook", {"image": params, "text": params})
    with pytest.raises(StoreError, match="'image', 'text'"):
        store.count()


@pytest.mark.parametrize("distance", [models.Distance.DOT, models.Distance.EUCLID, models.Distance.MANHATTAN])
def test_scores_are_cosines_whatever_the_distance(server: RunningServer, store: qdrant.QdrantStore, distance: models.Distance):
    """A collection of another distance answers with true cosine similarities, best first."""
    lengths = np.linspace(0.5, 3, 30, dtype=np.float32)[:, None]
    vectors, query = make_vectors(30) * lengths, make_vectors(1, seed=9)[0]
    make_foreign(server.stand_in.client, "handbook", vectors, langchain_payloads(30), distance=distance)
    exact = vectors @ query / np.linalg.norm(vectors, axis=1)
    hits = store.search(query, limit=5)
    assert [int(hit.id) - 1 for hit in hits] == list(np.argsort(-exact)[:5])
    assert np.allclose([hit.score for hit in hits], np.sort(exact)[::-1][:5], atol=1e-5)


def test_points_without_a_vector_are_left_out_aloud(server: RunningServer, store, caplog: pytest.LogCaptureFixture):
    """A record needs a vector; how many had none is logged."""
    make_foreign(server.stand_in.client, "handbook", make_vectors(2), langchain_payloads(2), vector_name="text-dense")
    server.stand_in.client.upsert("handbook", [models.PointStruct(id=9, vector={}, payload={})])
    assert len(list(store.records())) == 2
    assert "1 points" in caplog.text


# Names, swaps and what a killed run leaves


def names(server: RunningServer) -> set[str]:
    return {one.name for one in server.stand_in.client.get_collections().collections}


def alias(server: RunningServer) -> dict[str, str]:
    return {one.alias_name: one.collection_name for one in server.stand_in.client.get_aliases().aliases}


def test_a_name_is_an_alias_from_the_first_run(server: RunningServer, store: qdrant.QdrantStore):
    """`handbook` stands for a collection of its own name, whose payload is indexed before anything is written."""
    store.create(VectorLayout(DIMENSIONS), CONTRACT)
    physical = alias(server)["handbook"]
    assert names(server) == {physical, "handbook.writer"}
    assert physical.startswith("handbook__")
    fields = {"source", "sightline_source", "sightline_text", "sightline_head", "sightline_point"}
    assert set(server.stand_in.indexed) == {(physical, field) for field in fields}


def test_a_swap_is_one_request_and_drops_the_old_collection(server: RunningServer, store: qdrant.QdrantStore):
    """Readers never meet a moment without a collection."""
    store.create(VectorLayout(DIMENSIONS), CONTRACT)
    old = alias(server)["handbook"]
    store.staging().create(VectorLayout(DIMENSIONS), CONTRACT)
    before = server.faults.calls["UpdateAliases"]
    store.promote()
    assert server.faults.calls["UpdateAliases"] == before + 1
    assert alias(server)["handbook"] != old
    assert names(server) == {alias(server)["handbook"], "handbook.writer"}


def test_a_foreign_name_can_not_be_rebuilt(server: RunningServer, store: qdrant.QdrantStore):
    """An alias can't take the name of a collection; the message says to index into another one."""
    make_foreign(server.stand_in.client, "handbook", make_vectors(1), langchain_payloads(1))
    with pytest.raises(StoreError, match="Index into another name"):
        store.staging()


@pytest.mark.parametrize("method", ["CreateFieldIndex", "UpdateAliases"])
def test_a_create_that_was_cut_short_is_swept_away(server: RunningServer, store: qdrant.QdrantStore, method: str):
    """What it made is no collection yet, and the next create removes it."""
    server.faults.failing[method] = [grpc.StatusCode.INVALID_ARGUMENT]
    with pytest.raises(StoreError):
        store.create(VectorLayout(DIMENSIONS), CONTRACT)
    assert store.exists() is False
    assert len(names(server)) == 2
    store.create(VectorLayout(DIMENSIONS), CONTRACT)
    assert names(server) == {alias(server)["handbook"], "handbook.writer"}


def test_only_what_is_ours_is_swept_away(server: RunningServer, store: qdrant.QdrantStore):
    """Collections of another name, or of such a name without our contract, stay."""
    foreign = ["handbook__0123456789ab", "handbook__old", "other"]
    for name in foreign:
        make_foreign(server.stand_in.client, name, make_vectors(1), [{}])
    store.create(VectorLayout(DIMENSIONS), CONTRACT)
    assert names(server) >= set(foreign)


def test_a_collection_that_lost_its_alias_is_not_swept_away(server: RunningServer, store: qdrant.QdrantStore):
    """Somebody may have moved the alias by hand: what was live once is theirs to remove."""
    store.create(VectorLayout(DIMENSIONS), CONTRACT)
    physical = alias(server)["handbook"]
    delete = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name="handbook"))
    server.stand_in.client.update_collection_aliases([delete])
    store.create(VectorLayout(DIMENSIONS), CONTRACT)
    assert physical in names(server)


def test_a_swap_that_was_cut_short_is_finished_by_the_next_writer(server: RunningServer, store: qdrant.QdrantStore, caplog):
    """The alias has moved and the old collection is still there: reading goes on, the next run drops it."""
    store.create(VectorLayout(DIMENSIONS), CONTRACT)
    old = alias(server)["handbook"]
    beside = store.staging()
    beside.create(VectorLayout(DIMENSIONS), {"new": True})
    server.faults.failing["Delete"] = [grpc.StatusCode.INVALID_ARGUMENT]
    store.promote()
    assert "the next run drops it" in caplog.text
    assert old in names(server)
    store.close()
    again = open_store(server.url())
    assert (again.read_contract(), again.staging().exists()) == ({"new": True}, False)
    again.acquire()
    assert names(server) == {alias(server)["handbook"], "handbook.writer"}
    again.close()


def test_pages_of_one_reading_are_of_one_collection(server: RunningServer, store: qdrant.QdrantStore):
    """A reader whose collection is replaced between two pages gets an error, not half of each."""
    store.create(VectorLayout(DIMENSIONS), CONTRACT)
    store.upsert(make_points(600), make_vectors(600))
    reader = open_store(server.url())
    records = reader.records()
    next(records)
    beside = store.staging()
    beside.create(VectorLayout(DIMENSIONS), CONTRACT)
    beside.upsert(make_points(600, "docs/new.md"), make_vectors(600))
    store.promote()
    with pytest.raises(CollectionNotFound):
        list(records)
    assert {record.point.source for record in reader.records()} == {"docs/new.md"}
    reader.close()


# Writers


def test_a_writer_that_was_replaced_commits_nothing(server: RunningServer, store: qdrant.QdrantStore):
    """After another run took over, heads, deletions, marks and swaps are refused."""
    store.create(VectorLayout(DIMENSIONS), CONTRACT)
    [point] = make_points(1)
    store.upsert([point], make_vectors(1))
    store.staging().create(VectorLayout(DIMENSIONS), CONTRACT)
    successor = open_store(server.url())
    with pytest.raises(StoreLocked, match=r"another store object of this process.*--take-over"):
        successor.acquire()
    successor.acquire(take_over=True)
    head = replace(point, head=Head(point.source, "hash", 1, "chunks/1"))
    harm = (lambda: store.upsert([head], make_vectors(1)), lambda: store.update([head]), lambda: store.delete([point.id]))
    for operation in (*harm, lambda: store.write_mark({}), store.promote, store.drop_staging):
        with pytest.raises(StoreLocked, match="took it over"):
            operation()
    assert successor.count() == 1
    assert list(successor.heads()) == []
    successor.close()


def test_indexing_is_put_off_in_a_bulk_load(server: RunningServer, store: qdrant.QdrantStore, monkeypatch):
    """A large write sets a threshold that is never reached; closing restores the old one."""
    monkeypatch.setattr(qdrant_server, "_BULK_POINTS", 20)
    store.create(VectorLayout(DIMENSIONS), CONTRACT)
    physical = alias(server)["handbook"]
    store.upsert(make_points(15), make_vectors(15))
    assert physical not in server.stand_in.thresholds
    store.upsert(make_points(15, "docs/b.md"), make_vectors(15))
    assert server.stand_in.thresholds[physical] > 1e8
    store.close()
    assert server.stand_in.thresholds[physical] == NEVER_SET_KB


def test_indexing_that_somebody_turned_off_stays_off(server: RunningServer, store: qdrant.QdrantStore, monkeypatch):
    """A threshold of 0 is meant: a large write and closing leave it."""
    monkeypatch.setattr(qdrant_server, "_BULK_POINTS", 5)
    store.create(VectorLayout(DIMENSIONS), CONTRACT)
    physical = alias(server)["handbook"]
    server.stand_in.thresholds[physical] = 0
    store.upsert(make_points(10), make_vectors(10))
    store.close()
    assert server.stand_in.thresholds[physical] == 0


def test_indexing_that_a_killed_run_put_off_is_restored_by_the_next(server: RunningServer, store, monkeypatch):
    """What was put off is written beside it, so the next writer knows, for a half-filled rebuild too."""
    monkeypatch.setattr(qdrant_server, "_BULK_POINTS", 5)
    store.create(VectorLayout(DIMENSIONS), CONTRACT)
    store.upsert(make_points(10), make_vectors(10))
    beside = store.staging()
    beside.create(VectorLayout(DIMENSIONS), CONTRACT)
    beside.upsert(make_points(10), make_vectors(10))
    assert all(value > 1e8 for value in server.stand_in.thresholds.values())
    successor = open_store(server.url())
    successor.acquire(take_over=True)
    assert set(server.stand_in.thresholds.values()) == {NEVER_SET_KB}
    successor.close()


def test_a_rebuild_is_indexed_before_it_goes_live(server: RunningServer, store: qdrant.QdrantStore, monkeypatch):
    """Promoting restores the threshold of what was loaded."""
    monkeypatch.setattr(qdrant_server, "_BULK_POINTS", 5)
    store.create(VectorLayout(DIMENSIONS), CONTRACT)
    beside = store.staging()
    beside.create(VectorLayout(DIMENSIONS), CONTRACT)
    beside.upsert(make_points(10), make_vectors(10))
    store.promote()
    assert server.stand_in.thresholds[alias(server)["handbook"]] == NEVER_SET_KB


def test_requests_stay_small(server: RunningServer, store: qdrant.QdrantStore):
    """Large texts make batches of fewer points: no request is beyond 4 MB, though a call is."""
    store.create(VectorLayout(DIMENSIONS), CONTRACT)
    points = [replace(point, text=f"{row}" + "ü" * 50_000) for row, point in enumerate(make_points(100))]
    store.upsert(points, make_vectors(100))
    assert store.count() == 100
    assert 2_000_000 < server.stand_in.largest_request < 4_100_000


def test_threads_share_a_store(store: qdrant.QdrantStore):
    """One thread reads while another writes."""
    share(store)


def test_threads_share_local_mode(local: qdrant.QdrantStore):
    """SQLite's check for threads is off and one call goes after the other."""
    share(local)


def share(opened: Any) -> None:
    opened.create(VectorLayout(DIMENSIONS), CONTRACT)
    vectors = make_vectors(20)
    failures: list[BaseException] = []

    def write(number: int) -> None:
        try:
            opened.upsert(make_points(20, f"docs/{number}.md"), vectors)
            opened.search(vectors[0], limit=3)
            list(opened.records())
        except Exception as error:  # noqa: BLE001  # shown by the assertion
            failures.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert opened.sources() == {f"docs/{number}.md": 20 for number in range(4)}


# What goes wrong on the way


@pytest.mark.parametrize("code", ["UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "INTERNAL"])
def test_a_transient_error_is_tried_again(server: RunningServer, store: qdrant.QdrantStore, patient: list[float], code: str):
    """Twice refused, then written, with two waits."""
    store.create(VectorLayout(DIMENSIONS), CONTRACT)
    server.faults.failing["Upsert"] = [grpc.StatusCode[code]] * 2
    store.upsert(make_points(3), make_vectors(3))
    assert (store.count(), len(patient)) == (3, 2)


@pytest.mark.parametrize("method", ["Create", "UpdateAliases", "Update", "Upsert", "UpdateBatch", "Delete"])
def test_an_answer_that_got_lost_does_no_harm(server: RunningServer, store: qdrant.QdrantStore, patient, method: str):
    """Every request can be made twice: the first one had gone well, and the second one ends the same."""
    store.create(VectorLayout(DIMENSIONS), CONTRACT)
    store.close()
    again = open_store(server.url())
    server.faults.losing = [method] * 2
    beside = again.staging()
    beside.create(VectorLayout(DIMENSIONS), {"new": True})
    beside.upsert(make_points(3), make_vectors(3))
    beside.update(make_points(3, metadata={"a": 1}))
    again.promote()
    again.delete([make_points(3)[0].id])
    assert (again.read_contract(), again.count(), server.faults.losing) == ({"new": True}, 2, [])
    assert [point.metadata for point in again.points("docs/a.md")] == [{"a": 1}] * 2
    again.close()
    assert names(server) == {alias(server)["handbook"]}


def test_a_permanent_error_is_raised_at_once(server: RunningServer, store: qdrant.QdrantStore, patient: list[float]):
    """What the server calls wrong is asked once only, and its words are in the message."""
    store.create(VectorLayout(DIMENSIONS), CONTRACT)
    server.faults.failing["Upsert"] = [grpc.StatusCode.INVALID_ARGUMENT]
    with pytest.raises(StoreError, match="not now"):
        store.upsert(make_points(3), make_vectors(3))
    assert (server.faults.calls["Upsert"], patient) == (1, [])


def test_a_server_that_stops_answering_is_named(server: RunningServer, store: qdrant.QdrantStore, clock: Clock):
    """After four minutes the message has host, port and what to do."""
    store.create(VectorLayout(DIMENSIONS), CONTRACT)
    server.faults.failing["Count"] = [grpc.StatusCode.UNAVAILABLE] * 1000
    with pytest.raises(StoreUnreachable, match=rf"127\.0\.0\.1:{server.port} stopped answering.*same command"):
        store.count()
    assert clock() == pytest.approx(240)


def test_a_reader_is_not_kept_waiting_for_minutes(server: RunningServer, store: qdrant.QdrantStore, clock: Clock):
    """Who holds no lease gives up after twenty seconds."""
    store.create(VectorLayout(DIMENSIONS), CONTRACT)
    reader = open_store(server.url())
    assert reader.count() == 0
    server.faults.failing["Count"] = [grpc.StatusCode.UNAVAILABLE] * 1000
    with pytest.raises(StoreUnreachable):
        reader.count()
    assert clock() == pytest.approx(20)
    reader.close()


@pytest.mark.parametrize("status", [proto.UpdateStatus.Acknowledged, proto.UpdateStatus.WaitTimeout])
def test_a_write_that_is_not_applied_yet_is_repeated(server: RunningServer, store, patient: list[float], status: int):
    """In the log only, or out of time, is not done."""
    store.create(VectorLayout(DIMENSIONS), CONTRACT)
    server.stand_in.statuses = [status]
    store.upsert(make_points(3), make_vectors(3))
    assert (server.faults.calls["Upsert"], len(patient)) == (2, 1)


def test_one_failed_request_of_many_fails_the_call(server: RunningServer, store: qdrant.QdrantStore):
    """An error of any request that was in flight comes through."""
    store.create(VectorLayout(DIMENSIONS), CONTRACT)
    server.faults.failing["Upsert"] = [grpc.StatusCode.INVALID_ARGUMENT]
    with pytest.raises(StoreError):
        store.upsert(make_points(1500), make_vectors(1500))


def test_an_old_server_is_refused(patient: list[float]):
    """Without metadata of collections there is no place for the contract; both versions are named."""
    running = RunningServer(version="1.14.1")
    opened = open_store(running.url())
    with pytest.raises(StoreError, match=r"1\.14\.1.*1\.16\.0"):
        opened.exists()
    opened.close()
    running.stop()


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    """The right key opens; on this machine it needs no encryption, so nothing warns."""
    monkeypatch.setenv("QDRANT_API_KEY", "open-sesame")
    running = RunningServer(key="open-sesame")
    opened = open_store(running.url())
    opened.create(VectorLayout(DIMENSIONS), CONTRACT)
    assert opened.exists()
    opened.close()
    running.stop()
    assert [record for record in caplog.records if record.name.startswith("sightline")] == []


@pytest.mark.parametrize(("key", "said"), [("wrong-key", "was refused"), (None, "is missing")])
def test_a_wrong_key_is_named_but_not_shown(monkeypatch: pytest.MonkeyPatch, caplog, key: str | None, said: str):
    """The message has host and port, says where the key belongs, and holds no key."""
    monkeypatch.delenv("QDRANT_API_KEY", raising=False)
    if key:
        monkeypatch.setenv("QDRANT_API_KEY", key)
    running = RunningServer(key="open-sesame")
    opened = open_store(running.url())
    with pytest.raises(StoreUnreachable, match=f"127.0.0.1:{running.port}.*{said}.*QDRANT_API_KEY") as raised:
        opened.exists()
    opened.close()
    running.stop()
    assert "wrong-key" not in str(raised.value) + caplog.text


# Half of an answer, as one that is told from a whole one, and as one that looks whole.
HALF, CUT = -1, -2


class Answers(http.server.BaseHTTPRequestHandler):
    """REST answers by path, each list used up to its last entry; the paths that were asked are noted."""

    answers: ClassVar[Mapping[str, list[int]]] = {}
    asked: ClassVar[list[str]] = []
    retry_after: ClassVar[str] = "2"
    said: ClassVar[str] = "said so"

    def do_GET(self) -> None:
        self.asked.append(self.path)
        planned = self.answers.get(self.path) or self.answers["*"]
        status = planned.pop(0) if len(planned) > 1 else planned[0]
        body = {"title": "x", "version": "1.19.0"} if self.path == "/" and status == 200 else {"status": {"error": self.said}}
        self.send_response(200 if status in (HALF, CUT) else status)
        if status in (429, 503):
            self.send_header("Retry-After", self.retry_after)
        if status == HALF:
            self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(b'{"result": {' if status in (HALF, CUT) else json.dumps(body).encode())

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""


@pytest.fixture
def rest(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A REST server whose neighbour port, where gRPC is looked for, refuses."""
    monkeypatch.setattr(Answers, "asked", [])
    listening, refusing = neighbours()
    running = http.server.ThreadingHTTPServer(listening.getsockname(), Answers, bind_and_activate=False)
    running.socket.close()
    running.socket = listening
    running.server_activate()
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    yield f"qdrant://127.0.0.1:{refusing.getsockname()[1]}/handbook"
    running.shutdown()
    thread.join()
    running.server_close()
    refusing.close()


def neighbours() -> tuple[socket.socket, socket.socket]:
    """Two sockets bound to ports that follow each other."""
    for _ in range(100):
        first, second = socket.socket(), socket.socket()
        first.bind(("127.0.0.1", 0))
        try:
            second.bind(("127.0.0.1", first.getsockname()[1] + 1))
        except OSError:
            first.close()
            second.close()
            continue
        return first, second
    raise RuntimeError("no two free ports side by side")


def test_rest_is_used_where_grpc_does_not_answer(rest: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    """With one warning, and the answers are understood."""
    monkeypatch.setattr(Answers, "answers", {"/": [200], "*": [404]})
    opened = open_store(rest)
    assert (opened.exists(), opened.exists()) == (False, False)
    opened.close()
    assert [record.message.count("REST only") for record in caplog.records if record.name.startswith("sightline")] == [1]


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_refused_over_rest_is_named(rest: str, monkeypatch: pytest.MonkeyPatch, patient: list[float], status: int):
    """A proxy that answers for the server is understood, and not asked again."""
    monkeypatch.setattr(Answers, "answers", {"*": [status]})
    opened = open_store(rest)
    with pytest.raises(StoreUnreachable, match="QDRANT_API_KEY"):
        opened.exists()
    opened.close()
    assert (len(Answers.asked), patient) == (1, [])


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_a_busy_rest_server_is_asked_again(rest: str, monkeypatch: pytest.MonkeyPatch, patient: list[float], status: int):
    """Time-outs, rate limits and server errors pass; a wait that the server names is kept."""
    monkeypatch.setattr(Answers, "answers", {"/": [200], "*": [status, status, 404]})
    opened = open_store(rest)
    assert opened.exists() is False
    opened.close()
    assert len(patient) == 2
    assert all(wait >= 2 for wait in patient) or status != 429


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "date", "nonsense"])
def test_what_a_rest_server_asks_for_is_waited_for(
    rest: str, monkeypatch: pytest.MonkeyPatch, patient: list[float], status: int, form: str
):
    """As seconds or as a date, which qdrant-client doesn't read; what is neither is no error of its own."""
    text = {"seconds": "9", "date": email.utils.formatdate(time.time() + 10, usegmt=True), "nonsense": "later"}[form]
    monkeypatch.setattr(Answers, "retry_after", text)
    monkeypatch.setattr(Answers, "answers", {"/": [200], "*": [status, 404]})
    opened = open_store(rest)
    assert opened.exists() is False
    opened.close()
    assert len(patient) == 1
    assert patient[0] <= 1 if form == "nonsense" else 8 <= patient[0] <= 11


@pytest.mark.parametrize("cut", [HALF, CUT])
def test_half_an_answer_over_rest_is_asked_for_again(rest: str, monkeypatch: pytest.MonkeyPatch, patient, cut: int):
    """Whether the connection tells or not."""
    monkeypatch.setattr(Answers, "answers", {"/": [200], "*": [cut, cut, 404]})
    opened = open_store(rest)
    assert opened.exists() is False
    opened.close()
    assert len(patient) == 2


@pytest.mark.parametrize("status", [400, 413])
def test_too_large_over_rest_is_understood(rest: str, monkeypatch: pytest.MonkeyPatch, patient: list[float], status: int):
    """Qdrant itself says it with status 400, a proxy before it with 413."""
    monkeypatch.setattr(Answers, "said", "Payload error: JSON payload (40000000 bytes) is larger than allowed (limit: 33554432).")
    monkeypatch.setattr(Answers, "answers", {"/": [200], "*": [status]})
    opened = open_store(rest)
    with pytest.raises(RequestTooLarge, match="larger than allowed"):
        opened.exists()
    opened.close()
    assert patient == []


@pytest.mark.parametrize("status", [400, 409, 422, 507])
def test_a_permanent_rest_error_is_raised_at_once(rest: str, monkeypatch: pytest.MonkeyPatch, patient: list[float], status: int):
    """A wrong request stays wrong, and a quota that is used up is not emptied by waiting."""
    monkeypatch.setattr(Answers, "answers", {"/": [200], "*": [status]})
    opened = open_store(rest)
    with pytest.raises(StoreError, match="said so"):
        opened.exists()
    opened.close()
    assert patient == []


def test_an_unreachable_server_is_named(patient: list[float]):
    """Nobody listens: host, ports and what to check, after a few attempts in about two seconds."""
    first, second = neighbours()
    opened = open_store(f"qdrant://127.0.0.1:{second.getsockname()[1]}/handbook")
    with pytest.raises(StoreUnreachable, match=rf"127\.0\.0\.1:{second.getsockname()[1]} .*REST on port.*qdrant\+https"):
        opened.exists()
    opened.close()
    first.close()
    second.close()
    assert sum(patient) == pytest.approx(2)


def test_the_rest_port_stands_for_both(monkeypatch: pytest.MonkeyPatch):
    """6333 is where people see Qdrant; gRPC is looked for at 6334 beside it."""
    opened = open_store("qdrant://127.0.0.1:6333/handbook")
    assert (opened._database._rest_port, opened._database._grpc_port) == (6333, 6334)
    opened.close()


# Directories of local mode


def test_nothing_is_made_on_disk_before_create(local: qdrant.QdrantStore, tmp_path: Path):
    """Asking whether there is a collection makes neither directory nor lock."""
    assert local.exists() is False
    with pytest.raises(CollectionNotFound):
        local.count()
    assert list(tmp_path.iterdir()) == []


def test_local_mode_knows_what_it_takes_on_disk(local: qdrant.QdrantStore, store: qdrant.QdrantStore):
    """A directory can be measured, a server can't."""
    assert local.disk_bytes() == 0
    local.create(VectorLayout(DIMENSIONS), CONTRACT)
    empty = local.disk_bytes()
    local.upsert(make_points(50), make_vectors(50))
    assert 0 < empty < local.disk_bytes()
    assert store.disk_bytes() is None


def test_collections_share_a_directory(tmp_path: Path):
    """A second name beside the first one is a collection of its own."""
    for name in ("first", "second"):
        opened = open_store(f"qdrant:{tmp_path}/kb/{name}")
        opened.create(VectorLayout(DIMENSIONS), {"name": name})
        opened.close()
    for name in ("first", "second"):
        opened = open_store(f"qdrant:{tmp_path}/kb/{name}")
        assert opened.read_contract() == {"name": name}
        opened.close()


def test_a_directory_from_elsewhere_is_not_opened(tmp_path: Path):
    """Local mode unpickles, so what bears no mark of ours is refused, for reading too."""
    client = QdrantClient(path=str(tmp_path / "kb"))
    make_foreign(client, "handbook", make_vectors(2), langchain_payloads(2))
    client.close()
    before = sorted(path.name for path in (tmp_path / "kb").iterdir())
    opened = open_store(f"qdrant:{tmp_path}/kb/handbook")
    for operation in (opened.exists, opened.count, opened.acquire, lambda: opened.create(VectorLayout(DIMENSIONS), CONTRACT)):
        with pytest.raises(UsageError, match="unpickles"):
            operation()
    opened.close()
    assert sorted(path.name for path in (tmp_path / "kb").iterdir()) == before


@pytest.mark.parametrize("content", ['{"format": 2}', "[]", "{}", "{"])
def test_a_mark_of_another_version_is_refused(tmp_path: Path, content: str):
    """A format that this Sightline doesn't know is neither read nor overwritten."""
    (tmp_path / "sightline-qdrant.json").write_text(content)
    opened = open_store(f"qdrant:{tmp_path}/handbook")
    with pytest.raises(StoreError, match=r"sightline-qdrant\.json"):
        opened.exists()
    opened.close()


def test_a_file_is_no_directory(tmp_path: Path):
    """A path that is a file is named as such."""
    (tmp_path / "kb").write_text("")
    opened = open_store(f"qdrant:{tmp_path}/kb/handbook")
    with pytest.raises(UsageError, match="is a file"):
        opened.create(VectorLayout(DIMENSIONS), CONTRACT)
    opened.close()


def test_a_start_killed_at_its_first_write_is_mended(local: qdrant.QdrantStore, tmp_path: Path):
    """The client leaves an empty list of collections then, which it can't read itself."""
    local.create(VectorLayout(DIMENSIONS), CONTRACT)
    local.close()
    shutil.rmtree(tmp_path / "kb" / "collection")
    (tmp_path / "kb" / "meta.json").write_text("")
    again = open_store(local.url)
    assert again.exists() is False
    again.create(VectorLayout(DIMENSIONS), CONTRACT)
    again.close()


def test_another_program_in_the_directory_is_named(local: qdrant.QdrantStore, tmp_path: Path):
    """qdrant-client lets one in at a time, and doesn't know our lock."""
    local.create(VectorLayout(DIMENSIONS), CONTRACT)
    local.close()
    client = QdrantClient(path=str(tmp_path / "kb"))
    again = open_store(local.url)
    with pytest.raises(StoreLocked, match="without Sightline"):
        again.count()
    client.close()
    assert again.count() == 0
    again.close()


@pytest.mark.slow
def test_two_processes_take_turns(local: qdrant.QdrantStore):
    """A second process, reading too, is told which one holds the directory."""
    local.create(VectorLayout(DIMENSIONS), CONTRACT)
    code = (
        "import sys\nfrom sightline.stores import open_store\nstore = open_store(sys.argv[1])\n"
        "try:\n    print(store.count())\nexcept Exception as error:\n    print(type(error).__name__, error)\nstore.close()"
    )
    asked = [sys.executable, "-c", code, local.url]
    refused = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    assert refused.startswith("StoreLocked")
    assert f"process {os.getpid()}" in refused
    local.close()
    assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip() == "0"


def test_a_large_local_collection_is_one_log_line(local: qdrant.QdrantStore, monkeypatch, caplog: pytest.LogCaptureFixture):
    """The client's own warning doesn't reach the program, which might treat it as an error."""
    monkeypatch.setattr(qdrant_directory, "_LOCAL_MODE_POINTS", 10)
    monkeypatch.setattr(LocalCollection, "LARGE_DATA_THRESHOLD", 10)
    local.create(VectorLayout(DIMENSIONS), CONTRACT)
    for name in ("docs/a.md", "docs/b.md"):
        local.upsert(make_points(8, name), make_vectors(8))
    local.close()
    assert ["16 points" in record.message for record in caplog.records if record.levelno >= logging.WARNING] == [True]
    caplog.clear()
    again = open_store(local.url)
    assert again.count() == 16
    again.close()
    assert ["16 points" in record.message for record in caplog.records if record.levelno >= logging.WARNING] == [True]


def test_acknowledged_points_survive_a_kill(tmp_path: Path):
    """A process killed in the middle of a batch leaves all that was acknowledged, and the lock is free."""
    url = f"qdrant:{tmp_path}/kb/handbook"
    code = (
        "import sys\nsys.path.insert(0, sys.argv[2])\n"
        "from test_qdrant import CONTRACT, DIMENSIONS, VectorLayout, make_points, make_vectors, open_store\n"
        "store = open_store(sys.argv[1])\nstore.create(VectorLayout(DIMENSIONS), CONTRACT)\n"
        "store.upsert(make_points(20), make_vectors(20))\n"
        "print('written', flush=True)\nstore.upsert(make_points(5000, 'docs/b.md'), make_vectors(5000))"
    )
    child = subprocess.Popen([sys.executable, "-c", code, url, str(Path(__file__).parent)], stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "written\n"
        child.kill()
    opened = open_store(url)
    assert opened.sources()["docs/a.md"] == 20
    opened.upsert(make_points(5, "docs/b.md"), make_vectors(5))
    opened.close()


# Several lengths and quantisation


def test_a_shortlist_is_one_request(server: RunningServer, store: qdrant.QdrantStore):
    """Candidates and rescoring travel together; nothing is said of quantisation where there is none."""
    store.create(VectorLayout(DIMENSIONS, (4,)), CONTRACT)
    store.upsert(make_points(20), make_vectors(20))
    before = server.faults.calls["Query"]
    store.search(make_vectors(1)[0], limit=3, shortlist=Shortlist(4, 10))
    [request] = server.stand_in.queries
    assert server.faults.calls["Query"] - before == 1
    assert (request.limit, request.using, request.HasField("params")) == (3, "", False)
    assert [(one.using, one.limit, len(one.query.nearest.dense.data)) for one in request.prefetch] == [("4", 10, 4)]


@pytest.mark.parametrize("kind", Quantization)
def test_a_quantised_search_asks_for_the_vectors_themselves(kind: Quantization, server: RunningServer, store: qdrant.QdrantStore):
    """The last word is the original vectors': rescored by default, and in the second step of a shortlist nothing else."""
    store.create(VectorLayout(DIMENSIONS, (4,), kind), CONTRACT)
    assert store.layout().quantization == kind
    store.upsert(make_points(20), make_vectors(20))
    store.search(make_vectors(1)[0], limit=3)
    store.search(make_vectors(1)[0], limit=3, shortlist=Shortlist(4, 10))
    alone, two_steps = (one.params.quantization for one in server.stand_in.queries)
    assert (alone.rescore, alone.oversampling >= 2, two_steps.ignore) == (True, True, True)
    first = server.stand_in.queries[1].prefetch[0].params.quantization
    assert (first.HasField("rescore"), first.rescore) == (True, False)


def test_a_server_that_is_too_old_to_add_a_length_says_so():
    """1.18 came with it."""
    running = RunningServer(version="1.17.0")
    store = open_store(running.url())
    try:
        store.create(VectorLayout(DIMENSIONS), CONTRACT)
        with pytest.raises(StoreError, match=r"too old.*1\.18"):
            store.add_dimension(4)
    finally:
        store.close()
        running.stop()


def test_an_addition_whose_answer_was_lost_is_made_once(server: RunningServer, store: qdrant.QdrantStore, patient: list[float]):
    """The same request again changes nothing."""
    store.create(VectorLayout(DIMENSIONS), CONTRACT)
    store.upsert(make_points(20), make_vectors(20))
    server.faults.losing += ["CreateVectorName", "UpdateVectors"]
    assert store.add_dimension(4) == 20
    assert len(store.search(make_vectors(1)[0, :4], limit=20)) == 20


def test_local_mode_refuses_what_it_would_ignore(local: qdrant.QdrantStore):
    """It takes such settings and searches float32 all the same."""
    for layout in (VectorLayout(DIMENSIONS, (), Quantization.SCALAR), VectorLayout(DIMENSIONS, storage=VectorStorage.FLOAT16)):
        with pytest.raises(StoreError, match="edge:DIR and a server"):
            local.create(layout, CONTRACT)


def test_files_of_a_collection_that_no_list_names_go(tmp_path: Path) -> None:
    """The client makes the files first and lists them then, and a kill in between leaves them; others' stay."""
    url = f"qdrant:{tmp_path / 'db'}/sea"
    sightline.index(documents=[Document("a", "tide")], into=url, model=HashEmbedder())
    folder = tmp_path / "db" / "collection"
    (known,) = [path.name for path in folder.iterdir()]
    for name in ("sea__0123456789ab", "theirs"):
        (folder / name).mkdir()
    with sightline.open_collection(url, model=HashEmbedder()) as collection:
        assert collection.count() == 1
    assert {path.name for path in folder.iterdir()} == {known, "theirs"}
