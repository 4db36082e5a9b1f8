"""Runs of `sightline.index` that are killed, and what they leave.

A run takes a second to import what it needs and a tenth of a second to work, so a process that has imported everything, and
opened nothing, forks one child for each run: it is this file, run as a program. The child is killed from outside, by SIGKILL,
or ends itself by SIGKILL at a seam. It notes each window of texts that it embeds in a file, before it embeds it.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WORDS = ["tide", "wind", "swell", "lamp", "rope", "anchor", "harbour", "keeper", "storm", "gull", "größer", "潮汐", "маяк"]
# Texts in a window, in place of up to 512: so that a small folder has many windows.
WINDOW = 16
# Windows that may be embedded and not yet written: two with the embedder, two that wait for the writer, and the one in its hands.
IN_FLIGHT = 5


class Folder:
    """A folder of Markdown that has a next version: edits, additions, renames, removals, equal texts, emptied files."""

    def __init__(self, path: Path, seed: int, documents: int = 24, sections: int = 14) -> None:
        self.path = path
        self._random = random.Random(seed)
        self._most = sections
        (path / "deep").mkdir(parents=True)
        for number in range(documents):
            self._write(f"{'deep/' if number % 3 else ''}doc{number}.md", self._random.randint(1, sections))

    def _sections(self, count: int) -> list[str]:
        made = [f"# Part {part}\n\n{' '.join(self._random.choices(WORDS, k=30))}." for part in range(count)]
        return [*made, "# Closing\n\nThe same words stand at the end of every page."]

    def _write(self, name: str, count: int) -> None:
        text = "\n\n".join([f"---\nversion: {self._random.randint(1, 3)}\n---", *self._sections(count)])
        (self.path / name).write_text(text, encoding="utf-8")

    def _files(self) -> list[Path]:
        return sorted(self.path.rglob("*.md"))

    def change(self) -> None:
        """The next version: about half of the documents differ, and some are gone."""
        for path in self._files():
            text, choice = path.read_text(encoding="utf-8"), self._random.random()
            if choice < 0.2:
                added = "# New\n\n" + " ".join(self._random.choices(WORDS, k=20))
                path.write_text(text.replace("\n\n", f"\n\n{added}\n\n", 1), encoding="utf-8")
            elif choice < 0.35:
                self._write(str(path.relative_to(self.path)), self._random.randint(1, self._most))
            elif choice < 0.45:
                path.rename(path.with_name(f"moved-{self._random.randrange(10**6)}.md"))
            elif choice < 0.5:
                path.unlink()
            elif choice < 0.55:
                path.write_text("", encoding="utf-8")
        for _ in range(3):
            self._write(f"new-{self._random.randrange(10**6)}.md", self._random.randint(1, self._most))

    def thin_out(self) -> None:
        """Another version: a third of the documents is gone, nothing else."""
        for path in self._random.sample(self._files(), len(self._files()) // 3):
            path.unlink()


@dataclass(frozen=True)
class Run:
    """What is run: `sightline.index(**arguments)` by the hash embedder, or by a model that is given by name.

    Args:
        arguments: Of `sightline.index`, as JSON data; the model apart.
        model: Its name; None is the hash embedder.
    """

    arguments: Mapping[str, Any]
    model: str | None = None


@dataclass(frozen=True)
class Kill:
    """When a run is killed: at one of these.

    Args:
        seconds: After so long.
        event: At this write to the store or submission to the embedder, counted from 0, and `seconds` after it.
        seam: Before or after this step of a swap: its number, twice over, odd is after it.
    """

    seconds: float = 0.0
    event: int | None = None
    seam: int | None = None


@dataclass
class Ended:
    """How a run ended.

    Args:
        killed: Whether it was killed before it was through.
        error: What it raised.
        seconds: How long it took.
        windows: The texts of each window that was embedded.
        events: How many writes and submissions there were.
        steps: The steps of the swap.
    """

    killed: bool
    error: str | None
    seconds: float
    windows: list[list[str]] = field(default_factory=list)
    events: int = 0
    steps: list[str] = field(default_factory=list)

    @property
    def texts(self) -> set[str]:
        """All texts that were embedded."""
        return {text for window in self.windows for text in window}


class Runner:
    """The warm process."""

    def __init__(self, folder: Path) -> None:
        self._notes = folder / "notes"
        command = [sys.executable, str(Path(__file__)), str(self._notes)]
        # One thread in numpy: a process that forks has no other threads then.
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def run(self, run: Run, kill: Kill | None = None, *, may_fail: bool = False) -> Ended:
        """Run it in a child, which is killed at that instant unless it was through before."""
        self._notes.unlink(missing_ok=True)
        asked = {"arguments": dict(run.arguments), "model": run.model, "kill": None if kill is None else vars(kill)}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        status, seconds = json.loads(self._process.stdout.readline())
        ended = Ended(status == -signal.SIGKILL, None, seconds)
        for line in self._notes.read_text(encoding="utf-8").splitlines() if self._notes.exists() else ():
            kind, noted = json.loads(line)
            if kind == "window":
                ended.windows.append(noted)
            elif kind == "step":
                ended.steps.append(noted)
            elif kind == "error":
                ended.error = noted
            ended.events += kind in ("window", "write")
        assert ended.killed or status == 0 or (may_fail and ended.error), ended.error or status
        return ended

    def close(self) -> None:
        """End it."""
        self._process.communicate()


@contextmanager
def warm(folder: Path) -> Iterator[Runner]:
    """A warm process, for as long as it is wanted."""
    runner = Runner(folder)
    try:
        yield runner
    finally:
        runner.close()


def copied(source: Path, target: Path) -> Path:
    """A copy of a directory. Databases lay out files that are mostly holes, and holes they stay."""
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run(["cp", "-a", "--sparse=always", str(source), str(target)], check=True)
    return target


# --- the program


def serve(notes: str) -> None:
    """Fork a child for each line of the standard input, kill it as the line says, and tell how it ended."""
    import_all()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    for line in sys.stdin:
        asked = json.loads(line)
        kill = None if asked["kill"] is None else Kill(**asked["kill"])
        began = time.monotonic()
        at_event, tell = os.pipe()
        child = os.fork()
        if not child:
            os.close(at_event)
            work(asked, kill, Notes(notes, tell))
        os.close(tell)
        if kill is not None and kill.seam is None:
            if kill.event is not None:
                os.read(at_event, 1)  # nothing, where the child ends before
            signal.sigtimedwait({signal.SIGCHLD}, kill.seconds)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        signal.sigtimedwait({signal.SIGCHLD}, 0)  # that of this child
        os.close(at_event)
        print(json.dumps([os.waitstatus_to_exitcode(status), time.monotonic() - began]), flush=True)


def import_all() -> None:
    """What a run imports, and nothing that starts a thread."""
    import sightline
    from sightline.indexing import indexer
    from sightline.stores import chroma, chroma_server, edge, qdrant  # noqa: F401

    assert callable(sightline.index)
    indexer._SMALLEST_WINDOW = indexer._LARGEST_WINDOW = WINDOW


class Notes:
    """Lines in a file, each written at once, so that what was noted before a kill is there after it."""

    def __init__(self, path: str, tell: int) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._tell = tell
        self._at: int | None = None
        self._events = 0

    def tell_at(self, event: int) -> None:
        """Tell the parent when it comes to this event."""
        self._at = event

    def note(self, kind: str, what: Any) -> None:
        """One line; writes and windows are events."""
        os.write(self._file, (json.dumps([kind, what]) + "\n").encode())
        if kind in ("window", "write"):
            if self._events == self._at:
                os.write(self._tell, b"x")
            self._events += 1


def work(asked: dict[str, Any], kill: Kill | None, notes: Notes) -> None:
    """The child's life."""
    import sightline

    code = 1
    try:
        if kill is not None and kill.event is not None:
            notes.tell_at(kill.event)
        watch_writes(notes)
        watch_swap(notes, None if kill is None else kill.seam)
        sightline.index(**asked["arguments"], model=embedder(asked["model"], notes))
        code = 0
    except BaseException as error:  # noqa: BLE001 - it is told by the parent
        notes.note("error", f"{type(error).__name__}: {error}")
    finally:
        os._exit(code)


def embedder(name: str | None, notes: Notes) -> Any:
    """Who embeds, and notes what."""
    from sightline import open_embedder
    from sightline.contract import PROBE_TEXTS
    from sightline.testing import HashEmbedder

    made: Any = HashEmbedder() if name is None else open_embedder(name, deterministic=True)
    submit, known = made.submit, set(PROBE_TEXTS)

    def noting(texts: Any, **options: Any) -> Any:
        given = [one if isinstance(one, str) else f"tokens {list(one.ids)}" for one in texts]
        if not known.issuperset(given):  # the sixteen probes of the contract are embedded when it is made
            notes.note("window", given)
        return submit(texts, **options)

    made.submit = noting
    return made


def store_classes() -> list[type]:
    """All stores whose writes are events."""
    from sightline.stores.chroma import ChromaStore
    from sightline.stores.edge import EdgeStore
    from sightline.stores.qdrant import QdrantStore

    return [EdgeStore, ChromaStore, QdrantStore]


def watch_writes(notes: Notes) -> None:
    """Note each write before it is done."""
    for store in store_classes():
        for name in ("create", "write_contract", "write_mark", "upsert", "update", "delete", "drop_staging", "promote", "close"):
            original = getattr(store, name)
            setattr(store, name, _before(original, lambda name=name: notes.note("write", name)))


def watch_swap(notes: Notes, seam: int | None) -> None:
    """Note each step of a swap, and end by SIGKILL at a seam."""
    from sightline.indexing.indexer import Indexer
    from sightline.stores import edge_directory, qdrant_names
    from sightline.stores.chroma import ChromaStore
    from sightline.stores.chroma_database import Database

    done = [False]  # whether all is embedded and written, so that what follows is the swap
    steps = [0]

    def step(original: Callable[..., Any], name: str) -> Callable[..., Any]:
        def stepping(*arguments: Any, **options: Any) -> Any:
            if not done[0]:
                return original(*arguments, **options)
            number, steps[0] = steps[0], steps[0] + 1
            notes.note("step", name)
            if seam == 2 * number:
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*arguments, **options)
            if seam == 2 * number + 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return stepping

    parts: list[tuple[Any, str]] = [
        (edge_directory.EdgeDirectory, "_write"), (edge_directory.os, "replace"), (edge_directory.EdgeDirectory, "remove_shard"),
        (edge_directory.os, "rmdir"), (ChromaStore, "_change"), (ChromaStore, "_swap"), (Database, "delete"),
        (qdrant_names.Names, "restore_indexing"), (qdrant_names.Names, "put"), (qdrant_names.Names, "_move_alias"),
        (qdrant_names.Names, "drop"),
    ]  # fmt: skip
    for store in store_classes():
        parts += [(store, "write_mark"), (store, "promote")]
    for owner, name in parts:
        setattr(owner, name, step(getattr(owner, name), name))
    run = Indexer.run

    def running(*arguments: Any, **options: Any) -> Any:
        result = run(*arguments, **options)
        done[0] = True
        return result

    Indexer.run = running  # type: ignore[method-assign]


def _before(original: Callable[..., Any], call: Callable[[], None]) -> Callable[..., Any]:
    def wrapped(*arguments: Any, **options: Any) -> Any:
        call()
        return original(*arguments, **options)

    return wrapped


if __name__ == "__main__":
    serve(sys.argv[1])
