"""Facts about locks: one writer at a time in a directory, whichever store it holds."""

import errno
import json
import os
import socket
import subprocess
import sys
import uuid

import numpy as np
import pytest

from sightline.errors import StoreError, StoreLocked
from sightline.stores import locks
from sightline.stores.locks import DirectoryLock, FileLock
from sightline.types import Point, VectorLayout

VECTORS = np.eye(4, dtype=np.float32)


def point(row: int = 0, source: str = "docs/a.md", **metadata: object) -> Point:
    return Point(str(uuid.UUID(int=row + 1)), f"text {row}", source, metadata)


# Another process that opens a store, does one operation on it, and says what came of it.
OTHER_PROCESS = """
import sys
from sightline.errors import SightlineError
from sightline.stores import open_store
store = open_store(sys.argv[1])
try:
    contract = store.read_contract()
    store.delete([]) if sys.argv[2] == "write" else store.count()
    print("done", contract)
except SightlineError as error:
    print(type(error).__name__, error)
finally:
    store.close()
"""


def ask_another_process(url: str, operation: str) -> str:
    command = [sys.executable, "-c", OTHER_PROCESS, url, operation]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.fixture(params=["edge:{}/kb", "chroma:{}/kb/handbook", "qdrant:{}/kb/handbook"])
def url(request, tmp_path):
    return request.param.format(tmp_path)


class TestFileLock:
    def test_one_at_a_time(self, tmp_path):
        """The second one is refused and learns who has it; what is released can be had."""
        first, second = FileLock(tmp_path / "x.lock"), FileLock(tmp_path / "x.lock")
        assert first.try_acquire()
        assert first.try_acquire()
        assert not second.try_acquire()
        assert second.holder() == "another store object of this process"
        first.release()
        first.release()
        assert second.try_acquire()
        second.release()

    def test_a_lock_without_a_name_is_somebodys(self, tmp_path):
        """Between taking it and writing the name, or where the file says nothing that we know."""
        (tmp_path / "x.lock").write_text("?")
        assert FileLock(tmp_path / "x.lock").holder() == "another process"

    def test_a_directory_that_cannot_be_locked_is_told(self, tmp_path):
        """The directory has to be there and writable."""
        with pytest.raises(StoreError, match="can't be locked"):
            DirectoryLock(tmp_path / "nothing").acquire("edge:nothing")

    def test_a_file_system_without_locks_is_told(self, tmp_path, monkeypatch):
        """It isn't taken for somebody who holds the lock, for whom one would wait in vain."""

        def refuse(_descriptor):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(locks, "_try_lock", refuse)
        with pytest.raises(StoreError, match=r"No locks available.*on a file system that has locks") as caught:
            DirectoryLock(tmp_path).acquire("edge:kb")
        assert not isinstance(caught.value, StoreLocked)

    def test_a_lock_that_cannot_be_written_is_free_again(self, tmp_path, monkeypatch):
        """A disk that fails leaves no lock behind that nobody knows of."""

        def refuse(*_):
            raise OSError(errno.EIO, "Input/output error")

        lock = FileLock(tmp_path / "x.lock")
        monkeypatch.setattr(os, "write", refuse)
        with pytest.raises(OSError, match="Input/output error"):
            lock.try_acquire()
        monkeypatch.undo()
        other = FileLock(tmp_path / "x.lock")
        assert other.try_acquire()
        other.release()

    def test_a_full_disk_keeps_nobody_from_a_lock(self, tmp_path, monkeypatch):
        """What is there can be read then, too; the holder has no name."""

        def refuse(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        lock, other = FileLock(tmp_path / "x.lock"), FileLock(tmp_path / "x.lock")
        monkeypatch.setattr(os, "write", refuse)
        assert lock.try_acquire()
        assert not other.try_acquire()
        assert other.holder() == "another process"
        lock.release()

    def test_the_same_number_on_another_host_is_another_process(self, tmp_path):
        """Containers that share a directory count their processes from one."""
        name = tmp_path / "x.lock"
        name.write_text(json.dumps({"pid": os.getpid(), "host": "elsewhere"}))
        assert FileLock(name).holder() == f"process {os.getpid()} on elsewhere"
        name.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
        assert FileLock(name).holder() == "another store object of this process"


class TestLocks:
    @pytest.mark.slow
    def test_another_writer_is_told_who_holds_it(self, url, opened):
        """A second process is refused with the first one's process id, and may still read the contract of an Edge collection."""
        store = opened(url)
        store.create(VectorLayout(4), {"model": "m"})
        answer = ask_another_process(url, "write")
        assert answer.startswith("StoreLocked")
        assert f"process {os.getpid()}" in answer
        store.close()
        assert ask_another_process(url, "write") == "done {'model': 'm'}\n"

    def test_a_reader_needs_no_leave(self, url, opened):
        """While another process may write, one may read: Chroma lets both in, Edge and local mode one after the other."""
        store = opened(url)
        store.create(VectorLayout(4), {"model": "m"})
        if url.startswith("qdrant"):
            store.close()
        assert ask_another_process(url, "read") == "done {'model': 'm'}\n"

    def test_a_second_writer_in_this_process_is_told_so(self, url, opened):
        """Two stores of one process exclude each other too."""
        opened(url).create(VectorLayout(4), {})
        with pytest.raises(StoreLocked, match="another store object of this process"):
            opened(url).delete([])

    def test_a_killed_writer_holds_nothing(self, url, opened):
        """What a dead process wrote is there, and its lock is free."""
        code = (
            "import os, sys, signal, numpy as np\nfrom sightline.stores import open_store\n"
            "from sightline.types import Point, VectorLayout\n"
            "store = open_store(sys.argv[1])\nstore.create(VectorLayout(4), {'a': 1})\n"
            "store.upsert([Point('00000000-0000-0000-0000-000000000001', 't', 's', {})], np.eye(1, 4, dtype=np.float32))\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        assert subprocess.run([sys.executable, "-c", code, url], timeout=60).returncode != 0
        store = opened(url)
        assert (store.count(), store.read_contract()) == (1, {"a": 1})
        store.upsert([point(2)], VECTORS[:1])

