"""What the README shows runs as it stands there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def handbook(tmp_path, monkeypatch):
    """A folder `handbook` to stand beside the reader's shell."""
    folder = tmp_path / "handbook"
    folder.mkdir()
    (folder / "lamp.md").write_text("# The lamp\n\nThe lamp is cleaned with vinegar and a soft cloth.\n", encoding="utf-8")
    (folder / "ferry.txt").write_text("The ferry leaves at nine and comes back at five.\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return folder


def test_python_blocks_run(handbook, capsys):
    """In the order of the page, as one session; the search finds the right document first."""
    code = "\n".join(blocks("python"))
    assert code.count("import") >= 2
    exec(compile(code, "README.md", "exec"), {})
    shown = capsys.readouterr().out
    assert "(2, 384)" in shown
    assert "handbook/lamp.md" in next(line for line in shown.splitlines() if "handbook/" in line)


def test_commands_run(handbook):
    """Every `sightline` command, one after another."""
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("sightline ")]
    assert len(commands) >= 3
    for command in commands:
        words = shlex.split(command)[1:]
        done = subprocess.run([sys.executable, "-m", "sightline", *words], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, (command, done.stderr)
    assert "passed" in done.stdout


def test_links_lead_somewhere():
    """Every relative link of the README and the docs."""
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), (page.name, link)
