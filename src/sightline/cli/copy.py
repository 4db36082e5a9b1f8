"""`sightline copy`: a collection to another store, or to a file and back."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from sightline import api
from sightline.cli.options import counted, json_option
from sightline.cli.output import echo, json_text
from sightline.cli.progress import show_copy_progress
from sightline.cli.signals import exit_code
from sightline.errors import UsageError
from sightline.types import CopySummary, Foreign


@click.command(short_help="Copy a collection to another store or to a file.")
@click.argument("src")
@click.argument("dst")
@click.option("--replace", is_flag=True, help="Put the copy in the place of what is at DST, in one step, when it is whole.")
@click.option("--only-main", is_flag=True, help="Copy the main vectors alone, as float32 and without quantisation.")
@click.option(
    "--foreign",
    type=click.Choice([one.value for one in Foreign]),
    default=Foreign.REFUSE.value,
    show_default=True,
    help="What becomes of points that another program wrote: refuse the copy, make them rows, or leave them out.",
)
@click.option("--take-over", is_flag=True, help="End another writer's lease on a server.")
@json_option("the summary")
def copy(src: str, dst: str, as_json: bool, **options: Any) -> int:
    """Copy the collection at SRC to DST without embedding anything: points, vectors, contract.

    Each is the URL of a store, or a file parquet:FILE. What was copied is read back and compared before anybody can open it. Run
    the same command again after an interruption: into a store it goes on where it stopped, into a file it begins anew.

    \b
    Examples:
      sightline copy edge:./kb qdrant://localhost:6334/handbook
      sightline copy edge:./kb parquet:./backup/kb.parquet
      sightline copy parquet:./backup/kb.parquet chroma:./db/handbook --replace
    """
    if dst.startswith("memory:"):
        raise UsageError("memory: is gone when this command ends. Copy into another store, e.g. edge:./kb, or from Python.")
    try:
        with show_copy_progress() as on_progress:
            summary = api.copy(src, dst, **options, on_progress=on_progress)
    except KeyboardInterrupt as interrupt:
        echo("Interrupted. The copy isn't finished; the same command goes on.", err=True)
        return exit_code(interrupt)
    if as_json:
        echo(json_text(dataclasses.asdict(summary)))
    _tell(summary)
    return 0


def _tell(summary: CopySummary) -> None:
    there = summary.points - summary.points_written
    counts = [
        f"{counted(summary.points, 'point')} in {summary.destination}: {summary.points_written:,} written",
        f"{there:,} there already" if there else "",
        f"{summary.points_removed:,} removed" if summary.points_removed else "",
        f"{summary.foreign_points - summary.foreign_left:,} of another program made rows"
        if summary.foreign_points > summary.foreign_left
        else "",
        f"{summary.foreign_left:,} of another program left out" if summary.foreign_left else "",
    ]
    echo(", ".join(filter(None, counts)), err=True)
    rows = f", {counted(summary.rows, 'row')}" if summary.rows else ""
    echo(
        f"{counted(summary.documents, 'document')}{rows} in {summary.seconds:,.1f} s. Verified: all ids, texts and metadata, "
        f"{counted(summary.vectors_compared, 'vector')} (largest difference {summary.largest_difference:.1e})",
        err=True,
    )
