"""Readers that misbehave, in a module of their own so that a parser process can import them."""

from __future__ import annotations

import os
import sys
import time

from sightline.indexing.readers import Reading


def read(data: bytes, source: str) -> Reading:
    """Do what the file says, or give its text."""
    said = data.decode()
    if said == "hang":
        time.sleep(600)
    elif said == "spin":
        while True:
            pass
    elif said == "eat":
        hoard = []
        while True:
            hoard.append(bytes(2**24))
    elif said == "crash":
        os.abort()
    elif said == "exit":
        os._exit(3)
    elif said == "print":
        print("what a parser prints")
        print(sys.stdin.read())
    elif said == "modules":
        return Reading(" ".join(sorted({"numpy", "torch", "transformers", "rich"} & set(sys.modules))) + ".")
    elif said == "odd":
        return Reading("x", {"when": float("nan")})
    elif said.startswith("pid"):
        return Reading(str(os.getpid()))
    return Reading(f"Text of {said}.", {"said": said}, [(0, {"page": 1})])
