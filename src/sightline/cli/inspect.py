"""`sightline inspect`: what a collection is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import click

from sightline import api
from sightline.cli.options import counted, json_option
from sightline.cli.output import echo, json_text, plain

_ROOTS_SHOWN = 20


@click.command(short_help="Show what a collection is and holds.")
@click.argument("url")
@json_option("it")
def inspect(url: str, as_json: bool) -> None:
    """Show the contract of the collection at URL, its counts and sizes, and what the last run left. Loads no model.

    \b
    Examples:
      sightline inspect edge:./kb
      sightline inspect qdrant://localhost:6334/handbook --json | jq .documents
    """
    found = api.inspect(url)
    if as_json:
        echo(json_text(dataclasses.asdict(found)))
        return
    rows = list(_rows(found))
    width = max(len(label) for label, _ in rows)
    echo("\n".join(f"{label:<{width}}  {plain(value)}" for label, value in rows))


def _rows(found: api.Inspection) -> Iterator[tuple[str, str]]:
    yield "collection", found.url
    yield from _contract_rows(found)
    foreign = f", {found.foreign_points:,} of them written by another program" if found.foreign_points else ""
    yield "points", f"{found.points:,} of {found.dimensions} dimensions{foreign}"
    if found.shorter:
        yield "shorter vectors", ", ".join(map(str, found.shorter))
    for length in found.unfinished_dimensions:
        yield "unfinished", f"{length} dimensions; sightline dimensions add {length} (or remove) goes on"
    yield "kept as", found.storage + (f", {found.quantization} besides" if found.quantization else "")
    yield "documents", f"{found.documents:,}"
    for name, count in list(found.roots.items())[:_ROOTS_SHOWN]:
        yield "  root", f"{name}: {count:,}"
    if len(found.roots) > _ROOTS_SHOWN:
        yield "  root", f"... and {len(found.roots) - _ROOTS_SHOWN} more"
    if found.unfinished_documents:
        yield "unfinished", f"{counted(found.unfinished_documents, 'document')}; the same sightline index command goes on"
    if found.unfinished_roots:
        yield "unfinished roots", ", ".join(found.unfinished_roots)
    if found.being_rebuilt:
        yield "rebuild", "begun; the same command with --rebuild goes on"
    if found.unfinished_copy is not None:
        yield "replacement", f"begun; goes on with: {found.unfinished_copy}"
    if found.disk_bytes is not None:
        yield "on disk", f"{found.disk_bytes / 1e6:,.1f} MB"
    if found.norms is not None:
        norms = found.norms
        yield "norms", f"{norms.smallest:.4f} to {norms.largest:.4f}, mean {norms.mean:.4f} ({norms.sampled:,} vectors)"
    if found.last_run:
        yield "last run", _last_run(found.last_run)


def _last_run(run: Mapping[str, Any]) -> str:
    try:
        return f"{run['finished']}, {run['seconds']:,.1f} s, {run['chunks_embedded']:,} chunks embedded"
    except (KeyError, TypeError, ValueError):  # another program wrote it: it is shown as it is
        return json_text(run, indent=None)


def _contract_rows(found: api.Inspection) -> Iterator[tuple[str, str]]:
    if found.contract is None:
        yield "contract", f"none: another program made it. Adopt it with: sightline adopt {found.url} --model MODEL"
        return
    vectors, chunks, reading = found.contract["vectors"], found.contract["chunks"], found.contract["reading"]
    revision = f" at {reading['revision']}" if reading["revision"] else ""
    yield "model", f"{reading['model']}{revision}"
    yield "fingerprint", vectors["fingerprint"] or "unknown (compared by its probe vectors)"
    lengths = f"{vectors['dimensions']} of {vectors['native_dimensions']} dimensions"
    yield "vectors", f"{lengths}, {vectors['distance']}, {vectors['pooling'] or 'pooling unknown'}"
    yield "query prompt", repr(reading["query_prompt"])
    yield "document prompt", repr(vectors["document_prompt"])
    overlap = f", {chunks['overlap_tokens']} repeated" if chunks["overlap_tokens"] else ""
    yield "chunks", f"at most {chunks['chunk_tokens']} tokens{overlap} ({chunks['settings']})"
