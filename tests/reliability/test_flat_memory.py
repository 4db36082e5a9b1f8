"""Facts about the memory of a run: it doesn't grow with what is indexed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import filling
import pytest
from filling import NullStore

from attacks import Attack
from servers import ChromaServer

FEW, MANY = 20_000, 200_000
FEW_SERVED, MANY_SERVED = 10_000, int(os.environ.get("SIGHTLINE_SERVED_CHUNKS", "50000"))

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="there is no getrusage on Windows")]


def test_ten_times_the_chunks_take_no_more_memory(attack: Attack) -> None:
    """Within 10 %, over a store that keeps nothing, so that what grows is the run's own."""
    few = filling.peak_mb(NullStore.url, FEW, 10)
    with attack(f"{MANY:,} chunks, no store"):
        many = filling.peak_mb(NullStore.url, MANY, 10)
        print(f"{few:.1f} MB at {FEW:,}, {many:.1f} MB at {MANY:,} chunks")
        assert many < 1.1 * few


def test_a_run_remembers_a_documents_name_and_no_more(attack: Attack) -> None:
    """Where every chunk is a document: two of one name would be an error, so all names are kept."""
    few = filling.peak_mb(NullStore.url, FEW, 1)
    with attack(f"{MANY:,} documents, no store"):
        many = filling.peak_mb(NullStore.url, MANY, 1)
        print(f"{few:.1f} MB at {FEW:,}, {many:.1f} MB at {MANY:,} documents")
        assert (many - few) * 2**20 / (MANY - FEW) < 200


def test_a_chroma_servers_writer_stays_as_small(tmp_path: Path, attack: Attack) -> None:
    """SIGHTLINE_SERVED_CHUNKS says how many it writes: 200,000 take some minutes, most of which are the server's."""
    server = ChromaServer(tmp_path / "server")
    try:
        few = filling.peak_mb(server.url(), FEW_SERVED, 10)
        with attack(f"{MANY_SERVED:,} chunks, Chroma server"):
            many = filling.peak_mb(server.url(), MANY_SERVED, 10)
            print(f"{few:.1f} MB at {FEW_SERVED:,}, {many:.1f} MB at {MANY_SERVED:,} chunks")
            assert many < 1.1 * few
    finally:
        server.kill()
