"""What every part is given: the device, the time it may take, a folder for models, and where its findings go."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class Record:
    """Findings as lines of JSON, so that those of a process that dies aren't lost with it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, **line: Any) -> None:
        """Append a line, behind whatever a process left half written."""
        with self._path.open("a") as file:
            file.write("\n" + json.dumps(line, default=str))


@dataclass
class Lab:
    """One part at a time runs in it.

    Args:
        device: Where the models run.
        dtype: Number format of the models.
        smoke: Tiny shapes and short times: it is the script that is tried, not the device.
        work: A folder for models.
        models: Names of the shapes whose throughput is wanted.
        part: The part that runs.
        ends: When its time is over, on the monotonic clock.
    """

    device: torch.device
    dtype: str
    smoke: bool
    work: Path
    record: Record
    models: tuple[str, ...] = ()
    part: str = ""
    ends: float = field(default=float("inf"))

    @property
    def on_cuda(self) -> bool:
        """Whether this is the real thing."""
        return self.device.type == "cuda"

    def left(self) -> float:
        """Seconds that the part still has."""
        return self.ends - time.monotonic()

    def note(self, name: str, value: Any) -> None:
        """Keep a finding, and print it."""
        self.record.write(part=self.part, kind="fact", name=name, value=value)
        print(f"  {name}: {_short(value)}", flush=True)

    def check(self, name: str, value: float, allowed: float) -> None:
        """Keep a finding that must be `allowed` at most; NaN never is."""
        good = bool(value <= allowed)
        self.record.write(part=self.part, kind="check", name=name, value=float(value), allowed=float(allowed), good=good)
        if not good or self.smoke:
            print(f"  {'ok' if good else 'WRONG'}  {name}: {value:.3g} (at most {allowed:.3g})", flush=True)

    def enough(self, seconds: float, what: str) -> bool:
        """Whether there is time for `what`; if not, that it was left out is written down."""
        if self.left() >= seconds:
            return True
        self.leave_out(what, f"{self.left():.0f} s were left, it wants {seconds:.0f}")
        return False

    def leave_out(self, what: str, reason: str) -> None:
        """Write down that something wasn't done."""
        self.record.write(part=self.part, kind="left out", name=what, value=reason)
        print(f"  left out: {what} ({reason})", flush=True)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(one)}" for key, one in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
