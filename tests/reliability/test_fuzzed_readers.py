"""Broken copies of good files: each is read, or named with a reason, in time and memory, and harms no other.

SIGHTLINE_FUZZ_SECONDS says how long (60 s), SIGHTLINE_FUZZ_SEED from which number on; a failure names the number that made it.
"""

from __future__ import annotations

import io
import json
import os
import random
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import samples
from attacks import Attack
from sightline.indexing.ahead import read_files
from sightline.indexing.chunking import chunk, default_settings
from sightline.indexing.files import FoundFile
from sightline.indexing.jsonl import JsonlFields
from sightline.indexing.parsers import ParseLimits, Parsers
from sightline.indexing.plan import plan_document
from sightline.testing import HashEmbedder
from sightline.types import Document, SkippedFile

SECONDS = float(os.environ.get("SIGHTLINE_FUZZ_SECONDS", "60"))
SEED = int(os.environ.get("SIGHTLINE_FUZZ_SEED", "1"))
LIMITS = ParseLimits(timeout_s=20, memory_mib=1024, processes=1)
EMBEDDER = HashEmbedder()
CUTS = default_settings(EMBEDDER, 64)

PAGE = """<?xml version="1.0"?><!DOCTYPE html>
<html><head><meta charset="utf-8"><title>Tide</title></head><body><h1>Tide</h1>
<ul><li>high<ol start="3"><li>low</li></ol></li></ul><table><tr><th colspan="2">a</th></tr><tr><td>1</td><td>2</td></tr></table>
<pre><code class="language-py">x = 1</code></pre><p>größer &amp; <a href="b.html" title="t">b</a>
<img src="c" alt="d"></p></body></html>"""
MARKDOWN = """---
title: Lamp
tags: [a, &x b, *x]
date: 2026-01-02
---
# Lamp

> quote
> - item

1. one
   ```py
   code
   ```

| a | b |
|---|---|
| 1 | 2 |

Setext
------
<div>html</div>
"""
CODE = '''import os


@deco
class Lamp:
    """Doc."""

    async def light(self, x=(1, [2])):
        return f"{x!r}"


def main():
    pass
'''
NOTEBOOK = json.dumps(
    {"nbformat": 4, "metadata": {"language_info": {"name": "python"}, "authors": [{"name": "K"}]},
     "cells": [{"cell_type": "markdown", "source": ["# A\n", "b"]}, {"cell_type": "code", "source": "x = 1", "outputs": []}]}
)  # fmt: skip
SAMPLES: dict[str, Callable[[], bytes] | bytes] = {
    ".pdf": lambda: samples.pdf(["The lamp\nburns", "all night"], info="/Title (Lamp) /CreationDate (D:20260102030405Z)"),
    ".docx": samples.docx,
    ".pptx": samples.pptx,
    ".xlsx": lambda: samples.xlsx(6),
    ".epub": samples.epub,
    ".html": PAGE.encode(),
    ".md": MARKDOWN.encode(),
    ".rst": b"Lamp\n====\n\nOil\n---\n\n* a\n* b\n\n::\n\n  code\n",
    ".txt": "größer\r\n潮汐 🚀\n\n- a\n- b\n".encode(),
    ".ipynb": NOTEBOOK.encode(),
    ".csv": b'day,height,"a ""b"""\n1,"4,2",x\n2,5,"y\nz"\n',
    ".tsv": b"day\theight\n1\t4\n",
    ".py": CODE.encode(),
    ".c": CODE.replace(":", " {").encode(),
    ".jsonl": b'{"id": 1, "text": "a", "x": [1, {"y": null}]}\n{"text": "b"}\n',
}
TOKENS = [
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b'"', b"<", b"&#x110000;", b"]]>", b"<!--", b"{", b"[" * 200, b"9" * 400, b"-1",
    b"\\ud800", b"1e999", b"---\n", b"```\n", b"\t" * 50, "\u0301\u202e\u2028".encode(), b"PK\x05\x06", b"/Kids [2 0 R]",
    b"<!DOCTYPE x>", b"%s%n", b"../" * 9,
]  # fmt: skip


def made(suffix: str) -> bytes:
    """The good file of a kind."""
    good = SAMPLES[suffix]
    return good if isinstance(good, bytes) else good()


def mutated(data: bytes, chooser: random.Random) -> bytes:
    """A copy with some of its bytes changed, lost, doubled, moved or put in."""
    copy = bytearray(data)
    for _ in range(chooser.choice([1, 1, 2, 4, 16])):
        at = chooser.randrange(len(copy) + 1)
        length = min(chooser.choice([1, 2, 8, 64, 1024]), len(copy) - at)
        match chooser.randrange(7):
            case 0 if length:
                copy[at] ^= 1 << chooser.randrange(8)
            case 1:
                del copy[at:]
            case 2:
                del copy[at : at + length]
            case 3:
                copy[at:at] = copy[at : at + length] * chooser.choice([1, 2, 100])
            case 4:
                copy[at : at + length] = chooser.randbytes(length)
            case 5:
                start = chooser.randrange(len(copy) + 1)
                copy[at:at] = copy[start : start + length]
            case _:
                copy[at:at] = chooser.choice(TOKENS)
    return bytes(copy)


def mutated_archive(data: bytes, chooser: random.Random) -> bytes:
    """A whole archive with a broken, lost or strange member."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members: dict[str, str | bytes | None] = {name: archive.read(name) for name in archive.namelist()}
    name = chooser.choice([one for one in members if one.endswith((".xml", ".rels", ".opf", ".xhtml"))] or list(members))
    match chooser.randrange(8):
        case 0:
            members[name] = None
        case 1:
            members[name] = members[chooser.choice(list(members))]
        case 2:
            members[name] = b""
        case _:
            members[name] = mutated(bytes(members[name] or b""), chooser)  # type: ignore[arg-type]
    return samples.archive(members)


def mutant(number: int, good: dict[str, bytes]) -> tuple[str, bytes]:
    """The broken file of a number, the same for the same number."""
    chooser = random.Random(number)
    suffix = chooser.choice(list(good))
    data = good[suffix]
    if data.startswith(b"PK") and chooser.random() < 0.7:
        return suffix, mutated_archive(data, chooser)
    return suffix, mutated(data, chooser)


def outcomes(path: Path, parsers: Parsers) -> Iterator[str]:
    """What becomes of each document in a file, up to its plan."""
    found = FoundFile(path, f"kb/{path.name}", path.stat().st_size)
    for _, contents in read_files([found], JsonlFields(), parsers, lambda file: None):
        for content in contents:
            if isinstance(content, SkippedFile):
                assert content.reason.strip()
                assert len(content.reason) < 2000
                yield "failed" if " failed (" in content.reason else "too long" if "longer than" in content.reason else "refused"
            else:
                assert isinstance(content, Document)
                plan_document(content, chunk(content, CUTS, EMBEDDER), CUTS.label(), [])
                yield "read"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds the limit of memory")
def test_broken_copies_of_good_files(attack: Attack, tmp_path: Path) -> None:
    """For as long as there is time."""
    import resource

    good = {suffix: made(suffix) for suffix in SAMPLES}
    found: dict[str, Counter[str]] = {suffix: Counter() for suffix in good}
    slowest = (0.0, 0, "")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    end = time.monotonic() + SECONDS
    number = SEED
    with Parsers(LIMITS) as parsers:
        while time.monotonic() < end:
            suffix, data = mutant(number, good)
            path = tmp_path / f"mutant{suffix}"
            path.write_bytes(data)
            started = time.monotonic()
            try:
                with attack("bad input: a broken copy of a good file"):
                    found[suffix].update(outcomes(path, parsers))
            except BaseException as error:
                raise AssertionError(f"mutant({number}), {suffix} of {len(data):,} bytes") from error
            slowest = max(slowest, (time.monotonic() - started, number, suffix))
            assert slowest[0] < LIMITS.timeout_s + 5
            number += 1
    mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 2**10
    print(f"\n{number - SEED:,} files, {mib} MiB more than before, the slowest {slowest}")
    for suffix, counted in found.items():
        print(f"  {suffix:7}", dict(counted))
    assert mib < 300
