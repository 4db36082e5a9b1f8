"""PDF -> text of its pages, as PDFium finds it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pypdfium2
import pypdfium2.raw as pdfium

from sightline.errors import UnreadableFile
from sightline.indexing.readers import Reading
from sightline.indexing.readers.properties import known, pdf_date

# What writers put where nobody gave a title or an author.
_NOBODY = re.compile(r"\(?(?:anonymous|unspecified|untitled(?: document)?)\)?", re.IGNORECASE)
# PDFium's marks for a hyphen at the end of a line: the word goes on in the next one.
_HYPHENATED = re.compile("[\ufffe\x02\u00ad][ \t]*\n?")
_CONTROLS = re.compile("[\0-\x08\x0b\x0e-\x1f\ufffe\uffff]")
_PAGE_BREAK = "\n\n"


def read(data: bytes, source: str) -> Reading:
    """Text of all pages with anchors to them.

    Raises:
        UnreadableFile: It is encrypted or broken, or has pages and no text.
    """
    document = _opened(data)
    parts: list[str] = []
    anchors: list[tuple[int, dict[str, int]]] = []
    length = 0
    for number, text in enumerate(_pages(document), start=1):
        if text:
            anchors.append((length, {"page": number}))
            parts.append(text)
            length += len(text) + len(_PAGE_BREAK)
    if not parts:
        pages = "1 page" if len(document) == 1 else f"{len(document):,} pages"
        raise UnreadableFile(
            f"no text on its {pages}: scanned, most likely. Add text to it with OCR, e.g.: ocrmypdf IN.pdf OUT.pdf"
        )
    return Reading(_PAGE_BREAK.join(parts), _metadata(document), anchors)


def _opened(data: bytes) -> pypdfium2.PdfDocument:
    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) == pdfium.FPDF_ERR_PASSWORD:
            raise UnreadableFile(
                "encrypted with a password; save it without one, e.g.: qpdf --password=PASSWORD --decrypt IN.pdf OUT.pdf"
            ) from error
        said = str(error).rstrip(".")
        raise UnreadableFile(f"no PDF that can be read: {said}; get it again, or mend it: qpdf IN.pdf OUT.pdf") from error
    if not len(document):
        raise UnreadableFile("a PDF without pages: broken, or cut off; get it again")
    return document


def _pages(document: pypdfium2.PdfDocument) -> Iterator[str]:
    for number in range(len(document)):
        try:
            page = document[number]
            text = page.get_textpage().get_text_bounded()
            page.close()
        except pypdfium2.PdfiumError as error:
            raise UnreadableFile(f"broken at page {number + 1}: {error}; mend it, e.g.: qpdf IN.pdf OUT.pdf") from error
        text = _HYPHENATED.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
        lines = (line.rstrip() for line in _CONTROLS.sub("", text).split("\n"))
        yield "\n".join(lines).strip()


def _metadata(document: pypdfium2.PdfDocument) -> dict[str, str]:
    said = {key: "" if _NOBODY.fullmatch(value.strip()) else value for key, value in document.get_metadata_dict().items()}
    return known(
        title=said.get("Title"),
        author=said.get("Author"),
        subject=said.get("Subject"),
        keywords=said.get("Keywords"),
        created=pdf_date(said.get("CreationDate", "")),
        modified=pdf_date(said.get("ModDate", "")),
    )
