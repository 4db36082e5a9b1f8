"""The OpenAPI document, and its page for people, which loads nothing from elsewhere."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from sightline import __version__
from sightline.serving.requests import EmbeddingRequest, SearchRequest
from sightline.serving.service import Service

_REF = "#/components/schemas/{model}"
_KEYED: dict[str, Any] = {"security": [{"key": []}, {}]}
_ERRORS = {
    400: "The request is wrong: `message` says what, `param` names the field.",
    401: "The API key is missing or wrong.",
    403: "Without an API key only this machine is answered.",
    404: "No such model, address or collection.",
    405: "The address has no such method.",
    408: "The request wasn't complete in time.",
    413: "The body is too large, or has more inputs than one request may have.",
    429: "The queue is full; `Retry-After` says in how many seconds to ask again.",
    500: "A fault of the server, or a model that gives NaN.",
    503: "The model is being loaded, or the collection can't be reached; `Retry-After` says when to ask again.",
}


class Vector(BaseModel):
    """The vector of one input, of unit norm."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str = Field(description="Numbers, or the base64 of little-endian float32.")


class Usage(BaseModel):
    """Tokens that the model read, prompts and special tokens included."""

    prompt_tokens: int
    total_tokens: int


class Truncated(BaseModel):
    """Inputs that were longer than the model reads, and how many of their tokens it didn't read."""

    inputs: list[int]
    tokens: int
    estimated: bool


class EmbeddingResponse(BaseModel):
    """Vectors in the order of the inputs."""

    object: Literal["list"]
    data: list[Vector]
    model: str
    usage: Usage
    truncated: Truncated | None = Field(None, description="Only where inputs were truncated.")


class SearchHit(BaseModel):
    """A chunk; its score is a cosine similarity."""

    object: Literal["search.hit"]
    index: int
    id: str
    score: float
    text: str
    source: str
    metadata: dict[str, Any]


class SearchResponse(BaseModel):
    """Hits, best first."""

    object: Literal["list"]
    data: list[SearchHit]
    model: str


class Model(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    """The models that are served."""

    object: Literal["list"]
    data: list[Model]


class Status(BaseModel):
    """Whether requests are answered."""

    status: Literal["loading", "ready", "failed", "live"]


class Error(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorResponse(BaseModel):
    """Every error, in OpenAI's shape."""

    error: Error


_MODELS: list[type[BaseModel]] = [
    EmbeddingRequest, SearchRequest, EmbeddingResponse, SearchResponse, Model, ModelList, Status, ErrorResponse,
]  # fmt: skip


def document(service: Service) -> dict[str, Any]:
    """The OpenAPI document of a server, with its own names and dimensions."""
    _, defined = models_json_schema([(one, "validation") for one in _MODELS], ref_template=_REF)
    schemas = defined["$defs"]
    _fill_in(schemas["EmbeddingRequest"]["properties"], service)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Sightline",
            "version": __version__,
            "description": "Embeddings as OpenAI's interface has them, with instructions, and searches in a collection.",
        },
        "paths": _paths(),
        "components": {"schemas": schemas, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _fill_in(properties: dict[str, Any], service: Service) -> None:
    properties["model"]["enum"] = list(service.names)
    for branch in properties["dimensions"]["anyOf"]:
        if branch.get("type") == "integer":
            branch["maximum"] = service.embedder.identity().native_dimensions
    known = ", ".join(service.embedder.instructions) or "none"
    properties["instruction"]["description"] += f" Names known here: {known}."


def _paths() -> dict[str, Any]:
    posts = {
        "/v1/embeddings": _post("embed", "Embed texts.", "EmbeddingRequest", "EmbeddingResponse"),
        "/v1/search": _post("search", "Ask the collection a question.", "SearchRequest", "SearchResponse"),
    }
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    keyed, open_to_all = (401, 403), (403,)
    return {
        **posts,
        "/v1/models": {"get": _get("listModels", "The models that are served.", "ModelList", keyed)},
        "/v1/models/{name}": {
            "get": {**_get("getModel", "One of them.", "Model", (*keyed, 404)), "parameters": [name]},
        },
        "/config": {"get": _get("getConfig", "What the server is: dimensions, instructions, device, limits.", None, keyed)},
        "/health": {"get": _health("health", "As /health/ready.")},
        "/health/ready": {"get": _health("ready", "Whether requests are answered: 503 while the model is being loaded.")},
        "/health/live": {"get": _health("live", "Whether the process is well: 503 if only a new one can help.")},
        "/metrics": {"get": _get("getMetrics", "Figures for Prometheus.", "text/plain", keyed)},
        "/openapi.json": {"get": _get("getOpenapi", "This document.", None, open_to_all)},
        "/docs": {"get": _get("getDocs", "This document, for people.", "text/html", open_to_all)},
    }


def _post(operation: str, summary: str, body: str, answer: str) -> dict[str, Any]:
    answers = {"200": _content("Done.", answer), **_errors((400, 401, 403, 404, 408, 413, 429, 500, 503))}
    request = {"required": True, "content": {"application/json": {"schema": _ref(body)}}}
    return {"post": {**_operation(operation, summary), "requestBody": request, "responses": answers, **_KEYED}}


def _get(operation: str, summary: str, answer: str | None, errors: tuple[int, ...]) -> dict[str, Any]:
    answers = {"200": _content("Done.", answer), **_errors(errors)}
    return {**_operation(operation, summary), "responses": answers, **(_KEYED if 401 in errors else {})}


def _health(operation: str, summary: str) -> dict[str, Any]:
    answers = {"200": _content("Yes.", "Status"), "503": _content("No.", "Status"), **_errors((403,))}
    return {**_operation(operation, summary), "responses": answers}


def _operation(name: str, summary: str) -> dict[str, Any]:
    return {"operationId": name, "summary": summary}


def _errors(statuses: tuple[int, ...]) -> dict[str, Any]:
    return {str(status): _content(_ERRORS[status], "ErrorResponse") for status in statuses}


def _content(description: str, answer: str | None) -> dict[str, Any]:
    """A form of ours by its name, another media type by its own, or any JSON."""
    if answer is not None and "/" in answer:
        return {"description": description, "content": {answer: {"schema": {"type": "string"}}}}
    schema = {"type": "object"} if answer is None else _ref(answer)
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": _REF.format(model=name)}


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "code{background:#8882;padding:.1em .3em;border-radius:.2em}td,th{text-align:left;vertical-align:top;padding:.2em 1em .2em 0}"
    ":root{color-scheme:light dark}"
)


def page(document: Mapping[str, Any]) -> str:
    """The document as HTML."""
    info, schemas = document["info"], document["components"]["schemas"]
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{info['title']}</title><style>{_STYLE}</style>",
        f"<h1>{info['title']} {info['version']}</h1><p>{_text(info['description'])}",
        "<p>The same for programs: <a href=openapi.json>openapi.json</a>.",
    ]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<h2><code>{method.upper()} {path}</code></h2><p>{_text(operation['summary'])}")
            if "requestBody" in operation:
                parts.append(_fields(operation["requestBody"], schemas))
            parts += [_answer(status, answer, schemas) for status, answer in operation["responses"].items()]
    return "\n".join(parts)


def _answer(status: str, answer: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    fields = _fields(answer, schemas) if status == "200" else ""
    return f"<p><b>{status}</b> {_text(answer['description'])}{fields}"


def _fields(content: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    """The fields of what goes in or comes out, where it is a form of ours."""
    schema = next(iter(content["content"].values()))["schema"]
    if "$ref" not in schema:
        return ""
    form = schemas[schema["$ref"].rpartition("/")[2]]
    rows = [_row(name, field, name in form.get("required", [])) for name, field in form["properties"].items()]
    return f"<table>{''.join(rows)}</table>"


def _row(name: str, field: Mapping[str, Any], required: bool) -> str:
    kind = _kind(field) + ("" if required else ", optional")
    return f"<tr><td><code>{name}</code><td>{kind}<td>{_text(field.get('description', ''))}"


def _kind(field: Mapping[str, Any]) -> str:
    """A field's type, for people."""
    if "enum" in field or "const" in field:
        return " or ".join(f"<code>{html.escape(str(one))}</code>" for one in field.get("enum", [field.get("const")]))
    if "anyOf" in field:
        return " or ".join(_kind(one) for one in field["anyOf"] if one.get("type") != "null")
    if "$ref" in field:
        return str(field["$ref"].rpartition("/")[2])
    if field.get("type") == "array":
        return f"list of {_kind(field['items'])}"
    return str(field.get("type", "anything"))


def _text(text: str) -> str:
    return html.escape(text)
