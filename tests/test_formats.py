"""Facts about the readers of each format: text, metadata and anchors of small files and of real ones, and what is refused."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import openpyxl
import pytest

import samples
from sightline import register_reader
from sightline.errors import UnreadableFile, UsageError
from sightline.indexing import readers
from sightline.indexing.chunking import chunk, default_settings
from sightline.indexing.files import FoundFile, discover, roots_of
from sightline.indexing.plan import plan_document
from sightline.indexing.readers import Reading, archives, formats
from sightline.indexing.reading import read_documents
from sightline.testing import HashEmbedder
from sightline.types import Document, SkippedFile

WRITTEN = samples.WRITTEN.isoformat()
EMBEDDER = HashEmbedder()


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Document | SkippedFile]:
    """`read(name, content)` is what a file becomes."""

    def write_and_read(name: str, content: bytes | str) -> Document | SkippedFile:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        (document,) = read_documents(FoundFile(path, f"kb/{name}", 0))
        return document

    return write_and_read


@pytest.fixture
def sample(shared_data: Path) -> Callable[[str], Document | SkippedFile]:
    """`sample(name)` is what a real file becomes."""
    folder = shared_data / "parser-samples"
    if not folder.is_dir():
        pytest.skip(f"no real files at {folder}")

    def read_sample(name: str) -> Document | SkippedFile:
        (document,) = read_documents(FoundFile(folder / name, f"kb/{name}", 0))
        return document

    return read_sample


@pytest.fixture
def own_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten."""
    monkeypatch.setattr(readers, "_READERS", dict(readers._READERS))


def place(document: Document, text: str) -> dict[str, object]:
    """Where a text of a document is from."""
    at = document.text.index(text)
    return dict([anchor for start, anchor in document.anchors if start <= at][-1])


def chunk_metadata(document: Document, max_tokens: int = 64) -> list[tuple[str, dict[str, object]]]:
    """Texts and metadata of a document's points in order."""
    chunks = chunk(document, default_settings(EMBEDDER, max_tokens), EMBEDDER)
    assert all(document.text[one.start : one.end] == one.text for one in chunks)
    plan = plan_document(document, chunks, "cut/1", [])
    points = sorted((plan.head, *plan.new), key=lambda point: point.metadata["start"])
    return [(point.text, dict(point.metadata)) for point in points]


def test_a_pdf_is_read_page_by_page(read):
    """Pages are apart, blank ones have no anchor, and what the file says of itself is metadata."""
    info = "/Title (The Lamp) /Author (A. Keeper) /CreationDate (D:20260203040506+01'00') /ModDate (D:2026)"
    document = read("a.pdf", samples.pdf(["First page\nof two", "", "Third page"], info=info))
    assert document.text == "First page\nof two\n\nThird page"
    assert document.anchors == ((0, {"page": 1}), (19, {"page": 3}))
    assert document.metadata == {
        "title": "The Lamp",
        "author": "A. Keeper",
        "created": "2026-02-03T04:05:06+01:00",
        "modified": "2026-01-01T00:00:00+00:00",
    }


def test_what_a_pdf_says_for_want_of_a_title_is_none(read):
    """Writers put 'untitled' and 'anonymous' where nobody said anything."""
    assert (
        read("a.pdf", samples.pdf(["x"], info="/Title (untitled) /Author (\\(anonymous\\)) /CreationDate (D:99)")).metadata == {}
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (samples.pdf(["", ""]), "no text on its 2 pages: scanned"),
        (samples.pdf(["secret"], encrypt=samples.ENCRYPTION), "encrypted with a password"),
        (samples.pdf(["x"])[:200], "no PDF that can be read"),
        (b"%PDF-1.4\n" + b"\xff" * 1000, "no PDF that can be read"),
        (b"", "no PDF that can be read"),
    ],
)
def test_a_pdf_that_cannot_be_read_says_why(read, content, reason):
    """And what to do about it."""
    assert reason in read("a.pdf", content).reason


def test_a_word_document_becomes_markdown(read):
    """Headings, lists and tables survive; a line that only looks like a heading stays text; a merged cell is said in each row."""
    document = read("a.docx", samples.docx())
    assert document.text == "\n\n".join(
        [
            "# The Lamp",
            "It burns every night.\n\\# no heading",
            "# Oil",
            "- rape oil",
            "1. fill",
            "## Grades",
            "| grade | use | price |\n| --- | --- | --- |\n| A\\|1 | lamp | 3 |\n| A\\|1 | engine | 2 |\n| B | x | 1 |",
            "End.",
        ]
    )
    assert document.metadata == {"title": "The Lamp", "author": "A. Keeper", "created": WRITTEN, "modified": WRITTEN}
    assert [metadata["heading"] for _, metadata in chunk_metadata(document)] == ["The Lamp", "Oil", "Oil > Grades"]


def test_a_presentation_becomes_markdown(read):
    """Each slide has a heading, so that no chunk is of two; tables and charts are tables, notes come last."""
    document = read("a.pptx", samples.pptx())
    assert document.text == "\n\n".join(
        [
            "# High water",
            "- twice a day\n  - by the moon",
            "## Notes",
            "Ask who lives by the sea.",
            "# Slide 2",
            "| day | height |\n| --- | --- |\n| 1 | 4.2 m |",
            "|  | storms |\n| --- | --- |\n| May | 2 |\n| June | 0.5 |",
        ]
    )
    assert document.metadata == {"title": "Tides", "author": "A. Keeper", "created": WRITTEN, "modified": WRITTEN}
    assert [metadata["slide"] for _, metadata in chunk_metadata(document)] == [1, 1, 2]


def test_every_chunk_of_a_long_sheet_names_its_columns_and_rows(read):
    """The header stands above every few rows, and rows are counted as the spreadsheet counts them."""
    document = read("a.xlsx", samples.xlsx())
    found = [(text, metadata) for text, metadata in chunk_metadata(document, 128) if metadata["sheet"] == "Log of 2026"]
    assert len(found) > 3
    assert all("| day | ship | tons |" in text for text, _ in found)
    table = "| day | ship | tons |\n| --- | --- | --- |\n| 2026-01-02 | Ship no. 1 | 1.5 |"
    assert found[0][0].startswith(f"# Log of 2026\n\nShips that passed\n\n{table}")
    for text, metadata in found:
        ships = [int(line.split("no. ")[1].split()[0]) for line in text.splitlines() if "no. " in line]
        assert metadata["row_end"] == ships[-1] + 3
        assert metadata["row"] == (ships[0] + 3 if metadata["start"] else 1)


def test_values_without_names_have_the_letters_of_their_columns(read):
    """A first row of values is no header; dates and truth are written as people read them; an empty sheet is nothing."""
    document = read("a.xlsx", samples.xlsx(1))
    _, _, values = document.text.partition("# Values\n\n")
    assert values == "| A | B | C |\n| --- | --- | --- |\n| 1 | True | 2026-01-02 03:04 |\n| 2 |  | a b |"
    assert place(document, "| 2 |") == {"sheet": "Values", "row": 2}
    assert "Empty" not in document.text
    assert document.metadata.items() >= {"title": "Log", "author": "A. Keeper", "created": WRITTEN}.items()
    assert document.metadata["modified"] > WRITTEN  # openpyxl says when it saved


def test_a_book_is_read_in_its_order(read):
    """A part without a heading of its own has that of the table of contents, which isn't text itself."""
    document = read("a.epub", samples.epub())
    assert document.text == "# First\n\nDark.\n\n# Second\n\nLight."
    assert document.metadata == {
        "title": "The Light",
        "author": "A. Keeper, B. Keeper",
        "language": "en",
        "created": "1911-05-06",
    }
    assert (place(document, "Dark"), place(document, "Light")) == ({"part": 1}, {"part": 2})


ENTITIES = '<!DOCTYPE x [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
LOCKED = '<encryption xmlns:e="x"><e:CipherReference URI="O/c.xhtml"/></encryption>'


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (samples.epub(**{"O/b.opf": ENTITIES + samples.PACKAGE.replace("The Light", "&b;")}), "declares XML entities"),
        (samples.epub(**{"META-INF/encryption.xml": LOCKED}), "protected against copying"),
        (samples.epub(**{"META-INF/container.xml": None}), "its part 'META-INF/container.xml' is missing"),
        (samples.epub(**{"O/c.xhtml": None}), "its part 'O/c.xhtml' is missing"),
        (samples.epub(**{"O/b.opf": "<package>"}), "is no XML"),
        (samples.epub()[:300], "broken, or cut off"),
    ],
)
def test_a_book_that_cannot_be_read_says_why(read, content, reason):
    """Also one that was made to do harm."""
    assert reason in read("a.epub", content).reason


OFFICE = {"a.docx": samples.docx, "a.pptx": samples.pptx, "a.xlsx": samples.xlsx}
PARTS = {"a.docx": "word/document.xml", "a.pptx": "ppt/presentation.xml", "a.xlsx": "xl/workbook.xml"}


@pytest.mark.parametrize("name", OFFICE)
def test_an_office_file_that_is_cut_off_says_so(read, name):
    """As after a download that broke."""
    assert "broken, or cut off" in read(name, OFFICE[name]()[:2000]).reason


@pytest.mark.parametrize("name", OFFICE)
def test_a_locked_office_file_says_so(read, name):
    """Office puts what it encrypts into a container of another kind."""
    assert "protected by a password" in read(name, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 1000).reason


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("name", OFFICE)
def test_an_office_file_with_entities_is_refused(read, name, encoding):
    """A billion laughs: XML that stands for gigabytes."""
    bomb = samples.with_member(OFFICE[name](), PARTS[name], f"{ENTITIES}<x>&b;</x>".encode(encoding))
    assert "declares a document type" in read(name, bomb).reason


@pytest.mark.parametrize("name", [*OFFICE, "a.epub"])
def test_a_file_that_unpacks_to_too_much_is_refused(read, name, monkeypatch):
    """A zip bomb is seen by what it says of itself, before anything is unpacked."""
    monkeypatch.setattr(archives, "MAX_UNPACKED_BYTES", 2**20)
    bomb = samples.archive({"[Content_Types].xml": "<x/>", "bomb.xml": b"\0" * 2**21})
    assert len(bomb) < 2**13
    assert "unpacks to 2 MiB" in read(name, bomb).reason


@pytest.mark.parametrize("name", OFFICE)
def test_an_archive_that_is_no_office_file_says_so(read, name):
    """A zip file with another name, and an Office file of another kind."""
    assert "[Content_Types].xml" in read(name, samples.archive({"a.txt": "x"})).reason
    other = next(one for one in OFFICE if one != name)
    refusal = read(name, OFFICE[other]())
    assert isinstance(refusal, SkippedFile)
    assert "BytesIO" not in refusal.reason


def notebook(**more: object) -> str:
    cells = [
        {"cell_type": "markdown", "source": ["# Tides\n", "Twice a day."]},
        {"cell_type": "code", "source": "print('```')\n", "outputs": [{"text": "a thousand lines"}]},
        {"cell_type": "raw", "source": "raw"},
    ]
    return json.dumps({"nbformat": 4, "cells": cells, "metadata": {"language_info": {"name": "python"}}, **more})


def test_a_notebook_is_its_texts_and_code(read):
    """Code stands in fences that it doesn't end, outputs are left out, and each cell is an anchor."""
    document = read("a.ipynb", notebook())
    assert document.text == "# Tides\nTwice a day.\n\n```python\nprint('```')\n```\n\n```\nraw\n```"
    assert [(place(document, text)["cell"]) for text in ("Tides", "print", "raw")] == [1, 2, 3]
    assert document.metadata == {"language": "python"}


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"nbformat": 4, "cells": [1]}', '{"nbformat": 4} x'])
def test_what_is_no_notebook_says_so(read, content):
    """JSON alone isn't one."""
    assert "no notebook" in read("a.ipynb", content).reason


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'ship,tons\nLark,12\n"Gull, the",7\n'),
        ("a.csv", "ship;tons\nLark;12\nGull, the;7\n"),
        ("a.tsv", "ship\ttons\nLark\t12\nGull, the\t7\n"),
    ],
)
def test_rows_of_fields_become_a_table(read, name, content):
    """The separator is the one that the rows agree on."""
    document = read(name, content)
    assert document.text == "| ship | tons |\n| --- | --- |\n| Lark | 12 |\n| Gull, the | 7 |"
    assert place(document, "| Gull") == {"row": 3}


@pytest.mark.parametrize(
    ("content", "header"),
    [
        ("land,2019,2020\nA,8.8,8.9", "| land | 2019 | 2020 |"),
        ("1,2\n3,4", "| column 1 | column 2 |"),
        ("A,1\nB,2", "| column 1 | column 2 |"),
        ("one\ntwo", "| one |"),
    ],
)
def test_a_first_row_of_values_names_no_columns(read, content, header):
    """Years beside words do."""
    assert read("a.csv", content).text.splitlines()[0] == header


def test_a_field_may_hold_other_line_ends_than_those_of_rows(read):
    """What Unicode calls a separator of lines or pages is no row's end."""
    assert read("a.csv", "name,text\nA,one\u2028two\x85three\nB,page\x0cbreak\n").text.splitlines()[2:] == [
        "| A | one two three |",
        "| B | page break |",
    ]


def test_each_value_of_a_wide_table_has_its_columns_name(read):
    """A header that is longer than some rows would be most of every chunk; cells without text are left out."""
    names = [f"weight of sample {number}" for number in range(20)]
    rows = [[f"{row}.{number}" if number != row else "" for number in range(20)] for row in range(12)]
    document = read("a.csv", "\n".join(map(",".join, [names, *rows])))
    assert document.text.split("\n\n")[1].splitlines()[:2] == ["weight of sample 0: 1.0", "weight of sample 2: 1.2"]
    found = list(chunk_metadata(document, 64))
    assert len(found) > 12
    assert {metadata["row"] for _, metadata in found} == set(range(2, 14))
    assert [line for text, _ in found for line in text.splitlines() if line and not line.startswith("weight of sample")] == []


def test_a_wide_table_ends_before_it_takes_the_memory(read):
    """Its columns' names in each row are hundreds of times the file."""
    header = ",".join(f"{'c' * 1000}{number}" for number in range(1000))
    assert "most that is read. Split it" in read("a.csv", header + f"\n{'v,' * 999}v" * 100).reason


def test_a_table_has_no_more_columns_than_a_spreadsheet_may(read):
    """All of them would stand above every chunk."""
    assert read("a.csv", ",".join(f"c{n}" for n in range(20_000))).reason.startswith("a row of 20,000 fields; at most 16,384")


def test_another_office_file_is_no_workbook(read):
    """The reason is the file's, not a failure of its reader."""
    assert read("a.xlsx", samples.docx()).reason.startswith("not a workbook (.xlsx): ")


def test_half_a_character_is_told(read):
    """JSON can hold one; the tokenizer would end the run."""
    cell = '{"cell_type": "markdown", "source": "x \\ud83d"}'
    assert "half a character, '\\ud83d', at character 2" in read("a.ipynb", f'{{"nbformat": 4, "cells": [{cell}]}}').reason


def test_an_unclosed_quotation_mark_swallows_no_row(read):
    """All quotation marks of that file are characters like others."""
    document = read("a.csv", 'ship,tons\n"Lark,12\nGull,7\n')
    assert document.text == '| ship | tons |\n| --- | --- |\n| "Lark | 12 |\n| Gull | 7 |'


def test_a_field_may_be_as_long_as_a_text(read):
    """Such as a page that somebody put into a table; the limit of the process is as before."""
    before = csv.field_size_limit()
    assert "x" * 300_000 in read("a.csv", "ship,log\nLark," + "x" * 300_000).text
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("said", ["sep=;", '"sep=;"'])
def test_a_first_line_may_name_the_separator(read, said):
    """It isn't a row, but counted as one, as spreadsheets do."""
    document = read("a.csv", f"{said}\nday;heights, in metres\n1;4,2\n")
    assert document.text == "| day | heights, in metres |\n| --- | --- |\n| 1 | 4,2 |"
    assert place(document, "4,2") == {"row": 3}


@pytest.mark.parametrize(("opened", "fence"), [("```py\nx", "```"), ("~~~~\n~~~\nx", "~~~~"), ("```\na\n```\n````\nx", "````")])
def test_a_fence_ends_with_its_cell(read, opened, fence):
    """What comes after it is no code."""
    cells = [{"cell_type": "markdown", "source": text} for text in (opened, "# Next")]
    document = read("a.ipynb", json.dumps({"nbformat": 4, "cells": cells}))
    assert document.text == f"{opened}\n{fence}\n\n# Next"


def test_a_chart_sheet_without_a_chart_fails_no_workbook(read):
    """The other sheets are read."""
    workbook = openpyxl.load_workbook(io.BytesIO(samples.xlsx(1)))
    workbook.create_chartsheet("Chart", 0)
    made = io.BytesIO()
    workbook.save(made)
    assert "Ship no. 1" in read("a.xlsx", made.getvalue()).text


def test_an_empty_table_is_a_document_without_text(read):
    """As any empty file."""
    assert read("a.csv", "\n\n").text == ""


def test_code_keeps_its_lines(read):
    """The text is the file's, and each chunk knows its lines."""
    document = read("a.py", "import os\n\n\ndef tide():\n    return 1\n\n\nclass Lamp:\n    lit = False\n")
    assert [(metadata["heading"], metadata["line"], metadata["line_end"]) for _, metadata in chunk_metadata(document)] == [
        ("", 1, 1),
        ("def tide", 4, 5),
        ("class Lamp", 8, 9),
    ]


def test_a_place_stands_above_metadata_of_the_same_name():
    """The document's own is kept under another name, where the keys meet."""
    document = Document("kb/a", "some text", metadata={"page": "x", "page_end": 1, "row": 2}, anchors=[(0, {"page": 7})])
    ((_, metadata),) = chunk_metadata(document)
    assert metadata.items() >= {"page": 7, "page_end": 7, "document_page": "x", "document_page_end": 1, "row": 2}.items()


def test_a_chunk_over_two_pages_names_both():
    """Bounds on both find every chunk that has something of a page."""
    document = Document("kb/a", "one two three four", anchors=[(0, {"page": 1}), (8, {"page": 2})])
    ((_, metadata),) = chunk_metadata(document)
    assert (metadata["page"], metadata["page_end"]) == (1, 2)


@pytest.mark.usefixtures("own_table")
class TestRegistering:
    def test_a_reader_of_ones_own(self, read, tmp_path):
        """Its files are found and read, with its name for the head."""
        register_reader(
            [".EML"], lambda data, source: Reading(data.decode().upper(), {"kind": "mail"}), name="mail/1", format="text"
        )
        document = read("a.eml", "hello")
        assert (document.text, document.reader, document.format, document.metadata) == (
            "HELLO",
            "mail/1",
            "text",
            {"kind": "mail"},
        )
        assert [file.source for file in discover(roots_of([tmp_path])).files] == [f"{tmp_path.name}/a.eml"]
        assert ".eml" in [one.suffix for one in formats()]

    def test_a_text_is_enough(self, read):
        """A reader without metadata gives the text alone."""
        register_reader([".eml"], lambda data, source: data.decode(), name="mail/1")
        assert read("a.eml", "hello").text == "hello"

    def test_another_suffix_for_a_reader_that_is_there(self, read):
        """By its name."""
        register_reader([".log", ".conf"], "text")
        assert (read("a.log", "x").reader, read("a.conf", "x").reader) == ("text/1", "text/1")

    @pytest.mark.parametrize(
        ("fails", "reason"),
        [
            (UnreadableFile("no mail; export it again"), "no mail; export it again"),
            (KeyError("From"), "its reader mail/1 failed (KeyError: 'From')"),
            (RecursionError(), "nested too deeply"),
        ],
    )
    def test_a_reader_that_fails_is_told_with_its_file(self, read, fails, reason):
        """The run goes on."""

        def fail(data, source):
            raise fails

        register_reader([".eml"], fail, name="mail/1")
        assert reason in read("a.eml", "x").reason

    @pytest.mark.parametrize(
        ("given", "reason"), [(None, "gave a NoneType"), (Reading("x", anchors=[(2, {}), (1, {})]), "in order")]
    )
    def test_what_is_no_reading_is_told(self, read, given, reason):
        """It isn't taken for an empty text."""
        register_reader([".eml"], lambda data, source: given, name="mail/1")
        assert reason in read("a.eml", "x").reason

    @pytest.mark.parametrize(
        ("suffixes", "reader", "options", "reason"),
        [
            (".eml", "text", {}, "list of suffixes"),
            (["eml"], "text", {}, "one dot"),
            ([".tar.gz"], "text", {}, "one dot"),
            ([".jsonl"], "text", {}, "rows of JSON"),
            ([".eml"], "texts", {}, "there are markdown, text"),
            ([".eml"], str, {}, "name='mail/1'"),
            ([".eml"], str, {"name": "mail"}, "name='mail/1'"),
            ([".eml"], str, {"name": "pdf/1"}, "Sightline's own"),
            ([".eml"], str, {"name": "mail/1", "format": "docx"}, "there are markdown, rst"),
            ([".eml"], lambda data, source: "", {"name": "mail/1", "isolated": True}, "couldn't import it"),
            ([".eml"], 3, {"name": "mail/1"}, "a function or the name"),
        ],
    )
    def test_what_cannot_be_registered_says_why(self, suffixes, reader, options, reason):
        """And what can."""
        with pytest.raises(UsageError, match=reason):
            register_reader(suffixes, reader, **options)


class TestRealFiles:
    """Files that others made."""

    @pytest.mark.parametrize("name", ["pypdf/crazyones.pdf", "pdfminer/jo.pdf", "markitdown/test.pdf"])
    def test_a_pdf_has_its_text(self, sample, name):
        """Also in Japanese, and with words that go over the end of a line."""
        expected = {
            "pypdf/crazyones.pdf": "The Crazy Ones\nOctober 14, 1998\nHeres to the crazy ones. The misfits. The rebels.",
            "pdfminer/jo.pdf": "あらゆる透明な幽霊の複合体",
            "markitdown/test.pdf": "agents that can leverage LLMs, human inputs, tools",
        }
        assert expected[name] in sample(name).text

    def test_a_pdf_has_its_metadata(self, sample):
        """As its writer said it."""
        assert sample("pypdf/metadata.pdf").metadata == {
            "title": "The Title",
            "author": "Martin Thoma",
            "subject": "The Subject",
            "keywords": "Some Keywords, other keywords; more keywords",
            "created": "2022-04-15T09:32:43+02:00",
            "modified": "2022-04-15T09:32:43+02:00",
        }

    @pytest.mark.parametrize(("text", "page"), [("Contents", 1), ("2 Bar\nHello", 2), ("9 Baz\nHello", 4)])
    def test_a_pdf_has_its_pages(self, sample, text, page):
        """Headings lie on the pages that its contents say."""
        assert place(sample("pypdf/pdflatex-outline.pdf"), text) == {"page": page}

    def test_a_damaged_pdf_gives_what_it_has(self, sample):
        """PDFium mends what can be mended."""
        assert "Beautiful is better than ugly." in sample("pdfminer/zen_of_python_corrupted.pdf").text

    @pytest.mark.parametrize(
        "name", ["pypdf/crazyones-encrypted-256.pdf", "pypdf/libreoffice-writer-password.pdf", "pdfminer/aes-256.pdf"]
    )
    def test_an_encrypted_pdf_is_told(self, sample, name):
        """By whatever program it was locked."""
        assert "encrypted with a password" in sample(name).reason

    def test_a_word_document(self, sample):
        """With its headings and its table."""
        document = sample("markitdown/test.docx")
        assert "\n\n## d666f1f7-46cb-42bd-9a39-9a39cf2a509f\n\n" in document.text
        assert "| 13 | 14 | 49e168b7-d2ae-407f-a055-2167576f39a1 | 15 | 16 | 17 |\n" in document.text
        assert document.metadata["author"] == "Adam Fourney"

    def test_formulas_and_tables_in_tables_are_text(self, sample):
        """Nothing of them is lost."""
        assert "The angle is θ=" in sample("markitdown/equations.docx").text
        assert "| Text before Table Between Text after |" in sample("python-docx/blk-paras-and-tables.docx").text
        assert "One awesome hyperlink." in sample("python-docx/par-hyperlinks.docx").text

    def test_a_presentation(self, sample):
        """Tables, charts and groups, each on its slide."""
        document = sample("markitdown/test.pptx")
        for text, slide in (
            ("Qingyun Wu", 1),
            ("1b92870d-e3b5-4e65-8153-919f4ff45592", 3),
            ("| 2003 | 2003 |", 4),
            ("nested shape", 5),
        ):
            assert place(document, text) == {"slide": slide}

    def test_a_workbook(self, sample):
        """Two sheets with their rows."""
        document = sample("markitdown/test.xlsx")
        assert place(document, "6ff4173b-42a5-4784-9b19-f49caff4d93d") == {"sheet": "Sheet1", "row": 14}
        assert place(document, "affc7dad")["sheet"] == "09060124-b5e7-4717-9d07-3c046eb"

    def test_a_book(self, sample):
        """Its chapters in order."""
        document = sample("markitdown/test.epub")
        assert document.text.startswith("# Chapter 1: Test Content\n\nThis is a **test** paragraph")
        assert document.metadata.items() >= {"title": "Test EPUB Document", "author": "Test Author", "language": "en"}.items()

    def test_a_notebook(self, sample):
        """Its title is metadata."""
        document = sample("markitdown/test_notebook.ipynb")
        assert document.text.startswith('# Test Notebook\n\n```python\nprint("markitdown")\n```')
        assert document.metadata == {"title": "Test Notebook Title", "language": "python"}

    def test_rows_in_another_encoding_are_told(self, sample):
        """Nothing is guessed."""
        assert "iconv" in sample("markitdown/test_mskanji.csv").reason
