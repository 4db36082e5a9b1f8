"""A server that speaks the part of Qdrant's REST that the store uses, with qdrant-client's local mode behind it."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, TypeAdapter
from qdrant_client import QdrantClient, models

_COMPLETED = {"operation_id": 0, "status": "completed"}
_SELECTOR: TypeAdapter[Any] = TypeAdapter(models.PointsSelector)


class RestStandIn(ThreadingHTTPServer):
    """The stand-in on a port of this machine."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.client = QdrantClient(":memory:")
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True).start()

    def stop(self) -> None:
        """End it."""
        self.shutdown()
        self.socket.close()
        self.client.close()

    def handle_error(self, *_: object) -> None:
        """A proxy that hangs up is what this is for."""

    # One method for each request; `name` is the collection's, `body` what was sent.

    def root(self, _name: str, _body: Any) -> Any:
        return None

    def collections(self, _name: str, _body: Any) -> Any:
        return self.client.get_collections()

    def aliases(self, _name: str, _body: Any) -> Any:
        return self.client.get_aliases()

    def change_aliases(self, _name: str, body: Any) -> Any:
        return self.client.update_collection_aliases(models.ChangeAliasesOperation(**body).actions)

    def settings(self, name: str, _body: Any) -> Any:
        return self.client.get_collection(name)

    def create(self, name: str, body: Any) -> Any:
        made = models.CreateCollection(**body)
        return self.client.create_collection(name, made.vectors, metadata=made.metadata)

    def change(self, name: str, body: Any) -> Any:
        known = {one.alias_name: one.collection_name for one in self.client.get_aliases().aliases}
        return self.client.update_collection(known.get(name, name), metadata=models.UpdateCollection(**body).metadata)

    def drop(self, name: str, _body: Any) -> Any:
        return self.client.delete_collection(name)

    def index(self, _name: str, _body: Any) -> Any:
        return _COMPLETED

    def upsert(self, name: str, body: Any) -> Any:
        return self.client.upsert(name, models.PointsList(**body).points)

    def update(self, name: str, body: Any) -> Any:
        return self.client.batch_update_points(name, models.UpdateOperations(**body).operations)

    def delete(self, name: str, body: Any) -> Any:
        return self.client.delete(name, _SELECTOR.validate_python(body))

    def count(self, name: str, body: Any) -> Any:
        return self.client.count(name, models.CountRequest(**body).filter)

    def retrieve(self, name: str, body: Any) -> Any:
        asked = models.PointRequest(**body)
        return self.client.retrieve(name, asked.ids, asked.with_payload, asked.with_vector or False)

    def scroll(self, name: str, body: Any) -> Any:
        asked = models.ScrollRequest(**body)
        points, following = self.client.scroll(
            name, asked.filter, asked.limit, offset=asked.offset, with_payload=asked.with_payload, with_vectors=asked.with_vector
        )
        return {"points": [one.model_dump(mode="json") for one in points], "next_page_offset": following}


_ROUTES: list[tuple[str, str, Callable[..., Any]]] = [
    ("GET", "/", RestStandIn.root),
    ("GET", "/collections", RestStandIn.collections),
    ("GET", "/aliases", RestStandIn.aliases),
    ("POST", "/collections/aliases", RestStandIn.change_aliases),
    ("GET", "/collections/NAME", RestStandIn.settings),
    ("PUT", "/collections/NAME", RestStandIn.create),
    ("PATCH", "/collections/NAME", RestStandIn.change),
    ("DELETE", "/collections/NAME", RestStandIn.drop),
    ("PUT", "/collections/NAME/index", RestStandIn.index),
    ("PUT", "/collections/NAME/points", RestStandIn.upsert),
    ("POST", "/collections/NAME/points", RestStandIn.retrieve),
    ("POST", "/collections/NAME/points/batch", RestStandIn.update),
    ("POST", "/collections/NAME/points/delete", RestStandIn.delete),
    ("POST", "/collections/NAME/points/count", RestStandIn.count),
    ("POST", "/collections/NAME/points/scroll", RestStandIn.scroll),
]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: RestStandIn

    def answer(self) -> None:
        """Find what is asked for, do it, and say what came of it."""
        text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        for method, pattern, call in _ROUTES:
            found = re.fullmatch(pattern.replace("NAME", "([^/]+)"), path)
            if found and method == self.command:
                try:
                    with self.server.lock:
                        result = call(self.server, (*found.groups(), "")[0], json.loads(text) if text else None)
                except ValueError as error:
                    status = 404 if "not found" in str(error) else 409 if "already exists" in str(error) else 400
                    return self._say(status, {"status": {"error": str(error)}})
                return self._say(200, {"title": "x", "version": "1.19.0", "status": "ok", "time": 0.0, "result": _plain(result)})
        return self._say(404, {"status": {"error": f"{self.command} {path} is not among what stands in"}})

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def _say(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _plain(result: Any) -> Any:
    if isinstance(result, list):
        return [_plain(one) for one in result]
    return result.model_dump(mode="json") if isinstance(result, BaseModel) else result
