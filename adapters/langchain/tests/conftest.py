"""What the tests of this adapter share: the packaged MiniLM, and a tiny Qwen3 with a query prompt."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sightline import EmbeddingEngine

from langchain_setting import EXACT, MINILM

ROOT = Path(__file__).resolve().parents[3]
sys.path.append(str(ROOT / "tests"))  # model_factory


@pytest.fixture(scope="session")
def minilm() -> Iterator[EmbeddingEngine]:
    """The packaged MiniLM in float32, not shared with the adapter."""
    with EmbeddingEngine(MINILM, **EXACT) as engine:
        yield engine


@pytest.fixture(scope="session")
def qwen3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3 with random weights, a stored query prompt and a template."""
    from model_factory import build

    return build("qwen3", tmp_path_factory.mktemp("qwen3"))


@pytest.fixture(scope="session")
def qwen3(qwen3_folder: Path) -> Iterator[EmbeddingEngine]:
    """That model as an engine of its own."""
    with EmbeddingEngine(qwen3_folder, **EXACT) as engine:
        yield engine
