"""`sightline serve`: an OpenAI-compatible server."""

from __future__ import annotations

import math
import os
from typing import Any, Literal

import click

from sightline import serving
from sightline.cli.options import pairs, run_options
from sightline.errors import UsageError

_KEY = "SIGHTLINE_API_KEY"
_LIMITS = serving.Limits()


@click.command(short_help="Serve embeddings and searches over HTTP, as OpenAI's interface.")
@click.option("--model", metavar="MODEL", help="Folder, package:NAME or hub name. Default: the collection's, or the usual one.")
@click.option("--collection", metavar="URL", help="A collection for POST /v1/search.")
@click.option("--served-model-name", "names", multiple=True, metavar="NAME", help="What clients call it. Default: as --model.")
@click.option("--host", default="127.0.0.1", show_default=True, metavar="HOST", help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=int, metavar="N", help="Port; 0 takes a free one.")
@click.option("--api-key-env", default=_KEY, show_default=True, metavar="NAME", help="Environment variable with the API key.")
@click.option("--allow-unauthenticated", is_flag=True, help="Without a key, listen for other machines all the same.")
@click.option("--dimensions", type=int, metavar="N", help="Length of vectors unless a request says. Default: the model's.")
@click.option("--instruction", "instructions", multiple=True, metavar="NAME=TEXT", help="An instruction of your own.")
@click.option("--max-length", type=int, metavar="N", help="Longest input in tokens. Default: the model's.")
@click.option(
    "--on-too-long", type=click.Choice(["truncate", "error", "average"]), default="truncate", show_default=True,
    help="What becomes of a longer one.",
)  # fmt: skip
@click.option("--max-batch-tokens", type=int, metavar="N", help="Tokens in one pass of the model. Default: as suits the device.")
@click.option("--deterministic", is_flag=True, help="A text's vector is the same to the bit whatever it is embedded with.")
@click.option("--allow-token-ids", "token_ids", is_flag=True, help="Take token ids of the model's own tokenizer as input.")
@click.option("--max-queue", type=int, default=_LIMITS.queue_texts, show_default=True, metavar="N", help="Texts that may wait.")
@click.option(
    "--max-body", type=float, default=_LIMITS.body_bytes / serving.MEGABYTE, show_default=True, metavar="MB",
    help="Largest body of a request.",
)  # fmt: skip
@click.option("--drain-seconds", type=int, default=30, show_default=True, metavar="N", help="For what runs at the end.")
@click.option("--no-access-log", is_flag=True, help="No line for each request.")
@click.option("--trust", is_flag=True, help="Fetch the model that the collection names, whatever it is.")
@run_options
def serve(
    model: str | None,
    collection: str | None,
    names: tuple[str, ...],
    host: str,
    port: int,
    api_key_env: str,
    allow_unauthenticated: bool,
    instructions: tuple[str, ...],
    max_queue: int,
    max_body: float,
    no_access_log: bool,
    on_too_long: Literal["truncate", "error", "average"],
    **more: Any,
) -> None:
    """Serve a model until SIGTERM or Ctrl-C: POST /v1/embeddings for every client of OpenAI's, POST /v1/search, and GET /docs.

    Logs are lines of JSON on stderr.

    \b
    Examples:
      sightline serve --model Qwen/Qwen3-Embedding-0.6B
      sightline serve --collection edge:./kb
      SIGHTLINE_API_KEY=... sightline serve --host 0.0.0.0 --served-model-name embeddings
      curl -s localhost:8000/v1/embeddings -d '{"model": "embeddings", "input": "hello", "input_type": "query"}'
    """
    serving.serve(
        serving.ServerSettings(
            model=model,
            collection=collection,
            names=names,
            host=host,
            port=port,
            api_key=_key(api_key_env),
            allow_unauthenticated=allow_unauthenticated,
            instructions=pairs(instructions, "NAME=TEXT"),
            limits=serving.Limits(queue_texts=max_queue, body_bytes=_bytes(max_body)),
            access_log=not no_access_log,
            on_too_long=on_too_long,
            **more,
        )
    )


def _bytes(megabytes: float) -> int:
    if not math.isfinite(megabytes):
        raise UsageError(f"--max-body {megabytes} is no size. Give megabytes, e.g. 32.")
    return int(megabytes * serving.MEGABYTE)


def _key(variable: str) -> str | None:
    """The key in an environment variable; one that was named must be there, and none is empty."""
    key = os.environ.get(variable)
    if key is None and variable != _KEY:
        raise UsageError(f"--api-key-env names {variable}, which isn't set. Set it, or leave the option out.")
    return key
