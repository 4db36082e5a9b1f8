"""Small models of each family in sentence-transformers form, with weights spread wider than the usual 0.02.

At 0.02 a random model mixes so little that even one whose texts see each other looks right; here a wrong mask, window or
position shows at once.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SPREAD = 0.25

_TRAINING = [
    "The quick brown fox jumps over the lazy dog. Sphinx of black quartz, judge my vow!",
    "def main():\n\treturn [x for x in range(10) if x % 2 == 0]  # numbers\n",
    "Größe, naïve café, élève — 東京の天気は晴れです。 Привет мир. مرحبا بالعالم 🙂🚀",
    "embedding vectors of documents and queries, unit norm, packed batches, attention windows, pooling",
]


def byte_level_bpe(prefix: str = "", suffix: str = "", pad: str = "<pad>") -> Tokenizer:
    """A small byte-level BPE that puts `prefix` and `suffix` around every text."""
    special = [token for token in dict.fromkeys([pad, prefix, suffix, "<unk>"]) if token]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(_TRAINING, trainer)
    _around(tokenizer, prefix, suffix)
    return tokenizer


def word_piece() -> Tokenizer:
    """A small uncased WordPiece with [CLS] and [SEP]."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=600, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.train_from_iterator(_TRAINING, trainer)
    _around(tokenizer, "[CLS]", "[SEP]")
    return tokenizer


def _around(tokenizer: Tokenizer, prefix: str, suffix: str) -> None:
    template = " ".join(part for part in (prefix, "$A", suffix) if part)
    tokens = [(token, tokenizer.token_to_id(token)) for token in dict.fromkeys([prefix, suffix]) if token]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=tokens)


def _small(**more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96}
    return {**sizes, "max_position_embeddings": 600, "initializer_range": SPREAD, **more}


def _family(name: str) -> tuple[Any, Tokenizer, dict[str, Any]]:
    """`(config, tokenizer, pooling and prompts)` of a family."""
    t = transformers
    match name:
        case "qwen3":
            tokenizer = byte_level_bpe(suffix="<|endoftext|>", pad="<|endoftext|>")
            config = t.Qwen3Config(**_small(num_key_value_heads=2, head_dim=16), vocab_size=600, pad_token_id=0)
            prompts = {"query": "Instruct: Find the passage\nQuery: ", "document": ""}
            return config, tokenizer, {"pooling": "lasttoken", "prompts": prompts}
        case "bert" | "bert-cls":
            pooling = "cls" if name == "bert-cls" else "mean"
            return t.BertConfig(**_small(), vocab_size=600), word_piece(), {"pooling": pooling}
        case "xlm-roberta" | "roberta":
            kind = t.XLMRobertaConfig if name == "xlm-roberta" else t.RobertaConfig
            tokenizer = byte_level_bpe("<s>", "</s>")
            prompts = {"query": "query: ", "document": "passage: "}
            ids = {"pad_token_id": tokenizer.token_to_id("<pad>")}
            return kind(**_small(), vocab_size=600, **ids), tokenizer, {"pooling": "mean", "prompts": prompts}
        case "mpnet":
            config = t.MPNetConfig(**_small(), vocab_size=600, pad_token_id=0)
            return config, byte_level_bpe("<s>", "</s>"), {"pooling": "mean"}
        case "distilbert":
            sizes = {"dim": 64, "n_layers": 3, "n_heads": 4, "hidden_dim": 96}
            config = t.DistilBertConfig(**sizes, vocab_size=600, max_position_embeddings=600, initializer_range=SPREAD)
            return config, word_piece(), {"pooling": "mean"}
        case "modernbert":
            config = t.ModernBertConfig(
                **_small(), vocab_size=600, local_attention=32, global_attn_every_n_layers=3,
                initializer_cutoff_factor=10.0, pad_token_id=0, cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3,
            )  # fmt: skip
            return config, word_piece(), {"pooling": "cls"}
        case "gemma3":
            config = t.Gemma3TextConfig(
                **_small(num_key_value_heads=2, head_dim=16, sliding_window=24, use_bidirectional_attention=True),
                vocab_size=600, query_pre_attn_scalar=16, pad_token_id=0,
                layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            )  # fmt: skip
            prompts = {"query": "task: search result | query: ", "document": "title: none | text: "}
            return config, byte_level_bpe("<bos>", "<eos>"), {"pooling": "mean", "prompts": prompts, "dense": [128, 48]}
        case "t5":
            config = t.T5Config(
                d_model=64, d_kv=16, d_ff=96, num_layers=2, num_heads=4, vocab_size=600, n_positions=600, pad_token_id=0
            )
            return config, byte_level_bpe("", "</s>"), {"pooling": "mean"}
    raise AssertionError(name)


def build(
    family: str,
    folder: Path,
    *,
    pooling: Any = None,
    include_prompt: bool = True,
    prompts: dict[str, str] | None = None,
    normalize: bool = True,
    dense: list[int] | None = None,
    max_seq_length: int | None = 512,
    tokenizer: Tokenizer | None = None,
    layer_norm: bool = False,
) -> Path:
    """Write a model of `family` with fixed random weights to `folder`."""
    torch.manual_seed(7)
    config, own_tokenizer, defaults = _family(family)
    kind = transformers.T5EncoderModel if family == "t5" else transformers.AutoModel
    model = kind.from_config(config) if family != "t5" else kind(config)
    _spread(model)
    model.save_pretrained(folder)
    _write_tokenizer(folder, tokenizer or own_tokenizer)
    modes = pooling or defaults["pooling"]
    _write_modules(
        folder, modes, include_prompt, prompts if prompts is not None else defaults.get("prompts", {}),
        normalize, dense if dense is not None else defaults.get("dense", []), max_seq_length, layer_norm,
    )  # fmt: skip
    return folder


def _spread(model: torch.nn.Module) -> None:
    """Norm weights off 1 and biases off 0 as well, so that a module that is skipped can't go unseen."""
    generator = torch.Generator().manual_seed(11)
    for name, weight in model.named_parameters():
        if weight.ndim == 1:
            weight.data = weight.data + 0.1 * torch.randn(weight.shape, generator=generator)
        elif "embed" in name.lower() or "shared" in name:
            weight.data = SPREAD * torch.randn(weight.shape, generator=generator)


def _write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    known = {
        "pad_token": ("<pad>", "[PAD]", "<|endoftext|>"),
        "cls_token": ("[CLS]",),
        "sep_token": ("[SEP]",),
        "bos_token": ("<s>", "<bos>"),
        "eos_token": ("</s>", "<eos>"),
        "unk_token": ("[UNK]", "<unk>"),
        "mask_token": ("[MASK]",),
    }
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512}
    for role, tokens in known.items():
        for token in tokens:
            if tokenizer.token_to_id(token) is not None:
                config[role] = token
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _write_modules(
    folder: Path,
    modes: Any,
    include_prompt: bool,
    prompts: dict[str, str],
    normalize: bool,
    dense: list[int],
    limit: int | None,
    layer_norm: bool,
) -> None:
    from sentence_transformers.sentence_transformer import modules as parts

    width = 64 * (len(modes) if isinstance(modes, (list, tuple)) else 1)
    chain: list[tuple[str, Any]] = [("Transformer", None), ("Pooling", parts.Pooling(64, modes, include_prompt))]
    torch.manual_seed(13)
    for size in dense:
        activation = torch.nn.Tanh() if size == dense[0] else torch.nn.Identity()
        chain.append(("Dense", parts.Dense(width, size, activation_function=activation)))
        width = size
    if layer_norm:
        chain.append(("LayerNorm", parts.LayerNorm(width)))
    if normalize:
        chain.append(("Normalize", parts.Normalize()))
    entries = []
    for number, (kind, module) in enumerate(chain):
        path = "" if number == 0 else f"{number}_{kind}"
        entries.append({"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"})
        if module is not None:
            (folder / path).mkdir(exist_ok=True)
            module.save(str(folder / path))
    (folder / "modules.json").write_text(json.dumps(entries))
    if limit is not None:
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": limit, "do_lower_case": False}))
    settings = {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))


def build_true_qwen3(origin: Path, folder: Path, *, layers: int = 3, hidden: int = 128) -> Path:
    """The true tokenizer, prompts, pooling and vocabulary of Qwen3-Embedding-0.6B around a small random Qwen3."""
    for name in ("tokenizer.json", "tokenizer_config.json", "config_sentence_transformers.json", "modules.json", "1_Pooling"):
        source = origin / name
        shutil.copytree(source, folder / name) if source.is_dir() else shutil.copy(source, folder / name)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    config = json.loads((origin / "config.json").read_text())
    config |= {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2}
    config |= {"head_dim": 32, "intermediate_size": 192, "max_window_layers": layers, "initializer_range": SPREAD}
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps(json.loads(pooling.read_text()) | {"word_embedding_dimension": hidden}))
    torch.manual_seed(7)
    model = transformers.Qwen3Model(transformers.Qwen3Config(**config))
    _spread(model)
    model.save_pretrained(folder)
    return folder
