"""Files that are zip archives within: what is broken, locked or made to burst is refused before any parser sees it."""

from __future__ import annotations

import io
import lzma
import re
import struct
import zipfile
import zlib

from sightline.errors import UnreadableFile

MAX_UNPACKED_BYTES = 512 * 2**20
_NAMELESS = re.compile(r"(?:file )?'?<_io\.BytesIO[^>]*>'?")
_MAX_MEMBERS = 100_000
# What zipfile raises at an archive whose directory or members aren't what they say.
_BROKEN = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError
)  # fmt: skip
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
# A document type comes before the root element; no writer puts more before that.
_HEAD = 64 * 2**10
_SAID_CHARACTERS = 200


def opened(data: bytes, what: str) -> zipfile.ZipFile:
    """The archive in a file's bytes.

    Args:
        data: All of the file.
        what: What it should be, for messages.

    Raises:
        UnreadableFile: It is none, it is encrypted, or it holds too much.
    """
    if data.startswith(_OLE):
        raise UnreadableFile(
            f"protected by a password, or of an older kind that isn't {what}; open it, and save it without a password as {what}"
        )
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        members = archive.infolist()
    except _BROKEN as error:
        raise UnreadableFile(f"not {what}: broken, or cut off ({error}); get it again, or open it and save it anew") from error
    unpacked = sum(member.file_size for member in members)
    if unpacked > MAX_UNPACKED_BYTES or len(members) > _MAX_MEMBERS:
        raise UnreadableFile(
            f"unpacks to {unpacked / 2**20:,.0f} MiB in {len(members):,} parts; at most {MAX_UNPACKED_BYTES // 2**20} MiB in "
            f"{_MAX_MEMBERS:,} are read. Split it, if it is what it says"
        )
    if any(member.flag_bits & 1 for member in members):
        raise UnreadableFile(f"encrypted; save it without a password as {what}")
    return archive


def member(archive: zipfile.ZipFile, name: str) -> bytes:
    """One part of an archive.

    Raises:
        UnreadableFile: It isn't there, or it is broken.
    """
    try:
        return archive.read(name)
    except KeyError as error:
        raise UnreadableFile(f"broken: its part {name!r} is missing; get it again, or open it and save it anew") from error
    except _BROKEN as error:
        raise _broken(name, error) from error


def office_file(data: bytes, what: str) -> io.BytesIO:
    """An Office file that may be parsed: a whole archive without document types, which its standard forbids.

    Raises:
        UnreadableFile: It isn't that.
    """
    with opened(data, what) as archive:
        for one in archive.infolist():
            if one.filename.endswith((".xml", ".rels")):
                _refuse_document_type(archive, one)
        member(archive, "[Content_Types].xml")
    return io.BytesIO(data)


def refused(what: str, error: Exception) -> UnreadableFile:
    """What a parser says of a file that it can't take, which it was given as bytes."""
    said = _NAMELESS.sub("it", " ".join(str(error).split())).rstrip(".")
    return UnreadableFile(f"not {what}: {said}; open it and save it anew")


def _refuse_document_type(archive: zipfile.ZipFile, one: zipfile.ZipInfo) -> None:
    try:
        with archive.open(one) as part:
            head = part.read(_HEAD)
    except _BROKEN as error:
        raise _broken(one.filename, error) from error
    head = head.replace(b"\0", b"")  # UTF-16 as well
    if b"<!DOCTYPE" in head or b"<!ENTITY" in head:
        raise UnreadableFile(f"its part {one.filename!r} declares a document type, which no Office file may; don't open it")


def _broken(name: str, error: Exception) -> UnreadableFile:
    said = str(error)[:_SAID_CHARACTERS]  # which may hold a name of 64 KiB
    return UnreadableFile(f"broken at its part {name[:_SAID_CHARACTERS]!r} ({said}); get it again, or open it and save it anew")
