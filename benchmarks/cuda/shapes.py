"""Models of the true shapes with random weights, and the lengths of the texts that they are given."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.cuda.lab import Lab

ROOT = Path(__file__).resolve().parents[2]
_SHARD_BYTES = 2 << 30
_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"


@dataclass(frozen=True)
class Shape:
    """The sizes of a model. `longest` in tokens."""

    name: str
    kind: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    inner: int
    vocabulary: int
    longest: int

    @property
    def causal(self) -> bool:
        """Whether a token sees only those before it; these models pool the last token, the others the mean."""
        return self.kind == "qwen3"

    @property
    def attention_weights(self) -> tuple[int, int]:
        """Linear weights of a layer: before its attention, and after it."""
        before = self.hidden * self.head_width * (self.heads + 2 * self.kv_heads)
        after = self.hidden * self.head_width * self.heads + (3 if self.causal else 2) * self.hidden * self.inner
        return before, after

    @property
    def bytes(self) -> int:
        """Size of the folder in bfloat16."""
        return 2 * (self.vocabulary * self.hidden + self.layers * sum(self.attention_weights))

    def flops(self, lengths: Sequence[int]) -> float:
        """What must be computed for texts of these lengths: the products and the attention, and where the last token is pooled
        what follows the last attention for that one alone."""
        before, after = self.attention_weights
        tokens, texts = float(sum(lengths)), len(lengths)
        whole = self.layers - 1 if self.causal else self.layers
        linear = 2 * (tokens * (before * self.layers + after * whole) + (texts * after if self.causal else 0))
        pairs = sum(float(length) ** 2 for length in lengths) / (2 if self.causal else 1)
        return linear + 4 * pairs * self.heads * self.head_width * self.layers


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("0.6b", "qwen3", 1024, 28, 16, 8, 128, 3072, 151669, 32768),
        Shape("4b", "qwen3", 2560, 36, 32, 8, 128, 9728, 151665, 32768),
        Shape("8b", "qwen3", 4096, 36, 32, 8, 128, 12288, 151665, 32768),
        Shape("xlm-r", "xlm-roberta", 768, 12, 12, 12, 64, 3072, 250002, 512),
        Shape("minilm", "bert", 384, 6, 12, 12, 32, 1536, 30522, 512),
    )
}


def shape_of(lab: Lab, name: str, *, layers: int | None = None) -> Shape:
    """The shape called `name`: the true one (with fewer layers where asked), or a tiny one of its kind."""
    shape = SHAPES[name]
    if lab.smoke:
        kv_heads = 2 if shape.causal else 4
        sizes = {"hidden": 64, "layers": 3, "heads": 4, "kv_heads": kv_heads, "head_width": 16, "inner": 96}
        return dataclasses.replace(shape, **sizes, vocabulary=min(shape.vocabulary, 151669), longest=min(shape.longest, 2048))
    return dataclasses.replace(shape, layers=layers or shape.layers)


def model_folder(lab: Lab, shape: Shape) -> Path:
    """A folder in sentence-transformers form with random weights; made once."""
    folder = lab.work / f"{shape.name}-{shape.layers}"
    if (folder / "modules.json").is_file():
        return folder
    free = shutil.disk_usage(lab.work).free
    if free < 1.2 * shape.bytes:
        raise OSError(f"{shape.name} takes {shape.bytes / 1e9:.0f} GB, and {free / 1e9:.0f} GB are free in {lab.work}")
    folder.mkdir(parents=True)
    _write_tokenizer(folder, shape)
    _write_weights(folder, shape, lab.device)
    _write_modules(folder, shape)
    return folder


def config_of(shape: Shape) -> Any:
    """transformers' configuration of a shape."""
    import transformers

    sizes: dict[str, Any] = {
        "hidden_size": shape.hidden, "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
        "intermediate_size": shape.inner, "vocab_size": shape.vocabulary,
    }  # fmt: skip
    if shape.kind == "qwen3":
        return transformers.Qwen3Config(
            **sizes, num_key_value_heads=shape.kv_heads, head_dim=shape.head_width, max_position_embeddings=shape.longest,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6}, rms_norm_eps=1e-6, tie_word_embeddings=True,
        )  # fmt: skip
    if shape.kind == "xlm-roberta":
        return transformers.XLMRobertaConfig(
            **sizes, max_position_embeddings=shape.longest + 2, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1
        )
    return transformers.BertConfig(**sizes, max_position_embeddings=shape.longest, pad_token_id=0)


def mixes(longest: int) -> dict[str, Callable[[np.random.Generator, int], list[int]]]:
    """Name -> lengths of texts, drawn until they have so many tokens."""
    each: dict[str, Callable[[np.random.Generator], float]] = {
        "chunks": lambda random: random.lognormal(np.log(150) - 0.32, 0.8),  # mean 150, one in a hundred beyond 700
        "queries": lambda random: random.integers(8, 33),
        "512": lambda _: 512,
        "2k": lambda _: 2048,
        "8k": lambda _: 8192,
        "32k": lambda _: 32768,
        "short chunks": lambda random: random.lognormal(np.log(114) - 0.32, 0.8),
    }

    def drawn(draw: Callable[[np.random.Generator], float], random: np.random.Generator, tokens: int) -> list[int]:
        lengths: list[int] = []
        total = 0
        while total < tokens:
            lengths.append(int(np.clip(draw(random), 4, longest)))
            total += lengths[-1]
        return lengths

    fixed = {"512": 512, "2k": 2048, "8k": 8192, "32k": 32768}
    return {
        name: (lambda random, tokens, draw=draw: drawn(draw, random, tokens))
        for name, draw in each.items()
        if fixed.get(name, 0) <= longest
    }


def prose(random: np.random.Generator, characters: int) -> str:
    """A piece of the pages of this repository, of about so many characters."""
    text = _pages()
    start = int(random.integers(0, max(1, len(text) - characters)))
    return text[start : start + characters]


def _pages() -> str:
    if not _PAGES:
        _PAGES.append(" ".join(path.read_text() for path in sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md"])))
    return _PAGES[0]


_PAGES: list[str] = []


def _write_weights(folder: Path, shape: Shape, device: torch.device) -> None:
    """Random weights as large as keeps the states' size, so that a wrong mask or position shows; norms off 1, biases off 0."""
    import transformers
    from safetensors.torch import save_file

    config = config_of(shape)
    with torch.device("meta"):
        meta = transformers.AutoModel.from_config(config)
    config.save_pretrained(folder)
    generator = torch.Generator(device).manual_seed(7)
    shard: dict[str, torch.Tensor] = {}
    files: dict[str, str] = {}

    def save() -> None:
        name = f"model-{len(set(files.values())) + 1:05}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        files.update(dict.fromkeys(shard, name))
        shard.clear()

    for name, tensor in meta.state_dict().items():
        if not tensor.is_floating_point():
            continue
        values = torch.randn(tensor.shape, generator=generator, device=device, dtype=torch.bfloat16)
        if tensor.ndim == 1:
            values = 0.1 * values + (0.0 if name.endswith("bias") else 1.0)
        else:
            values *= 0.5 if "embed" in name else tensor.shape[-1] ** -0.5
        shard[name] = values.to("cpu", torch.bfloat16).contiguous()
        if sum(one.nbytes for one in shard.values()) > _SHARD_BYTES:
            save()
    if shard:
        save()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


def true_tokenizer() -> Path | None:
    """The folder of Qwen3-Embedding's tokenizer in the shared test data, where it is there."""
    roots = [os.environ.get("SIGHTLINE_TEST_DATA"), ROOT / "shared" / "data", ROOT.parent / "shared" / "data"]
    folders = [Path(root) / "qwen3-embedding-0.6b" for root in roots if root]
    return next((folder for folder in folders if (folder / "tokenizer.json").is_file()), None)


def _write_tokenizer(folder: Path, shape: Shape) -> None:
    origin = true_tokenizer() if shape.kind == "qwen3" else None
    if origin is not None:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(origin / name, folder / name)
        return
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    first, last, pad = ("", "<|endoftext|>", "<|endoftext|>") if shape.causal else ("<s>", "</s>", "<pad>")
    special = [token for token in dict.fromkeys([pad, first, last]) if token]
    if shape.kind == "xlm-roberta":  # whose padding id is 1
        special = [first, pad, last]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4000, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([_pages()], trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in special]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{first} $A {last}".strip(), special_tokens=ids)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": shape.longest}
    settings |= {"pad_token": pad, "eos_token": last}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _write_modules(folder: Path, shape: Shape) -> None:
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    pooling = {
        "word_embedding_dimension": shape.hidden, "pooling_mode_lasttoken": shape.causal,
        "pooling_mode_mean_tokens": not shape.causal, "pooling_mode_cls_token": False, "include_prompt": True,
    }  # fmt: skip
    for name in kinds:
        (folder / name).mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    # Without the true tokenizer this mustn't look like the true model, whose closing token is checked.
    space = "" if true_tokenizer() else " "
    prompts = {"query": f"Instruct: {_INSTRUCTION}\nQuery:{space}", "document": ""} if shape.causal else {}
    settings = {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": shape.longest, "do_lower_case": False}))
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))  # last: a folder that has it is whole
