"""Opening what a caller names: a store, the contract of the collection there, and the model that it is read with."""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from sightline.contract import Contract
from sightline.embedding.models import DEFAULT_MODEL, full_name, is_local, is_remote
from sightline.embedding.shared import open_embedder
from sightline.errors import ModelNotFound, UntrustedModel, UsageError
from sightline.layouts import check_stored
from sightline.protocols import Embedder, Store
from sightline.stores import open_store
from sightline.stores.checks import collection_not_found, not_ours

# Models that a collection may name and have fetched: the default one's family, and what this variable lists (* is any name).
TRUSTED_MODELS_VARIABLE = "SIGHTLINE_TRUSTED_MODELS"
_TRUSTED_MODELS = ("Qwen/Qwen3-Embedding-*",)
# A path to another machine: looking whether it is there would already give that one the user's name, on Windows.
_SHARES = ("\\\\", "//")
# Anybody can propose a change to a trusted model on the hub, and such a proposal is a revision, too.
_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_trusted(model: str, revision: str | None = None) -> bool:
    """Whether a model that a collection names may be used: it is on this machine, or somebody here allowed it."""
    if not model.strip() or model.startswith(_SHARES) or (revision is not None and not _COMMIT.fullmatch(revision)):
        return False
    allowed = [*_TRUSTED_MODELS, *filter(None, map(str.strip, os.environ.get(TRUSTED_MODELS_VARIABLE, "").split(",")))]
    return any(fnmatch.fnmatchcase(model, pattern) for pattern in allowed) or is_local(model, revision)


def opened_store(url: str, resources: ExitStack) -> Store:
    """A store, open until `resources` are closed, whether or not there is a collection."""
    store = open_store(url)
    resources.callback(store.close)
    return store


def existing_store(url: str, resources: ExitStack) -> Store:
    """As `opened_store`; raises CollectionNotFound where there is none."""
    store = opened_store(url, resources)
    if not store.exists():
        raise collection_not_found(url)
    return store


def known_contract(store: Store) -> Contract | None:
    """The contract of a collection that is to be written; None where there is no collection yet."""
    contract = stored_contract(store)
    if contract is None and store.exists():
        contract = stored_contract(store)  # another run may have made it in between
        if contract is None:
            raise not_ours(store.url)
    return contract


def stored_contract(store: Store) -> Contract | None:
    """The contract of a collection; None where there is no collection, or one that another program made."""
    data = store.read_contract()
    if data is None:
        return None
    contract = Contract.from_json(data)
    check_stored(contract, store.layout(), store.url)
    return contract


def whole_lengths(store: Store) -> tuple[int, ...]:
    """The lengths of vectors that all points have, the main one first."""
    data = store.read_contract()
    return store.layout().lengths if data is None else Contract.from_json(data).vectors.lengths


def opened_embedder(
    model: str | Path | Embedder | None,
    resources: ExitStack,
    known: Contract | None = None,
    *,
    dimensions: int | None = None,
    device: str | None = None,
    devices: Sequence[str] | str | None = None,
    dtype: str | None = None,
    deterministic: bool = False,
    trust: bool = False,
) -> Embedder:
    """The caller's embedder, or one that `resources` closes: of the named model, the contract's, or the default."""
    if model is not None and not isinstance(model, (str, Path)):
        if device is not None or devices is not None or dtype is not None:
            raise UsageError(
                "devices, device and dtype are for a model that is given by name; this embedder was made with its own."
            )
        return model
    name, revision = _reference(model, known)
    if model is None and known is not None and not trust:
        _check_trust(name, revision)
    try:
        embedder = open_embedder(
            name, revision=revision, dimensions=dimensions, device=device, devices=devices, dtype=dtype,
            deterministic=deterministic,
        )  # fmt: skip
    except ModelNotFound as error:
        if model is None and known is not None:
            raise ModelNotFound(f"{error} The collection names this model; a copy of it may stand in: --model FOLDER") from error
        raise
    resources.callback(embedder.close)
    return embedder


def _reference(model: str | Path | None, known: Contract | None) -> tuple[str, str | None]:
    """Name and revision of the model to use. A folder is named in full, so that the collection can be read from elsewhere."""
    if model is None and known is not None:
        return known.reading.model, known.reading.revision
    name = DEFAULT_MODEL if model is None else str(model)
    if not name.strip():
        raise UsageError("The model's name is empty. Name a folder, package:NAME or a hub model, or leave it out.")
    return full_name(name), None


def _check_trust(name: str, revision: str | None) -> None:
    """A collection may come from anywhere: what it names is not fetched unless somebody here allowed it."""
    if is_trusted(name, revision):
        return
    raise UntrustedModel(
        f"The collection names the model {name!r}, which isn't on this machine. To {_get(name)}, say --trust, name it "
        f"with --model {shlex.quote(name)}, or list it in the environment variable {TRUSTED_MODELS_VARIABLE}. "
        "A copy of it may stand in: --model FOLDER"
    )


def _get(name: str) -> str:
    return "ask that server" if is_remote(name) else "fetch it from the hub"
