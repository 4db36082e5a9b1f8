"""Facts about source code: which definitions are found, and that chunks follow them."""

from __future__ import annotations

import textwrap
from array import array

import pytest

from sightline.indexing.chunking import chunk, default_settings
from sightline.indexing.definitions import definitions
from sightline.testing import HashEmbedder
from sightline.types import Document

EMBEDDER = HashEmbedder()
LONG = "\n".join(f"        # {number}: what a method that is long enough has to say of itself" for number in range(20))


def found(text: str, language: str = "python") -> list[tuple[int, str, str]]:
    """Levels, titles, and texts of definitions."""
    starts = array("q", [0, *(at + 1 for at, character in enumerate(text) if character == "\n")])
    return [(one.level, one.title, text[one.start : one.end]) for one in definitions(text, starts, language)]


def titles(text: str, language: str = "code") -> list[tuple[int, str]]:
    return [(level, title) for level, title, _ in found(textwrap.dedent(text).strip("\n"), language)]


def paths(text: str, text_format: str, max_tokens: int = 256) -> list[tuple[str, str]]:
    """Heading paths of chunks, and how these begin; the chunks hold all of the text."""
    document = Document("kb/a", text, text_format)
    chunks = chunk(document, default_settings(EMBEDDER, max_tokens), EMBEDDER)
    assert "".join("".join(one.text.split()) for one in chunks) == "".join(text.split())
    assert all(text[one.start : one.end] == one.text for one in chunks)
    return [(" > ".join(one.heading_path), one.text.splitlines()[0]) for one in chunks]


PYTHON = f'''"""A module."""
import os

# Above it.
@decorated(
    "x",
)
async def tide(day: int) -> str:
    def inner():
        pass
    return "def nothing(): pass"


LIMIT = 3


class Lamp(Base):
    """A lamp."""

    def light(self):
{LONG}
        return 1

    class Wick:
        pass

    lit = False


if True:
    def last(): pass
# the end
'''


def test_definitions_of_python():
    """Functions, classes and what lies in long classes, with decorators and comments above; no functions within functions."""
    made = found(PYTHON)
    assert [(level, title) for level, title, _ in made] == [
        (1, "def tide"), (1, "class Lamp"), (2, "def light"), (2, "class Wick"), (1, "def last")
    ]  # fmt: skip
    assert made[0][2].startswith("# Above it.\n@decorated(")
    assert made[0][2].endswith('return "def nothing(): pass"\n')
    assert made[1][2].endswith("    lit = False\n")
    assert made[4][2] == "    def last(): pass\n"


def test_chunks_of_python_have_the_path_to_their_definition():
    """What stands between definitions belongs to none of them, or to the class around it."""
    assert paths(PYTHON, "python", 512) == [
        ("", '"""A module."""'),
        ("def tide", "# Above it."),
        ("", "LIMIT = 3"),
        ("class Lamp", "class Lamp(Base):"),
        ("class Lamp > def light", "def light(self):"),
        ("class Lamp > class Wick", "class Wick:"),
        ("class Lamp", "lit = False"),
        ("", "if True:"),
        ("def last", "def last(): pass"),
        ("", "# the end"),
    ]


def test_a_short_class_stays_whole():
    """Its methods alone would say little."""
    assert titles("class A:\n    def one(self): ...\n\n    def two(self): ...\n", "python") == [(1, "class A")]


@pytest.mark.parametrize(
    "text", ["def f(:\n    pass\n", "print 'x'\nclass A:\n    x = '''\n", "class A\n  end\n", "\tx\n  y\n", ""]
)
def test_what_is_no_python_is_read_by_its_layout(text):
    """A template, or another version's."""
    assert isinstance(titles(text, "python"), list)


def test_escapes_that_python_warns_of_are_no_trouble():
    """Nothing is compiled."""
    assert titles("def f():\n    return '\\d'\n", "python") == [(1, "def f")]


JAVA = f"""package a;

import b.C;

/** A lamp. */
@Named("lamp")
public class Lamp extends Thing {{
    private int oil;

    // Lights it.
    public void light(int day) {{
{LONG.replace("#", "//")}
        if (oil > 0) {{
            burn();
        }}
    }}

    int level() {{ return oil; }}

    enum Kind {{
        OIL,
    }}
}}
"""


def test_chunks_of_a_language_with_braces():
    """A class with its methods, each with what is written above it."""
    assert paths(JAVA, "code", 512) == [
        ("", "package a;"),
        ("public class Lamp extends Thing", "/** A lamp. */"),
        ("public class Lamp extends Thing > public void light(int day)", "// Lights it."),
        ("public class Lamp extends Thing", "int level() { return oil; }"),
        ("public class Lamp extends Thing > enum Kind", "enum Kind {"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("func (s *S) Run(p int) {\n\tx()\n}\n\ntype T struct {\n\tA int\n}", ["func (s *S) Run(p int)", "type T struct"]),
        ("impl<T> Lamp for Oil<T> {\n    fn burn(&self) -> u8 {\n        1\n    }\n}", ["impl<T> Lamp for Oil<T>"]),
        ("#include <x.h>\n\nstatic int\nmain(int argc,\n     char **argv)\n{\n    return 0;\n}", ["main(int argc"]),
        ("const tide = async (day) => {\n  x\n}\n\ntest('x', () => {\n  it()\n})", ["const tide = async (day)", "test('x', ()"]),
        ("module Tide\n  def self.high\n    1\n  end\nend", ["module Tide"]),
        ("light() {\n  echo 1\n}\n\nif true; then\n  light\nfi", ["light()"]),
        ("CREATE TABLE lamps (\n  id int\n);\n\nSELECT *\n  FROM lamps;", ["CREATE TABLE lamps", "SELECT *"]),
        (".lamp > a {\n  color: red;\n}\n\n@media print {\n  a { b: c }\n}", [".lamp > a", "@media print"]),
        ("import {\n  a,\n} from 'b'\n\n// note\n//   more", []),
        ("fun light(day: Int) =\n    day + 1\n\nval x = 1", ["fun light(day: Int)"]),
        ("x\n" * 10, []),
    ],
)
def test_definitions_by_layout(text, expected):
    """A line that says what it is, above lines that are indented more, in any language."""
    assert [title for _, title in titles(text)] == expected


def test_the_first_lines_of_a_definition_in_c_come_with_it():
    """Its type on a line of its own, and the comment above."""
    text = "int x;\n\n/* Begins here. */\nstatic int\nmain(void)\n{\n    return 0;\n}\n"
    ((_, _, whole),) = found(text, "code")
    assert whole == text[8:]


def test_an_inserted_function_moves_no_other_cut():
    """Each definition is cut by itself."""
    parts = [f"def f{number}(a):\n" + "".join(f"    a += {number * line}\n" for line in range(60)) for number in range(5)]
    before = {text for text in chunk_texts("\n\n".join(parts))}
    after = {text for text in chunk_texts("\n\n".join([*parts[:2], "def new():\n    return 1\n", *parts[2:]]))}
    assert after - before == {"def new():\n    return 1"}


def chunk_texts(text: str) -> list[str]:
    return [one.text for one in chunk(Document("kb/a", text, "python"), default_settings(EMBEDDER, 64), EMBEDDER)]
