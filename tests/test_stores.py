"""The stores: one conformance suite over all of them, and what is special to each."""

import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from sightline.errors import CollectionNotFound, MissingExtra, UnknownStore
from sightline.stores import open_store
from sightline.testing import StoreConformance
from sightline.types import VectorLayout


class TestMemoryStore(StoreConformance):
    @pytest.fixture
    def store(self):
        store = open_store("memory:")
        yield store
        store.close()


@pytest.fixture(params=["edge:{}/kb", "chroma:{}/kb/handbook", "qdrant:{}/kb/handbook"])
def url(request, tmp_path):
    return request.param.format(tmp_path)


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

    @pytest.mark.parametrize(
        "url",
        ["qdrant://localhost:6334", "qdrant://localhost:6334/", "qdrant:///kb", "qdrant://host:port/kb", "qdrant://host/a/b",
         "qdrant://host/-kb", "qdrant://host/" + "a" * 201],
    )  # fmt: skip
    def test_a_server_url_needs_a_host_and_a_name(self, url):
        """A malformed Qdrant URL is answered with the right form."""
        with pytest.raises(UnknownStore, match=r"qdrant://HOST:PORT/COLLECTION, e\.g\. qdrant://localhost:6334/handbook"):
            open_store(url)

    @pytest.mark.parametrize(
        "url",
        ["qdrant://me:secret@host/kb", "chroma+http://secret@host/handbook", "qdrant://host/kb?key=secret", "faiss://a:secret@b/c"],
    )
    def test_a_key_in_a_url_is_refused_and_not_repeated(self, url):
        """URLs are logged, keys must not be."""
        with pytest.raises(UnknownStore, match="environment") as caught:
            open_store(url)
        assert "secret" not in str(caught.value)

    def test_a_relative_directory_is_resolved_once(self, opened, tmp_path, monkeypatch):
        """A later change of the working directory doesn't move the store."""
        monkeypatch.chdir(tmp_path)
        store = opened("edge:./kb")
        monkeypatch.chdir("/")
        store.create(VectorLayout(4), {})
        assert (tmp_path / "kb" / "sightline.json").is_file()

    def test_a_named_memory_store_is_shared_within_the_process(self, opened):
        """Two stores of one name see the same points; without a name each is private."""
        name = f"memory:{uuid.uuid4()}"
        opened(name).create(VectorLayout(4), {"a": 1})
        assert opened(name).read_contract() == {"a": 1}
        assert opened("memory:").exists() is False

    @pytest.mark.parametrize(
        ("url", "client", "extra"),
        [
            ("edge:kb", "qdrant_edge", "edge"),
            ("chroma:kb/handbook", "chromadb", "chroma"),
            ("qdrant:kb/handbook", "qdrant_client", "qdrant"),
        ],
    )
    def test_a_missing_client_names_its_extra(self, monkeypatch, url, client, extra):
        """Without the client the error says what to install."""
        monkeypatch.setitem(sys.modules, client, None)
        for module in [name for name in sys.modules if name.startswith(f"sightline.stores.{extra}")]:
            monkeypatch.delitem(sys.modules, module)
        with pytest.raises(MissingExtra, match=rf"pip install 'sightline\[{extra}\]'"):
            open_store(url)

    def test_importing_the_stores_loads_no_client(self):
        """A client is loaded when a store of its kind is opened, not before."""
        code = "import sys, sightline.stores; print({'qdrant_edge', 'qdrant_client', 'chromadb'} & set(sys.modules))"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"


def test_the_directory_of_a_url_may_begin_with_a_tilde(monkeypatch, opened, tmp_path):
    """`~` is the home directory, because the shell leaves it alone after a colon."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    opened("edge:~/kb").create(VectorLayout(4), {})
    assert (Path(tmp_path) / "kb" / "sightline.json").is_file()
