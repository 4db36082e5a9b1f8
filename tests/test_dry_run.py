"""Facts about the plan of an index run: it counts what the run then reports, and it writes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdrant_stand_in import RunningServer
from sightline import api, calibration
from sightline.calibration import calibrate
from sightline.embedding.engine import EmbeddingEngine
from sightline.errors import ContractMismatch, DeletionRefused, StoreError, StoreLocked, UsageError
from sightline.indexing import indexer
from sightline.indexing.rehearsal import Sample
from sightline.planning import IndexPlan
from sightline.stores import open_copy, open_store
from sightline.testing import HashEmbedder
from sightline.types import Document, IndexSummary, VectorLayout

WORDS = ("tide", "wind", "swell", "lamp", "rope", "anchor", "harbour", "keeper", "storm", "gull")
DIRECTORIES = ("edge:{place}/db", "qdrant:{place}/db/notes", "chroma:{place}/db/notes")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine documents of several sections, one of them without text; the last section is the same everywhere."""
    root = tmp_path / "kb"
    root.mkdir()
    for number in range(8):
        (root / f"page{number}.md").write_text("\n\n".join(sections(number)), encoding="utf-8")
    (root / "blank.md").write_text("\n\n", encoding="utf-8")
    return root


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    """A collection in memory that nobody else has."""
    return f"memory:{request.node.nodeid}"


def sections(number: int) -> list[str]:
    """Texts of one document."""
    generator = np.random.default_rng(number)
    made = [f"# Part {part}\n\n{' '.join(generator.choice(WORDS, 30))} {number}." for part in range(4)]
    return [*made, "# Closing\n\nThe same words stand at the end of every page."]


def change(folder: Path) -> None:
    """One document is new, one has another paragraph, one is gone, one has another name, one can't be read."""
    (folder / "new.md").write_text("\n\n".join(sections(20)), encoding="utf-8")
    (folder / "page1.md").write_text("# Before\n\nA new paragraph.\n\n" + "\n\n".join(sections(1)), encoding="utf-8")
    (folder / "page2.md").unlink()
    (folder / "page3.md").rename(folder / "renamed.md")
    (folder / "page4.md").write_bytes(b"\xff\xfe\x00\xd8\x00")


def planned(paths: list[Path], url: str, embedder: Any = None, **options: Any) -> IndexPlan:
    """The plan without a calibration."""
    return api.plan_index(paths, into=url, model=embedder or HashEmbedder(), calibrate=False, **options)


def both(paths: list[Path], url: str, embedder: Any = None, **options: Any) -> IndexPlan:
    """The plan, after the run that it is of has reported the very same figures."""
    plan = planned(paths, url, embedder, **options)
    summary = api.index(paths, into=url, model=embedder or HashEmbedder(), **options)
    assert without_time(plan.summary) == without_time(summary)
    return plan


def without_time(summary: IndexSummary) -> IndexSummary:
    """A summary without what can't be the same."""
    return replace(summary, seconds=0.0)


def tree(place: Path) -> dict[str, str]:
    """Every file and folder below, with what is in it."""
    return {
        str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in place.rglob("*")
    }


# --- it counts what the run reports


def test_the_plan_of_a_new_collection_is_what_the_run_does(folder: Path, url: str) -> None:
    """All documents are new; the text that stands in all of them is embedded once."""
    plan = both([folder], url)
    assert not plan.exists
    assert plan.added == tuple(f"kb/page{number}.md" for number in range(8))
    assert plan.empty == ("kb/blank.md",)
    assert plan.summary.chunks == 8 * 5
    assert plan.summary.chunks_embedded == 8 * 4 + 1
    assert (plan.changed, plan.removed, plan.unchanged) == ((), (), ())


@pytest.mark.parametrize("form", ["memory:{place}", *DIRECTORIES])
def test_the_plan_of_a_change_is_what_the_run_does(folder: Path, tmp_path: Path, form: str) -> None:
    """Added, changed, vanished, renamed and unreadable files are told apart on every store."""
    url = form.format(place=tmp_path)
    api.index([folder], into=url, model=HashEmbedder())
    change(folder)
    plan = both([folder], url)
    assert plan.exists
    assert (plan.added, plan.changed) == (("kb/new.md", "kb/renamed.md"), ("kb/page1.md",))
    assert plan.unchanged == ("kb/page0.md", "kb/page5.md", "kb/page6.md", "kb/page7.md")
    assert (plan.kept, plan.removed) == (("kb/page2.md", "kb/page3.md"), ())
    assert [one.source for one in plan.summary.skipped] == ["kb/page4.md"]
    # The renamed document's texts are there, and so are those of the changed one but the new paragraph.
    assert plan.summary.chunks_embedded == 4 + 1


def test_the_plan_of_a_pruning_is_what_the_run_does(folder: Path, url: str) -> None:
    """What vanished is listed as removed, with its chunks."""
    api.index([folder], into=url, model=HashEmbedder())
    change(folder)
    plan = both([folder], url, prune=True)
    assert (plan.kept, plan.removed) == ((), ("kb/page2.md", "kb/page3.md"))
    assert plan.summary.documents_removed == 2


def test_a_pruning_that_would_be_refused_is_told(folder: Path, url: str) -> None:
    """The plan has the run's own reason; with force both go on."""
    api.index([folder], into=url, model=HashEmbedder())
    for number in range(6):
        (folder / f"page{number}.md").unlink()
    plan = planned([folder], url, prune=True)
    with pytest.raises(DeletionRefused) as refused:
        api.index([folder], into=url, model=HashEmbedder(), prune=True)
    assert plan.refusal == str(refused.value)
    assert len(plan.kept) == 6
    assert both([folder], url, prune=True, force=True).refusal is None


@pytest.mark.parametrize("form", ["memory:{place}", *DIRECTORIES])
def test_the_plan_of_a_rebuild_is_what_the_run_does(folder: Path, tmp_path: Path, form: str) -> None:
    """Everything is embedded anew, whatever the old collection has."""
    url = form.format(place=tmp_path)
    api.index([folder], into=url, model=HashEmbedder())
    plan = both([folder], url, rebuild=True, dimensions=32)
    assert plan.rebuilds
    assert (len(plan.added), plan.summary.chunks_embedded, plan.dimensions) == (8, 33, 32)


def test_a_rebuild_that_would_lose_documents_is_told(folder: Path, url: str) -> None:
    """The plan has the run's own reason."""
    api.index([folder], into=url, model=HashEmbedder())
    (folder / "page0.md").unlink()
    plan = planned([folder], url, rebuild=True)
    with pytest.raises(DeletionRefused) as refused:
        api.index([folder], into=url, model=HashEmbedder(), rebuild=True)
    assert plan.refusal == str(refused.value)


def test_the_plan_goes_on_where_a_rebuild_was_interrupted(folder: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had embedded isn't counted again."""
    api.index([folder], into=url, model=HashEmbedder())
    monkeypatch.setattr(indexer, "_SMALLEST_WINDOW", 5)
    monkeypatch.setattr(indexer, "_LARGEST_WINDOW", 5)
    embedder = Interrupted(after=6)  # of seven windows: so many can't all be waiting for the writer, so some are written
    with pytest.raises(StoreError, match="pulled the plug"):
        api.index([folder], into=url, model=embedder, rebuild=True)
    plan = both([folder], url, rebuild=True)
    assert 0 < plan.summary.chunks_embedded < 33


def test_other_chunks_are_planned_as_the_run_cuts_them(folder: Path, url: str) -> None:
    """All documents change, and only texts that weren't there are embedded."""
    api.index([folder], into=url, model=HashEmbedder())
    plan = both([folder], url, chunk_tokens=16)
    assert (len(plan.changed), len(plan.unchanged)) == (8, 0)


def test_rows_and_documents_are_planned(tmp_path: Path, url: str) -> None:
    """A file of rows and documents from Python count as what they are."""
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"id": number, "text": f"row {number}"}) for number in range(5)), encoding="utf-8")
    tickets = [Document(str(number), f"ticket {number}") for number in range(3)]
    plan = both([path], url, documents=tickets, root="tickets")
    assert len(plan.added) == 8


def test_tokens_are_those_that_the_model_then_reads(folder: Path, tmp_path: Path, tiny_engine: EmbeddingEngine) -> None:
    """With a tokenizer they are exact, those of texts that are too long as they are truncated."""
    url = f"edge:{tmp_path}/db"
    plan = both([folder], url, tiny_engine)
    assert plan.tokens == plan.summary.tokens_embedded > 0
    (folder / "page5.md").write_text("# Other\n\nwords", encoding="utf-8")
    assert both([folder], url, tiny_engine).summary.chunks_embedded == 1


def test_without_a_tokenizer_tokens_are_unknown(folder: Path, url: str) -> None:
    """Chunks are known all the same."""
    plan = planned([folder], url)
    assert (plan.tokens, plan.summary.chunks_embedded) == (None, 33)


# --- it writes nothing


@pytest.mark.parametrize("rebuild", [False, True])
@pytest.mark.parametrize("form", DIRECTORIES)
def test_a_plan_leaves_every_byte_as_it_is(folder: Path, tmp_path: Path, form: str, rebuild: bool) -> None:
    """No database is opened where it lies: each of them would write."""
    url = form.format(place=tmp_path)
    api.index([folder], into=url, model=HashEmbedder())
    change(folder)
    before = tree(tmp_path)
    planned([folder], url, prune=True, rebuild=rebuild, dimensions=32 if rebuild else None)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("form", DIRECTORIES)
def test_a_plan_makes_no_collection(folder: Path, tmp_path: Path, form: str) -> None:
    """Not even its directory."""
    before = tree(tmp_path)
    assert not planned([folder], form.format(place=tmp_path)).exists
    assert tree(tmp_path) == before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="whoever may write everywhere can't be kept from it")
@pytest.mark.parametrize("form", DIRECTORIES)
def test_a_directory_that_may_only_be_read_is_enough(folder: Path, tmp_path: Path, form: str) -> None:
    """A plan of somebody else's collection needs no right to write it."""
    place = tmp_path / "theirs"
    url = form.format(place=place)
    api.index([folder], into=url, model=HashEmbedder())
    everything = [place, *place.rglob("*")]
    for path in everything:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert len(planned([folder], url).unchanged) == 8
    finally:
        for path in everything:
            path.chmod(0o755 if path.is_dir() else 0o644)


def test_a_plan_over_a_server_writes_nothing(folder: Path) -> None:
    """Nothing is locked there either, so a plan goes beside a run."""
    server = RunningServer()
    try:
        url = server.url("notes")
        api.index([folder], into=url, model=HashEmbedder())
        change(folder)
        before = stored_on(server)
        assert len(planned([folder], url, prune=True).changed) == 1
        assert len(planned([folder], url, rebuild=True).added) == 7
        assert not planned([folder], server.url("others")).exists
        assert stored_on(server) == before
    finally:
        server.stop()


def stored_on(server: RunningServer) -> dict[str, str]:
    """Every collection of a server with all that is in it, and the aliases."""
    client = server.stand_in.client
    names = [one.name for one in client.get_collections().collections]
    points = {name: repr(client.scroll(name, limit=1000, with_vectors=True)) for name in names}
    return {**points, "settings": repr([client.get_collection(name) for name in names]), "aliases": repr(client.get_aliases())}


@pytest.mark.parametrize("form", DIRECTORIES)
def test_a_plan_waits_for_no_writer(folder: Path, tmp_path: Path, form: str, opened: Callable[[str], Any]) -> None:
    """What is being written can't be counted: it is refused as a second run would be, and the writer isn't disturbed."""
    url = form.format(place=tmp_path)
    api.index([folder], into=url, model=HashEmbedder())
    writer = opened(url)
    writer.acquire()
    with pytest.raises(StoreLocked, match="held by"):
        planned([folder], url)
    writer.write_mark({"unfinished": []})


def test_what_a_run_would_refuse_a_plan_refuses(folder: Path, url: str) -> None:
    """Another model's collection, and nothing to index."""
    api.index([folder], into=url, model=HashEmbedder())
    with pytest.raises(ContractMismatch, match="sees differently"):
        planned([folder], url, HashEmbedder(native_dimensions=32))
    with pytest.raises(UsageError, match="paths is a list"):
        api.plan_index(str(folder), into=url, model=HashEmbedder())


def test_a_copy_keeps_holes_and_contents(tmp_path: Path) -> None:
    """A file that is mostly hole is copied as one, and a database in a directory with other things without those."""
    store = open_store(f"edge:{tmp_path}/db")
    store.create(VectorLayout(4), {"a": 1})
    store.close()
    (tmp_path / "db" / "notes.txt").write_text("not ours", encoding="utf-8")
    with open_copy(f"edge:{tmp_path}/db") as copied:
        assert copied.read_contract() == {"a": 1}
        place = copied._directory.path
        assert place != tmp_path / "db"
        assert not (place / "notes.txt").exists()
        shards = {name: digest for name, digest in tree(tmp_path / "db").items() if name.startswith("shard-")}
        assert {name: digest for name, digest in tree(place).items() if name.startswith("shard-")} == shards
        assert copied.disk_bytes() < 2 * sum(path.stat().st_blocks * 512 for path in (tmp_path / "db").rglob("*"))
    assert not place.exists()


def test_a_plan_without_calibration_loads_no_torch(folder: Path, tmp_path: Path, make_model: Callable[..., Path]) -> None:
    """The tokenizer is all that it needs of a model."""
    code = (
        "import sys; from sightline import api;"
        "plan = api.plan_index([sys.argv[1]], into=sys.argv[2], model=sys.argv[3], calibrate=False);"
        "print(plan.tokens > 0, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(folder), f"edge:{tmp_path}/db", str(make_model("bert"))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


# --- how long it would take


def test_the_time_is_taken_from_the_texts_themselves(folder: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample of what would be embedded goes through the embedder, and nothing else."""
    monkeypatch.setattr(calibration, "_SECONDS", 0.01)
    embedder = SlowEmbedder()
    plan = api.plan_index([folder], into=url, model=embedder)
    assert plan.calibration is not None
    assert plan.seconds is not None
    assert {text.split()[1] for text in embedder.seen} <= {"Part", "Closing"}


def test_a_calibration_measures_when_the_device_is_filled() -> None:
    """Warm-up doesn't count, and few texts are embedded again and again."""
    embedder = SlowEmbedder()
    found = calibrate(embedder, [(f"text {number}", 10) for number in range(5)], dimensions=8, clock=embedder.clock)
    assert found is not None
    # 10 texts a second: eight take 0.8 s, which is too short; sixteen take 1.6.
    assert (found.texts, found.tokens) == (16, 160)
    assert found.seconds == pytest.approx(1.6)
    assert found.loading_seconds == pytest.approx(0.1)


def test_nothing_to_embed_measures_nothing(folder: Path, url: str) -> None:
    """An unchanged folder loads no model."""
    api.index([folder], into=url, model=HashEmbedder())
    embedder = HashEmbedder()
    plan = api.plan_index([folder], into=url, model=embedder)
    assert plan.calibration is None
    assert plan.seconds == plan.summary.seconds
    assert embedder.stats().texts == 0


def test_a_sample_is_spread_over_the_whole_stream() -> None:
    """Late texts are as likely as early ones."""
    sample = Sample(100)
    for number in range(10_000):
        sample.offer(str(number), 1)
    numbers = [int(str(text)) for text, _ in sample.texts]
    assert len(numbers) == 100
    assert 3500 < sum(numbers) / 100 < 6500


def test_sizes_grow_with_what_is_added(folder: Path, url: str) -> None:
    """They are of the whole collection, not only of what is new."""
    first = planned([folder], url)
    api.index([folder], into=url, model=HashEmbedder())
    again = planned([folder], url)
    assert [size.layout.dimensions for size in first.sizes if size.store == "edge"] == [64, 32, 16]
    assert first.sizes[0].parts["vectors"] == again.sizes[0].parts["vectors"]
    assert again.sizes[0].parts["payload"] == pytest.approx(first.sizes[0].parts["payload"], rel=0.05)


class Interrupted(HashEmbedder):
    """Fails after so many calls that aren't the probes."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._left = after + 2

    def submit(self, texts: Any, **more: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise StoreError("somebody pulled the plug")
        return super().submit(texts, **more)


class SlowEmbedder(HashEmbedder):
    """Takes a tenth of a second for each text, by its own clock."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self._now = 0.0

    def submit(self, texts: Any, **more: Any) -> Any:
        self.seen += texts
        self._now += 0.1 * len(texts)
        return super().submit(texts, **more)

    def clock(self) -> float:
        return self._now


@pytest.fixture(scope="module")
def tiny_engine(make_model: Callable[..., Path]) -> Any:
    """A model of random weights with a tokenizer."""
    with EmbeddingEngine(make_model("bert"), device="cpu", deterministic=True) as engine:
        yield engine


