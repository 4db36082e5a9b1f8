"""How an index run is drawn: a live line on a terminal, a plain line now and then elsewhere. Always on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from sightline.types import IndexProgress, OnIndexProgress

_PLAIN_EVERY_SECONDS = 10.0


@contextmanager
def show_progress() -> Iterator[OnIndexProgress]:
    """Draw the events that are given to what this yields."""
    if sys.stderr.isatty():
        with _live() as on_progress:
            yield on_progress
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

    def __call__(self, progress: IndexProgress) -> None:
        if progress.seconds >= self._next:
            self._next = progress.seconds + _PLAIN_EVERY_SECONDS
            click.echo(f"{documents(progress)}, {rates(progress)}", err=True)


@contextmanager
def _live() -> Iterator[OnIndexProgress]:
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

        def draw(progress: IndexProgress) -> None:
            display.update(
                task,
                completed=progress.bytes_done,
                total=progress.bytes_total,
                description=f"{documents(progress)}, {rates(progress)}",
            )

        yield draw


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
