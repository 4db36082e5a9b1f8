"""The command line in the process of a test."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from sightline.cli import main


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str


def run_command(capsys: pytest.CaptureFixture[str], *arguments: object) -> Result:
    """Run `sightline ARGUMENTS` here."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return Result(int(ended.value.code or 0), captured.out, captured.err)
