"""`sightline adopt`: a collection that another program filled becomes Sightline's."""

from __future__ import annotations

import click

from sightline import api
from sightline.cli.options import run_options
from sightline.cli.output import echo


@click.command(short_help="Take over a collection that another program filled.")
@click.argument("url")
@click.option(
    "--model",
    required=True,
    metavar="MODEL",
    help="What its vectors are of: folder, package:NAME, hub name or openai+http://HOST:PORT/v1#NAME.",
)
@run_options
def adopt(url: str, model: str, device: str | None, devices: tuple[str, ...] | None, dtype: str | None) -> None:
    """Check a sample of the stored vectors against MODEL; where they agree, write a contract.

    From then on the collection can be searched without naming a model, and written. What another program wrote is never deleted.

    \b
    Examples:
      sightline adopt chroma:./db/handbook --model Qwen/Qwen3-Embedding-0.6B
    """
    contract = api.adopt(url, model=model, device=device, devices=devices, dtype=dtype)
    echo(f"{url} is adopted: {contract.vectors.dimensions} dimensions of {contract.reading.model}", err=True)
