"""`sightline index --dry-run`: what a run would do."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from sightline import api
from sightline.cli.options import amount, counted, rows_of
from sightline.cli.output import echo, json_text, plain
from sightline.cli.progress import duration, show_progress
from sightline.errors import UsageError
from sightline.types import VectorLayout

_NAMES_SHOWN = 10
_REFUSED = 2


def dry_run(arguments: dict[str, Any], as_json: bool) -> int:
    """Show what `index` would do with these arguments; gives the exit code that it would end with, as far as that is known."""
    given = dict(arguments)
    if given.pop("take_over"):
        raise UsageError("--take-over ends another writer's lease; --dry-run writes nothing. Leave one of them out.")
    with show_progress() as on_progress:
        plan = api.plan_index(**given, on_progress=on_progress)
    if as_json:
        echo(json_text(dataclasses.asdict(plan)))
    else:
        _tell(plan)
    if plan.refusal is not None:
        echo(f"The run would refuse: {plan.refusal}", err=True)
        return _REFUSED
    return 1 if plan.summary.documents_failed else 0


def _tell(plan: api.IndexPlan) -> None:
    echo(rows_of(list(_rows(plan))))
    echo("\nThe collection would then take about, by length of its vectors, in memory and on disk:\n")
    echo(sizes_table(plan.sizes))
    echo("\nNothing was written.")


def _rows(plan: api.IndexPlan) -> Iterator[tuple[str, str]]:
    state = "would be rebuilt" if plan.rebuilds else "is there" if plan.exists else "would be made"
    yield "collection", f"{plan.url} {state}, {plan.dimensions} dimensions, {plan.model}"
    yield from _documents("added", plan.added)
    yield from _documents("changed", plan.changed)
    yield from _documents("removed", plan.removed)
    yield from _documents("gone, kept", plan.kept)
    yield "unchanged", f"{len(plan.unchanged):,}"
    if plan.empty:
        yield from _documents("without text", plan.empty)
    skipped = plan.summary.skipped
    yield "skipped", f"{len(skipped):,}"
    for one in skipped[:_NAMES_SHOWN]:
        yield "", f"{plain(one.source)}: {plain(one.reason)}"
    if len(skipped) > _NAMES_SHOWN:
        yield "", f"... and {len(skipped) - _NAMES_SHOWN:,} more; --json has all"
    if plan.summary.files_ignored:
        yield "ignored", f"{plan.summary.files_ignored:,}"
    yield "chunks", f"{plan.summary.chunks:,}, {plan.summary.chunks_deleted:,} deleted"
    tokens = "an unknown number of tokens" if plan.tokens is None else counted(plan.tokens, "token")
    yield "to be embedded", f"{counted(plan.summary.chunks_embedded, 'chunk')} of {tokens}"
    if plan.summary.truncated_texts:
        yield "too long", f"{counted(plan.summary.truncated_texts, 'chunk')}; lower --chunk-tokens"
    if plan.seconds is not None:
        yield "time", f"about {duration(plan.seconds)}{_measured(plan.calibration)}"


def _documents(what: str, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    yield what, f"{len(names):,}"
    for name in names[:_NAMES_SHOWN]:
        yield "", plain(name)
    if len(names) > _NAMES_SHOWN:
        yield "", f"... and {len(names) - _NAMES_SHOWN:,} more; --json has all"


def _measured(one: api.Calibration | None) -> str:
    if one is None:
        return ", to read and compare the files"
    what = "" if one.tokens is None else f" of {one.tokens:,} tokens"
    rate = f"{one.texts / one.seconds:,.0f} chunks/s" if one.tokens is None else f"{one.tokens / one.seconds:,.0f} tokens/s"
    measured = f"{counted(one.texts, 'chunk')}{what} in {one.seconds:,.1f} s ({rate})"
    return f"; measured here: {measured}, loading {one.loading_seconds:,.1f} s"


def sizes_table(sizes: Sequence[api.StoreSize]) -> str:
    """A line for each way of keeping vectors, and two columns for each store."""
    stores = list(dict.fromkeys(size.store for size in sizes))
    found = {(size.layout, size.store): size for size in sizes}
    lines = [["vectors", *(f"{store}: {what}" for store in stores for what in ("memory", "disk"))]]
    for layout in dict.fromkeys(size.layout for size in sizes):
        cells = [_named(layout)]
        for store in stores:
            size = found.get((layout, store))
            cells += ["-", "-"] if size is None else [amount(size.memory_bytes), amount(size.disk_bytes)]
        lines.append(cells)
    first, *others = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(first), *(cell.rjust(width) for cell, width in zip(line[1:], others, strict=True))])
        for line in lines
    )


def _named(layout: VectorLayout) -> str:
    lengths = "+".join(map(str, layout.lengths))
    storage = "" if layout.storage == "float32" else f" {layout.storage}"
    return f"{lengths}{storage}{f' {layout.quantization}' if layout.quantization else ''}"
