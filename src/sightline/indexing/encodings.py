"""bytes -> text: the encoding is known, or the file is refused with a hint; nothing is guessed into letters that may be wrong."""

from __future__ import annotations

import codecs
import re

# UTF-32 first: its little-endian mark begins with that of UTF-16.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Escape sequences of ISO-2022-JP, -KR and -CN, which are valid ASCII and would be read as gibberish.
_ISO_2022 = re.compile(rb"\x1b\$(?:[@AB]|[()*][A-HI])")
_DECLARED = re.compile(
    rb"""<\?xml[^>]{1,200}?\bencoding\s*=\s*["']([\w.:-]{1,40})|<meta[^>]{1,400}?\bcharset\s*=\s*["']?\s*([\w.:-]{1,40})""",
    re.IGNORECASE,
)
_COMMENT = re.compile(rb"<!--.*?-->", re.DOTALL)
_DECLARED_WITHIN = 4096
# Encodings that pages declare, by Python's names. As browsers do, the superset that is really meant is taken for some.
_DECLARABLE = {
    **{name: name for name in ("utf-8", "koi8-r", "koi8-u", "cp866", "cp874", "mac-roman", "mac-cyrillic", "gb18030")},
    **{name: name for name in ("big5hkscs", "euc_jp", "iso2022_jp", "cp932", "cp949", "johab", "hz")},
    **{f"cp{number}": f"cp{number}" for number in range(1250, 1259)},
    **{f"iso8859-{number}": f"iso8859-{number}" for number in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)},
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "big5": "big5hkscs",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
}
_SEVEN_BIT = frozenset({"iso2022_jp", "hz"})


class Undecodable(Exception):
    """Why bytes are no text that can be read."""


def decode(data: bytes, name: str, *, declares: bool = False) -> str:
    """Text of UTF-8 bytes, or of those that say what they are; every line ends in a newline.

    Args:
        data: All of the file.
        name: The file's name, for the hint.
        declares: The text may name its encoding, as HTML does.

    Raises:
        Undecodable: They are no text, or text in an encoding that isn't known.
    """
    mark, encoding = next((known for known in _BYTE_ORDER_MARKS if data.startswith(known[0])), (b"", "utf-8"))
    declared = _declared(data) if declares and not mark else None
    encoding = declared if declared in _SEVEN_BIT else encoding
    text = _strictly(data[len(mark) :], encoding)
    if text is None and declared and b"\0" not in data:
        # After UTF-8, which no text in another encoding is by chance, and which many a page is that declares something else.
        encoding = declared
        text = _strictly(data, encoding)
    if text is None:
        raise Undecodable(_not_in(encoding, data, len(mark), name))
    if "\0" in text:
        before = text[: text.index("\0")]
        raise Undecodable(_binary(len(mark) + len(before.encode(encoding))) if mark else _zero_byte(data, name))
    if encoding == "utf-8" and _ISO_2022.search(data):
        raise Undecodable(f"ISO-2022, not UTF-8; {_hint('ISO-2022-JP', name)}")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _strictly(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return None


def _not_in(encoding: str, data: bytes, start: int, name: str) -> str:
    """Where the bytes from `start` on aren't what they should be."""
    if not start and b"\0" in data:
        return _zero_byte(data, name)
    try:
        data[start:].decode(encoding)
    except UnicodeDecodeError as error:
        start += error.start
    if encoding.startswith("utf-"):
        family = encoding.upper().removesuffix("-LE").removesuffix("-BE")
        return f"not {family} at byte {start}; {_hint('ISO-8859-1', name)}, or from the encoding that it really has"
    return f"neither UTF-8 nor {encoding}, which it declares: see byte {start}; {_hint('ENCODING', name)}"


def _declared(data: bytes) -> str | None:
    """The encoding that a page declares, where it is one that pages are written in."""
    found = _DECLARED.search(_COMMENT.sub(b"", data[:_DECLARED_WITHIN]))
    if found is None:
        return None
    try:
        return _DECLARABLE.get(codecs.lookup((found[1] or found[2]).decode("ascii")).name)
    except (LookupError, UnicodeDecodeError, ValueError):
        return None


def _zero_byte(data: bytes, name: str) -> str:
    """Zero bytes that all stand at even, or all at odd places are halves of UTF-16 characters, more likely than not."""
    first = data.index(b"\0")
    if len(data) % 2 == 0 and b"\0" not in data[1 - first % 2 :: 2]:
        guess = "UTF-16LE" if first % 2 else "UTF-16BE"
        return f"binary, or UTF-16 without a byte order mark: a zero byte at {first}; if it is text, {_hint(guess, name)}"
    return _binary(first)


def _binary(position: int) -> str:
    return f"binary: a zero byte at {position}; only text can be read"


def _hint(encoding: str, name: str) -> str:
    return f"convert it with: iconv -f {encoding} -t UTF-8 {name!r}"
