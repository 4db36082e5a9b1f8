"""What a CPU can show of the paths for CUDA: which device they name, that they never wait, and that their script runs."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sightline.embedding import attention, graphs, packed_encoder
from sightline.embedding.batching import TokenBatch
from sightline.embedding.models import PoolingSpec, load_spec
from sightline.embedding.operators import TorchOperators
from sightline.embedding.packed_encoder import PackedEncoder
from sightline.embedding.pooling import Pooler

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[1]


def test_graphs_are_captured_beside_other_threads(monkeypatch):
    """On a stream of their own device, warmed up on the same one, and without forbidding other threads to allocate."""
    used = []

    class Stream:
        def __init__(self, device):
            self.device = device

        def wait_stream(self, other):
            pass

    def capture(graph, **options):
        assert graphs._capturing.locked()  # one at a time in a process, torch says
        used.append(options)
        return nullcontext()

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: used.append(stream) or nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    made = graphs.Graphs(lambda pack, operators, rows: rows, TorchOperators(), CPU)
    for tokens in (32, 64):
        assert made._capture(tokens) is not None
    first, options, second, others = used
    assert first is second
    assert options == others == {"pool": (0, 1), "stream": first, "capture_error_mode": "thread_local"}


@pytest.mark.parametrize(
    ("dtype", "right", "wanted"), [("bfloat16", True, True), ("bfloat16", False, False), ("float32", True, False)]
)
def test_graphs_are_for_attention_that_asks_no_lengths(monkeypatch, dtype, right, wanted):
    """Any other is captured with the lengths of the day: in float32 it gave memory that nobody had written."""
    monkeypatch.setattr(attention, "_varlen_is_right", lambda device, dtype: right)
    monkeypatch.setattr(packed_encoder, "_load", lambda *_: SimpleNamespace(positions=None))
    monkeypatch.setattr(packed_encoder, "_cuda_operators", lambda *_: TorchOperators())
    spec = SimpleNamespace(config={})
    assert (PackedEncoder(spec, torch.device("cuda"), dtype)._graphs is not None) is wanted
    assert PackedEncoder(spec, torch.device("cuda"), dtype, deterministic=True)._graphs is None
    assert PackedEncoder(spec, CPU, dtype)._graphs is None


def test_attention_by_groups_refuses_lengths_that_leave_tokens_out():
    """Their rows would be whatever lay in memory."""
    rows = torch.ones(4, 1, 8)
    with pytest.raises(ValueError, match="3 tokens together, and there are 4"):
        attention.attend(rows, rows, rows, torch.tensor([0, 3], dtype=torch.int32), (3,), 3, 1.0, True)


class NeverWait(TorchDispatchMode):
    """Refuses what would make the host wait for a device."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = function.overloadpacket._qualified_op_name
        waits = name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::item")
        if name in ("aten::index", "aten::index_put", "aten::index_put_"):
            waits = any(index is not None and index.dtype == torch.bool for index in arguments[1])
        if name == "aten::repeat_interleave":
            waits = (options or {}).get("output_size") is None
        assert not waits, f"{name} waits for the device"
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("mode", ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
@pytest.mark.parametrize("include_prompt", [True, False])
def test_pooling_never_waits_for_the_device(mode, include_prompt):
    """The host knows the lengths; a pass that is waited for can't have the next one launched behind it."""
    hidden = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
    pooler = Pooler(PoolingSpec((mode,), include_prompt), (), CPU)
    with NeverWait():
        found = pooler(hidden, [5, 1, 4], [2, 0, 1])
    assert found.shape == (3, 8)


@pytest.mark.parametrize("family", ["qwen3", "bert", "xlm-roberta"])
def test_passes_never_wait_for_the_device(make_model, family):
    """Nor does one behind a shared instruction, after its first time."""
    encoder = PackedEncoder(load_spec(make_model(family)), CPU, "float32")
    prompt = list(range(100, 112))
    ids = np.array([*prompt, 7, 8, *prompt, 9], dtype=np.int64)
    batch, rows = TokenBatch(ids, [14, 13], prompt_lengths=[12, 12]), np.array([13, 26])
    first = encoder.hidden_states(batch, rows)
    with NeverWait():
        assert torch.equal(encoder.hidden_states(batch, rows), first)


def test_prefix_is_put_in_front_without_waiting():
    """As the kernel wants it: the prefix, then the text's own keys, text after text."""
    own, prefix = torch.arange(10.0).reshape(5, 1, 2), -torch.ones(2, 1, 2)
    with NeverWait():
        found = attention._behind_prefix(prefix, own, torch.tensor([0, 2, 5], dtype=torch.int32))
    assert torch.equal(found, torch.cat([prefix, own[:2], prefix, own[2:]]))


@pytest.mark.slow
def test_gpu_script_runs(tmp_path):
    """Every part of it, on the CPU: no part fails, and no check does."""
    out = tmp_path / "gpu.json"
    command = [sys.executable, "benchmarks/gpu.py", "--smoke", "--models", "0.6b", "minilm", "--minutes", "4", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    result = json.loads(out.read_text())
    assert result["failures"] == []
    assert {"environment", "operators", "attention", "ways", "engines", "speed 0.6b", "latency", "trace"} <= set(result["parts"])
    assert all(check["good"] for check in result["checks"])
