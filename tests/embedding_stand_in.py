"""A stand-in for embedding servers: speaks `/v1/embeddings` with the hash embedder behind it, and misbehaves when it is told to.

The refusals that it words itself are worded as the named servers word them; those that their users reported are in
`recorded_answers.py`.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from sightline.testing import HashEmbedder

Reply = tuple[int, dict[str, str], Any]


@dataclass
class Behaviour:
    """How the server behaves; a test changes it while the server runs.

    Args:
        prompt: What it puts before every text by itself, as a server with a wrong setting would.
        most_texts: More in one request are refused, as Text Embeddings Inference does it.
        base64: Whether it knows `encoding_format`.
        dimensions: "cut" as asked for, "refuse" as vLLM does without matryoshka, "ignore", or "slice" without a new norm.
        scale: Factor of the vectors' norms.
        key: The key that it asks for.
        replies: Taken first, one a request: what to answer instead.
        refuses: A text that no request may hold, and what those that hold it are answered.
        spoil: Changes an answer before it goes out.
    """

    prompt: str = ""
    most_texts: int = 10_000
    base64: bool = True
    dimensions: str = "cut"
    scale: float = 1.0
    key: str = ""
    replies: list[Reply] = field(default_factory=list)
    refuses: tuple[str, Reply] | None = None
    spoil: Callable[[dict[str, Any]], None] = lambda answer: None
    requests: list[dict[str, Any]] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.gate.set()
        self.lock = threading.Lock()
        self.embedder = HashEmbedder()

    def answer(self, body: dict[str, Any]) -> Reply:
        """What to answer to one request."""
        with self.lock:
            self.requests.append(body)
            if self.replies:
                return self.replies.pop(0)
        self.gate.wait(30)
        texts, asked = body["input"], body.get("dimensions")
        if self.refuses is not None and self.refuses[0] in texts:
            return self.refuses[1]
        if body["model"] != "hash":
            return 404, {}, {"error": {"message": f"The model {body['model']} does not exist."}}
        if len(texts) > self.most_texts:
            told = f"batch size {len(texts)} > maximum allowed batch size {self.most_texts}"
            return 422, {}, {"error": told, "error_type": "Validation"}
        if "encoding_format" in body and not self.base64:
            return 400, {}, {"detail": "encoding_format is not supported"}
        if asked is not None and self.dimensions == "refuse":
            return 400, {}, {"error": {"message": "Model \"hash\" does not support matryoshka representation"}}
        rows = self.embedder.embed_documents([self.prompt + text for text in texts]) * np.float32(self.scale)
        if asked is not None and self.dimensions != "ignore":
            rows = rows[:, :asked]
        as_base64 = body.get("encoding_format") == "base64"
        written = [base64.b64encode(one.tobytes()).decode() if as_base64 else one.tolist() for one in rows]
        data = [{"object": "embedding", "index": row, "embedding": one} for row, one in enumerate(written)]
        answer = {"object": "list", "data": data, "model": "hash", "usage": {"prompt_tokens": sum(map(len, texts))}}
        self.spoil(answer)
        return 200, {}, answer


@contextmanager
def embedding_server(behaviour: Behaviour) -> Iterator[str]:
    """Run one on a free port; gives its base URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._reply((200, {}, {"object": "list", "data": [{"id": "hash", "owned_by": "stand-in"}]}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if behaviour.key and self.headers.get("authorization") != f"Bearer {behaviour.key}":
                self._reply((401, {}, {"error": {"message": "Incorrect API key provided"}}))
            else:
                self._reply(behaviour.answer(body))

        def _reply(self, reply: Reply) -> None:
            status, headers, found = reply
            data = found if isinstance(found, bytes) else json.dumps(found).encode()
            self.send_response(status)
            for name, value in {"content-length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
            self.close_connection = "content-length" in headers

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        behaviour.gate.set()
        server.shutdown()
        server.server_close()
        thread.join()
