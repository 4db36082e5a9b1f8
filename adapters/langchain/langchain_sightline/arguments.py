"""The words of HuggingFaceEmbeddings, in Sightline's: what has a meaning here is translated, all else is refused by its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sightline.errors import UsageError

_NO_SECRETS = "Secrets stand in no object here, because objects are logged: set HF_TOKEN in the environment."
_AS_STORED = "It is used as the model's folder has it. Leave it out."
# Words of HuggingFaceEmbeddings -> values under which it does what happens here anyway.
_ALREADY_SO: Mapping[str, tuple[Any, ...]] = {
    "cache_folder": (None,),
    "multi_process": (False,),
    "show_progress": (False,),
    "backend": ("torch",),
    "local_files_only": (False,),
    "token": (None,),
    "normalize_embeddings": (True,),
    "show_progress_bar": (False, None),
    "output_value": ("sentence_embedding",),
    "precision": ("float32",),
    "convert_to_numpy": (True,),
    "convert_to_tensor": (False,),
}
_INSTEAD: Mapping[str, str] = {
    "cache_folder": "Models lie in the Hugging Face cache: set HF_HUB_CACHE in the environment, or give a folder as model.",
    "multi_process": "Several devices share the work: write devices='cuda' for all, or devices=['cuda:0', 'cuda:1'].",
    "show_progress": "LangChain's interface has no progress. sightline.index shows its own.",
    "show_progress_bar": "LangChain's interface has no progress. sightline.index shows its own.",
    "backend": "The engine runs on torch. Leave it out.",
    "local_files_only": "Set HF_HUB_OFFLINE=1 in the environment; what lies in the cache is used as it is either way.",
    "token": _NO_SECRETS,
    "use_auth_token": _NO_SECRETS,
    "prompts": "Name instructions with instructions={name: task}, or write query_instruction= and document_instruction=.",
    "default_prompt_name": "Write query_instruction= and document_instruction= with the names.",
    "similarity_fn_name": "A collection compares by cosine. Leave it out.",
    "tokenizer_kwargs": _AS_STORED,
    "processor_kwargs": _AS_STORED,
    "config_kwargs": _AS_STORED,
    "model_card_data": "It changes no vector. Leave it out.",
    "batch_size": "The engine packs texts up to a token budget, however many: write max_batch_tokens=..., or leave it out.",
    "chunk_size": "The engine packs texts up to a token budget, whatever their number. Leave it out.",
    "pool": "Several devices share the work without a pool of processes: write devices='cuda'. Leave it out.",
    "normalize_embeddings": "Vectors are of unit norm, so that cosine and dot product are the same. Leave it out.",
    "precision": "Vectors are float32; a collection is quantised by its store. Leave it out.",
    "output_value": "Vectors are of whole texts. Leave it out.",
    "convert_to_numpy": "LangChain wants lists of floats. Leave it out.",
    "convert_to_tensor": "LangChain wants lists of floats. Leave it out.",
}
_ENCODE_WORDS = {"device": "device", "truncate_dim": "dimensions"}
_MODEL_WORDS = {**_ENCODE_WORDS, "revision": "revision", "trust_remote_code": "trust_remote_code"}
_DTYPE_WORDS = ("dtype", "torch_dtype")
_PROMPT_WORDS = ("prompt", "prompt_name")


@dataclass
class Prompts:
    """What the arguments of `encode` put before texts: a prompt's name, or a literal prompt."""

    names: dict[str, str] = field(default_factory=dict)
    literals: dict[str, str] = field(default_factory=dict)

    def literal(self, role: str) -> dict[str, str] | None:
        """The literal prompt of a role in the words of `encode`; None where there is none."""
        return {"prompt": self.literals[role]} if role in self.literals else None


def translated(given: Mapping[str, Any], *, queries_told: bool = False) -> tuple[dict[str, Any], Prompts]:
    """Our own settings among `given`, those of HuggingFaceEmbeddings in our words, and the prompts that they name.

    Args:
        given: What its user wrote.
        queries_told: Whether something else says already what queries look with.

    Raises:
        UsageError: A name or value without a meaning here; says what to write instead.
    """
    settings: dict[str, Any] = {}
    prompts = Prompts()
    rest = dict(given)
    _put(settings, _of_model(rest.pop("model_kwargs", None) or {}), "model_kwargs")
    documents, queries = rest.pop("encode_kwargs", None) or {}, rest.pop("query_encode_kwargs", None) or {}
    if not queries_told:
        _check_ambiguous(documents, queries)
    for role, which, words in (("document", "encode_kwargs", documents), ("query", "query_encode_kwargs", queries)):
        _put(settings, _of_encode(words, which), which)
        _note_prompt(prompts, role, which, words)
    _put(settings, rest.pop("settings", None) or {}, "settings")
    for name, value in rest.items():
        if name in _INSTEAD:
            _check_already_so(name, value, name)
        elif value is not None:
            _put(settings, {name: value}, name)
    if "device" in settings:
        _put(settings, _placed(settings.pop("device")), "device")
    return settings, prompts


def _of_model(words: Mapping[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name, value in words.items():
        if name in _MODEL_WORDS:
            settings[_MODEL_WORDS[name]] = value
        elif name in _DTYPE_WORDS:
            settings["dtype"] = _dtype(value, "model_kwargs")
        elif name == "model_kwargs":
            settings |= _of_transformers(value or {})
        else:
            _check_already_so(name, value, "model_kwargs")
    return {name: value for name, value in settings.items() if value is not None}


def _of_transformers(words: Mapping[str, Any]) -> dict[str, Any]:
    """The number format is all that is taken from what goes to transformers."""
    settings: dict[str, Any] = {}
    for name, value in words.items():
        if name not in _DTYPE_WORDS:
            raise UsageError(
                f"model_kwargs has {name!r} for transformers, which SightlineEmbeddings doesn't take; only dtype has a meaning "
                "here. How the model is placed and attends is the engine's own: leave it out, or write device='cuda:0'."
            )
        settings["dtype"] = _dtype(value, "model_kwargs")
    return settings


def _of_encode(words: Mapping[str, Any], which: str) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name, value in words.items():
        if name in _ENCODE_WORDS:
            settings[_ENCODE_WORDS[name]] = value
        elif name not in _PROMPT_WORDS:
            _check_already_so(name, value, which)
    return {name: value for name, value in settings.items() if value is not None}


def _placed(device: Any) -> dict[str, Any]:
    """Where the model runs; as in sentence-transformers, a `torch.device` will do, and a list is several that share the work."""
    if isinstance(device, (list, tuple)):
        return {"devices": tuple(map(str, device))}
    return {"device": str(device)}


def _dtype(value: Any, which: str) -> str:
    name = str(value).removeprefix("torch.")
    if name == "auto":
        raise UsageError(f"{which} has dtype='auto'. Leave it out: the engine chooses what suits the device.")
    return name


def _note_prompt(prompts: Prompts, role: str, which: str, words: Mapping[str, Any]) -> None:
    name, literal = words.get("prompt_name"), words.get("prompt")
    if name is not None and literal is not None:
        raise UsageError(f"{which} has both prompt and prompt_name. Give one of them.")
    if name is not None:
        prompts.names[role] = name
    if literal is not None:
        prompts.literals[role] = literal


def _check_ambiguous(documents: Mapping[str, Any], queries: Mapping[str, Any]) -> None:
    """HuggingFaceEmbeddings takes the documents' arguments for queries too where these have none of their own."""
    given = next((word for word in _PROMPT_WORDS if documents.get(word) is not None), None)
    if given is not None and not queries:
        raise UsageError(
            f"encode_kwargs has {given}={documents[given]!r} and query_encode_kwargs nothing: langchain-huggingface puts it "
            "before documents and before queries. Say which is meant: query_instruction=... or document_instruction=... (or "
            "query_encode_kwargs={'prompt': ''} for queries without one)."
        )


def _put(settings: dict[str, Any], more: Mapping[str, Any], which: str) -> None:
    for name, value in more.items():
        if settings.setdefault(name, value) != value:
            raise UsageError(f"{name} is given twice: {settings[name]!r} and, as {which}, {value!r}. Give it once.")


def _check_already_so(name: str, value: Any, which: str) -> None:
    if name in _ALREADY_SO and any(value is one or value == one for one in _ALREADY_SO[name]):
        return
    place = "" if which == name else f" in {which}"
    if name not in _INSTEAD:
        raise UsageError(f"{name!r}{place} is unknown to SightlineEmbeddings. help(SightlineEmbeddings) says what it knows.")
    said = repr(name) if "token" in name else f"{name}={value!r}"
    raise UsageError(f"SightlineEmbeddings doesn't take {said}{place}. {_INSTEAD[name]}")
