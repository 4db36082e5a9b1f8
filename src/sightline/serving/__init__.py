"""The HTTP server: embeddings as OpenAI's interface has them, with instructions, and searches in a collection.

    settings   what an operator can choose, and what is refused before anything is loaded
    running    the process: model, address, signals, the end
    app        which address answers what
    gate       before every answer: the key; after it: log and metrics
    requests   body -> texts, instruction, dimensions
    admission  how much is taken in at a time
    service    the model behind it all, from loading to the last vector
    answers    vectors -> body
    problems   every error, in OpenAI's shape
    schema     the OpenAPI document
    logs, metrics

It stands on the public names of Sightline only.
"""

from __future__ import annotations

from sightline.errors import MissingExtra
from sightline.serving.settings import MEGABYTE, Limits, ServerSettings

__all__ = ["MEGABYTE", "Limits", "ServerSettings", "serve"]


def serve(settings: ServerSettings) -> None:
    """Serve until the process is told to end (SIGTERM, Ctrl-C), then answer what was taken in and return.

    Raises:
        MissingExtra: The extra `server` isn't installed.
        UsageError: A setting, or a host, port or key, that can't be used.
        ModelError, ContractMismatch, StoreError: The model or the collection can't be served.
    """
    try:
        from sightline.serving.running import run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "sightline":
            raise
        raise MissingExtra("The server", package=error.name, extra="server") from error
    run(settings)
