"""What the pages show runs as it stands there, in the order of the page, and they name nothing that isn't there.

In blocks of shell, `sightline ...` runs in this process; behind it, `# exit code N` says how it ends (0 without that). What
prepares a page's folder (rm, echo) runs in a shell; what starts servers and installs is only compared with what it names. Servers
that a page speaks to are started for the test: Chroma's own, and a stand-in for Qdrant unless QDRANT_URL (e.g.
qdrant://localhost:6334) names a real one.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import click
import pytest
import yaml

from qdrant_stand_in import RunningServer
from servers import ChromaServer
from sightline.cli import cli, main
from sightline.embedding.models import DEFAULT_MODEL
from sightline.stores import open_store

pytestmark = pytest.mark.usefixtures("warm_minilm")
ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "examples" / "README.md"]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
# Those that ask a server are run by test_serving_examples.py.
ALONE = [example for example in EXAMPLES if not example.name.startswith(("server_", "remote_"))]
COMMANDS = cli.commands

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_EXIT_CODE = re.compile(r"\s+# exit code (\d)$")
_SHELL = ("rm ", "echo ")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
_CHROMA, _QDRANT = "chroma+http://localhost:8000/", "qdrant://localhost:6334/"
# Options of other programs that the pages name: docker, chroma, sglang, and the benchmarks.
_FOREIGN_OPTIONS = {
    "--detach", "--wait", "--path", "--host", "--port", "--cases", "--models", "--mixes", "--tokens", "--smoke", "--layers",
    "--profile", "--publish", "--volume", "--env", "--model-path", "--is-embedding", "--rounds", "--batch-size",
    "--lengths-via-tokenize",
}  # fmt: skip


def name_of(page: Path) -> str:
    """A page as people call it."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of a page's blocks, in order."""
    return _BLOCK.findall(page.read_text(encoding="utf-8"))


def shell_lines(page: Path) -> list[str]:
    """The lines of a page's shell blocks."""
    return [line for language, text in blocks(page) if language == "sh" for line in text.splitlines() if line]


def options_of(name: str) -> set[str]:
    """The long options of a command, and of those below it."""
    command = COMMANDS[name]
    every = [command, *(command.commands.values() if isinstance(command, click.Group) else ())]
    options = {option for one in every for parameter in one.params for option in parameter.opts}
    return {option for option in options if option.startswith("--")} | {"--help"}


def named_commands(page: Path) -> Iterator[list[str]]:
    """The words of every `sightline ...` on a page, in blocks and in the running text."""
    text = page.read_text(encoding="utf-8")
    for command in [*re.findall(r"^sightline .*", text, re.MULTILINE), *re.findall(r"(?<!`)`(sightline [^`\n]*)`", text)]:
        yield shlex.split(command, comments=True)


@pytest.fixture(scope="module")
def chroma_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """`chroma_server()` is the address of a server that runs from the first call on."""
    started: list[ChromaServer] = []

    def address() -> str:
        if not started:
            started.append(ChromaServer(tmp_path_factory.mktemp("chroma")))
        return f"chroma+http://127.0.0.1:{started[0].port}/"

    yield address
    for server in started:
        server.kill()


@pytest.fixture(scope="module")
def qdrant_server() -> Iterator[Callable[[], str]]:
    """`qdrant_server()` is the address of a stand-in, or of the server in QDRANT_URL with the beginning of names of our own."""
    started: list[RunningServer] = []
    real = os.environ.get("QDRANT_URL", "").rstrip("/")
    prefix = f"sightline-test-{uuid.uuid4().hex[:12]}-"

    def address() -> str:
        if real:
            return f"{real}/{prefix}"
        if not started:
            started.append(RunningServer())
        return started[0].url("")

    yield address
    for server in started:
        server.stop()
    if real:
        store = open_store(f"{real}/{prefix}")
        with closing(store), closing(store._database._make_client(True, 60)) as client:
            for one in client.get_collections().collections:
                if one.name.startswith(prefix):
                    client.delete_collection(one.name)


@pytest.fixture
def folder(tmp_path: Path, minilm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reader's working directory: what the pages begin with."""
    for name in ("handbook/visitors", "handbook/drafts", "notes", "models"):
        (tmp_path / name).mkdir(parents=True)
    lamp = "---\nlang: en\nyear: 2021\n---\n# The lamp\n\nThe lamp is cleaned with vinegar and a soft cloth.\n"
    fees = "---\nlang: de\nyear: 2023\n---\n# Eintritt\n\nDer Eintritt kostet neun Euro, für Kinder nichts.\n"
    tours = "<html><head><title>Tours</title></head><body><p>There is a tour at ten and at three.</p></body></html>"
    texts = {
        "handbook/lamp.md": lamp,
        "handbook/ferry.txt": "The ferry leaves at nine and comes back at five.\n",
        "handbook/kitchen.md": "# Kitchen\n\nThe kitchen closes at eight. E1021 means that the oven's door is open.\n",
        "handbook/visitors/fees.md": fees,
        "handbook/visitors/tours.html": tours,
        "handbook/drafts/roof.md": "# Roof\n\nWho repairs the roof is not decided yet.\n",
        "notes/roof.txt": "The roof over the workshop leaks.\n",
        "tickets.jsonl": "".join(json.dumps(row) + "\n" for row in TICKETS),
        "sentences.txt": "the lamp\nthe ferry\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "models" / "minilm").symlink_to(minilm_folder)
    monkeypatch.chdir(tmp_path)
    return tmp_path


TICKETS = [
    {"number": 17, "body": "The printer on the second floor prints blank pages.", "product": "printer", "year": 2023},
    {"number": 18, "body": "The door of the server room doesn't lock.", "product": "door", "year": 2024},
]

# What some pages say of their commands' outcome, in its order.
OUTCOMES = {
    "README.md": ["  handbook/lamp.md  The lamp", "Removed 1 document", "passed", "  handbook/lamp.md  '# The lamp", "(2, 384)"],
    "docs/coming-from.md": ["another program made it", "is adopted: 384", "ferry.md", "can't be adopted", "ferry"],
    "docs/formats.md": ["pdf/1", "[]", "keeper@example.org"],
    "docs/dimensions.md": [
        "isn't known to be trained to be cut", "handbook/lamp.md", "handbook/lamp.md", "handbook/lamp.md", "keeps one vector",
        "6 points cut", "handbook/lamp.md", "shorter vectors  128, 64", "no vectors of 64 dimensions any more",
        "handbook/lamp.md",
    ],
    "docs/how-to/adopt.md": ["Name it: --model MODEL", "Warning: Sightline didn't make", "didn't make it", "is adopted: 384"],
    "docs/how-to/chroma.md": ["The lamp is cleaned with vinegar and a soft cloth.", "handbook/lamp.md"],
    "docs/how-to/keep-a-folder-indexed.md": [
        "6 documents in edge:kb: 6 new", "0 new or changed, 6 unchanged", "(0 embedded",
        "No longer found, but kept: 1 document;", "1 removed", "More than half", "3 removed", "Removed 1 document from",
        "1 ignored", "No longer found, but kept: 1 document;",
    ],
    "docs/how-to/rebuild.md": ["the collection has 384, this embedder 128", "6 of its 6 documents", "now cut with"],
    "docs/how-to/rows-and-documents.md": ["help/tickets.jsonl/17", "2", "0", "['tickets/18']"],
}  # fmt: skip


class Reader:
    """Somebody who types a page's commands, one after another."""

    def __init__(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, servers: dict[str, Callable[[], str]]
    ) -> None:
        self._capsys = capsys
        self._monkeypatch = monkeypatch
        self._servers = servers
        self._names: dict[str, object] = {}

    def read(self, page: Path) -> str:
        """Do what a page shows; gives all that was printed."""
        shown = []
        for language, text in blocks(page):
            for step in text.splitlines() if language == "sh" else [text]:
                if language == "python":
                    exec(compile(step, name_of(page), "exec"), self._names)
                elif language == "sh":
                    self._type(step)
                captured = self._capsys.readouterr()
                shown.append(f"{captured.out}\n{captured.err}\n")
        return "".join(shown)

    def _type(self, line: str) -> None:
        if line.startswith("sightline "):
            self._run(line)
        elif line.startswith(_SHELL):
            subprocess.run(["sh", "-c", line], check=True, timeout=10)
        elif line.startswith("export "):
            name, value = line.removeprefix("export ").split("=", 1)
            self._monkeypatch.setenv(name, os.environ.get(name, value))  # a real server has a key of its own

    def _run(self, line: str) -> None:
        found = _EXIT_CODE.search(line)
        wanted = int(found[1]) if found else 0
        for address, server in self._servers.items():
            line = line.replace(address, server()) if address in line else line
        with pytest.raises(SystemExit) as ended:
            main(shlex.split(line, comments=True)[1:])
        assert (ended.value.code or 0) == wanted, (line, self._capsys.readouterr().err)


@pytest.fixture
def reader(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    chroma_server: Callable[[], str],
    qdrant_server: Callable[[], str],
) -> Reader:
    """A reader whose servers are those of the test."""
    return Reader(capsys, monkeypatch, {_CHROMA: chroma_server, _QDRANT: qdrant_server})


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_a_page_shows_runs(page: Path, folder: Path, reader: Reader) -> None:
    """Every command and every Python block, as one session; a command ends as the page says, and its outcome is as told."""
    lines = reader.read(page).splitlines()
    for wanted in OUTCOMES.get(name_of(page), ()):
        found = next((number for number, line in enumerate(lines) if wanted in line), None)
        assert found is not None, wanted
        del lines[: found + 1]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_short(example: Path) -> None:
    """At most 40 lines."""
    assert len(example.read_text(encoding="utf-8").splitlines()) <= 40


@pytest.mark.parametrize("example", ALONE, ids=lambda path: path.name)
def test_an_example_runs(example: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From any working directory."""
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out


def test_the_examples_page_names_every_example() -> None:
    """Who looks into the folder is told what lies there."""
    page = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert [example.name for example in EXAMPLES if example.name not in page] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_command_has_an_option_that_help_lacks(page: Path) -> None:
    """Neither in a block nor in the running text."""
    for words in named_commands(page):
        if words[1] in COMMANDS:
            given = {word.split("=", 1)[0] for word in words if word.startswith("--")}
            assert given <= options_of(words[1]), words
        else:
            assert words[1].startswith("--"), words
    everywhere = {option for name in COMMANDS for option in options_of(name)} | {"--version"} | _FOREIGN_OPTIONS
    text = re.sub(r"^(?:pip|docker|chroma) .*", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(_OPTION.findall(text)) <= everywhere


def test_every_option_is_explained_somewhere() -> None:
    """What the commands for collections can do stands on some page."""
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = set(_OPTION.findall(text))
    wanted = {option for name in COMMANDS for option in options_of(name)}
    assert wanted - named <= {"--help"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_shell_line_is_of_a_known_kind(page: Path) -> None:
    """No line is passed over because nothing knows how to check it."""
    known = ("sightline ", *_SHELL, "export ", "make ", "pip install ", "docker compose ", "chroma run ")
    assert [line for line in shell_lines(page) if not line.startswith(known)] == []


def test_servers_are_started_as_they_can_be() -> None:
    """Services are those of docker-compose.yml, and Chroma's own command has the options that the pages give it."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    up = re.compile(r"docker compose (?:--profile \w+ )?up --detach --wait ?([\w-]*)")
    composed = [one for text in texts for one in up.findall(text)]
    assert composed
    assert set(composed) <= {"", *services}
    chroma = str(Path(sys.executable).with_name("chroma"))
    helped = subprocess.run([chroma, "run", "--help"], capture_output=True, text=True, check=True, timeout=60)
    started = {option for text in texts for one in re.findall(r"chroma run .*", text) for option in _OPTION.findall(one)}
    assert started
    assert started <= set(_OPTION.findall(helped.stdout))


def test_extras_to_install_exist() -> None:
    """Every `pip install 'sightline[...]'` names extras of pyproject.toml."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    texts = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = {extra for given in re.findall(r"sightline\[([\w,]+)\]", texts) for extra in given.split(",")}
    assert named
    assert named <= set(extras)


def test_the_default_model_is_named_as_it_is() -> None:
    """README and how-to pages name the model that a new collection is made with."""
    for name in ("README.md", "docs/how-to/keep-a-folder-indexed.md"):
        assert f"`{DEFAULT_MODEL}`" in (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link leads to a file, and to a heading where it names one."""
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text(encoding="utf-8")):
        there = page.parent / target if target else page
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}, anchor


def test_every_page_can_be_reached_from_the_readme() -> None:
    """The README links to each page of docs/."""
    linked = {(ROOT / link).resolve() for link in re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text(encoding="utf-8"))}
    assert [name_of(page) for page in PAGES if page.is_relative_to(ROOT / "docs") and page not in linked] == []


def test_the_readme_names_every_command() -> None:
    """Who reads one page knows all that there is."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"sightline {name}" not in text] == []
