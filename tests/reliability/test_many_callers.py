"""Facts about many threads on one engine and one collection: each gets what it would get alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import readers

import sightline
from attacks import Attack
from sightline import EmbeddingEngine
from sightline.types import Priority, Role
from texts import prose

THREADS = 64


def calls_of(thread: int) -> list[list[str]]:
    """What a thread asks for: lone queries and small batches of every length."""
    def text(call: int, row: int) -> str:
        return prose(1 + (7 * thread + 13 * call + row) % 90, seed=thread * 100 + row)

    return [[text(call, row) for row in range(1 + 2 * call)] for call in range(3)]


def embed_from_all(engine: EmbeddingEngine) -> list[list[Any]]:
    """All threads at once; every call as the role that its number says, some of them urgent."""
    together = threading.Barrier(THREADS)

    def work(thread: int) -> list[Any]:
        together.wait(60)
        found = []
        for number, texts in enumerate(calls_of(thread)):
            role = Role.QUERY if (thread + number) % 3 == 0 else Role.DOCUMENT
            priority = Priority.INTERACTIVE if number == 0 else None
            found.append(engine.submit(texts, role=role, priority=priority).result(60))
        return found

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, range(THREADS)))


def embed_in_turn(engine: EmbeddingEngine) -> list[list[Any]]:
    """The same calls, one after the other."""
    return [
        [
            engine.submit(texts, role=Role.QUERY if (thread + number) % 3 == 0 else Role.DOCUMENT).result(60)
            for number, texts in enumerate(calls_of(thread))
        ]
        for thread in range(THREADS)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("deterministic", [False, True])
def test_sixty_four_threads_get_what_one_gets(make_model: Callable[..., Path], attack: Attack, deterministic: bool) -> None:
    """To the bit where that is promised."""
    with EmbeddingEngine(
        make_model("bert"), device="cpu", dtype="float32", threads=2, deterministic=deterministic
    ) as engine:
        expected = embed_in_turn(engine)
        with attack("64 threads on one engine"):
            found = embed_from_all(engine)
            for mine, alone in zip(found, expected, strict=True):
                for rows, wanted in zip(mine, alone, strict=True):
                    assert np.array_equal(rows, wanted) if deterministic else np.abs(rows - wanted).max() < 1e-5


@pytest.mark.slow
def test_sixty_four_threads_on_minilm(minilm: EmbeddingEngine, attack: Attack) -> None:
    """As on a small model."""
    expected = embed_in_turn(minilm)
    with attack("64 threads on one engine, MiniLM"):
        for mine, alone in zip(embed_from_all(minilm), expected, strict=True):
            for rows, wanted in zip(mine, alone, strict=True):
                assert np.abs(rows - wanted).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["edge", "chroma"])
def test_sixty_four_threads_on_one_collection(kind: str, tmp_path: Path, attack: Attack) -> None:
    """Each finds the whole of it, from one open collection."""
    url = {"edge": f"edge:{tmp_path / 'kb'}", "chroma": f"chroma:{tmp_path / 'kb'}/handbook"}[kind]
    sightline.index(documents=readers.documents(1), into=url, model=readers.embedder())
    with (
        sightline.open_collection(url, model=readers.embedder()) as collection,
        attack(f"64 threads on one collection, {kind}"),
        ThreadPoolExecutor(THREADS) as pool,
    ):
        answers = list(pool.map(lambda _: readers.ask(collection), range(2 * THREADS)))
        assert answers == [(readers.DOCUMENTS, {1})] * (2 * THREADS)
