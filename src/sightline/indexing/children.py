"""Processes of our own, each asked by a thread that waits for it: `parser_process` and `cutter_process` are their other sides.

A process is started when the first job needs one, as a fresh interpreter: nothing is forked from a program that has threads and
a device, and no program has to guard its main module. It ends with its parent, also when that is killed. What goes between the
two is data only: nothing that a child says can run code here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.spawn import get_executable
from types import TracebackType
from typing import IO, Any, Self, TypeVar

from sightline.errors import SightlineError
from sightline.indexing.background import Stopped
from sightline.indexing.child_process import READY, receive, send
from sightline.keys import without_keys

_START_S = 60.0
T = TypeVar("T")


class Children:
    """As many processes of one kind as jobs may run side by side. A context manager: leaving it ends them, whatever they are at.

    Args:
        module: What each of them runs.
        arguments: What it is started with.
        count: How many there are at most.
        name: Of the threads that wait for them.
    """

    def __init__(self, module: str, arguments: Sequence[str], count: int, name: str) -> None:
        self.count = count
        self._module, self._arguments = module, arguments
        self._threads = ThreadPoolExecutor(count, thread_name_prefix=name)
        self._own = threading.local()
        self._lock = threading.Lock()
        self._children: set[Child] = set()
        self._closed = False

    def submit(self, work: Callable[[Child], T]) -> Future[T]:
        """Have `work` done with a process that nobody else uses meanwhile; one that has ended is replaced.

        The future raises Stopped or CancelledError once this is closed.
        """
        with self._lock:
            if self._closed:
                raise Stopped
            return self._threads.submit(self._do, work)

    def close(self) -> None:
        """End all processes."""
        with self._lock:
            self._closed = True
            children = tuple(self._children)
        for child in children:
            child.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for child in children:
            child.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _do(self, work: Callable[[Child], T]) -> T:
        child = self._child()
        try:
            return work(child)
        except Exception:
            if self._closed:  # it was ended under its work
                raise Stopped from None
            raise
        finally:
            if child.is_ended:
                self._drop(child)

    def _child(self) -> Child:
        """This thread's process."""
        child: Child | None = getattr(self._own, "child", None)
        if child is None:
            child = Child(self._module, self._arguments)
            self._own.child = child
            with self._lock:
                self._children.add(child)
                closed = self._closed
            if closed:  # in the meantime, by somebody who didn't know of it
                self._drop(child)
                raise Stopped
        return child

    def _drop(self, child: Child) -> None:
        self._own.child = None
        child.discard()
        with self._lock:
            self._children.discard(child)


class Child:
    """A fresh interpreter that runs one of our modules."""

    def __init__(self, module: str, arguments: Sequence[str]) -> None:
        self.timed_out = False
        self._killed = False
        try:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process is
            self._popen = _started(module, arguments, self._errors)
        except OSError as error:  # the machine's fault; as an OSError it would be taken for that of the file to be read
            raise SightlineError(
                f"The process that runs {module} can't be started: {error}. Make room for it (memory, processes, open files, "
                "space for temporary files), then run the same command again; what is committed stays."
            ) from error
        with _Limit(self, _START_S):
            ready = receive(self._stdout)
        if ready != READY:
            self.kill()
            code, said = self._popen.wait(), self.last_words()
            self.discard()
            raise SightlineError(
                f"The process that runs {module} can't be started (exit code {code}): {said or 'it said nothing'}"
            )

    @property
    def exit_code(self) -> int:
        """How it ended; it has."""
        return self._popen.wait()

    @property
    def is_ended(self) -> bool:
        """Whether it has ended, or was told to."""
        return self._killed or self._popen.poll() is not None

    def ask(self, *messages: bytes, seconds: float | None = None) -> bytes | None:
        """Its answer; None where it crashed, or was ended because it took longer than `seconds`."""
        with _Limit(self, seconds):
            try:
                send(self._stdin, *messages)
                reply = receive(self._stdout)
            except OSError:  # it went while we wrote
                reply = None
        if reply is None:
            self.kill()
        return reply

    def receive(self) -> bytes | None:
        """The next message of an answer that has several."""
        return receive(self._stdout)

    def last_words(self) -> str:
        """The end of what it wrote to its standard error."""
        self._errors.seek(0)
        return self._errors.read()[-1000:].decode(errors="replace").strip()

    def kill(self) -> None:
        """End it at once: it has nothing to put in order."""
        self._killed = True
        self._popen.kill()

    def discard(self) -> None:
        """End it, and let go of all that is open."""
        self.kill()
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


class _Limit:
    """Ends a process that takes longer; None is as long as it likes."""

    def __init__(self, child: Child, seconds: float | None) -> None:
        self._child = child
        self._timer = None if seconds is None else threading.Timer(seconds, self._end)
        if self._timer is not None:
            self._timer.daemon = True

    def _end(self) -> None:
        self._child.timed_out = True
        self._child.kill()

    def __enter__(self) -> None:
        if self._timer is not None:
            self._timer.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()  # so that it can't end the process during its next job


def _started(module: str, arguments: Sequence[str], errors: IO[bytes]) -> subprocess.Popen[bytes]:
    """A process that writes its standard error to `errors`, which is closed where none can be had."""
    try:
        return subprocess.Popen(
            # -P: a folder that is being indexed may be the current one, and its modules aren't ours.
            [_executable(), "-P", "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            # Whatever a file made to break its parser gets hold of, keys aren't there.
            env={**without_keys(os.environ), "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            start_new_session=True,  # a Ctrl-C at the terminal is the parent's
        )
    except BaseException:
        errors.close()
        raise


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _executable() -> str:
    """The interpreter, also of a program in which Python is embedded and which said so to multiprocessing."""
    found = get_executable()
    if not found:
        raise SightlineError("There is no Python interpreter to run a process with: sys.executable is empty.")
    return os.fsdecode(found)
