"""Real servers that tests start on a free port of this machine."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

INFINITY = Path(__file__).parent.parent / ".venv-infinity" / "bin" / "infinity_emb"


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


class SightlineServer:
    """`sightline serve` on a free port, with the lines of its log. Made when it is ready, or raises what it said instead."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "sightline", "serve", "--port", "0", "--device", "cpu", *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.lines: list[dict[str, Any]] = []
        said = ""
        for line in self._stderr():
            said += line
            if not line.startswith("{"):
                continue
            self.lines.append(json.loads(line))
            if self.lines[-1]["message"] == "ready":
                break
        else:
            self.process.stderr.close()
            raise RuntimeError(f"sightline serve ended with {self.process.wait()}: {said}")
        self.url = next(line["url"] for line in self.lines if line["message"] == "listening")
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def stop(self) -> int:
        """Ask it to end (SIGTERM), and give its exit code."""
        self.process.terminate()
        return self.wait()

    def wait(self) -> int:
        """Wait until it has ended, and all it said is in `lines`."""
        code = self.process.wait(timeout=120)
        self._reader.join()
        self.process.stderr.close()
        return code

    def kill(self) -> None:
        """End it without a goodbye."""
        self.process.kill()
        self.wait()

    def _read(self) -> None:
        self.lines += [json.loads(line) for line in self._stderr() if line.startswith("{")]

    def _stderr(self) -> Iterator[str]:
        return iter(self.process.stderr.readline, "")


class InfinityServer:
    """Infinity on a free port with a model's folder, from its own environment (`make bench-peers`), ready to answer."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        port = free_port()
        command = [str(INFINITY), "v2", "--model-id", str(folder), "--served-model-name", "minilm", "--port", str(port)]
        command += ["--host", "127.0.0.1", "--url-prefix", "/v1", "--engine", "torch", "--device", "cpu", "--dtype", "float32"]
        command += ["--no-bettertransformer", "--no-compile", "--no-model-warmup", *arguments]
        self.url = f"http://127.0.0.1:{port}/v1"
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        said: list[str] = []
        for line in iter(self.process.stdout.readline, ""):
            said.append(line)
            if "Application startup complete" in line:
                break
        else:
            self.process.stdout.close()
            raise RuntimeError(f"Infinity ended with {self.process.wait()}: {''.join(said)}")
        # Nobody needs the rest, but a full pipe would stop it.
        self._reader = threading.Thread(target=self.process.stdout.read, daemon=True)
        self._reader.start()

    def kill(self) -> None:
        """End it without a goodbye."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stdout.close()
