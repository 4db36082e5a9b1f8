"""`sightline embed`: lines of text into vectors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from sightline import api
from sightline.cli.options import counted, run_options
from sightline.cli.output import echo, json_text
from sightline.errors import UsageError
from sightline.types import FloatArray, Role


@click.command(short_help="Turn lines of text into vectors.")
@click.argument("file", default="-", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--model", default=api.DEFAULT_MODEL, show_default=True, metavar="MODEL", help="Folder, package:NAME, hub name or openai+http://HOST:PORT/v1#NAME.")
@click.option("--role", required=True, type=click.Choice([role.value for role in Role]), help="What the lines are.")
@click.option("--dimensions", type=int, metavar="N", help="Length of the vectors. Default: the model's own.")
@click.option("--instruction", metavar="NAME_OR_TEXT", help="Default: the role's own.")
@run_options
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="FILE.npy or FILE.jsonl. Default: JSON lines to stdout.",
)
def embed(
    file: str,
    model: str,
    role: str,
    dimensions: int | None,
    instruction: str | None,
    device: str | None,
    devices: tuple[str, ...] | None,
    dtype: str | None,
    out: Path | None,
) -> None:
    """Embed FILE (or stdin), one text a line, in the same order.

    \b
    Examples:
      echo "how do I reset my password?" | sightline embed --role query
      sightline embed sentences.txt --role document --out vectors.npy
      sightline embed sentences.txt --role document --dimensions 256 --out vectors.jsonl
    """
    _check_name(out)
    texts = _lines(file)
    vectors = api.embed(
        texts, role=Role(role), model=model, dimensions=dimensions, instruction=instruction,
        device=device, devices=devices, dtype=dtype,
    )  # fmt: skip
    _write(texts, vectors, out)
    if out is not None:
        echo(f"{counted(len(texts), 'vector')} of {vectors.shape[1]} dimensions in {out}", err=True)


def _check_name(out: Path | None) -> None:
    if out is not None and out.suffix not in (".npy", ".jsonl"):
        raise UsageError(f"--out {str(out)!r} has an unknown ending: .npy (an array) or .jsonl (one object a line).")
    if out is not None and not os.access(out.parent, os.W_OK):
        raise UsageError(f"--out {str(out)!r} can't be written: {str(out.parent)!r} is no folder that may be written to.")


def _lines(file: str) -> list[str]:
    """Lines as texts; only line feeds end them, because a text may hold any other separator."""
    with click.open_file(file, "rb") as stream:
        data = stream.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{file!r} isn't UTF-8 (byte {error.start}). Convert it first, e.g. with iconv.") from error
    lines = text.removesuffix("\n").split("\n") if text else []
    return [line.removesuffix("\r") for line in lines]


def _write(texts: Sequence[str], vectors: FloatArray, out: Path | None) -> None:
    if out is not None and out.suffix == ".npy":
        np.save(out, vectors)
        return
    with click.open_file(str(out or "-"), "w", encoding="utf-8") as stream:
        for text, vector in zip(texts, vectors, strict=True):
            # Nine digits give the same float32 back.
            numbers = [float(f"{number:.9g}") for number in vector.tolist()]
            stream.write(json_text({"text": text, "embedding": numbers}, indent=None) + "\n")
