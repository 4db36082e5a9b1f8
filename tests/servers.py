"""Real servers that tests start on a free port of this machine."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import httpx


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class ChromaServer:
    """`chroma run` on a path, for as long as the test wants it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.port = free_port()
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
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
        """End it without a goodbye."""
        self.process.kill()
        self.process.wait()

    def url(self) -> str:
        """A collection that nobody used yet."""
        return f"chroma+http://127.0.0.1:{self.port}/c{uuid.uuid4().hex[:12]}"
