"""`open_store(url)`: one grammar for every store. The databases' clients are loaded by the store files only.

A URL with `//` names a server, one without names a directory of this machine. Keys and passwords are never in a URL, because
URLs are logged: they come from the environment.
"""

from __future__ import annotations

import re
import shlex
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

from sightline.errors import UnknownStore, UsageError
from sightline.protocols import CollectionFile, Store
from sightline.stores.links import without_links

__all__ = ["is_file", "open_copy", "open_file", "open_store", "share_a_directory"]

_EDGE, _QDRANT, _QDRANT_LOCAL = "edge:DIR", "qdrant://HOST:PORT/COLLECTION", "qdrant:DIR/COLLECTION"
_CHROMA, _CHROMA_SERVER = "chroma:DIR/COLLECTION", "chroma+http://HOST:PORT/COLLECTION"
_PARQUET = "parquet:FILE"
_FORMS = {
    _EDGE: ("edge:./kb", "Qdrant Edge, embedded: one collection in a directory of its own"),
    _QDRANT: ("qdrant://localhost:6334/handbook", "a Qdrant server (qdrant+https:// with TLS; key: QDRANT_API_KEY)"),
    _QDRANT_LOCAL: ("qdrant:./kb/handbook", "qdrant-client's local mode, for small things"),
    _CHROMA: ("chroma:./kb/handbook", "Chroma, embedded: several collections in one directory"),
    _CHROMA_SERVER: ("chroma+http://localhost:8000/handbook", "a Chroma server (chroma+https:// with TLS; key: CHROMA_API_KEY)"),
    "memory:": ("memory:", "gone when it is closed; memory:NAME is shared within the process"),
    _PARQUET: ("parquet:./kb.parquet", "a collection in one file, for sightline copy; it can't be searched"),
}
_CHROMA_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,510}[a-zA-Z0-9]")
_IP_ADDRESS = re.compile(r"\d{1,3}(\.\d{1,3}){3}")
_CHROMA_RULE = "3 to 512 of [a-zA-Z0-9._-], first and last a letter or digit, no '..', not an IP address"
# What a Qdrant server takes is wider; these are names that are also a file name in local mode, on every system.
_QDRANT_NAME = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,199}")
_QDRANT_RULE = "1 to 200 of [a-zA-Z0-9._-], the first one no '.' or '-'"
# What belongs to a database in a directory; the first is the file without which there is none.
_EDGE_FILES = ("sightline.json", "sightline.json.tmp", "shard-*")
_QDRANT_FILES = ("sightline-qdrant.json", "*")
_CHROMA_FILES = ("chroma.sqlite3", "chroma.sqlite3-*", "????????-????-????-????-????????????")
# Where a store is to open its database, given where it is and what belongs to it.
_Placing: TypeAlias = Callable[[Path, tuple[str, ...]], Path]


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server listens."""

    host: str
    port: int
    tls: bool


def open_store(url: str) -> Store:
    """Give the store that `url` names. Nothing is made on disk, locked or loaded before the first call that needs it.

    Raises:
        UnknownStore: `url` has none of the known forms.
        UsageError: it names a file, which is no store.
        MissingExtra: the client of that store isn't installed.
        StoreError: a link leads out of the directory.
    """
    return _opened(url, lambda directory, names: without_links(url, directory, names))


@contextmanager
def open_copy(url: str) -> Iterator[Store]:
    """The store that `url` names, for who may write nothing; what a directory holds is read from a copy of it.

    Raises:
        StoreLocked: Another process writes to that directory.
        StoreError: It can't be copied.
        UnknownStore, UsageError, MissingExtra: As for `open_store`.
    """
    from sightline.stores.copies import copy_database

    def placed(directory: Path, names: tuple[str, ...]) -> Path:
        return copy_database(url, without_links(url, directory, names), Path(place, "copy"), names)

    with tempfile.TemporaryDirectory(prefix="sightline-", ignore_cleanup_errors=True) as place:
        store = _opened(url, placed)
        try:
            yield store
        finally:
            store.close()


def _opened(url: str, placed: _Placing) -> Store:
    _refuse_secrets(url)
    if is_file(url):
        raise UsageError(
            f"{url} is a file that keeps a collection; it can't be searched or indexed into. Copy it into a store first: "
            f"sightline copy {shlex.quote(url)} edge:DIR"
        )
    scheme, colon, rest = url.partition(":")
    if not colon or scheme not in _OPENERS:
        raise UnknownStore(f"{url!r} names no store that Sightline knows. Known forms:\n{_known_forms()}")
    return _OPENERS[scheme](url, rest, placed)


def is_file(url: str) -> bool:
    """Whether `url` names a file that keeps a collection, rather than a store."""
    return url.startswith("parquet:")


def open_file(url: str) -> CollectionFile:
    """Give the file that `url` names, whether it is there or not.

    Raises:
        UnknownStore: `url` is malformed.
        MissingExtra: what reads and writes such files isn't installed.
    """
    _refuse_secrets(url)
    name = url.removeprefix("parquet:")
    if not name.strip() or name.endswith(("/", "\\")):
        raise _malformed(url, "it names no file", _PARQUET)
    path = _directory(url, name, _PARQUET)
    from sightline.stores.parquet import ParquetFile  # loads pyarrow

    return ParquetFile(url, path)


def share_a_directory(one: str, other: str) -> bool:
    """Whether two URLs name collections of one directory, which only one store at a time can write."""
    places = [_place(url) for url in (one, other)]
    return places[0] is not None and places[0] == places[1]


def _place(url: str) -> tuple[str, Path] | None:
    """Kind and directory of a database of this machine."""
    _refuse_secrets(url)
    scheme, _, rest = url.partition(":")
    if scheme == "edge":
        return scheme, _directory(url, rest, _EDGE)
    form = {"qdrant": _QDRANT_LOCAL, "chroma": _CHROMA}.get(scheme)
    return None if form is None or rest.startswith("//") else (scheme, _directory_and_name(url, rest, form)[0])


def _refuse_secrets(url: str) -> None:
    """Raise UnknownStore for a URL that may hold a key, which is the only error here that doesn't show the URL."""
    before, _, address = url.partition("//")
    if "/" not in before and any(sign in address for sign in "@?#"):
        raise UnknownStore(
            "A store URL takes no user, no key and nothing behind the collection's name. This one isn't shown: it may hold "
            f"one. Keys come from the environment, e.g. QDRANT_API_KEY. Known forms:\n{_known_forms()}"
        )


def _known_forms() -> str:
    return "\n".join(f"  {form:<35} e.g. {example:<38} {meaning}" for form, (example, meaning) in _FORMS.items())


def _malformed(url: str, why: str, form: str) -> UnknownStore:
    return UnknownStore(f"{url!r} can't be used: {why}. The form is {form}, e.g. {_FORMS[form][0]}")


def _open_edge(url: str, rest: str, placed: _Placing) -> Store:
    directory = _directory(url, rest, _EDGE)
    from sightline.stores.edge import EdgeStore  # loads qdrant_edge

    return EdgeStore(url, placed(directory, _EDGE_FILES))


def _open_qdrant(url: str, rest: str, placed: _Placing) -> Store:
    if rest.startswith("//"):
        server, collection = _server(url, _QDRANT, default_port=6334)
        _check_name(url, collection, _is_qdrant_name(collection), _QDRANT_RULE, _QDRANT)
        from sightline.stores.qdrant import QdrantStore  # loads qdrant_client

        return QdrantStore.on_server(url, server.host, server.port, collection, tls=server.tls)
    directory, collection = _directory_and_name(url, rest, _QDRANT_LOCAL)
    _check_name(url, collection, _is_qdrant_name(collection), _QDRANT_RULE, _QDRANT_LOCAL)
    from sightline.stores.qdrant import QdrantStore  # loads qdrant_client

    return QdrantStore.in_directory(url, placed(directory, _QDRANT_FILES), collection)


def _open_chroma(url: str, rest: str, placed: _Placing) -> Store:
    directory, collection = _directory_and_name(url, rest, _CHROMA)
    _check_name(url, collection, _is_chroma_name(collection), _CHROMA_RULE, _CHROMA)
    from sightline.stores.chroma import ChromaStore  # loads chromadb

    return ChromaStore.in_directory(url, placed(directory, _CHROMA_FILES), collection)


def _open_chroma_server(url: str, rest: str, placed: _Placing) -> Store:
    server, collection = _server(url, _CHROMA_SERVER, default_port=443 if url.startswith("chroma+https:") else 8000)
    _check_name(url, collection, _is_chroma_name(collection), _CHROMA_RULE, _CHROMA_SERVER)
    from sightline.stores.chroma import ChromaStore  # loads chromadb

    return ChromaStore.on_server(url, server.host, server.port, collection, tls=server.tls)


def _open_memory(url: str, rest: str, placed: _Placing) -> Store:
    from sightline.stores.memory import MemoryStore

    return MemoryStore(url, rest or None)


def _is_qdrant_name(name: str) -> bool:
    return _QDRANT_NAME.fullmatch(name) is not None


def _is_chroma_name(name: str) -> bool:
    return _CHROMA_NAME.fullmatch(name) is not None and ".." not in name and not _IP_ADDRESS.fullmatch(name)


def _check_name(url: str, name: str, is_right: bool, rule: str, form: str) -> None:
    if not is_right:
        raise _malformed(url, f"the collection name {name!r} is not one that the store takes ({rule})", form)


def _server(url: str, form: str, *, default_port: int) -> tuple[Server, str]:
    """Host and port of a URL, and what follows as the collection's name."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError as error:
        raise _malformed(url, f"the port is none ({error})", form) from error
    if not parts.hostname:
        raise _malformed(url, "it names no host", form)
    return Server(parts.hostname, port or default_port, tls=parts.scheme.endswith("+https")), parts.path.removeprefix("/")


def _directory_and_name(url: str, rest: str, form: str) -> tuple[Path, str]:
    parent, slash, collection = rest.replace("\\", "/").rpartition("/")
    if not slash:
        raise _malformed(url, "it has no '/' between directory and collection", form)
    return _directory(url, parent, form), collection


def _directory(url: str, text: str, form: str) -> Path:
    if not text.strip():
        raise _malformed(url, "the directory is empty", form)
    if text.startswith("//"):
        raise _malformed(url, "a path takes no '//' after the colon", form)
    if "\0" in text:
        raise _malformed(url, "a path can't hold a NUL character", form)
    try:
        # Resolved once: a later chdir changes nothing, and two spellings of one directory are one.
        return Path(text).expanduser().resolve()
    except (OSError, RuntimeError) as error:
        raise _malformed(url, f"the path can't be resolved ({error})", form) from error


_OPENERS: dict[str, Callable[[str, str, _Placing], Store]] = {
    "edge": _open_edge,
    "qdrant": _open_qdrant,
    "qdrant+https": _open_qdrant,
    "chroma": _open_chroma,
    "chroma+http": _open_chroma_server,
    "chroma+https": _open_chroma_server,
    "memory": _open_memory,
}
