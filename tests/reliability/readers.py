"""Readers in processes of their own, which ask one collection again and again and tell what they saw.

Every document of a collection names the version that it was made in, so an answer that isn't wholly of one version shows.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sightline
from sightline.testing import HashEmbedder
from sightline.types import Document, IndexSummary

DIMENSIONS = 16
DOCUMENTS = int(os.environ.get("READERS_DOCUMENTS", "30"))
WAYS = ("held", "anew")


@dataclass
class Seen:
    """What readers saw: answers, the versions they were of in order, and what must not be there."""

    answers: int = 0
    versions: list[int] = field(default_factory=list)
    mixed: list[Any] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def embedder() -> HashEmbedder:
    """The one that all of them use."""
    return HashEmbedder(native_dimensions=DIMENSIONS)


def documents(version: int) -> list[Document]:
    """A whole collection of one version; every text differs from the one that it had before."""
    return [Document(f"d{number}", f"lamp version{version} house{number}") for number in range(DOCUMENTS)]


def rebuild(url: str, version: int) -> IndexSummary:
    """Make the collection of that version beside the live one, and swap."""
    return sightline.index(documents=documents(version), into=url, model=embedder(), rebuild=True)


def ask(collection: sightline.Collection) -> tuple[int, set[int]]:
    """How many documents an answer has, and of which versions."""
    hits = collection.search("lamp", k=2 * DOCUMENTS + 10)
    return len({hit.source for hit in hits}), {int(hit.text.split("version")[1].split()[0]) for hit in hits}


@contextlib.contextmanager
def reading(url: str, ways: Sequence[str], work: Path) -> Iterator[list[Seen]]:
    """Readers that ask without a pause while the block runs; what each of them saw is there when it ends."""
    stop, found = work / "stop", []
    command = [sys.executable, str(Path(__file__)), url, str(stop)]
    processes = [subprocess.Popen([*command, way], stdout=subprocess.PIPE, text=True) for way in ways]
    try:
        for one in processes:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
        yield found
    finally:
        stop.touch()
        for one in processes:
            shown, _ = one.communicate(timeout=120)
            if one.returncode == 0:
                found.append(Seen(**json.loads(shown)))
        stop.unlink()
    assert len(found) == len(ways), "a reader died"


def main(url: str, stop: Path, way: str) -> None:
    """Ask until `stop` is there: one collection that is held open, or one that is opened anew for each question."""
    seen, held, is_ready = Seen(), None, False
    while not (is_ready and stop.exists()):
        try:
            if held is None or way == "anew":
                held = sightline.open_collection(url, model=embedder())
            count, versions = ask(held)
            seen.answers += 1
            if count != DOCUMENTS or len(versions) != 1:
                seen.mixed.append([count, sorted(versions)])
            elif seen.versions[-1:] != list(versions):
                seen.versions.extend(versions)
            if way == "anew":
                held.close()
        except Exception as error:  # noqa: BLE001 - whatever a reader meets is what the test is about
            seen.errors.append(f"{type(error).__name__}: {error}"[:500])
            time.sleep(0.01)
        if not is_ready:
            is_ready = True
            print("ready", flush=True)
    print(json.dumps(vars(seen)))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
