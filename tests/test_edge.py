"""Facts about Qdrant Edge: the conformance suite, its directory, taking turns, rebuilds and its search index."""

import json
import os
import subprocess
import sys
import uuid
from contextlib import closing

import numpy as np
import pytest

from sightline.cutting import cut
from sightline.errors import DimensionError, StoreError, StoreLocked, UsageError
from sightline.stores import edge, open_store, turns
from sightline.stores.locks import FileLock
from sightline.stores.payload import text_digest
from sightline.testing import StoreConformance
from sightline.types import Head, Point, VectorLayout

VECTORS = np.eye(4, dtype=np.float32)


def shard_of(directory):
    """The only shard that there is."""
    [shard] = [entry for entry in directory.glob("shard-*") if entry.is_dir()]
    return shard


def point(row: int = 0, source: str = "docs/a.md", **metadata: object) -> Point:
    return Point(str(uuid.UUID(int=row + 1)), f"text {row}", source, metadata)


class TestConformance(StoreConformance):
    @pytest.fixture
    def store(self, tmp_path):
        store = open_store(f"edge:{tmp_path}/a b/kb")
        yield store
        store.close()


class TestDirectory:
    def test_a_directory_with_other_things_is_refused(self, opened, tmp_path):
        """Nothing is written into somebody's folder, not even the lock."""
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(UsageError, match=r"notes\.txt"):
            opened(f"edge:{tmp_path}").create(VectorLayout(4), {})
        assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]

    def test_a_file_is_refused(self, opened, tmp_path):
        """A path to a file can't become a directory."""
        (tmp_path / "kb").write_text("mine")
        store = opened(f"edge:{tmp_path}/kb")
        assert store.exists() is False
        with pytest.raises(UsageError, match="names a file"):
            store.create(VectorLayout(4), {})
        with pytest.raises(UsageError):
            opened(f"edge:{tmp_path}/kb/below").create(VectorLayout(4), {})

    def test_an_empty_directory_is_taken(self, opened, tmp_path):
        """A directory that is there but empty becomes a collection."""
        store = opened(f"edge:{tmp_path}")
        store.create(VectorLayout(4), {})
        assert store.exists()

    def test_a_create_that_was_killed_can_be_repeated(self, opened, tmp_path):
        """What lies there before the manifest does is removed and made anew."""
        store = opened(f"edge:{tmp_path}")
        store.create(VectorLayout(4), {})
        store.close()
        (tmp_path / "sightline.json").rename(tmp_path / "sightline.json.tmp")
        again = opened(f"edge:{tmp_path}")
        assert again.exists() is False
        again.create(VectorLayout(4), {"second": True})
        assert again.count() == 0
        again.close()
        assert len([entry for entry in tmp_path.glob("shard-*") if entry.is_dir()]) == 1

    def test_a_newer_format_is_refused(self, opened, tmp_path):
        """A collection of a later Sightline is not guessed at."""
        opened(f"edge:{tmp_path}").create(VectorLayout(4), {})
        manifest = json.loads((tmp_path / "sightline.json").read_text())
        (tmp_path / "sightline.json").write_text(json.dumps(manifest | {"format": 3}))
        with pytest.raises(StoreError, match="format 3; this Sightline reads formats 1 to 2"):
            opened(f"edge:{tmp_path}").read_contract()

    @pytest.mark.parametrize(
        "change", [{"shard": "../elsewhere"}, {"shard": "shard-../../x"}, {"dimensions": "4"}, {"contract": 1}, {"more": 1}]
    )
    def test_an_odd_manifest_is_refused(self, opened, tmp_path, change):
        """A manifest never leads out of its directory."""
        store = opened(f"edge:{tmp_path}")
        store.create(VectorLayout(4), {})
        store.close()
        manifest = json.loads((tmp_path / "sightline.json").read_text())
        manifest["current"] |= change
        (tmp_path / "sightline.json").write_text(json.dumps(manifest))
        with pytest.raises(StoreError, match="not a manifest"):
            opened(f"edge:{tmp_path}").count()

    def test_a_broken_manifest_is_refused(self, opened, tmp_path):
        """Text that isn't JSON is named, not taken for an absent collection."""
        (tmp_path / "sightline.json").write_text("{")
        with pytest.raises(StoreError, match=r"sightline\.json can't be read"):
            opened(f"edge:{tmp_path}").read_contract()

    def test_vectors_are_equal_to_the_bit(self, opened, tmp_path):
        """Edge gives unit vectors back exactly."""
        rows = cut(np.random.default_rng(1).normal(size=(200, 96)).astype(np.float32), 96)
        store = opened(f"edge:{tmp_path}")
        store.create(VectorLayout(96), {})
        points = [point(row) for row in range(200)]
        store.upsert(points, rows)
        found = {record.point.id: record.vector for record in store.records()}
        assert np.array_equal(np.stack([found[one.id] for one in points]), rows)

    def test_its_payload_is_what_the_frameworks_read(self, opened, tmp_path):
        """Text, nested metadata with the source, the source at the top, and our integers."""
        from qdrant_edge import EdgeShard

        store = opened(f"edge:{tmp_path}")
        store.create(VectorLayout(4), {})
        metadata = {"lang": "en", "draft": True, "tags": [False, "x"]}
        first = Point(point().id, "text 0", "docs/a.md", metadata, Head("docs/a.md", "abc", 1, "c1"))
        store.upsert([first], VECTORS[:1])
        store.close()
        shard = EdgeShard.load(str(next(entry for entry in tmp_path.glob("shard-*") if entry.is_dir())))
        payload = shard.retrieve([first.id], True, False)[0].payload
        indexed = set(shard.info().payload_schema)
        shard.close()
        ours = {"sightline_source", "sightline_head", "sightline_text", "sightline_point", "sightline_flags"}
        assert indexed == {"source", *ours}
        assert payload == {
            "page_content": "text 0", "source": "docs/a.md",
            "metadata": {"source": "docs/a.md", "lang": "en", "draft": True, "tags": [False, "x"]},
            "sightline_source": "docs/a.md",
            "sightline_point": 1, "sightline_text": text_digest("text 0"), "sightline_flags": ["draft=true", "tags=false"],
            "sightline_head": 1, "sightline_hash": "abc", "sightline_chunks": 1, "sightline_settings": "c1",
        }  # fmt: skip

    def test_a_program_that_uses_edge_alone_is_noticed(self, opened, tmp_path):
        """A shard that is held without our lock is reported as held, too."""
        from qdrant_edge import EdgeShard

        url = f"edge:{tmp_path}/kb"
        store = opened(url)
        store.create(VectorLayout(4), {})
        store.close()
        shard = EdgeShard.load(str(next(entry for entry in (tmp_path / "kb").glob("shard-*") if entry.is_dir())))
        with pytest.raises(StoreLocked, match="without Sightline"):
            opened(url).count()
        shard.close()
        assert opened(url).count() == 0

    def test_points_of_another_program_are_not_deleted(self, opened, tmp_path):
        """Only marked points are ever removed, whoever knows their ids."""
        from qdrant_edge import EdgeShard, Point, UpdateOperation

        store = opened(f"edge:{tmp_path}/kb")
        store.create(VectorLayout(4), {})
        store.upsert([point(0)], VECTORS[:1])
        store.close()
        shard = EdgeShard.load(str(shard_of(tmp_path / "kb")))
        shard.update(UpdateOperation.upsert_points([Point(point(1).id, VECTORS[1], {"theirs": 1})]))
        shard.close()
        again = opened(store.url)
        again.delete([point(0).id, point(1).id, point(2).id])
        assert [record.point.id for record in again.records()] == [point(1).id]

    def test_a_point_without_a_vector_is_told(self, opened, tmp_path):
        """The engine takes such points; nobody gets something else for a vector."""
        from qdrant_edge import EdgeShard, Point, UpdateOperation

        store = opened(f"edge:{tmp_path}/kb")
        store.create(VectorLayout(4), {})
        store.close()
        shard = EdgeShard.load(str(shard_of(tmp_path / "kb")))
        shard.update(UpdateOperation.upsert_points([Point(point().id, {}, {})]))
        shard.close()
        with pytest.raises(StoreError, match=f"{point().id} .* has no vector"):
            list(opened(store.url).records())


class TestDamage:
    @pytest.fixture
    def shard(self, opened, tmp_path):
        """The shard of a collection of two points that is closed."""
        store = opened(f"edge:{tmp_path}/kb")
        store.create(VectorLayout(4), {})
        store.upsert([point(0), point(1)], VECTORS[:2])
        store.close()
        return shard_of(tmp_path / "kb")

    def test_a_shard_that_is_gone_is_told(self, opened, shard):
        """It is an error with a way out, not an empty collection."""
        shard.rename(shard.with_name("elsewhere"))
        with pytest.raises(StoreError, match="restore it, or index again into a new one"):
            opened(f"edge:{shard.parent}").count()
        assert not shard.exists()

    @pytest.mark.parametrize("damaged", ["edge_config.json", "segments/*/segment.json", "segments/*/vector_storage/**/*.dat"])
    def test_a_shard_that_is_damaged_is_told(self, opened, shard, damaged):
        """Also where the engine panics, which is no `Exception`; the shard is nobody's afterwards."""
        for path in shard.glob(damaged):
            path.write_bytes(b"")
        for _ in range(2):
            with pytest.raises(StoreError, match="restore it, or index again into a new one") as caught:
                opened(f"edge:{shard.parent}").count()
            assert not isinstance(caught.value, StoreLocked)


# Another process that has a collection open, tells so, does something, and stays until its input ends.
OTHER_PROCESS = """
import sys, numpy as np, uuid
from sightline.stores import open_store
from sightline.types import Point, VectorLayout
store = open_store(sys.argv[1])
if sys.argv[2] == "writing":
    store.acquire()
    vectors = np.random.default_rng(1).normal(size=(256, 4)).astype(np.float32)
    number = 0
    print("ready", flush=True)
    while number < 200:
        number += 1
        store.upsert([Point(str(uuid.uuid4()), "t", "s", {}) for _ in range(256)], vectors)
    print(number, flush=True)
else:
    print("ready", store.count(), flush=True)
    sys.stdin.read()
    print(store.count(), flush=True)
store.close()
"""


@pytest.fixture
def started():
    """`started(url, what)` is such a process, when it is ready."""
    processes = []

    def start(url, what):
        command = [sys.executable, "-c", OTHER_PROCESS, url, what]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert processes[-1].stdout.readline().startswith("ready")
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


class TestTurns:
    def test_an_idle_reader_elsewhere_gives_way_and_reads_on_later(self, opened, started, tmp_path):
        """An application may keep its collection open while another process writes into it."""
        store = opened(f"edge:{tmp_path}/kb")
        store.create(VectorLayout(4), {})
        other = started(store.url, "reading")
        store.upsert([point(0), point(1)], VECTORS[:2])
        assert store.count() == 2
        out, _ = other.communicate("", timeout=30)
        assert out == "2\n"

    @pytest.mark.slow
    def test_a_search_needs_not_wait_for_the_end_of_a_run(self, opened, started, tmp_path):
        """The writer gives its shard up between two writes, and goes on afterwards."""
        store = opened(f"edge:{tmp_path}/kb")
        store.create(VectorLayout(4), {})
        store.close()
        other = started(store.url, "writing")
        reader = opened(store.url)
        assert reader.search(VECTORS[0], limit=3) is not None
        assert other.poll() is None
        reader.close()
        out, _ = other.communicate(timeout=60)
        assert out == "200\n"
        assert opened(store.url).count() == 200 * 256

    def test_a_killed_process_has_nothing_open(self, opened, started, tmp_path):
        """What it had is free at once."""
        store = opened(f"edge:{tmp_path}/kb")
        store.create(VectorLayout(4), {})
        other = started(store.url, "reading")
        other.kill()
        other.wait()
        store.upsert([point()], VECTORS[:1])
        assert store.count() == 1

    def test_two_stores_of_one_process_take_turns(self, opened, tmp_path):
        """A collection that is open for searching doesn't block an index run in the same program."""
        writer = opened(f"edge:{tmp_path}/kb")
        writer.create(VectorLayout(4), {})
        reader = opened(writer.url)
        for row in range(3):
            writer.upsert([point(row)], VECTORS[row : row + 1])
            assert reader.count() == row + 1

    def test_who_waits_too_long_is_told_for_whom(self, opened, tmp_path, monkeypatch):
        """A holder that doesn't give way is named."""
        store = opened(f"edge:{tmp_path}/kb")
        store.create(VectorLayout(4), {})
        store.close()
        [shard] = [entry for entry in (tmp_path / "kb").glob("shard-*") if entry.is_dir()]
        lock = FileLock(shard.with_name(f"{shard.name}.lock"))
        assert lock.try_acquire()
        monkeypatch.setattr(turns, "WAIT_S", 0.1)
        with pytest.raises(StoreLocked, match="held by another store object of this process, which didn't let go"):
            opened(store.url).count()
        lock.release()
        assert opened(store.url).count() == 0

    def test_a_directory_that_cannot_be_written_is_told(self, opened, tmp_path, monkeypatch):
        """Readers lock what they read."""
        store = opened(f"edge:{tmp_path}/kb")
        store.create(VectorLayout(4), {})
        store.close()
        monkeypatch.setattr("os.open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
        with pytest.raises(StoreError, match="must be writable, for readers too"):
            opened(store.url).count()

    def test_who_waited_for_a_shard_that_went_gets_the_new_one(self, opened, tmp_path, monkeypatch):
        """A rebuild may end between asking for a shard and getting it."""
        store = opened(f"edge:{tmp_path}/kb")
        store.create(VectorLayout(4), {})
        beside = store.staging()
        beside.create(VectorLayout(4), {"new": 1})
        beside.upsert([point()], VECTORS[:1])
        reader, take = opened(store.url), turns.Turn.take

        def take_late(turn):
            monkeypatch.undo()
            store.promote()
            take(turn)

        monkeypatch.setattr(turns.Turn, "take", take_late)
        assert reader.count() == 1

    def test_a_request_of_a_dead_process_is_forgotten(self, opened, tmp_path):
        """Nobody renews it, so nobody gives way for it."""
        store = opened(f"edge:{tmp_path}/kb")
        store.create(VectorLayout(4), {})
        [shard] = [entry for entry in (tmp_path / "kb").glob("shard-*") if entry.is_dir()]
        wanted = shard.with_name(f"{shard.name}.wanted")
        wanted.touch()
        os.utime(wanted, (0, 0))
        turn = store._opened.turn
        turn._since = 0.0
        assert not turn.is_over()
        wanted.touch()
        assert turn.is_over()


class TestRebuild:
    def test_a_reader_elsewhere_finds_the_new_collection(self, opened, started, tmp_path):
        """It had the old shard open, gives it up, and reads the new one at its next operation."""
        store = opened(f"edge:{tmp_path}/kb")
        store.create(VectorLayout(4), {})
        other = started(store.url, "reading")
        beside = store.staging()
        beside.create(VectorLayout(4), {"new": 1})
        beside.upsert([point(0), point(1), point(2)], VECTORS[:3])
        store.promote()
        out, _ = other.communicate("", timeout=30)
        assert out == "3\n"
        store.close()
        assert len([entry for entry in (tmp_path / "kb").glob("shard-*") if entry.is_dir()]) == 1

    def test_a_reader_that_is_stuck_does_not_undo_it(self, opened, tmp_path, monkeypatch, caplog):
        """The swap is done; the old shard goes when somebody writes after its reader let go."""
        store = opened(f"edge:{tmp_path}/kb")
        store.create(VectorLayout(4), {})
        store.close()
        old = shard_of(tmp_path / "kb")
        stuck = FileLock(old.with_name(f"{old.name}.lock"))
        assert stuck.try_acquire()
        monkeypatch.setattr(turns, "WAIT_S", 0.1)
        rebuild = lambda one: (one.staging().create(VectorLayout(4), {"new": 1}), one.promote())  # noqa: E731
        for write in (rebuild, lambda one: one.write_mark({"a": 1})):
            again = opened(store.url)
            write(again)
            assert (again.read_contract(), old.exists()) == ({"new": 1}, True)
            again.close()
        assert caplog.text.count("an old shard stays until the next writer comes") == 2
        stuck.release()
        opened(store.url).acquire()
        assert not old.exists()

    def test_nobody_reads_half_of_each(self, opened, tmp_path, monkeypatch):
        """Who was in the middle of reading the old collection is told, and reads the new one when asking again."""
        monkeypatch.setattr(edge, "_RECORDS_PER_PAGE", 2)
        store = opened(f"edge:{tmp_path}/kb")
        store.create(VectorLayout(4), {})
        store.upsert([point(row, "old") for row in range(4)], VECTORS)
        reader = opened(store.url)
        records = reader.records()
        assert next(records).point.source == "old"
        beside = store.staging()
        beside.create(VectorLayout(4), {})
        beside.upsert([point(row, "new") for row in range(4)], VECTORS)
        store.promote()
        assert next(records).point.source == "old"
        with pytest.raises(StoreError, match="was rebuilt while it was read"):
            next(records)
        assert [record.point.source for record in reader.records()] == ["new"] * 4

    def test_a_reader_is_told_that_the_dimensions_are_others(self, opened, tmp_path):
        """A query of the old length is measured by the collection that is searched."""
        store = opened(f"edge:{tmp_path}/kb")
        store.create(VectorLayout(4), {})
        reader = opened(store.url)
        assert reader.search(VECTORS[0], limit=1) == []
        store.staging().create(VectorLayout(8), {})
        store.promote()
        with pytest.raises(DimensionError, match="4 dimensions; this collection takes 8"):
            reader.search(VECTORS[0], limit=1)

    def test_shards_that_nobody_names_go_with_the_next_writer(self, opened, tmp_path):
        """What a killed promotion or creation left; what the manifest names stays."""
        store = opened(f"edge:{tmp_path}/kb")
        store.create(VectorLayout(4), {})
        store.upsert([point()], VECTORS[:1])
        store.staging().create(VectorLayout(4), {"new": 1})
        store.close()
        orphan = tmp_path / "kb" / "shard-0123456789ab"
        orphan.mkdir()
        again = opened(store.url)
        assert again.count() == 1
        assert orphan.exists()
        again.acquire()
        assert not orphan.exists()
        assert (again.count(), again.staging().count()) == (1, 0)


class TestOptimize:
    @pytest.fixture
    def indexed(self, monkeypatch):
        """The shards that would have got their index, were it built."""
        shards = []

        def run(command, **_options):
            shards.append(command[-1])
            return subprocess.CompletedProcess(command, 0, "", "")

        monkeypatch.setattr(edge, "_OPTIMIZE_FROM", 1)
        monkeypatch.setattr(edge.subprocess, "run", run)
        return shards

    def test_a_rebuilt_collection_gets_its_index_too(self, opened, tmp_path, indexed):
        """Once, when it is in its place."""
        store = opened(f"edge:{tmp_path}/kb")
        store.create(VectorLayout(4), {})
        beside = store.staging()
        beside.create(VectorLayout(4), {})
        beside.upsert([point(row) for row in range(4)], VECTORS)
        store.promote()
        store.close()
        assert indexed == [shard_of(tmp_path / "kb").name]

    def test_an_unfinished_rebuild_gets_none(self, opened, tmp_path, indexed):
        """The run that finishes it builds the index."""
        store = opened(f"edge:{tmp_path}/kb")
        store.create(VectorLayout(4), {})
        beside = store.staging()
        beside.create(VectorLayout(4), {})
        beside.upsert([point(row) for row in range(4)], VECTORS)
        beside.close()
        store.close()
        assert indexed == []

    def test_who_reads_only_builds_none(self, opened, tmp_path, indexed):
        """A search ends when it is answered."""
        store = opened(f"edge:{tmp_path}/kb")
        store.create(VectorLayout(4), {})
        store.upsert([point(row) for row in range(4)], VECTORS)
        store.close()
        reader = opened(store.url)
        assert reader.count() == 4
        reader.close()
        assert len(indexed) == 1

    def test_an_interrupted_run_ends_without(self, opened, tmp_path, indexed):
        """Ctrl-C isn't answered with a minute of work."""
        store = opened(f"edge:{tmp_path}/kb")
        store.create(VectorLayout(4), {})
        store.upsert([point(row) for row in range(4)], VECTORS)
        with pytest.raises(KeyboardInterrupt), closing(store):
            raise KeyboardInterrupt
        assert indexed == []

    def test_a_large_collection_gets_its_index_when_it_is_closed(self, opened, tmp_path, monkeypatch):
        """In a process of its own; points and vectors are the same afterwards."""
        monkeypatch.setattr(edge, "_OPTIMIZE_FROM", 1000)
        calls = []
        run = subprocess.run
        monkeypatch.setattr(edge.subprocess, "run", lambda *a, **m: calls.append(run(*a, **m)) or calls[-1])
        store = opened(f"edge:{tmp_path}/kb")
        store.create(VectorLayout(4), {})
        rows = cut(np.random.default_rng(1).normal(size=(1500, 4)).astype(np.float32), 4)
        store.upsert([point(row) for row in range(1500)], rows)
        store.close()
        assert [(call.returncode, call.stderr) for call in calls] == [(0, "")]
        again = opened(store.url)
        assert again.count() == 1500
        found = {record.point.id: record.vector for record in again.records()}
        assert np.array_equal(np.stack([found[point(row).id] for row in range(1500)]), rows)

    def test_an_index_that_cannot_be_built_is_a_warning(self, opened, tmp_path, monkeypatch, caplog):
        """Searching goes on without it."""
        monkeypatch.setattr(edge, "_OPTIMIZE_FROM", 0)
        monkeypatch.setattr(edge, "_OPTIMIZE", "raise SystemExit('no memory')")
        store = opened(f"edge:{tmp_path}/kb")
        store.create(VectorLayout(4), {})
        store.upsert([point()], VECTORS[:1])
        store.close()
        assert "no memory" in caplog.text
        assert opened(store.url).count() == 1

    def test_what_a_killed_optimisation_left_is_removed(self, opened, tmp_path):
        """Edge itself keeps it for ever."""
        store = opened(f"edge:{tmp_path}/kb")
        store.create(VectorLayout(4), {})
        store.close()
        [shard] = [entry for entry in (tmp_path / "kb").glob("shard-*") if entry.is_dir()]
        (shard / "temp_segments" / "half").mkdir(parents=True)
        opened(store.url).acquire()
        assert not (shard / "temp_segments" / "half").exists()
