"""The packaged MiniLM, a small random Qwen3 whose queries have a prompt, and a database of each test's own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chromadb
import pytest

# The models and servers of the main package's tests.
sys.path.append(str(Path(__file__).resolve().parents[3] / "tests"))


@pytest.fixture(scope="session")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose queries look with an instruction."""
    from model_factory import build

    return build("qwen3", tmp_path_factory.mktemp("qwen3"))


@pytest.fixture
def new_client(tmp_path: Path) -> Iterator[Callable[[], Any]]:
    """`new_client()` is a client of the test's own database as a later program would have it: the one before is closed."""
    opened: list[Any] = []

    def connect() -> Any:
        if opened:
            opened.pop().close()
        opened.append(chromadb.PersistentClient(str(tmp_path / "db")))
        return opened[-1]

    yield connect
    if opened:
        opened.pop().close()


@pytest.fixture
def client(new_client: Callable[[], Any]) -> Any:
    """A client of a database of this test's own."""
    return new_client()
