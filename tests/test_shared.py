"""Facts about the engines that a process shares."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sightline
from sightline.embedding.engine import EmbeddingEngine
from sightline.embedding.shared import SharedEmbedder, open_embedder
from sightline.errors import DimensionError, EmbedderClosed, UnknownInstruction
from sightline.types import Role


@pytest.fixture
def qwen3(make_model: Callable[..., Path]) -> Path:
    """A tiny model with a query prompt and a template."""
    return make_model("qwen3")


def loaded_threads() -> set[threading.Thread]:
    """The device threads that run; one of another test may just be ending."""
    return {thread for thread in threading.enumerate() if thread.name == "sightline-device"}


def test_a_second_embedder_of_a_model_loads_nothing(qwen3: Path) -> None:
    """Whatever its dimensions and instructions are."""
    before = loaded_threads()
    with open_embedder(qwen3) as one, open_embedder(str(qwen3), dimensions=32, query_instruction="Find it") as other:
        one.embed_documents(["tide"])
        other.embed_documents(["tide"])
        assert one.engine is other.engine
        assert len(loaded_threads() - before) == 1


def test_a_default_that_is_said_is_no_other_engine(qwen3: Path) -> None:
    """Some callers name every setting."""
    with open_embedder(qwen3) as one, open_embedder(qwen3, deterministic=False, clean=[], device=None) as other:
        assert one.engine is other.engine


def test_how_a_model_runs_makes_another_engine(qwen3: Path) -> None:
    """A bfloat16 model can't stand in for a float32 one."""
    with open_embedder(qwen3, dtype="float32") as one, open_embedder(qwen3, dtype="bfloat16") as other:
        assert one.engine is not other.engine


def test_each_looks_with_its_own_instruction_and_dimensions(qwen3: Path) -> None:
    """To the same vectors as an engine that was made so."""
    settings = {"dimensions": 32, "query_instruction": "Find the tide", "instructions": {"mine": "Find a lamp"}}
    with (
        open_embedder(qwen3, dtype="float32") as plain,
        open_embedder(qwen3, dtype="float32", **settings) as mine,
        EmbeddingEngine(qwen3, dtype="float32", **settings) as engine,
    ):
        np.testing.assert_allclose(mine.embed_queries(["moon"]), engine.embed_queries(["moon"]), atol=1e-6)
        named = mine.embed_queries(["moon"], instruction="mine")
        np.testing.assert_allclose(named, engine.embed_queries(["moon"], instruction="mine"), atol=1e-6)
        assert np.abs(mine.embed_queries(["moon"]) - plain.embed_queries(["moon"], dimensions=32)).max() > 1e-3
        assert mine.identity() == engine.identity()
        assert mine.instructions == engine.instructions
        assert mine.count_tokens(["high water"]) == engine.count_tokens(["high water"])
        with pytest.raises(UnknownInstruction):
            plain.embed_queries(["moon"], instruction="mine")


def test_a_description_has_ones_own_dimensions_and_instructions(qwen3: Path) -> None:
    """All else is the engine's."""
    with open_embedder(qwen3, device="cpu", dimensions=32, instructions={"mine": "Find it"}) as one:
        described = one.describe()
        assert (described.dimensions, described.native_dimensions) == (32, 64)
        assert described.instructions["mine"] == "Instruct: Find it\nQuery: "


def test_wrong_arguments_raise_at_once(qwen3: Path) -> None:
    """Before anything is loaded."""
    with pytest.raises(DimensionError):
        open_embedder(qwen3, dimensions=100_000)
    with pytest.raises(UnknownInstruction):
        open_embedder(qwen3, query_instruction="nobody-knows")
    with pytest.raises(TypeError, match="colour"):
        open_embedder(qwen3, colour="blue")


def test_closing_one_leaves_the_others(qwen3: Path) -> None:
    """An adapter that goes takes no other's model along."""
    with open_embedder(qwen3) as staying:
        going = open_embedder(qwen3)
        going.close()
        going.close()
        assert staying.embed_documents(["tide"]).shape == (1, staying.dimensions)
        with pytest.raises(EmbedderClosed):
            going.embed_documents(["tide"])


@pytest.mark.parametrize("leave", [SharedEmbedder.close, lambda embedder: None], ids=["closed", "forgotten"])
def test_the_model_goes_with_the_last_one(qwen3: Path, leave: Callable[[SharedEmbedder], None]) -> None:
    """Its memory isn't kept for the rest of the process."""
    embedder = open_embedder(qwen3)
    embedder.embed_documents(["tide"])
    engine = weakref.ref(embedder.engine)
    leave(embedder)
    del embedder
    gc.collect()
    assert engine() is None


def test_a_result_that_is_waited_for_keeps_the_model(qwen3: Path) -> None:
    """The caller holds a future and nothing else."""
    future = open_embedder(qwen3).submit(["tide"], role=Role.DOCUMENT)
    gc.collect()
    assert future.result(timeout=60).shape[0] == 1


def test_the_first_async_call_leaves_the_event_loop_alone(qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing torch and reading files is for another thread; later calls only queue."""
    threads: list[threading.Thread] = []
    submit = EmbeddingEngine.submit_with

    def watched(*arguments: Any, **more: Any) -> Any:
        threads.append(threading.current_thread())
        return submit(*arguments, **more)

    monkeypatch.setattr(EmbeddingEngine, "submit_with", watched)

    async def twice() -> None:
        await embedder.aembed_queries(["tide"])
        await embedder.aembed_documents(["tide"])

    with open_embedder(qwen3) as embedder:
        asyncio.run(twice())
    assert [thread is threading.main_thread() for thread in threads] == [False, True]


def test_the_name_is_public() -> None:
    """`sightline.open_embedder`."""
    assert sightline.open_embedder is open_embedder
