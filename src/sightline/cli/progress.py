"""How a run is drawn: a live line on a terminal, a plain line now and then elsewhere. Always on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from sightline.cli.output import echo
from sightline.types import CopyProgress, IndexProgress, OnCopyProgress, OnIndexProgress

_PLAIN_EVERY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Line:
    """What is drawn: words, how much is done of how much, and for how long it has been going on."""

    text: str
    done: float
    total: float | None
    seconds: float


_Draw: TypeAlias = Callable[[Line], None]


@contextmanager
def show_progress() -> Iterator[OnIndexProgress]:
    """Draw the events of an index run that are given to what this yields."""
    with _drawn() as draw:
        yield lambda progress: draw(
            Line(f"{documents(progress)}, {rates(progress)}", progress.bytes_done, progress.bytes_total, progress.seconds)
        )


@contextmanager
def show_copy_progress() -> Iterator[OnCopyProgress]:
    """Draw the events of a copy that are given to what this yields."""
    with _drawn() as draw:
        yield lambda progress: draw(Line(points(progress), progress.points_done, progress.points_total, progress.seconds))


@contextmanager
def _drawn() -> Iterator[_Draw]:
    if sys.stderr.isatty():
        with _live() as draw:
            yield draw
    else:
        yield _Plain()


@contextmanager
def show_count(what: str) -> Iterator[Callable[[int, int], None]]:
    """Draw how many of how many are done; on a terminal only, because such work takes seconds."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task(what, total=None)
        yield lambda done, total: display.update(task, completed=done, total=total)


class _Plain:
    """A line every ten seconds: for logs."""

    def __init__(self) -> None:
        self._next = _PLAIN_EVERY_SECONDS

    def __call__(self, line: Line) -> None:
        if line.seconds >= self._next:
            self._next = line.seconds + _PLAIN_EVERY_SECONDS
            echo(line.text, err=True)


@contextmanager
def _live() -> Iterator[_Draw]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        BarColumn(bar_width=24),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task("opening the collection", total=None)
        yield lambda line: display.update(task, completed=line.done, total=line.total, description=line.text)


def points(progress: CopyProgress) -> str:
    """How far a copy is, and how fast it writes."""
    parts = [f"{progress.stage} {progress.points_done:,}/{progress.points_total:,} points"]
    if progress.stage == "copying" and progress.points_written:
        parts.append(f"{progress.points_written / max(progress.seconds, 1e-9):,.0f} written/s")
    return ", ".join(parts)


def documents(progress: IndexProgress) -> str:
    """How many documents are done, of how many where that is known."""
    total = "" if progress.documents_total is None else f"/{progress.documents_total:,}"
    return f"{progress.documents_done:,}{total} documents"


def rates(progress: IndexProgress) -> str:
    """How much is done, how fast, and how long the rest may take."""
    seconds = max(progress.seconds, 1e-9)
    parts = [f"{progress.chunks_embedded:,} chunks"]
    if progress.chunks_embedded:
        parts.append(f"{progress.chunks_embedded / seconds:,.1f} chunks/s")
    if progress.tokens_embedded:
        parts.append(f"{progress.tokens_embedded / seconds:,.0f} tokens/s")
    if progress.bytes_total and 0 < progress.bytes_done < progress.bytes_total:
        parts.append(f"{duration(seconds * (progress.bytes_total - progress.bytes_done) / progress.bytes_done)} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """12 s, 3:25 min, 2:05 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"
