"""`sightline dimensions`: shorter vectors of a collection that is there already."""

from __future__ import annotations

import click

from sightline import api
from sightline.cli.options import counted
from sightline.cli.output import echo
from sightline.cli.progress import show_count


@click.group(short_help="Add or remove shorter vectors; nothing is embedded.")
def dimensions() -> None:
    """Add shorter vectors to a collection, or remove them. See which it has with sightline inspect."""


@dimensions.command()
@click.argument("length", type=int, metavar="N")
@click.option("--in", "url", required=True, metavar="URL", help="The collection.")
@click.option("--take-over", is_flag=True, help="End another writer's lease on a server.")
def add(length: int, url: str, take_over: bool) -> None:
    """Keep vectors of N dimensions too, cut from those that are stored.

    No model is loaded and nothing is embedded. Run the same command again after an interruption: it goes on where it stopped.

    \b
    Examples:
      sightline dimensions add 256 --in edge:./kb
      sightline dimensions add 128 --in qdrant://localhost:6334/handbook
    """
    with show_count("cutting") as on_progress:
        done = api.add_dimension(url, length, take_over=take_over, on_progress=on_progress)
    echo(f"{url} has vectors of {length} dimensions too: {counted(done, 'point')} cut", err=True)


@dimensions.command()
@click.argument("length", type=int, metavar="N")
@click.option("--in", "url", required=True, metavar="URL", help="The collection.")
@click.option("--take-over", is_flag=True, help="End another writer's lease on a server.")
def remove(length: int, url: str, take_over: bool) -> None:
    """Keep the shorter vectors of N dimensions no longer; the main ones stay.

    \b
    Example:
      sightline dimensions remove 128 --in edge:./kb
    """
    api.remove_dimension(url, length, take_over=take_over)
    echo(f"{url} has no vectors of {length} dimensions any more", err=True)
