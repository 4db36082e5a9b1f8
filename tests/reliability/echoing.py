"""A server that is none: it repeats in every answer what it was sent, headers and keys among it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def echoing_server(status: int) -> Iterator[int]:
    """Its port."""
    told: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            said = f"what you sent: {dict(self.headers)}"
            told.append(said)
            body = json.dumps({"error": said, "message": said, "status": {"error": said}}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = answer

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
        assert told, "it was asked nothing"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
