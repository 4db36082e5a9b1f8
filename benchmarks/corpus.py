"""What is indexed: the same plain text files for every side, copied into one folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Markdown, reStructuredText and text only: every side reads these as they are, so that no side's HTML reader is measured.
_SUFFIXES = (".md", ".rst", ".txt")
_SHIPPED = Path(__file__).parent.parent / "examples" / "knowledge_base"


@dataclass(frozen=True)
class Corpus:
    """The copied files. `folder` is where they lie for this run; `name` is what the tables call them."""

    name: str
    folder: str
    files: int
    characters: int
    by_suffix: dict[str, int]

    def facts(self) -> dict[str, Any]:
        """What the result file remembers of it: everything but the folder, which is gone after the run."""
        return {name: value for name, value in asdict(self).items() if name != "folder"}


def prepare(work: Path, limit: int | None) -> Corpus:
    """Copy the files to index into `work`; `limit` takes so many of them, spread evenly."""
    name, origin = _origin()
    paths = sorted(path for path in origin.rglob("*") if _is_text(path.relative_to(origin)) and path.is_file())
    if not paths:
        raise SystemExit(f"{name} holds no {' '.join(_SUFFIXES)} file. Set SIGHTLINE_BENCH_CORPUS to another folder.")
    if limit is not None:
        paths = paths[:: -(-len(paths) // limit)]
    folder = work / "corpus"
    for path in paths:
        copy = folder / path.relative_to(origin)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    by_suffix = {suffix: sum(path.suffix == suffix for path in paths) for suffix in _SUFFIXES}
    return Corpus(name, str(folder), len(paths), sum(len(text) for _, text in read(folder)), by_suffix)


def read(folder: str | Path) -> Iterator[tuple[str, str]]:
    """`(source, text)` of every file, in the order of their names: how the peers read."""
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path.read_text(encoding="utf-8")


def _is_text(path: Path) -> bool:
    return path.suffix in _SUFFIXES and not any(part.startswith(".") for part in path.parts)


def _origin() -> tuple[str, Path]:
    """What the corpus is called and where it lies: the one asked for, the shared test data, or what the repository ships."""
    given = os.environ.get("SIGHTLINE_BENCH_CORPUS")
    if given:
        return f"{Path(given).resolve().name} (SIGHTLINE_BENCH_CORPUS)", Path(given)
    shared = Path(os.environ.get("SIGHTLINE_TEST_DATA", "../shared/data")) / "kb-small"
    if shared.is_dir():
        return "kb-small (shared test data)", shared
    return "examples/knowledge_base (shipped; far too small for figures that mean much)", _SHIPPED
