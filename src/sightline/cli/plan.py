"""`sightline plan`: what a corpus that isn't here yet will take."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import click

from sightline import api
from sightline.cli.dry_run import sizes_table
from sightline.cli.options import amount, json_option, lengths_of, rows_of
from sightline.cli.output import echo, json_text
from sightline.cli.progress import duration
from sightline.errors import UsageError
from sightline.types import Quantization, VectorStorage

_QUANTIZATIONS = ("none", *Quantization)


@click.command(short_help="Reckon what a corpus that isn't here yet will take.")
@click.option("--documents", type=int, required=True, metavar="N", help="How many documents.")
@click.option("--tokens-per-document", type=float, required=True, metavar="T", help="Their mean length in tokens.")
@click.option("--chunk-tokens", type=int, metavar="C", help="Largest chunk. Default: 512, or what the model reads.")
@click.option("--overlap-tokens", type=int, default=0, metavar="O", help="What a chunk repeats of the one before. Default: 0.")
@click.option("--chunk-fill", type=float, metavar="SHARE", help="Mean chunk as a share of the largest. Default: as measured.")
@click.option("--bytes-per-token", type=float, metavar="B", help="Of the texts in UTF-8. Default: as measured.")
@click.option("--metadata-bytes", type=int, metavar="B", help="Source and metadata of a chunk. Default: as measured.")
@click.option("--model", metavar="MODEL", help=f"A known name, a folder or package:NAME. Default: {api.DEFAULT_MODEL}.")
@click.option("--native-dimensions", type=int, metavar="D", help="Instead of --model, with --parameters.")
@click.option("--parameters", type=float, metavar="P", help="Its weights without the token embeddings, e.g. 440e6.")
@click.option("--dimensions", metavar="D,...", help="Lengths of vectors to compare. Default: the model's own.")
@click.option("--quantization", metavar="KIND,...", help=f"To compare: {', '.join(_QUANTIZATIONS)}. Default: none.")
@click.option("--storage", type=click.Choice(list(map(str, VectorStorage))), default="float32", help="Default: float32.")
@click.option("--tokens-per-second", type=float, metavar="R", help="What one device embeds, as you measured it.")
@click.option(
    "--device", metavar="DEVICE", help=f"Instead: {', '.join(api.DEVICES)}; its rate is reckoned from the model's arithmetic."
)
@click.option("--peak-tflops", type=float, metavar="F", help="The device's dense rate in bfloat16.")
@click.option("--share", type=float, metavar="SHARE", help="What embedding reaches of it, 0 to 1.")
@click.option("--devices", type=int, default=1, show_default=True, metavar="N", help="How many work side by side.")
@click.option("--shard-points", type=int, metavar="N", help="At most so many chunks in a shard. Default: one shard.")
@json_option("the plan")
def plan(as_json: bool, **options: Any) -> None:
    """Reckon chunks, tokens, hours and bytes of a corpus that isn't here yet, and say what that stands on.

    For files that are here, sightline index --dry-run counts them.

    \b
    Examples:
      sightline plan --documents 1000000 --tokens-per-document 1500 --device h200
      sightline plan --documents 50000 --tokens-per-document 800 --tokens-per-second 15000 --dimensions 1024,256
      sightline plan --documents 1000000 --tokens-per-document 1500 --quantization none,scalar,binary --shard-points 5000000
    """
    lengths, kinds = options.pop("dimensions"), options.pop("quantization")
    found = api.plan_corpus(dimensions=lengths_of(lengths) or (), quantizations=_quantizations(kinds), **options)
    if as_json:
        echo(json_text(dataclasses.asdict(found)))
        return
    echo(rows_of(list(_rows(found))))
    echo("\nBy length of the vectors, in memory and on disk:\n")
    echo(sizes_table(found.sizes))
    echo("\nThis stands on:\n")
    lines = [(one.name, f"{one.value} ({one.origin}{f': {one.source}' if one.source else ''})") for one in found.assumptions]
    echo(rows_of(lines))


def _rows(found: api.CorpusPlan) -> Iterator[tuple[str, str]]:
    yield "documents", f"{found.documents:,}"
    yield "chunks", f"{found.chunks:,}, {found.tokens / found.chunks:,.0f} tokens in the mean"
    yield "tokens", f"{found.tokens:,} through the model"
    yield "payload", f"{amount(found.payload_bytes * found.chunks)}, {found.payload_bytes:,.0f} bytes a chunk"
    yield "shards", f"{found.shards:,}"
    if found.seconds is None or found.device_hours is None:
        yield "time", "unknown: give --tokens-per-second, or --device"
    else:
        yield "time", f"{duration(found.seconds)} at {found.tokens_per_second:,.0f} tokens/s for each device"
        yield "device hours", f"{found.device_hours:,.2f}"



def _quantizations(given: str | None) -> tuple[Quantization | None, ...]:
    names = [one.strip() for one in (given or "none").split(",")]
    unknown = [name for name in names if name not in _QUANTIZATIONS]
    if unknown:
        raise UsageError(f"The quantization {unknown[0]!r} isn't known: one of {', '.join(_QUANTIZATIONS)}.")
    return tuple(None if name == "none" else Quantization(name) for name in names)
