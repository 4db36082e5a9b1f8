"""Facts about finding files: roots and their names, what counts, and what is left out."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sightline.errors import UsageError
from sightline.indexing.files import FoundFile, Root, Selection, discover, roots_of
from sightline.indexing.ignoring import MAX_IGNORE_BYTES


def write(path: Path, content: str | bytes = "Some text.") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def find(*paths, named=None, empty_ok=False, **selection):
    return discover(roots_of(paths, named), Selection(**selection), empty_ok=empty_ok)


def sources(found):
    return [one.source for one in found.files]


def tree(folder: Path, *names: str) -> Path:
    for name in names:
        write(folder / name)
    return folder


def test_sources_are_the_folders_name_and_the_relative_path_in_order(tmp_path):
    """A source begins with the folder's own name, has no absolute part, and sources come sorted."""
    tree(tmp_path / "kb", "b.md", "a/z.txt", "a/b/c.rst", "c.html", "rows.jsonl", "a.ndjson")
    expected = ["kb/a.ndjson", "kb/a/b/c.rst", "kb/a/z.txt", "kb/b.md", "kb/c.html", "kb/rows.jsonl"]
    assert sources(find(tmp_path / "kb")) == expected


def test_a_file_is_found_with_its_size(tmp_path):
    """What is found is the path, the source and the number of bytes."""
    path = write(tmp_path / "kb" / "a.md", "ä")
    assert find(tmp_path / "kb").files == (FoundFile(path, "kb/a.md", 2),)


def test_a_single_file_is_called_by_its_folder(tmp_path):
    """A file named by itself has the source that it has when its folder is named, and is all that was looked through."""
    path = write(tmp_path / "kb" / "a.md")
    found = find(path)
    assert sources(found) == ["kb/a.md"]
    assert found.scopes == ("kb/a.md",)


def test_the_scope_of_a_folder_is_its_name(tmp_path):
    """Folders are looked through whole, each under the name of its root."""
    tree(tmp_path, "x/a.md", "y/a.md")
    assert find(tmp_path / "x", named={"other": tmp_path / "y"}).scopes == ("x", "other")


def test_a_path_may_be_relative(tmp_path, monkeypatch):
    """The root's name is the folder's, also when it is written as a dot."""
    write(tmp_path / "kb" / "a.md")
    monkeypatch.chdir(tmp_path / "kb")
    assert sources(find(".")) == ["kb/a.md"]


def test_a_root_may_be_named(tmp_path):
    """A name that the caller gives stands in for that of a folder, or of a file's folder."""
    tree(tmp_path, "docs/a.md", "more/b.md")
    found = find(named={"handbook": tmp_path / "docs", "extra": tmp_path / "more" / "b.md"})
    assert sources(found) == ["extra/b.md", "handbook/a.md"]
    assert found.scopes == ("handbook", "extra/b.md")


@pytest.mark.parametrize("name", ["", " ", ".", "..", "a/b", "a\nb", "a\x7f", "\udcff"])
def test_a_name_that_cant_begin_a_source_is_refused(tmp_path, name):
    """A root's name is one visible part of a path."""
    with pytest.raises(UsageError, match=r"can't be the name of a root.*--root NAME=PATH"):
        roots_of([], {name: tmp_path})


def test_a_folder_without_a_name_needs_one():
    """The root of a file system can only be indexed under a name that was given."""
    with pytest.raises(UsageError, match=r"'/' has no name.*--root NAME=/"):
        roots_of(["/"])
    assert roots_of([], {"all": "/"}) == [Root("all", Path("/"))]


def test_one_path_alone_is_no_list_of_paths():
    """A string is refused where a list is meant, instead of being read letter by letter."""
    with pytest.raises(UsageError, match=r"Write \['docs'\]"):
        roots_of("docs")


def test_the_same_file_named_twice_is_one(tmp_path):
    """Naming a folder and a file in it reads the file once."""
    path = write(tmp_path / "kb" / "a.md")
    assert sources(find(tmp_path / "kb", path, str(tmp_path / "kb"))) == ["kb/a.md"]


def test_two_folders_of_one_name_are_one_root(tmp_path):
    """The same name from two places is the same root, as long as no two files share a source."""
    tree(tmp_path, "x/kb/a.md", "y/kb/b.md")
    found = find(tmp_path / "x" / "kb", tmp_path / "y" / "kb")
    assert sources(found) == ["kb/a.md", "kb/b.md"]
    assert found.scopes == ("kb",)


def test_two_files_under_one_source_are_refused(tmp_path):
    """Two folders of one name that hold a file of one name can't be told apart, so both are named."""
    tree(tmp_path, "x/kb/a.md", "y/kb/a.md")
    with pytest.raises(UsageError, match=r"x/kb/a\.md.*y/kb/a\.md.*'kb/a\.md'.*--root NAME="):
        find(tmp_path / "x" / "kb", tmp_path / "y" / "kb")


def test_a_missing_path_is_named(tmp_path):
    """A path that doesn't exist is an error that names it."""
    with pytest.raises(UsageError, match=r"nowhere.*doesn't exist"):
        find(tmp_path / "nowhere")


def test_an_empty_folder_says_what_is_read(tmp_path):
    """A folder without a readable file is an error that lists the suffixes, unless the caller wants to know of it."""
    write(tmp_path / "kb" / "picture.png")
    with pytest.raises(UsageError, match=r"holds no file.*\.md \.markdown \.txt \.rst \.html \.htm \.jsonl \.ndjson"):
        find(tmp_path / "kb")
    found = find(tmp_path / "kb", empty_ok=True)
    assert (found.files, found.scopes) == ((), ("kb",))


def test_a_folder_of_ignored_files_says_so(tmp_path):
    """Where all that could be read is left out, the error says by what."""
    tree(tmp_path / "kb", "a.md", "b/c.md")
    with pytest.raises(UsageError, match="2 files and folders in it are left out by ignore files or globs"):
        find(tmp_path / "kb", exclude=("*.md", "b/"))


def test_no_path_at_all_is_refused():
    """An empty list of paths is an error, not an empty result."""
    with pytest.raises(UsageError, match="No path"):
        find()


def test_hidden_names_and_other_kinds_are_no_documents(tmp_path):
    """Names that begin with a dot and files of other kinds inside a folder are left out by convention, and not counted."""
    found = find(tree(tmp_path / "kb", "a.md", ".hidden.md", ".git/b.md", "image.png", "Makefile"))
    assert sources(found) == ["kb/a.md"]
    assert (found.skipped, found.ignored) == ((), 0)


def test_a_named_file_of_another_kind_is_reported(tmp_path):
    """A file that the caller named isn't left out in silence."""
    (skipped,) = find(write(tmp_path / "kb" / "a.png")).skipped
    assert "'.png'" in skipped.reason
    assert ".md" in skipped.reason


def test_links_are_followed_and_circles_end(tmp_path):
    """Linked files and folders are read, also out of the root, and a link to a folder above doesn't go on for ever."""
    tree(tmp_path, "kb/docs/a.md", "elsewhere/b.md")
    (tmp_path / "kb" / "up").symlink_to(tmp_path / "kb")
    (tmp_path / "kb" / "again").symlink_to(tmp_path / "kb" / "docs")
    (tmp_path / "kb" / "other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "kb" / "file.md").symlink_to(tmp_path / "elsewhere" / "b.md")
    assert sources(find(tmp_path / "kb")) == ["kb/docs/a.md", "kb/file.md", "kb/other/b.md"]


@pytest.mark.parametrize("name", ["loop.md", "folder", "v1.2"])
@pytest.mark.parametrize("target", ["gone.md", "itself"])
def test_a_link_that_leads_nowhere_is_reported(tmp_path, name, target):
    """A broken link, or one to itself, is skipped with a reason, whatever its name: it may have been a folder."""
    write(tmp_path / "kb" / "a.md")
    (tmp_path / "kb" / name).symlink_to(tmp_path / "kb" / (name if target == "itself" else target))
    (skipped,) = find(tmp_path / "kb").skipped
    assert skipped.source == f"kb/{name}"
    assert "can't be read" in skipped.reason


def test_a_pipe_is_reported(tmp_path):
    """A named pipe isn't a file."""
    (tmp_path / "kb").mkdir()
    os.mkfifo(tmp_path / "kb" / "pipe.md")
    (skipped,) = find(tmp_path / "kb").skipped
    assert "not a regular file" in skipped.reason


def test_bytes_in_a_name_that_are_no_text_are_written_out(tmp_path):
    """A name that isn't UTF-8 gives a source that can be stored and shown."""
    try:
        write(tmp_path / "kb" / os.fsdecode(b"caf\xe9.md"))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert sources(find(tmp_path / "kb")) == ["kb/caf\\xe9.md"]


@pytest.mark.parametrize("odd_first", [False, True])
def test_a_name_that_is_written_out_gives_way_to_the_file_that_has_it(tmp_path, odd_first):
    """It is told and skipped, whichever is met first; the other is read."""
    try:
        odd = write(tmp_path / "kb" / os.fsdecode(b"caf\xe9.md"), "odd")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    plain = write(tmp_path / "kb" / "caf\\xe9.md", "plain")
    for given in ([odd, plain] if odd_first else [plain, odd], [tmp_path / "kb"]):
        found = discover(roots_of(given))
        assert [file.path.read_text() for file in found.files] == ["plain"]
        (skipped,) = found.skipped
        assert "rename it" in skipped.reason


def test_a_folder_that_may_not_be_read_is_skipped_by_its_own_source(tmp_path, monkeypatch):
    """What lies below such a folder can be told from its source, and the rest is read."""
    tree(tmp_path / "kb", "a.md", "locked/b.md")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = find(tmp_path / "kb")
    assert sources(found) == ["kb/a.md"]
    assert [one.source for one in found.skipped] == ["kb/locked"]
    assert "folder can't be read: Permission denied" in found.skipped[0].reason


def test_ignore_files_are_obeyed_and_counted(tmp_path):
    """What .gitignore leaves out is counted: a file each, and a folder once."""
    write(tmp_path / "kb" / ".gitignore", "build/\n*.txt\n!keep.txt\n")
    found = find(tree(tmp_path / "kb", "a.md", "b.txt", "keep.txt", "build/c.md", "build/d.md"))
    assert sources(found) == ["kb/a.md", "kb/keep.txt"]
    assert found.ignored == 2


def test_ignore_files_speak_of_their_own_folder(tmp_path):
    """A nested ignore file is relative to its folder, and has the last word there."""
    write(tmp_path / "kb" / ".gitignore", "draft*\n/a.md\n")
    write(tmp_path / "kb" / "sub" / ".gitignore", "!draft.md\n/b.md\n")
    found = find(tree(tmp_path / "kb", "a.md", "b.md", "draft.md", "sub/a.md", "sub/b.md", "sub/draft.md"))
    assert sources(found) == ["kb/b.md", "kb/sub/a.md", "kb/sub/draft.md"]


def test_our_own_ignore_file_has_the_last_word(tmp_path):
    """.sightlineignore has the same syntax, and takes in again what .gitignore leaves out."""
    write(tmp_path / "kb" / ".gitignore", "*.txt\n")
    write(tmp_path / "kb" / ".sightlineignore", "!notes.txt\r\nold.md\r\n")
    found = find(tree(tmp_path / "kb", "a.md", "old.md", "notes.txt", "other.txt"))
    assert sources(found) == ["kb/a.md", "kb/notes.txt"]


def test_ignore_files_may_be_passed_over(tmp_path):
    """On demand, ignore files say nothing."""
    write(tmp_path / "kb" / ".gitignore", "*\n")
    assert sources(find(tree(tmp_path / "kb", "a.md"), ignore_files=False)) == ["kb/a.md"]


def test_a_file_named_by_itself_is_always_read(tmp_path):
    """Neither globs nor ignore files leave out what the caller named."""
    write(tmp_path / "kb" / ".gitignore", "*\n")
    assert sources(find(write(tmp_path / "kb" / "a.md"), exclude=("*.md",))) == ["kb/a.md"]


def test_a_word_about_a_folder_is_none_about_its_files(tmp_path):
    """A nested rule that takes folders in again doesn't take in the files in them that a rule above leaves out."""
    write(tmp_path / "kb" / ".gitignore", "foo*\n")
    write(tmp_path / "kb" / "bar" / ".gitignore", "!*/\n")
    assert sources(find(tree(tmp_path / "kb", "bar/a/foo.md", "bar/a/b.md"))) == ["kb/bar/a/b.md"]


def test_a_folders_contents_may_be_taken_in_again_one_by_one(tmp_path):
    """`docs/**` leaves out what is in the folder, not the folder."""
    write(tmp_path / "kb" / ".gitignore", "docs/**\n!docs/keep.md\n")
    assert sources(find(tree(tmp_path / "kb", "docs/a.md", "docs/keep.md"))) == ["kb/docs/keep.md"]


RULES = ["*.md", "!a.md", "/docs/", "docs/**", "!docs/*/", "!docs/x/a.md", "**/x", "x/*", "[ab].md", "!?.md", "b/", "a b.md"]


@pytest.mark.parametrize("number", range(12))
def test_ignore_files_mean_what_they_mean_to_git(tmp_path, number):
    """Git lists the same files of a folder with rules at two levels."""
    if shutil.which("git") is None:
        pytest.skip("git isn't installed")
    names = [f"{folder}{name}" for folder in ("", "docs/", "docs/x/", "b/x/") for name in ("a.md", "b.md", "a b.md")]
    kb = tree(tmp_path / "kb", *names)
    write(kb / ".gitignore", "\n".join(RULES[number:] + RULES[: number // 2]))
    write(kb / "docs" / ".gitignore", "\n".join(RULES[: number // 3]))
    subprocess.run(["git", "init", "-q"], cwd=kb, check=True)
    command = ["git", "ls-files", "--others", "--exclude-per-directory=.gitignore", "-z"]
    listed = subprocess.run(command, cwd=kb, check=True, capture_output=True)
    expected = sorted(f"kb/{name}" for name in listed.stdout.decode().split("\0") if name.endswith(".md"))
    assert sources(find(kb, empty_ok=True)) == expected


@pytest.mark.parametrize(
    ("pattern", "name", "meets"),
    [
        ("*.md", "sub/a.md", True),
        ("/*.md", "sub/a.md", False),
        ("sub/*.md", "sub/a.md", True),
        ("sub/*.md", "top/sub/a.md", False),
        ("**/sub/*.md", "top/sub/a.md", True),
        ("top/**/a.md", "top/a.md", True),
        ("top/**/a.md", "top/x/y/a.md", True),
        ("sub*a.md", "sub/a.md", False),
        ("a?.md", "a1.md", True),
        ("[a-c].md", "b.md", True),
        ("[!a-c].md", "b.md", False),
        ("[]x].md", "].md", True),
        ("[[:digit:]].md", "7.md", True),
        ("[c-a].md", "b.md", False),
        ("\\[x\\].md", "[x].md", True),
        ("\\#a.md", "#a.md", True),
        ("\\!a.md", "!a.md", True),
        ("a.md   ", "a.md", True),
        ("a.md/", "a.md", False),
        ("A.md", "a.md", False),
    ],
)
def test_a_pattern_meets_a_path(tmp_path, pattern, name, meets):
    """A glob is anchored where it holds a slash, and its stars don't go beyond one."""
    found = find(tree(tmp_path / "kb", name, "other.txt"), exclude=(pattern,))
    assert (f"kb/{name}" not in sources(found)) is meets


def test_a_broken_rule_is_told_and_passed_over(tmp_path, caplog):
    """A line that is no pattern says nothing to Git; it is named in a warning, and the others hold."""
    write(tmp_path / "kb" / ".gitignore", "[z\n# note\n\n*.txt\n")
    assert sources(find(tree(tmp_path / "kb", "a.md", "b.txt"))) == ["kb/a.md"]
    (record,) = caplog.records
    assert "'[z'" in record.getMessage()


def test_a_folder_whose_rules_cant_be_read_is_skipped(tmp_path):
    """Without its rules, a folder isn't let in."""
    write(tmp_path / "kb" / "sub" / ".gitignore", "#" * (MAX_IGNORE_BYTES + 1))
    found = find(tree(tmp_path / "kb", "a.md", "sub/secret.md"))
    assert sources(found) == ["kb/a.md"]
    assert [one.source for one in found.skipped] == ["kb/sub"]
    assert "its ignore file can't be read: it is larger than 256 KiB" in found.skipped[0].reason


def test_globs_choose_files(tmp_path):
    """A file counts if it or a folder above it meets a glob to include, and none to exclude."""
    tree(tmp_path / "kb", "a.md", "b.txt", "docs/c.txt", "docs/old/d.txt", "x/docs/e.md")
    found = find(tmp_path / "kb", include=("*.md", "/docs/"), exclude=("old/",))
    assert sources(found) == ["kb/a.md", "kb/docs/c.txt", "kb/x/docs/e.md"]
    assert found.ignored == 2


@pytest.mark.parametrize("glob", ["", "  ", "# notes", "[a", "!", "/"])
def test_a_glob_that_says_nothing_is_refused(tmp_path, glob):
    """A glob that can meet nothing is an error, where in an ignore file it is passed over."""
    with pytest.raises(UsageError, match=r"is no glob to exclude.*'\*\.md'"):
        find(tmp_path, exclude=(glob,))
