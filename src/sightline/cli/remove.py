"""`sightline remove`: documents out of a collection."""

from __future__ import annotations

import click

from sightline import api
from sightline.cli.options import counted
from sightline.cli.output import echo, plain


@click.command(short_help="Delete documents from a collection.")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--from", "url", required=True, metavar="URL", help="The collection.")
@click.option("--take-over", is_flag=True, help="End another writer's lease on a server.")
def remove(sources: tuple[str, ...], url: str, take_over: bool) -> None:
    """Delete documents by the sources that a search shows; a root or folder stands for all below it.

    The files stay as they are: the next run of sightline index over them brings them back.

    \b
    Examples:
      sightline remove handbook/old.md --from edge:./kb
      sightline remove handbook/archive handbook/drafts --from edge:./kb
    """
    gone = api.remove(sources, from_url=url, take_over=take_over)
    echo(f"Removed {counted(len(gone), 'document')} from {url}", err=True)
    for source in gone:
        echo(plain(source))
