"""Facts about the examples that ask a server: each runs against one of ours."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

from served import PACKAGED
from servers import SightlineServer

EXAMPLES = Path(__file__).parent.parent / "examples"
# An SGLang server can't run here. What stands in has its model's name and another model.
NAMES = ("minilm", "Qwen/Qwen3-Embedding-0.6B")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[SightlineServer]:
    """MiniLM, served."""
    running = SightlineServer("--model", PACKAGED, *(word for name in NAMES for word in ("--served-model-name", name)))
    yield running
    running.stop()


@pytest.mark.parametrize(
    ("example", "found"),
    [
        ("server_openai", "getting-here.md"),
        ("server_langchain", "getting-here.md"),
        ("server_llama_index", "getting-here.md"),
        ("remote_sglang", "visitors/opening-hours.md"),
    ],
)
def test_an_example_finds_the_page(
    server: SightlineServer, example: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """From any working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SERVER", f"{server.url}/v1")
    runpy.run_path(str(EXAMPLES / f"{example}.py"), run_name="__main__")
    assert found in capsys.readouterr().out
