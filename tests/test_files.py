"""Facts about finding files and reading them."""

import builtins
import hashlib
import os
from pathlib import Path

import pytest

from sightline.errors import MissingExtra, UsageError
from sightline.indexing import files
from sightline.indexing.files import READABLE_SUFFIXES, FoundFile, discover, read_document
from sightline.types import Document, SkippedFile


def write(path: Path, content: str | bytes = "Some text.") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def sources(found):
    return [one.source for one in found]


def read(path: Path) -> Document | SkippedFile:
    return read_document(FoundFile(path, f"kb/{path.name}"))


def test_sources_are_the_folders_name_and_the_relative_path_in_order(tmp_path):
    """A source begins with the folder's own name, has no absolute part, and sources come sorted."""
    for name in ("b.md", "a/z.txt", "a/b/c.rst", "c.html"):
        write(tmp_path / "kb" / name)
    assert sources(discover([tmp_path / "kb"])) == ["kb/a/b/c.rst", "kb/a/z.txt", "kb/b.md", "kb/c.html"]


def test_a_single_file_is_called_by_its_folder(tmp_path):
    """A file named by itself has the source that it has when its folder is named."""
    path = write(tmp_path / "kb" / "a.md")
    assert discover([path]) == [FoundFile(path, "kb/a.md")]


def test_a_path_may_be_relative(tmp_path, monkeypatch):
    """The root's name is the folder's, also when it is written as a dot."""
    write(tmp_path / "kb" / "a.md")
    monkeypatch.chdir(tmp_path / "kb")
    assert sources(discover(["."])) == ["kb/a.md"]


def test_the_same_file_named_twice_is_one(tmp_path):
    """Naming a folder and a file in it reads the file once."""
    path = write(tmp_path / "kb" / "a.md")
    assert sources(discover([tmp_path / "kb", path, str(tmp_path / "kb")])) == ["kb/a.md"]


def test_two_files_under_one_source_are_refused(tmp_path):
    """Two folders of one name that hold a file of one name can't be told apart, so both are named."""
    write(tmp_path / "x" / "kb" / "a.md")
    write(tmp_path / "y" / "kb" / "a.md")
    with pytest.raises(UsageError, match=r"x/kb/a\.md.*y/kb/a\.md.*'kb/a\.md'.*Rename"):
        discover([tmp_path / "x" / "kb", tmp_path / "y" / "kb"])


def test_a_missing_path_is_named(tmp_path):
    """A path that doesn't exist is an error that names it."""
    with pytest.raises(UsageError, match=r"nowhere.*doesn't exist"):
        discover([tmp_path / "nowhere"])


def test_an_empty_folder_says_what_is_read(tmp_path):
    """A folder without a readable file is an error that lists the suffixes."""
    write(tmp_path / "kb" / "picture.png")
    with pytest.raises(UsageError, match=r"holds no file.*\.md \.markdown \.txt \.rst \.html \.htm"):
        discover([tmp_path / "kb"])


def test_no_path_at_all_is_refused():
    """An empty list of paths is an error, not an empty result."""
    with pytest.raises(UsageError, match="No path"):
        discover([])


def test_hidden_names_and_other_kinds_are_no_documents(tmp_path):
    """Names that begin with a dot and files of other kinds inside a folder are left out."""
    for name in ("a.md", ".hidden.md", ".git/b.md", "image.png", "Makefile"):
        write(tmp_path / "kb" / name)
    assert sources(discover([tmp_path / "kb"])) == ["kb/a.md"]


def test_a_named_file_of_another_kind_is_reported(tmp_path):
    """A file that the caller named isn't left out in silence."""
    (skipped,) = discover([write(tmp_path / "kb" / "a.png")])
    assert isinstance(skipped, SkippedFile)
    assert "'.png'" in skipped.reason
    assert ".md" in skipped.reason


def test_suffixes_are_read_in_either_case(tmp_path):
    """README.MD is Markdown."""
    (found,) = discover([write(tmp_path / "kb" / "README.MD")])
    assert read_document(found).reader == "markdown/1"


def test_links_are_followed_and_circles_end(tmp_path):
    """Linked files and folders are read, and a link to a folder above doesn't go on for ever."""
    write(tmp_path / "kb" / "docs" / "a.md")
    write(tmp_path / "elsewhere" / "b.md")
    (tmp_path / "kb" / "up").symlink_to(tmp_path / "kb")
    (tmp_path / "kb" / "again").symlink_to(tmp_path / "kb" / "docs")
    (tmp_path / "kb" / "other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "kb" / "file.md").symlink_to(tmp_path / "elsewhere" / "b.md")
    assert sources(discover([tmp_path / "kb"])) == ["kb/docs/a.md", "kb/file.md", "kb/other/b.md"]


@pytest.mark.parametrize("target", ["gone.md", "loop.md"])
def test_a_link_that_leads_nowhere_is_reported(tmp_path, target):
    """A broken link, or one to itself, is skipped with a reason."""
    write(tmp_path / "a.md")
    (tmp_path / "loop.md").symlink_to(tmp_path / target)
    (skipped,) = [one for one in discover([tmp_path]) if isinstance(one, SkippedFile)]
    assert "can't be read" in skipped.reason


def test_a_pipe_is_never_opened(tmp_path):
    """A named pipe, which would block for ever, is reported and not opened."""
    os.mkfifo(tmp_path / "pipe.md")
    (skipped,) = discover([tmp_path])
    assert "not a regular file" in skipped.reason
    assert "not a regular file" in read(tmp_path / "pipe.md").reason


def test_bytes_in_a_name_that_are_no_text_are_written_out(tmp_path):
    """A name that isn't UTF-8 gives a source that can be stored and shown."""
    name = os.fsdecode(b"caf\xe9.md")
    try:
        write(tmp_path / "kb" / name)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (found,) = discover([tmp_path / "kb"])
    assert found.source == "kb/caf\\xe9.md"
    assert read_document(found).text == "Some text."


@pytest.mark.parametrize(
    ("name", "text_format", "reader"),
    [
        ("a.md", "markdown", "markdown/1"),
        ("a.markdown", "markdown", "markdown/1"),
        ("a.txt", "text", "text/1"),
        ("a.rst", "rst", "rst/1"),
        ("a.html", "markdown", "html/1"),
        ("a.htm", "markdown", "html/1"),
    ],
)
def test_the_suffix_chooses_the_reader(tmp_path, name, text_format, reader):
    """Every readable suffix has a reader with a version, and a format for the chunker."""
    document = read(write(tmp_path / name))
    assert (document.format, document.reader) == (text_format, reader)
    assert Path(name).suffix in READABLE_SUFFIXES


def test_the_hash_is_of_the_bytes(tmp_path):
    """content_hash is the SHA-256 of what lies on the disk."""
    data = b"\xef\xbb\xbfa\r\nb"
    assert read(write(tmp_path / "a.txt", data)).content_hash == hashlib.sha256(data).hexdigest()


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
        (b"abc\xe9def", "not UTF-8 at byte 3; convert it with: iconv"),
        (b"\xef\xbb\xbfabc\xe9def", "not UTF-8 at byte 6"),
        (b"\xff\xfea\x00\x00\xd8", "not UTF-16 at byte 4"),
        (b"abc\0def", "binary: a zero byte at 3"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff", "binary: a zero byte at 8"),
        (b"", "empty"),
        (b" \n\t\r\n", "empty"),
    ],
)
def test_what_is_no_text_is_skipped_with_its_reason(tmp_path, content, reason):
    """Other encodings, binary files and empty ones are skipped, and the reason says where and what to do."""
    skipped = read(write(tmp_path / "a.txt", content))
    assert isinstance(skipped, SkippedFile)
    assert skipped.source == "kb/a.txt"
    assert skipped.reason.startswith(reason)


def test_a_file_over_the_limit_is_skipped(tmp_path, monkeypatch):
    """A file of more bytes than the limit isn't read; one of exactly as many is."""
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 2**20)
    assert isinstance(read(write(tmp_path / "a.txt", "x" * 2**20)), Document)
    assert "larger than 1 MiB" in read(write(tmp_path / "a.txt", "x" * (2**20 + 1))).reason


def test_what_may_not_be_read_is_skipped(tmp_path, monkeypatch):
    """A file or folder without permission is reported, and the rest is read."""

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path / "kb" / "a.md")
    monkeypatch.setattr(Path, "open", refuse)
    assert "Permission denied" in read(path).reason
    monkeypatch.setattr(os, "scandir", refuse)
    (skipped,) = discover([tmp_path / "kb"])
    assert skipped.source == "kb"
    assert "folder can't be read: Permission denied" in skipped.reason


def test_a_file_that_vanished_is_skipped(tmp_path):
    """A file that was deleted after it was found is reported."""
    assert "No such file" in read(tmp_path / "gone.md").reason


def test_front_matter_stays_in_the_text(tmp_path):
    """What a Markdown file says of itself is part of its text."""
    text = "---\ntitle: A\n---\n\n# B\n"
    assert read(write(tmp_path / "a.md", text)).text == text


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


def test_html_without_text_is_empty(tmp_path):
    """A page that shows nothing is skipped as empty."""
    assert read(write(tmp_path / "a.html", "<html><body><script>x</script></body></html>")).reason == "empty"


def test_html_nested_beyond_reason_is_skipped(tmp_path):
    """A page too deep for the parser is reported instead of ending the run."""
    assert "nested too deeply" in read(write(tmp_path / "a.html", "<div>" * 20_000 + "x")).reason


@pytest.mark.parametrize("package", ["bs4", "markdownify"])
def test_a_missing_parser_is_named_only_when_html_is_read(tmp_path, monkeypatch, package):
    """Without the parsers Markdown is read as ever, and HTML says which extra it needs."""
    original = builtins.__import__

    def without(name, *arguments, **keywords):
        if name.split(".")[0] == package:
            raise ImportError(name)
        return original(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    assert isinstance(read(write(tmp_path / "a.md")), Document)
    with pytest.raises(MissingExtra, match=r"sightline\[files\]"):
        read(write(tmp_path / "a.html", "<p>x</p>"))
