"""What the README shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"


def test_what_the_readme_shows_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Its blocks of Python, as one session in a folder with a handbook, and the right answers come out."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "handbook").mkdir()
    for name, text in (("lamp", "The lamp is cleaned with vinegar."), ("ferry", "The ferry leaves at nine.")):
        (tmp_path / "handbook" / f"{name}.md").write_text(text, encoding="utf-8")
    names: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        exec(block, names)
    out = capsys.readouterr().out
    assert out.startswith("256 2\n")
    assert "Document(id='lamp', metadata={'source': 'keeper.pdf'}" in out
    assert "handbook/lamp.md" in out.splitlines()[-2]
