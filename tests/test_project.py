"""Facts about the project as a whole: who imports whom, what an import costs, and that the files around the code are true."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml

import sightline
from sightline.cli.serve import serve

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "sightline"
KNOWLEDGE_BASE = ROOT / "examples" / "knowledge_base"

FOUNDATION = {"types", "errors", "protocols", "contract", "metadata", "cutting", "patience", "keys", "retries", "portions"}
# Part of the package -> the parts that it may import besides itself. "" is `sightline`, its public names.
MAY_IMPORT = {
    "types": set(),
    "errors": set(),
    "patience": set(),
    "portions": set(),
    "retries": {"errors", "patience", "keys"},
    "protocols": {"types", "errors"},
    "contract": {"types", "errors", "protocols"},
    "metadata": {"types", "errors"},
    "cutting": {"types", "errors"},
    "keys": set(),
    "adoption": {"types", "errors", "protocols", "contract", "cutting"},
    "layouts": {"types", "errors", "protocols", "contract"},
    "inspection": {"types", "errors", "protocols", "contract"},
    "copying": {"types", "errors", "protocols", "contract", "metadata"},
    "planning": {"types", "errors"},
    "calibration": {"types", "protocols", "planning"},
    "embedding": FOUNDATION,
    "stores": FOUNDATION,
    "indexing": FOUNDATION,
    "searching": FOUNDATION,
    "serving": {"", "api", "errors", "types", "keys"},
    "evaluation": {"", "api", "errors", "types"},
    "cli": {"", "api", "errors", "types", "doctor", "keys", "serving"},
    "__main__": {"cli"},
}
# Third-party package -> where alone it may be imported, below src/sightline.
HOME_OF = {
    "torch": "embedding/",
    "transformers": "embedding/",
    "tokenizers": "embedding/",
    "safetensors": "embedding/",
    "huggingface_hub": "embedding/",
    "qdrant_edge": "stores/edge",
    "qdrant_client": "stores/qdrant",
    "chromadb": "stores/chroma",
    "bs4": "indexing/readers/",
    "markdownify": "indexing/readers/",
    "pypdfium2": "indexing/readers/pdf",
    "docx": "indexing/readers/docx",
    "pptx": "indexing/readers/pptx",
    "openpyxl": "indexing/readers/xlsx",
    "lxml": "indexing/readers/",
    "defusedxml": "indexing/readers/",
    "pyarrow": "stores/parquet",
    "starlette": "serving/",
    "uvicorn": "serving/",
    "pydantic": "serving/",
    "prometheus_client": "serving/",
    "orjson": "serving/",
    "rich": "cli/",
    "click": "cli/",
}


def modules() -> list[Path]:
    """All source files of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def part_of(module: Path) -> str:
    """The part of the package that a source file belongs to: "embedding" for embedding/engine.py, "" for __init__.py."""
    first = module.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


@cache
def imports(module: Path) -> frozenset[str]:
    """Dotted names that a source file imports, anywhere in it, those for type checkers too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.update(imported_from(node))
    return frozenset(found)


def imported_from(node: ast.ImportFrom) -> Iterator[str]:
    """`from sightline import types` names a part, `from sightline.types import Hit` the part before the name."""
    if node.module == "sightline":
        yield from (f"sightline.{alias.name}" if is_part(alias.name) else "sightline" for alias in node.names)
    else:
        yield node.module or "."


def is_part(name: str) -> bool:
    """Whether `sightline.<name>` is a module rather than a public name."""
    return (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()


def parts_imported(module: Path) -> set[str]:
    """The parts of Sightline that a source file imports."""
    dotted = [name.split(".") for name in imports(module) if name.split(".")[0] == "sightline"]
    return {name[1] if len(name) > 1 else "" for name in dotted}


def run_python(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def tracked_files() -> list[Path]:
    """The files under version control; skips where this is not a checkout."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, e.g. an unpacked source distribution")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def name_of(module: Path) -> str:
    """Its dotted name."""
    return ".".join(("sightline", *module.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Each can be read, and understood, after those that it imports."""
    named = {name_of(module): module for module in modules()}
    needs = {name: (imports(module) & named.keys()) - {name} for name, module in named.items()}
    assert len(needs) > 100
    list(TopologicalSorter(needs).static_order())  # raises CycleError, which names them


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_a_part_imports_only_what_the_layers_allow(part: str) -> None:
    """Each part of the package imports itself and the parts below it, nothing else of ours."""
    allowed = MAY_IMPORT[part] | {part}
    broken = {
        str(module.relative_to(PACKAGE)): sorted(extra)
        for module in modules()
        if part_of(module) == part and (extra := parts_imported(module) - allowed)
    }
    assert not broken


def test_every_part_has_an_import_rule() -> None:
    """A new part of the package can't slip past the layers: only the wiring and the tools for tests stand above them."""
    above_the_layers = {"", "api", "opening", "agreement", "collection", "testing", "doctor"}
    assert {part_of(module) for module in modules()} <= set(MAY_IMPORT) | above_the_layers


@pytest.mark.parametrize("package", HOME_OF)
def test_a_third_party_package_is_imported_at_home_only(package: str) -> None:
    """torch stays in the engine, a database client in its store, drawing in the command line."""
    strangers = [
        str(name)
        for module in modules()
        if not str(name := module.relative_to(PACKAGE).as_posix()).startswith(HOME_OF[package])
        and package in {dotted.split(".")[0] for dotted in imports(module)}
    ]
    assert not strangers


def test_imports_are_absolute() -> None:
    """No source file imports relatively, so that a line says where a name lives."""
    relative = [
        str(module.relative_to(PACKAGE))
        for module in modules()
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert not relative


def test_the_library_leaves_global_settings_alone() -> None:
    """Nobody configures logging, and torch's threads and precision are not touched for the whole process."""
    forbidden = {"basicConfig", "set_num_interop_threads", "set_default_dtype", "set_float32_matmul_precision"}
    touched = [(str(module.relative_to(PACKAGE)), name) for module in modules() for name in sorted(calls(module) & forbidden)]
    assert not touched


def test_threads_of_torch_are_set_in_the_engine_only() -> None:
    """`set_num_threads` holds for the calling thread's work, and only the engine has a thread of its own."""
    outside = [str(module) for module in modules() if part_of(module) != "embedding" and "set_num_threads" in calls(module)]
    assert not outside


def test_the_library_prints_nothing() -> None:
    """`print` is called nowhere: the command line draws through rich."""
    assert not [str(module) for module in modules() if "print" in calls(module, attributes=False)]


def calls(module: Path, *, attributes: bool = True) -> set[str]:
    """Last names of all functions that a source file calls; without `attributes`, plain names only."""
    functions = [node.func for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    plain = {function.id for function in functions if isinstance(function, ast.Name)}
    return plain | {function.attr for function in functions if attributes and isinstance(function, ast.Attribute)}


@pytest.mark.parametrize("name", ["sightline", "sightline.api"])
def test_importing_the_package_loads_nothing_heavy(name: str) -> None:
    """A user of a remote embedder pays for neither torch nor a database client, and the library loads no drawing."""
    heavy = ["torch", "transformers", "tokenizers", "chromadb", "qdrant_edge", "pyarrow", "rich", "click"]
    loaded = run_python(f"import {name}, sys, json; print(json.dumps([m for m in {heavy!r} if m in sys.modules]))")
    assert json.loads(loaded) == []


@pytest.mark.parametrize("name", sightline.__all__)
def test_every_public_name_resolves(name: str) -> None:
    """What `__all__` promises is there."""
    assert getattr(sightline, name) is not None


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    """Lazy names don't swallow typing errors."""
    with pytest.raises(AttributeError, match="no attribute 'EmbedingEngine'"):
        sightline.EmbedingEngine  # noqa: B018  the lookup is the test


def test_every_make_target_of_the_documents_exists() -> None:
    """README and CONTRIBUTING name no target that the Makefile lacks."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    documents = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md"))
    named = set(re.findall(r"(?:`|^\s*|\$ )make ([a-z][a-z-]*)", documents, re.MULTILINE))
    assert named, "the documents name no target at all"
    assert named <= targets


def test_the_continuous_integration_runs_the_tests() -> None:
    """`.ci/run` calls the test command that a newcomer is told."""
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_no_file_names_a_private_path() -> None:
    """No tracked file holds a path of somebody's own machine."""
    private = re.compile(rb"(?<![\w.:/])/(?:home/(?!you\b|user\b)\w|Users/(?!you\b)\w|root/|work/)|[A-Z]:\\Users\\")
    assert not [str(file.relative_to(ROOT)) for file in tracked_files() if private.search(file.read_bytes())]


def test_the_changelog_speaks_of_this_version() -> None:
    """What a user can notice is written down, under this version or as unreleased."""
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"Unreleased", sightline.__version__} & set(headings)


def test_the_package_is_typed() -> None:
    """Type checkers of our users read our types."""
    assert (PACKAGE / "py.typed").is_file()


def services() -> dict[str, dict[str, object]]:
    """The services of the compose file."""
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]


@pytest.mark.parametrize("service", ["qdrant", "chroma"])
def test_a_service_is_pinned_checked_and_private(service: str) -> None:
    """Each server has an exact version, a health check, and ports for this machine only."""
    described = services()[service]
    assert re.search(r":v?\d+\.\d+\.\d+$", str(described["image"]))
    assert described["healthcheck"]
    assert all(str(port).startswith("127.0.0.1:") for port in described["ports"])


def test_compose_does_not_expand_the_variables_of_a_health_check() -> None:
    """A dollar sign is doubled, so that the shell in the container sees it and compose doesn't."""
    commands = json.dumps([service["healthcheck"] for service in services().values() if "healthcheck" in service])
    assert "$" not in commands.replace("$$", "")


@pytest.mark.parametrize("service", ["server", "server-cuda"])
def test_our_server_in_a_container_is_private_and_asked_for(service: str) -> None:
    """It is built from the Dockerfile, only where its profile is asked for, and no other machine reaches its port."""
    described = services()[service]
    assert described["profiles"]
    assert all(str(port).startswith("127.0.0.1:") for port in described["ports"])
    arguments = [str(one) for one in described["command"] if not str(one).startswith("$")]
    options = {option for one in serve.params for option in one.opts}
    assert arguments[0] == "serve"
    assert {one for one in arguments if one.startswith("--")} <= options


def test_the_image_runs_without_root_and_knows_when_it_is_ready() -> None:
    """What follows USER runs as that user; the command is one that the command line has."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    starts = {line.partition(" ")[0]: number for number, line in enumerate(lines) if line}
    assert lines[starts["USER"]] == "USER sightline"
    assert starts["USER"] < starts["ENTRYPOINT"] < starts["CMD"]
    assert lines[starts["CMD"]] == 'CMD ["serve", "--host", "0.0.0.0"]'
    assert any("/health/ready" in line for line in lines)


def test_the_chroma_server_is_the_one_that_is_tested() -> None:
    """The server in the compose file and the client in the constraints have one version."""
    version = re.search(r"^chromadb==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert version is not None
    assert services()["chroma"]["image"] == f"chromadb/chroma:{version[1]}"


def test_the_example_knowledge_base_is_varied() -> None:
    """The demo has at least 36 documents: Markdown, at least 6 plain texts and at least 4 HTML pages."""
    kinds = Counter(file.suffix for file in KNOWLEDGE_BASE.rglob("*") if file.is_file())
    assert set(kinds) == {".md", ".txt", ".html"}
    assert kinds.total() >= 36
    assert kinds[".txt"] >= 6
    assert kinds[".html"] >= 4


@pytest.mark.parametrize("script", ["CJK UNIFIED", "HIRAGANA", "HANGUL", "ARABIC", "DEVANAGARI"])
def test_the_example_knowledge_base_is_in_many_scripts(script: str) -> None:
    """The demo's documents are not only in Latin letters."""
    characters = {character for file in KNOWLEDGE_BASE.rglob("*.*") for character in file.read_text(encoding="utf-8")}
    assert any(unicodedata.name(character, "").startswith(script) for character in characters)


def test_the_example_knowledge_base_keeps_its_tricky_files() -> None:
    """No editor and no git setting has smoothed away what the files are there to show."""
    contents = [file.read_bytes() for file in KNOWLEDGE_BASE.rglob("*") if file.is_file()]
    markers = {
        "CRLF": b"\r\n",
        "byte order mark": b"\xef\xbb\xbf",
        "tab": b"\n\t",
        "emoji": "🌊".encode(),
        "special token": b"<|im_end|>",
        "comment in a code block": b"# not a heading",
    }
    assert not [what for what, marker in markers.items() if not any(marker in content for content in contents)]
    assert any(content.startswith(b"---\n") for content in contents), "no file has front matter"
