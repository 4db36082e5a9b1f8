"""Attacks by what is not trusted: documents and their names, archives, model folders, collections from elsewhere, servers.

Code that could run leaves a file behind, and none may be there. What could be written outside is looked for; so is a key in all
messages.
"""

from __future__ import annotations

import ast
import io
import json
import logging
import os
import pickle
import re
import shlex
import shutil
import sqlite3
import stat
import subprocess
import sys
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from echoing import echoing_server

import samples
from attacks import Attack
from command_line import Result
from sightline import api, opening
from sightline.embedding.engine import EmbeddingEngine
from sightline.embedding.models import load_spec
from sightline.errors import ModelError, SightlineError, StoreError, UnknownStore, UsageError
from sightline.indexing import children
from sightline.indexing.parsers import ParseLimits, Parsers
from sightline.indexing.readers import Reading, reader_of
from sightline.indexing.reading import LoadedFile
from sightline.keys import hide_keys, without_keys
from sightline.stores import open_store
from sightline.testing import HashEmbedder
from sightline.types import Document

slow = pytest.mark.slow
ROOT = Path(__file__).parent.parent.parent
KEY = "sk-0123456789abcdef-secret"
VARIABLES = ("QDRANT_API_KEY", "CHROMA_API_KEY", "HF_TOKEN")
# What steers a terminal, or who reads on it: colours, the window's title, a line drawn anew, text that runs backwards.
ESCAPES = "\x1b[31mred\x1b[0m \x1b]0;owned\x07 \x9b2J \x08\x08\r \u202ecod.exe\u2066 [bold red]markup[/] \u200b\U000e0041"


@pytest.fixture
def proof(tmp_path: Path) -> Iterator[Path]:
    """The file that attackers' code would make; the test fails where it is there at the end."""
    path = tmp_path / "code-ran"
    yield path
    assert not path.exists(), "the attacker's code ran"


class Malicious:
    """What makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_the_malicious_pickle_is_one(tmp_path: Path) -> None:
    """Else the tests that use it would show nothing."""
    pickle.loads(pickle.dumps(Malicious(tmp_path / "made")))
    assert (tmp_path / "made").exists()


# --- the source itself


def sources() -> list[Path]:
    """Everything that is installed: the package and its adapters."""
    adapters = (file for file in (ROOT / "adapters").rglob("*.py") if "tests" not in file.parts)
    return sorted([*(ROOT / "src").rglob("*.py"), *adapters])


def dangerous(tree: ast.AST) -> Iterator[str]:
    """What in a module runs code, or text as code."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] + ([node.module or ""] if isinstance(node, ast.ImportFrom) else [])
            yield from (name for name in names if name.split(".")[0] in _MODULES)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            options = {one.arg: ast.unparse(one.value) for one in node.keywords}
            if called in _CALLS or called.rpartition(".")[2] in _METHODS:
                yield called
            if called.endswith("yaml.load") and options.get("Loader") != "_Loader":
                yield called
            yield from (f"{called}({option}={value})" for option, value in _OPTIONS if options.get(option) == value)


_OPTIONS = [("shell", "True"), ("allow_pickle", "True"), ("trust_remote_code", "True"), ("verify", "False")]
_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "telnetlib", "ftplib"}
_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "tempfile.mktemp", "yaml.unsafe_load"}
_METHODS = {"unsafe_load", "full_load", "read_pickle", "_create_unverified_context", "extractall"}


def test_nothing_in_the_source_runs_what_it_reads(attack: Attack) -> None:
    """No pickle but the one that refuses all that isn't plain data, no eval, no shell, no unpacking of archives."""
    with attack("security: the source is searched for what runs code"):
        for file in sources():
            found = set(dangerous(ast.parse(file.read_text(encoding="utf-8"))))
            assert found <= ({"pickle"} if file.name == "qdrant_pickles.py" else set()), file


def test_the_search_finds_what_it_looks_for() -> None:
    """Else the test before would show nothing."""
    code = """
import pickle
from joblib import load
eval("1"); torch.load(path); np.load(path, allow_pickle=True); subprocess.run(line, shell=True)
yaml.load(text, Loader=yaml.Loader); AutoModel.from_pretrained(path, trust_remote_code=True); archive.extractall()
"""
    assert len(set(dangerous(ast.parse(code)))) == 9


# --- model folders


def own_code(folder: Path, proof: Path) -> None:
    """Python files of a model folder that leave the proof behind."""
    for name in ("modeling_own.py", "configuration_own.py", "tokenization_own.py"):
        (folder / name).write_text(f"open({str(proof)!r}, 'w').close()\nclass Own: pass\n", encoding="utf-8")


def changed_json(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


AUTO_MAP = {"AutoConfig": "configuration_own.Own", "AutoModel": "modeling_own.Own"}


def pickle_weights(folder: Path, proof: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Malicious(proof)))


def pickle_beside(folder: Path, proof: Path) -> None:
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "scaler.pkl"):
        (folder / name).write_bytes(pickle.dumps(Malicious(proof)))


def pickle_as_safetensors(folder: Path, proof: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(Malicious(proof)))


def code_of_a_known_architecture(folder: Path, proof: Path) -> None:
    own_code(folder, proof)
    changed_json(folder / "config.json", auto_map=AUTO_MAP)


def code_of_an_unknown_architecture(folder: Path, proof: Path) -> None:
    own_code(folder, proof)
    changed_json(folder / "config.json", auto_map=AUTO_MAP, model_type="own")


def unknown_architecture_with_a_tokenizer_only(folder: Path, proof: Path) -> None:
    own_code(folder, proof)
    changed_json(folder / "config.json", auto_map={"AutoConfig": "configuration_own.Own"}, model_type="own")


def code_of_a_tokenizer(folder: Path, proof: Path) -> None:
    own_code(folder, proof)
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n", encoding="utf-8")
    own = {"auto_map": {"AutoTokenizer": ["tokenization_own.Own", None]}, "tokenizer_class": "Own"}
    changed_json(folder / "tokenizer_config.json", **own)


def module_of_its_own(folder: Path, proof: Path) -> None:
    own_code(folder, proof)
    entries = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    entries[0]["type"] = "modeling_own.Own"
    (folder / "modules.json").write_text(json.dumps(entries), encoding="utf-8")


def module_by_a_like_name(folder: Path, proof: Path) -> None:
    entries = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    entries[0]["type"] = "sentence_transformers_own.models.Transformer"
    (folder / "modules.json").write_text(json.dumps(entries), encoding="utf-8")


def module_outside(folder: Path, proof: Path) -> None:
    entries = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    entries[1]["path"] = "../../elsewhere"
    (folder / "modules.json").write_text(json.dumps(entries), encoding="utf-8")


def weights_outside(folder: Path, proof: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    index = {"weight_map": {"a": str(folder.parent / "outside.safetensors")}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def activation_of_its_own(folder: Path, proof: Path) -> None:
    dense = next(path for path in folder.glob("*_Dense"))
    changed_json(dense / "config.json", activation_function="os.system")


MODELS: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "weights that are a pickle": (pickle_weights, "a pickle, which can run any code"),
    "a pickle beside the weights": (pickle_beside, ""),
    "a pickle named safetensors": (pickle_as_safetensors, "model.safetensors"),
    "code of a known architecture": (code_of_a_known_architecture, "asks for code of its own .*modeling_own.*trust_remote_code"),
    "code of an unknown architecture": (code_of_an_unknown_architecture, "asks for code of its own"),
    "settings by code": (unknown_architecture_with_a_tokenizer_only, "transformers can't load"),
    "a tokenizer by code": (code_of_a_tokenizer, "its tokenizer can't be loaded"),
    "a module by code": (module_of_its_own, "runs no code from model folders"),
    "a module of a like name": (module_by_a_like_name, "runs no code from model folders"),
    "a module outside of the folder": (module_outside, "outside of its folder"),
    "weights outside of the folder": (weights_outside, "outside of its folder"),
    "an activation by code": (activation_of_its_own, "isn't torch's own"),
}


@slow
@pytest.mark.parametrize("what", MODELS)
def test_a_model_folder_runs_no_code(
    attack: Attack, make_model: Callable[..., Path], tmp_path: Path, proof: Path, what: str
) -> None:
    """It is refused with its reason, or loaded without what was planted."""
    spoil, message = MODELS[what]
    folder = tmp_path / "model"
    shutil.copytree(make_model("gemma3" if "activation" in what else "bert"), folder)
    spoil(folder, proof)
    with attack("security: a model folder with code in it"):
        if not message:
            with EmbeddingEngine(folder, device="cpu") as engine:
                assert engine.embed_documents(["a"]).shape == (1, 64)
        else:
            with pytest.raises(ModelError, match=f"(?s){message}"), EmbeddingEngine(folder, device="cpu") as engine:
                engine.embed_documents(["a"])
        assert not proof.exists()


def test_asking_for_a_package_imports_nothing(
    attack: Attack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, proof: Path
) -> None:
    """A collection may name package:NAME; what is installed under that name is looked for on the disk only."""
    package = tmp_path / "path" / "planted" / "inner"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text(f"open({str(proof)!r}, 'w').close()\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path / "path"))
    for name in ("planted", "planted.inner", "planted/inner", "planted/../..", "planted//etc", "planted.", ".planted", "", "."):
        with attack("security: a package that a collection names"):
            with pytest.raises(ModelError):
                load_spec(f"package:{name}")
            assert not proof.exists()


def named_by_a_collection(url: str, **reading: Any) -> str:
    """A collection that names another model than it was made with."""
    api.index(documents=[Document("a", "The lamp burns.")], into=url, model=HashEmbedder())
    with closing(open_store(url)) as store:
        contract = dict(store.read_contract() or {})
        store.write_contract({**contract, "reading": {**contract["reading"], **reading}})
    return url


@slow
@pytest.mark.parametrize(
    ("model", "revision"),
    [
        ("someone/evil-model", None),
        ("Qwen/Qwen3-Embedding-0.6B", "refs/pr/7"),
        ("Qwen/Qwen3-Embedding-0.6B", "refs/convert/parquet"),
        ("Qwen/Qwen3-Embedding-0.6B", "main"),
        ("qwen/qwen3-embedding-0.6b", None),
        ("Qwen/Qwen3-Embedding-0.6B/../../evil", None),
        ("//attacker.example/share/model", None),
        ("\\\\attacker.example\\share\\model", None),
        ("https://attacker.example/model", None),
        ("", None),
    ],
)
def test_a_collection_does_not_choose_what_is_fetched(
    attack: Attack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str, revision: str | None
) -> None:
    """Its model isn't fetched, and no other machine is asked whether it is there."""
    url = named_by_a_collection(f"edge:{tmp_path}/db", model=model, revision=revision)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub

    asked: list[Any] = []

    def fetch(*arguments: Any, local_files_only: bool = False, **more: Any) -> str:
        if not local_files_only:
            asked.append(arguments)
        raise OSError("not here")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    with attack("security: a collection that names a model"):
        for use in (lambda: api.open_collection(url), lambda: api.index(documents=[Document("b", "x")], into=url)):
            with pytest.raises((ModelError, UsageError)):
                use()
        assert asked == []


# --- directories from elsewhere


def plant(path: Path, target: Path) -> None:
    """A link in the place of a file."""
    path.unlink(missing_ok=True)
    path.symlink_to(target)


@slow
@pytest.mark.skipif(os.name == "nt", reason="making links needs a right there")
@pytest.mark.parametrize(
    "name", [".sightline.lock", "sightline.json.tmp", "shard.lock", "shard.wanted", "sightline.json", "shard"]
)
def test_links_in_a_directory_from_elsewhere_lead_nowhere(attack: Attack, tmp_path: Path, name: str) -> None:
    """A search empties no file of mine, and a run writes into none."""
    directory = tmp_path / "db"
    url = f"edge:{directory}"
    api.index(documents=[Document("a", "The lamp burns.")], into=url, model=HashEmbedder())
    shard = json.loads((directory / "sightline.json").read_text(encoding="utf-8"))["current"]["shard"]
    mine = tmp_path / "mine"
    if name == "shard":
        shutil.move(directory / shard, mine)
        (directory / shard).symlink_to(mine)
    elif name == "sightline.json":
        shutil.move(directory / name, mine)
        (directory / name).symlink_to(mine)
    else:
        mine.write_text("what I need", encoding="utf-8")
        plant(directory / name.replace("shard", shard), mine)
    before = {path: path.read_bytes() for path in [mine, *mine.rglob("*")] if path.is_file()}
    uses = (
        lambda: api.open_collection(url, model=HashEmbedder()).search("lamp"),
        lambda: api.index(documents=[Document("b", "x")], into=url, model=HashEmbedder()),
        lambda: api.plan_index(documents=[Document("b", "x")], into=url, model=HashEmbedder()),
        lambda: api.inspect(url),
    )
    for use in uses:
        with attack("security: links in a directory from elsewhere"):
            with pytest.raises(StoreError, match="is a link"):
                use()
            assert {path: path.read_bytes() for path in [mine, *mine.rglob("*")] if path.is_file()} == before


@slow
@pytest.mark.skipif(os.name == "nt", reason="making links needs a right there")
def test_links_beside_a_file_lead_nowhere(attack: Attack, tmp_path: Path) -> None:
    """Where others may write too, a link may wait under the name that a copy is written under."""
    mine = tmp_path / "mine"
    mine.write_text("what I need", encoding="utf-8")
    api.index(documents=[Document("a", "The lamp burns.")], into=f"edge:{tmp_path}/db", model=HashEmbedder())
    target = f"parquet:{tmp_path}/kb.parquet"
    plant(tmp_path / ".kb.parquet.partial", mine)
    with attack("security: links beside a file"):
        api.copy(f"edge:{tmp_path}/db", target)
        assert mine.read_text(encoding="utf-8") == "what I need"
    plant(tmp_path / ".kb.parquet.lock", mine)
    with attack("security: links beside a file"):
        with pytest.raises(StoreError, match="can't be read or written"):
            api.copy(f"edge:{tmp_path}/db", target, replace=True)
        assert mine.read_text(encoding="utf-8") == "what I need"


@slow
def test_what_embeds_for_a_chroma_collection_is_not_made(attack: Attack, tmp_path: Path, proof: Path) -> None:
    """Chroma keeps the name and the arguments of a class with a collection, some of which fetch models and run their code."""
    import chromadb
    from chromadb.utils.embedding_functions import register_embedding_function

    @register_embedding_function
    class Planted(chromadb.EmbeddingFunction[Any]):
        def __init__(self, made: str) -> None:
            self.made = made

        def __call__(self, input: Any) -> Any:
            return HashEmbedder().embed_documents(list(input))

        @staticmethod
        def name() -> str:
            return "planted"

        def get_config(self) -> dict[str, Any]:
            return {"made": self.made}

        @staticmethod
        def build_from_config(config: dict[str, Any]) -> Any:
            Path(config["made"]).touch()
            return Planted(config["made"])

    client = chromadb.PersistentClient(str(tmp_path / "db"), settings=chromadb.Settings(anonymized_telemetry=False))
    made = client.create_collection("handbook", embedding_function=Planted(str(proof)))
    made.add(ids=["a"], documents=["The lamp burns."], embeddings=HashEmbedder().embed_documents(["The lamp burns."]))
    assert made.configuration_json["embedding_function"]["name"] == "planted"
    client.close()
    proof.unlink(missing_ok=True)
    url = f"chroma:{tmp_path}/db/handbook"
    uses = (
        lambda: api.inspect(url),
        lambda: api.open_collection(url, model=HashEmbedder()).search("lamp"),
        lambda: api.adopt(url, model=HashEmbedder()),
        lambda: api.index(documents=[Document("b", "x")], into=url, model=HashEmbedder()),
        lambda: api.plan_index(documents=[Document("b", "y")], into=url, model=HashEmbedder()),
        lambda: api.copy(url, f"parquet:{tmp_path}/out.parquet", foreign="rows"),
    )
    for use in uses:
        with attack("security: a class that a Chroma collection names"):
            use()
            assert not proof.exists()


@pytest.mark.skipif(os.name == "nt", reason="making links needs a right there")
def test_links_beside_what_is_no_database_do_not_matter(tmp_path: Path) -> None:
    """A collection may be made in a folder of other things; Chroma's and Qdrant's have their own files there."""
    (tmp_path / "mine").write_text("what I need", encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    api.index(documents=[Document("a", "The lamp burns.")], into=f"chroma:{tmp_path}/handbook", model=HashEmbedder())
    assert [hit.source for hit in _all(f"chroma:{tmp_path}/handbook")] == ["documents/a"]
    with pytest.raises(UsageError, match="holds something that Sightline didn't make"):
        api.inspect(f"qdrant:{tmp_path}/handbook")


def local_qdrant(tmp_path: Path) -> tuple[str, Path]:
    """A database of local mode that bears our mark, as one that somebody hands on does."""
    url = f"qdrant:{tmp_path}/db/handbook"
    api.index(documents=[Document("a", "The lamp burns.")], into=url, model=HashEmbedder())
    return url, next((tmp_path / "db").rglob("storage.sqlite"))


def with_row(storage: Path, row: bytes) -> None:
    with closing(sqlite3.connect(storage)) as database, database:
        database.execute("INSERT INTO points VALUES ('x', ?)", (row,))


def with_view(storage: Path, row: bytes) -> None:
    with closing(sqlite3.connect(storage)) as database, database:
        database.execute("ALTER TABLE points RENAME TO kept")
        database.execute(f"CREATE VIEW points AS SELECT rowid, id, x'{row.hex()}' AS point FROM kept WHERE random() % 2")


@pytest.mark.parametrize("change", [with_row, pytest.param(with_view, marks=slow)])
def test_a_local_database_with_our_mark_runs_no_code(
    attack: Attack, tmp_path: Path, proof: Path, change: Callable[[Path, bytes], None]
) -> None:
    """qdrant-client would unpickle it; it is looked through before."""
    url, storage = local_qdrant(tmp_path)
    change(storage, pickle.dumps(Malicious(proof)))
    uses = (
        lambda: api.open_collection(url, model=HashEmbedder()).search("lamp"),
        lambda: api.index(documents=[Document("b", "x")], into=url, model=HashEmbedder()),
        lambda: api.plan_index(documents=[Document("b", "x")], into=url, model=HashEmbedder()),
        lambda: api.inspect(url),
        lambda: api.copy(url, f"parquet:{tmp_path}/out.parquet"),
    )
    for use in uses:
        with attack("security: a local Qdrant with a malicious pickle"):
            with pytest.raises(StoreError, match=r"never wrote for Sightline.*don't open it"):
                use()
            assert not proof.exists()


@slow
@pytest.mark.parametrize("name", ["../../outside", "/outside", "a/../../../outside", "..", ".hidden"])
def test_a_local_database_does_not_lead_out_of_its_directory(attack: Attack, tmp_path: Path, name: str) -> None:
    """Its list of collections names directories, which the client would make and write."""
    url, _ = local_qdrant(tmp_path)
    meta = tmp_path / "db" / "meta.json"
    data = json.loads(meta.read_text(encoding="utf-8"))
    data["collections"][name] = next(iter(data["collections"].values()))
    meta.write_text(json.dumps(data), encoding="utf-8")
    with attack("security: a local Qdrant that leads out of its directory"):
        with pytest.raises(StoreError, match="never wrote for Sightline"):
            api.inspect(url)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["db"]


# --- names, ids and archives: nothing is written or read outside

SOURCES = [
    "../../etc/passwd", "/etc/passwd", "..", ".", "a/../../b", "C:\\Windows\\win.ini", "\\\\server\\share", "~/.ssh/id_rsa",
    "file:///etc/passwd", "$(touch x)", "`touch x`", "a;touch x", "a\nb", "a\tb", ESCAPES, "nul\0byte",
    "%2e%2e%2f", "x" * 3000, "con", "|id", "--help", "'; DROP TABLE points; --",
]  # fmt: skip


@slow
@pytest.mark.parametrize("store", ["edge", "chroma", "qdrant"])
def test_ids_of_documents_are_no_paths(attack: Attack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str) -> None:
    """Whatever a document is called, it comes back under that name, and nothing lies outside of the store's directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    url = f"{store}:{tmp_path}/in/db" + ("" if store == "edge" else "/handbook")
    documents = [Document(source, f"Text number {number}.") for number, source in enumerate(SOURCES)]
    summary = api.index(documents=documents, into=url, model=HashEmbedder())
    names = {hit.source for hit in _all(url)}
    for source in SOURCES:
        with attack("security: ids of documents that look like paths"):
            refused = [one.reason for one in summary.skipped if one.source == repr(source)]
            assert refused or f"documents/{source}" in names, source
    assert api.remove([f"documents/{SOURCES[0]}"], from_url=url) == [f"documents/{SOURCES[0]}"]
    api.copy(url, f"parquet:{tmp_path}/in/kb.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert {path.name for path in (tmp_path / "in").iterdir()} == {"db", "kb.parquet"}


def _all(url: str) -> list[Any]:
    with api.open_collection(url, model=HashEmbedder()) as opened:
        return opened.search("text number", k=100)


def test_ids_of_jsonl_rows_are_no_paths(attack: Attack, tmp_path: Path) -> None:
    """Nor are those of rows in a file."""
    folder = tmp_path / "in" / "kb"
    folder.mkdir(parents=True)
    rows = [json.dumps({"id": source, "text": f"Row {number}."}) for number, source in enumerate(SOURCES)]
    (folder / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    summary = api.index([folder], into=f"edge:{tmp_path}/in/db", model=HashEmbedder())
    with attack("security: ids of rows that look like paths"):
        assert summary.documents + len(summary.skipped) == len(SOURCES)
        assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    "url",
    [
        "chroma:{}/../handbook/..", "chroma:{}/db/..", "qdrant:{}/db/..", "qdrant:{}/db/.hidden", "qdrant:{}/db/a\0b",
        "edge:{}/a\0b", "qdrant:{}/db/a\nb", "chroma:{}/db/a b", "qdrant://localhost/../x", "qdrant://localhost/a%2fb", "chroma+http://localhost/a/../b",
    ],
)  # fmt: skip
def test_names_of_collections_are_no_paths(attack: Attack, tmp_path: Path, url: str) -> None:
    """They are refused before anything is made."""
    with attack("security: names of collections that look like paths"):
        with pytest.raises(UsageError):
            open_store(url.format(tmp_path))
        assert list(tmp_path.iterdir()) == []


@slow
@pytest.mark.skipif(os.name == "nt", reason="such names can't be had there")
def test_odd_names_of_directories_are_only_names(
    attack: Attack, command: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They hold a collection like any other, and a command that is shown has them quoted."""
    monkeypatch.chdir(tmp_path)
    for name in (" a b ", "a\nb", "-rf", "$(touch x)", "a;touch x", "ü🌊", "a'b\"c", "%s{0}", "[bold]", "a:b", "\x1b[2J"):
        with attack("security: odd names of directories"):
            result = command("search", "x", f"--in=edge:./in {name}")
            assert result.code == 2
            assert steers(result.err) == set()
            assert f"--into {shlex.quote(f'edge:./in {name}')}" in result.err or not name.isprintable()
            api.index(documents=[Document("a", "The lamp burns.")], into=f"edge:./in {name}", model=HashEmbedder())
            assert [path.name for path in tmp_path.iterdir()] == [f"in {name}"]
            assert "1 of 64 dimensions" in command("inspect", f"edge:./in {name}").out
            shutil.rmtree(tmp_path / f"in {name}")


def linked(data: bytes, name: str, target: str) -> bytes:
    """An archive with a member that is a link."""
    made = io.BytesIO(data)
    with zipfile.ZipFile(made, "a") as file:
        member = zipfile.ZipInfo(name)
        member.create_system, member.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        file.writestr(member, target)
    return made.getvalue()


EVIL = {"../../evil.txt": "x", "/evil.txt": "x", "..\\evil.txt": "x", "C:/evil.txt": "x", "a/../../evil.txt": "x"}
ENTITY = '<?xml version="1.0"?><!DOCTYPE r [<!ENTITY e SYSTEM "file://{}">]>'


def archives(secret: Path) -> dict[str, tuple[str, bytes]]:
    """Files that try to write or read outside, by what they do."""
    document = zipfile.ZipFile(io.BytesIO(samples.docx())).read("word/document.xml").decode()
    doctype = ENTITY.format(secret)
    entity = doctype + document.partition("?>")[2].replace("It burns every night.", "&e;")
    types = (
        zipfile.ZipFile(io.BytesIO(samples.docx())).read("[Content_Types].xml").decode().replace("document.xml", "document.foo")
    )
    relations = zipfile.ZipFile(io.BytesIO(samples.docx())).read("_rels/.rels").decode().replace("document.xml", "document.foo")
    renamed = samples.with_member(samples.docx(), "[Content_Types].xml", types)
    renamed = samples.with_member(renamed, "_rels/.rels", relations)
    nothing = "<Relationships xmlns='http://schemas.openxmlformats.org/package/2006/relationships'/>"
    renamed = samples.with_member(renamed, "word/_rels/document.foo.rels", nothing)
    package = samples.PACKAGE.replace('href="c.xhtml"', f'href="../../../../../..{secret}"')
    inner = (
        '<?xml version="1.0"?><html><body><p>Light.</p><img src="file://{0}"/><iframe src="file://{0}"></iframe></body></html>'
    )
    return {
        "members named by a path, Word": (".docx", samples.with_member(samples.docx(), "../../evil.txt", "x")),
        "members named by a path, book": (".epub", samples.epub(**EVIL)),
        "members named by a path, Excel": (".xlsx", samples.with_member(samples.xlsx(3), "/evil.txt", "x")),
        "a member that is a link, Word": (".docx", linked(samples.docx(), "word/linked.xml", str(secret))),
        "a page that is a link, book": (".epub", linked(samples.epub(**{"O/c.xhtml": None}), "O/c.xhtml", str(secret))),
        "a page outside, book": (".epub", samples.epub(**{"O/b.opf": package})),
        "an entity, Word": (".docx", samples.with_member(samples.docx(), "word/document.xml", entity)),
        "an entity in a part of another ending, Word": (".docx", samples.with_member(renamed, "word/document.foo", entity)),
        "an entity, book": (".epub", samples.epub(**{"O/b.opf": doctype + samples.PACKAGE.replace("The Light", "&e;")})),
        "an entity in a page, book": (".epub", samples.epub(**{"O/c.xhtml": doctype + "<html><body>&e;</body></html>"})),
        "a file in a frame, book": (".epub", samples.epub(**{"O/a b.xhtml": inner.format(secret)})),
        "a file in a frame, page": (".html", inner.format(secret).encode()),
        "an entity, page": (".html", (doctype + "<html><body>&e; light</body></html>").encode()),
        "a reference, Markdown": (".md", f"![x](file://{secret}) <!--#include file='{secret}' --> [[{secret}]]".encode()),
        "an include, reStructuredText": (".rst", f".. include:: {secret}\n\n.. raw:: html\n   :file: {secret}\n".encode()),
        "a call, front matter": (".md", f"---\ntitle: !!python/object/apply:os.system ['touch {secret}.x']\n---\na".encode()),
        "a formula, CSV": (".csv", f'=HYPERLINK("file://{secret}"),=cmd|\' /C calc\'!A0\n1,2\n'.encode()),
    }  # fmt: skip


def read_as(suffix: str, data: bytes) -> Reading:
    """What a file becomes, through the run's own stages."""
    from sightline.indexing.files import FoundFile
    from sightline.indexing.readers import apply

    reader = reader_of(suffix)
    assert reader is not None
    loaded = LoadedFile(FoundFile(Path(f"a{suffix}"), f"kb/a{suffix}", len(data)), reader, data, "hash")
    return apply(reader, loaded.content, f"kb/a{suffix}")


def test_files_reach_nothing_outside(attack: Attack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No archive is unpacked, no entity resolved, nothing included: what a file says is all that is read."""
    secret = tmp_path / "secret.txt"
    secret.write_text("TOP-SECRET-CONTENT", encoding="utf-8")
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    for what, (suffix, data) in archives(secret).items():
        with attack("security: files that reach outside"):
            try:
                reading = read_as(suffix, data)
                said = reading.text + json.dumps(dict(reading.metadata))
            except SightlineError as error:
                said = str(error)
            assert "TOP-SECRET-CONTENT" not in said, what
            assert sorted(path.name for path in tmp_path.rglob("*")) == ["inside", "secret.txt"], what


# --- what is shown


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A collection of documents whose names, texts, headings and metadata steer a terminal, and the folder of some of them."""
    folder = tmp_path_factory.mktemp("hostile") / "kb"
    folder.mkdir()
    name = "".join(one for one in ESCAPES if one not in "/\r")
    front = "---\ntitle: " + json.dumps(ESCAPES) + "\npage: " + json.dumps(ESCAPES) + "\npage_end: 3\n---\n"
    (folder / f"{name}.md").write_text(f"{front}# {ESCAPES}\n\nThe lamp {ESCAPES} burns.\n", encoding="utf-8")
    (folder / f"{name}\nError: forged.pdf").write_bytes(b"no PDF")
    url = f"edge:{folder.parent}/db"
    api.index([folder], into=url, model=HashEmbedder())
    return url, folder


def steers(text: str) -> set[str]:
    """Characters that a terminal, or who reads it, could be steered by."""
    return {one for one in text if one != "\n" and unicodedata.category(one) in ("Cc", "Cf", "Zl", "Zp", "Cs", "Co")}


@pytest.fixture
def hashing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model by name is the hash embedder: what a command shows doesn't depend on it."""
    monkeypatch.setattr(opening, "open_embedder", lambda *_, **__: HashEmbedder())
    monkeypatch.setattr(opening, "is_trusted", lambda *_: True)


@slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("search", "lamp", "--in", "URL"),
        ("search", "lamp", "--in", "URL", "--json"),
        ("inspect", "URL"),
        ("inspect", "URL", "--json"),
        ("index", "FOLDER", "--into", "URL"),
        ("index", "FOLDER", "--into", "URL", "--json"),
        ("index", "FOLDER", "--into", "URL", "--dry-run", "--no-calibration"),
        ("index", "FOLDER", "--into", "URL", "--dry-run", "--no-calibration", "--json"),
        ("remove", "kb/lamp.md", "--from", "URL"),
        ("index", "EMPTY", "--into", "URL", "--rebuild"),
        ("index", "EMPTY", "--into", "URL", "--root", "kb=EMPTY", "--prune"),
        ("copy", "URL", "URL"),
    ],
    ids=" ".join,
)
def test_nothing_that_is_shown_steers_the_terminal(
    attack: Attack,
    hostile: tuple[str, Path],
    command: Callable[..., Result],
    hashing: None,
    tmp_path: Path,
    arguments: tuple[str, ...],
) -> None:
    """Not in results, not in names, not in errors and reasons; JSON stays JSON, and markup stays text."""
    url, folder = hostile
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a.md").write_text("A text.", encoding="utf-8")
    words = {"URL": url, "FOLDER": str(folder), "EMPTY": str(tmp_path / "plain"), "kb=EMPTY": f"other={tmp_path / 'plain'}"}
    with attack("security: texts and names that steer a terminal"):
        result = command(*[words.get(word, word) for word in arguments])
        assert result.code in (0, 1, 2, 4), result.err
        assert steers(result.out + result.err) == set()
        assert "\nError: forged" not in result.out + result.err
        if "--json" in arguments:
            json.loads(result.out)
        if arguments[0] == "search":
            assert "[bold red]markup[/]" in result.out


@slow
def test_what_a_collection_says_of_itself_does_not_steer_the_terminal(
    attack: Attack, command: Callable[..., Result], tmp_path: Path
) -> None:
    """Its model, prompts, last run and unfinished copies come from whoever made it."""
    url = named_by_a_collection(f"edge:{tmp_path}/db", model=f"evil {ESCAPES}", query_prompt=ESCAPES)
    with closing(open_store(url)) as store:
        store.write_mark({"unfinished": [ESCAPES], "last_run": {"finished": ESCAPES, "seconds": 1.0, "chunks_embedded": 1}})
    commands = [("inspect", url), ("inspect", url, "--json"), ("search", "lamp", "--in", url), ("index", __file__, "--into", url)]
    for one in commands:
        with attack("security: collections that steer a terminal"):
            result = command(*one)
            assert result.code in (0, 2, 3), result.err
            assert steers(result.out + result.err) == set()
            assert "Traceback" not in result.err
    with closing(open_store(url)) as store:
        note = {"from": f"edge:{ESCAPES}", "to": "edge:x; rm -rf ~", "options": ["--x\n$(touch y)"]}
        store.write_contract({"format_version": 3, "unfinished_copy": note})
    with attack("security: collections that steer a terminal"):
        result = command("search", "lamp", "--in", url)
        assert (result.code, steers(result.err)) == (4, set())
        assert "'edge:x; rm -rf ~'" in result.err, "a command that is shown is quoted"


@slow
@pytest.mark.parametrize("mark", [{"last_run": 5}, {"unfinished": "abc"}, {"unfinished": [1]}, {"last_run": {"finished": 1}}])
def test_a_damaged_mark_is_told_and_not_thrown(
    attack: Attack, command: Callable[..., Result], tmp_path: Path, mark: dict[str, Any]
) -> None:
    """Whatever a collection says of its last run, `inspect` ends with a message or shows the rest."""
    url = named_by_a_collection(f"edge:{tmp_path}/db")
    with closing(open_store(url)) as store:
        store.write_mark(mark)
    with attack("security: a damaged mark"):
        result = command("inspect", url)
        assert result.code in (0, 3)
        assert "Traceback" not in result.err


# --- keys


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """All keys that Sightline and its clients know, set."""
    for name in VARIABLES:
        monkeypatch.setenv(name, KEY)


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """Everything that anybody logs, at the lowest level, with the traces of exceptions."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setLevel(logging.DEBUG)
    root = logging.getLogger()
    names = ["", "sightline", "httpx", "httpcore", "chromadb", "qdrant_client", "grpc", "huggingface_hub", "urllib3", "tenacity"]
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.DEBUG)
    root.addHandler(handler)
    yield stream
    root.removeHandler(handler)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@slow
@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
@pytest.mark.parametrize("kind", ["chroma", "qdrant"])
def test_a_key_that_a_server_repeats_is_not_told(
    attack: Attack, keys: None, logged: io.StringIO, command: Callable[..., Result], kind: str, status: int
) -> None:
    """Not in the message, the log, or the representation of a store; nor does a fault show it."""
    with echoing_server(status) as port:
        # A Qdrant client finds no gRPC there, and takes REST on the port before.
        url = f"chroma+http://127.0.0.1:{port}/handbook" if kind == "chroma" else f"qdrant://127.0.0.1:{port + 1}/handbook"
        with attack("security: a server that repeats the key"):
            result = command("inspect", url)
            assert result.code in (2, 4, 70), result.err
            assert KEY not in result.out + result.err
            with closing(open_store(url)) as store:
                assert KEY not in repr(store) + repr(vars(store))
                with pytest.raises(SightlineError) as caught:
                    store.count()
                assert KEY not in f"{caught.value}{caught.value!r}"
            assert KEY not in logged.getvalue()


def test_a_fault_shows_no_key(
    attack: Attack, keys: None, command: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The whole trace is shown, with the causes of what happened, but for the keys in it."""

    def fault(*_: Any, **__: Any) -> None:
        try:
            raise ValueError(f"sent: {{'api-key': '{KEY}'}}")
        except ValueError as error:
            raise RuntimeError(f"Bearer {KEY}") from error

    monkeypatch.setattr(api, "inspect", fault)
    with attack("security: a fault with the key in its trace"):
        result = command("inspect", f"edge:{tmp_path}/db")
        assert result.code == 70
        assert "RuntimeError: Bearer ***" in result.err
        assert KEY not in result.out + result.err


@slow
def test_doctor_and_collections_hold_no_key(
    attack: Attack, keys: None, command: Callable[..., Result], tmp_path: Path, logged: io.StringIO
) -> None:
    """Neither what is shown of this machine, nor a byte of what a run writes."""
    for arguments in (("doctor",), ("doctor", "--json")):
        with attack("security: doctor with keys in the environment"):
            result = command(*arguments)
            assert KEY not in result.out + result.err
    for store in ("edge:{}/edge", "chroma:{}/chroma/handbook", "qdrant:{}/qdrant/handbook"):
        url = store.format(tmp_path)
        api.index(documents=[Document("a", "The lamp burns.")], into=url, model=HashEmbedder())
        with attack("security: collections made with keys in the environment"):
            assert KEY not in command("inspect", url, "--json").out
    written = [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert written == []
    assert KEY not in logged.getvalue()


PASSWORDS = [
    "qdrant://me:PASS@host/kb",
    "qdrant+https://me:PASS@host:6334/kb",
    "chroma+http://PASS@host/handbook",
    "chroma+https://me:PASS@host/handbook",
    "https://me:PASS@host/kb",
    "postgres://me:PASS@host/kb",
    "qdrant+http://me:PASS@host/kb",
    "edge://me:PASS@host/kb",
    "chroma://me:PASS@host/kb",
    "parquet://me:PASS@host/kb.parquet",
    "memory://me:PASS@host",
    "qdrant://me:PA/SS@host/kb",
    "qdrant://me:PA#SS@host/kb",
    "qdrant://me:PA?SS@host/kb",
    "qdrant://host/kb?api_key=PASS",
    "chroma+https://host/handbook#token=PASS",
    "//me:PASS@host/kb",
    "qdrant://me:PASS@[::1/kb",
]


@slow
@pytest.mark.parametrize("url", PASSWORDS)
def test_a_url_with_a_password_is_refused_without_it(
    attack: Attack, command: Callable[..., Result], logged: io.StringIO, tmp_path: Path, url: str
) -> None:
    """By every command, and whatever is wrong with the URL besides."""
    (tmp_path / "a.md").write_text("text", encoding="utf-8")
    for arguments in (
        ("inspect", url), ("search", "x", "--in", url), ("index", tmp_path / "a.md", "--into", url), ("copy", url, url),
        ("copy", f"edge:{tmp_path}/none", url), ("remove", "x", "--from", url),
    ):  # fmt: skip
        with attack("security: a URL with a password"):
            result = command(*arguments)
            assert result.code == 2
            assert not re.search("PASS|PA.SS|SS@", result.out + result.err + logged.getvalue())
    with pytest.raises(UnknownStore):
        open_store(url)


def test_keys_are_told_from_other_variables() -> None:
    """What names a key is kept back and hidden; what children need isn't."""
    kept = dict.fromkeys(("PATH", "HOME", "TOKENIZERS_PARALLELISM", "LANG", "HF_HOME", "LD_LIBRARY_PATH"), "x")
    held = {
        **dict.fromkeys(VARIABLES, "x"), "AWS_SECRET_ACCESS_KEY": "x", "OPENAI_API_KEY": "x", "GITHUB_TOKEN": "x",
        "PGPASSWORD": "x",
        "GOOGLE_APPLICATION_CREDENTIALS": "x", "hf_token": "x", "DB_PASSWORD_FILE": "x",
    }  # fmt: skip
    assert without_keys(kept | held) == kept


def test_only_keys_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short value, or a variable that is no key, is a word like any other."""
    monkeypatch.setenv("SOME_API_KEY", "lamp")
    monkeypatch.setenv("SOME_PLACE", "a long place")
    monkeypatch.setenv("QDRANT_API_KEY", KEY)
    assert hide_keys(f"the lamp at a long place: {KEY}{KEY}") == "the lamp at a long place: ******"


# --- processes and temporary files


@slow
def test_parsers_are_given_no_key(attack: Attack, keys: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that a malicious file takes over finds none in its environment."""
    given: list[dict[str, str]] = []
    start = subprocess.Popen

    def noting(*arguments: Any, **options: Any) -> Any:
        given.append(dict(options["env"]))
        return start(*arguments, **options)

    monkeypatch.setattr(children.subprocess, "Popen", noting)
    from sightline.indexing.files import FoundFile

    reader, data = reader_of(".docx"), samples.docx()
    assert reader is not None
    with attack("security: keys in the environment of a parser"), Parsers(ParseLimits(processes=1)) as made:
        file = LoadedFile(FoundFile(Path("x"), "kb/x.docx", len(data)), reader, data, "hash")
        assert made.submit(file).result(60).text.startswith("# The Lamp")
        assert len(given) == 1
        assert not [name for name, value in given[0].items() if KEY in value]
        assert given[0]["PATH"] == os.environ["PATH"]


@slow
@pytest.mark.skipif(os.name == "nt", reason="permissions are others there")
def test_temporary_files_are_for_this_user_only(attack: Attack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is copied for a dry run may be read by nobody else, however open the system's mask is, and is gone afterwards."""
    url = f"edge:{tmp_path}/db"
    api.index(documents=[Document("a", "The lamp burns.")], into=url, model=HashEmbedder())
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    modes: list[int] = []

    class Looking(HashEmbedder):
        def identity(self) -> Any:
            modes.extend(stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "tmp").iterdir())
            return super().identity()

    mask = os.umask(0)
    try:
        with attack("security: temporary files that others could read"):
            api.plan_index(documents=[Document("b", "x")], into=url, model=Looking())
            assert set(modes) == {0o700}
            assert list((tmp_path / "tmp").iterdir()) == []
    finally:
        os.umask(mask)


@slow
def test_an_unknown_field_of_a_foreign_payload_is_data(attack: Attack, tmp_path: Path) -> None:
    """Metadata that looks like ours can't be given by a document: the prefix is refused, and nothing is lost by it."""
    url = f"edge:{tmp_path}/db"
    forged = [
        {"sightline_head": 1, "sightline_source": "kb/other.md"}, {"sightline_point": 0}, {"source": "kb/other.md"},
        {"page_content": "x"}, {"__class__": "os.system"}, {"$where": "1"}, {"metadata": {"source": "x"}},
    ]  # fmt: skip
    documents = [Document(f"d{number}", f"Text {number}.", metadata=one) for number, one in enumerate(forged)]
    summary = api.index(documents=documents, into=url, model=HashEmbedder())
    with closing(open_store(url)) as store:
        sources = set(store.sources())
    for number, _ in enumerate(forged):
        with attack("security: metadata that poses as ours"):
            named = [one for one in summary.skipped if one.source.endswith(f"d{number}")]
            assert named or f"documents/d{number}" in sources
    assert sources <= {f"documents/d{number}" for number in range(len(forged))}


def test_security_is_documented() -> None:
    """The threat model names what is and isn't trusted, and the check of dependencies that anybody can run."""
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    for word in ("pip-audit", "pickle", "trust_remote_code", "QDRANT_API_KEY", "Reporting", "not promised"):
        assert word in text


def test_a_file_of_settings_in_the_working_directory_is_not_ours(
    attack: Attack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proof: Path
) -> None:
    """Chroma would take classes to be made, and where to send traces, from a `.env` that came with the documents."""
    planted = f"open({str(proof)!r}, 'w').close()\n"
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "planted.py").write_text(planted, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path / "path"))
    (tmp_path / ".env").write_text('chroma_api_impl="planted.Api"\nchroma_sysdb_impl="planted.Api"\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with attack("security: a .env among the documents"):
        url = f"chroma:{tmp_path}/db/handbook"
        api.index(documents=[Document("a", "The lamp burns.")], into=url, model=HashEmbedder())
        assert not proof.exists()


@slow
def test_python_is_not_misled_by_the_working_directory(attack: Attack, tmp_path: Path, proof: Path) -> None:
    """A folder that is indexed from within may hold modules of Python's names: a parser process doesn't import them."""
    for name in ("json", "queue", "struct", "docx", "lxml", "sightline"):
        (tmp_path / f"{name}.py").write_text(f"open({str(proof)!r}, 'w').close()\n", encoding="utf-8")
    (tmp_path / "a.docx").write_bytes(samples.docx())
    code = (
        "import sys; sys.path[:] = [one for one in sys.path if one]\n"
        "from sightline import api; from sightline.testing import HashEmbedder\n"
        "print(api.index(['a.docx'], into='edge:db', model=HashEmbedder()).documents)"
    )
    with attack("security: modules of Python's names in the folder"):
        done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, env=_paths())
        assert done.stdout.strip() == "1", done.stderr
        assert not proof.exists()


def _paths() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
