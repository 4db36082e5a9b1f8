"""What the README shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"


def test_what_the_readme_shows_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Its blocks of Python, as one session, and the right answers come out."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        exec(compile(block, "README.md", "exec"), names)
    ferry, lamp, refused = capsys.readouterr().out.split("\n", 2)
    assert "ferry leaves" in ferry
    assert "cleaned with vinegar" in lamp
    assert "the collection has 384, this function 128" in refused
