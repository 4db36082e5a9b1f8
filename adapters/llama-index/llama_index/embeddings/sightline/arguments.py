"""The words of HuggingFaceEmbedding, in Sightline's: what has a meaning here is translated, all else is refused by its name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sightline.errors import UsageError

# How the model runs; the meanings are those of `sightline.EmbeddingEngine`.
RUN_SETTINGS = (
    "revision",
    "device",
    "devices",
    "dtype",
    "encoder",
    "max_length",
    "on_too_long",
    "max_batch_tokens",
    "pooling",
    "clean",
    "split_special_tokens",
    "deterministic",
    "pack",
    "threads",
    "trust_remote_code",
)
_RENAMED = {"truncate_dim": "dimensions", "target_devices": "devices"}
# What HuggingFaceEmbedding does with these values is what happens here anyway.
_ALREADY_SO: Mapping[str, tuple[Any, ...]] = {
    "normalize": (True,),
    "cache_folder": (None,),
    "parallel_process": (False,),
    "show_progress_bar": (False,),
    "backend": ("torch",),
    "local_files_only": (False,),
    "token": (None,),
    "tokenizer_name": ("deprecated",),
    "tokenizer": ("deprecated",),
    "model": ("deprecated",),
    "model_kwargs": (None,),
}
_NO_SECRETS = "Secrets stand in no object here, because objects are logged and stored: set HF_TOKEN in the environment."
_INSTEAD: Mapping[str, str] = {
    "normalize": "Vectors are of unit norm, so that cosine and dot product are the same. Leave it out.",
    "cache_folder": "Models lie in the Hugging Face cache: set HF_HUB_CACHE in the environment, or give a folder as model_name.",
    "parallel_process": "Several devices share the work: write devices='cuda' for all, or devices=['cuda:0', 'cuda:1'].",
    "show_progress_bar": "Ask the framework for its own: show_progress=True in VectorStoreIndex, IngestionPipeline.run, ...",
    "backend": "The engine runs on torch. Leave it out.",
    "local_files_only": "Set HF_HUB_OFFLINE=1 in the environment; what lies in the cache is used as it is either way.",
    "token": _NO_SECRETS,
    "use_auth_token": _NO_SECRETS,
    "tokenizer_name": "The model's own tokenizer is used. Leave it out.",
    "tokenizer": "The model's own tokenizer is used. Leave it out.",
    "model": "Name it with model_name=, or give an embedder of Sightline with embedder=.",
    "modules": "Give the model's folder or name as model_name=.",
    "prompts": "Write query_instruction= and text_instruction= with the literal prompts.",
    "default_prompt_name": "Write task= with the name, for queries.",
    "similarity_fn_name": "A collection compares by cosine. Leave it out.",
    "tokenizer_kwargs": "The tokenizer is used as it is stored, and texts are packed without padding. Leave it out.",
    "processor_kwargs": "The tokenizer is used as it is stored, and texts are packed without padding. Leave it out.",
    "config_kwargs": "The configuration is used as it is stored. Leave it out.",
    "model_card_data": "It changes no vector. Leave it out.",
}
_DTYPE_WORDS = ("dtype", "torch_dtype")
_BGE = re.compile(r"BAAI/bge-(?:small|base|large)-(en|zh)(?:-v1\.5)?")
_BGE_QUERY_PROMPTS = {
    "en": "Represent this question for searching relevant passages: ",
    "zh": "为这个句子生成表示以用于检索相关文章：",
}


def run_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Our own settings among `given`, and those of HuggingFaceEmbedding in our words; `dimensions` may be among them.

    Raises:
        UsageError: A name or value without a meaning here; says what to write instead.
    """
    settings: dict[str, Any] = {}
    for name, value in given.items():
        for ours, translated in _translated(name, value).items():
            if translated is None:
                continue
            if settings.setdefault(ours, translated) != translated:
                raise UsageError(f"{ours} is given twice: {settings[ours]!r} and {translated!r} (as {name}). Give it once.")
    return settings


def customary_query_prompt(model_name: str, instructions: Mapping[str, str]) -> str | None:
    """What HuggingFaceEmbedding puts before queries of a BGE model, whose folder stores no prompt; None for all others."""
    found = _BGE.fullmatch(model_name)
    return _BGE_QUERY_PROMPTS[found[1]] if found and "query" not in instructions else None


def _translated(name: str, value: Any) -> dict[str, Any]:
    if name == "pooling" and value == "deprecated":  # what HuggingFaceEmbedding calls the model's own
        return {}
    if name == "dimensions" or name in RUN_SETTINGS:
        return {name: value}
    if name in _RENAMED:
        return {_RENAMED[name]: value}
    if name in _ALREADY_SO and any(value is one or value == one for one in _ALREADY_SO[name]):
        return {}
    if name == "model_kwargs" and isinstance(value, Mapping):
        return _translated_model_kwargs(value)
    raise _refused(name, value)


def _translated_model_kwargs(given: Mapping[str, Any]) -> dict[str, Any]:
    """The number format is all that is taken from `model_kwargs`; torch's own names of it are fine."""
    settings: dict[str, Any] = {}
    for name, value in given.items():
        if name not in _DTYPE_WORDS:
            raise UsageError(
                f"model_kwargs holds {name!r}, which SightlineEmbedding doesn't take; only dtype has a meaning here. "
                "How the model is placed and attends is the engine's own: leave it out, or write device='cuda:0'."
            )
        dtype = str(value).removeprefix("torch.")
        if dtype == "auto":
            raise UsageError("model_kwargs has dtype='auto'. Leave it out: the engine chooses what suits the device.")
        settings["dtype"] = dtype
    return settings


def _refused(name: str, value: Any) -> UsageError:
    if name in _INSTEAD:
        said = name if name in ("token", "use_auth_token") else f"{name}={value!r}"
        return UsageError(f"SightlineEmbedding doesn't take {said}. {_INSTEAD[name]}")
    known = ", ".join(("model_name", "query_instruction", "text_instruction", "task", "dimensions", "embedder", *RUN_SETTINGS))
    return UsageError(f"SightlineEmbedding has no argument {name!r}. It takes {known}, and LlamaIndex's own.")
