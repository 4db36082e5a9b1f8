"""Haystack reports what it runs unless it is told not to, before it is imported."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"

import pytest

# The models of the main package's tests.
sys.path.append(str(Path(__file__).resolve().parents[3] / "tests"))


@pytest.fixture(scope="session")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose queries look with an instruction."""
    from model_factory import build

    return str(build("qwen3", tmp_path_factory.mktemp("qwen3")))
