"""The other side of `cutters`: a process that tokenises and cuts documents for its parent, and ends with it. No torch."""

from __future__ import annotations

import importlib
import json
import sys
from array import array
from collections.abc import Callable, Sequence
from typing import Any

from sightline.errors import UsageError
from sightline.indexing.child_process import serve
from sightline.indexing.chunking import ChunkSettings, DocumentTokens, chunk, tokenized
from sightline.protocols import Tokens
from sightline.types import Chunk, Document


def main(recipe: dict[str, Any], settings: dict[str, Any]) -> None:
    """Cut one batch of documents after the other until the parent has gone."""

    def prepare() -> Callable[[bytes], Sequence[bytes]]:
        module, _, name = recipe.pop("make").partition(":")
        tokens: Tokens = getattr(importlib.import_module(module), name)(**recipe)
        cut = ChunkSettings(**settings)
        return lambda job: _answer(json.loads(job), cut, tokens)

    serve(1, prepare)


def _answer(batch: list[list[str]], settings: ChunkSettings, tokens: Tokens) -> Sequence[bytes]:
    """Where each document's chunks are, and the token ids of all of them, int32, in one row."""
    documents = [Document(source, text, text_format) for text, text_format, source in batch]
    ids = array("i")
    read = zip(documents, tokenized(documents, tokens), strict=True)
    found = [_found(document, settings, tokens, own, ids) for document, own in read]
    return json.dumps(found).encode(), ids.tobytes()


def _found(document: Document, settings: ChunkSettings, tokens: Tokens, own: DocumentTokens, ids: array[int]) -> dict[str, Any]:
    try:
        return {"chunks": [_place(one, ids) for one in chunk(document, settings, tokens, own)]}
    except UsageError as error:
        return {"unusable": str(error)}
    except RecursionError:
        return {"too_deep": True}


def _place(one: Chunk, ids: array[int]) -> list[Any]:
    if one.tokens is None:
        return [one.start, one.end, one.heading_path, one.num_tokens, None, 0]
    ids.extend(one.tokens.ids)
    return [one.start, one.end, one.heading_path, one.num_tokens, len(one.tokens.ids), one.tokens.prompt_length]


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), json.loads(sys.argv[2]))
