"""Facts about reading files: how bytes become text and metadata, and what is refused."""

import hashlib
import json
import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sightline.errors import MissingExtra
from sightline.indexing import readers, reading
from sightline.indexing.encodings import decode
from sightline.indexing.files import FoundFile
from sightline.indexing.front_matter import MAX_CHARACTERS, without_front_matter
from sightline.indexing.readers import formats
from sightline.indexing.reading import JsonlFields, read_documents
from sightline.types import Document, SkippedFile


def write(path: Path, content: str | bytes = "Some text.") -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def found(path: Path) -> FoundFile:
    return FoundFile(path, f"kb/{path.name}", 0)


def read(path: Path) -> Document | SkippedFile:
    (document,) = read_documents(found(path))
    return document


def rows(path: Path, *lines, **fields) -> list[Document | SkippedFile]:
    content = b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    return list(read_documents(found(write(path, content)), JsonlFields(**fields)))


@pytest.mark.parametrize(
    ("name", "text_format", "reader"),
    [
        ("a.md", "markdown", "markdown/2"),
        ("README.MD", "markdown", "markdown/2"),
        ("a.markdown", "markdown", "markdown/2"),
        ("a.txt", "text", "text/1"),
        ("a.rst", "rst", "rst/1"),
        ("a.html", "markdown", "html/3"),
        ("a.htm", "markdown", "html/3"),
    ],
)
def test_the_suffix_chooses_the_reader(tmp_path, name, text_format, reader):
    """A suffix, in either case, has a reader with a version, and a format for the chunker."""
    document = read(write(tmp_path / name))
    assert (document.source, document.format, document.reader) == (f"kb/{name}", text_format, reader)


TEXTUAL = [one.suffix for one in formats() if one.suffix not in (".pdf", ".docx", ".pptx", ".xlsx", ".epub", ".ipynb")]


@pytest.mark.parametrize("suffix", TEXTUAL)
def test_what_is_found_can_be_read(tmp_path, suffix):
    """Every suffix of texts that is looked for has a reader."""
    document = read(write(tmp_path / f"a{suffix}", '{"text": "Some text."}\n'))
    assert isinstance(document, Document)


def test_the_hash_is_of_the_bytes(tmp_path):
    """content_hash is the SHA-256 of what lies on the disk."""
    data = b"\xef\xbb\xbfa\r\nb"
    assert read(write(tmp_path / "a.txt", data)).content_hash == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"<script>x</script>"])
def test_a_file_without_text_is_a_document_without_text(tmp_path, content):
    """An empty file is no failure: what was indexed of it before can go."""
    assert read(write(tmp_path / "a.html", content)).text == ""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be", "utf-32-le"])
def test_a_byte_order_mark_says_the_encoding(tmp_path, encoding):
    """UTF-8 needs no mark, UTF-16 and UTF-32 are known by theirs, and no mark is left in the text."""
    mark = "\ufeff" if encoding[-3:] in ("-le", "-be") else ""
    assert read(write(tmp_path / "a.txt", (mark + "Größe 漢字").encode(encoding))).text == "Größe 漢字"


def test_newlines_become_one_kind(tmp_path):
    """Windows and old Mac line ends become newlines, so that offsets and hashes of text agree."""
    assert read(write(tmp_path / "a.txt", "a\r\nb\rc\n")).text == "a\nb\nc\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"abc\xe9def", "not UTF-8 at byte 3; convert it with: iconv -f ISO-8859-1 -t UTF-8 'a.txt'"),
        (b"\xef\xbb\xbfabc\xe9def", "not UTF-8 at byte 6"),
        (b"\xff\xfea\x00\x00\xd8", "not UTF-16 at byte 4"),
        (b"abc\0def", "binary: a zero byte at 3"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff", "binary: a zero byte at 8"),
        ("Größe".encode("utf-16-le"), "binary, or UTF-16 without a byte order mark: a zero byte at 1; if it is text"),
        ("漢字 x".encode("utf-16-be"), "binary, or UTF-16 without a byte order mark: a zero byte at 4"),
        ("漢字".encode("iso2022_jp"), "ISO-2022, not UTF-8; convert it with: iconv -f ISO-2022-JP"),
        ("Größe".encode("cp1252"), "not UTF-8 at byte 2"),
    ],
)
def test_what_is_no_text_is_skipped_with_its_reason(tmp_path, content, reason):
    """Unknown encodings and binary files are skipped, and the reason says where and what to do."""
    skipped = read(write(tmp_path / "a.txt", content))
    assert isinstance(skipped, SkippedFile)
    assert skipped.source == "kb/a.txt"
    assert skipped.reason.startswith(reason)


@pytest.mark.parametrize(
    ("declaration", "encoding", "text"),
    [
        ('<meta charset="iso-8859-1">', "cp1252", "Größe “so”"),
        ("<META CHARSET=windows-1251>", "cp1251", "Размер"),
        ('<meta http-equiv="Content-Type" content="text/html; charset=gb2312">', "gb18030", "文件大小"),
        ("<meta http-equiv='Content-Type' content='text/html;charset=Shift_JIS'>", "cp932", "漢字①"),
        ("<?xml version='1.0' encoding='euc-kr'?>", "cp949", "크기"),
        ("<meta charset=iso-2022-jp>", "iso2022_jp", "漢字"),
        ("<meta charset=utf-16>", "utf-8", "Größe"),
        ("<meta charset=iso-8859-1>", "utf-8", "Größe"),
        ("<!-- <meta charset=koi8-r> --><meta charset=cp1251>", "cp1251", "Размер"),
    ],
)
def test_a_page_may_declare_its_encoding(declaration, encoding, text):
    """What a page declares is taken where it holds; a page that is UTF-8 is read as that, whatever it declares."""
    page = f"{declaration}<p>{text}</p>"
    assert decode(page.encode(encoding), "a.html", declares=True) == page


@pytest.mark.parametrize("declared", ["rot13", "utf-7", "unicode_escape", "idna", "no-such-codec", "../x", "x" * 100])
def test_only_encodings_of_pages_are_taken(tmp_path, declared):
    """A declaration can't choose any codec that Python happens to have."""
    skipped = read(write(tmp_path / "a.html", f"<meta charset={declared}><p>Gr\xf6\xdfe".encode("latin-1")))
    assert "not UTF-8" in skipped.reason
    assert "iconv" in skipped.reason


def test_a_declaration_that_doesnt_hold_is_told(tmp_path):
    """Bytes that are neither UTF-8 nor what the page declares aren't made into letters."""
    skipped = read(write(tmp_path / "a.html", b"<meta charset=euc-jp><p>\xff\xff"))
    assert skipped.reason.startswith("neither UTF-8 nor euc_jp, which it declares: see byte 24; convert it with: iconv")


def test_only_pages_declare_their_encoding(tmp_path):
    """A text about HTML isn't in the encoding that it speaks of."""
    assert isinstance(read(write(tmp_path / "a.md", b"<meta charset=iso-8859-1> \xe9")), SkippedFile)


def test_a_file_over_the_limit_is_skipped(tmp_path, monkeypatch):
    """A file of more bytes than the limit isn't read; one of exactly as many is."""
    monkeypatch.setattr(reading, "MAX_FILE_BYTES", 2**20)
    assert isinstance(read(write(tmp_path / "a.txt", "x" * 2**20)), Document)
    assert "larger than 1 MiB" in read(write(tmp_path / "a.txt", "x" * (2**20 + 1))).reason


def test_a_long_line_is_read_whole(tmp_path):
    """A text of ten megabytes may be a single line."""
    assert len(read(write(tmp_path / "a.md", "word " * 2**21)).text) == 5 * 2**21


def test_what_may_not_be_read_is_skipped(tmp_path, monkeypatch):
    """A file without permission is reported with the system's reason."""

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path / "a.md")
    monkeypatch.setattr(os, "open", refuse)
    assert "Permission denied" in read(path).reason


@pytest.mark.parametrize("name", ["gone.md", "gone.jsonl"])
def test_a_file_that_vanished_is_skipped(tmp_path, name):
    """A file that was deleted after it was found is reported."""
    assert "No such file" in read(tmp_path / name).reason


@pytest.mark.parametrize("name", ["pipe.md", "pipe.jsonl"])
def test_a_pipe_in_the_place_of_a_file_isnt_waited_for(tmp_path, name):
    """A named pipe, which would block for ever, is reported."""
    os.mkfifo(tmp_path / name)
    assert "not a regular file" in read(tmp_path / name).reason


def grow(path: Path):
    with path.open("ab") as file:
        file.write(b"+")


def test_a_file_that_changes_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    """What is given out is the file at one moment."""
    path = write(tmp_path / "a.txt", "a")
    calls, fstat = iter(range(9)), os.fstat
    # Each reading asks three times: for a regular file, before and after.
    monkeypatch.setattr(reading.os, "fstat", lambda number: (next(calls) == 2 and grow(path), fstat(number))[1])
    document = read(path)
    assert document.text == "a+"
    assert document.content_hash == hashlib.sha256(b"a+").hexdigest()


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    """An editor that saves by renaming doesn't leave the old text in the collection."""
    path, other = write(tmp_path / "a.txt", "old"), write(tmp_path / "b.txt", "new")
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    calls, fstat = iter(range(9)), os.fstat
    monkeypatch.setattr(reading.os, "fstat", lambda number: (next(calls) == 2 and other.replace(path), fstat(number))[1])
    assert read(path).text == "new"


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_file_that_never_rests_is_skipped(tmp_path, monkeypatch, name):
    """After three times, or once rows were given out, the change is reported."""
    path = write(tmp_path / name, '{"text": "a", "id": 1}\n')
    fstat = os.fstat
    monkeypatch.setattr(reading.os, "fstat", lambda number: (grow(path), fstat(number))[1])
    *_, skipped = read_documents(found(path))
    assert skipped == SkippedFile(f"kb/{name}", "changed while it was read; run again when nobody writes to it")


def test_front_matter_becomes_metadata(tmp_path):
    """YAML between two lines of dashes is what the file says of itself, with dates as ISO text and keys as written."""
    text = "---\ntitle: A\ndate: 2024-05-01\nat: 2024-05-01 10:00:00\ntags: [x, y]\non: yes\n2024: 1.5\n---\n\n# B\n"
    document = read(write(tmp_path / "a.md", text))
    assert document.metadata == {
        "title": "A", "date": "2024-05-01", "at": "2024-05-01T10:00:00", "tags": ["x", "y"], "on": True, "2024": 1.5
    }  # fmt: skip
    assert document.text.strip() == "# B"


def test_front_matter_may_be_toml(tmp_path):
    """TOML between two lines of plus signs is read as well."""
    text = '+++\ntitle = "A"\ndate = 2024-05-01\n[more]\nat = 10:00:00\n+++\nBody'
    document = read(write(tmp_path / "a.md", text))
    assert document.metadata == {"title": "A", "date": "2024-05-01", "more": {"at": "10:00:00"}}
    assert document.text.strip() == "Body"


def test_only_markdown_has_front_matter(tmp_path):
    """In other formats the same lines are text."""
    text = "---\ntitle: A\n---\n"
    assert read(write(tmp_path / "a.rst", text)).text == text


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=4), st.text(max_size=60))
def test_offsets_count_the_files_own_characters(metadata, body):
    """A piece of the text without front matter is the same piece of the file, and lines keep their numbers."""
    front = f"---\nkept: {json.dumps(metadata)}\n---\n"
    text, kept = without_front_matter(front + body, "kb/a.md")
    assert len(text) == len(front + body)
    assert text[len(front) :] == body
    assert text.count("\n") == (front + body).count("\n")
    assert not kept or not text[: len(front)].strip()


@pytest.mark.parametrize(
    "text",
    [
        "---\n\ntitle: A\n---\n",
        "---\nSome words.\n---\n",
        "---\n# A heading\n---\n",
        "---\n- a\n- b\n---\n",
        "---\ntitle: A\n",
        "----\ntitle: A\n---\n",
        " ---\ntitle: A\n---\n",
        "Text\n---\ntitle: A\n---\n",
    ],
)
def test_rules_between_paragraphs_are_no_front_matter(text, caplog):
    """What isn't a mapping between two lines at the very start is text, and nobody is bothered with it."""
    assert without_front_matter(text, "kb/a.md") == (text, {})
    assert not caplog.records


def test_empty_front_matter_is_no_text():
    """Two lines of dashes with nothing between them are what some site generators ask for."""
    assert without_front_matter("---\n---\nBody", "kb/a.md") == ("   \n   \nBody", {})


BOMB = "a: &a x\n" + "".join(f"{after}: &{after} [{','.join([f'*{before}'] * 9)}]\n" for before, after in pairwise("abcdefghi"))


@pytest.mark.parametrize(
    ("front", "reason", "line"),
    [
        ("title: A\nb: x: y\nc: 1", "mapping values are not allowed", 3),
        ("a: 1\nb: 2\na: 3", "the key 'a' comes twice", 4),
        ("a: 1\nb: !!set {x}", "values of the kind 'tag:yaml.org,2002:set'", 3),
        ("a: !!python/object:os.system x", "values of the kind", 2),
        ("a: .nan", "is nan", 2),
        ("a: 99999999999999999999", "99999999999999999999", 2),
        ("sightline_head: 1", "'sightline_head'", 2),
        ("a: \x07", "control characters", 2),
        ("? [a]\n: 1", "a key that isn't a text", 2),
        ("a: &a [*a]", "*a stands for nothing that came before it", 2),
        (BOMB, "its aliases stand for too much", 7),
        ("a: " + "[" * 20_000, "nested more than 32 levels deep", 2),
        ("a: " + "x" * MAX_CHARACTERS, "longer than 64 KiB", 2),
        ("a: 1" + ":00" * 300 + ".5", "too large", 2),
    ],
    ids=lambda value: str(value)[:20],
)
def test_front_matter_that_cant_be_kept_whole_stays_text(front, reason, line, caplog):
    """Nothing of it is lost: it is found as text, and one warning names the file, the line and the reason."""
    text = f"---\n{front}\n---\nBody"
    assert without_front_matter(text, "kb/a.md") == (text, {})
    (record,) = caplog.records
    message = record.getMessage()
    assert "kb/a.md" in message
    assert reason in message
    assert f"(line {line})" in message


@pytest.mark.parametrize(
    ("front", "line"),
    [("title", 2), ("a = 1\na = 2", 3), ("a = inf", 2), ("a" + ".a" * 30_000 + " = 1", 2), ("a = " + "[" * 9000, 2)],
    ids=lambda value: str(value)[:20],
)
def test_toml_that_cant_be_kept_whole_stays_text(front, line, caplog):
    """The same holds for TOML, also where its parser would take a quarter of a minute."""
    text = f"+++\n{front}\n+++\nBody"
    assert without_front_matter(text, "kb/a.md") == (text, {})
    assert f"(line {line})" in caplog.records[0].getMessage()


def test_aliases_and_merges_are_read(tmp_path):
    """YAML's shorthand for saying a thing twice is fine as long as it stays small."""
    _, metadata = without_front_matter("---\nbase: &b {a: 1, c: 2}\nmore:\n  <<: *b\n  a: 3\n---\n", "kb/a.md")
    assert metadata == {"base": {"a": 1, "c": 2}, "more": {"a": 3, "c": 2}}


def test_a_row_is_a_document(tmp_path):
    """Each row has its id below the file's source, its text, and all its other fields."""
    one, two = rows(tmp_path / "a.jsonl", {"id": "x/1", "text": "A.", "year": 2024}, {"text": "B.", "id": 2, "tags": ["t"]})
    assert (one.source, one.text, one.format, one.reader, one.metadata) == (
        "kb/a.jsonl/x/1", "A.", "text", "jsonl/1", {"year": 2024}
    )  # fmt: skip
    assert (two.source, two.text, two.metadata) == ("kb/a.jsonl/2", "B.", {"tags": ["t"]})


def test_fields_of_rows_may_be_chosen(tmp_path):
    """Text, id and metadata are the fields that the caller says; a row may lack metadata."""
    one, two = rows(
        tmp_path / "a.jsonl",
        {"key": 7, "body": "A.", "id": "i", "year": 1, "rest": 0},
        {"key": 8, "body": "B."},
        text="body",
        id="key",
        metadata=("id", "year"),
    )
    assert (one.source, one.text, one.metadata) == ("kb/a.jsonl/7", "A.", {"id": "i", "year": 1})
    assert (two.source, two.metadata) == ("kb/a.jsonl/8", {})


def test_a_metadata_field_that_no_row_has_is_told(tmp_path, caplog):
    """A slip of the pen in the name of a field doesn't pass unseen."""
    rows(tmp_path / "a.jsonl", {"text": "A."}, metadata=("yaer",))
    assert "'yaer'" in caplog.text


def test_a_row_without_an_id_is_called_by_its_text(tmp_path):
    """The id is a digest of the text, so that it stays when rows are moved; equal texts are told apart."""
    first = rows(tmp_path / "a.jsonl", {"text": "A."}, {"text": "B.", "id": None}, {"text": "A.", "n": 2})
    again = rows(tmp_path / "a.jsonl", {"text": "B."}, {"text": "A."}, {"text": "A.", "n": 2})
    assert len({row.source for row in first}) == 3
    assert {row.source for row in first} == {row.source for row in again}
    assert first[2].source == first[0].source + "-2"


def test_the_hash_of_a_row_is_of_its_text_and_metadata(tmp_path):
    """Another order of fields is the same row; another value is another."""
    one, two, three = rows(
        tmp_path / "a.jsonl",
        {"id": 1, "text": "A.", "a": 1, "b": 2},
        {"b": 2, "a": 1, "text": "A.", "id": 2},
        {"id": 3, "text": "A.", "a": 1, "b": 3},
    )
    assert one.content_hash == two.content_hash != three.content_hash


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "no JSON: Expecting property name"),
        (b"[1]", "a JSON list; a row is an object"),
        (b'{"text": "a\xff"}', "not UTF-8 at byte 11 of the line"),
        (b'{"body": "x", "id": 1}', "no text: the field 'text' isn't there. Fields of this row: 'body', 'id'"),
        (b"{}", "no text: the field 'text' isn't there. This row has no fields"),
        (b'{"text": null}', "the text in 'text' is null"),
        (b'{"text": 5}', "the text in 'text' is 5; it must be a string"),
        (b'{"text": "a\\u0000"}', "the text in 'text' holds a zero byte at character 1"),
        (b'{"text": "a\\ud800"}', "the text in 'text' of 'the row' holds the lone surrogate"),
        (b'{"text": "a", "x": NaN}', "NaN is no JSON"),
        (b'{"text": "a", "x": 1e999}', "metadata['x'] of"),
        (b'{"text": "a", "x": 99999999999999999999}', "metadata['x'] of"),
        (b'{"text": "a", "sightline_x": 1}', "Metadata key 'sightline_x'"),
        (b'{"text": "a", "text": "b"}', "the field 'text' comes twice"),
        (b'{"text": "a", "id": true}', "the id in 'id' is true; it must be a string or an integer"),
        (b'{"text": "a", "id": 1.0}', "the id in 'id' is 1.0"),
        (b'{"text": "a", "id": ""}', "the id in 'id' is ''"),
        (b'{"text": "a", "id": "a\\nb"}', "the id in 'id' is 'a\\nb'; it must have characters, and no control characters"),
        (b'{"text": "a", "id": "first"}', "the id 'first' has come before"),
        (b'{"text": "a", "x": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"text": "a", "x": ' + b"1" * 5000 + b"}", "no JSON that can be read"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_row_that_cant_be_used_is_skipped_by_its_line(tmp_path, line, reason):
    """The reason names the line and what is wrong, and reading goes on; blank lines are nothing."""
    before, skipped, after = rows(tmp_path / "a.jsonl", {"id": "first", "text": "A."}, b" ", line, {"id": "last", "text": "B."})
    assert (before.source, after.source) == ("kb/a.jsonl/first", "kb/a.jsonl/last")
    assert skipped.source == "kb/a.jsonl:3"
    assert skipped.reason.startswith(reason)


def test_a_chosen_id_has_to_be_there(tmp_path):
    """Where the caller chose the id, no digest takes its place."""
    (skipped,) = rows(tmp_path / "a.jsonl", {"text": "A.", "id": 1}, id="key")
    assert skipped.reason.startswith("no id: the field 'key' isn't there. Fields of this row: 'text', 'id'")


def test_an_integer_and_its_digits_are_one_id(tmp_path):
    """Two rows that would be called by one source are told."""
    _, skipped = rows(tmp_path / "a.jsonl", {"text": "A.", "id": 1}, {"text": "B.", "id": "1"})
    assert "'1' has come before" in skipped.reason


def test_a_line_that_is_too_long_is_skipped_and_reading_goes_on(tmp_path, monkeypatch):
    """A row is held to the limit of a document, its file isn't."""
    monkeypatch.setattr(reading, "MAX_FILE_BYTES", 100)
    read = rows(tmp_path / "a.jsonl", *[{"text": "x" * size} for size in (20, 80, 88, 89, 400, 20)])
    assert [isinstance(row, Document) for row in read] == [True, True, True, False, False, True]
    assert [row.source for row in read if isinstance(row, SkippedFile)] == ["kb/a.jsonl:4", "kb/a.jsonl:5"]


def test_the_last_line_needs_no_end(tmp_path):
    """A file may end without a newline, and begin with a byte order mark."""
    (row,) = read_documents(found(write(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"text": "A."}')))
    assert row.text == "A."


def test_rows_in_utf_16_are_refused(tmp_path):
    """JSON lines are UTF-8; the hint says how to make them so."""
    skipped = read(write(tmp_path / "a.jsonl", '{"text": "A."}'.encode("utf-16")))
    assert "iconv -f UTF-16 -t UTF-8 'a.jsonl'" in skipped.reason


PAGE = """<?xml version="1.0"?><!DOCTYPE html><html><head><title> The
 title </title><style>p {}</style></head><body><nav>Menu</nav><script>run()</script>
<h1>Top</h1><p>One <b>bold</b> snake_case word.</p><h2>Sub</h2><ul><li>first</li><li>second</li></ul>
<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table><pre><code># no heading</code></pre></body></html>"""


def test_html_becomes_markdown(tmp_path):
    """Headings, lists, tables and code survive, menus and scripts don't, and the title is metadata."""
    document = read(write(tmp_path / "a.html", PAGE))
    assert document.metadata == {"title": "The title"}
    for expected in ("# Top\n", "## Sub\n", "One **bold** snake_case word.", "* first\n", "| 1 | 2 |", "```\n# no heading\n```"):
        assert expected in document.text
    for unseen in ("Menu", "run()", "p {}", "xml", "title"):
        assert unseen not in document.text


def test_a_title_is_metadata_and_no_text(tmp_path):
    """Also on a page without a head."""
    document = read(write(tmp_path / "a.html", "<!doctype html><title>Tides</title><h1>High water</h1><p>Twice a day.</p>"))
    assert document.metadata == {"title": "Tides"}
    assert "Tides" not in document.text


@pytest.mark.parametrize("html", ["<ol start='²'><li>x</ol>", "<table><tr><td colspan='²'>x</td></tr></table>"])
def test_html_that_cannot_be_converted_is_skipped(tmp_path, html):
    """One odd page doesn't end a run."""
    assert isinstance(read(write(tmp_path / "a.html", html)), SkippedFile)


def test_html_nested_beyond_reason_is_skipped(tmp_path):
    """A page too deep for the parser is reported instead of ending the run."""
    assert "nested too deeply" in read(write(tmp_path / "a.html", "<div>" * 20_000 + "x")).reason


@pytest.mark.parametrize("package", ["bs4", "markdownify"])
def test_a_missing_parser_is_named_only_when_html_is_read(tmp_path, monkeypatch, package):
    """Without the parsers Markdown is read as ever, and HTML says which extra it needs."""
    monkeypatch.setattr(readers, "_is_installed", lambda module: module != package)
    assert isinstance(read(write(tmp_path / "a.md")), Document)
    with pytest.raises(MissingExtra, match=r"sightline\[files\]"):
        read(write(tmp_path / "a.html", "<p>x</p>"))
