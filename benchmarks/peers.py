"""Which sides the engine is measured beside, where each one's environment lies, and how its best settings are found."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from benchmarks import driver
from benchmarks.measuring import ROOT, Figures, SideFailed, run_apart

BATCHES = (1, 2, 4, 8, 16, 32, 64)
REFERENCE = "sentence-transformers float32"
_BOTH: tuple[dict[str, Any], ...] = ({"dtype": "bfloat16"}, {"dtype": "float32"})


@dataclass(frozen=True)
class Side:
    """One line of the tables.

    Args:
        name: What the tables call it.
        module: Its file in `benchmarks/sides`.
        variants: Settings that the sweep chooses from; a single one is taken as it is.
        sizes: Batch sizes that the sweep chooses from, for each mix; none leaves the side its own.
        environment: The folder of its virtual environment; empty is ours.
        exports: It has to convert the model once.
        devices: Kinds of device that it runs on here.
        follows: A side whose batch sizes it takes in a quick run, because its own sweep would take minutes.
    """

    name: str
    module: str
    variants: tuple[Mapping[str, Any], ...]
    sizes: tuple[int, ...] = ()
    environment: str = ""
    exports: bool = False
    devices: tuple[str, ...] = ("cpu", "cuda")
    follows: str = ""

    @property
    def python(self) -> Path:
        """The interpreter that it runs on."""
        return ROOT / self.environment / "bin" / "python" if self.environment else Path(sys.executable)

    @property
    def is_ours(self) -> bool:
        """Whether it is Sightline."""
        return self.module == "ours"


SIDES = (
    Side("Sightline bfloat16", "ours", ({"dtype": "bfloat16"},)),
    Side("Sightline bfloat16, deterministic", "ours", ({"dtype": "bfloat16", "deterministic": True},)),
    Side("Sightline float32", "ours", ({"dtype": "float32"},)),
    Side("Sightline int8", "ours", ({"dtype": "int8"},), devices=("cpu",)),
    Side("sentence-transformers, defaults", "sentence_transformers", ({},)),
    Side("sentence-transformers bfloat16", "sentence_transformers", _BOTH[:1], BATCHES),
    Side(REFERENCE, "sentence_transformers", _BOTH[1:], BATCHES),
    Side(
        "sentence-transformers, compiled", "sentence_transformers", tuple({**one, "compile": True} for one in _BOTH),
        (2, 8, 32), follows="sentence-transformers bfloat16",
    ),
    Side("transformers", "transformers", _BOTH, BATCHES),
    Side(
        "OpenVINO bfloat16", "openvino", tuple({"precision": "bf16", "hint": hint} for hint in ("LATENCY", "THROUGHPUT")),
        BATCHES, ".venv-openvino", exports=True, devices=("cpu",),
    ),
    Side("ONNX Runtime int8", "onnxruntime", ({"weights": "int8"},), BATCHES, ".venv-openvino", exports=True, devices=("cpu",)),
    Side("Infinity", "infinity", _BOTH, BATCHES, ".venv-infinity"),
)  # fmt: skip


@dataclass
class Chosen:
    """How a side is run after its sweep."""

    side: Side
    options: Mapping[str, Any]
    batches: dict[str, int] = field(default_factory=dict)
    sweep: list[Figures] = field(default_factory=list)
    exported: Figures | None = None

    def run(self, settings: Mapping[str, Any], out: Path) -> Figures:
        """Measure it once, in a process of its own."""
        given = {**settings, **self.options, "batches": self.batches, "out": str(out), "module": _module(self.side)}
        return run_apart(driver.measured, given, python=self.side.python)

    def facts(self) -> Figures:
        """What the result file keeps of the choice."""
        return {"options": dict(self.options), "batches": self.batches, "sweep": self.sweep, "export": self.exported}


def why_not(side: Side, device: str, fast_bfloat16: bool) -> str | None:
    """Why a side can't be measured here, or None."""
    if device not in side.devices:
        return f"isn't run on {device} here"
    if not side.python.is_file():
        return f"{side.environment} isn't there; `make {side.environment}/.ready` makes it"
    formats = {str(one.get("dtype", one.get("precision", "")))[:2] for one in side.variants}
    if not fast_bfloat16 and (formats == {"bf"} or (side.is_ours and formats == {"in"})):
        return "this CPU has no units for bfloat16"
    return None


def choose(
    side: Side, settings: Mapping[str, Any], sizes: Sequence[int], fast_bfloat16: bool, earlier: Figures | None = None
) -> Chosen:
    """The best variant of a side, and for each mix its best batch size; the sweep goes over a sample of the texts.

    With `earlier`, what an earlier result's sweep chose is taken.

    Raises:
        SideFailed: Not one of its variants runs.
    """
    settings = {**settings, "module": _module(side)}
    exported = run_apart(driver.exported, dict(settings), python=side.python) if side.exports else None
    variants = [one for one in side.variants if fast_bfloat16 or one.get("dtype") != "bfloat16"]
    if earlier is not None:
        return Chosen(side, earlier["options"], earlier["batches"], earlier["sweep"], exported)
    tried = tuple(size for size in side.sizes if size in sizes)
    if not tried:
        return Chosen(side, variants[0], exported=exported)
    sweep: list[Figures] = []
    failed: SideFailed | None = None
    for options in variants:
        try:
            found = run_apart(driver.swept, {**settings, **options, "sizes": tried}, python=side.python)
        except SideFailed as error:
            failed = error
            sweep.append({"options": dict(options), "failed": str(error)[-2000:]})
        else:
            sweep.append({"options": dict(options), **found})
    rates = [one["rates"] for one in sweep if "rates" in one]
    if not rates:
        raise failed or SideFailed(f"{side.name}: nothing to choose from")
    best = max((one for one in sweep if "rates" in one), key=lambda one: _score(one["rates"]))
    return Chosen(side, best["options"], {mix: best_size(by_size) for mix, by_size in best["rates"].items()}, sweep, exported)


def best_size(rates: Mapping[str, float]) -> int:
    """The batch size with the highest rate; its keys come from a JSON file."""
    return int(max(rates, key=lambda size: rates[size]))


def _score(rates: Mapping[str, Mapping[str, float]]) -> float:
    """One figure for a variant: its best rates, each mix counting equally."""
    return geometric_mean([max(by_size.values()) for by_size in rates.values()])


def _module(side: Side) -> str:
    return f"benchmarks.sides.{side.module}"
