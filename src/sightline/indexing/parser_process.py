"""The other side of `parsers`: a process that reads files for its parent, and ends with it.

It loads neither numpy nor torch, only the parsers that it is asked for. A message is a length and as many bytes.
"""

from __future__ import annotations

import ctypes
import json
import os
import queue
import signal
import struct
import sys
import threading
from typing import IO, Any

from sightline.errors import MissingExtra, UnreadableFile
from sightline.indexing.readers import Reader, apply

_LENGTH = struct.Struct(">Q")
READY = b"ready"


def send(file: IO[bytes], *messages: bytes) -> None:
    """Write messages."""
    for message in messages:
        file.write(_LENGTH.pack(len(message)))
        file.write(message)
    file.flush()


def receive(file: IO[bytes]) -> bytes | None:
    """The next message; None where the other side has gone."""
    head = file.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    message = file.read(length)
    return message if len(message) == length else None


def main(memory_mib: int, timeout_s: float) -> None:
    """Read one file after the other until the parent has gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, who ends this process
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # What a parser prints must not get between the messages, and it reads no input.
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    _end_with_parent()
    _limit_memory(memory_mib)
    jobs: queue.SimpleQueue[tuple[bytes, bytes]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests, jobs), daemon=True).start()
    send(replies, READY)
    while True:
        job, data = jobs.get()
        _limit_time(timeout_s)
        send(replies, _reply(json.loads(job), data))


def _listen(requests: IO[bytes], jobs: queue.SimpleQueue[tuple[bytes, bytes]]) -> None:
    """Take jobs beside the parsing, so that the parent's end ends this process also while it parses."""
    while (job := receive(requests)) is not None and (data := receive(requests)) is not None:
        jobs.put((job, data))
    os._exit(0)


def _reply(job: dict[str, Any], data: bytes) -> bytes:
    reader = Reader(job["name"], job["format"], job["read"], binary=True, isolated=True, needs=job["needs"])
    try:
        reading = apply(reader, data, job["source"])
        found = {"text": reading.text, "metadata": dict(reading.metadata), "anchors": list(reading.anchors)}
        return json.dumps(found, allow_nan=False).encode()
    except UnreadableFile as error:
        return json.dumps({"unreadable": str(error)}).encode()
    except MissingExtra as error:
        return json.dumps({"missing": error.package, "what": error.what}).encode()
    except MemoryError:
        return json.dumps({"memory": True}).encode()
    except (TypeError, ValueError) as error:
        return json.dumps({"unreadable": f"its reader {reader.name} gave metadata that isn't JSON: {error}"}).encode()


def _end_with_parent() -> None:
    """Have Linux end this process with the thread that started it; elsewhere, `_listen` and the limit of time do."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


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
