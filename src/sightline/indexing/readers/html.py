"""HTML -> Markdown of what a reader of the page sees."""

from __future__ import annotations

import re

from bs4 import BeautifulSoup
from bs4.exceptions import ParserRejectedMarkup
from markdownify import MarkdownConverter

from sightline.errors import UnreadableFile
from sightline.indexing.readers import Reading

_XML_DECLARATION = re.compile(r"\A\s*<\?xml[^>]*>")
_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n){2,}")
_UNSEEN = ("head", "title", "script", "style", "nav", "noscript", "template")


def read(text: str, source: str) -> Reading:
    """Markdown of a page, and its title."""
    if "<" not in text:
        return Reading(text)
    try:
        # XHTML is read as HTML like everything else; its declaration would only make the parser warn of that.
        soup = BeautifulSoup(_XML_DECLARATION.sub("", text, count=1), "html.parser")
    except ParserRejectedMarkup as error:
        raise UnreadableFile(f"not HTML that can be parsed: {error}") from error
    title = " ".join(soup.title.get_text().split()) if soup.title else ""
    for unseen in soup(list(_UNSEEN)):
        unseen.decompose()
    converter = MarkdownConverter(heading_style="ATX", escape_asterisks=False, escape_underscores=False)
    try:
        markdown = _BLANK_LINES.sub("\n\n", converter.convert_soup(soup)).strip()
    except ValueError as error:  # an attribute that should be a number and isn't
        raise UnreadableFile(f"not HTML that can be converted: {error}") from error
    return Reading(markdown, {"title": title} if title else {})
