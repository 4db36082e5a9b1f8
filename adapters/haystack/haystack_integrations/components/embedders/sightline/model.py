"""What both components share: the model's settings, when it is opened, and when it is let go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from haystack import default_from_dict, default_to_dict
from haystack.utils import ComponentDevice

from sightline import open_embedder
from sightline.errors import UsageError

if TYPE_CHECKING:
    from sightline.embedding.shared import SharedEmbedder

# What other embedders of Haystack take, and what to write here.
_WORDS_OF_OTHERS = {
    "truncate_dim": "dimensions=",
    "prefix": "query_instruction= or document_instruction=, which goes through the model's own template",
    "suffix": "nothing: a model's closing token is added by itself",
    "normalize_embeddings": "nothing: every vector has unit norm",
    "batch_size": "max_batch_tokens=, or nothing: batches have a token budget",
    "progress_bar": "nothing: Sightline prints nothing",
    "token": "nothing, and set the environment variable HF_TOKEN",
    "encode_kwargs": "its entries by their own names here",
    "model_kwargs": "its entries by their own names here, e.g. dtype=",
    "tokenizer_kwargs": "max_length= for model_max_length",
    "precision": "nothing: vectors are float32",
    "backend": "nothing: torch is the only one",
}


class SightlineModel:
    """The model behind a component. It is opened by `warm_up`, shares its weights within the process, and goes with `close`."""

    _own: ClassVar[tuple[str, ...]] = ()

    def __init__(self, model: str, settings: dict[str, Any]) -> None:
        for name in settings:
            if name in _WORDS_OF_OTHERS:
                raise UsageError(f"{type(self).__name__} takes no {name!r}. Write {_WORDS_OF_OTHERS[name]}.")
        self.model = model
        self.settings = {name: _plain(value) for name, value in settings.items()}
        self._embedder: SharedEmbedder | None = None

    def to_dict(self) -> dict[str, Any]:
        """The component as plain data; it holds every setting, and no secret."""
        own = {name: getattr(self, name) for name in self._own}
        return default_to_dict(self, model=self.model, **own, **self.settings)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The component that `to_dict` describes."""
        return default_from_dict(cls, data)

    def warm_up(self) -> None:
        """Load tokenizer and weights, which several components of one model share.

        Raises:
            ModelNotFound, ModelError, DimensionError, UnknownInstruction, UsageError: As for `sightline.open_embedder`.
        """
        self._opened().engine.load()

    def close(self) -> None:
        """Let the model go; the next run opens it again."""
        if self._embedder is not None:
            self._embedder.close()
            self._embedder = None

    def _opened(self) -> SharedEmbedder:
        if self._embedder is None:
            instructions = {name: getattr(self, name) for name in self._own if "instruction" in name or name == "dimensions"}
            self._embedder = open_embedder(self.model, **instructions, **self.settings)
        return self._embedder


def _plain(value: Any) -> Any:
    """As YAML can hold it."""
    if isinstance(value, ComponentDevice):
        return value.to_torch_str()
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, (tuple, set, frozenset)) else value
