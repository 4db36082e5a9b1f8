"""Runs in processes of their own, also on what seems another machine: `python runs.py URL MACHINE ROOT VERSION [OPTION ...]`."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

import sightline
from sightline.errors import StoreLocked
from sightline.stores import leases
from sightline.testing import HashEmbedder
from sightline.types import Document

HERE = "here"
REFUSED = "refused: "
DOCUMENTS, CHUNKS = 20, 80


def embedder() -> HashEmbedder:
    """The one that all of them use."""
    return HashEmbedder(native_dimensions=16)


def documents(root: str, version: int) -> list[Document]:
    """What a run has of a root, four chunks a document."""
    body = "\n\n".join(f"# Part {part}\n\nversion{version} lamp {part}" for part in range(3))
    texts = [f"{root} house{number} version{version}\n\n{body}" for number in range(DOCUMENTS)]
    return [Document(f"d{number}", text, format="markdown") for number, text in enumerate(texts)]


def run(url: str, root: str, version: int, **options: Any) -> str:
    """Index a root: "done", or why it was refused. Any other error is the caller's to hear."""
    try:
        sightline.index(documents=documents(root, version), root=root, into=url, model=embedder(), **options)
    except StoreLocked as error:
        return f"{REFUSED}{error}"
    return "done"


def elsewhere(url: str, machine: str, root: str, version: int, *options: str) -> subprocess.Popen[str]:
    """Such a run in a process, on a machine of that name."""
    command = [sys.executable, str(Path(__file__)), url, machine, root, str(version), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    """What a run gave."""
    shown, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return shown.strip()


def held_elsewhere(url: str, machine: str) -> subprocess.Popen[str]:
    """A writer on another machine that holds the collection until its input ends."""
    command = [sys.executable, str(Path(__file__)), url, machine]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, **pipes)  # type: ignore[call-overload]
    assert process.stdout.readline() == "held\n"
    return process  # type: ignore[no-any-return]


def assert_same(url: str, other: str) -> None:
    """Two collections hold the same points, with vectors that differ by a rounding at most, and both are finished."""
    points, vectors = _contents(url)
    expected, wanted = _contents(other)
    assert points == expected
    assert all(np.abs(vector - wanted[one]).max() < 1e-6 for one, vector in vectors.items())


def _contents(url: str) -> tuple[dict[str, Any], dict[str, Any]]:
    from sightline.stores import open_store

    store = open_store(url)
    try:
        assert store.read_mark().get("unfinished") == []
        records = list(store.records())
        return {one.point.id: one.point for one in records}, {one.point.id: one.vector for one in records}
    finally:
        store.close()


def main(url: str, machine: str, *job: str) -> None:
    """Be on that machine, and run or hold."""
    if machine != HERE:
        socket.gethostname = lambda: machine
        leases._machine = lambda: f"boot of {machine}"
    if job:
        root, version, *options = job
        print(run(url, root, int(version), **dict.fromkeys(options, True)))
        return
    from sightline.stores import open_store

    store = open_store(url)
    store.acquire()
    print("held", flush=True)
    sys.stdin.read()
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
