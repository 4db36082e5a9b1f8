# ruff: noqa: E501 - a row of the table is a line
"""Files that are meant to break whoever reads them: how each is made, and what has to become of it.

A maker gives the content of the file, or writes what it likes at the path that it is given. `becomes` is INDEXED, EMPTY (a
document without text), UNSEEN (no kind that is read), or words of the reason that it is skipped with.
"""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import samples

INDEXED, EMPTY, UNSEEN = "<indexed>", "<empty>", "<unseen>"
MIB = 2**20
WORD = "lighthouse "  # of eleven characters
CONTENT_TYPES = "[Content_Types].xml"


@dataclass(frozen=True)
class Nasty:
    """A file by its path below the folder; `large` ones are left to the slow tests."""

    path: str
    make: Callable[[Path], bytes | str | None]
    becomes: str = INDEXED
    large: bool = False

    def write(self, folder: Path) -> None:
        """Make it."""
        path = folder / self.path
        path.parent.mkdir(parents=True, exist_ok=True)
        content = self.make(path)
        if content is not None:
            path.write_bytes(content.encode() if isinstance(content, str) else content)


def of(content: bytes | str) -> Callable[[Path], bytes | str]:
    return lambda path: content


def by(make: Callable[[], bytes | str]) -> Callable[[Path], bytes | str]:
    return lambda path: make()


def laughs(levels: int = 12) -> str:
    """Ten to the power of so many copies of one word, by entities."""
    entities = "".join(f'<!ENTITY l{one} "{f"&l{one - 1};" * 10}">' for one in range(1, levels))
    return f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY l0 "lol">{entities}]><x>&l{levels - 1};</x>'


def yaml_laughs() -> str:
    lines = "".join(f"l{one}: &l{one} [{', '.join([f'*l{one - 1}'] * 9)}]\n" for one in range(1, 12))
    return f"---\nl0: &l0 [lol, lol]\n{lines}---\nThe text below.\n"


OUTSIDE = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY x SYSTEM "file:///etc/passwd">]><x>&x;</x>'


def docx_with(name: str, content: bytes | str) -> Callable[[Path], bytes]:
    return lambda path: samples.with_member(samples.docx(), name, content)


def word_of(body: str) -> Callable[[Path], bytes]:
    namespace = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    return docx_with("word/document.xml", f'<w:document xmlns:w="{namespace}"><w:body>{body}</w:body></w:document>')


def xlsx_with(name: str, content: bytes | str) -> Callable[[Path], bytes]:
    return lambda path: samples.with_member(samples.xlsx(3), name, content)


def sheet(body: str) -> str:
    return f'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">{body}</worksheet>'


def bomb(sample: Callable[[], bytes], name: str) -> Callable[[Path], bytes]:
    """An archive with a member that unpacks to 600 MiB."""

    def make(path: Path) -> bytes:
        made = io.BytesIO(sample())
        with zipfile.ZipFile(made, "a", zipfile.ZIP_DEFLATED) as archive, archive.open(name, "w") as member:
            for _ in range(600):
                member.write(bytes(MIB))
        return made.getvalue()

    return make


def below_the_limit(path: Path) -> bytes:
    """A document of 200 MiB of XML in 200 kB."""
    body = b"<w:p><w:r><w:t>lamp</w:t></w:r></w:p>" * (200 * MIB // 37)
    head = b'<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>'
    return samples.with_member(samples.docx(), "word/document.xml", head + body + b"</w:body></w:document>")


def crowded(path: Path) -> bytes:
    """An archive whose directory lists a million members: 46 bytes each and their names."""
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"x"
    count = 1_000_000
    directory = entry * count
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(directory), 0)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(directory), 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return directory + end64 + locator + end


def encrypted_member(path: Path) -> bytes:
    data = bytearray(samples.docx())
    data[data.index(b"PK\1\2") + 8] |= 1
    return bytes(data)


def objects(*contents: str) -> bytes:
    """A PDF of these objects, without a table of where they are."""
    body = "".join(f"{number} 0 obj\n{content}\nendobj\n" for number, content in enumerate(contents, start=1))
    return f"%PDF-1.4\n{body}trailer\n<< /Size {len(contents) + 1} /Root 1 0 R >>\n%%EOF\n".encode()


def notebook(*cells: dict[str, object]) -> str:
    return json.dumps({"nbformat": 4, "metadata": {}, "cells": list(cells)})


def fifo(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    """A socket, by a short name: a longer one than 107 bytes has no address."""
    before = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


def link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**30)


def abyss(path: Path) -> None:
    """Folders in folders until a path is longer than the system takes, with a file in the last one."""
    before = os.getcwd()
    path.mkdir()
    os.chdir(path)
    try:
        for _ in range(22):
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
        with open("deep.md", "w", encoding="utf-8") as file:
            file.write("Deep down.")
    finally:
        os.chdir(before)


def ignored_by(line: str) -> Callable[[Path], str]:
    """A file beside an ignore file."""

    def make(path: Path) -> str:
        path.with_name(".gitignore").write_text(line + "\n", encoding="utf-8")
        return "Not left out."

    return make


def chart_sheet(path: Path) -> bytes:
    """A workbook with a chart sheet that has no chart."""
    from openpyxl import load_workbook

    workbook = load_workbook(io.BytesIO(samples.xlsx(3)))
    workbook.create_chartsheet("No chart")
    made = io.BytesIO()
    workbook.save(made)
    return made.getvalue()


def undecodable(path: Path) -> None:
    with open(os.fsencode(path.parent) + b"/\xff\xfe.md", "wb") as file:
        file.write(b"Its name is no UTF-8.")


SMALL = [
    # Bytes that are no text, or hardly.
    Nasty("bytes/latin1.txt", of("Größe".encode("latin-1")), "not UTF-8 at byte 2"),
    Nasty("bytes/cut-character.md", of("Größe €".encode()[:-1]), "not UTF-8 at byte"),
    Nasty("bytes/overlong.txt", of(b"\xc0\xafetc\xc0\xafpasswd"), "not UTF-8 at byte 0"),
    Nasty("bytes/surrogates.txt", of(b"a \xed\xa0\x80 b"), "not UTF-8 at byte 2"),
    Nasty("bytes/utf16-bare.txt", of("tide".encode("utf-16-le")), "UTF-16 without a byte order mark"),
    Nasty("bytes/utf16-half.txt", of(b"\xff\xfe" + "tide".encode("utf-16-le")[:-1]), "not UTF-16"),
    Nasty("bytes/utf16.md", of("# tide".encode("utf-16"))),
    Nasty("bytes/utf32.txt", of("tide".encode("utf-32"))),
    Nasty("bytes/utf32-bare.txt", of("tide".encode("utf-32-le")), "binary"),
    Nasty("bytes/utf7.txt", of("+AGg-el+AGw-o")),  # ASCII, and read as that
    Nasty("bytes/nul.py", of(b"a = 1\n\0\n"), "a zero byte at 6"),
    Nasty("bytes/nul.csv", of(b"a,b\n\0,1\n"), "a zero byte at 4"),
    Nasty("bytes/nul.html", of(b"<p>\0</p>"), "a zero byte at 3"),
    Nasty("bytes/image.txt", of(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"), "not UTF-8 at byte 0|binary"),
    Nasty("bytes/controls.txt", of("".join(map(chr, range(1, 32))) + "\x7f\x80\x9f end")),
    Nasty("bytes/mark-only.md", of(b"\xef\xbb\xbf"), EMPTY),
    Nasty("bytes/mark16-only.txt", of(b"\xff\xfe"), EMPTY),
    Nasty("bytes/declares-nonsense.html", of(b'<meta charset="klingon"><p>caf\xe9</p>'), "not UTF-8"),
    Nasty("bytes/declares-utf7.html", of(b'<meta charset="utf-7"><p>+ADw-script+AD4-</p>')),
    # Texts that are one, but strange.
    Nasty("texts/blank.txt", of(" \t\n\u3000\u2028\r\n"), EMPTY),
    Nasty("texts/zero-width.txt", of("\u200b\u200d\ufeff\u2060")),
    Nasty("texts/combining.txt", of("\u0301" * 2000)),
    Nasty("texts/zalgo.md", of("e" + "\u0301" * 100_000)),
    Nasty("texts/right-to-left.md", of("# \u202eאבג\u202c\n\nsafe\u202eexe.txt \u2066\u2067\n")),
    Nasty("texts/unassigned.txt", of("\U0010ffff \ufffe \uffff \U000e0001")),
    Nasty("texts/carriage-returns.txt", of("a\rb\r\r\nc" * 1000)),
    Nasty("texts/line-separators.csv", of("a,b\n1\u20282,3\u2029\x85\n")),
    Nasty("texts/special-tokens.md", of("[CLS] </s> <|endoftext|> [PAD]" * 50)),
    # Markdown, and what stands before it.
    Nasty("md/quotes.md", of(">" * 20_000 + "deep")),
    Nasty("md/lists.md", by(lambda: "".join(" " * 2 * depth + "- a\n" for depth in range(500)))),
    Nasty("md/unclosed.md", of("```\n" + "# not a heading\n" * 500)),
    Nasty("md/links.md", of("[" * 10_000 + "a" + "](b)" * 10_000)),
    Nasty("md/references.md", by(lambda: "".join(f"[r{n}]: r{n - 1}\n" for n in range(5000)) + "[r1][r2]" * 1000)),
    Nasty("md/emphasis.md", of("*a_ " * 5000 + "`" * 5000)),
    Nasty("md/braces.md", of("# " + "{#" * 5000 + "\n\nx")),
    Nasty("md/table.md", of("|a" * 5000 + "|\n" + "|-" * 5000 + "|\n" + "|1" * 5000 + "|\n")),
    Nasty("front/laughs.md", by(yaml_laughs)),
    Nasty("front/code.md", of("---\na: !!python/object/apply:os.system ['false']\n---\nText.\n")),
    Nasty("front/deep.md", of("---\na: " + "[" * 20_000 + "\n---\nText.\n")),
    Nasty("front/odd-keys.md", of("---\n2026-02-30: 1\non: yes\n1: {2: 3}\n? [a]\n: b\n---\nText.\n")),
    Nasty("front/dates.md", of("---\ndate: 2026-02-30\nat: 2026-02-28T25:61:61Z\ninf: .inf\n---\nText.\n")),
    Nasty("front/clock.md", of("---\na: 1" + ":59" * 3000 + "\n---\nText.\n")),
    Nasty("front/reserved.md", of("---\nsightline_source: x\n---\nText.\n")),
    Nasty("front/long-key.md", of("+++\n" + "a." * 20_000 + "a = 1\n+++\nText.\n")),
    Nasty("front/longest-word.md", of("+++\n" + "a" * 60_000 + "\n+++\nText.\n")),
    Nasty("front/toml.md", by(lambda: "+++\n" + "".join(f"k{n} = {n}\n" for n in range(8000)) + "+++\nText.\n")),
    Nasty("front/endless.md", of("---\na: 1\n" + "b\n" * 5000)),
    # HTML.
    Nasty("html/deep.html", of("<div>" * 20_000 + "deep"), "nested too deeply"),
    Nasty("html/unclosed.html", of("<table><tr><td><p><b><a href='" * 200 + "text"), "nested too deeply"),
    Nasty("html/attribute.html", of('<ol start="' + "9" * 5000 + '"><li>a</ol>'), "not HTML that can be converted|failed"),
    Nasty("html/span.html", of('<table><tr><td colspan="999999999">a</td></tr></table>')),
    Nasty("html/blanks.html", of(" " * 200_000 + "<p>after blanks</p>")),
    Nasty("html/declaration.html", of("<![if gte mso 9]><p>office</p><![endif]><!x[<p>b")),
    Nasty("html/laughs.html", by(lambda: laughs() + "<p>text</p>")),
    Nasty("html/script.html", of("<script>alert(1)</script>"), EMPTY),
    Nasty("html/entities.html", of("<p>&#0; &#xD800; &#1114112; &nosuch; &" + "#9" * 5000 + "; text</p>")),
    # Archives.
    Nasty("zip/no-zip.docx", of("I am a text."), "not a Word document"),
    Nasty("zip/html.xlsx", of("<html><table><tr><td>1</td></tr></table></html>"), "not a workbook"),
    Nasty("zip/old.xlsx", of(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512)), "protected by a password, or of an older kind"),
    Nasty("zip/cut.pptx", by(lambda: samples.pptx()[:-2000]), "not a presentation"),
    Nasty("zip/tail.docx", by(lambda: samples.docx()[5000:]), "not a Word document|broken"),
    Nasty("zip/hollow.docx", by(lambda: samples.archive({})), f"its part {CONTENT_TYPES!r} is missing"),
    Nasty("zip/wrong.docx", by(samples.xlsx), "not a Word document"),
    Nasty("zip/wrong.epub", by(samples.docx), "container.xml"),
    Nasty("zip/locked.docx", encrypted_member, "encrypted"),
    Nasty("zip/laughs.docx", docx_with("word/document.xml", laughs()), "declares a document type"),
    Nasty("zip/outside.docx", docx_with("word/document.xml", OUTSIDE), "declares a document type"),
    Nasty("zip/outside16.docx", docx_with("word/document.xml", OUTSIDE.encode("utf-16")), "declares a document type"),
    Nasty("zip/laughs.xlsx", xlsx_with("xl/sharedStrings.xml", laughs()), "declares a document type"),
    Nasty("zip/laughs.pptx", lambda path: samples.with_member(samples.pptx(), "ppt/presentation.xml", laughs()), "document type"),
    Nasty("zip/laughs.epub", by(lambda: samples.epub(**{"O/b.opf": laughs()})), "declares XML entities"),
    Nasty("zip/outside.epub", by(lambda: samples.epub(**{"META-INF/container.xml": OUTSIDE})), "declares XML entities"),
    Nasty("zip/climbing.epub", by(lambda: samples.epub(**{"META-INF/container.xml": samples.CONTAINER.replace("O/b", "../../b")})), "is missing"),
    Nasty("zip/absolute.epub", by(lambda: samples.epub(**{"META-INF/container.xml": samples.CONTAINER.replace("O/b.opf", "/etc/passwd")})), "is missing"),
    Nasty("zip/russian-doll.docx", by(lambda: samples.with_member(samples.docx(), "word/media/a.zip", samples.docx()))),
    Nasty("zip/deep.docx", word_of("<w:sdt><w:sdtContent>" * 3000 + "</w:sdtContent></w:sdt>" * 3000), "not a Word document|deep"),
    Nasty("zip/empty.docx", word_of(""), EMPTY),
    Nasty("zip/dimension.xlsx", xlsx_with("xl/worksheets/sheet1.xml", sheet(
        '<dimension ref="A1:XFD1048576"/><sheetData><row r="1"><c r="A1" t="inlineStr"><is><t>x</t></is></c></row></sheetData>'))),
    Nasty("zip/chart-sheet.xlsx", chart_sheet),
    Nasty("zip/last-cell.xlsx", xlsx_with("xl/worksheets/sheet1.xml", sheet(
        '<sheetData><row r="1048576"><c r="XFD1048576"><v>1</v></c></row></sheetData>'))),
    Nasty("zip/beyond.xlsx", xlsx_with("xl/worksheets/sheet1.xml", sheet(
        '<sheetData><row r="999999999999"><c r="ZZZZ1"><v>1</v></c></row></sheetData>')), "not a workbook"),
    Nasty("zip/dates.xlsx", xlsx_with("xl/worksheets/sheet1.xml", sheet(
        '<sheetData><row r="1"><c r="A1" t="d"><v>2026-99-99</v></c></row></sheetData>')), "not a workbook"),
    # PDF.
    Nasty("pdf/text.pdf", of("no PDF at all"), "no PDF that can be read"),
    Nasty("pdf/cut.pdf", by(lambda: samples.pdf(["one", "two"])[:400]), "PDF"),
    Nasty("pdf/locked.pdf", by(lambda: samples.pdf(["one"], encrypt=samples.ENCRYPTION)), "encrypted with a password"),
    Nasty("pdf/circle.pdf", of(objects("<< /Type /Catalog /Pages 2 0 R >>", "<< /Type /Pages /Kids [2 0 R] /Count 9 >>")), "PDF|page"),
    Nasty("pdf/two-circles.pdf", of(objects(
        "<< /Type /Catalog /Pages 2 0 R >>", "<< /Type /Pages /Kids [3 0 R] /Count 9 >>",
        "<< /Type /Pages /Parent 2 0 R /Kids [2 0 R] /Count 9 >>")), "PDF|page"),
    Nasty("pdf/many-pages.pdf", of(objects("<< /Type /Catalog /Pages 2 0 R >>", "<< /Type /Pages /Kids [] /Count 2000000000 >>")), "PDF|page"),
    Nasty("pdf/no-text.pdf", by(lambda: samples.pdf([""])), "no text on its 1 page"),
    Nasty("pdf/dates.pdf", by(lambda: samples.pdf(["text"], info="/CreationDate (D:99999999999999+99'99')"))),
    Nasty("pdf/nested.pdf", of(objects("<< /Type /Catalog /Pages " + "[" * 20_000 + "]" * 20_000 + " >>")), "PDF"),
    # Notebooks and tables.
    Nasty("ipynb/types.ipynb", of(json.dumps({"nbformat": 4, "metadata": [], "cells": {"a": 1}})), EMPTY),
    Nasty("ipynb/cells.ipynb", of(json.dumps({"nbformat": 4, "cells": [1, None]})), "a cell that isn't an object"),
    Nasty("ipynb/sources.ipynb", by(lambda: notebook({"cell_type": 7, "source": {"a": [1]}}, {"cell_type": "code", "source": [1, "x", None]}))),
    Nasty("ipynb/deep.ipynb", of("[" * 100_000), "nested too deeply"),
    Nasty("ipynb/half.ipynb", by(lambda: notebook({"cell_type": "markdown", "source": "a \ud800 b"})), "half a character"),
    Nasty("ipynb/digits.ipynb", of('{"nbformat": ' + "9" * 10_000 + "}"), "no notebook"),
    Nasty("ipynb/unclosed.ipynb", by(lambda: notebook({"cell_type": "markdown", "source": "```\ncode"}, {"cell_type": "markdown", "source": "# Next"}))),
    Nasty("csv/quote.csv", of('a,b\n"1,2\n3,4\n')),
    Nasty("csv/field.csv", of("a,b\n" + "x" * 300_000 + ",2\n")),
    Nasty("csv/separator.csv", of("sep=;\nday;height\n1;4,2\n")),
    Nasty("csv/ragged.csv", of("a,b\n1\n1,2,3,4,5\n,,,\n")),
    Nasty("csv/wide.csv", of(",".join(["a"] * 5000) + "\n" + ",".join(["1"] * 5000))),
    Nasty("csv/commas.csv", of("," * 100_000), EMPTY),
    Nasty("csv/quotes.tsv", of('"' * 999 + "\ta\n" * 100)),
    # Rows.
    Nasty("rows/half.jsonl", of('{"text": "a \\ud800 b"}\n{"text": "whole"}\n'), "lone surrogate"),
    Nasty("rows/half-key.jsonl", of('{"text": "a", "x\\udfff": 1}\n'), "lone surrogate"),
    Nasty("rows/deep.jsonl", of('{"text": "a", "x": ' + "[" * 100_000 + "\n"), "nested too deeply|no JSON"),
    Nasty("rows/digits.jsonl", of('{"text": "a", "n": ' + "9" * 10_000 + "}\n"), "no JSON"),
    Nasty("rows/big-number.jsonl", of('{"text": "a", "n": 1e999, "m": 99999999999999999999}\n'), "a store keeps|inf"),
    Nasty("rows/nan.jsonl", of('{"text": "a", "n": NaN}\n'), "NaN is no JSON"),
    Nasty("rows/nul.jsonl", of('{"text": "a\\u0000b"}\n'), "a zero byte"),
    Nasty("rows/id.jsonl", of('{"id": "a\\n\\u001b[2J", "text": "a"}\n'), "no control characters"),
    Nasty("rows/twice.jsonl", of('{"text": "a", "text": "b"}\n'), "comes twice"),
    Nasty("rows/latin1.jsonl", of(b'{"text": "caf\xe9"}\n'), "not UTF-8 at byte"),
    # Source code.
    Nasty("code/brackets.py", of("(" * 50_000 + ")" * 50_000)),
    Nasty("code/indents.py", by(lambda: "".join(" " * depth + "if x:\n" for depth in range(300)))),
    Nasty("code/unclosed.py", of('def f():\n    """' + "never closed\n" * 200)),
    Nasty("code/title.c", of("int f" + "(" * 200_000 + "x\n  y;\n}\n")),
    Nasty("code/braces.js", of("a{" * 50_000 + "\n" + " b{" * 50_000)),
    Nasty("code/steps.c", by(lambda: "".join(" " * (depth % 400) + "class A {\n" for depth in range(2000)))),
    # Names, links and things that are no files.
    Nasty("names/a\nb\x1b[31m\t.md", of("A name of three lines.")),
    Nasty("names/" + "n" * 252 + ".md", of("A name of 255 bytes.")),
    Nasty("names/-rf --into=x;$(false)`false`.md", of("A name that shells would like.")),
    Nasty("names/\u202egpj.md", of("A name that is read backwards.")),
    Nasty("names/none.md/.gitkeep", of(""), UNSEEN),
    Nasty("names/\\xff\\xfe.md", undecodable),
    Nasty("things/fifo.md", fifo, "not a regular file"),
    Nasty("things/socket.md", listening, "not a regular file"),
    Nasty("things/zero.txt", link_to("/dev/zero"), "not a regular file"),
    Nasty("things/random.pdf", link_to("/dev/urandom"), "not a regular file"),
    Nasty("things/dangling.md", link_to("nowhere"), "can't be read: No such file"),
    Nasty("things/circle.md", link_to("circle.md"), "can't be read: Too many levels"),
    Nasty("things/up", link_to(".."), UNSEEN),
    Nasty("things/sparse.txt", sparse, "larger than 64 MiB"),
    Nasty("things/abyss", abyss, "the folder can't be read: File name too long"),
    Nasty("things/empty-folder/.keep", of(""), UNSEEN),
    Nasty("globs/name/" + "a" * 240 + ".md", ignored_by("*a" * 60 + "b")),
    Nasty("globs/path/" + "/".join(["a"] * 30) + "/x.md", ignored_by("**/a/" * 40 + "b"), INDEXED),
    Nasty("globs/brackets/x.md", ignored_by("[[:alpha:" * 2000 + "\n" + "[a-" * 2000 + "\n\\")),
    # Nothing at all, of each kind.
    *(
        Nasty(f"empty/nothing.{kind}", of(""), EMPTY)
        for kind in ("md", "txt", "rst", "html", "csv", "tsv", "py", "c", "ipynb")
    ),
    *(Nasty(f"empty/nothing.{kind}", of(""), "not a|no PDF") for kind in ("pdf", "docx", "pptx", "xlsx", "epub")),
    Nasty("empty/nothing.jsonl", of(""), UNSEEN),
]

LARGE = [
    *(
        Nasty(f"line/ten-megabytes.{kind}", of(WORD * (10 * MIB // len(WORD))), large=True)
        for kind in ("md", "txt", "rst", "html", "csv", "py", "c")
    ),
    Nasty("line/one-word.txt", of("x" * 10 * MIB), large=True),
    Nasty("line/one-row.jsonl", by(lambda: json.dumps({"text": WORD * (10 * MIB // len(WORD))})), large=True),
    Nasty("line/notebook.ipynb", by(lambda: notebook({"cell_type": "code", "source": "x = 1", "outputs": [WORD * MIB]})), large=True),
    Nasty("line/marks.txt", of("e" + "\u0301" * 1_000_000), large=True),
    Nasty("line/paragraphs.md", of("a\n\n" * MIB), large=True),
    Nasty("line/items.md", of("- a\n" * MIB), large=True),
    Nasty("line/lines.c", of("a\n" * MIB), large=True),
    Nasty("line/rows.md", of("|a|b|\n|-|-|\n" + "|1|2|\n" * 500_000), large=True),
    Nasty("line/rows.csv", of("a,b\n" * 500_000), large=True),
    Nasty("line/columns.csv", of(",".join(["a"] * 500_000) + "\n" + ",".join(["1"] * 500_000)), "a row of 500,000 fields; at most 16,384", large=True),
    Nasty("line/many-columns.csv", of((",".join(["a"] * 50_000) + "\n") * 200), "at most 16,384", large=True),
    Nasty("line/deep.html", of("<div>" * 100_000 + "deep"), "nested too deeply", large=True),
    Nasty("line/tags.html", of("<b>" * MIB), "nested too deeply|memory|longer", large=True),
    Nasty("line/values.ipynb", by(lambda: '{"nbformat": 4, "cells": [], "x": [' + "[]," * (20 * MIB) + "[]]}"), "memory", large=True),
    Nasty("line/values.jsonl", by(lambda: '{"text": "a", "x": [' + "[]," * (10 * MIB) + "[]]}"), "values", large=True),
    Nasty("bombs/bomb.docx", bomb(samples.docx, "word/media/a.bin"), "unpacks to", large=True),
    Nasty("bombs/bomb.xlsx", bomb(samples.xlsx, "xl/media/a.bin"), "unpacks to", large=True),
    Nasty("bombs/bomb.pptx", bomb(samples.pptx, "ppt/media/a.bin"), "unpacks to", large=True),
    Nasty("bombs/bomb.epub", bomb(samples.epub, "O/a.bin"), "unpacks to", large=True),
    Nasty("bombs/below-the-limit.docx", below_the_limit, "memory|longer|text|not a Word", large=True),
    Nasty("bombs/crowded.docx", crowded, "1,000,000 parts", large=True),
]
GOOD = {f"good/{number}.md": f"# Light {number}\n\nThe lamp of tower {number} burns all night." for number in range(12)}
