"""vectors -> body. A large answer is made in pieces, so that the event loop is never held up for long and memory stays flat."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

import numpy as np
import orjson
from starlette.responses import Response, StreamingResponse

from sightline.serving.service import Embedded
from sightline.types import FloatArray, Hit

# Numbers in one piece: about a millisecond's work.
_PIECE = 1 << 16
_JSON = "application/json"


def json_response(content: Any, status: int = 200) -> Response:
    """Anything small."""
    return Response(orjson.dumps(content, default=str), status, media_type=_JSON)


def embedding_response(embedded: Embedded, model: str, *, base64: bool) -> Response:
    """The answer to a request for embeddings, as OpenAI's clients read it.

    Where texts were truncated it has a field `truncated` besides, and the header `X-Sightline-Truncated` with their number.
    """
    headers = {} if embedded.truncation is None else {"X-Sightline-Truncated": str(len(embedded.truncation.rows))}
    ends = _ends(embedded, model)
    step = max(1, _PIECE // embedded.vectors.shape[1])
    if len(embedded.vectors) <= step:
        return Response(ends[0] + _rows(embedded.vectors, 0, base64=base64) + ends[1], 200, headers, _JSON)
    return StreamingResponse(_pieces(embedded.vectors, step, ends, base64=base64), 200, headers, _JSON)


def search_response(hits: list[Hit], model: str) -> Response:
    """The answer to a question, best hits first."""
    data = [{"object": "search.hit", "index": rank, **asdict(hit)} for rank, hit in enumerate(hits)]
    return json_response({"object": "list", "data": data, "model": model})


def _ends(embedded: Embedded, model: str) -> tuple[bytes, bytes]:
    """What stands before and after the rows."""
    more: dict[str, Any] = {"model": model, "usage": {"prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens}}
    lost = embedded.truncation
    if lost is not None:
        more["truncated"] = {"inputs": lost.rows, "tokens": lost.dropped_tokens, "estimated": lost.estimated}
    return b'{"object":"list","data":[', b"]," + orjson.dumps(more)[1:]


async def _pieces(vectors: FloatArray, step: int, ends: tuple[bytes, bytes], *, base64: bool) -> AsyncIterator[bytes]:
    yield ends[0]
    for start in range(0, len(vectors), step):
        rows = _rows(vectors[start : start + step], start, base64=base64)
        yield rows if start == 0 else b"," + rows
        await asyncio.sleep(0)
    yield ends[1]


def _rows(vectors: FloatArray, first: int, *, base64: bool) -> bytes:
    little = np.ascontiguousarray(vectors, dtype="<f4")
    rows = [
        {"object": "embedding", "index": index, "embedding": b64encode(row).decode() if base64 else row}
        for index, row in enumerate(little, start=first)
    ]
    return orjson.dumps(rows, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
