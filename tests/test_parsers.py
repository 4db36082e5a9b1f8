"""Facts about parsers in processes of their own: what goes wrong in one is told with its file, and ends there."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

import hostile_readers
import samples
from sightline import register_reader
from sightline.errors import MissingExtra, SightlineError, UnreadableFile, UsageError
from sightline.indexing import ahead, children, readers
from sightline.indexing.ahead import read_files
from sightline.indexing.background import Stopped
from sightline.indexing.chunking import default_settings
from sightline.indexing.files import FoundFile, discover, roots_of
from sightline.indexing.indexer import Corpus, Indexer
from sightline.indexing.jsonl import JsonlFields
from sightline.indexing.parsers import ParseLimits, Parsers
from sightline.indexing.readers import Reader, Reading
from sightline.indexing.reading import LoadedFile
from sightline.stores.memory import MemoryStore
from sightline.testing import HashEmbedder
from sightline.types import Document, Head, IndexSummary, SkippedFile, VectorLayout

HOSTILE = Reader("hostile/1", "text", "hostile_readers:read", binary=True, isolated=True)
PATIENT = ParseLimits(timeout_s=60, memory_mib=512, processes=1)
DIMENSIONS = 8


@pytest.fixture(scope="module")
def patient() -> Iterator[Parsers]:
    """One process, for tests that leave it alive."""
    with Parsers(PATIENT) as made:
        yield made


@pytest.fixture(autouse=True)
def own_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of the suffix .hostile are read by what misbehaves."""
    monkeypatch.setattr(readers, "_READERS", dict(readers._READERS))
    register_reader([".hostile"], hostile_readers.read, name="hostile/1", format="text", isolated=True)


def file(content: str | bytes, reader: Reader = HOSTILE) -> LoadedFile:
    data = content.encode() if isinstance(content, str) else content
    return LoadedFile(FoundFile(Path("x"), "kb/x", len(data)), reader, data, "hash")


def read(made: Parsers, content: str | bytes, reader: Reader = HOSTILE) -> Reading:
    return made.submit(file(content, reader)).result(60)


def reason(made: Parsers, content: str | bytes, reader: Reader = HOSTILE) -> str:
    with pytest.raises(UnreadableFile) as caught:
        read(made, content, reader)
    return str(caught.value)


def test_a_reading_comes_back_whole(patient):
    """Text, metadata and anchors."""
    assert read(patient, "größer") == Reading("Text of größer.", {"said": "größer"}, [(0, {"page": 1})])


def test_one_process_reads_many_files(patient):
    """It isn't started anew for each."""
    assert read(patient, "pid 1").text == read(patient, "pid 2").text != str(os.getpid())


def test_what_a_parser_prints_does_no_harm(patient):
    """Nor does it wait for input."""
    assert read(patient, "print").text == "Text of print."


def test_a_parser_process_loads_nothing_heavy(patient):
    """No arrays, no engine."""
    assert read(patient, "modules").text == "."


def test_a_real_format_is_read_like_that(patient):
    """As in this process."""
    assert read(patient, samples.docx(), readers.reader_of(".docx")).text.startswith("# The Lamp")


def test_what_a_reader_refuses_comes_back_as_said(patient):
    """And the process goes on."""
    assert "no text on its 1 page" in reason(patient, samples.pdf([""]), readers.reader_of(".pdf"))
    assert "metadata that isn't JSON" in reason(patient, "odd")


def test_a_missing_package_is_the_runs_failure(patient):
    """Every other file of the format would fail, too."""
    needy = Reader(
        "needy/1", "text", "hostile_readers:read", binary=True, isolated=True, needs={"no_such_module": "no-such-package"}
    )
    with pytest.raises(MissingExtra, match=r"Reading needy files needs 'no-such-package'.*sightline\[files\]"):
        read(patient, "x", needy)


def test_a_parser_that_hangs_is_ended_and_another_takes_its_place():
    """The file is told with the limit, and how to raise it."""
    with Parsers(ParseLimits(timeout_s=1, processes=1)) as made:
        expected = "took longer than 1 s and was ended; if it is merely long, allow more: --parse-timeout 2"
        assert expected in reason(made, "spin")
        assert read(made, "next").text == "Text of next."


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds the limit of memory")
def test_a_parser_that_eats_memory_is_ended_and_another_takes_its_place():
    """The machine isn't brought to its knees."""
    with Parsers(ParseLimits(timeout_s=60, memory_mib=256, processes=1)) as made:
        before = read(made, "pid").text
        assert "needed more than 256 MiB of memory; if it is merely large, allow more: --parse-memory 512" in reason(made, "eat")
        assert read(made, "pid").text != before


@pytest.mark.parametrize(("said", "how"), [("crash", "signal 6"), ("exit", "exit code 3")])
def test_a_parser_that_crashes_is_told(said, how):
    """As native code does at a broken file."""
    with Parsers(PATIENT) as made:
        assert f"its parser crashed ({how})" in reason(made, said)
        assert read(made, "next").text == "Text of next."


def test_closing_ends_what_hangs():
    """Whoever waits is told that it was stopped."""
    others = set(threading.enumerate())
    made = Parsers(PATIENT)
    future, waiting = made.submit(file("hang")), made.submit(file("hang"))
    while not made._children._children:
        future.exception(0.01) if future.done() else threading.Event().wait(0.01)
    made.close()
    with pytest.raises(Stopped):
        future.result(10)
    with pytest.raises((Stopped, CancelledError)):
        waiting.result(10)
    with pytest.raises(Stopped):
        made.submit(file("x"))
    assert set(threading.enumerate()) <= others


ORPHAN = """
import sys
from pathlib import Path
from test_parsers import file, Parsers, PATIENT
made = Parsers(PATIENT)
print(made.submit(file("pid")).result().text, flush=True)
made.submit(file("hang")).result()
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="no pidfd_open on this system")
def test_no_parser_outlives_a_parent_that_was_killed():
    """Also one that is busy with a file."""
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHAN],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    child = os.pidfd_open(int(parent.stdout.readline()))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    ended, _, _ = select.select([child], [], [], 20)
    os.close(child)
    assert ended


def test_a_process_that_cannot_be_started_is_an_error_of_the_run(monkeypatch):
    """It says what the interpreter said."""
    monkeypatch.setattr(children, "_executable", lambda: "/bin/false")
    with Parsers(PATIENT) as made, pytest.raises(SightlineError, match=r"can't be started \(exit code 1\)"):
        read(made, "x")


@pytest.mark.parametrize("limits", [{"timeout_s": 0}, {"timeout_s": float("nan")}, {"memory_mib": 10}, {"processes": 0}])
def test_limits_have_limits(limits):
    """What can't work is refused at once."""
    with pytest.raises(UsageError):
        ParseLimits(**limits)


def write(folder: Path, **contents: str | bytes) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        path = folder / name.replace("_", ".")
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def everything(folder: Path, made: Parsers, is_known: ahead.IsKnown = lambda _: None) -> list[Document | SkippedFile | Head]:
    files = discover(roots_of([folder])).files
    return [one for _, contents in read_files(files, JsonlFields(), made, is_known) for one in contents]


def test_documents_come_in_the_order_of_their_files(tmp_path):
    """However long each takes to parse, and whatever lies between them."""
    contents = {
        "a_hostile": "one",
        "b_md": "two",
        "c_hostile": "exit",
        "d_jsonl": '{"text": "four", "id": 1}\n',
        "e_hostile": "five",
    }
    with Parsers(ParseLimits(processes=2, memory_mib=512)) as made:
        found = everything(write(tmp_path / "kb", **contents), made)
    assert [one.source for one in found] == ["kb/a.hostile", "kb/b.md", "kb/c.hostile", "kb/d.jsonl/1", "kb/e.hostile"]
    assert [isinstance(one, Document) for one in found] == [True, True, False, True, True]


class Counting(Parsers):
    """Counts what is handed over, and how much of it waits at the same time."""

    def __init__(self, limits: ParseLimits) -> None:
        super().__init__(limits)
        self.submitted: list[str] = []

    def submit(self, file):
        self.submitted.append(file.found.source)
        return super().submit(file)


def test_only_some_files_are_parsed_ahead(tmp_path):
    """So that memory stays flat, however many there are."""
    folder = write(tmp_path / "kb", **{f"{number}_hostile": "x" for number in range(9)})
    files = discover(roots_of([folder])).files
    with Counting(PATIENT) as made:
        for seen, _ in enumerate(read_files(files, JsonlFields(), made, lambda _: None)):
            assert len(made.submitted) <= seen + made.depth + 1
        assert len(made.submitted) == 9


def test_what_is_known_is_not_parsed(tmp_path):
    """Its bytes are hashed, and that is all."""
    folder = write(tmp_path / "kb", a_hostile="x", b_md="y")
    with Counting(PATIENT) as made:
        assert [type(one) for one in everything(folder, made, lambda loaded: Head(loaded.found.source, "", 1, ""))] == [
            Head,
            Head,
        ]
        assert not made.submitted
        assert not made._children._children


def run(store: MemoryStore, folder: Path, **limits: float) -> IndexSummary:
    embedder = HashEmbedder(dimensions=DIMENSIONS)
    indexer = Indexer(store, embedder, default_settings(embedder, 64), dimensions=DIMENSIONS)
    return indexer.run(Corpus(discover(roots_of([folder])), parsing=ParseLimits(**limits)))


@pytest.fixture
def store() -> MemoryStore:
    """An empty collection."""
    made = MemoryStore("memory:", None)
    made.create(VectorLayout(DIMENSIONS), {})
    return made


def test_a_run_goes_on_past_parsers_that_fail(store, tmp_path):
    """The others' documents are there, with their places, and what failed keeps nothing and is told."""
    good, broken = {"a_pdf": samples.pdf(["one", "two"]), "d_pdf": samples.pdf(["x"])}, samples.docx()[:500]
    summary = run(store, write(tmp_path / "kb", b_hostile="crash", c_docx=broken, **good), processes=2)
    assert (summary.documents, [one.source for one in summary.skipped]) == (2, ["kb/b.hostile", "kb/c.docx"])
    (point,) = store.points("kb/a.pdf")
    assert (point.metadata["page"], point.metadata["page_end"]) == (1, 2)


def test_a_second_run_parses_nothing(store, tmp_path, monkeypatch):
    """Until a file has other bytes, or its reader another version."""
    folder = write(tmp_path / "kb", a_pdf=samples.pdf(["one"]), b_hostile="x", c_md="z")
    run(store, folder)
    parsed: list[str] = []
    submit = Parsers.submit
    monkeypatch.setattr(Parsers, "submit", lambda self, file: (parsed.append(file.found.source), submit(self, file))[1])
    assert (run(store, folder).documents_unchanged, parsed) == (3, [])
    write(folder, a_pdf=samples.pdf(["two"]))
    register_reader([".hostile"], hostile_readers.read, name="hostile/2", format="text", isolated=True)
    assert (run(store, folder).documents_unchanged, parsed) == (1, ["kb/a.pdf", "kb/b.hostile"])
    assert store.points("kb/b.hostile")[0].head.settings.startswith("hostile/2 ")


def test_ctrl_c_does_not_wait_for_a_parser(store, tmp_path, monkeypatch):
    """What hangs is ended with the run."""
    started, others = threading.Event(), set(threading.enumerate())
    ask: Callable = children.Child.ask

    def noted(self, *job, seconds):
        started.set()
        return ask(self, *job, seconds=seconds)

    def interrupted(self, ahead):
        started.wait(20)
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(children.Child, "ask", noted)
    monkeypatch.setattr(Indexer, "_embedded", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(store, write(tmp_path / "kb", a_hostile="hang"), timeout_s=300)
    assert set(threading.enumerate()) <= others


@pytest.mark.parametrize("limits", [{"timeout_s": float("inf")}, {"timeout_s": 1e10}, {"memory_mib": 10**14}])
def test_limits_that_no_system_can_count_are_refused(limits):
    """Each process would end at once, and every file would be called broken."""
    with pytest.raises(UsageError, match="at most"):
        ParseLimits(**limits)


def test_a_process_that_the_machine_refuses_is_no_fault_of_the_file(monkeypatch, tmp_path):
    """It ends the run; as an error of the system's it would have been told of each file."""
    monkeypatch.setattr(children, "_executable", lambda: str(tmp_path / "nothing"))
    with Parsers(PATIENT) as made, pytest.raises(SightlineError, match=r"can't be started: .*No such file.*run the same command"):
        read(made, "x")


@pytest.mark.parametrize("anchors", [7, [0, 5], [(0, 3)], [(None, {})], [("x", {})], [(1.5, {})]])
def test_odd_anchors_are_told_with_the_reader(anchors):
    """A reader of somebody's own may give anything."""
    with pytest.raises(UnreadableFile, match="odd/1 gave anchors that aren't pairs"):
        readers.apply(Reader("odd/1", "text", lambda data, source: Reading("x", {}, anchors)), "x", "kb/x")
