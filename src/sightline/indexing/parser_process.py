"""The other side of `parsers`: a process that reads files for its parent, and ends with it.

It loads neither numpy nor torch, only the parsers that it is asked for.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from sightline.errors import MissingExtra, UnreadableFile
from sightline.indexing.child_process import serve
from sightline.indexing.encodings import Undecodable
from sightline.indexing.readers import Reader, apply
from sightline.indexing.readers.anchors import PackedAnchors


def main(memory_mib: int, timeout_s: float) -> None:
    """Read one file after the other until the parent has gone."""

    def prepare() -> Callable[[bytes, bytes], Sequence[bytes]]:
        _limit_memory(memory_mib)
        return answer

    def answer(job: bytes, data: bytes) -> Sequence[bytes]:
        _limit_time(timeout_s)
        return _reply(json.loads(job), data)

    serve(2, prepare)


def _reply(job: dict[str, Any], data: bytes) -> Sequence[bytes]:
    """What was found as JSON, and in messages of their own the text and the anchors, which may be many."""
    try:
        source = job.pop("source")
        reader = Reader(**job, isolated=True)
        reading = apply(reader, reader.content(data, source), source)
        runs, starts, numbers = PackedAnchors(reading.anchors).packed()
        head = json.dumps({"metadata": dict(reading.metadata), "runs": runs}, allow_nan=False)
        return head.encode(), reading.text.encode(), starts, numbers
    except (UnreadableFile, Undecodable) as error:
        found: dict[str, Any] = {"unreadable": str(error)}
    except MissingExtra as error:
        found = {"missing": error.package, "what": error.what}
    except MemoryError:
        found = {"memory": True}
    except (TypeError, ValueError) as error:
        found = {"unreadable": f"its reader {reader.name} gave metadata that isn't JSON: {error}"}
    return json.dumps(found).encode(), b"", b"", b""


def _limit_memory(mib: int) -> None:
    """Where the system has such a limit and holds it: Linux does."""
    if sys.platform == "linux":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = mib * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _limit_time(seconds: float) -> None:
    """The parent ends what takes too long; this is for a parser whose parent was killed, and which lets no other thread run."""
    if sys.platform != "win32":
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        wanted = int(used.ru_utime + used.ru_stime + 2 * seconds) + 10
        resource.setrlimit(resource.RLIMIT_CPU, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
