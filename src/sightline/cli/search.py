"""`sightline search`: a question to a collection."""

from __future__ import annotations

import dataclasses
import shutil
import textwrap

import click

from sightline import api
from sightline.cli.options import json_option, parse_filters, run_options
from sightline.cli.output import echo, json_text, plain
from sightline.types import Hit, Metadata

_SNIPPET_LINES = 3
_PLACES = ("page", "slide", "row", "cell", "part", "line")


@click.command(short_help="Ask a collection a question.")
@click.argument("text")
@click.option("--in", "url", required=True, metavar="URL", help="The collection.")
@click.option("-k", "k", type=int, default=10, show_default=True, metavar="N", help="How many hits.")
@click.option("--model", metavar="MODEL", help="The collection's model elsewhere: a folder, a server. Default: the one it names.")
@click.option("--instruction", metavar="NAME_OR_TEXT", help="What the question looks with. Default: the collection's own.")
@click.option("--filter", "filters", multiple=True, metavar="KEY=VALUE", help="Only such hits; also KEY>=NUMBER, KEY<NUMBER ...")
@click.option("--dimensions", type=int, metavar="N", help="Search by the collection's shorter vectors of this length alone.")
@click.option("--shortlist", metavar="N:COUNT", help="Find COUNT by vectors of N dimensions, rescore them by the main ones.")
@click.option("--trust", is_flag=True, help="Fetch the model that the collection names, whatever it is.")
@run_options
@json_option("the hits")
def search(
    text: str,
    url: str,
    k: int,
    model: str | None,
    instruction: str | None,
    filters: tuple[str, ...],
    dimensions: int | None,
    shortlist: str | None,
    trust: bool,
    device: str | None,
    devices: tuple[str, ...] | None,
    dtype: str | None,
    as_json: bool,
) -> None:
    """Show the chunks of a collection that are nearest to TEXT in meaning.

    Model, instruction and dimensions are the collection's own, so that the question is seen as the documents were.

    \b
    Examples:
      sightline search "how do I reset my password?" --in edge:./kb
      sightline search "late deliveries" --in chroma:./db/handbook -k 3
      sightline search "E1021" --in edge:./kb --instruction "Given an error code, find its explanation"
      sightline search "fees" --in edge:./kb --filter lang=de --filter "year>=2020"
      sightline search "lost luggage" --in edge:./kb --shortlist 256:200
      sightline search "opening hours" --in edge:./kb --json | jq '.[0].source'
    """
    wanted = parse_filters(filters)
    with api.open_collection(url, model=model, trust=trust, device=device, devices=devices, dtype=dtype) as collection:
        hits = collection.search(
            text, k=k, instruction=instruction, filter=wanted, dimensions=dimensions, shortlist=shortlist
        )  # fmt: skip
    if as_json:
        echo(json_text([dataclasses.asdict(hit) for hit in hits]))
    elif hits:
        echo("\n\n".join(_shown(rank, hit) for rank, hit in enumerate(hits, start=1)))
    else:
        echo(f"Nothing in {url} has this metadata." if wanted else f"{url} is empty.", err=True)


def _shown(rank: int, hit: Hit) -> str:
    heading = plain(str(hit.metadata.get("heading") or ""))
    first = "  ".join(filter(None, [f"{rank:>2}", f"{hit.score:.3f}", plain(hit.source), place(hit.metadata), heading]))
    width = max(shutil.get_terminal_size().columns, 40)
    lines = textwrap.wrap(plain(hit.text), width - 4, max_lines=_SNIPPET_LINES, placeholder=" ...")
    return "\n".join([first, *(f"    {line}" for line in lines)])


def place(metadata: Metadata) -> str:
    """Where in its file a chunk is from, for people: "page 3-4"."""
    found = []
    for key in _PLACES:
        first, last = metadata.get(key), metadata.get(f"{key}_end")
        if last is not None:  # without an end it is the document's own
            found.append(plain(f"{key} {first}" if first == last else f"{key} {first}-{last}"))
    return ", ".join(found)
