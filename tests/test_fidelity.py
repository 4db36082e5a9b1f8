"""The engine gives the vectors of sentence-transformers: same text, same model, float32 on the CPU.

The measure is the distance of the two unit vectors. A cosine is too forgiving: a text cut one token short still has 0.99999.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from sightline import EmbeddingEngine
from sightline.embedding.device import cpu_features
from texts import TEXTS

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

FURTHEST = 1e-5
FAMILIES = {
    "qwen3": True, "bert": True, "bert-cls": True, "roberta": True, "xlm-roberta": True, "distilbert": True,
    "modernbert": True, "gemma3": True, "mpnet": False, "t5": False,
}  # fmt: skip
QUICK = ("qwen3", "bert", "xlm-roberta", "modernbert", "mpnet")
# Of the texts; all of them are for the slow tests, because those of every length take a while.
SHARES = pytest.mark.parametrize("share", [2, pytest.param(1, marks=pytest.mark.slow)], ids=["every second", "all"])

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def reference(folder: Path, dtype: torch.dtype = torch.float32) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer  # three seconds, for those who compare only

    return SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": dtype})


def distances(folder: Path, engine: EmbeddingEngine, texts: list[str], dimensions: int | None = None) -> float:
    """The largest distance over all texts, in both roles."""
    model = reference(folder)
    options = {"truncate_dim": dimensions, "normalize_embeddings": True, "show_progress_bar": False}
    pairs = [
        (engine.embed_queries(texts, dimensions=dimensions), model.encode_query(texts, **options)),
        (engine.embed_documents(texts, dimensions=dimensions), model.encode_document(texts, **options)),
    ]
    return max(float(np.linalg.norm(ours.astype(np.float64) - theirs, axis=1).max()) for ours, theirs in pairs)


def test_there_are_enough_texts():
    """At least 60 different texts are compared."""
    assert len(set(TEXTS)) >= 60


@pytest.mark.parametrize(
    "family", [one if one in QUICK else pytest.param(one, marks=pytest.mark.slow) for one in FAMILIES]
)
@pytest.mark.parametrize("half", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["native", "halved"])
def test_family_equals_the_reference(make_model, family, half):
    """Every text of every family is within 1e-5 of sentence-transformers, in both roles."""
    folder = make_model(family)
    with EmbeddingEngine(folder, dtype="float32", device="cpu") as engine:
        dimensions = engine.dimensions // 2 if half else None
        assert distances(folder, engine, TEXTS, dimensions) <= FURTHEST


@pytest.mark.parametrize(("family", "packs"), FAMILIES.items())
def test_family_takes_its_path(make_model, family, packs):
    """Architectures that may be packed are, the others are padded."""
    with EmbeddingEngine(make_model(family), dtype="float32", device="cpu").load() as engine:
        assert engine.describe().packs is packs, engine.describe().packing


@pytest.mark.parametrize(
    "pooling",
    [
        "cls", "mean", "lasttoken", ["cls", "mean"],
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("max", "weightedmean", "mean_sqrt_len_tokens")),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("include_prompt", [True, False], ids=["with prompt", "without prompt"])
def test_pooling_equals_the_reference(make_model, pooling, include_prompt):
    """Every pooling, with and without the prompt's tokens, over a prompt in either role."""
    prompts = {"query": "search query: ", "document": "search document: "}
    folder = make_model("bert", pooling=pooling, include_prompt=include_prompt, prompts=prompts)
    with EmbeddingEngine(folder, dtype="float32", device="cpu") as engine:
        assert distances(folder, engine, TEXTS[:40]) <= FURTHEST


@pytest.mark.parametrize(
    "changes",
    [{"normalize": False}, {"dense": [96, 40]}, {"dense": [96], "layer_norm": True, "normalize": False}],
    ids=str,
)
def test_modules_behind_the_pooling_equal_the_reference(make_model, changes):
    """Dense layers, a layer norm, and a model without Normalize."""
    folder = make_model("bert", **changes)
    with EmbeddingEngine(folder, dtype="float32", device="cpu") as engine:
        assert distances(folder, engine, TEXTS[:40]) <= FURTHEST


@pytest.mark.slow
def test_padding_is_exact_too(make_model):
    """A model that could be packed gives the same vectors padded."""
    with EmbeddingEngine(make_model("modernbert"), dtype="float32", device="cpu", pack=False) as engine:
        assert distances(make_model("modernbert"), engine, TEXTS) <= FURTHEST


@SHARES
def test_true_qwen3_tokenizer_equals_the_reference(qwen3_folder, share):
    """Random weights behind the true Qwen3-Embedding tokenizer, prompts and pooling."""
    with EmbeddingEngine(qwen3_folder, dtype="float32", device="cpu") as engine:
        assert engine.describe().family == "Qwen3-Embedding"
        assert distances(qwen3_folder, engine, TEXTS[::share]) <= FURTHEST
        assert distances(qwen3_folder, engine, TEXTS[:: 4 * share], dimensions=engine.dimensions // 2) <= FURTHEST


@SHARES
def test_minilm_equals_the_reference(minilm, minilm_folder, share):
    """The real MiniLM in float32."""
    assert distances(minilm_folder, minilm, TEXTS[::share]) <= FURTHEST
    assert distances(minilm_folder, minilm, TEXTS[:: 4 * share], dimensions=192) <= FURTHEST


@pytest.mark.slow
def test_bfloat16_minilm_is_near_the_float32_reference(minilm_folder):
    """bfloat16 moves no text of the real MiniLM further than cosine 0.999."""
    theirs = reference(minilm_folder).encode(TEXTS, normalize_embeddings=True)
    with EmbeddingEngine(minilm_folder, dtype="bfloat16", device="cpu") as engine:
        assert (engine.embed_documents(TEXTS) * theirs).sum(axis=1).min() >= 0.999


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation with ties at their mean rank."""
    ranks = []
    for values in (a, b):
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[inverse])
    return float(np.corrcoef(*ranks)[0, 1])


@pytest.mark.slow
def test_stsb_spearman_equals_the_reference(shared_data, minilm, minilm_folder):
    """stsb-en-dev: the rank correlation is within 0.002 of sentence-transformers'."""
    rows = list(csv.reader((shared_data / "stsb" / "stsb-en-dev.csv").open(encoding="utf-8")))
    left, right, gold = [row[0] for row in rows], [row[1] for row in rows], np.array([float(row[2]) for row in rows])
    model = reference(minilm_folder)
    ours = (minilm.embed_documents(left) * minilm.embed_documents(right)).sum(axis=1)
    theirs = (model.encode(left, normalize_embeddings=True) * model.encode(right, normalize_embeddings=True)).sum(axis=1)
    assert spearman(ours, gold) > 0.8
    assert abs(spearman(ours, gold) - spearman(theirs, gold)) <= 0.002


@pytest.mark.slow
@pytest.mark.skipif("avx512_bf16" not in cpu_features(), reason="this CPU has no AVX-512 BF16, which int8 needs")
def test_int8_ranks_as_the_reference(shared_data, minilm_folder):
    """stsb-en-dev in int8: the rank correlation is within 0.002 of sentence-transformers' in float32."""
    rows = list(csv.reader((shared_data / "stsb" / "stsb-en-dev.csv").open(encoding="utf-8")))
    left, right, gold = [row[0] for row in rows], [row[1] for row in rows], np.array([float(row[2]) for row in rows])
    model = reference(minilm_folder)
    theirs = (model.encode(left, normalize_embeddings=True) * model.encode(right, normalize_embeddings=True)).sum(axis=1)
    with EmbeddingEngine(minilm_folder, dtype="int8", device="cpu") as engine:
        ours = (engine.embed_documents(left) * engine.embed_documents(right)).sum(axis=1)
    assert abs(spearman(ours, gold) - spearman(theirs, gold)) <= 0.002


def retrieval_figures(queries: np.ndarray, documents: np.ndarray, relevant: list[set[int]]) -> tuple[float, float]:
    """Recall@10 and nDCG@10."""
    top = np.argsort(-(queries @ documents.T), axis=1, kind="stable")[:, :10]
    recalls, gains = [], []
    for row, wanted in zip(top, relevant, strict=True):
        found = [rank for rank, document in enumerate(row) if document in wanted]
        recalls.append(len(found) / len(wanted))
        ideal = sum(1 / np.log2(rank + 2) for rank in range(min(len(wanted), 10)))
        gains.append(sum(1 / np.log2(rank + 2) for rank in found) / ideal)
    return float(np.mean(recalls)), float(np.mean(gains))


@pytest.mark.slow
def test_xquad_retrieval_equals_the_reference(shared_data, minilm, minilm_folder):
    """XQuAD-en: Recall@10 and nDCG@10 are within 0.002 of sentence-transformers'."""
    folder = shared_data / "xquad" / "en"
    corpus = [json.loads(line) for line in (folder / "corpus.jsonl").open(encoding="utf-8")]
    questions = [json.loads(line) for line in (folder / "queries.jsonl").open(encoding="utf-8")]
    place = {row["_id"]: number for number, row in enumerate(corpus)}
    wanted: dict[str, set[int]] = {}
    for line in (folder / "qrels.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, document, _ = line.split("\t")
        wanted.setdefault(query, set()).add(place[document])
    texts, asked = [row["text"] for row in corpus], [row["text"] for row in questions]
    relevant = [wanted[row["_id"]] for row in questions]
    model = reference(minilm_folder)
    ours = retrieval_figures(minilm.embed_queries(asked), minilm.embed_documents(texts), relevant)
    their_queries = model.encode_query(asked, normalize_embeddings=True)
    theirs = retrieval_figures(their_queries, model.encode_document(texts, normalize_embeddings=True), relevant)
    assert ours[0] > 0.9
    assert np.abs(np.subtract(ours, theirs)).max() <= 0.002
