"""Facts about the command line: what it says, and how it exits."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sightline
from command_line import Result
from servers import free_port
from sightline import api, opening
from sightline.cli.options import parse_filters
from sightline.cli.progress import documents, duration, rates
from sightline.cli.search import place, plain
from sightline.doctor import _hub, examine
from sightline.indexing import readers
from sightline.stores import open_store
from sightline.types import IndexProgress, IndexSummary


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small documents."""
    root = tmp_path_factory.mktemp("files") / "kb"
    root.mkdir()
    (root / "cake.md").write_text("# Baking\n\n## Apple cake\n\nPeel the apples and bake for an hour.\n", encoding="utf-8")
    (root / "engine.md").write_text("# Engine\n\nIf the motor will not start, check the [battery].\n", encoding="utf-8")
    (root / "tide.txt").write_text("High water comes twice a day; der Höchststand folgt dem Mond.\n", encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def tiny(make_model: Callable[..., Path]) -> str:
    """A model of random weights, 64 dimensions: it finds equal texts only, but it is quick."""
    return str(make_model("bert"))


@pytest.fixture(scope="module")
def collection(folder: Path, tiny: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An Edge collection of the three documents, made with the tiny model."""
    url = f"edge:{tmp_path_factory.mktemp('collection') / 'db'}"
    api.index([folder], into=url, model=tiny, device="cpu")
    return url


# --- the command line


def test_index_says_what_it_did(command: Callable[..., Result], folder: Path, collection: str) -> None:
    """The summary is on stderr, stdout stays clean."""
    result = command("index", folder, "--into", collection)
    assert (result.code, result.out) == (0, "")
    assert "3 documents" in result.err
    assert "3 unchanged" in result.err


def test_a_dry_run_says_what_would_be_done(command: Callable[..., Result], folder: Path, tiny: str, tmp_path: Path) -> None:
    """Documents by their names, chunks, tokens and sizes on stdout; nothing is made."""
    url = f"edge:{tmp_path}/db"
    result = command("index", folder, "--into", url, "--model", tiny, "--dry-run", "--no-calibration")
    assert result.code == 0
    assert f"{url} would be made, 64 dimensions" in result.out
    assert "kb/cake.md" in result.out
    assert "Nothing was written." in result.out
    assert "time" not in result.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_dry_run_tells_the_time_and_what_was_measured(command: Callable[..., Result], folder: Path, tiny: str) -> None:
    """The line says what it stands on."""
    result = command("index", folder, "--into", "memory:", "--model", tiny, "--device", "cpu", "--dry-run")
    shown = r"^time +about .*; measured here: [\d,]+ chunks of [\d,]+ tokens in .* tokens/s\), loading"
    assert re.search(shown, result.out, re.M)


def test_a_dry_run_as_json_has_every_name(command: Callable[..., Result], folder: Path, collection: str) -> None:
    """Of an unchanged collection, too."""
    plan = json.loads(command("index", folder, "--into", collection, "--dry-run", "--json").out)
    assert (plan["unchanged"], plan["added"]) == (["kb/cake.md", "kb/engine.md", "kb/tide.txt"], [])
    assert (plan["summary"]["chunks_embedded"], plan["calibration"]) == (0, None)


def test_a_dry_run_exits_as_the_run_would(command: Callable[..., Result], tmp_path: Path, tiny: str) -> None:
    """1 for what can't be read, 2 for a deletion that would be refused."""
    root = tmp_path / "some"
    root.mkdir()
    (root / "good.txt").write_text("words", encoding="utf-8")
    (root / "bad.txt").write_bytes(b"\xff\xfe\x00\xd8\x00")
    url = f"edge:{tmp_path}/db"
    given = ("index", root, "--into", url, "--model", tiny)
    result = command(*given, "--dry-run", "--no-calibration")
    assert (result.code, command(*given, "--device", "cpu").code) == (1, 1)
    assert "some/bad.txt: " in result.out
    (root / "good.txt").rename(root / "other.txt")
    (root / "bad.txt").unlink()
    result = command(*given, "--prune", "--dry-run", "--no-calibration")
    assert (result.code, "The run would refuse: 1 of the 1 documents" in result.err) == (2, True)


@pytest.mark.parametrize(("options", "message"), [
    (["--no-calibration"], "goes with --dry-run"), (["--dry-run", "--take-over"], "Leave one of them out"),
])  # fmt: skip
def test_options_that_dont_go_together(
    command: Callable[..., Result], folder: Path, options: list[str], message: str
) -> None:
    """They are refused, not passed over."""
    result = command("index", folder, "--into", "memory:", *options)
    assert result.code == 2
    assert message in result.err


def test_plan_prints_all_that_it_stands_on(command: Callable[..., Result]) -> None:
    """Each figure that wasn't given has a source and the option that replaces it."""
    result = command(
        "plan", "--documents", 1000, "--tokens-per-document", 900, "--device", "h200", "--dimensions", "1024,256",
        "--quantization", "none,binary",
    )  # fmt: skip
    assert result.code == 0
    assert re.search(r"^share of it +40% \(assumed: .*--share\)$", result.out, re.M)
    assert re.search(r"^1024\+256 binary +", result.out, re.M)
    assert "measured" in result.out


def test_plan_as_json_has_every_figure(command: Callable[..., Result]) -> None:
    """Bytes aren't rounded."""
    given = ("plan", "--documents", 10, "--tokens-per-document", 100, "--tokens-per-second", 50, "--json")
    plan = json.loads(command(*given).out)
    assert plan["device_hours"] == pytest.approx(plan["tokens"] / 50 / 3600)
    assert {size["store"] for size in plan["sizes"]} == {"edge", "qdrant", "chroma"}


def test_plan_refuses_what_it_doesnt_know(command: Callable[..., Result]) -> None:
    """With what there is."""
    given = ("plan", "--documents", 10, "--tokens-per-document", 100)
    assert "one of none, scalar" in command(*given, "--quantization", "zip").err
    assert "one of h200" in command(*given, "--device", "abacus").err
    assert command(*given, "--dimensions", "x").code == 2


def test_index_summary_as_json(command: Callable[..., Result], folder: Path, collection: str) -> None:
    """Every figure is there."""
    summary = json.loads(command("index", folder, "--into", collection, "--json").out)
    assert (summary["documents"], summary["chunks_embedded"], summary["skipped"]) == (3, 0, [])


def test_an_unchanged_rerun_loads_neither_torch_nor_weights(folder: Path, collection: str) -> None:
    """Looking whether anything changed takes a second, not a model."""
    code = f"""
import sys
from sightline.cli import main
try:
    main(["index", {str(folder)!r}, "--into", {collection!r}])
except SystemExit as ended:
    print(ended.code, [name for name in ("torch", "transformers", "safetensors") if name in sys.modules])
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "0 []"


def test_search_shows_rank_score_source_heading_and_text(command: Callable[..., Result], collection: str) -> None:
    """A hit can be judged and found again."""
    result = command("search", "# Baking\n\n## Apple cake\n\nPeel the apples and bake for an hour.", "--in", collection, "-k", 2)
    first, second = result.out.split("\n")[:2]
    assert result.code == 0
    assert first == " 1  1.000  kb/cake.md  Baking > Apple cake"
    assert "Peel the apples" in result.out
    assert second.startswith("    ")


def test_search_leaves_markup_alone(command: Callable[..., Result], collection: str) -> None:
    """Text is data: brackets are no styles."""
    assert "[battery]" in command("search", "motor", "--in", collection).out


def test_search_as_json(command: Callable[..., Result], collection: str) -> None:
    """All fields of a hit, non-ASCII as it is."""
    result = command("search", "moon and sea", "--in", collection, "--json")
    hits = json.loads(result.out)
    assert {hit["source"] for hit in hits} == {"kb/tide.txt", "kb/cake.md", "kb/engine.md"}
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    assert "Höchststand" in result.out


def test_a_hit_says_where_in_its_file_it_is_from() -> None:
    """Page, slide, row, cell or line; what the document itself calls so isn't taken for it."""
    assert place({"page": 3, "page_end": 4}) == "page 3-4"
    assert place({"sheet": "Log", "row": 3, "row_end": 3, "line": "x"}) == "row 3"


def test_control_characters_dont_reach_the_terminal() -> None:
    """A document can't move the cursor or change the title."""
    assert plain("a\x1b[2Jb\tc\r\nd\u202ee\x07") == "a [2Jb c d e"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["index", "{tmp}/nothing", "--into", "edge:{tmp}/db"], 2, "doesn't exist"),
        (["index", "{tmp}/empty", "--into", "edge:{tmp}/db"], 2, "no file that can be read"),
        (["index", "{kb}", "--into", "pinecone:db"], 2, "Known forms"),
        (["index", "{kb}", "--into", "edge:{tmp}/db", "--model", "{tiny}", "--dimensions", "500"], 2, "1 to 64"),
        (["index", "{kb}", "--into", "edge:{tmp}/db", "--model", "{tmp}/nothing"], 2, "No model folder"),
        (["index", "{kb}", "--into", "edge:{tmp}/db", "--model", "{tiny}", "--device", "abacus"], 2, "Available: "),
        (["index", "{kb}", "--into", "edge:{tmp}/db", "--model", "{tiny}", "--devices", "cpu:0, cpu:0"], 2, "'cpu:0' twice"),
        (["index", "{kb}"], 2, "Missing option '--into'"),
        (["index", "{kb}", "--into", "{collection}", "--dimensions", "32"], 3, "dimensions: the collection has 64"),
        (["search", "x", "--in", "edge:{tmp}/db"], 2, "There is no collection"),
        (["search", "x", "--in", "{collection}", "--instruction", "nobody"], 2, "Unknown instruction 'nobody'"),
        (["search", "x", "--in", "{collection}", "-k", "0"], 2, "at least 1"),
        (["search", "x", "--in", "{collection}", "--filter", "lang"], 2, "KEY=VALUE"),
        (["search", "x", "--in", "{collection}", "--filter", "year>old"], 2, "which is no number"),
        (["search", "x", "--in", "{collection}", "--filter", "a=1", "--filter", "a>1"], 2, "values and bounds at once"),
        (["index", "--into", "edge:{tmp}/db"], 2, "No path was given"),
        (["index", "--root", "kb", "--into", "edge:{tmp}/db"], 2, "NAME=PATH"),
        (["index", "--root", "a={kb}", "--root", "a={tmp}", "--into", "edge:{tmp}/db"], 2, "given twice"),
        (["index", "{kb}", "--into", "edge:{tmp}/db", "--model", "{tiny}", "--overlap", "999"], 2, "overlap"),
        (["remove", "kb/cook.md", "--from", "{collection}"], 2, "Did you mean: kb/cake.md"),
        (["inspect", "edge:{tmp}/db"], 2, "There is no collection"),
        (["adopt", "{collection}", "--model", "{tiny}"], 4, "has a contract already"),
        (["embed", "{tmp}/nothing", "--role", "query"], 2, "does not exist"),
        (["embed", "{kb}/tide.txt", "--role", "query", "--out", "x.csv"], 2, ".npy"),
        (["embed", "{kb}/tide.txt"], 2, "--role"),
        (["embed", "{kb}/tide.txt", "--role", "query", "--out", "{tmp}/nothing/x.npy"], 2, "no folder that may be written to"),
        (["embed", "{tmp}/latin", "--role", "query"], 2, "isn't UTF-8"),
        (["fetch"], 2, "No such command"),
    ],
)
def test_a_mistake_is_told_in_words(
    command: Callable[..., Result],
    tmp_path: Path,
    folder: Path,
    collection: str,
    tiny: str,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    """The exit code says what kind of mistake, the message what was found; there is no traceback and nothing on stdout."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "latin").write_bytes("größer".encode("latin-1"))
    places = {"tmp": tmp_path, "kb": folder, "collection": collection, "tiny": tiny}
    result = command(*(argument.format(**places) for argument in arguments))
    assert (result.code, result.out) == (code, "")
    assert message in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("url", "server"), [("qdrant://127.0.0.1:{port}/kb", "Qdrant"), ("chroma+http://127.0.0.1:{port}/handbook", "Chroma")]
)
def test_a_server_that_does_not_answer_is_exit_code_4(
    command: Callable[..., Result], folder: Path, monkeypatch: pytest.MonkeyPatch, url: str, server: str
) -> None:
    """The message names the address; nothing is loaded or embedded before."""
    monkeypatch.setattr(opening, "open_embedder", None)
    for name in ("qdrant_server", "chroma_server"):
        monkeypatch.setattr(f"sightline.stores.{name}.FIRST_S", 0.0)
    port = free_port()
    for arguments in (("index", folder, "--into"), ("search", "x", "--in")):
        result = command(*arguments, url.format(port=port))
        assert result.code == 4
        assert f"{server} server" in result.err
        assert f"127.0.0.1:{port}" in result.err


def test_the_same_name_with_another_pooling_is_refused(
    command: Callable[..., Result], make_model: Callable[..., Path], folder: Path, tmp_path: Path
) -> None:
    """Whatever the folder is called; the documents aren't touched."""
    model, url = tmp_path / "model", f"edge:{tmp_path / 'db'}"
    shutil.copytree(make_model("bert"), model)
    assert command("index", folder, "--into", url, "--model", model).code == 0
    shutil.rmtree(model)
    shutil.copytree(make_model("bert-cls"), model)
    for arguments in (("index", folder, "--into", url), ("search", "x", "--in", url)):
        result = command(*arguments)
        assert result.code == 3
        assert "pooling: the collection has 'mean', this embedder 'cls'" in result.err


def test_odd_files_are_told_and_the_rest_is_indexed(command: Callable[..., Result], tiny: str, tmp_path: Path) -> None:
    """Binary and vanished files, links in a circle, a line of a million characters: exit code 1, each with its reason."""
    root = tmp_path / "kb"
    (root / "sub").mkdir(parents=True)
    (root / "good.txt").write_text("a tide table", encoding="utf-8")
    (root / "long.txt").write_text("word " * 200_000, encoding="utf-8")
    (root / "binary.txt").write_bytes(b"\x00\x01" * 100)
    (root / "sub" / "up").symlink_to(root, target_is_directory=True)
    (root / "circle.md").symlink_to(root / "circle.md")
    (root / "gone.md").symlink_to(root / "nothing")
    result = command("index", root, "--into", f"memory:{tmp_path.name}", "--model", tiny, "--chunk-tokens", "60", "--json")
    assert result.code == 1
    reasons = {skipped["source"]: skipped["reason"] for skipped in json.loads(result.out)["skipped"]}
    assert set(reasons) == {"kb/binary.txt", "kb/circle.md", "kb/gone.md"}
    assert json.loads(result.out)["documents"] == 2


def test_a_store_directory_of_another_format_is_exit_code_4(
    command: Callable[..., Result], folder: Path, collection: str, tmp_path: Path
) -> None:
    """Both versions and the way on are in the message."""
    copy = tmp_path / "db"
    shutil.copytree(collection.removeprefix("edge:"), copy)
    manifest = json.loads((copy / "sightline.json").read_text(encoding="utf-8"))
    (copy / "sightline.json").write_text(json.dumps(manifest | {"format": 99}), encoding="utf-8")
    for arguments in (("index", folder, "--into"), ("search", "x", "--in"), ("inspect",)):
        result = command(*arguments, f"edge:{copy}")
        assert result.code == 4
        assert "has format 99; this Sightline reads formats 1 to 2" in result.err


def test_another_model_is_refused_before_any_document(
    command: Callable[..., Result], folder: Path, collection: str, make_model: Callable[..., Path]
) -> None:
    """Exit code 3, and the collection is as it was."""
    result = command("index", folder, "--into", collection, "--model", make_model("bert-cls"))
    assert result.code == 3
    assert "was made by an embedder that sees differently" in result.err


def test_a_held_store_is_exit_code_4(command: Callable[..., Result], folder: Path, collection: str) -> None:
    """One writer at a time, and the message names the other one."""
    store = open_store(collection)
    store.acquire()
    try:
        result = command("index", folder, "--into", collection)
    finally:
        store.close()
    assert result.code == 4
    assert "is held by" in result.err


def test_a_file_that_cannot_be_read_is_exit_code_1(command: Callable[..., Result], tiny: str, tmp_path: Path) -> None:
    """The rest is indexed; the file is named with its reason."""
    root = tmp_path / "kb"
    root.mkdir()
    (root / "good.txt").write_text("a tide table", encoding="utf-8")
    (root / "bad.txt").write_bytes(b"caf\xe9")
    result = command("index", root, "--into", f"edge:{tmp_path / 'db'}", "--model", tiny)
    assert result.code == 1
    assert "Skipped kb/bad.txt: not UTF-8" in result.err
    assert "1 document in" in result.err


def test_ctrl_c_says_how_to_go_on(command: Callable[..., Result], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 130 and a line for people."""

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "index", interrupted)
    result = command("index", folder, "--into", "memory:")
    assert result.code == 130
    assert "goes on where this one stopped" in result.err


def test_a_fault_is_no_skipped_document(
    command: Callable[..., Result], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's own exit code for a traceback is the one that says "some documents couldn't be read"."""

    def faulty(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("the moon")

    monkeypatch.setattr(api, "index", faulty)
    result = command("index", folder, "--into", "memory:")
    assert result.code == 70
    assert "ZeroDivisionError: the moon" in result.err


def test_a_reader_that_has_seen_enough_is_no_failure(collection: str) -> None:
    """`sightline search ... --json | head -1` closes the pipe while we write."""
    script = "import os, sys; os.close(1); r, w = os.pipe(); os.close(r); assert w == 1 or os.dup2(w, 1)\n"
    script += f"from sightline.cli import main; main(['inspect', {collection!r}])"
    run = subprocess.run([sys.executable, "-u", "-c", script], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")


def test_warnings_of_the_library_are_shown(
    command: Callable[..., Result], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was cut off, or is cut anew, is on stderr."""

    def warning(*_: Any, **__: Any) -> IndexSummary:
        logging.getLogger("sightline.api").warning("mind the %s", "gap")
        return IndexSummary(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0)

    monkeypatch.setattr(api, "index", warning)
    assert "Warning: mind the gap" in command("index", folder, "--into", "memory:").err


def test_search_filters_by_metadata(command: Callable[..., Result], collection: str) -> None:
    """Only what has the metadata is found, and nothing is said to be nothing."""
    hits = json.loads(command("search", "x", "--in", collection, "--filter", "source=kb/tide.txt", "--json").out)
    assert [hit["source"] for hit in hits] == ["kb/tide.txt"]
    assert json.loads(command("search", "x", "--in", collection, "--filter", "tokens>100000", "--json").out) == []
    assert "has this metadata" in command("search", "x", "--in", collection, "--filter", "lang=de").err


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["lang=de"], {"lang": ["de"]}),
        (["lang=de", "lang=fr"], {"lang": ["de", "fr"]}),
        (["version=3"], {"version": [3, "3"]}),
        (['version="3"'], {"version": ["3"]}),
        (["draft=true"], {"draft": [True, "true"]}),
        (['tags=["a", 2]'], {"tags": ["a", 2]}),
        (["year>=2020", "year<2024"], {"year": {"gte": 2020, "lt": 2024}}),
        (["formula=a=b>c"], {"formula": ["a=b>c"]}),
        (["empty="], {"empty": [""]}),
    ],
)
def test_filters_are_read_as_a_person_means_them(given: list[str], wanted: dict[str, Any]) -> None:
    """A bare number or bool may be a text too; quotes make it one."""
    assert parse_filters(given) == wanted


def test_inspect_shows_what_a_collection_is(command: Callable[..., Result], collection: str, tiny: str) -> None:
    """Contract, counts, sizes, norms and the last run, for people and for programs."""
    shown = command("inspect", collection)
    assert shown.code == 0
    for words in (tiny, "64 of 64 dimensions", "documents        3", "root           kb: 3", "1.0000 to 1.0000", "last run"):
        assert words in shown.out, shown.out
    found = json.loads(command("inspect", collection, "--json").out)
    assert (found["points"], found["documents"], found["roots"]) == (3, 3, {"kb": 3})
    assert found["contract"]["reading"]["model"] == tiny
    assert "probes" not in found["contract"]
    assert found["disk_bytes"] > 0


def test_remove_deletes_documents(command: Callable[..., Result], folder: Path, tiny: str, tmp_path: Path) -> None:
    """What went is on stdout, one source a line."""
    url = f"edge:{tmp_path / 'db'}"
    api.index([folder], into=url, model=tiny)
    result = command("remove", "kb/cake.md", "--from", url)
    assert (result.code, result.out) == (0, "kb/cake.md\n")
    assert api.inspect(url).documents == 2


def test_a_refused_pruning_is_exit_code_2(command: Callable[..., Result], tiny: str, tmp_path: Path) -> None:
    """Nobody is at a terminal to be asked, so the message says what to type."""
    root = tmp_path / "kb"
    root.mkdir()
    for name in ("a", "b", "c"):
        (root / f"{name}.txt").write_text(f"text {name}", encoding="utf-8")
    url = f"edge:{tmp_path / 'db'}"
    assert command("index", root, "--into", url, "--model", tiny).code == 0
    (root / "a.txt").unlink()
    (root / "b.txt").unlink()
    refused = command("index", root, "--into", url, "--prune", "--json")
    assert refused.code == 2
    assert "--force" in refused.err
    assert json.loads(refused.out)["documents_vanished"] == 2, "all else was done, and is told"
    assert command("index", root, "--into", url, "--prune", "--force").code == 0
    assert api.inspect(url).documents == 1


def test_roots_can_be_named(command: Callable[..., Result], folder: Path, tiny: str, tmp_path: Path) -> None:
    """The same files under the same root name are the same documents, wherever they lie."""
    url = f"edge:{tmp_path / 'db'}"
    assert command("index", "--root", f"handbook={folder}", "--into", url, "--model", tiny).code == 0
    assert api.inspect(url).roots == {"handbook": 3}


def test_embed_writes_json_lines(command: Callable[..., Result], tiny: str, tmp_path: Path) -> None:
    """One object a line, in order, whatever the line ends."""
    (tmp_path / "texts").write_bytes("größer\r\nzwei\u2028Teile\nlast".encode())
    result = command("embed", tmp_path / "texts", "--model", tiny, "--role", "document", "--dimensions", 8)
    rows = [json.loads(line) for line in result.out.split("\n")[:-1]]
    assert [row["text"] for row in rows] == ["größer", "zwei\u2028Teile", "last"]
    assert np.linalg.norm([row["embedding"] for row in rows], axis=1) == pytest.approx(1, abs=1e-6)


def test_embed_writes_an_array(command: Callable[..., Result], tiny: str, tmp_path: Path) -> None:
    """The array and the JSON lines hold the same numbers."""
    (tmp_path / "texts").write_text("one\ntwo\n", encoding="utf-8")
    call = ["embed", tmp_path / "texts", "--model", tiny, "--role", "query", "--out"]
    assert command(*call, tmp_path / "v.npy").code == command(*call, tmp_path / "v.jsonl").code == 0
    lines = (tmp_path / "v.jsonl").read_text(encoding="utf-8").splitlines()
    written = np.array([json.loads(line)["embedding"] for line in lines], np.float32)
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), written)


def test_embed_of_nothing_is_nothing(command: Callable[..., Result], tiny: str, tmp_path: Path) -> None:
    """An empty file gives an empty array."""
    (tmp_path / "texts").touch()
    result = command("embed", tmp_path / "texts", "--model", tiny, "--role", "query", "--out", tmp_path / "v.npy")
    assert (result.code, np.load(tmp_path / "v.npy").shape) == (0, (0, 64))


def test_formats_lists_suffixes_and_readers(command: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    """And what would have to be installed for some of them."""
    listed = command("formats")
    assert (listed.code, listed.err) == (0, "")
    assert any(line.split() == ["pdf/1", ".pdf"] for line in listed.out.splitlines())
    assert {one["suffix"] for one in json.loads(command("formats", "--json").out)} > {".md", ".jsonl", ".pdf", ".py", ".go"}
    monkeypatch.setattr(readers, "_is_installed", lambda module: module != "docx")
    listed = command("formats")
    assert any(line.endswith(".docx  (needs python-docx)") for line in listed.out.splitlines())
    assert "pip install 'sightline[files]'" in listed.err


def test_limits_of_parsing_are_checked(command: Callable[..., Result], folder: Path) -> None:
    """Before anything is opened."""
    refused = command("index", folder, "--into", "memory:", "--parse-timeout", 0)
    assert (refused.code, "more than 0" in refused.err) == (2, True)


def test_version(command: Callable[..., Result]) -> None:
    """One line."""
    assert command("--version").out == f"sightline, version {sightline.__version__}\n"


@pytest.mark.parametrize("name", ["index", "search", "inspect", "remove", "adopt", "embed", "doctor"])
def test_help_teaches_by_example(command: Callable[..., Result], name: str) -> None:
    """Every command shows how it is typed."""
    assert f"  sightline {name} " in command(name, "--help").out.split("Examples:")[1]


# --- progress


def event(**more: Any) -> IndexProgress:
    """An event after ten seconds."""
    return IndexProgress(**{
        "stage": "indexing", "documents_done": 25, "documents_total": 100, "bytes_done": 2_500, "bytes_total": 10_000,
        "chunks_embedded": 200, "chunks_written": 100, "tokens_embedded": 40_000, "seconds": 10.0, **more,
    })  # fmt: skip


def test_rates_say_how_fast_and_how_long() -> None:
    """Chunks, both rates, and what is left."""
    assert rates(event()) == "200 chunks, 20.0 chunks/s, 4,000 tokens/s, 30 s left"


def test_rates_of_the_first_event_guess_nothing() -> None:
    """Before anything is done there is no rate."""
    assert rates(event(bytes_done=0, chunks_embedded=0, tokens_embedded=0, seconds=0.0)) == "0 chunks"


def test_an_iterator_has_no_end_in_sight() -> None:
    """Where the total can't be known, nothing is said of it."""
    unknown = event(documents_total=None, bytes_total=None)
    assert (documents(unknown), rates(unknown)) == ("25 documents", "200 chunks, 20.0 chunks/s, 4,000 tokens/s")


@pytest.mark.parametrize(("seconds", "shown"), [(0.4, "0 s"), (59.4, "59 s"), (205, "3:25 min"), (7500, "2:05 h")])
def test_durations_read_well(seconds: float, shown: str) -> None:
    """Seconds, minutes or hours, whichever fits."""
    assert duration(seconds) == shown


# --- doctor


def test_doctor_reports_the_machine(command: Callable[..., Result]) -> None:
    """What a report of a problem needs."""
    result = command("doctor")
    assert result.code == 0
    for word in ("python", "torch", "device", "hub cache", "cpu:"):
        assert word in result.out


def test_doctor_checks_a_model(command: Callable[..., Result], make_model: Callable[..., Path]) -> None:
    """A model that loads passes; the report says how it runs."""
    report = json.loads(command("doctor", "--model", make_model("bert"), "--json").out)
    assert report["model"]["problem"] is None
    assert report["model"]["description"]["device"]


def test_doctor_says_what_is_wrong_with_a_model(command: Callable[..., Result]) -> None:
    """A model that can't be found is a failed check, not a failed report."""
    result = command("doctor", "--model", "/no/such/folder")
    assert result.code == 2
    assert "FAILED: No model folder" in result.out


def test_doctor_knows_false_weights_by_their_scores(qwen3_folder: Path, tmp_path: Path) -> None:
    """Random weights under the name of Qwen3-Embedding-0.6B don't give its published scores."""
    named = tmp_path / "Qwen3-Embedding-0.6B"
    named.symlink_to(qwen3_folder, target_is_directory=True)
    report = examine(str(named))
    assert not report.healthy
    assert report.model is not None
    assert "its makers published" in str(report.model.problem)


def test_the_hub_cache_follows_the_hubs_rules() -> None:
    """The most specific variable wins, and both offline switches count."""
    assert _hub({"HF_HOME": "/a", "HF_HUB_CACHE": "/b"}).cache == "/b"
    assert Path(_hub({"HF_HOME": "/a"}).cache) == Path("/a/hub")
    assert [_hub({name: "1"}).offline for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HOME")] == [True, True, False]


# --- several dimensions


@pytest.mark.slow
def test_several_dimensions_are_made_searched_added_and_removed(
    command: Callable[..., Result], folder: Path, tiny: str, tmp_path: Path
) -> None:
    """One after the other, each said in one line."""
    url = f"edge:{tmp_path}/kb"
    made = command("index", folder, "--into", url, "--model", tiny, "--device", "cpu", "--dimensions", "16,48",
                   "--quantization", "turbo8", "--storage", "float16")  # fmt: skip
    assert made.code == 0
    assert made.err.count("isn't known to be trained to be cut") == 1
    assert f"{url} has vectors of 24 dimensions too: 3 points cut" in command("dimensions", "add", 24, "--in", url).err
    shown = command("inspect", url).out
    assert "3 of 48 dimensions" in shown
    assert re.search(r"shorter vectors +24, 16\n", shown)
    assert re.search(r"kept as +float16, turbo8 besides\n", shown)
    text = "High water comes twice a day; der Höchststand folgt dem Mond."
    for options in (("--dimensions", 16), ("--shortlist", "24:3")):
        assert command("search", text, "--in", url, "-k", 1, *options).out.startswith(" 1  1.000  kb/tide.txt")
    assert command("dimensions", "remove", 16, "--in", url).err == f"{url} has no vectors of 16 dimensions any more\n"
    refused = command("search", text, "--in", url, "--dimensions", 16)
    assert (refused.code, f"sightline dimensions add 16 --in {url}" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("index", "x", "--into", "edge:x", "--dimensions", "a,b"), "isn't a length or several, e.g. 256 or 1024,256"),
        (("index", "x", "--into", "edge:x", "--quantization", "int4"), "'scalar', 'binary'"),
        (("dimensions", "add", "256", "--in", "edge:./nowhere"), "There is no collection at edge:./nowhere"),
        (("search", "x", "--in", "memory:x", "--shortlist", "200"), "There is no collection"),
    ],
)
def test_wrong_lengths_are_answered(command: Callable[..., Result], arguments: tuple[str, ...], said: str) -> None:
    """With what is right, and exit code 2."""
    result = command(*arguments)
    assert (result.code, said in result.err) == (2, True), result.err
