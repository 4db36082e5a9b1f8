"""Facts about a full disk: the run ends with an error that names it, and once there is room the same command ends it right."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from killing import Runner, warm
from scenes import NAMES, OPERATIONS, Folders, Scene, check_embedded_once, held_texts, state

import sightline
from attacks import Attack
from sightline.errors import DiskFull
from sightline.stores import edge, room
from sightline.stores.checks import directory_bytes
from sightline.testing import HashEmbedder
from sightline.types import Document

DISK_BYTES = 256 * 2**20
ATTEMPTS = 5


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 MiB: ext4 in a file, because a tmpfs fills holes that are only read, which disks don't."""
    path, image = tmp_path / "disk", tmp_path / "image"
    path.mkdir()
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    for command in (["mke2fs", "-q", "-t", "ext4", "-m", "0", str(image)], ["mount", "-o", "loop", str(image), str(path)]):
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"a small disk can't be made here: {getattr(error, 'stderr', None) or error}")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """A warm process."""
    with warm(tmp_path_factory.mktemp("runner")) as running:
        yield running


def fill(disk: Path, free: int) -> Path:
    """Leave so much free on the disk; removing the file that is given makes room again."""
    os.sync()
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - free - 2**16)
        file.seek(0, os.SEEK_END)
        with suppress(OSError):  # what is left over for the file system's own use, to the last block
            while shutil.disk_usage(disk).free > free:
                file.write(bytes(4096))
    return filler


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["first", "update", "rebuild"])
@pytest.mark.parametrize("kind", ["edge", "chroma", "qdrant"])
def test_a_full_disk_is_named_and_mended_by_room(
    small_disk: Path, runner: Runner, attack: Attack, tmp_path: Path, kind: str, operation: str
) -> None:
    """Wherever in the run the room ends: readers still read, and with room the same command gives what it would have given."""
    scene = Scene(kind, operation, Folders(tmp_path / "folders", documents=60), runner, small_disk)
    scene.rehearse()
    grown = directory_bytes(small_disk / "run1") - (directory_bytes(small_disk / "prepared") if operation != "first" else 0)
    shutil.rmtree(small_disk / "run1")
    spare, instants, failed = edge._SPARE_BYTES if kind == "edge" else 0, random.Random(scene.name), 0
    for number in range(ATTEMPTS):
        with attack(f"full disk, {NAMES[kind]}, {OPERATIONS[operation]}"):
            url = scene.fresh()
            # The first time there is none at all. Chroma can't be read then: it writes some kB when it is opened.
            filler = fill(small_disk, 0 if number == 0 else spare + int(grown * instants.uniform(0.02, 0.9)))
            ended = scene.play(url, may_fail=True)
            failed += ended.error is not None
            if ended.error is not None:
                assert ended.error.startswith("DiskFull: There is not enough room on the disk of"), ended.error
                assert str(small_disk) in ended.error
                assert "MB are free" in ended.error
            if operation == "rebuild" and ended.error is not None and not (kind == "chroma" and number == 0):
                assert scene.before is not None
                assert state(url).is_as(scene.before, scene.tolerance)
            filler.unlink()
            held = held_texts(url)
            again = scene.play(url)
            assert state(url).is_as(scene.expected, scene.tolerance)
            if ended.error is not None:
                check_embedded_once(ended, again, held)
        shutil.rmtree(small_disk / url.partition("/disk/")[2].partition("/")[0])
    assert failed >= 3


def test_edge_asks_for_room_before_it_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: Attack
) -> None:
    """The engine itself would be ended by the system; what is there stays, is searched, and is brought up to date later."""
    url, embedder = f"edge:{tmp_path / 'kb'}", HashEmbedder()
    texts = [Document(str(number), f"tide {number}") for number in range(20)]
    sightline.index(documents=texts[:10], into=url, model=embedder)
    usage = SimpleNamespace(free=10_000_000)
    with monkeypatch.context() as patched, attack("full disk, Edge, room asked for"):
        patched.setattr(room.shutil, "disk_usage", lambda _path: usage)
        with pytest.raises(DiskFull, match=r"10.00 MB are free, and what is written next needs 33.57 MB"):
            sightline.index(documents=texts, into=url, model=embedder)
        with sightline.open_collection(url, model=embedder) as collection:
            assert collection.search("tide 3", k=1)[0].text == "tide 3"
    assert sightline.index(documents=texts, into=url, model=embedder).chunks_embedded == 10
