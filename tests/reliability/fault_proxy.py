"""Proxies between a client and a real server that do what networks and servers do on bad days."""

from __future__ import annotations

import contextlib
import enum
import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Fault(enum.Enum):
    """What becomes of one request."""

    SLOW = "delayed"
    RESET = "reset before the server got it"
    LOST = "done, and its answer lost"
    HALF = "done, half of the answer arrives"
    CUT = "done, half of the answer arrives and looks whole"
    BUSY = "429"
    BUSY_SECONDS = "429, Retry-After in seconds"
    BUSY_DATE = "429, Retry-After as a date"
    FAILS = "500"
    UNAVAILABLE = "503"
    GATEWAY = "done, and a gateway answers 504"


_STATUS = {
    Fault.BUSY: 429, Fault.BUSY_SECONDS: 429, Fault.BUSY_DATE: 429, Fault.FAILS: 500, Fault.UNAVAILABLE: 503, Fault.GATEWAY: 504,
}  # fmt: skip
ASKED_S = 3

Choose = Callable[[str, str], Fault | None]
Rewrite = Callable[[str, bytes, int, bytes], tuple[int, bytes]]


class Chance:
    """Draws faults at random, from a seed, but never more than so many in a row for the same request.

    The first contact, which has two seconds of patience, meets one at a time.
    """

    def __init__(self, seed: int, rate: float, in_a_row: int = 3) -> None:
        self._random = random.Random(seed)
        self._rate, self._most = rate, in_a_row
        self._row: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def __call__(self, method: str, path: str) -> Fault | None:
        key = (method, path)
        most = self._most if "/collections" in path else 1
        with self._lock:
            if self._random.random() >= self._rate or self._row[key] == most:
                self._row[key] = 0
                return None
            self._row[key] += 1
            return self._random.choice(list(Fault))


class FaultProxy:
    """An HTTP proxy before a server of this machine.

    Args:
        upstream: Port of the server.
        choose: Which fault, if any, a request meets, by its method and path.
        rewrite: Another answer for (path, request, status, answer), e.g. to promise less than the server does.
        largest: Bytes beyond which a request is answered with 413, as proxies do; None lets all through.
    """

    def __init__(
        self, upstream: int, choose: Choose = lambda _method, _path: None, *, rewrite: Rewrite | None = None,
        largest: int | None = None,
    ) -> None:
        self.largest = largest
        self.upstream = upstream
        self.choose = choose
        self.rewrite = rewrite
        self.met: Counter[Fault] = Counter()
        self.asked: list[tuple[str, str, int]] = []  # method, path, bytes of the request
        self.is_away = False
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), self)
        self.port = self._server.server_port

    def url(self, name: str) -> str:
        """A collection behind the proxy."""
        return f"chroma+http://127.0.0.1:{self.port}/{name}"

    def leave(self) -> None:
        """Refuse connections, and reset those that there are."""
        self.is_away = True
        self._server.stop()
        with self._lock:
            connections = list(self._connections)
        for one in connections:
            _reset(one)

    def come_back(self) -> None:
        """Answer on the same port as before."""
        self._server = _Server(("127.0.0.1", self.port), self)
        self.is_away = False

    def leave_for(self, seconds: float) -> None:
        """Be away for so long."""
        self.leave()
        timer = threading.Timer(seconds, self.come_back)
        timer.daemon = True
        timer.start()

    def stop(self) -> None:
        """Leave for good."""
        if not self.is_away:
            self.leave()

    def opened(self, connection: socket.socket) -> None:
        """Remember a connection."""
        with self._lock:
            self._connections.add(connection)

    def closed(self, connection: socket.socket) -> None:
        """Forget a connection."""
        with self._lock:
            self._connections.discard(connection)

    def fault(self, method: str, path: str, size: int) -> Fault | None:
        """What the next request meets."""
        with self._lock:
            self.asked.append((method, path, size))
        found = self.choose(method, path)
        if found is Fault.CUT and "/collections" not in path:
            found = None  # at the first contact that is another server
        if found is not None:
            self.met[found] += 1
        return found


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], proxy: FaultProxy) -> None:
        self.proxy = proxy
        super().__init__(address, _Handler)
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self.shutdown()
        self._thread.join()
        self.socket.close()  # not server_close, which waits for the threads of connections that stay open

    def process_request(self, request: socket.socket, client_address: tuple[str, int]) -> None:
        self.proxy.opened(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:
        self.proxy.closed(request)
        request.close()

    def handle_error(self, *_: object) -> None:
        """A client or a server that hangs up is what this is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server
    _upstream: http.client.HTTPConnection | None = None

    def answer(self) -> None:
        """Pass one request on, or do to it what the proxy says."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        proxy = self.server.proxy
        fault = proxy.fault(self.command, self.path, len(body))
        if fault is Fault.RESET:
            return self._hang_up()
        if fault in _STATUS and fault is not Fault.GATEWAY:
            return self._say(_STATUS[fault], b"<html>not now</html>", fault)
        if proxy.largest is not None and len(body) > proxy.largest:
            return self._say(413, b"<html>413 Request Entity Too Large</html>", None)
        if fault is Fault.SLOW:
            time.sleep(0.02)
        try:
            status, answer = self._forwarded(body)
        except (OSError, http.client.HTTPException):
            return self._say(502, b"no upstream", None)
        if proxy.rewrite is not None:
            status, answer = proxy.rewrite(self.path, body, status, answer)
        if fault is Fault.LOST:
            return self._hang_up()
        if fault is Fault.GATEWAY:
            return self._say(504, b"<html>out of time</html>", fault)
        # Half of a number is a number: what nobody could tell from the truth is left whole.
        if fault is Fault.CUT and status == 200 and answer[:1] in b"{[":
            return self._say(status, answer[: len(answer) // 2], None)
        self._say(status, answer, None, half=fault is Fault.HALF)
        return None

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def _forwarded(self, body: bytes) -> tuple[int, bytes]:
        if self._upstream is None:
            self._upstream = http.client.HTTPConnection("127.0.0.1", self.server.proxy.upstream, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "accept-encoding")}
        try:
            self._upstream.request(self.command, self.path, body or None, headers)
            response = self._upstream.getresponse()
            return response.status, response.read()
        except BaseException:
            self._upstream.close()
            self._upstream = None
            raise

    def _say(self, status: int, body: bytes, fault: Fault | None, *, half: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if fault is Fault.BUSY_SECONDS:
            self.send_header("Retry-After", str(ASKED_S))
        if fault is Fault.BUSY_DATE:
            self.send_header("Retry-After", formatdate(time.time() + ASKED_S, usegmt=True))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if half else body)
        if half:
            self.close_connection = True

    def _hang_up(self) -> None:
        self.close_connection = True
        _reset(self.connection)

    def finish(self) -> None:
        """Close the way on, too."""
        with contextlib.suppress(OSError):  # what was reset can't be flushed
            super().finish()
        if self._upstream is not None:
            self._upstream.close()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class TcpProxy:
    """A proxy that knows no protocol: its connections are reset after so many bytes, and it goes away when told.

    Args:
        upstream: Port of the server.
        host: Its host.
        lives: How many bytes the next connection may carry, in both directions together.
    """

    def __init__(self, upstream: int, *, host: str = "127.0.0.1", lives: Callable[[], float] = lambda: float("inf")) -> None:
        self.upstream = (host, upstream)
        self.lives = lives
        self.resets = 0
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = self._listen(0)
        self.port = self._listener.getsockname()[1]

    def leave(self) -> None:
        """Refuse connections, and reset those that there are."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self._drop(*self._connections)

    def come_back(self) -> None:
        """Listen on the same port as before."""
        self._listener = self._listen(self.port)

    def _listen(self, port: int) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(32)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self.upstream)
            except OSError:
                _reset(client)
                continue
            left = [self.lives()]
            with self._lock:
                self._connections |= {client, server}
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, target, left), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, left: list[float]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                left[0] -= len(data)
                if left[0] < 0:
                    self.resets += 1
                    break
                target.sendall(data)
        self._drop(source, target)

    def _drop(self, *connections: socket.socket) -> None:
        with self._lock:
            self._connections -= set(connections)
        for one in connections:
            _reset(one)


def _reset(connection: socket.socket) -> None:
    """End a connection at once, whatever is on its way."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
