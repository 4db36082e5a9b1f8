"""Opening a collection with a check. Chroma compares only the names of embedding functions, and ours all have one name."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from chromadb.api import ClientAPI
from chromadb.api.models.AsyncCollection import AsyncCollection
from chromadb.api.models.Collection import Collection
from sightline.errors import ContractMismatch, UsageError

from chromadb_sightline.embedding_function import SightlineEmbeddingFunction, refuse_other_sight

_log = logging.getLogger(__name__)


def open_collection(
    client: ClientAPI, name: str, embedding_function: SightlineEmbeddingFunction | None = None, *, create: bool = False
) -> Collection:
    """Open a collection as Chroma's `get_collection` does, unless its vectors are of another model or dimension.

    Args:
        client: Any blocking client of Chroma.
        name: Of the collection.
        embedding_function: None rebuilds the one that the collection was made with, and looks for its model at once.
        create: Make the collection where there is none.

    Raises:
        ContractMismatch: The collection's vectors are not comparable with those of `embedding_function`.
        UntrustedModel: The collection names a model that isn't on this machine.
        UsageError: No embedding function was given, and the collection keeps none of ours.
    """
    if embedding_function is not None:
        get = client.get_or_create_collection if create else client.get_collection
        collection = get(name, embedding_function=embedding_function)  # type: ignore[arg-type]
        verify(collection, embedding_function)
        return collection
    if create:
        raise UsageError("A new collection needs an embedding function. Pass SightlineEmbeddingFunction(MODEL).")
    kept = _kept(client.get_collection(name, embedding_function=None))
    if kept is None:
        raise UsageError(
            f"The collection {name!r} keeps no embedding function of Sightline, so nothing says which model its vectors are of. "
            "Name it: open_collection(client, NAME, SightlineEmbeddingFunction(MODEL))"
        )
    rebuilt = SightlineEmbeddingFunction.build_from_config(dict(kept))
    _ = rebuilt.embedder
    return client.get_collection(name, embedding_function=rebuilt)  # type: ignore[arg-type]


def verify(collection: Collection | AsyncCollection, embedding_function: SightlineEmbeddingFunction) -> None:
    """Raise ContractMismatch where the vectors of an open collection are not those of `embedding_function`.

    A collection that keeps no embedding function of ours can only be checked for its dimensions: that is logged as a warning.
    """
    ours, kept = embedding_function.get_config(), _kept(collection)
    if kept is not None:
        refuse_other_sight(kept, ours, f"The collection {collection.name!r}")
    dimensions = collection.get_model().dimension
    if dimensions is not None and dimensions != ours["dimensions"]:
        raise ContractMismatch(
            f"The collection {collection.name!r} holds vectors of {dimensions} dimensions, this function gives "
            f"{ours['dimensions']}. Pass the function that the vectors were made with, or make a collection of another name."
        )
    if kept is None:
        _warn(collection.name, ours["model"])


def _warn(name: str, model: str) -> None:
    _log.warning(
        "The collection %r keeps no embedding function of Sightline: nothing says whether its vectors are of %r. "
        "Check it with: sightline inspect URL, or sightline adopt URL --model MODEL",
        name, model,
    )  # fmt: skip


def _kept(collection: Collection | AsyncCollection) -> Mapping[str, Any] | None:
    """The configuration of our embedding function that Chroma keeps with a collection."""
    kept = collection.configuration_json.get("embedding_function") or {}
    return kept["config"] if kept.get("name") == SightlineEmbeddingFunction.name() else None
