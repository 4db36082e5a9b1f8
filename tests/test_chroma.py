"""Chroma in a directory and on a real server: the conformance suite, and what is special to each."""

import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import httpx
import pytest

from sightline.stores import open_store
from sightline.testing import StoreConformance


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Server:
    """`chroma run` on a path, for as long as the test wants it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.port = free_port()
        self.start()

    def start(self) -> None:
        command = [str(Path(sys.executable).with_name("chroma")), "run", "--path", str(self.path), "--host", "127.0.0.1"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([*command, "--port", str(self.port)], **quiet)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                httpx.get(f"http://127.0.0.1:{self.port}/api/v2/heartbeat", timeout=1).raise_for_status()
                return
            except httpx.HTTPError:
                threading.Event().wait(0.05)
        raise RuntimeError("chroma run did not answer within a minute")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def url(self) -> str:
        """A collection that nobody used yet."""
        return f"chroma+http://127.0.0.1:{self.port}/c{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Server(tmp_path_factory.mktemp("server"))
    yield running
    running.kill()


@pytest.fixture
def opened():
    """Open stores that are closed when the test ends."""
    stores = []

    def open_and_remember(url):
        stores.append(open_store(url))
        return stores[-1]

    yield open_and_remember
    for store in stores:
        store.close()


class TestDirectoryConformance(StoreConformance):
    @pytest.fixture
    def store(self, tmp_path):
        store = open_store(f"chroma:{tmp_path}/a b/handbook")
        yield store
        store.close()


class TestServerConformance(StoreConformance):
    @pytest.fixture
    def store(self, server):
        store = open_store(server.url())
        yield store
        store.close()
