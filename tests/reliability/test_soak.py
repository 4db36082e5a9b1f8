"""Facts about a process that works for a long time: it holds no more at the end than at the beginning."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest
from soaking import Sample

from attacks import Attack
from servers import ChromaServer

MINUTES_VARIABLE = "SIGHTLINE_SOAK_MINUTES"
MINUTES = float(os.environ.get(MINUTES_VARIABLE, "30"))


def soaked(work: Path, model: Path, server: str, minutes: float) -> list[Sample]:
    """The samples of a process that works so long."""
    script = Path(__file__).with_name("soaking.py")
    path = os.pathsep.join([str(script.parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, str(script), str(work), str(model), server, str(minutes)]
    # One heap for all threads: glibc gives them up to eight for each core, whose sizes take long to settle.
    variables = {"PYTHONPATH": path, "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | variables)
    assert done.returncode == 0, done.stderr[-4000:]
    return [Sample(**one) for one in json.loads(done.stdout)]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_a_long_soak_leaves_memory_and_handles_flat(
    make_model: Callable[..., Path], tmp_path: Path, attack: Attack
) -> None:
    """Half an hour, or as many minutes as SIGHTLINE_SOAK_MINUTES says: the last quarter is compared with the second.

    In less than ten, what is made once (caches, the heap's size) isn't over by then.
    """
    server = ChromaServer(tmp_path / "server")
    try:
        with attack("soak"):
            samples = soaked(tmp_path, make_model("bert"), server.url(), MINUTES)
            quarter = len(samples) // 4
            early, late = samples[quarter : 2 * quarter], samples[-quarter:]
            first, last = (median(one.memory_mb for one in some) for some in (early, late))
            told = f"{len(samples)} cycles in {samples[-1].seconds:.0f} s, {first:.0f} MB, then {last:.0f} MB, {samples[-1]}"
            print(told)
            assert last < 1.05 * first, told
            for name in ("files", "threads"):
                assert max(getattr(one, name) for one in late) <= max(getattr(one, name) for one in early), told
            assert {one.children for one in samples} == {0}, told
    finally:
        server.kill()
