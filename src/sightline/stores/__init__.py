"""`open_store(url)`: one grammar for every store. The databases' clients are loaded by the store files only."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from sightline.errors import UnknownStore
from sightline.protocols import Store

__all__ = ["open_store"]

_FORMS = {
    "edge": ("edge:DIR", "edge:./kb", "Qdrant Edge, embedded: one collection in a directory of its own"),
    "chroma": ("chroma:DIR/COLLECTION", "chroma:./kb/handbook", "Chroma, embedded: several collections in one directory"),
    "memory": ("memory:", "memory:", "gone when it is closed; memory:NAME is shared within the process"),
}
_CHROMA_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,510}[a-zA-Z0-9]")
_IP_ADDRESS = re.compile(r"\d{1,3}(\.\d{1,3}){3}")


def open_store(url: str) -> Store:
    """Give the store that `url` names. Nothing is made on disk, locked or loaded before the first call that needs it.

    Raises:
        UnknownStore: `url` has none of the known forms.
        MissingExtra: the client of that store isn't installed.
    """
    scheme, colon, rest = url.partition(":")
    if not colon or scheme not in _OPENERS:
        raise UnknownStore(f"{url!r} names no store that Sightline knows. Known forms:\n{_known_forms()}")
    return _OPENERS[scheme](url, rest)


def _known_forms() -> str:
    return "\n".join(f"  {form:<22} e.g. {example:<21} {meaning}" for form, example, meaning in _FORMS.values())


def _malformed(url: str, why: str) -> UnknownStore:
    form, example, _ = _FORMS[url.partition(":")[0]]
    return UnknownStore(f"{url!r} can't be used: {why}. The form is {form}, e.g. {example}")


def _open_edge(url: str, rest: str) -> Store:
    directory = _directory(url, rest)
    from sightline.stores.edge import EdgeStore  # loads qdrant_edge

    return EdgeStore(url, directory)


def _open_chroma(url: str, rest: str) -> Store:
    parent, slash, collection = rest.replace("\\", "/").rpartition("/")
    if not slash:
        raise _malformed(url, "it has no '/' between directory and collection")
    directory = _directory(url, parent)
    if not _CHROMA_NAME.fullmatch(collection) or ".." in collection or _IP_ADDRESS.fullmatch(collection):
        raise _malformed(
            url,
            f"the collection name {collection!r} is not one that Chroma takes (3 to 512 of [a-zA-Z0-9._-], first and last a"
            " letter or digit, no '..', not an IP address)",
        )
    from sightline.stores.chroma import ChromaStore  # loads chromadb

    return ChromaStore(url, directory, collection)


def _open_memory(url: str, rest: str) -> Store:
    from sightline.stores.memory import MemoryStore

    return MemoryStore(url, rest or None)


def _directory(url: str, text: str) -> Path:
    if not text.strip():
        raise _malformed(url, "the directory is empty")
    if text.startswith("//"):
        raise _malformed(url, "a path takes no '//' after the colon")
    if "\0" in text:
        raise _malformed(url, "a path can't hold a NUL character")
    try:
        # Resolved once: a later chdir changes nothing, and two spellings of one directory are one.
        return Path(text).expanduser().resolve()
    except (OSError, RuntimeError) as error:
        raise _malformed(url, f"the path can't be resolved ({error})") from error


_OPENERS: dict[str, Callable[[str, str], Store]] = {"edge": _open_edge, "chroma": _open_chroma, "memory": _open_memory}
