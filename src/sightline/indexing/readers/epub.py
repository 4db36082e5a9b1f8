"""Book (EPUB) -> Markdown of its parts in the order in which they are read."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote
from xml.etree.ElementTree import ParseError
from zipfile import ZipFile

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from sightline.errors import UnreadableFile
from sightline.indexing.encodings import Undecodable, decode
from sightline.indexing.readers import Reading
from sightline.indexing.readers import html as html_reader
from sightline.indexing.readers.archives import member, opened
from sightline.indexing.readers.blocks import Blocks, one_line
from sightline.indexing.readers.properties import known

_WHAT = "a book (.epub)"
_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
_PAGES = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml")
_HEADING = re.compile(r"#{1,6} ")


@dataclass(slots=True)
class _Package:
    """What a book says of itself: its parts in order, those that are only for finding one's way, and its metadata."""

    parts: list[str]
    titles: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)


def read(data: bytes, source: str) -> Reading:
    """Markdown of a book's parts, with an anchor to each (counted from 1), and its title, author and date.

    Raises:
        UnreadableFile: It is protected, broken, or none.
    """
    with opened(data, _WHAT) as archive:
        package = _package(archive)
        _refuse_protected(archive, package)
        blocks = Blocks()
        for number, name in enumerate(package.parts, start=1):
            page = html_reader.read(_page(archive, name), source)
            if page.text.strip():
                blocks.anchor(part=number)
                title = package.titles.get(name, "")
                if not _HEADING.match(page.text) and title:
                    blocks.heading(title, 1)
                blocks.add(page.text)
    return blocks.reading(package.metadata)


def _package(archive: ZipFile) -> _Package:
    root = next((found.get("full-path") for found in _named(_xml(archive, _CONTAINER), "rootfile")), None)
    if not root:
        raise UnreadableFile(f"not {_WHAT}: its {_CONTAINER} names no content; get it again")
    package = _xml(archive, root)
    items = {item.get("id"): item for item in _named(package, "item") if item.get("href") and not _is_contents(item)}
    spine = [items[one.get("idref")] for one in _named(package, "itemref") if one.get("idref") in items]
    parts = [_resolved(root, item.get("href")) for item in spine if item.get("media-type") in _PAGES]
    return _Package(parts, _titles(archive, root, package), _metadata(package))


def _titles(archive: ZipFile, root: str, package: Any) -> dict[str, str]:
    """Titles of parts in the table of contents; EPUB 3 has it as a page, EPUB 2 as XML of its own."""
    for item in _named(package, "item"):
        where = _resolved(root, item.get("href", ""))
        if _is_contents(item):
            links = _nav_links(_xml(archive, where))
        elif item.get("media-type") == "application/x-dtbncx+xml":
            links = _ncx_links(_xml(archive, where))
        else:
            continue
        titles: dict[str, str] = {}
        for target, title in links:
            titles.setdefault(_resolved(where, target.partition("#")[0]), one_line(title))
        return titles
    return {}


def _is_contents(item: Any) -> bool:
    """Whether a part is the table of contents, which is for finding one's way."""
    return "nav" in item.get("properties", "").split()


def _nav_links(contents: Any) -> Iterator[tuple[str, str]]:
    return ((link.get("href", ""), "".join(link.itertext())) for link in _named(contents, "a"))


def _ncx_links(contents: Any) -> Iterator[tuple[str, str]]:
    for point in _named(contents, "navPoint"):
        target = next((content.get("src", "") for content in _named(point, "content")), "")
        yield target, next(("".join(label.itertext()) for label in _named(point, "navLabel")), "")


def _metadata(package: Any) -> dict[str, str]:
    said: dict[str, list[str]] = {}
    for tag in ("title", "creator", "language", "subject", "date"):
        said[tag] = [one_line(found.text or "") for found in _named(package, tag)]
    modified = [found.text or "" for found in _named(package, "meta") if found.get("property") == "dcterms:modified"]
    return known(
        title=next(iter(said["title"]), ""),
        author=", ".join(said["creator"]),
        language=next(iter(said["language"]), ""),
        keywords=", ".join(said["subject"]),
        created=next(iter(said["date"]), ""),
        modified=next(iter(modified), ""),
    )


def _refuse_protected(archive: ZipFile, package: _Package) -> None:
    """Fonts may be disguised; a text that is encrypted can't be read."""
    if _ENCRYPTION not in archive.namelist():
        return
    locked = {unquote(found.get("URI", "")) for found in _named(_xml(archive, _ENCRYPTION), "CipherReference")}
    if locked.intersection(package.parts):
        raise UnreadableFile("protected against copying (DRM); get it from its seller without protection")


def _page(archive: ZipFile, name: str) -> str:
    try:
        return decode(member(archive, name), name, declares=True)
    except Undecodable as error:
        raise UnreadableFile(f"its part {name!r} is {error}") from error


def _xml(archive: ZipFile, name: str) -> Any:
    try:
        return fromstring(member(archive, name))
    except DefusedXmlException as error:
        raise UnreadableFile(f"its part {name!r} declares XML entities, which attacks are made of") from error
    except (ParseError, ValueError) as error:
        raise UnreadableFile(f"not {_WHAT}: its part {name!r} is no XML ({error}); get it again") from error


def _named(element: Any, name: str) -> Iterator[Any]:
    """Elements below by their name, whatever its namespace."""
    return (found for found in element.iter() if isinstance(found.tag, str) and found.tag.rpartition("}")[2] == name)


def _resolved(base: str, target: str) -> str:
    """The name within the archive of what another part links to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(base), unquote(target)))
