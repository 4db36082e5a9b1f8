"""`SightlineEmbeddings`: the engine as embeddings of LangChain."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from langchain_core.embeddings import Embeddings
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr
from sightline import Instruction, open_embedder
from sightline.api import DEFAULT_MODEL
from sightline.errors import UsageError
from sightline.protocols import Embedder
from sightline.types import FloatArray

from langchain_sightline.arguments import Prompts, translated

# Adds nothing to an instruction: a literal prompt is put before a text as it is.
_LITERAL = "{instruction}"


class SightlineEmbeddings(BaseModel, Embeddings):
    """Embeds queries with their instruction and documents without, with a model on this machine.

    All of the same model and run settings in a process share its weights and its batches, so making a second one loads nothing.
    Vectors are lists of floats of unit norm. Weights load at the first text; wrong arguments raise at once.

    Args:
        model: A folder, `package:NAME` (a folder in an installed Python package), or a hub name; also as `model_name`.
        dimensions: Length of the vectors; None is the model's own.
        query_instruction: What queries look with: a name that the model or `instructions` knows, or a task sentence, which goes
            through the model's template; None is the model's own, "" none.
        document_instruction: The same for documents.
        instructions: Named instructions of your own: name -> task sentence.
        embedder: An embedder of Sightline, instead of `model` and all settings.
        settings: How the model runs, e.g. `device="cuda:1"`, `dtype="float32"`, `max_length=512`: see
            `sightline.EmbeddingEngine`. The arguments of langchain-huggingface (`model_kwargs`, `encode_kwargs`,
            `query_encode_kwargs`, ...) are understood where they mean something here.

    Raises:
        ModelNotFound, ModelError, DimensionError, UnknownInstruction: As for `sightline.EmbeddingEngine`.
        UsageError: An argument that can't be used; says what to write instead.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, protected_namespaces=())

    model_name: str = DEFAULT_MODEL
    dimensions: int | None = None
    query_instruction: str | Instruction | None = None
    document_instruction: str | Instruction | None = None
    instructions: Mapping[str, str | Instruction] | None = None
    encode_kwargs: Mapping[str, str] = Field(default_factory=dict)
    query_encode_kwargs: Mapping[str, str] = Field(default_factory=dict)
    settings: Mapping[str, Any] = Field(default_factory=dict)

    _opened: Embedder = PrivateAttr()
    _is_given: bool = PrivateAttr(default=False)
    _process: int = PrivateAttr(default_factory=os.getpid)

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        dimensions: int | None = None,
        query_instruction: str | Instruction | None = None,
        document_instruction: str | Instruction | None = None,
        instructions: Mapping[str, str | Instruction] | None = None,
        embedder: Embedder | None = None,
        **settings: Any,
    ) -> None:
        known, prompts = translated({"dimensions": dimensions, **settings}, queries_told=query_instruction is not None)
        name = known.pop("model_name", None)
        if model is not None and name is not None:
            raise UsageError(f"model={model!r} and model_name={name!r} are the same argument. Give one of them.")
        own = {
            "model_name": model if model is not None else name,
            "dimensions": known.pop("dimensions", None),
            "query_instruction": _either("query", query_instruction, prompts),
            "document_instruction": _either("document", document_instruction, prompts),
            "instructions": instructions,
            "encode_kwargs": prompts.literal("document"),
            "query_encode_kwargs": prompts.literal("query"),
        }
        fields = {key: str(value) if isinstance(value, Path) else value for key, value in own.items() if value is not None}
        if embedder is not None:
            _refuse_beside_embedder({**fields, **known})
            identity = embedder.identity()
            fields, known = {"model_name": identity.model, "dimensions": embedder.dimensions}, {}
        super().__init__(**fields, settings=known)
        self._is_given = embedder is not None
        self._opened = self._open() if embedder is None else embedder

    @property
    def embedder(self) -> Embedder:
        """What embeds in this process; one that was forked off since has its own."""
        if self._process != os.getpid() and not self._is_given:
            self._opened, self._process = self._open(), os.getpid()
        return self._opened

    def embed_documents(self, texts: Iterable[str]) -> list[list[float]]:
        """Vectors of documents, in their order."""
        return _lists(self.embedder.embed_documents(_as_list(texts)))

    def embed_query(self, text: str) -> list[float]:
        """The vector of a question, which looks with the instruction."""
        return _lists(self.embedder.embed_queries([text]))[0]

    async def aembed_documents(self, texts: Iterable[str]) -> list[list[float]]:
        """As `embed_documents`; the event loop stays free."""
        return _lists(await self.embedder.aembed_documents(_as_list(texts)))

    async def aembed_query(self, text: str) -> list[float]:
        """As `embed_query`; the event loop stays free, and questions that are asked at once share a batch."""
        return _lists(await self.embedder.aembed_queries([text]))[0]

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """The same once more; settings don't change, because the model that is open has them."""
        if update:
            raise UsageError("SightlineEmbeddings aren't changed. Make new ones: all of the same model in a process share it.")
        return super().model_copy()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self.model_copy()

    def __getstate__(self) -> dict[Any, Any]:
        if self._is_given:
            raise UsageError(
                "These SightlineEmbeddings were made around an embedder, which can't go to another process. Make them with "
                "model=... and settings, and each process loads its own; all in one process share it."
            )
        state = super().__getstate__()
        private = {key: value for key, value in (state["__pydantic_private__"] or {}).items() if key != "_opened"}
        return {**state, "__pydantic_private__": private}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        self._opened, self._process = self._open(), os.getpid()

    def _open(self) -> Embedder:
        """The shared embedder of these settings."""
        own = open_embedder(
            self.model_name,
            dimensions=self.dimensions,
            query_instruction=self.query_instruction,
            document_instruction=self.document_instruction,
            instructions=self.instructions,
            **self.settings,
        )
        if not self.encode_kwargs and not self.query_encode_kwargs:
            return own
        known = own.identity()  # what the other side has is a literal prompt now, too
        query = self.query_encode_kwargs.get("prompt", known.query_prompt)
        document = self.encode_kwargs.get("prompt", known.document_prompt)
        if (query, document) == (known.query_prompt, known.document_prompt):
            return own
        return open_embedder(
            self.model_name,
            dimensions=self.dimensions,
            query_instruction=_literal(query),
            document_instruction=_literal(document),
            instruction_template=_LITERAL,
            **{key: value for key, value in self.settings.items() if key != "instruction_template"},
        )


def _either(role: str, own: str | Instruction | None, prompts: Prompts) -> str | Instruction | None:
    """What a role looks with: our word, or langchain-huggingface's name of a prompt; a literal prompt stands elsewhere."""
    named = prompts.names.get(role)
    if own is not None and (named is not None or role in prompts.literals):
        which = "query_encode_kwargs" if role == "query" else "encode_kwargs"
        raise UsageError(f"{role}_instruction and the prompt in {which} are the same thing. Give one of them.")
    return own if named is None else named


def _refuse_beside_embedder(given: Mapping[str, Any]) -> None:
    if given:
        raise UsageError(f"embedder= brings its own settings; {next(iter(given))} was given beside it. Leave that out.")


def _literal(prompt: str | None) -> Instruction | str | None:
    return Instruction(prompt) if prompt else prompt


def _as_list(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str):
        raise UsageError("Give a list of texts, not one string: [text].")
    return list(texts)


def _lists(vectors: FloatArray) -> list[list[float]]:
    rows: list[list[float]] = vectors.tolist()
    return rows
