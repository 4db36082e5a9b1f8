"""The stores: one conformance suite over all of them, and what is special to each."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest

from sightline.embedding.dimensions import cut
from sightline.errors import CollectionNotFound, MissingExtra, StoreError, StoreLocked, UnknownStore, UsageError
from sightline.stores import open_store
from sightline.testing import StoreConformance
from sightline.types import Head, Point

VECTORS = np.eye(4, dtype=np.float32)
# Another process that opens a store, does one operation on it, and says what came of it.
OTHER_PROCESS = """
import sys
import numpy as np
from sightline.errors import SightlineError
from sightline.stores import open_store
store = open_store(sys.argv[1])
try:
    contract = store.read_contract()
    store.delete([]) if sys.argv[2] == "write" else store.count()
    print("done", contract)
except SightlineError as error:
    print(type(error).__name__, error)
"""


def point(row: int = 0, source: str = "docs/a.md", **metadata: object) -> Point:
    return Point(str(uuid.UUID(int=row + 1)), f"text {row}", source, metadata)


def ask_another_process(url: str, operation: str) -> str:
    command = [sys.executable, "-c", OTHER_PROCESS, url, operation]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


class TestMemoryStore(StoreConformance):
    @pytest.fixture
    def store(self):
        store = open_store("memory:")
        yield store
        store.close()


class TestEdgeStore(StoreConformance):
    @pytest.fixture
    def store(self, tmp_path):
        store = open_store(f"edge:{tmp_path}/a b/kb")
        yield store
        store.close()


@pytest.fixture(params=["edge:{}/kb", "chroma:{}/kb/handbook"])
def url(request, tmp_path):
    return request.param.format(tmp_path)


@pytest.fixture
def opened():
    """Open stores that are closed when the test ends."""
    stores = []

    def open_and_remember(url):
        stores.append(open_store(url))
        return stores[-1]

    yield open_and_remember
    for store in stores:
        store.close()


class TestUrls:
    @pytest.mark.parametrize("url", ["", "kb", "./kb", "faiss:./kb", "C:\\kb", "EDGE:./kb"])
    def test_an_unknown_store_is_answered_with_the_known_forms(self, url):
        """The message lists every form with an example."""
        with pytest.raises(UnknownStore) as caught:
            open_store(url)
        for form in ("edge:./kb", "chroma:./kb/handbook", "memory:"):
            assert form in str(caught.value)

    @pytest.mark.parametrize("url", ["edge:", "edge: ", "edge:///kb", "edge:a\0b"])
    def test_an_edge_url_needs_a_directory(self, url):
        """A malformed Edge URL is answered with the right form."""
        with pytest.raises(UnknownStore, match=r"edge:DIR, e\.g\. edge:\./kb"):
            open_store(url)

    @pytest.mark.parametrize(
        "url",
        ["chroma:onlyname", "chroma:", "chroma:/abc", "chroma:kb/", "chroma:kb/ab", "chroma:kb/a b c", "chroma:kb/_abc",
         "chroma:kb/abc-", "chroma:kb/a..b", "chroma:kb/1.2.3.4", "chroma:kb/" + "a" * 513, "chroma:kb/äbc"],
    )  # fmt: skip
    def test_a_chroma_url_needs_a_directory_and_a_name_that_chroma_takes(self, url):
        """A malformed Chroma URL is answered with the right form."""
        with pytest.raises(UnknownStore, match=r"chroma:DIR/COLLECTION, e\.g\. chroma:\./kb/handbook"):
            open_store(url)

    def test_opening_makes_nothing_on_disk(self, url, opened, tmp_path):
        """Looking for a collection that isn't there leaves no trace."""
        store = opened(url)
        assert (store.exists(), store.read_contract()) == (False, None)
        with pytest.raises(CollectionNotFound):
            store.count()
        store.close()
        assert list(tmp_path.iterdir()) == []

    def test_a_relative_directory_is_resolved_once(self, opened, tmp_path, monkeypatch):
        """A later change of the working directory doesn't move the store."""
        monkeypatch.chdir(tmp_path)
        store = opened("edge:./kb")
        monkeypatch.chdir("/")
        store.create(4, {})
        assert (tmp_path / "kb" / "sightline.json").is_file()

    def test_a_named_memory_store_is_shared_within_the_process(self, opened):
        """Two stores of one name see the same points; without a name each is private."""
        name = f"memory:{uuid.uuid4()}"
        opened(name).create(4, {"a": 1})
        assert opened(name).read_contract() == {"a": 1}
        assert opened("memory:").exists() is False

    @pytest.mark.parametrize(
        ("url", "client", "extra"), [("edge:kb", "qdrant_edge", "edge"), ("chroma:kb/handbook", "chromadb", "chroma")]
    )
    def test_a_missing_client_names_its_extra(self, monkeypatch, url, client, extra):
        """Without the client the error says what to install."""
        monkeypatch.setitem(sys.modules, client, None)
        monkeypatch.delitem(sys.modules, f"sightline.stores.{extra}", raising=False)
        with pytest.raises(MissingExtra, match=rf"pip install 'sightline\[{extra}\]'"):
            open_store(url)

    def test_importing_the_stores_loads_no_client(self):
        """A client is loaded when a store of its kind is opened, not before."""
        code = "import sys, sightline.stores; print({'qdrant_edge', 'chromadb'} & set(sys.modules))"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"


class TestLocks:
    def test_another_writer_is_told_who_holds_it(self, url, opened):
        """A second process is refused with the first one's process id, and may still read the contract of an Edge collection."""
        store = opened(url)
        store.create(4, {"model": "m"})
        answer = ask_another_process(url, "write")
        assert answer.startswith("StoreLocked")
        assert f"process {os.getpid()}" in answer
        store.close()
        assert ask_another_process(url, "write") == "done {'model': 'm'}\n"

    def test_readers_share_chroma_but_not_edge(self, url, opened):
        """Edge lets one process in, readers too; Chroma's readers don't wait for its writer."""
        store = opened(url)
        store.create(4, {})
        assert ask_another_process(url, "read").startswith("StoreLocked" if url.startswith("edge") else "done")

    def test_a_second_writer_in_this_process_is_told_so(self, url, opened):
        """Two stores of one process exclude each other too."""
        opened(url).create(4, {})
        with pytest.raises(StoreLocked, match="another store object of this process"):
            opened(url).delete([])

    def test_a_killed_writer_holds_nothing(self, url, opened):
        """What a dead process wrote is there, and its lock is free."""
        code = (
            "import os, sys, signal, numpy as np\nfrom sightline.stores import open_store\nfrom sightline.types import Point\n"
            "store = open_store(sys.argv[1])\nstore.create(4, {'a': 1})\n"
            "store.upsert([Point('00000000-0000-0000-0000-000000000001', 't', 's', {})], np.eye(1, 4, dtype=np.float32))\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        assert subprocess.run([sys.executable, "-c", code, url], timeout=60).returncode != 0
        store = opened(url)
        assert (store.count(), store.read_contract()) == (1, {"a": 1})
        store.upsert([point(2)], VECTORS[:1])

    def test_a_program_that_uses_edge_alone_is_noticed(self, opened, tmp_path):
        """A shard that is held without our lock is reported as held, too."""
        from qdrant_edge import EdgeShard

        url = f"edge:{tmp_path}/kb"
        store = opened(url)
        store.create(4, {})
        store.close()
        shard = EdgeShard.load(str(next((tmp_path / "kb").glob("shard-*"))))
        with pytest.raises(StoreLocked, match="without Sightline"):
            opened(url).count()
        shard.close()
        assert opened(url).count() == 0


class TestEdgeDirectory:
    def test_a_directory_with_other_things_is_refused(self, opened, tmp_path):
        """Nothing is written into somebody's folder, not even the lock."""
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(UsageError, match=r"notes\.txt"):
            opened(f"edge:{tmp_path}").create(4, {})
        assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]

    def test_a_file_is_refused(self, opened, tmp_path):
        """A path to a file can't become a directory."""
        (tmp_path / "kb").write_text("mine")
        store = opened(f"edge:{tmp_path}/kb")
        assert store.exists() is False
        with pytest.raises(UsageError, match="names a file"):
            store.create(4, {})
        with pytest.raises(UsageError):
            opened(f"edge:{tmp_path}/kb/below").create(4, {})

    def test_an_empty_directory_is_taken(self, opened, tmp_path):
        """A directory that is there but empty becomes a collection."""
        store = opened(f"edge:{tmp_path}")
        store.create(4, {})
        assert store.exists()

    def test_a_create_that_was_killed_can_be_repeated(self, opened, tmp_path):
        """What lies there before the manifest does is removed and made anew."""
        store = opened(f"edge:{tmp_path}")
        store.create(4, {})
        store.close()
        (tmp_path / "sightline.json").rename(tmp_path / "sightline.json.tmp")
        again = opened(f"edge:{tmp_path}")
        assert again.exists() is False
        again.create(4, {"second": True})
        assert again.count() == 0
        assert len(list(tmp_path.glob("shard-*"))) == 1

    def test_a_newer_format_is_refused(self, opened, tmp_path):
        """A collection of a later Sightline is not guessed at."""
        opened(f"edge:{tmp_path}").create(4, {})
        manifest = json.loads((tmp_path / "sightline.json").read_text())
        (tmp_path / "sightline.json").write_text(json.dumps(manifest | {"format": 2}))
        with pytest.raises(StoreError, match="format 2; this Sightline reads at most 1"):
            opened(f"edge:{tmp_path}").read_contract()

    @pytest.mark.parametrize(
        "change", [{"current": "../elsewhere"}, {"current": "shard-../../x"}, {"dimensions": "4"}, {"contract": 1}]
    )
    def test_an_odd_manifest_is_refused(self, opened, tmp_path, change):
        """A manifest never leads out of its directory."""
        store = opened(f"edge:{tmp_path}")
        store.create(4, {})
        store.close()
        manifest = json.loads((tmp_path / "sightline.json").read_text())
        (tmp_path / "sightline.json").write_text(json.dumps(manifest | change))
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
        store.create(96, {})
        points = [point(row) for row in range(200)]
        store.upsert(points, rows)
        found = store.vectors([one.id for one in points])
        assert np.array_equal(np.stack([found[one.id] for one in points]), rows)

    def test_its_payload_is_what_the_frameworks_read(self, opened, tmp_path):
        """Text, nested metadata with the source, the source at the top, and our integers."""
        from qdrant_edge import EdgeShard

        store = opened(f"edge:{tmp_path}")
        store.create(4, {})
        first = Point(point().id, "text 0", "docs/a.md", {"lang": "en"}, Head("docs/a.md", "abc", 1, "c1"))
        store.upsert([first], VECTORS[:1])
        store.close()
        shard = EdgeShard.load(str(next(tmp_path.glob("shard-*"))))
        payload = shard.retrieve([first.id], True, False)[0].payload
        indexed = set(shard.info().payload_schema)
        shard.close()
        assert indexed == {"source", "sightline_head"}
        assert payload == {
            "page_content": "text 0", "metadata": {"source": "docs/a.md", "lang": "en"}, "source": "docs/a.md",
            "sightline_point": 1, "sightline_head": 1, "sightline_hash": "abc", "sightline_chunks": 1, "sightline_settings": "c1",
        }  # fmt: skip


def test_the_directory_of_a_url_may_begin_with_a_tilde(monkeypatch, opened, tmp_path):
    """`~` is the home directory, because the shell leaves it alone after a colon."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    opened("edge:~/kb").create(4, {})
    assert (Path(tmp_path) / "kb" / "sightline.json").is_file()
