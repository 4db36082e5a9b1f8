"""Optional cleaning of texts, off by default. Newlines are never touched unless asked for by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from sightline.errors import UsageError

_ZERO_WIDTH = re.compile("[\u200b\u2060\ufeff\u00ad]")  # joiners (200c, 200d) carry meaning in many scripts and stay
_BLANKS = re.compile(r"[^\S\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+")
_NEWLINES = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")

STEPS: dict[str, Callable[[str], str]] = {
    "bom": lambda text: text.removeprefix("\ufeff"),
    "zero_width": lambda text: _ZERO_WIDTH.sub("", text),
    "blanks": lambda text: _BLANKS.sub(" ", text),
    "newlines": lambda text: _NEWLINES.sub(" ", text),
}


def check_steps(steps: Sequence[str]) -> tuple[str, ...]:
    """Return `steps` in the order in which they run; raise UsageError for an unknown one."""
    unknown = [step for step in steps if step not in STEPS]
    if isinstance(steps, str) or unknown:
        raise UsageError(f"clean={steps!r}: unknown step. A sequence of {', '.join(STEPS)} is allowed.")
    return tuple(step for step in STEPS if step in steps)


def clean(text: str, steps: Sequence[str]) -> str:
    """Apply `steps` (see `STEPS`): a leading BOM, zero-width characters, runs of blanks, newlines."""
    for step in steps:
        text = STEPS[step](text)
    return text
