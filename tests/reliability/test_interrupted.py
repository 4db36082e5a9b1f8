"""Facts about SIGTERM and Ctrl-C: a run ends soon and says so, gives up its lock or lease, and the same command goes on."""

from __future__ import annotations

import importlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from killing import Folder
from scenes import NAMES, leftovers, state

from attacks import Attack
from servers import ChromaServer
from sightline.cli import signals as cli_signals
from sightline.cli.signals import Signals, Terminated

SIGNALS = {
    "SIGTERM": ((signal.SIGTERM,), 143),
    "Ctrl-C": ((signal.SIGINT,), 130),
    "Ctrl-C twice": ((signal.SIGINT, signal.SIGINT), 130),
}
# What a run may be in the middle of, and the five seconds that the second Ctrl-C gives it.
_LONGEST_S = 15.0

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaServer]:
    """A real Chroma server."""
    running = ChromaServer(tmp_path_factory.mktemp("server"))
    yield running
    running.kill()


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str, str], str]:
    """`place(kind, name)` is the URL of a collection of that name."""

    def url(kind: str, name: str) -> str:
        if kind == "chroma+http":
            return f"{request.getfixturevalue('server').url()}-{name}"
        return f"{kind}:{tmp_path / name}" if kind == "edge" else f"{kind}:{tmp_path / name}/sea"

    return url


def start(folder: Path, url: str, model: Path) -> subprocess.Popen[str]:
    """`sightline index FOLDER --into URL` as a process of its own."""
    command = [sys.executable, "-m", "sightline", "index", str(folder), "--into", url, "--model", str(model)]
    return subprocess.Popen([*command, "--chunk-tokens", "64"], stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for a run that must succeed."""
    _, shown = process.communicate(timeout=180)
    assert process.returncode == 0, shown


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "times"), [("edge", 3), ("chroma", 1), ("chroma+http", 2), ("qdrant", 1)])
def test_a_signal_ends_a_run_in_order(
    place: Callable[[str, str], str], tmp_path: Path, make_model: Callable[..., Path], attack: Attack, kind: str, times: int
) -> None:
    """At random instants, from where the command line has been loaded."""
    model, folder = make_model("bert"), Folder(tmp_path / "kb", seed=5, documents=120).path
    finish(start(folder, place(kind, "warm"), model))  # what lies in the system's caches is quicker
    began = time.monotonic()
    finish(start(folder, clean := place(kind, "clean"), model))
    whole, expected, left = time.monotonic() - began, state(clean), leftovers(clean)
    instants, ended = random.Random(kind), 0
    for number, (how, (sent, code)) in enumerate(times * list(SIGNALS.items())):
        url = place(kind, f"run{number}")
        with attack(f"{how}, {NAMES[kind]}"):
            process = start(folder, url, model)
            try:
                process.wait(whole * instants.uniform(0.3, 0.9))
            except subprocess.TimeoutExpired:
                for one in sent:
                    process.send_signal(one)
                    time.sleep(0.05)
            _, shown = process.communicate(timeout=_LONGEST_S)
            assert "Traceback" not in shown
            if " chunks (" not in shown:  # else it was through
                assert process.returncode == code, shown
                assert "same command goes on where this one stopped" in shown
                ended += 1
            if kind == "chroma+http":
                assert not [one for one in leftovers(url) if one.endswith(".writer")]
            finish(start(folder, url, model))
            assert state(url).is_as(expected, 0.0 if kind == "edge" else 1e-6)
            assert leftovers(url) == left
    assert ended >= times


def test_the_second_signal_limits_the_wait_and_the_third_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second must not disturb what the first one began; what hangs is ended, at once by the third."""
    left: list[int] = []
    monkeypatch.setattr(cli_signals.os, "_exit", left.append)
    monkeypatch.setattr(cli_signals, "_say", lambda _text: None)
    monkeypatch.setattr(cli_signals, "_GRACE_S", 0.05)
    with Signals():
        with pytest.raises(Terminated):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert left == []
        with pytest.raises(Terminated):
            os.kill(os.getpid(), signal.SIGTERM)
        assert left == [143]
        while len(left) < 2:
            time.sleep(0.01)
    assert left == [143, 143]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_a_signal_waits_for_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch ends the process when an exception comes in the middle of its import; so it comes right after it."""
    (tmp_path / "slowly_imported.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\ndone = True\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with Signals(), pytest.raises(Terminated):
        import_and_wait()
    assert sys.modules["slowly_imported"].done
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def import_and_wait() -> None:
    """Import it, and wait for what comes then."""
    importlib.import_module("slowly_imported")
    signal.pause()


def test_what_the_caller_ignores_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a shell ignores Ctrl-C for what it starts in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Signals():
            os.kill(os.getpid(), signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)
