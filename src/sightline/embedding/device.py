"""Which device and which number format: chosen by what the machine can do, or by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from sightline.embedding import numa
from sightline.errors import MissingExtra, UsageError

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16", "int8")
_NAME = re.compile(r"mps|(cuda|cpu)(:\d+)?")


@dataclass(frozen=True, slots=True)
class Place:
    """Where one copy of a model runs, and the cores that its threads keep to (None: wherever the system puts them)."""

    device: torch.device
    cores: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        """As it stands in `devices=`: "cuda:1", "cpu:0" for a NUMA node."""
        return str(self.device)


@dataclass(frozen=True, slots=True)
class DeviceSurvey:
    """What this machine offers and what Sightline would choose; `devices` are the names that `devices=` may hold."""

    device: str
    dtype: str
    cpu_features: tuple[str, ...]
    cuda: tuple[str, ...]
    mps: bool
    threads: int
    devices: tuple[str, ...]


def survey() -> DeviceSurvey:
    """Look at this machine; raises MissingExtra without torch."""
    torch = import_torch()
    device = choose_device(None)
    return DeviceSurvey(
        device=str(device),
        dtype=choose_dtype(None, device),
        cpu_features=cpu_features(),
        cuda=tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())),
        mps=torch.backends.mps.is_available(),
        threads=torch.get_num_threads(),
        devices=tuple(name for kind in ("cuda", "mps", "cpu") for name in _present(kind)),
    )


def import_torch() -> Any:
    """torch, or MissingExtra with the command that installs it."""
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("The embedding engine", package="torch", extra="local") from error
    return torch


def choose_device(name: str | None) -> torch.device:
    """The device called `name`; None takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        UsageError: No such kind of device, or none of it here.
    """
    torch = import_torch()
    available = [kind for kind, here in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())) if here]
    if name is None:
        return torch.device((*available, "cpu")[0])  # type: ignore[no-any-return]
    kind = name.split(":")[0]
    count = torch.cuda.device_count() if kind == "cuda" else 1
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or kind not in (*available, "cpu") or (device.index or 0) >= count:
        raise UsageError(f"device={name!r} isn't here. Available: {', '.join((*available, 'cpu'))}.")
    return device  # type: ignore[no-any-return]


def check_devices(devices: Sequence[str] | str | None, device: str | None) -> tuple[str, ...] | None:
    """Return the names in `devices` if they can be meant together; needs no torch, so whether they are here isn't known yet.

    Raises:
        UsageError: None, a name that isn't one, one twice, several kinds, or `device` beside them.
    """
    if devices is None:
        return None
    if not isinstance(devices, Sequence):
        raise UsageError(f"devices={devices!r} is no list of names. Write e.g. devices=['cuda:0', 'cuda:1'], or 'cuda' for all.")
    names = (devices,) if isinstance(devices, str) else tuple(devices)
    given = f"devices={list(names)}"
    if device is not None:
        raise UsageError(f"{given} and device={device!r} are given. Leave one of them out.")
    if not names:
        raise UsageError("devices=[] names no device. Leave it out, or write e.g. devices=['cuda:0', 'cuda:1'].")
    for name in names:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UsageError(
                f"devices has {name!r}. Allowed: 'cuda:0' (a GPU), 'cuda' (all), 'cpu:0' (a NUMA node), 'cpu' (all), 'mps'."
            )
    if len({name.partition(":")[0] for name in names}) > 1:
        raise UsageError(f"{given} are of several kinds, which give other digits at other speeds. Name devices of one kind.")
    return _once(names, given)


def choose_places(device: str | None, devices: Sequence[str] | None, *, alike: bool = False) -> list[Place]:
    """Where copies of a model are to run: at all of `devices`, else at `device` alone. `alike` asks for the same bits from each.

    Raises:
        UsageError: One isn't here, one is named twice, or they aren't alike.
    """
    if devices is None:
        return [Place(choose_device(device))]
    given = f"devices={list(devices)}"
    torch = import_torch()
    names = _once([one for name in devices for one in _expanded(name)], given)
    if alike and len({_product(name) for name in names}) > 1:
        products = ", ".join(f"{name} is a {_product(name)}" for name in names)
        raise UsageError(
            f"{given} give different bits, and this is to be deterministic: {products}. Name devices of one product, or leave "
            "deterministic out."
        )
    nodes = numa.nodes() if names[0].startswith("cpu") else {}
    return [Place(torch.device(name), nodes.get(_number(name))) for name in names]


def _expanded(name: str) -> list[str]:
    """A kind is all devices of it."""
    kind, colon, _ = name.partition(":")
    present = _present(kind)
    wanted = [f"{kind}:{_number(name)}"] if colon else present
    if not wanted or wanted[0] not in present:
        what = "NUMA node" if kind == "cpu" else "device"
        here = ", ".join(present or [one for other in ("cuda", "mps", "cpu") for one in _present(other)])
        raise UsageError(f"devices has {name!r}, and there is no such {what} here. Available: {here}.")
    return wanted


def _present(kind: str) -> list[str]:
    torch = import_torch()
    match kind:
        case "cuda":
            return [f"cuda:{index}" for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)]
        case "mps":
            return ["mps"] if torch.backends.mps.is_available() else []
    return [f"cpu:{node}" for node in numa.nodes()]


def _product(name: str) -> str:
    """Devices of one product compute alike."""
    return str(import_torch().cuda.get_device_name(_number(name))) if name.startswith("cuda") else name.partition(":")[0]


def _number(name: str) -> int:
    return int(name.partition(":")[2] or 0)


def _once(names: Sequence[str], given: str) -> tuple[str, ...]:
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{given} has {name!r} twice, and a device runs one copy of the model. Name each once.")
    return tuple(names)


@cache
def cpu_features() -> tuple[str, ...]:
    """Which of the matrix units that decide the number format this CPU has."""
    torch = import_torch()
    checks = {"amx": "_is_amx_tile_supported", "avx512_bf16": "_is_avx512_bf16_supported"}
    return tuple(name for name, check in checks.items() if getattr(torch.cpu, check, lambda: False)())


def check_dtype(name: str) -> str:
    """Return `name` if it is a number format; raise UsageError otherwise."""
    if name not in DTYPES:
        raise UsageError(f"dtype={name!r} is unknown. Allowed: {', '.join(DTYPES)}.")
    return name


def choose_dtype(name: str | None, device: torch.device) -> str:
    """The number format called `name`; None takes bfloat16 where the device computes it fast, else float32.

    float16 is never chosen: Qwen3-Embedding overflows in it (its makers: use float32 or bfloat16).

    Raises:
        UsageError: An unknown name, or int8 where there are no kernels for it.
    """
    if name == "int8" and (device.type != "cpu" or "avx512_bf16" not in cpu_features()):
        found = ", ".join(cpu_features()) or "neither" if device.type == "cpu" else str(device)
        raise UsageError(f"dtype='int8' needs a CPU with AVX-512 BF16 (found: {found}). Leave dtype out.")
    if name is not None:
        return check_dtype(name)
    torch = import_torch()
    if device.type == "cuda":
        with torch.cuda.device(device):
            return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type == "cpu":
        return "bfloat16" if cpu_features() else "float32"
    return "float32"


def common_dtype(name: str | None, places: Sequence[Place]) -> str:
    """`choose_dtype` for all places together: where they would choose differently, float32."""
    chosen = {choose_dtype(name, place.device) for place in places}
    return chosen.pop() if len(chosen) == 1 else "float32"


def default_batch_tokens(device: torch.device) -> int:
    """Token budget of one pass: enough rows to fill the device, few enough to stay in a CPU's cache."""
    return {"cuda": 16384, "mps": 4096}.get(device.type, 2048)
