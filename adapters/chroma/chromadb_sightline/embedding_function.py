"""The embedding function: documents are embedded as they are, queries with their instruction, and Chroma keeps the settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from chromadb import Documents, EmbeddingFunction, Embeddings
from chromadb.api.types import Space
from chromadb.utils.embedding_functions import register_embedding_function
from sightline import open_embedder
from sightline.api import DEFAULT_MODEL, TRUSTED_MODELS_VARIABLE, is_trusted
from sightline.errors import ContractMismatch, UntrustedModel, UsageError
from sightline.protocols import Embedder
from sightline.types import FloatArray

# How a model runs here (device, threads, batch size) is nobody else's business; what changes a vector is kept.
KEPT_SETTINGS = ("clean", "dtype", "max_length", "on_too_long", "pooling", "split_special_tokens")
# What a collection insists on; the rest of the configuration may differ, as long as these agree.
SIGHT = ("dimensions", "document_prompt", "fingerprint")
# Chroma rebuilds the function for every call of a collection that was opened without one: so many models stay loaded between.
_REBUILT_MODELS = 2
_KINDS: Mapping[str, tuple[type, ...]] = {
    "model": (str,),
    "revision": (str, type(None)),
    "dimensions": (int,),
    "query_instruction": (str, type(None)),
    "document_instruction": (str, type(None)),
    "instructions": (dict,),
    "instruction_template": (str, type(None)),
    "settings": (dict,),
    "document_prompt": (str, type(None)),
    "fingerprint": (str, type(None)),
}


@register_embedding_function
class SightlineEmbeddingFunction(EmbeddingFunction[Documents]):
    """Embeds with a model on this machine, which is shared with all else in this process that uses it.

    Cheap to make: weights load at the first text. Chroma keeps the settings with the collection, and rebuilds the function
    from them where a collection is opened without one.

    Args:
        model: A folder, `package:NAME` (a folder in an installed Python package), or a hub name.
        dimensions: Length of the vectors; None is the model's own.
        query_instruction: What queries look with: a name or a task sentence; None is the model's own, "" is none.
        document_instruction: The same for documents.
        instructions: Named instructions: name -> task sentence.
        instruction_template: Where a task sentence goes, e.g. "Instruct: {instruction}\\nQuery:"; None reads it off the model.
        settings: How the model runs, e.g. `device="cuda:1"`; see `sightline.EmbeddingEngine`.

    Raises:
        ModelNotFound, ModelError, DimensionError, UnknownInstruction: As for `sightline.open_embedder`.
        UsageError: An argument can't be used, or can't be kept as JSON.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        *,
        dimensions: int | None = None,
        query_instruction: str | None = None,
        document_instruction: str | None = None,
        instructions: Mapping[str, str] | None = None,
        instruction_template: str | None = None,
        **settings: Any,
    ) -> None:
        embedder = open_embedder(
            model,
            dimensions=dimensions,
            query_instruction=query_instruction,
            document_instruction=document_instruction,
            instructions=instructions,
            instruction_template=instruction_template,
            **settings,
        )
        identity = embedder.identity()
        config = {
            "model": identity.model,
            "revision": identity.revision,
            "dimensions": embedder.dimensions,
            "query_instruction": query_instruction,
            "document_instruction": document_instruction,
            "instructions": dict(instructions or {}),
            "instruction_template": instruction_template,
            "settings": {name: _plain(settings[name]) for name in KEPT_SETTINGS if settings.get(name) is not None},
            "document_prompt": identity.document_prompt,
            "fingerprint": identity.fingerprint,
        }
        self.validate_config(config)
        self._config: dict[str, Any] = config
        self._embedder: Embedder | None = embedder

    @property
    def embedder(self) -> Embedder:
        """The Sightline embedder behind the function.

        Raises:
            UntrustedModel: The function was rebuilt for a collection that names a model which isn't on this machine.
            ContractMismatch: It was rebuilt, and by that name there is another model now.
        """
        if self._embedder is None:
            self._embedder = _rebuilt(json.dumps(self._config, sort_keys=True))
        return self._embedder

    def __call__(self, input: Documents) -> Embeddings:
        """Vectors of documents: float32 `(dimensions,)` arrays of unit norm, in input order."""
        return _rows(self.embedder.embed_documents(input))

    def embed_query(self, input: Documents) -> Embeddings:
        """Vectors of queries, embedded with the instruction: float32 `(dimensions,)` arrays of unit norm, in input order."""
        return _rows(self.embedder.embed_queries(input))

    @staticmethod
    def name() -> str:
        """Under this name Chroma keeps the function with a collection."""
        return "sightline"

    def default_space(self) -> Space:
        """A new collection compares by cosine."""
        return "cosine"

    def is_legacy(self) -> bool:
        """No; Chroma's own answer builds a second function to find that out."""
        return False

    def get_config(self) -> dict[str, Any]:
        """Every setting that changes a vector, as JSON data. It holds no secret and no code to run."""
        return json.loads(json.dumps(self._config))  # type: ignore[no-any-return]

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> SightlineEmbeddingFunction:
        """The function that a collection was made with; its model is looked for at the first text.

        Raises:
            UsageError: No configuration of this embedding function.
        """
        SightlineEmbeddingFunction.validate_config(config)
        made = SightlineEmbeddingFunction.__new__(SightlineEmbeddingFunction)
        made._config = json.loads(json.dumps(config))
        made._embedder = None
        return made

    @staticmethod
    def validate_config(config: dict[str, Any]) -> None:
        """Raise UsageError unless `config` is one that `get_config` could have given."""
        _refuse_names("the embedding function 'sightline'", config.keys() ^ _KINDS.keys(), tuple(_KINDS))
        for name, kinds in _KINDS.items():
            if type(config[name]) not in kinds:
                allowed = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
                raise UsageError(f"{name}={config[name]!r} can't be kept with a collection. Pass {allowed}.")
        _refuse_names("its settings", config["settings"].keys() - set(KEPT_SETTINGS), KEPT_SETTINGS)
        odd = {name: text for name, text in config["instructions"].items() if not isinstance(text, str)}
        if odd:
            raise UsageError(f"instructions={odd!r} can't be kept with a collection. Pass texts: name -> task sentence.")

    def validate_config_update(self, old_config: dict[str, Any], new_config: dict[str, Any]) -> None:
        """Raise ContractMismatch where vectors of the two couldn't be compared; another query instruction is fine."""
        self.validate_config(new_config)
        refuse_other_sight(old_config, new_config, "The collection")


def refuse_other_sight(theirs: Mapping[str, Any], ours: Mapping[str, Any], collection: str) -> None:
    """Raise ContractMismatch unless both configurations give documents the same vectors."""
    differing = [name for name in SIGHT if theirs.get(name) != ours[name]]
    if not differing:
        return
    lines = [f"  {name}: the collection has {theirs.get(name)!r}, this function {ours[name]!r}" for name in differing]
    if theirs.get("model") != ours["model"]:
        lines.insert(0, f"  model: the collection has {theirs.get('model')!r}, this function {ours['model']!r}")
    raise ContractMismatch(
        "\n".join([f"{collection} was made by an embedding function that sees differently:", *lines])
        + "\nTo use the collection as it is, pass no embedding function: open_collection(client, NAME). "
        "To change the model or dimensions, make a collection of another name and add the documents to it."
    )


@lru_cache(maxsize=_REBUILT_MODELS)
def _rebuilt(config_json: str) -> Embedder:
    """The embedder of a collection's configuration, which may come from anywhere: only what is trusted is fetched for it."""
    config = json.loads(config_json)
    if not is_trusted(config["model"], config["revision"]):
        raise UntrustedModel(
            f"The collection names the model {config['model']!r}, which isn't on this machine. To fetch it, list it in "
            f"the environment variable {TRUSTED_MODELS_VARIABLE}, or name it yourself: "
            f"get_collection(NAME, embedding_function=SightlineEmbeddingFunction({config['model']!r}, ...))"
        )
    asked = ("dimensions", "query_instruction", "document_instruction", "instructions", "instruction_template")
    revision = {} if config["revision"] is None else {"revision": config["revision"]}
    found = SightlineEmbeddingFunction(
        config["model"], **{name: config[name] for name in asked}, **revision, **config["settings"]
    )
    refuse_other_sight(config, found.get_config(), "The collection")
    return found.embedder


def _refuse_names(what: str, odd: Set[str], allowed: Sequence[str]) -> None:
    if odd:
        raise UsageError(
            f"The kept configuration of {what} lacks or has more than it should: {', '.join(sorted(odd))}. Allowed: "
            f"{', '.join(allowed)}. A newer version may know more: pip install --upgrade chromadb-sightline"
        )


def _rows(vectors: FloatArray) -> Embeddings:
    return [np.asarray(row, dtype=np.float32) for row in vectors]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (tuple, set, frozenset)) else value
