"""Case 4: what a change costs. A folder is indexed once; then it is indexed again, unchanged and after one edit of each kind."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.corpus import Corpus
from benchmarks.measuring import PACKAGED, Figures, run_apart, table


def rerun(settings: Figures) -> Figures:
    """A side: `sightline.index` as a user types it, in a fresh process; `seconds_all` begins at the process's first line."""
    import sightline

    began = time.perf_counter()
    summary = sightline.index(
        [settings["folder"]], into=settings["into"], model=settings.get("model"), dtype=settings["dtype"], prune=True
    )
    return {
        "seconds": time.perf_counter() - began, "documents": summary.documents, "unchanged": summary.documents_unchanged,
        "embedded": summary.chunks_embedded, "chunks": summary.chunks, "torch": "torch" in sys.modules,
    }  # fmt: skip


def measure(corpus: Corpus, work: Path, dtype: str, say: Callable[[str], None]) -> tuple[Mapping[str, Any], str]:
    """The figures, and the table that shows them."""
    folder = Path(corpus.folder)
    texts = {path: path.read_text(encoding="utf-8") for path in folder.rglob("*.md") if path.is_file()}
    long = max((path for path, text in texts.items() if not text.startswith("---")), key=lambda path: len(texts[path]))
    original = texts[long]
    renamed = long.with_name(f"renamed-{long.name}")
    body = f"---\nlang: en\n---\n{original}"
    edits: dict[str, Callable[[], object]] = {
        "unchanged": lambda: None,
        "a paragraph at the top of a long file": lambda: long.write_text(
            "A paragraph that was not there before, about nothing else.\n\n" + original, encoding="utf-8"
        ),
        "that taken back": lambda: long.write_text(original, encoding="utf-8"),
        "the long file renamed": lambda: long.rename(renamed),
        "front matter added to it": lambda: renamed.write_text(body, encoding="utf-8"),
        "its front matter changed": lambda: renamed.write_text(body.replace("lang: en", "lang: de"), encoding="utf-8"),
    }
    stores = {"Edge": f"edge:{work / 'updates-edge'}", "Chroma": f"chroma:{work / 'updates-chroma'}/updates"}
    found: dict[str, dict[str, Figures]] = {name: {} for name in stores}
    for name, url in stores.items():
        settings = {"folder": str(folder), "into": url, "dtype": dtype}
        found[name]["first run"] = run_apart(rerun, {**settings, "model": PACKAGED})
        say(f"{name}, first run: {found[name]['first run']['seconds']:.1f} s")
    for edit, change in edits.items():
        change()
        for name, url in stores.items():
            found[name][edit] = run_apart(rerun, {"folder": str(folder), "into": url, "dtype": dtype})
            say(f"{name}, {edit}: {found[name][edit]['seconds_all']:.1f} s, {found[name][edit]['embedded']} embedded")
    renamed.rename(long)
    long.write_text(original, encoding="utf-8")
    return found, _table(found)


def _table(found: Mapping[str, Mapping[str, Figures]]) -> str:
    rows = [
        [f"{name}: {edit}", one["documents"] - one["unchanged"], one["embedded"], f"{one['seconds_all']:.1f}", _yes(one["torch"])]
        for name, runs in found.items()
        for edit, one in runs.items()
    ]
    return table(["run", "documents changed", "chunks embedded", "seconds, start of Python included", "loaded torch"], rows)


def _yes(fact: bool) -> str:
    return "yes" if fact else "no"
