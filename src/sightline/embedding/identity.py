"""The cheap identity of a model: a hash that tells two models apart without loading weights.

It covers the tokenizer, the configuration, the modules behind the transformer, and of every tensor its name, shape, dtype and
a fixed sample of its bytes: headers alone would take a fine-tune of the same shape for the same model. It doesn't depend on the
path, on how weights are split into files, or on labels. Equal means equal; a few hundred kilobytes are read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sightline.embedding.models import DenseSpec, LayerNormSpec, ModelSpec, normalizer_settings
from sightline.errors import ModelError

_SAMPLES, _SAMPLE_BYTES = 4, 256
_MOST_HEADER_BYTES = 100_000_000  # as the format's own reader has it
_LABELS = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures", "use_cache", "_attn_implementation"}
# What a tokenizer without tokenizer.json is made from, its settings and added tokens among it.
_TOKENIZER_SOURCES = (
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


def fingerprint(spec: ModelSpec, settings: Mapping[str, Any]) -> str:
    """sha256 over what makes `spec` embed as it does; `settings` are the caller's that change vectors.

    Raises:
        ModelError: A file of weights is none, or not whole.
    """
    digest = hashlib.sha256()
    is_whole = (spec.folder / "tokenizer.json").is_file()
    for name in ("tokenizer.json",) if is_whole else _TOKENIZER_SOURCES:
        if (spec.folder / name).is_file():
            digest.update(f"{name}\0{hashlib.sha256((spec.folder / name).read_bytes()).hexdigest()}\n".encode())
    if is_whole:
        digest.update(json.dumps(normalizer_settings(spec.folder), sort_keys=True).encode())
    config = {key: value for key, value in spec.config.items() if key not in _LABELS}
    head = [{**dataclasses.asdict(part), "kind": type(part).__name__, "weights": None} for part in spec.head]
    pooling = dataclasses.asdict(spec.pooling)
    digest.update(json.dumps([config, pooling, head, spec.lowercase, dict(settings)], sort_keys=True, default=str).encode())
    files = [*spec.weights, *(part.weights for part in spec.head if isinstance(part, (DenseSpec, LayerNormSpec)))]
    for line in sorted(line for path in files for line in _samples(path)):
        digest.update(line.encode())
    return digest.hexdigest()


def _samples(path: Path) -> list[str]:
    try:
        return list(_tensor_samples(path))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, OSError) as error:
        why = f"{type(error).__name__}: {error}"
        raise ModelError(f"{path} isn't a whole safetensors file ({why}). Fetch the model again.") from error


def _tensor_samples(path: Path) -> Iterator[str]:
    """One line a tensor. The layout is that of the safetensors format: header length, JSON header, data."""
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if header_bytes > _MOST_HEADER_BYTES:
            raise ValueError("its header is too large")
        header = json.loads(file.read(header_bytes))
        for name, tensor in header.items():
            if name == "__metadata__":
                continue
            start, end = tensor["data_offsets"]
            sample = hashlib.sha256()
            for part in range(_SAMPLES):
                place = start + (end - start) * part // _SAMPLES
                file.seek(8 + header_bytes + place)
                sample.update(file.read(min(_SAMPLE_BYTES, end - place)))
            yield f"{name}\0{tensor['shape']}\0{tensor['dtype']}\0{sample.hexdigest()}\n"
