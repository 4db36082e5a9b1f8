"""Facts about the contract: what it keeps, and whom it lets read and write a collection."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from sightline.contract import FORMAT_VERSION, PROBE_COSINE, PROBE_TEXTS, ChunkPart, Contract, Mark, make_contract, probe, verify
from sightline.errors import ContractMismatch
from sightline.protocols import Texts
from sightline.testing import HashEmbedder
from sightline.types import EmbedderIdentity

URL = "edge:./kb"


class Disguised(HashEmbedder):
    """A hash embedder that claims an identity of its own choice and counts what it is asked."""

    def __init__(self, fingerprint: str | None = None, **more: object) -> None:
        super().__init__(**more)
        self.claimed = fingerprint

    def identity(self) -> EmbedderIdentity:
        return replace(super().identity(), fingerprint=self.claimed)


class Noisy(Disguised):
    """An embedder whose vectors are off by a fixed small angle, as those of a quantised copy are."""

    noise = 0.0

    def embed_documents(self, texts: Texts, **more: object) -> np.ndarray:
        vectors = super().embed_documents(texts, **more)
        turned = vectors + self.noise * np.random.default_rng(7).standard_normal(vectors.shape).astype(np.float32)
        return turned / np.linalg.norm(turned, axis=1, keepdims=True)


@pytest.fixture
def contract() -> Contract:
    """The contract of a collection made by the hash embedder at 32 dimensions."""
    return make_contract(HashEmbedder(), ChunkPart("sections/1:64", 64), dimensions=32)


def through_json(contract: Contract) -> Contract:
    """The contract after it was stored and read."""
    return Contract.from_json(json.loads(json.dumps(contract.to_json())))


def test_it_survives_json(contract: Contract) -> None:
    """All three parts come back equal."""
    read = through_json(contract)
    assert (read.vectors, read.chunks, read.reading) == (contract.vectors, contract.chunks, contract.reading)


def test_shorter_vectors_survive_json() -> None:
    """And raise the format, because an older writer would leave them out."""
    several = make_contract(HashEmbedder(), ChunkPart("sections/1:64"), dimensions=32, shorter=(16, 8))
    assert through_json(several).vectors == several.vectors
    assert several.to_json()["format_version"] == FORMAT_VERSION


def test_a_contract_without_shorter_vectors_is_what_older_ones_read(contract: Contract) -> None:
    """Its format and its keys are theirs."""
    data = contract.to_json()
    assert data["format_version"] == FORMAT_VERSION - 1
    assert "shorter" not in data["vectors"]


def test_its_probes_survive_json_nearly(contract: Contract) -> None:
    """float16 keeps the probes' direction to six digits."""
    read = through_json(contract).probes.astype(np.float64)
    cosines = np.einsum("ij,ij->i", read / np.linalg.norm(read, axis=1, keepdims=True), contract.probes)
    assert cosines.min() > 1 - 1e-6


def test_it_is_small(contract: Contract) -> None:
    """Even with 1024 dimensions it fits into the metadata of every store."""
    large = make_contract(HashEmbedder(native_dimensions=1024), ChunkPart("sections/1:64"))
    assert len(json.dumps(large.to_json())) < 60_000


def test_a_newer_format_is_refused(contract: Contract) -> None:
    """A contract of a later Sightline says how to read it."""
    data = contract.to_json() | {"format_version": FORMAT_VERSION + 1}
    with pytest.raises(ContractMismatch, match="pip install --upgrade sightline"):
        Contract.from_json(data)


@pytest.mark.parametrize(
    "damage",
    [
        {"vectors": {}}, {"vectors": {"shorter": 3}}, {"vectors": []}, {"probes": "AAAA"}, {"probes": "no base64!"},
        {"reading": None}, {"chunks": {"settings": "a", "new": 1}},
    ],
)  # fmt: skip
def test_a_damaged_contract_is_refused(contract: Contract, damage: dict[str, object]) -> None:
    """What can't be read is an error that says so, not a traceback from the middle."""
    with pytest.raises(ContractMismatch, match="can't be read"):
        Contract.from_json(contract.to_json() | damage)


def test_the_probes_are_eight_texts_in_both_roles() -> None:
    """The second half sees the same texts as queries."""
    seen = probe(HashEmbedder(), 16)
    assert seen.shape == (2 * len(PROBE_TEXTS), 16) == (16, 16)
    np.testing.assert_array_equal(seen[8:], HashEmbedder().embed_queries(PROBE_TEXTS, dimensions=16))


def test_the_same_embedder_is_accepted_without_embedding(contract: Contract) -> None:
    """Equal fingerprints are enough."""
    embedder = HashEmbedder()
    verify(contract, embedder, URL)
    assert embedder.stats().texts == 0


def test_an_unknown_identity_is_told_by_the_probes(contract: Contract) -> None:
    """An embedder that can't say who it is passes when it sees alike."""
    embedder = Disguised(None)
    verify(contract, embedder, URL)
    assert embedder.stats().texts == 2 * len(PROBE_TEXTS)


def test_another_fingerprint_that_sees_alike_is_accepted(contract: Contract) -> None:
    """A copy in other files is the same embedder."""
    verify(contract, Disguised("0" * 64), URL)


def test_a_slightly_turned_copy_is_accepted(contract: Contract) -> None:
    """What quantisation does to vectors is within the tolerance."""
    embedder = Noisy(None)
    embedder.noise = 0.01
    verify(contract, embedder, URL)


def test_a_much_turned_copy_is_refused(contract: Contract) -> None:
    """Beyond the tolerance it is another sight, and the message has the figures."""
    embedder = Noisy(None)
    embedder.noise = 0.1
    with pytest.raises(ContractMismatch, match=rf"to 0\.\d+ as documents and 1\.000 as queries; at least {PROBE_COSINE}"):
        verify(contract, embedder, URL)


def test_another_model_is_refused_with_both_names(contract: Contract) -> None:
    """The message names the fields that differ, both values and the command that mends it."""
    embedder = Noisy(None, native_dimensions=128, name="other")
    embedder.noise = 1.0
    with pytest.raises(ContractMismatch) as caught:
        verify(contract, embedder, URL)
    message = str(caught.value)
    assert "model: the collection has 'sightline-hash', this embedder 'other'" in message
    assert "native_dimensions: the collection has 64, this embedder 128" in message
    assert "it was made with 'sightline-hash'" in message
    assert "sightline index PATH --into edge:./kb --model other --rebuild" in message


def test_other_dimensions_are_refused_without_embedding(contract: Contract) -> None:
    """A caller who insists on another length is told at once."""
    embedder = HashEmbedder()
    with pytest.raises(ContractMismatch, match="dimensions: the collection has 32, this embedder 16"):
        verify(contract, embedder, URL, dimensions=16)
    assert embedder.stats().texts == 0


def test_the_command_that_makes_it_anew_keeps_its_shorter_vectors() -> None:
    """Those that the new ones can be cut to."""
    several = make_contract(HashEmbedder(), ChunkPart("sections/1:64"), dimensions=32, shorter=(16, 8))
    with pytest.raises(ContractMismatch, match="--dimensions 16,8 --rebuild"):
        verify(several, HashEmbedder(), URL, dimensions=16)


def test_too_short_a_model_is_refused_without_embedding(contract: Contract) -> None:
    """A model that can't give vectors of the collection's length is another one."""
    embedder = HashEmbedder(native_dimensions=16)
    with pytest.raises(ContractMismatch, match="native_dimensions: the collection has 64, this embedder 16"):
        verify(contract, embedder, URL)
    assert embedder.stats().texts == 0


def test_another_document_prompt_is_refused_without_embedding(contract: Contract) -> None:
    """Documents behind a prompt are seen differently."""
    embedder = HashEmbedder(document_instruction="passage of a book: ")
    with pytest.raises(ContractMismatch, match="document_prompt: the collection has '', this embedder 'passage of a book: '"):
        verify(contract, embedder, URL)
    assert embedder.stats().texts == 0


def test_another_pooling_is_refused_without_embedding(contract: Contract) -> None:
    """Where both are known; the probes of some models would hardly show it."""
    pooled = replace(contract, vectors=replace(contract.vectors, pooling="mean"))

    class Pooling(HashEmbedder):
        def identity(self) -> EmbedderIdentity:
            return replace(super().identity(), pooling="cls")

    embedder = Pooling()
    with pytest.raises(ContractMismatch, match="pooling: the collection has 'mean', this embedder 'cls'"):
        verify(pooled, embedder, URL)
    assert embedder.stats().texts == 0
    verify(pooled, HashEmbedder(), URL)  # that one doesn't know its own


def test_another_query_instruction_is_never_refused(contract: Contract) -> None:
    """What a searcher looks with is a default of reading: the probes use the collection's."""
    verify(contract, Disguised(None, query_instruction="find the recipe for this: "), URL)


def test_a_nan_is_refused(contract: Contract) -> None:
    """A comparison with NaN must not pass for agreement."""
    embedder = Noisy(None)
    embedder.noise = np.nan
    with pytest.raises(ContractMismatch):
        verify(contract, embedder, URL)


def test_a_mark_survives_json() -> None:
    """Unfinished scopes and the last run come back; a collection without a mark has none."""
    mark = Mark(frozenset({"kb", "docs/a.md"}), {"documents": 3})
    assert Mark.from_json(json.loads(json.dumps(mark.to_json()))) == mark
    assert Mark.from_json({}) == Mark()
