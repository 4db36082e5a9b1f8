"""Attacks on the contract: a collection is opened by an embedder that sees otherwise than it was seen, or is itself damaged.

Each is refused before a text of the corpus is embedded and before anything is written. What may differ is shown to pass.
"""

from __future__ import annotations

import base64
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attacks import Attack
from sightline import api, opening
from sightline.cli import main
from sightline.contract import PROBE_TEXTS, ChunkPart, make_contract
from sightline.embedding.shared import SharedEmbedder, open_embedder
from sightline.errors import ContractMismatch, ModelError, SightlineError, StoreError, UsageError
from sightline.protocols import Texts
from sightline.stores import open_store
from sightline.testing import HashEmbedder
from sightline.types import EmbedderIdentity, FloatArray, Role

KIND = "wrong eyes: {}"
slow = pytest.mark.slow
# What `make test` runs of a table of attacks; all of them are in `make test-all`.
STORES = ["chroma", pytest.param("edge", marks=slow), pytest.param("qdrant", marks=slow)]


def some_quick(names: Iterable[str], quick: set[str]) -> list[Any]:
    """Names for `parametrize`: those that aren't quick ones are slow tests."""
    return [name if name in quick else pytest.param(name, marks=slow) for name in names]


DIMENSIONS = 64


class Server(HashEmbedder):
    """An embedder like one on a server: nothing is known of its files, what it does to texts is its own, and it counts."""

    def __init__(
        self,
        *,
        documents: str = "",
        queries: str | None = None,
        scale: float = 1.0,
        order: Callable[[FloatArray], FloatArray] = lambda rows: rows,
        **more: Any,
    ) -> None:
        super().__init__(**more)
        self.documents, self.queries, self.scale, self.order = documents, queries, scale, order
        self.seen: list[str] = []

    def identity(self) -> EmbedderIdentity:
        return replace(super().identity(), fingerprint=None, document_prompt=None)

    def submit(self, texts: Texts, *, role: Role, instruction: Any = None, **more: Any) -> Future[FloatArray]:
        self.seen += [str(text) for text in texts]
        if role is Role.DOCUMENT:
            texts = [self.documents + str(text) for text in texts]
        elif self.queries is not None:
            texts, instruction = [self.queries + str(text) for text in texts], ""
        rows = super().submit(texts, role=role, instruction=instruction, **more).result()
        future: Future[FloatArray] = Future()
        future.set_result(self.order(rows) * np.float32(self.scale))
        return future


@dataclass
class Watched:
    """What the attacks look at: the texts that any embedder was given."""

    texts: list[str] = field(default_factory=list)

    @property
    def only_probes(self) -> bool:
        return set(self.texts) <= set(PROBE_TEXTS)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """Every text that a model of this machine is given from now on."""
    found = Watched()
    submit = SharedEmbedder.submit

    def counting(self: SharedEmbedder, texts: Texts, **more: Any) -> Future[FloatArray]:
        found.texts += [text if isinstance(text, str) else "token ids" for text in texts]
        return submit(self, texts, **more)

    monkeypatch.setattr(SharedEmbedder, "submit", counting)
    return found


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two documents, both of which the wrong eyes would have to embed anew: one is changed after the collection was made."""
    folder = tmp_path_factory.mktemp("corpus") / "kb"
    folder.mkdir()
    (folder / "lamp.md").write_text("# Lamp\n\nThe lamp burns rape oil.\n", encoding="utf-8")
    (folder / "tide.md").write_text("# Tide\n\nHigh water comes twice a day.\n", encoding="utf-8")
    return folder


@pytest.fixture
def changed(corpus: Path, tmp_path: Path) -> Path:
    """The corpus with a new document, so that a run that isn't refused has something to embed."""
    folder = tmp_path / "changed" / "kb"
    shutil.copytree(corpus, folder)
    (folder / "storm.md").write_text("# Storm\n\nA gale is expected from the west.\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def made(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Any], Path]:
    """`made(store, model)`: the directory of a collection of the corpus, made once for each."""
    known: dict[tuple[str, str], Path] = {}

    def make(store: str, model: Any) -> Path:
        key = (store, model if isinstance(model, (str, Path)) else type(model).__name__)
        if key not in known:
            known[key] = tmp_path_factory.mktemp("made") / "db"
            device = "cpu" if isinstance(model, (str, Path)) else None
            api.index([corpus], into=url_of(store, known[key]), model=model, device=device)
        return known[key]

    return make


def url_of(store: str, directory: Path) -> str:
    """A collection in a directory of each kind of store."""
    return {"edge": f"edge:{directory}"}.get(store, f"{store}:{directory}/handbook")


@pytest.fixture
def collection(made: Callable[[str, Any], Path], tmp_path: Path) -> Callable[..., str]:
    """`collection(store, model)`: the URL of a copy of that collection, for this test alone."""

    def copy(store: str, model: Any) -> str:
        shutil.copytree(made(store, model), tmp_path / "db")
        return url_of(store, tmp_path / "db")

    return copy


def contents(url: str) -> list[tuple[Any, ...]]:
    """All that a collection holds: contract, mark, and each point with its vector."""
    with closing(open_store(url)) as store:
        points = sorted((one.point.id, one.point.text, one.point.source, one.vector.tobytes()) for one in store.records())
        return [(json.dumps(store.read_contract(), sort_keys=True), json.dumps(store.read_mark(), sort_keys=True)), *points]


def refused(url: str, changed: Path, model: Any, *names: str, kind: type[SightlineError] = ContractMismatch, **more: Any) -> None:
    """Neither a run nor a search gets in, and the collection is as it was; every message has all the names."""
    before = contents(url)
    where = {} if model is None or not isinstance(model, (str, Path)) else {"device": "cpu"}
    with pytest.raises(kind) as writing:
        api.index([changed], into=url, model=model, **where, **more)
    searched = {key: value for key, value in more.items() if key == "dimensions"}
    with pytest.raises(kind) as reading:
        api.open_collection(url, model=model, **where, **searched)
    for message in (str(writing.value), str(reading.value)):
        assert "sightline" in message, "no next command"
        for name in names:
            assert name in message
    assert contents(url) == before


# --- models of this machine: other files under another or the same name


def edited(model: Path, folder: Path, *edits: Callable[[Path], None]) -> Path:
    """A copy of a model folder with something changed."""
    shutil.copytree(model, folder)
    for edit in edits:
        edit(folder)
    return folder


def with_weights(folder: Path) -> None:
    """Other weights of the same shapes."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    save_file({name: tensor.flip(0).contiguous() for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})


def with_json(name: str, **changes: Any) -> Callable[[Path], None]:
    """An edit that changes keys of a JSON file."""

    def edit(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")

    return edit


def with_tokenizer(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """An edit that changes the tokenizer's JSON."""

    def edit(folder: Path) -> None:
        path = folder / "tokenizer.json"
        data = json.loads(path.read_text(encoding="utf-8"))
        change(data)
        path.write_text(json.dumps(data), encoding="utf-8")

    return edit


def without_template(data: dict[str, Any]) -> None:
    """The tokenizer puts nothing around a text."""
    data["post_processor"] = None


def with_swapped_words(data: dict[str, Any]) -> None:
    """Ids stand for other words."""
    words = data["model"]["vocab"]
    letters = [word for word in words if len(word) == 1 and word.isalpha()]
    for one, other in zip(letters, letters[1:] + letters[:1], strict=True):
        words[one], words[other] = words[other], words[one]


def without_normalize(folder: Path) -> None:
    """The chain of modules ends before the unit norm, with a layer of its own before it left out."""
    entries = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    (folder / "modules.json").write_text(json.dumps([one for one in entries if "Dense" not in one["type"]]), encoding="utf-8")


MODELS: dict[str, tuple[str, Callable[[Path], None], tuple[str, ...]]] = {
    "other weights": ("bert", with_weights, ("fingerprint", "cosine down to")),
    "pooling": ("bert", with_json("1_Pooling/config.json", pooling_mode="cls"), ("pooling: the collection has 'mean'", "'cls'")),
    "a tokenizer without its template": ("bert", with_tokenizer(without_template), ("fingerprint", "cosine down to")),
    "a tokenizer without its EOS": ("qwen3", with_tokenizer(without_template), ("fingerprint", "cosine down to")),
    "another vocabulary": ("bert", with_tokenizer(with_swapped_words), ("fingerprint", "cosine down to")),
    "case that is kept": ("bert", with_json("tokenizer_config.json", do_lower_case=False), ("fingerprint", "cosine down")),
    "text in lower case": ("qwen3", with_json("sentence_bert_config.json", do_lower_case=True), ("fingerprint", "cosine down")),
    "another architecture's settings": ("bert", with_json("config.json", hidden_act="relu"), ("fingerprint", "cosine down to")),
    "a module left out": ("gemma3", without_normalize, ("native_dimensions", "fingerprint")),
    "document prompt": (
        "xlm-roberta",
        with_json("config_sentence_transformers.json", prompts={"query": "query: ", "document": "text: "}),
        ("document_prompt: the collection has 'passage: ', this embedder 'text: '",),
    ),
}


@slow
@pytest.mark.parametrize("what", MODELS)
def test_another_model_is_refused(
    attack: Attack,
    made: Callable[[str, Any], Path],
    collection: Callable[..., str],
    changed: Path,
    watched: Watched,
    make_model: Callable[..., Path],
    tmp_path: Path,
    what: str,
) -> None:
    """Under another name, and in the folder of the one that the collection was made with."""
    family, edit, names = MODELS[what]
    origin = make_model(family)
    url = collection("edge", str(origin))
    other = edited(origin, tmp_path / "other", edit)
    watched.texts.clear()
    with attack(KIND.format("another model")):
        refused(url, changed, other, *names, f"--model {other}", "--rebuild")
        assert watched.only_probes


@slow
@pytest.mark.parametrize("store", ["edge", "chroma", "qdrant"])
def test_other_weights_in_the_same_folder_are_refused(
    attack: Attack,
    make_model: Callable[..., Path],
    corpus: Path,
    changed: Path,
    watched: Watched,
    tmp_path: Path,
    store: str,
) -> None:
    """Nobody names a model: the collection does, and what lies at that path isn't what it was."""
    model = edited(make_model("bert"), tmp_path / "model")
    url = url_of(store, tmp_path / "db")
    api.index([corpus], into=url, model=model, device="cpu")
    with_weights(model)
    watched.texts.clear()
    with attack(KIND.format("the same name, other weights")):
        refused(url, changed, None, "fingerprint", "--rebuild")
        assert watched.only_probes


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, str], None]:
    """`hub(model, commit)`: from now on the hub's cache has this commit of the model some/model as its newest one."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv(opening.TRUSTED_MODELS_VARIABLE, "some/*")
    repository = cache / "models--some--model"

    def put(model: Path, commit: str) -> None:
        shutil.copytree(model, repository / "snapshots" / commit)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(commit, encoding="utf-8")

    return put


@slow
def test_another_revision_is_refused_where_it_sees_otherwise(
    attack: Attack,
    hub: Callable[[Path, str], None],
    make_model: Callable[..., Path],
    corpus: Path,
    changed: Path,
    watched: Watched,
    tmp_path: Path,
) -> None:
    """The hub's newest commit has other weights; the one that the collection names is there, and goes on working."""
    hub(make_model("bert"), "a" * 40)
    url = f"edge:{tmp_path}/db"
    api.index([corpus], into=url, model="some/model", device="cpu")
    hub(edited(make_model("bert"), tmp_path / "new", with_weights), "b" * 40)
    watched.texts.clear()
    with attack(KIND.format("another revision")):
        revision = f"revision: the collection has '{'a' * 40}', this embedder '{'b' * 40}'"
        refused(url, changed, "some/model", revision, "fingerprint", "--model some/model")
        assert watched.only_probes
    assert api.index([changed], into=url, device="cpu").documents == 3


@slow
def test_a_mere_label_of_a_revision_passes(
    attack: Attack,
    hub: Callable[[Path, str], None],
    make_model: Callable[..., Path],
    corpus: Path,
    watched: Watched,
    tmp_path: Path,
) -> None:
    """Another commit with the same files is the same model, and nothing is embedded to find that out."""
    hub(make_model("bert"), "a" * 40)
    url = f"edge:{tmp_path}/db"
    api.index([corpus], into=url, model="some/model", device="cpu")
    hub(make_model("bert"), "b" * 40)
    watched.texts.clear()
    with attack("what may differ: revision label"):
        assert api.index([corpus], into=url, model="some/model", device="cpu").documents_unchanged == 2
        assert watched.texts == []


@slow
def test_what_may_differ_in_a_model_passes(
    attack: Attack,
    collection: Callable[..., str],
    make_model: Callable[..., Path],
    changed: Path,
    watched: Watched,
    tmp_path: Path,
) -> None:
    """A copy in another folder, on a device that is named, with another number format, chunk size and question."""
    origin = make_model("bert")
    url = collection("edge", str(origin))
    copy = edited(origin, tmp_path / "copy", with_json("config_sentence_transformers.json", prompts={"query": "find: "}))
    watched.texts.clear()
    with attack("what may differ: folder"):
        api.open_collection(url, model=copy, device="cpu").close()
    with attack("what may differ: number format"):
        for dtype in ("float32", "bfloat16"):
            api.open_collection(url, model=copy, device="cpu", dtype=dtype).close()
    with attack("what may differ: device's name"):
        api.open_collection(url, model=copy, devices=["cpu"]).close()
    with attack("what may differ: query instruction"), open_embedder(copy, query_instruction="Find what answers it: ") as looking:
        api.open_collection(url, model=looking).close()
        assert looking.identity().query_prompt not in ("", "find: ")
    assert watched.texts == [], "equal fingerprints embed nothing"
    with attack("what may differ: chunker"):
        summary = api.index([changed], into=url, model=copy, device="cpu", chunk_tokens=64, overlap_tokens=8)
        assert (summary.documents, summary.documents_failed) == (3, 0)


@slow
@pytest.mark.parametrize(("dtype", "other"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_another_number_format_passes_the_probes_too(
    attack: Attack, make_model: Callable[..., Path], corpus: Path, tmp_path: Path, dtype: str, other: str
) -> None:
    """Where the fingerprint isn't known, vectors in bfloat16 and in float32 are near enough to be the same sight."""

    class Unknown:
        def __init__(self, inner: SharedEmbedder) -> None:
            self._inner = inner

        def identity(self) -> EmbedderIdentity:
            return replace(self._inner.identity(), fingerprint=None)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

    url = f"edge:{tmp_path}/db"
    model = make_model("bert")
    with open_embedder(model, device="cpu", dtype=dtype) as first, open_embedder(model, device="cpu", dtype=other) as second:
        api.index([corpus], into=url, model=Unknown(first))
        with attack("what may differ: number format, told by the probes"):
            api.open_collection(url, model=Unknown(second)).close()


@slow
def test_a_shorter_longest_input_is_refused(
    attack: Attack,
    collection: Callable[..., str],
    make_model: Callable[..., Path],
    changed: Path,
    watched: Watched,
    tmp_path: Path,
) -> None:
    """A model that would cut off the collection's chunks, which no probe could show, is refused by their length."""
    origin = make_model("bert")
    url = collection("edge", str(origin))
    short = edited(origin, tmp_path / "short", with_json("sentence_bert_config.json", max_seq_length=64))
    watched.texts.clear()
    with attack(KIND.format("a shorter longest input")):
        before = contents(url)
        with pytest.raises(UsageError, match="A chunk can't have 510 tokens; allowed are 16 to 62"):
            api.index([changed], into=url, model=short, device="cpu")
        assert contents(url) == before
        assert watched.texts == []


# --- embedders of which nothing is known but what they give


def dimensionless(rows: FloatArray) -> FloatArray:
    """Twice as long as asked for, as from a server that doesn't know `dimensions`."""
    return np.concatenate([rows, rows], axis=1)


SERVERS: dict[str, tuple[Callable[[], Server], type[SightlineError], tuple[str, ...]]] = {
    "another model": (lambda: Server(name="other", order=lambda rows: rows[:, ::-1]), ContractMismatch, ("'other'", "cosine")),
    "the query prompt before documents": (lambda: Server(documents="query: "), ContractMismatch, ("as documents", "cosine")),
    "an instruction before documents": (lambda: Server(documents="represent this: "), ContractMismatch, ("as documents",)),
    "the query prompt dropped": (lambda: Server(queries=""), ContractMismatch, ("as queries",)),
    "the query prompt twice": (lambda: Server(queries="query: query: "), ContractMismatch, ("as queries",)),
    "vectors that aren't normalised": (
        lambda: Server(scale=3.0), ContractMismatch, ("normalised: the collection has True", "norms 3.000 to 3.000"),
    ),
    "vectors in another order": (lambda: Server(order=lambda rows: np.roll(rows, 1, axis=0)), ContractMismatch, ("cosine",)),
    "one vector for all": (lambda: Server(order=lambda rows: rows[[0] * len(rows)]), ContractMismatch, ("cosine",)),
    "vectors of NaN": (lambda: Server(scale=float("nan")), ContractMismatch, ("nan",)),
    "vectors of zeros": (lambda: Server(scale=0.0), ContractMismatch, ("normalised",)),
    "one vector too few": (lambda: Server(order=lambda rows: rows[:-1]), ModelError, ("(7, 64)", "(8, 64)")),
    "dimensions that aren't those asked for": (lambda: Server(order=dimensionless), ModelError, ("(8, 128)", "(8, 64)")),
}  # fmt: skip


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize(
    "what", some_quick(SERVERS, {"the query prompt dropped", "vectors that aren't normalised", "one vector too few"})
)
def test_a_server_that_sees_otherwise_is_refused(
    attack: Attack,
    collection: Callable[..., str],
    changed: Path,
    request: pytest.FixtureRequest,
    what: str,
    store: str,
) -> None:
    """Whatever it calls itself: it is given the probes and nothing else."""
    make, kind, names = SERVERS[what]
    url = collection(store, Server())
    server = make()
    before = contents(url)
    with attack(KIND.format("a server that sees otherwise")):
        with pytest.raises(kind) as writing:
            api.index([changed], into=url, model=server)
        with pytest.raises(kind) as reading:
            api.open_collection(url, model=server)
        for name in names:
            assert name in str(writing.value)
            assert name in str(reading.value)
        assert set(server.seen) <= set(PROBE_TEXTS)
        assert contents(url) == before
        assert api.index([changed], into=url, model=Server()).documents == 3, "the right one still gets in"


@slow
def test_a_new_collection_is_not_made_of_what_is_no_unit_vector(attack: Attack, changed: Path, tmp_path: Path) -> None:
    """Nor of the wrong number of vectors: nothing is left on the disk."""
    for server in (Server(scale=3.0), Server(order=lambda rows: rows[:-1]), Server(order=dimensionless)):
        with attack(KIND.format("a new collection of broken vectors")):
            with pytest.raises(ModelError):
                api.index([changed], into=f"edge:{tmp_path}/db", model=server)
            assert set(server.seen) <= set(PROBE_TEXTS)
            assert not (tmp_path / "db").exists()


@pytest.mark.parametrize("store", some_quick(["edge", "memory"], {"memory"}))
def test_other_dimensions_and_prompts_are_refused_unseen(attack: Attack, changed: Path, tmp_path: Path, store: str) -> None:
    """What can be told without embedding is told so."""
    url = {"edge": f"edge:{tmp_path}/db", "memory": f"memory:{tmp_path.name}"}[store]
    with closing(open_store(url)) as kept:  # a named memory lives as long as somebody has it
        api.index([changed], into=url, model=HashEmbedder(), dimensions=32)
        before = kept.read_contract(), kept.count()
        cases = {
            "dimensions": (HashEmbedder(), {"dimensions": 16}, "dimensions: the collection has 32, this embedder 16"),
            "a longer vector": (HashEmbedder(), {"dimensions": 64}, "dimensions: the collection has 32, this embedder 64"),
            "a shorter model": (HashEmbedder(native_dimensions=16), {"dimensions": 16}, "native_dimensions: the collection"),
            "document prompt": (HashEmbedder(document_instruction="page: "), {"dimensions": 32}, "document_prompt: the coll"),
        }
        for embedder, more, message in cases.values():
            with attack(KIND.format("told without embedding")):
                with pytest.raises(ContractMismatch, match=message):
                    api.index([changed], into=url, model=embedder, **more)
                assert embedder.stats().texts == 0
                assert (kept.read_contract(), kept.count()) == before


# --- contracts that are damaged, newer, or not of these vectors


def probes_of(value: float) -> Callable[[dict[str, Any]], None]:
    """A change of all probes."""

    def change(contract: dict[str, Any]) -> None:
        rows = np.full((2 * len(PROBE_TEXTS), contract["vectors"]["dimensions"]), value, dtype="<f2")
        contract["probes"] = base64.b64encode(rows.tobytes()).decode()

    return change


def setting(part: str, **changes: Any) -> Callable[[dict[str, Any]], None]:
    """A change of some keys of a part."""
    return lambda contract: contract[part].update(changes)


DAMAGED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "newer format": (lambda one: one.update(format_version=99), "format version 99.*pip install --upgrade"),
    "older format": (lambda one: one.update(format_version=1), "format version 1.*sightline index"),
    "no format": (lambda one: one.pop("format_version"), "can't be read.*format version is None"),
    "format in words": (lambda one: one.update(format_version="two"), "can't be read.*'two'"),
    "no probes": (lambda one: one.pop("probes"), "can't be read.*probes"),
    "no vectors": (lambda one: one.pop("vectors"), "can't be read.*vectors"),
    "vectors in a list": (lambda one: one.update(vectors=["mean"]), "can't be read"),
    "half the probes": (lambda one: one.update(probes=one["probes"][:400]), "can't be read"),
    "probes of NaN": (probes_of(float("nan")), "can't be read.*NaN"),
    "probes of infinity": (probes_of(float("inf")), "can't be read.*infinity"),
    "an unknown field": (setting("vectors", sparse=True), "can't be read.*sparse"),
    "a model that is a number": (setting("reading", model=5), "can't be read.*model is 5"),
    "a length in words": (setting("vectors", dimensions="64"), "can't be read"),
    "a negative length": (setting("vectors", dimensions=-1), "can't be read.*dimensions is -1"),
    "a prompt that is a list": (setting("vectors", document_prompt=["a"]), "can't be read.*document_prompt"),
    "chunks that are a text": (lambda one: one.update(chunks="sections"), "can't be read"),
    "a dot product": (setting("vectors", distance="dot"), "distance: the collection has 'dot', this embedder 'cosine'"),
    "no norm": (setting("vectors", normalised=False), "normalised: the collection has False, this embedder True"),
    "text with its title": (setting("vectors", embedded_text="title+page_content"), "embedded_text: the collection has 'title"),
    "nothing": (lambda one: one.clear(), "can't be read"),
}


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("what", some_quick(DAMAGED, {"newer format", "probes of NaN", "a dot product"}))
def test_a_damaged_contract_is_refused(
    attack: Attack, collection: Callable[..., str], changed: Path, store: str, what: str
) -> None:
    """By the embedder that made the collection itself, for reading too; nothing is embedded, nothing mended in silence."""
    damage, message = DAMAGED[what]
    url = collection(store, HashEmbedder())
    with closing(open_store(url)) as kept:
        contract = json.loads(json.dumps(kept.read_contract()))
        damage(contract)
        kept.write_contract(contract)
    before = contents(url)
    embedder = HashEmbedder()
    with attack(KIND.format("a damaged or foreign contract")):
        for use in (
            lambda: api.index([changed], into=url, model=embedder),
            lambda: api.open_collection(url, model=embedder),
        ):
            with pytest.raises(ContractMismatch, match=f"(?s){message}") as caught:
                use()
            assert caught.value.exit_code == 3
        assert embedder.stats().texts == 0
        assert contents(url) == before


def test_a_truncated_contract_is_refused(attack: Attack, collection: Callable[..., str], changed: Path, tmp_path: Path) -> None:
    """Chroma keeps it as a text, which may end anywhere."""
    url = collection("chroma", HashEmbedder())
    with closing(sqlite3.connect(tmp_path / "db" / "chroma.sqlite3")) as database, database:
        database.execute("UPDATE collection_metadata SET str_value = substr(str_value, 1, 200) WHERE key = 'sightline_contract'")
    for use in (lambda: api.index([changed], into=url, model=HashEmbedder()), lambda: api.inspect(url)):
        with attack(KIND.format("a damaged or foreign contract")), pytest.raises(ContractMismatch, match="can't be read"):
            use()


@slow
def test_a_truncated_manifest_is_refused(attack: Attack, collection: Callable[..., str], changed: Path, tmp_path: Path) -> None:
    """On Edge contract and collection are named by one file; without it nothing is there, so nothing is written either."""
    url = collection("edge", HashEmbedder())
    manifest = tmp_path / "db" / "sightline.json"
    manifest.write_bytes(manifest.read_bytes()[:300])
    files = sorted(path.name for path in (tmp_path / "db").iterdir())
    with attack(KIND.format("a damaged or foreign contract")):
        with pytest.raises(StoreError, match=r"can't be read.*Restore it"):
            api.index([changed], into=url, model=HashEmbedder())
        assert sorted(path.name for path in (tmp_path / "db").iterdir()) == files


@pytest.mark.parametrize("store", STORES)
def test_a_contract_of_other_vectors_is_refused(
    attack: Attack, collection: Callable[..., str], changed: Path, store: str
) -> None:
    """A whole and valid contract, but of a collection of other length: the vectors themselves are looked at."""
    url = collection(store, HashEmbedder())
    with closing(open_store(url)) as kept:
        kept.write_contract(make_contract(HashEmbedder(), ChunkPart("sections/1:64", 64), dimensions=32).to_json())
    embedder = HashEmbedder()
    with attack(KIND.format("a damaged or foreign contract")):
        with pytest.raises(ContractMismatch, match=r"dimensions: the vectors of .* have 64, its contract says 32"):
            api.index([changed], into=url, model=embedder)
        with pytest.raises(ContractMismatch, match="have 64, its contract says 32"):
            api.open_collection(url, model=embedder)
        assert embedder.stats().texts == 0


# --- collections that somebody else made


def by_chroma(directory: Path, embedder: HashEmbedder, space: str) -> str:
    """Made by Chroma's own client, with a distance of its choice."""
    import chromadb

    client = chromadb.PersistentClient(str(directory), settings=chromadb.Settings(anonymized_telemetry=False))
    texts = [f"note {number} of the keeper" for number in range(5)]
    made = client.create_collection("handbook", configuration={"hnsw": {"space": space}}, embedding_function=None)
    made.add(ids=list("abcde"), documents=texts, embeddings=embedder.embed_documents(texts))
    client.close()
    return f"chroma:{directory}/handbook"


@pytest.mark.parametrize("space", some_quick(["cosine", "l2", "ip"], {"l2"}))
def test_a_hand_made_collection_is_read_with_a_warning_and_written_when_adopted(
    attack: Attack, changed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, space: str
) -> None:
    """Whatever its distance: scores are cosines. A model that didn't make it is refused by the vectors it holds."""
    url = by_chroma(tmp_path / "db", HashEmbedder(), space)
    before = contents_of_chroma(tmp_path / "db")
    with attack("hand-made: writing is refused"):
        embedder = HashEmbedder()
        with pytest.raises(StoreError, match=r"Sightline didn't make it.*sightline adopt"):
            api.index([changed], into=url, model=embedder)
        assert embedder.stats().texts == 0
        assert contents_of_chroma(tmp_path / "db") == before
    with attack("hand-made: searching warns"):
        with pytest.raises(UsageError, match="Name it: --model MODEL"):
            api.open_collection(url)
        caplog.clear()
        with api.open_collection(url, model=HashEmbedder()) as opened:
            assert opened.search("note 3 of the keeper", instruction="", k=1)[0].score == pytest.approx(1.0, abs=1e-5)
        assert "nothing says whether its vectors are of this model" in caplog.text
    with attack("hand-made: a false model isn't adopted"):
        with pytest.raises(ContractMismatch, match="0 agree with the stored vectors"):
            api.adopt(url, model=HashEmbedder(name="other", native_dimensions=64, document_instruction="a page of the book: "))
        assert contents_of_chroma(tmp_path / "db") == before
    with attack("hand-made: adopted"):
        api.adopt(url, model=HashEmbedder())
        assert api.index([changed], into=url, model=HashEmbedder(), prune=True).documents == 3
        assert api.inspect(url).foreign_points == 5


def contents_of_chroma(directory: Path) -> list[tuple[Any, ...]]:
    """All rows of a Chroma database that say what is in it."""
    with closing(sqlite3.connect(directory / "chroma.sqlite3")) as database:
        tables = ("collections", "collection_metadata", "embeddings", "embedding_metadata")
        return [row for table in tables for row in database.execute(f"SELECT * FROM {table} ORDER BY 1, 2")]


@slow
def test_a_local_database_of_qdrant_is_not_opened(attack: Attack, changed: Path, tmp_path: Path) -> None:
    """It would have to be unpickled: neither read nor written, and nothing of it is changed."""
    from qdrant_client import QdrantClient, models

    client = QdrantClient(path=str(tmp_path / "db"))
    client.create_collection("handbook", models.VectorParams(size=64, distance=models.Distance.COSINE))
    client.close()
    files = {path: path.read_bytes() for path in (tmp_path / "db").rglob("*") if path.is_file()}
    url = f"qdrant:{tmp_path}/db/handbook"
    uses = (
        lambda: api.index([changed], into=url, model=HashEmbedder()),
        lambda: api.open_collection(url, model=HashEmbedder()),
        lambda: api.adopt(url, model=HashEmbedder()),
    )
    for use in uses:
        with attack("hand-made: a local Qdrant isn't unpickled"):
            with pytest.raises(UsageError, match="unpickles"):
                use()
            assert {path: path.read_bytes() for path in (tmp_path / "db").rglob("*") if path.is_file()} == files


# --- the command line


@pytest.fixture
def exit_code(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """`exit_code("search", ...)`: how a command ends, and what it says."""

    def run(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        return int(ended.value.code or 0), capsys.readouterr().err

    return run


@slow
def test_the_command_line_exits_with_3(
    attack: Attack,
    collection: Callable[..., str],
    changed: Path,
    make_model: Callable[..., Path],
    exit_code: Callable[..., tuple[int, str]],
    tmp_path: Path,
) -> None:
    """It names what differs and the next command, and shows no traceback; the command that it names does what it says."""
    origin = make_model("bert")
    url = collection("edge", str(origin))
    other = edited(origin, tmp_path / "other", with_weights)
    commands = [
        ("index", changed, "--into", url, "--model", other),
        ("index", changed, "--into", url, "--model", other, "--dry-run"),
        ("index", changed, "--into", url, "--dimensions", 32),
        ("search", "oil", "--in", url, "--model", other),
        ("search", "oil", "--in", url, "--model", make_model("qwen3")),
    ]
    for command in commands:
        with attack(KIND.format("through the command line")):
            code, said = exit_code(*command)
            assert (code, "Traceback" in said) == (3, False), said
            assert "the collection has" in said
            assert "--rebuild" in said
    assert exit_code("index", changed, "--into", url, "--model", other, "--rebuild")[0] == 0
    assert exit_code("search", "oil", "--in", url, "--model", other)[0] == 0
