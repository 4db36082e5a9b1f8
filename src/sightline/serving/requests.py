"""Bodies of requests: what they may say, and what they mean. An unknown field or value is refused, as OpenAI refuses it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SkipValidation, ValidationError

from sightline.serving.problems import Problem
from sightline.types import Priority, Role, TokenizedText

# An instruction is put before every text of a request, so it must not be what makes the request large.
INSTRUCTION_CHARACTERS = 4096
MOST_HITS = 1000
# A request of up to this many texts and characters goes before the larger ones.
_SMALL_TEXTS, _SMALL_CHARACTERS = 8, 8000
_TOKEN_CHARACTERS = 4

_Ids: TypeAlias = Annotated[list[int], Field(min_length=1)]
_Input: TypeAlias = str | Annotated[list[str], Field(min_length=1)] | _Ids | Annotated[list[_Ids], Field(min_length=1)]
_Instruction: TypeAlias = Annotated[str, Field(max_length=INSTRUCTION_CHARACTERS)]
_Parsed = TypeVar("_Parsed", bound=BaseModel)


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class EmbeddingRequest(_Body):
    """Texts to embed."""

    # Looked at by hand (`_texts`): a union's messages would speak of all its branches at once, and of every single token id.
    input: SkipValidation[_Input] = Field(description="A text or a list of texts. Token ids only where the operator allows them.")
    model: str = Field(description="Name of the model, as GET /v1/models has it.")
    dimensions: int | None = Field(None, ge=1, description="Length of the vectors; they are cut and of unit norm again.")
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="Numbers (the default), or the bytes of little-endian float32 in base64: smaller and faster."
    )
    user: str | None = Field(None, description="Taken as OpenAI's clients send it, and not looked at.")
    instruction: _Instruction | None = Field(
        None,
        description="What the texts look with: a name of GET /config, or a task sentence, which goes through the model's "
        "template. An empty one is none.",
    )
    input_type: Literal["query", "document"] | None = Field(
        None,
        description="What the texts are: each has the model's own prompt for it. Without input_type and instruction a text is "
        "embedded as it stands.",
    )


class SearchRequest(_Body):
    """A question to the collection."""

    query: Annotated[str, Field(min_length=1)] = Field(description="The question.")
    k: int = Field(10, ge=1, le=MOST_HITS, description="How many hits.")
    instruction: _Instruction | None = Field(None, description="What the question looks with; the collection's own without it.")
    filter: dict[str, Any] | None = Field(
        None, description='What the hits\' metadata must hold, e.g. {"lang": ["de", "fr"], "year": {"gte": 2020}}.'
    )
    dimensions: int | None = Field(None, ge=1, description="Search by the collection's shorter vectors of this length alone.")
    shortlist: str | None = Field(
        None, description="DIMENSIONS:CANDIDATES, e.g. 256:200: find by shorter vectors, rescore by the main ones."
    )


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request for embeddings means to the engine."""

    texts: Sequence[str] | Sequence[TokenizedText]
    model: str
    role: Role
    instruction: str | None
    dimensions: int | None
    base64: bool
    priority: Priority


def read_embedding_request(body: bytes, names: Collection[str], *, token_ids: bool) -> Asked:
    """What is asked for; raises a Problem that says what is wrong."""
    given = _parse(EmbeddingRequest, body)
    if given.model not in names:
        raise unknown_model(given.model, names)
    texts = _texts(given.input, token_ids=token_ids)
    ids = bool(texts) and isinstance(texts[0], TokenizedText)
    if ids and (given.instruction is not None or given.input_type is not None):
        named = "instruction" if given.instruction is not None else "input_type"
        raise Problem(400, f"Token ids hold their prompt already: leave {named} out.", "invalid_value", named)
    raw = given.instruction is None and given.input_type is None
    return Asked(
        texts=texts,
        model=given.model,
        role=Role(given.input_type or (Role.DOCUMENT if raw else Role.QUERY)),
        instruction="" if raw and not ids else given.instruction,
        dimensions=given.dimensions,
        base64=given.encoding_format == "base64",
        priority=_priority(texts),
    )


def read_search_request(body: bytes) -> SearchRequest:
    """What is asked for; raises a Problem that says what is wrong."""
    return _parse(SearchRequest, body)


def unknown_model(name: str, names: Collection[str]) -> Problem:
    """404, as OpenAI has it."""
    message = f"The model {_short(name)} isn't served here. Served: {', '.join(map(repr, names))}."
    return Problem(404, message, "model_not_found", "model")


def _texts(given: Any, *, token_ids: bool) -> Sequence[str] | Sequence[TokenizedText]:
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list) or not given:
        found = "an empty list" if given == [] else type(given).__name__
        raise Problem(400, f"input is {found}; it is a text or a list of texts.", "invalid_input", "input")
    kinds = set(map(type, given))
    if kinds == {str}:
        return given
    rows = [given] if kinds == {int} else given
    if set(map(type, rows)) != {list} or any(set(map(type, row)) != {int} for row in rows):
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise Problem(400, f"input is a list of {names}; it is a text or a list of texts.", "invalid_input", "input")
    if not token_ids:
        raise Problem(
            400,
            "input is token ids, which another model's tokenizer may have made (LangChain's OpenAIEmbeddings sends those of "
            "tiktoken unless it is told check_embedding_ctx_length=False): this model would embed other words. Send texts. An "
            "operator who knows that the ids are this model's own may allow them: --allow-token-ids",
            "token_ids_not_allowed", "input",
        )  # fmt: skip
    if any(not -(2**63) <= one < 2**63 for row in rows for one in row):
        raise Problem(400, "input has token ids that no vocabulary has.", "invalid_input", "input")
    return [TokenizedText(row) for row in rows]


def _priority(texts: Sequence[str] | Sequence[TokenizedText]) -> Priority:
    if len(texts) > _SMALL_TEXTS:
        return Priority.BULK
    size = sum(_TOKEN_CHARACTERS * len(text.ids) if isinstance(text, TokenizedText) else len(text) for text in texts)
    return Priority.INTERACTIVE if size <= _SMALL_CHARACTERS else Priority.BULK


def _parse(form: type[_Parsed], body: bytes) -> _Parsed:
    try:
        return form.model_validate_json(body)
    except ValidationError as error:
        # Without the values: a message must not carry a text.
        raise _problem_of(error.errors(include_url=False, include_input=False)[0], form) from None


def _problem_of(error: Any, form: type[BaseModel]) -> Problem:
    """The first thing that is wrong with a body."""
    place = ".".join(map(str, error["loc"])) or None
    match error["type"]:
        case "json_invalid":
            return Problem(400, f"The body isn't JSON: {error['ctx']['error']}.", "invalid_json")
        case "missing":
            return Problem(400, f"{place} is missing.", "missing_required_parameter", place)
        case "extra_forbidden":
            known = ", ".join(form.model_fields)
            return Problem(400, f"{_short(place or '')} is an unknown field. Known: {known}.", "unknown_parameter", place)
        case "literal_error":
            return Problem(400, f"{place} is unknown. Known: {error['ctx']['expected']}.", "invalid_value", place)
    return Problem(400, f"{place or 'The body'}: {error['msg']}.", "invalid_value", place)


def _short(text: str) -> str:
    return repr(text if len(text) <= 100 else text[:100] + "...")
