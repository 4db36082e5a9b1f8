"""The page of this adapter runs as it stands there, and says what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llama_index.embeddings.sightline import SightlineEmbedding
from llama_index.embeddings.sightline.arguments import _INSTEAD
from llama_index_setting import ROOT

PAGE = (ROOT / "adapters" / "llama-index" / "README.md").read_text(encoding="utf-8")


def test_its_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Block after block, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE):
        exec(block, names)
    first, *answers = capsys.readouterr().out.splitlines()
    assert first.startswith("256 ")
    assert answers == ["The last ferry leaves at nine.", answers[1]]
    assert "vinegar" in answers[1]


def test_it_names_every_setting() -> None:
    """Fields that a user may give."""
    fields = set(SightlineEmbedding.model_fields) - {"rate_limiter"}
    assert [name for name in sorted(fields) if f"`{name}" not in PAGE] == []


def test_it_names_what_users_of_the_other_package_write() -> None:
    """The arguments of HuggingFaceEmbedding itself; those of sentence-transformers behind it are in the error."""
    refused = {"normalize", "cache_folder", "parallel_process", "show_progress_bar", "backend", "token"}
    assert refused <= set(_INSTEAD)
    assert [name for name in sorted({*refused, "target_devices"}) if f"`{name}" not in PAGE] == []


def test_no_namespace_is_a_package() -> None:
    """An __init__.py in one of them would hide every other distribution of LlamaIndex."""
    folder = ROOT / "adapters" / "llama-index" / "llama_index"
    assert [path for path in folder.rglob("__init__.py") if path.parent.name != "sightline"] == []
