"""Attacks by files: whatever lies in a folder, a run ends in time and memory, names what it can't read, and indexes the rest."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from nasty import EMPTY, GOOD, INDEXED, LARGE, SMALL, UNSEEN, Nasty

import sightline
from attacks import Attack
from sightline.errors import UsageError
from sightline.stores import open_store
from sightline.testing import HashEmbedder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what a process took is measured as Linux tells it")
HERE = Path(__file__).parent
# What any one of the files may take, and what all of them together may, above what Python and the libraries take.
SECONDS, MIB = 120, 600


def run(folders: list[Path], *, user: str | None = None) -> list[dict[str, Any]]:
    """What becomes of each folder, in one process; as a user, all but the first."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "out.json"
        command = [sys.executable, str(HERE / "one_run.py"), str(out), *map(str, folders)]
        variables = os.environ | ({"SIGHTLINE_TEST_USER": user} if user else {})
        done = subprocess.run(command, timeout=900, capture_output=True, text=True, env=variables, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(out.read_text(encoding="utf-8"))


@contextmanager
def folder_of(nasties: list[Nasty], place: Path, good: dict[str, str] = GOOD) -> Iterator[Path]:
    """A folder with all of them and some good files; removed by a program that knows paths of any length."""
    folder = place / "kb"
    for one in nasties:
        one.write(folder)
    for path, text in good.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    try:
        yield folder
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=True)


def became(nasty: Nasty, result: dict[str, Any]) -> str:
    """What a run made of a file: INDEXED, the reason that it was skipped with, or neither of the two."""
    name = f"kb/{nasty.path}"
    skipped = result["skipped"].items()
    reasons = [reason for source, reason in skipped if source == name or source.startswith((f"{name}:", f"{name}/"))]
    if reasons:
        return reasons[0]
    indexed = any(source == name or source.startswith(f"{name}/") for source in result["sources"])
    return INDEXED if indexed else EMPTY


def is_right(nasty: Nasty, found: str) -> bool:
    """Whether that is what had to become of it."""
    if nasty.becomes == UNSEEN:
        return found in (EMPTY, INDEXED)
    if nasty.becomes in (INDEXED, EMPTY):
        return found == nasty.becomes
    return found not in (INDEXED, EMPTY) and any(words in found for words in nasty.becomes.split("|"))


def check(nasties: list[Nasty], result: dict[str, Any], attack: Attack, kind: str) -> None:
    """Count each file as an attack; all good ones are there."""
    wrong = []
    for nasty in nasties:
        found = became(nasty, result)
        try:
            with attack(kind):
                assert is_right(nasty, found)
        except AssertionError:
            wrong.append(f"{nasty.path!r} should be {nasty.becomes!r}, but became {found!r}")
    assert not wrong, "\n".join(wrong)
    assert {f"kb/{path}" for path in GOOD} <= set(result["sources"])


@pytest.mark.slow
def test_small_files_in_one_folder(attack: Attack, tmp_path: Path) -> None:
    """Each is indexed or named with its reason, and every good file is indexed."""
    with folder_of(SMALL, tmp_path) as folder:
        [result] = run([folder])
    assert len(SMALL) > 120
    check(SMALL, result, attack, "bad input: a small file among good ones")
    assert result["mib"] < MIB
    known = {one.path for one in SMALL} | set(GOOD)
    assert {source for source in result["skipped"] if not any(source.startswith(f"kb/{path}") for path in known)} == set()


@pytest.mark.slow
def test_small_files_alone(attack: Attack, tmp_path: Path) -> None:
    """Each in a folder of its own beside the good ones, in time and memory."""
    folders = []
    for number, one in enumerate(SMALL):
        folders.append(folder_of([one], tmp_path / str(number)))
    made = [folder.__enter__() for folder in folders]
    try:
        results = run(made)
    finally:
        for folder in folders:
            folder.__exit__(None, None, None)
    for one, result in zip(SMALL, results, strict=True):
        check([one], result, attack, "bad input: a small file alone")
        assert result["seconds"] < SECONDS, one.path
        assert result["mib"] < MIB, one.path


@pytest.mark.slow
@pytest.mark.parametrize("nasty", LARGE, ids=lambda one: one.path)
def test_large_files(nasty: Nasty, attack: Attack, tmp_path: Path) -> None:
    """In time and memory, those of the parser included; the good files beside it are indexed."""
    with folder_of([nasty], tmp_path) as folder:
        [result] = run([folder])
    took = f"{result['seconds']:.1f} s, {result['mib']} MiB, parser {result['children_mib']} MiB"
    print(f"{nasty.path}: {took}; {became(nasty, result)}")
    check([nasty], result, attack, "bad input: a large file")
    assert result["seconds"] < SECONDS
    assert result["mib"] < MIB
    assert result["children_mib"] < 1100


@pytest.mark.parametrize("mode", [0o000, 0o300], ids=["nothing", "not-listed"])
def test_what_may_not_be_read(mode: int, attack: Attack, tmp_path: Path) -> None:
    """By an ordinary user: a file and a folder are named, and what the other files say is indexed."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        os.chmod(place, 0o755)
        folder = Path(place) / "kb"
        (folder / "locked").mkdir(parents=True)
        for path in ("open.md", "secret.md", "locked/inside.md"):
            (folder / path).write_text("Text.", encoding="utf-8")
        (folder / "secret.md").chmod(0o000)
        (folder / "locked").chmod(mode)
        try:
            (tmp_path / "first.md").write_text("Text.", encoding="utf-8")
            with attack("bad input: not to be read by an ordinary user"):
                _, result = run([tmp_path, folder], user="nobody" if os.geteuid() == 0 else None)
                assert result["sources"] == ["kb/open.md"]
                assert "Permission denied" in result["skipped"]["kb/secret.md"]
                assert "Permission denied" in result["skipped"]["kb/locked"]
        finally:
            (folder / "locked").chmod(0o755)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["grows", "is cut", "is replaced", "comes and goes"])
def test_a_file_that_another_program_writes(how: str, attack: Attack, tmp_path: Path) -> None:
    """It is indexed as it was at one moment, or skipped with its reason; the next run has it as it is then."""
    folder = tmp_path / "kb"
    folder.mkdir()
    (folder / "calm.md").write_text("Nobody writes here.", encoding="utf-8")
    restless = folder / "restless.md"
    restless.write_text("whole " * 50_000, encoding="utf-8")
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            if how == "grows":
                with restless.open("a", encoding="utf-8") as file:
                    file.write("more ")
            elif how == "is cut":
                restless.write_text("whole " * (number % 7 * 10_000), encoding="utf-8")
            elif how == "is replaced":
                other = folder / "other.tmp"
                other.write_text("whole " * 50_000 + str(number), encoding="utf-8")
                other.replace(restless)
            else:
                restless.unlink(missing_ok=True)
                restless.write_text("whole", encoding="utf-8")

    writer = threading.Thread(target=write)
    writer.start()
    url = f"memory:{tmp_path.name}-{how.replace(' ', '')}"
    try:
        for _ in range(5):
            with attack("bad input: written while it is read"):
                summary = sightline.index([folder], into=url, model=HashEmbedder())
                assert all(one.source == "kb/restless.md" for one in summary.skipped)
                reasons = "changed while it was read|can't be read: No such file"
                assert all(re.search(reasons, one.reason) for one in summary.skipped)
    finally:
        stop.set()
        writer.join()
    restless.write_text("At last.", encoding="utf-8")
    assert sightline.index([folder], into=url, model=HashEmbedder()).skipped == ()
    with closing(open_store(url)) as store:
        assert {point.text for source in store.sources() for point in store.points(source)} == {"At last.", "Nobody writes here."}


@pytest.mark.slow
def test_two_hundred_thousand_tiny_files(attack: Attack, tmp_path: Path) -> None:
    """All of them, in a flat folder and in deep ones, in memory that doesn't grow with what they say."""
    folder = tmp_path / "kb"
    for number in range(200):
        below = folder / f"{number % 10}" / f"{number}"
        below.mkdir(parents=True)
        for file in range(1000):
            (below / f"{file}.md").write_bytes(b"%d/%d" % (number, file))
    with attack("bad input: 200,000 tiny files"):
        [result] = run([folder])
        assert len(result["sources"]) == 200_000
        assert not result["skipped"]
        print(f"200,000 files: {result['seconds']:.0f} s, {result['mib']} MiB")


def test_a_folder_of_nothing_is_refused_in_words(attack: Attack, tmp_path: Path) -> None:
    """No empty collection is made of it."""
    with attack("bad input: an empty folder"), pytest.raises(UsageError, match="holds no file that can be read"):
        sightline.index([tmp_path], into=f"memory:{tmp_path.name}", model=HashEmbedder())


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (sightline.Document("a", "half \ud800"), "lone surrogate"),
        (sightline.Document("a\udfff", "text"), "lone surrogate"),
        (sightline.Document("a\n", "text"), "without control characters"),
        (sightline.Document("", "text"), "without control characters"),
        (sightline.Document("a", "text", metadata={"k": "\ud800"}), "lone surrogate"),
        (sightline.Document("a", "text", metadata={"\ud800": 1}), "lone surrogate"),
        (sightline.Document("a", "text", metadata={"k": float("nan")}), "a store keeps"),
        (sightline.Document("a", "text", metadata={"k": 2**63}), "a store keeps"),
        (sightline.Document("a", "text", metadata={"k": object()}), "a store keeps"),
        (sightline.Document("a", "text", metadata={1: "k"}), "a store keeps"),
        (sightline.Document("a", b"bytes"), "must be a str"),
    ],
)  # fmt: skip
def test_a_document_from_python(document: sightline.Document, words: str, attack: Attack, tmp_path: Path) -> None:
    """One that no store could keep is named, and the others are indexed."""
    with attack("bad input: a document from Python"):
        url = f"memory:{tmp_path.name}"
        good = sightline.Document("good", "Text.")
        summary = sightline.index(documents=[document, good], into=url, model=HashEmbedder())
        assert [words in one.reason for one in summary.skipped] == [True]
        with closing(open_store(url)) as store:
            assert list(store.sources()) == ["documents/good"]
