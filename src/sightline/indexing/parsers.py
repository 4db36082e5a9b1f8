"""Parsers in processes of their own: one that hangs, crashes or eats memory is ended and its file named, and the run goes on.

A process is started when the first file needs one, as a fresh interpreter: nothing is forked from a program that has threads and
a device, and no program has to guard its main module. It ends with its parent, also when that is killed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.spawn import get_executable
from types import TracebackType
from typing import Any, Self

from sightline.errors import MissingExtra, SightlineError, UnreadableFile, UsageError
from sightline.indexing.background import Stopped
from sightline.indexing.parser_process import READY, receive, send
from sightline.indexing.readers import Reading
from sightline.indexing.reading import LoadedFile

_MOST_PROCESSES = 4
_START_S = 60.0
_LEAST_MEMORY_MIB = 256


@dataclass(frozen=True, slots=True)
class ParseLimits:
    """How far parsing PDF, Office files and books may go.

    Args:
        timeout_s: Seconds for one file.
        memory_mib: Address space of a parser in MiB; held on Linux only.
        processes: How many files are parsed at the same time; None is one for each two cores, four at most.
    """

    timeout_s: float = 120.0
    memory_mib: int = 2048
    processes: int | None = None

    def __post_init__(self) -> None:
        if not self.timeout_s > 0:
            raise UsageError(f"A parser can't have {self.timeout_s} seconds for a file; give it more than 0.")
        if self.memory_mib < _LEAST_MEMORY_MIB:
            raise UsageError(f"A parser can't have {self.memory_mib} MiB of memory; give it {_LEAST_MEMORY_MIB} at least.")
        if self.processes is not None and self.processes < 1:
            raise UsageError(f"{self.processes} parser processes can't read anything; allowed are 1 or more.")


class Parsers:
    """Reads files in other processes. A context manager: leaving it ends them, whatever they are at."""

    def __init__(self, limits: ParseLimits) -> None:
        self._limits = limits
        self._count = limits.processes or max(1, min(_MOST_PROCESSES, _cores() // 2))
        # One thread for each process, which waits for it.
        self._threads = ThreadPoolExecutor(self._count, thread_name_prefix="sightline-parser")
        self._own = threading.local()
        self._lock = threading.Lock()
        self._processes: set[_Process] = set()
        self._closed = False

    @property
    def depth(self) -> int:
        """How many files are worth handing over ahead of the one that is waited for."""
        return 2 * self._count

    def submit(self, file: LoadedFile) -> Future[Reading]:
        """Have a file read.

        The future raises UnreadableFile or MissingExtra, and Stopped or CancelledError once this is closed.
        """
        with self._lock:
            if self._closed:
                raise Stopped
            return self._threads.submit(self._read, file)

    def close(self) -> None:
        """End all processes."""
        with self._lock:
            self._closed = True
            processes = tuple(self._processes)
        for process in processes:
            process.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for process in processes:
            process.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _read(self, file: LoadedFile) -> Reading:
        process = self._process()
        reply = process.ask(file, self._limits.timeout_s)
        if reply is None or "memory" in reply or process.is_ended:
            self._drop(process)
        if self._closed:
            raise Stopped
        if reply is None:
            raise UnreadableFile(self._why(process))
        return self._reading(reply)

    def _process(self) -> _Process:
        """This thread's process."""
        process: _Process | None = getattr(self._own, "process", None)
        if process is None:
            process = _Process(self._limits)
            self._own.process = process
            with self._lock:
                self._processes.add(process)
                closed = self._closed
            if closed:  # in the meantime, by somebody who didn't know of it
                self._drop(process)
                raise Stopped
        return process

    def _drop(self, process: _Process) -> None:
        self._own.process = None
        process.discard()
        with self._lock:
            self._processes.discard(process)

    def _reading(self, reply: dict[str, Any]) -> Reading:
        if "missing" in reply:
            raise MissingExtra(reply["what"], package=reply["missing"], extra="files")
        if "memory" in reply:
            raise UnreadableFile(f"its parser needed more than {self._limits.memory_mib:,} MiB of memory; {self._more_memory()}")
        if "unreadable" in reply:
            raise UnreadableFile(reply["unreadable"])
        return Reading(reply["text"], reply["metadata"], [(start, place) for start, place in reply["anchors"]])

    def _why(self, process: _Process) -> str:
        """Why a process gave no answer."""
        limits = self._limits
        if process.timed_out:
            return (
                f"its parser took longer than {limits.timeout_s:g} s and was ended; if it is merely long, allow more: "
                f"--parse-timeout {2 * limits.timeout_s:g}"
            )
        code = process.exit_code
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"its parser crashed ({how}): broken, or too large for {limits.memory_mib:,} MiB of memory; {self._more_memory()}"

    def _more_memory(self) -> str:
        return f"if it is merely large, allow more: --parse-memory {2 * self._limits.memory_mib}"


class _Process:
    """A fresh interpreter that runs `parser_process`."""

    def __init__(self, limits: ParseLimits) -> None:
        self.timed_out = False
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process is
        arguments = [str(limits.memory_mib), str(limits.timeout_s)]
        self._popen = subprocess.Popen(
            # -P: a folder that is being indexed may be the current one, and its modules aren't ours.
            [_executable(), "-P", "-m", "sightline.indexing.parser_process", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            start_new_session=True,  # a Ctrl-C at the terminal is the parent's
        )
        with self._limited(_START_S):
            ready = receive(self._stdout)
        if ready != READY:
            self._popen.kill()
            code = self._popen.wait()
            self._errors.seek(0)
            said = self._errors.read()[-1000:].decode(errors="replace").strip()
            self.discard()
            raise SightlineError(f"The process that reads files can't be started (exit code {code}): {said or 'it said nothing'}")

    @property
    def exit_code(self) -> int:
        """How it ended; it has."""
        return self._popen.wait()

    @property
    def is_ended(self) -> bool:
        """Whether it has ended, or was told to."""
        return self.timed_out or self._popen.poll() is not None

    def ask(self, file: LoadedFile, seconds: float) -> dict[str, Any] | None:
        """What it makes of a file; None where it was ended or crashed."""
        reader = file.reader
        job = {"name": reader.name, "format": reader.format, "read": reader.read, "needs": dict(reader.needs)}
        with self._limited(seconds):
            try:
                send(self._stdin, json.dumps({**job, "source": file.found.source}).encode(), file.data)
                reply = receive(self._stdout)
            except OSError:  # it went while we wrote
                reply = None
        if reply is None:
            self._popen.kill()
            return None
        found: dict[str, Any] = json.loads(reply)
        return found

    def kill(self) -> None:
        """End it at once: it has nothing to put in order."""
        self._popen.kill()

    def discard(self) -> None:
        """End it, and let go of all that is open."""
        self._popen.kill()
        self._popen.wait()
        for file in (self._stdin, self._stdout):
            try:
                file.close()
            except OSError:  # what it was to be told last has no reader any more
                continue
        self._errors.close()

    @property
    def _stdin(self) -> Any:
        return self._popen.stdin

    @property
    def _stdout(self) -> Any:
        return self._popen.stdout

    def _limited(self, seconds: float) -> _Limit:
        return _Limit(self, seconds)


class _Limit:
    """Ends a process that takes longer."""

    def __init__(self, process: _Process, seconds: float) -> None:
        self._process = process
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def _end(self) -> None:
        self._process.timed_out = True
        self._process.kill()

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._timer.cancel()
        self._timer.join()  # so that it can't end the process during its next file


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _executable() -> str:
    """The interpreter, also of a program in which Python is embedded and which said so to multiprocessing."""
    found = get_executable()
    if not found:
        raise SightlineError("There is no Python interpreter to read files with: sys.executable is empty.")
    return os.fsdecode(found)
