"""One engine on several devices: stand-ins where it would take GPUs, two copies of a small model on the CPU where not."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sightline import EmbeddingEngine, api, open_embedder
from sightline.embedding import numa
from sightline.embedding import worker as worker_module
from sightline.embedding.batching import BatchPolicy, TokenBatch
from sightline.embedding.device import Place, choose_places, common_dtype, survey
from sightline.embedding.packed_encoder import PackedEncoder
from sightline.embedding.packing import Packing
from sightline.embedding.submissions import Item, Submission, SubmissionQueue
from sightline.embedding.tokens import TokenizedPart
from sightline.embedding.worker import DeviceWorkers, Loaded
from sightline.errors import DeviceFailed, EmbedderClosed, ModelError, UsageError
from sightline.types import Priority, Role
from texts import prose

BOTH = ["cpu:0", "cpu:1"]
GPUS = [Place(torch.device("cuda", 0)), Place(torch.device("cuda", 1))]
PATIENCE = 60.0


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> dict[int, tuple[int, ...]]:
    """A machine whose first and last usable core are nodes of their own."""
    cores = sorted(numa.usable_cores())
    found = {0: (cores[0],), 1: (cores[-1],)}
    monkeypatch.setattr(numa, "nodes", lambda: found)
    return found


@pytest.fixture
def bert(make_model: Callable[..., Path]) -> Path:
    """A tiny model."""
    return make_model("bert")


def two_gpus(monkeypatch: pytest.MonkeyPatch, names: Sequence[str] = ("H200", "H200")) -> None:
    """torch sees GPUs of these names."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: names[index])


# --- names


@pytest.mark.parametrize(
    ("devices", "complaint"),
    [
        ([], "names no device"),
        (["cuda:0", "cuda:0"], "'cuda:0' twice"),
        (["cuda:0", "cpu:0"], "of several kinds"),
        (["abacus"], "'abacus'.*Allowed"),
        ("cuda:0,cuda:1", "'cuda:0,cuda:1'.*Allowed"),
        ([0, 1], "devices has 0"),
        (2, "no list of names"),
    ],
)
def test_wrong_names_are_refused_before_anything_is_loaded(bert: Path, devices: Any, complaint: str) -> None:
    """With what is allowed."""
    with pytest.raises(UsageError, match=complaint):
        EmbeddingEngine(bert, devices=devices)


def test_device_and_devices_exclude_each_other(bert: Path) -> None:
    """One of them would be dropped in silence."""
    with pytest.raises(UsageError, match="device='cpu' are given"):
        EmbeddingEngine(bert, device="cpu", devices=["cpu:0"])


def test_a_node_that_is_not_here_is_refused_with_those_that_are(bert: Path, two_nodes: dict[int, tuple[int, ...]]) -> None:
    """At the first call that needs it."""
    with EmbeddingEngine(bert, devices=["cpu:0", "cpu:7"]) as engine:
        for call in (engine.load, lambda: engine.embed_documents(["tide"])):
            with pytest.raises(UsageError, match=r"'cpu:7'.*no such NUMA node here. Available: cpu:0, cpu:1\."):
                call()


def test_a_gpu_that_is_not_here_is_refused_with_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or with what there is instead."""
    two_gpus(monkeypatch)
    with pytest.raises(UsageError, match=r"'cuda:2'.*Available: cuda:0, cuda:1\."):
        choose_places(None, ("cuda:0", "cuda:2"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"'cuda'.*Available: .*cpu:0"):
        choose_places(None, ("cuda",))


def test_a_kind_is_all_devices_of_it(monkeypatch: pytest.MonkeyPatch, two_nodes: dict[int, tuple[int, ...]]) -> None:
    """And none of them is named beside it."""
    two_gpus(monkeypatch)
    assert choose_places(None, ("cuda",)) == GPUS
    assert [(one.name, one.cores) for one in choose_places(None, ("cpu",))] == [("cpu:0", two_nodes[0]), ("cpu:1", two_nodes[1])]
    with pytest.raises(UsageError, match="'cuda:1' twice"):
        choose_places(None, ("cuda", "cuda:1"))


def test_unlike_gpus_give_no_deterministic_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which of them takes a text would show in its bits."""
    two_gpus(monkeypatch, ["H200", "A100"])
    assert len(choose_places(None, ("cuda",))) == 2
    with pytest.raises(UsageError, match="cuda:0 is a H200, cuda:1 is a A100"):
        choose_places(None, ("cuda",), alike=True)


def test_unlike_gpus_have_one_number_format(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that both compute fast."""
    monkeypatch.setattr("sightline.embedding.device.choose_dtype", lambda _, device: ["bfloat16", "float32"][device.index])
    assert [common_dtype(None, places) for places in (GPUS[:1], GPUS)] == ["bfloat16", "float32"]


# --- nodes


def test_nodes_are_read_from_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those with cores that this process may use, and only these cores."""
    monkeypatch.setattr(numa, "usable_cores", lambda: frozenset({0, 1, 2, 9}))
    for name, listed in {"node0": "0-1,8-9\n", "node1": "2-7\n", "node2": "16-17\n", "node3": "\n"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "cpulist").write_text(listed)
    assert numa.nodes(tmp_path) == {0: (0, 1, 9), 1: (2,)}
    assert numa.nodes(tmp_path / "nowhere") == {0: (0, 1, 2, 9)}


def test_this_machines_nodes_are_devices() -> None:
    """`sightline doctor` shows the names that `devices=` takes."""
    assert [f"cpu:{node}" for node in numa.nodes()] == [name for name in survey().devices if name.startswith("cpu")]


@pytest.mark.parametrize(
    ("asked", "even", "threads"),
    [(None, False, [3, 9]), (4, False, [1, 3]), (4, True, [1, 1]), (1, False, [1, 1])],
    ids=["torch's", "asked for", "even", "at least one"],
)
def test_nodes_divide_the_threads_by_their_cores(
    monkeypatch: pytest.MonkeyPatch, asked: int | None, even: bool, threads: list[int]
) -> None:
    """Of torch's choice each takes what its cores are of all usable ones; what was asked for they divide among themselves."""
    monkeypatch.setattr(numa, "usable_cores", lambda: frozenset(range(32)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 24)
    places = [Place(torch.device("cpu", 0), tuple(range(4))), Place(torch.device("cpu", 1), tuple(range(4, 16)))]
    assert worker_module._threads_of(places, asked, even=even) == threads


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this platform pins no threads")
def test_threads_keep_to_their_node_and_their_share(
    bert: Path, two_nodes: dict[int, tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While they load and while they embed; the caller's thread and torch's setting stay as they were."""
    before, seen = (os.sched_getaffinity(0), torch.get_num_threads()), defaultdict(set)
    meet = threading.Barrier(2)

    def watch(self: PackedEncoder, batch: TokenBatch, rows: Any = None) -> torch.Tensor:
        if threading.current_thread() not in seen:
            meet.wait(PATIENCE)
        seen[threading.current_thread()].add((*os.sched_getaffinity(0), torch.get_num_threads()))
        return forward(self, batch, rows)

    forward = PackedEncoder.hidden_states
    monkeypatch.setattr(PackedEncoder, "hidden_states", watch)
    with EmbeddingEngine(bert, devices=BOTH, threads=2, max_batch_tokens=256) as engine:
        engine.embed_documents([prose(50, seed=row) for row in range(60)])
    assert sorted(next(iter(one)) for one in seen.values()) == sorted((*cores, 1) for cores in two_nodes.values())
    assert {len(one) for one in seen.values()} == {1}
    assert (os.sched_getaffinity(0), torch.get_num_threads()) == before


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="this platform doesn't show what is mapped where")
def test_a_nodes_weights_are_its_own(bert: Path, two_nodes: dict[int, tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    """As loaded, float32 weights are pages of the file, which both copies would share."""
    addresses: list[set[int]] = []
    original = PackedEncoder.__init__

    def remember(self: PackedEncoder, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        kept.append(self)
        layers = self._forward._layers
        addresses.append({self._forward._words.data_ptr(), *(layer.inner.weight.data_ptr() for layer in layers)})

    kept: list[Any] = []
    monkeypatch.setattr(PackedEncoder, "__init__", remember)
    with EmbeddingEngine(bert, devices=BOTH, dtype="float32") as engine:
        engine.load()
        mapped = [line.split("-")[:2] for line in Path("/proc/self/maps").read_text().splitlines() if "safetensors" in line]
        kept.clear()
    spans = [(int(first, 16), int(rest.split(" ")[0], 16)) for first, rest in mapped]
    assert not addresses[0] & addresses[1]
    assert not [one for one in addresses[0] | addresses[1] if any(first <= one < last for first, last in spans)]


# --- two copies of a model on the CPU


def test_vectors_are_those_of_one_device_in_input_order(bert: Path, two_nodes: dict[int, tuple[int, ...]]) -> None:
    """Whichever copy made them; `stats` counts all."""
    texts = [prose(words, seed=words) for words in range(1, 120)]
    with EmbeddingEngine(bert, device="cpu", dtype="float32") as one:
        expected = one.embed_documents(texts)
    with EmbeddingEngine(bert, devices=BOTH, dtype="float32", max_batch_tokens=300) as both:
        assert np.abs(both.embed_documents(texts) - expected).max() < 1e-5
        assert both.stats().texts == len(texts)


@pytest.mark.slow
def test_deterministic_bits_are_the_same_on_either_device(
    bert: Path, two_nodes: dict[int, tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each text on each of two copies."""
    texts = [prose(words, seed=words) for words in (1, 9, 33, 60, 100, 200)]
    makers: set[str] = set()
    forward = PackedEncoder.hidden_states
    only = ""

    def choose(self: SubmissionQueue, *arguments: Any, **options: Any) -> list[Item] | None:
        name = threading.current_thread().name
        if name != only:
            with self._condition:
                self._condition.wait_for(lambda: self.closed or only in ("", name))
        return following(self, *arguments, **options)

    def watch(self: PackedEncoder, batch: TokenBatch, rows: Any = None) -> torch.Tensor:
        makers.add(threading.current_thread().name)
        return forward(self, batch, rows)

    following = SubmissionQueue.next
    monkeypatch.setattr(PackedEncoder, "hidden_states", watch)
    vectors = []
    for device in BOTH:
        with monkeypatch.context() as patch, EmbeddingEngine(bert, devices=BOTH, threads=2, deterministic=True) as engine:
            only = f"sightline-device-{device}"
            patch.setattr(SubmissionQueue, "next", choose)
            vectors.append(engine.embed_documents(texts))
    assert makers == {f"sightline-device-{device}" for device in BOTH}
    assert np.array_equal(*vectors)


def test_a_description_names_the_devices(bert: Path, two_nodes: dict[int, tuple[int, ...]]) -> None:
    """And the kind that they are of."""
    with EmbeddingEngine(bert, devices="cpu") as engine:
        assert (engine.describe().device, engine.describe().devices) == (None, None)
        described = engine.load().describe()
    assert (described.device, described.devices, described.packs) == ("cpu", ("cpu:0", "cpu:1"), True)
    with EmbeddingEngine(bert, device="cpu") as engine:
        assert engine.load().describe().devices == ("cpu",)


def test_shared_engines_are_told_apart_by_their_devices(bert: Path, two_nodes: dict[int, tuple[int, ...]]) -> None:
    """A list and a tuple name the same."""
    with open_embedder(bert, devices=BOTH) as one, open_embedder(bert, devices=tuple(BOTH)) as same, open_embedder(bert) as other:
        assert one.engine is same.engine
        assert one.engine is not other.engine


@pytest.mark.slow
def test_a_folder_is_indexed_and_searched_on_both(bert: Path, two_nodes: dict[int, tuple[int, ...]], tmp_path: Path) -> None:
    """`sightline.index`, `open_collection` and `embed` take the same word as the engine."""
    for row in range(20):
        (tmp_path / f"{row}.txt").write_text(prose(100, seed=row), encoding="utf-8")
    assert api.index([tmp_path], into="memory:both", model=bert, devices=BOTH).documents == 20
    with api.open_collection("memory:both", devices=BOTH) as collection:
        assert collection.search(prose(100, seed=7), k=1)[0].source.endswith("/7.txt")
    assert api.embed(["tide"], role=Role.QUERY, model=bert, devices="cpu").shape == (1, 64)


@pytest.mark.slow
def test_close_gives_all_copies_back(bert: Path, two_nodes: dict[int, tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    """With their threads; closing twice is fine."""
    made: list[weakref.ref[Any]] = []
    original = PackedEncoder.__init__

    def remember(self: PackedEncoder, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        made.append(weakref.ref(self._forward))

    monkeypatch.setattr(PackedEncoder, "__init__", remember)
    before = threading.active_count()
    engine = EmbeddingEngine(bert, devices=BOTH).load()
    engine.embed_documents(["tide", prose(200, seed=1)])
    engine.close()
    engine.close()
    gc.collect()
    assert [reference() for reference in made] == [None, None]
    assert threading.active_count() <= before
    with pytest.raises(EmbedderClosed):
        engine.embed_documents(["tide"])


@pytest.mark.slow
def test_loading_at_the_same_time_leaves_the_process_settings_alone(bert: Path, two_nodes: dict[int, tuple[int, ...]]) -> None:
    """transformers sets torch's number format and its own verbosity for a moment, which isn't made for threads."""
    from transformers.utils import logging

    def settings() -> tuple[Any, ...]:
        return torch.get_default_dtype(), torch.nn.init.normal_, logging.get_verbosity(), logging.is_progress_bar_enabled()

    before = settings()
    for _ in range(3):
        with EmbeddingEngine(bert, devices=BOTH, dtype="bfloat16") as engine:
            engine.load()
    assert settings() == before


@pytest.mark.slow
def test_a_process_ends_cleanly_without_close(bert: Path) -> None:
    """With a bulk job running on two copies, for which transformers was first imported by two threads at once."""
    script = (
        "import sys; from sightline import EmbeddingEngine; from sightline.types import Role\n"
        "from sightline.embedding import numa\n"
        "cores = tuple(numa.usable_cores()); numa.nodes = lambda: {0: cores, 1: cores}\n"
        "engine = EmbeddingEngine(sys.argv[1], devices='cpu'); engine.embed_queries(['a'])\n"
        "job = engine.submit(['word ' * 100] * 3000, role=Role.DOCUMENT)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(bert)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


# --- stand-ins for GPUs


class StandIn:
    """An encoder whose hidden state of a token is its id; `meets` is called with each batch before it is computed."""

    packing = Packing(True, "packed")

    def __init__(self, meets: Callable[[TokenBatch], None]) -> None:
        self.meets = meets

    def hidden_states(self, batch: TokenBatch, rows: Any = None) -> torch.Tensor:
        """`(tokens, 2)`."""
        self.meets(batch)
        return torch.from_numpy(np.stack([batch.ids, np.ones_like(batch.ids)], axis=1)).float()


class FirstTokens:
    """Pooling: the first token's."""

    def rows(self, lengths: list[int], prompts: list[int]) -> None:
        """The encoder is to give all."""

    def __call__(self, hidden: torch.Tensor, lengths: list[int], prompts: list[int]) -> torch.Tensor:
        """`(num_texts, 2)`."""
        return hidden[np.cumsum([0, *lengths[:-1]])]


class Bench:
    """Workers on two GPUs that aren't there; `meets(place, batch)` is what happens at each batch."""

    def __init__(self, meets: Callable[[Place, TokenBatch], None], load: Callable[[Place], None] = lambda _: None) -> None:
        self.queue = SubmissionQueue()
        self.made: list[weakref.ref[StandIn]] = []

        def make(place: Place) -> Loaded:
            load(place)
            encoder = StandIn(lambda batch: meets(place, batch))
            self.made.append(weakref.ref(encoder))
            return Loaded(encoder, FirstTokens(), place.device, "float32", BatchPolicy(1000))

        self.workers = DeviceWorkers(GPUS, make, self.queue, None, lambda texts, tokens: None)

    def submit(self, lengths: Sequence[int]) -> Submission:
        """Row n is a text of token ids n."""
        submission = Submission(len(lengths), 2, Priority.BULK)
        self.queue.open(submission)
        parts = [TokenizedPart(np.full(length, row, dtype=np.int32)) for row, length in enumerate(lengths)]
        self.queue.add(submission, [Item(submission, row, part) for row, part in enumerate(parts)], exhausted=True)
        return submission

    def embed(self, lengths: Sequence[int]) -> np.ndarray:
        """The rows that come back, as the ratio of their two numbers: the token id."""
        vectors = self.submit(lengths).future.result(PATIENCE)
        return vectors[:, 0] / vectors[:, 1]


@pytest.fixture
def current(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Which GPU each thread made its current one; asking any of them works."""
    chosen: dict[str, list[str]] = defaultdict(list)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: chosen[threading.current_thread().name].append(str(device)))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    return chosen


@pytest.fixture
def bench(current: dict[str, list[str]]) -> Iterator[Callable[..., Bench]]:
    """`bench(meets)`, stopped at the end."""
    made: list[Bench] = []

    def make(*arguments: Any, **options: Any) -> Bench:
        made.append(Bench(*arguments, **options))
        return made[-1]

    yield make
    for one in made:
        one.workers.stop()


def test_a_bulk_job_keeps_all_devices_busy(bench: Callable[..., Bench]) -> None:
    """Twenty batches in step, ten each, and rows in input order."""
    taken: Counter[str] = Counter()
    step = threading.Barrier(2)

    def meets(place: Place, batch: TokenBatch) -> None:
        step.wait(PATIENCE)
        taken[place.name] += 1

    lengths = [250] * 80
    one = bench(meets)
    one.workers.wait_loaded()
    rows = one.embed([*lengths])
    assert taken == {"cuda:0": 10, "cuda:1": 10}
    assert np.abs(rows - np.arange(80)).max() < 1e-3


def test_a_small_call_is_shared_by_the_devices(bench: Callable[..., Bench]) -> None:
    """Neither waits for the other to do all of it."""
    sizes: dict[str, int] = {}
    step = threading.Barrier(2)

    def meets(place: Place, batch: TokenBatch) -> None:
        step.wait(PATIENCE)
        sizes[place.name] = sum(batch.lengths)

    one = bench(meets)
    one.workers.wait_loaded()
    one.embed([10] * 60)
    assert sorted(sizes.values()) == [290, 310]


def test_each_devices_thread_has_it_as_the_current_one(bench: Callable[..., Bench], current: dict[str, list[str]]) -> None:
    """Events and some kernels go to the current device, whatever their arguments are on."""
    bench(lambda place, batch: None).workers.wait_loaded()
    assert current == {"sightline-device-cuda:0": ["cuda:0"], "sightline-device-cuda:1": ["cuda:1"]}


def test_out_of_memory_halves_that_devices_budget_only(bench: Callable[..., Bench], caplog: pytest.LogCaptureFixture) -> None:
    """With a warning that names it."""
    sizes: dict[str, list[int]] = defaultdict(list)
    halved, went_on = threading.Event(), threading.Event()

    def meets(place: Place, batch: TokenBatch) -> None:
        size = sum(batch.lengths)
        if place is GPUS[1] and size > 500:
            raise torch.OutOfMemoryError("no room")
        sizes[place.name].append(size)
        if place is GPUS[0] and len(sizes[place.name]) == 1:
            assert halved.wait(PATIENCE)
        elif place is GPUS[0]:
            went_on.set()
        elif len(sizes[place.name]) > 2:
            halved.set()
            assert went_on.wait(PATIENCE)

    rows = bench(meets).embed([50] * 400)
    assert np.abs(rows - np.arange(400)).max() < 1e-2
    assert sizes["cuda:0"][:2] == [1000, 1000]
    assert max(sizes["cuda:1"]) == 500
    assert [record.getMessage() for record in caplog.records] == ["cuda:1 is out of memory; going on with max_batch_tokens=500"]


def test_a_bad_batch_fails_its_callers_only(bench: Callable[..., Bench]) -> None:
    """The device that took it goes on."""

    def meets(place: Place, batch: TokenBatch) -> None:
        if 7 in batch.lengths:
            raise ZeroDivisionError("mine")

    one = bench(meets)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            one.embed([7])
        assert len(one.embed([200] * 20)) == 20


def test_a_device_that_fails_to_load_is_named_to_every_caller(bench: Callable[..., Bench]) -> None:
    """At once, while the other one is still loading."""
    release = threading.Event()

    def load(place: Place) -> None:
        if place is GPUS[1]:
            raise RuntimeError("no room for it")
        assert release.wait(PATIENCE)

    one = bench(lambda place, batch: None, load)
    try:
        for wait in (one.workers.wait_loaded, lambda: one.embed([5]), lambda: one.embed([5])):
            with pytest.raises(DeviceFailed, match=r"cuda:1 failed while loading.*no room.*devices=\['cuda:0'\]") as failed:
                wait()
            assert failed.value.device == "cuda:1"
            assert isinstance(failed.value.__cause__, RuntimeError)
    finally:
        release.set()


def test_what_is_wrong_with_the_model_is_no_devices_fault(bench: Callable[..., Bench]) -> None:
    """It keeps its own kind of error."""

    def load(place: Place) -> None:
        raise ModelError("half of it is missing")

    with pytest.raises(ModelError, match="half of it"):
        bench(lambda place, batch: None, load).workers.wait_loaded()


def test_a_loop_that_ends_in_an_error_is_named_to_every_caller(bench: Callable[..., Bench], monkeypatch: Any) -> None:
    """Those whose texts the other device has, too, and those who come later."""
    busy, release = threading.Event(), threading.Event()

    def meets(place: Place, batch: TokenBatch) -> None:
        busy.set()
        assert release.wait(PATIENCE)

    def following(self: SubmissionQueue, *arguments: Any, **options: Any) -> list[Item] | None:
        if threading.current_thread().name == "sightline-device-cuda:1":
            assert busy.wait(PATIENCE)
            raise KeyError("a bug")
        return original(self, *arguments, **options)

    original = SubmissionQueue.next
    monkeypatch.setattr(SubmissionQueue, "next", following)
    one = bench(meets)
    try:
        for _ in range(2):
            with pytest.raises(DeviceFailed, match=r"cuda:1 failed while embedding .*a bug"):
                one.embed([5])
    finally:
        release.set()


@pytest.mark.parametrize("at", ["launch", "arrival"])
def test_a_lost_gpu_is_named_to_every_caller(bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """After some errors a GPU answers nothing but errors: failing batch after batch of everybody's would be the alternative."""

    def lost(device: torch.device) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def arrive(vectors: torch.Tensor) -> Callable[[], np.ndarray]:
        return lambda: lost(vectors.device)  # type: ignore[return-value]

    def never_again() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def meets(place: Place, batch: TokenBatch) -> None:
        if place is GPUS[1] and at == "launch":
            lost(place.device)
        # The other device's caller waits when it happens.
        assert at != "launch" or ended.wait(PATIENCE)

    ended = threading.Event()
    monkeypatch.setattr(torch.cuda, "synchronize", lost)
    monkeypatch.setattr(worker_module, "_return_memory", never_again)
    if at == "arrival":
        monkeypatch.setattr(worker_module, "_to_host", arrive)
    one = bench(meets)
    waiting = [one.submit([200] * 10) for _ in range(3)]
    try:
        for submission in waiting:
            with pytest.raises(DeviceFailed, match=r"cuda:\d failed while embedding .*illegal memory access.*start it anew"):
                submission.future.result(PATIENCE)
        with pytest.raises(DeviceFailed):
            one.workers.wait_loaded()
    finally:
        ended.set()


def test_an_engine_that_failed_gives_its_memory_back(bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the error is kept, whose frames knew the model."""
    original = SubmissionQueue.next

    def following(self: SubmissionQueue, *arguments: Any, **options: Any) -> list[Item] | None:
        if threading.current_thread().name == "sightline-device-cuda:1":
            raise KeyError("a bug")
        return original(self, *arguments, **options)

    monkeypatch.setattr(SubmissionQueue, "next", following)
    one = bench(lambda place, batch: None)
    one.workers._workers[1]._thread.join(PATIENCE)
    with pytest.raises(DeviceFailed) as kept:
        one.embed([5])
    one.workers.stop()
    gc.collect()
    assert kept.value.__cause__ is not None
    assert [reference() for reference in one.made] == [None, None]


def test_stopping_ends_all_threads_and_answers_who_waits(bench: Callable[..., Bench]) -> None:
    """Twice is fine."""
    before, started = threading.active_count(), threading.Event()
    release = threading.Event()

    def meets(place: Place, batch: TokenBatch) -> None:
        started.set()
        assert release.wait(PATIENCE)

    one = bench(meets)
    waiting = one.submit([500] * 100)
    assert started.wait(PATIENCE)
    one.queue.close(EmbedderClosed())
    with pytest.raises(EmbedderClosed):
        waiting.future.result(PATIENCE)
    release.set()
    one.workers.stop()
    one.workers.stop()
    assert threading.active_count() <= before


@pytest.mark.slow
def test_a_query_overtakes_a_bulk_job_on_either_device(bert: Path, two_nodes: dict[int, tuple[int, ...]]) -> None:
    """All devices are served from one queue."""
    done: list[int] = []
    with EmbeddingEngine(bert, devices=BOTH, max_batch_tokens=256) as engine:
        engine.load()
        texts = [prose(60, seed=row) for row in range(400)]
        job = engine.submit(texts, role=Role.DOCUMENT, on_progress=lambda progress: done.append(progress.texts_done))
        engine.embed_queries(["where is the lamp?"])
        answered_at = done[-1] if done else 0
        assert job.result(PATIENCE).shape == (400, 64)
    assert answered_at < 200
