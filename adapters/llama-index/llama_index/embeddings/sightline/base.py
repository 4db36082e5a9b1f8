"""`SightlineEmbedding`: the engine as an embedding model of LlamaIndex."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from llama_index.core.base.embeddings.base import BaseEmbedding, Embedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.callbacks import CallbackManager
from llama_index.core.storage.kvstore.types import BaseKVStore
from pydantic import computed_field

from llama_index.embeddings.sightline.arguments import RUN_SETTINGS, customary_query_prompt, run_settings
from llama_index.embeddings.sightline.cache import NamespacedCache
from sightline import Instruction, open_embedder
from sightline.api import DEFAULT_MODEL
from sightline.errors import UsageError
from sightline.protocols import Embedder
from sightline.types import Role

# The engine makes batches by tokens, so a call should hold as many texts as LlamaIndex allows.
_EMBED_BATCH_SIZE = 2048
# Adds nothing to an instruction: HuggingFaceEmbedding's are put before a text as they are.
_LITERAL = "{instruction}"
_OWN_FIELDS = ("model_name", "query_instruction", "text_instruction", "task", "dimensions", *RUN_SETTINGS)


class SightlineEmbedding(BaseEmbedding):
    """Embeds queries with their instruction and texts without, with a model on this machine.

    All of the same model and run settings in a process share its weights and its batches. Vectors are lists of floats of unit
    norm. Settings can't be changed later: LlamaIndex's caches go by them.

    Args:
        model_name: A folder, `package:NAME` (a folder in an installed Python package), or a hub name.
        query_instruction: What is put before a query, literally; None is the model's own prompt, "" is none.
        text_instruction: The same for texts.
        task: What queries are for, instead of `query_instruction`: a sentence that goes through the model's own template, or the
            name of one of the model's prompts.
        dimensions: Length of the vectors; None is the model's own.
        embedder: An embedder of Sightline, instead of `model_name` and all settings.
        embed_batch_size: Texts of one call to the engine, which makes its batches itself.
        callback_manager, num_workers, rate_limiter: As for every embedding model of LlamaIndex.
        embeddings_cache: A key-value store; each role, model and setting has a collection of its own in it.
        settings: How the model runs, e.g. `max_length=512`, `device="cuda:1"`, `dtype="float32"`: see `EmbeddingEngine`. The
            other arguments of HuggingFaceEmbedding are understood where they mean something here, e.g. `truncate_dim`.

    Raises:
        ModelNotFound, ModelError, DimensionError: As for `EmbeddingEngine`.
        UsageError: An argument that can't be used; says what to write instead.
    """

    model_name: str = Field(default=DEFAULT_MODEL, frozen=True, description="Folder, package:NAME or hub name of the model.")
    query_instruction: str | None = Field(default=None, frozen=True, description="What is put before a query.")
    text_instruction: str | None = Field(default=None, frozen=True, description="What is put before a text.")
    task: str | None = Field(default=None, frozen=True, description="Sentence for the model's template, or a prompt's name.")
    dimensions: int | None = Field(default=None, frozen=True, description="Length of the vectors.")
    revision: str | None = Field(default=None, frozen=True, description="Branch, tag or commit of a hub model.")
    device: str | None = Field(default=None, frozen=True, description="Where the model runs.")
    devices: str | tuple[str, ...] | None = Field(default=None, frozen=True, description="Several that share the work.")
    dtype: str | None = Field(default=None, frozen=True, description="Number format of the model.")
    encoder: str = Field(default="auto", frozen=True, description="Whose forward pass: auto, or transformers.")
    max_length: int | None = Field(default=None, frozen=True, description="Longest input in tokens, prompt included.")
    on_too_long: str = Field(default="truncate", frozen=True, description="What happens to longer ones.")
    max_batch_tokens: int | None = Field(default=None, frozen=True, description="Token budget of one pass.")
    pooling: str | tuple[str, ...] | None = Field(default=None, frozen=True, description="For folders that don't say how.")
    clean: tuple[str, ...] = Field(default=(), frozen=True, description="Cleaning steps.")
    split_special_tokens: bool = Field(default=False, frozen=True, description="Special tokens in a text are plain text.")
    deterministic: bool = Field(default=False, frozen=True, description="The same bits in every batch.")
    pack: bool = Field(default=True, frozen=True, description="Whether texts are packed where the model allows it.")
    threads: int | None = Field(default=None, frozen=True, description="CPU threads of the model.")
    trust_remote_code: bool = Field(default=False, frozen=True, description="Run Python code that ships with the model.")
    embed_batch_size: int = Field(default=_EMBED_BATCH_SIZE, gt=0, le=2048, description="Texts of one call to the engine.")
    embeddings_cache: Any | None = Field(default=None, frozen=True, exclude=True, description="Always None: see the argument.")

    _own: _Own = PrivateAttr()
    _cache: BaseKVStore | None = PrivateAttr(default=None)

    def __init__(
        self,
        model_name: str | Path | None = None,
        *,
        query_instruction: str | None = None,
        text_instruction: str | None = None,
        task: str | None = None,
        dimensions: int | None = None,
        embedder: Embedder | None = None,
        embed_batch_size: int = _EMBED_BATCH_SIZE,
        callback_manager: CallbackManager | None = None,
        num_workers: int | None = None,
        embeddings_cache: BaseKVStore | None = None,
        rate_limiter: Any | None = None,
        **settings: Any,
    ) -> None:
        if embeddings_cache is not None and not isinstance(embeddings_cache, BaseKVStore):
            raise UsageError(f"embeddings_cache is a key-value store of LlamaIndex (SimpleKVStore()); got {embeddings_cache!r}.")
        own: dict[str, Any] = {
            "model_name": None if model_name is None else str(model_name),
            "query_instruction": query_instruction,
            "text_instruction": text_instruction,
            "task": task,
            **run_settings({"dimensions": dimensions, **settings}),
        }
        own = {name: value for name, value in own.items() if value is not None}
        if embedder is None:
            opened = _open(**own)
        else:
            opened, own = embedder, _described(embedder, own)
        super().__init__(
            **own,
            embed_batch_size=embed_batch_size,
            callback_manager=callback_manager or CallbackManager([]),
            num_workers=num_workers,
            rate_limiter=rate_limiter,
        )
        self._own = _Own(opened, given=embedder is not None)
        self._cache = embeddings_cache

    @classmethod
    def class_name(cls) -> str:
        """The name that LlamaIndex writes down."""
        return "SightlineEmbedding"

    @property
    def embedder(self) -> Embedder:
        """What embeds in this process; a forked one has its own."""
        embedder = self._own.here()
        if embedder is None:
            embedder = _open(**{name: getattr(self, name) for name in _OWN_FIELDS})
            self._own = _Own(embedder)
        return embedder

    @computed_field(repr=False)  # type: ignore[prop-decorator]
    @property
    def identity(self) -> dict[str, Any]:
        """Which sight the vectors are of, down to a hash of the weights: LlamaIndex's caches go by it. Loads no weights."""
        known = self.embedder.identity()
        return {
            "fingerprint": known.fingerprint or f"unknown, of object {self._own.token}",
            "query_prompt": known.query_prompt,
            "document_prompt": known.document_prompt,
            "dimensions": self.embedder.dimensions,
            "given": self._own.given,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """Make again what `to_dict` wrote down; one around an embedder needs that again: `from_dict(data, embedder=...)`."""
        kept = {name: value for name, value in data.items() if name not in ("identity", "class_name")}
        if data.get("identity", {}).get("given"):
            if "embedder" not in kwargs:
                raise UsageError(
                    "This SightlineEmbedding was made around an embedder, which can't be written down. "
                    "Give it again: SightlineEmbedding.from_dict(data, embedder=...)."
                )
            kept = {name: value for name, value in kept.items() if name not in _OWN_FIELDS}
        return cls(**{**kept, **kwargs})

    def __getstate__(self) -> dict[str, Any]:
        if self._own.given:
            raise UsageError(
                "This SightlineEmbedding was made around an embedder, which can't go to another process. "
                "Make it with model_name=... and settings, and each process loads its own; all in one process share it."
            )
        return super().__getstate__()

    def __setstate__(self, state: dict[str, Any]) -> None:
        private = state.get("__pydantic_private__") or {}
        SightlineEmbedding.__init__(self, **{**state["__dict__"], "embeddings_cache": private.get("_cache")})

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self.model_copy()  # settings don't change, and the model is shared anyway

    def _get_query_embedding(self, query: str) -> Embedding:
        return self._embed(Role.QUERY, [query])[0]

    async def _aget_query_embedding(self, query: str) -> Embedding:
        return (await self._aembed(Role.QUERY, [query]))[0]

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._embed(Role.DOCUMENT, [text])[0]

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return (await self._aembed(Role.DOCUMENT, [text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return self._embed(Role.DOCUMENT, texts)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return await self._aembed(Role.DOCUMENT, texts)

    def _embed(self, role: Role, texts: Sequence[str]) -> list[Embedding]:
        embed = self.embedder.embed_queries if role is Role.QUERY else self.embedder.embed_documents
        cache = self._cache_of(role)
        if cache is None:
            return _lists(embed(texts))
        vectors = cache.get(texts)
        missing = [text for text in dict.fromkeys(texts) if text not in vectors]
        made = dict(zip(missing, _lists(embed(missing)), strict=True))
        cache.put(made)
        return [(vectors | made)[text] for text in texts]

    async def _aembed(self, role: Role, texts: Sequence[str]) -> list[Embedding]:
        embed = self.embedder.aembed_queries if role is Role.QUERY else self.embedder.aembed_documents
        cache = self._cache_of(role)
        if cache is None:
            return _lists(await embed(texts))
        vectors = await cache.aget(texts)
        missing = [text for text in dict.fromkeys(texts) if text not in vectors]
        made = dict(zip(missing, _lists(await embed(missing)), strict=True))
        await cache.aput(made)
        return [(vectors | made)[text] for text in texts]

    def _cache_of(self, role: Role) -> NamespacedCache | None:
        if self._cache is None:
            return None
        settings = {name: getattr(self, name) for name in _OWN_FIELDS} | self.identity
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]
        return NamespacedCache(self._cache, f"sightline-{role}-{digest}")


class _Own:
    """The embedder of one process. Pickled it is empty, so that another process makes its own and no model is copied."""

    def __init__(self, embedder: Embedder | None = None, *, given: bool = False) -> None:
        self._embedder = embedder
        self._process = os.getpid()
        self.given = given
        self.token = uuid.uuid4().hex

    def here(self) -> Embedder | None:
        """The embedder, unless this process was forked off since; what the caller gave is the caller's to make again."""
        return self._embedder if self.given or self._process == os.getpid() else None

    def __reduce__(self) -> tuple[type[_Own], tuple[()]]:
        return _Own, ()


def _open(
    *,
    model_name: str = DEFAULT_MODEL,
    query_instruction: str | None = None,
    text_instruction: str | None = None,
    task: str | None = None,
    dimensions: int | None = None,
    **run: Any,
) -> Embedder:
    """The shared embedder of these settings, with literal prompts where there are any."""
    own = open_embedder(model_name, dimensions=dimensions, query_instruction=task, **run)
    if query_instruction is not None and task is not None:
        raise UsageError("query_instruction and task both say what queries look with. Give one of them.")
    if query_instruction is None and task is None:
        query_instruction = customary_query_prompt(model_name, own.instructions)
    if query_instruction is None and text_instruction is None:
        return own
    if task is not None:
        query_instruction = own.identity().query_prompt
    return open_embedder(
        model_name,
        dimensions=dimensions,
        query_instruction=_literal(query_instruction),
        document_instruction=_literal(text_instruction),
        instruction_template=_LITERAL,
        **run,
    )


def _literal(prompt: str | None) -> Instruction | str | None:
    return Instruction(prompt) if prompt else prompt


def _described(embedder: Embedder, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of one around `embedder`."""
    if settings:
        raise UsageError(f"embedder= brings its own settings; {next(iter(settings))} was given beside it. Leave that out.")
    return {"model_name": embedder.identity().model, "dimensions": embedder.dimensions}


def _lists(vectors: Any) -> list[Embedding]:
    rows: list[Embedding] = vectors.tolist()
    return rows
