"""Facts about rebuilds and updates while others search: every answer is whole, of the old or of the new, and none is an error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import readers

import sightline
from attacks import Attack
from qdrant_stand_in import RunningServer
from servers import ChromaServer
from sightline.errors import ContractMismatch, StoreLocked
from sightline.testing import HashEmbedder

REBUILDS = 12
FEW = 3


@contextlib.contextmanager
def place(kind: str, path: Path) -> Iterator[str]:
    """The URL of a collection in a store of that kind."""
    with contextlib.ExitStack() as running:
        if kind == "chroma+http":
            chroma = ChromaServer(path / "server")
            running.callback(chroma.kill)
            yield chroma.url()
        elif kind == "qdrant+grpc":
            qdrant = RunningServer()
            running.callback(qdrant.stop)
            yield qdrant.url()
        else:
            yield {"edge": f"edge:{path / 'kb'}", "chroma": f"chroma:{path / 'kb'}/handbook"}[kind]


def rebuild_under_readers(url: str, work: Path, rebuilds: int, ways: tuple[str, ...]) -> list[readers.Seen]:
    """Rebuild so often while processes ask; each answer must be whole, and versions never go back."""
    sightline.index(documents=readers.documents(0), into=url, model=readers.embedder())
    with readers.reading(url, ways, work) as found:
        for version in range(1, rebuilds + 1):
            readers.rebuild(url, version)
    for seen in found:
        assert seen.errors == []
        assert seen.mixed == []
        assert seen.versions == sorted(seen.versions)
        assert len(seen.versions) > 1, "it saw no rebuild"
    return found


@pytest.mark.slow
def test_readers_of_another_process_see_the_old_or_the_new(tmp_path: Path, attack: Attack) -> None:
    """On Edge, whose directory names another shard from one instant to the next."""
    with place("edge", tmp_path) as url, attack("rebuild under a reader, edge"):
        rebuild_under_readers(url, tmp_path, FEW, ("held",))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["edge", "chroma", "chroma+http", "qdrant+grpc"])
def test_many_rebuilds_go_unnoticed(kind: str, tmp_path: Path, attack: Attack) -> None:
    """Two readers, one of which opens the collection anew for each question."""
    with place(kind, tmp_path) as url, attack(f"{REBUILDS} rebuilds under two readers, {kind}"):
        found = rebuild_under_readers(url, tmp_path, REBUILDS, readers.WAYS)
        answers = sum(seen.answers for seen in found)
    for _ in range(answers):
        with attack(f"answers during rebuilds, {kind}"):
            assert found


@pytest.mark.slow
def test_local_mode_is_refused_to_a_second_process(tmp_path: Path, attack: Attack) -> None:
    """qdrant-client's local mode lets in one process, so a rebuild and a reader are never there together."""
    url = f"qdrant:{tmp_path / 'kb'}/handbook"
    sightline.index(documents=readers.documents(0), into=url, model=readers.embedder())
    held = pytest.raises(StoreLocked, match="is held by process")
    with attack("rebuild under a reader, qdrant local"), readers.reading(url, ("held",), tmp_path) as found, held:
        readers.rebuild(url, 1)
    assert (found[0].errors, found[0].mixed, found[0].versions) == ([], [], [0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["edge", "chroma", "chroma+http", "qdrant+grpc"])
def test_an_update_in_place_hides_no_document(kind: str, tmp_path: Path, attack: Attack) -> None:
    """While it runs, a document is there in its old or its new version, or for a moment in both, but never in none."""
    with place(kind, tmp_path) as url, attack(f"update under two readers, {kind}"):
        sightline.index(documents=readers.documents(0), into=url, model=readers.embedder())
        with readers.reading(url, readers.WAYS, tmp_path) as found:
            for version in range(1, 6):
                sightline.index(documents=readers.documents(version), into=url, model=readers.embedder())
        for seen in found:
            assert seen.errors == []
            assert {count for count, _ in seen.mixed} <= {readers.DOCUMENTS}
            assert seen.answers > len(seen.mixed)


@pytest.mark.parametrize("kind", ["edge", pytest.param("chroma", marks=pytest.mark.slow)])
def test_a_collection_that_was_rebuilt_with_another_model_says_so(kind: str, tmp_path: Path, attack: Attack) -> None:
    """To who opened it before: vectors of the same length would be compared with questions that another model embedded."""
    with place(kind, tmp_path) as url:
        sightline.index(documents=readers.documents(0), into=url, model=readers.embedder())
        other = HashEmbedder(native_dimensions=2 * readers.DIMENSIONS, dimensions=readers.DIMENSIONS)
        with sightline.open_collection(url, model=readers.embedder()) as collection:
            assert readers.ask(collection) == (readers.DOCUMENTS, {0})
            sightline.index(documents=readers.documents(1), into=url, model=other, rebuild=True)
            with attack("search in a collection that was rebuilt with another model"):
                with pytest.raises(ContractMismatch, match=r"rebuilt with other vectors since it was opened\. Open it again"):
                    collection.search("lamp")
                with pytest.raises(ContractMismatch):
                    collection.search_by_vector(collection.embed_query("lamp"))
        with sightline.open_collection(url, model=other) as collection:
            assert readers.ask(collection) == (readers.DOCUMENTS, {1})
