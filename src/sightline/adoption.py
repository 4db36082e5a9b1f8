"""Giving a contract to a collection that another program filled, if its vectors are what they should be."""

from __future__ import annotations

import shlex
from itertools import islice

import numpy as np

from sightline.contract import PROBE_COSINE, ChunkPart, Contract, cosines, make_contract
from sightline.cutting import cut
from sightline.errors import ContractMismatch, StoreError
from sightline.protocols import Embedder, Store
from sightline.types import FloatArray

_CHECKED = 32
# Texts are rarely missing; this many records are read to find as many texts as are checked.
_READ = 512


def adopt(store: Store, embedder: Embedder, chunks: ChunkPart) -> Contract:
    """Write a contract, after a sample of the stored texts has been embedded as documents and compared with the stored vectors.

    Raises:
        StoreError: It has a contract already, or no texts to compare.
        UnfinishedCopy: It is a copy that isn't whole.
        ContractMismatch: The stored vectors aren't those that `embedder` gives.
    """
    data = store.read_contract()
    if data is not None:
        Contract.from_json(data)  # an unfinished copy says so, and what finishes it
        raise StoreError(f"{store.url} has a contract already. See it with: sightline inspect {shlex.quote(store.url)}")
    store.acquire()
    records = list(islice((record for record in store.records(_READ) if record.point.text.strip()), _CHECKED))
    if not records:
        raise StoreError(
            f"The first points of {store.url} hold no text, so nothing can tell how their vectors were made. "
            "Index into another collection: sightline index PATH --into OTHER_URL"
        )
    expected = np.stack([record.vector for record in records])
    seen = embedder.embed_documents([record.point.text for record in records], dimensions=store.layout().dimensions)
    agreement = cosines(expected, seen)
    if not (agreement >= PROBE_COSINE).all():  # written so that a NaN is refused too
        raise _disagreement(store, embedder, agreement.tolist())
    _check_shorter(store, expected)
    contract = make_contract(embedder, chunks, dimensions=store.layout().dimensions)
    store.write_contract(contract.to_json())
    return contract


def _check_shorter(store: Store, vectors: FloatArray) -> None:
    """Raise ContractMismatch where vectors that are named by their length aren't the beginning of the main ones.

    Who writes a point after the adoption cuts them from its main one. The contract doesn't name them yet, because nobody knows
    whether all points have them: adding the length fills those that don't.
    """
    for length in store.layout().shorter:
        short = cut(vectors, length)
        best = [max((hit.score for hit in store.search(row, limit=1)), default=1.0) for row in short]
        if not min(best) >= PROBE_COSINE:
            raise ContractMismatch(
                f"{store.url} can't be adopted: its vectors {str(length)!r} aren't its main ones, cut to {length} and of unit "
                f"norm again (cosine {min(best):.3f}), which Sightline would write under this name. Index the documents into a "
                "new collection: sightline index PATH --into OTHER_URL"
            )


def _disagreement(store: Store, embedder: Embedder, agreement: list[float]) -> ContractMismatch:
    agreeing = sum(cosine >= PROBE_COSINE for cosine in agreement)
    model = embedder.identity().model
    return ContractMismatch(
        f"{store.url} can't be adopted: of {len(agreement)} of its texts, embedded as documents with {model!r}, {agreeing} agree "
        f"with the stored vectors (cosine {min(agreement):.3f} to {max(agreement):.3f}; {PROBE_COSINE} is the same sight). They "
        "were made by another model, with another prompt, or from other texts (some programs drop newlines). "
        "Index the documents into a new collection: sightline index PATH --into OTHER_URL"
    )
