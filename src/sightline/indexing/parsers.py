"""Parsers in processes of their own: one that hangs, crashes or eats memory is ended and its file named, and the run goes on."""

from __future__ import annotations

import json
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

from sightline.errors import MissingExtra, UnreadableFile, UsageError
from sightline.indexing.children import Child, Children, cores
from sightline.indexing.readers import Reading
from sightline.indexing.readers.anchors import PackedAnchors
from sightline.indexing.reading import LoadedFile

_MOST_PROCESSES = 4
_LEAST_MEMORY_MIB = 256
# Above these, neither the system's limits nor its clocks can count any more.
_MOST_MEMORY_MIB = 2**30
_LONGEST_S = 1_000_000.0


@dataclass(frozen=True, slots=True)
class ParseLimits:
    """How far parsing HTML, PDF, Office files, books, notebooks and tables may go.

    Args:
        timeout_s: Seconds for one file.
        memory_mib: Address space of a parser in MiB; held on Linux only.
        processes: How many files are parsed at the same time; None is one for each two cores, four at most.
    """

    timeout_s: float = 120.0
    memory_mib: int = 2048
    processes: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.timeout_s <= _LONGEST_S:
            raise UsageError(
                f"A parser can't have {self.timeout_s} seconds for a file; give it more than 0, and {_LONGEST_S:,.0f} at most."
            )
        if not _LEAST_MEMORY_MIB <= self.memory_mib <= _MOST_MEMORY_MIB:
            raise UsageError(
                f"A parser can't have {self.memory_mib} MiB of memory; give it {_LEAST_MEMORY_MIB} at least, and "
                f"{_MOST_MEMORY_MIB:,} at most."
            )
        if self.processes is not None and self.processes < 1:
            raise UsageError(f"{self.processes} parser processes can't read anything; allowed are 1 or more.")


class Parsers:
    """Reads files in other processes. A context manager: leaving it ends them, whatever they are at."""

    def __init__(self, limits: ParseLimits) -> None:
        self._limits = limits
        arguments = (str(limits.memory_mib), str(limits.timeout_s))
        count = limits.processes or max(1, min(_MOST_PROCESSES, cores() // 2))
        self._children = Children("sightline.indexing.parser_process", arguments, count, "sightline-parser")

    @property
    def depth(self) -> int:
        """How many files are worth handing over ahead of the one that is waited for."""
        return 2 * self._children.count

    def submit(self, file: LoadedFile) -> Future[Reading]:
        """Have a file read.

        The future raises UnreadableFile or MissingExtra, and Stopped or CancelledError once this is closed.
        """
        return self._children.submit(partial(self._read, file))

    def close(self) -> None:
        """End all processes."""
        self._children.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _read(self, file: LoadedFile, child: Child) -> Reading:
        reader = file.reader
        job = {name: getattr(reader, name) for name in ("name", "format", "read", "binary", "declares")}
        told = json.dumps({**job, "needs": dict(reader.needs), "source": file.found.source}).encode()
        head = child.ask(told, file.data, seconds=self._limits.timeout_s)
        text, starts, numbers = (None if head is None else child.receive() for _ in range(3))
        if head is None or text is None or starts is None or numbers is None:
            child.kill()
            raise UnreadableFile(self._why(child))
        found: dict[str, Any] = json.loads(head)
        self._check(found, child)
        return Reading(text.decode(), found["metadata"], PackedAnchors.unpacked(found["runs"], starts, numbers))

    def _check(self, reply: dict[str, Any], child: Child) -> None:
        """Raise what it says instead of a reading."""
        if "missing" in reply:
            raise MissingExtra(reply["what"], package=reply["missing"], extra="files")
        if "memory" in reply:
            child.kill()  # what it couldn't have, it may hold in part
            raise UnreadableFile(f"its parser needed more than {self._limits.memory_mib:,} MiB of memory; {self._more_memory()}")
        if "unreadable" in reply:
            raise UnreadableFile(reply["unreadable"])

    def _why(self, child: Child) -> str:
        """Why a process gave no answer."""
        limits = self._limits
        if child.timed_out:
            return (
                f"its parser took longer than {limits.timeout_s:g} s and was ended; if it is merely long, allow more: "
                f"--parse-timeout {2 * limits.timeout_s:g}"
            )
        code = child.exit_code
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"its parser crashed ({how}): broken, or too large for {limits.memory_mib:,} MiB of memory; {self._more_memory()}"

    def _more_memory(self) -> str:
        return f"if it is merely large, allow more: --parse-memory {2 * self._limits.memory_mib}"
