"""What a process of `children` does, whatever its work: it takes jobs until its parent has gone, and ends with it.

A message is a length and as many bytes.
"""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import struct
import sys
import threading
from collections.abc import Callable, Sequence
from typing import IO

READY = b"ready"
_LENGTH = struct.Struct(">Q")


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


def serve(parts: int, prepare: Callable[[], Callable[..., Sequence[bytes]]]) -> None:
    """Answer one job of `parts` messages after the other until the parent has gone.

    Args:
        parts: Messages of a job.
        prepare: Called before the first one; gives what makes the messages of an answer from those of a job.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, who ends this process
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # What is printed must not get between the messages, and nobody reads input.
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    _end_with_parent()
    answer = prepare()
    jobs: queue.SimpleQueue[list[bytes]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests, parts, jobs), daemon=True).start()
    send(replies, READY)
    while True:
        send(replies, *answer(*jobs.get()))


def _listen(requests: IO[bytes], parts: int, jobs: queue.SimpleQueue[list[bytes]]) -> None:
    """Take jobs beside the work, so that the parent's end ends this process also while it works."""
    while True:
        job = [message for message in (receive(requests) for _ in range(parts)) if message is not None]
        if len(job) < parts:
            os._exit(0)
        jobs.put(job)


def _end_with_parent() -> None:
    """Have Linux end this process with the thread that started it; elsewhere, `_listen` does."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
