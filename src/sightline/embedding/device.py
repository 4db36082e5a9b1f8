"""Which device and which number format: chosen by what the machine can do, or by name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from sightline.errors import MissingExtra, UsageError

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16", "int8")


@dataclass(frozen=True, slots=True)
class DeviceSurvey:
    """What this machine offers and what Sightline would choose."""

    device: str
    dtype: str
    cpu_features: tuple[str, ...]
    cuda: tuple[str, ...]
    mps: bool
    threads: int


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
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type == "cpu":
        return "bfloat16" if cpu_features() else "float32"
    return "float32"


def default_batch_tokens(device: torch.device) -> int:
    """Token budget of one pass: enough rows to fill the device, few enough to stay in a CPU's cache."""
    return {"cuda": 16384, "mps": 4096}.get(device.type, 2048)


