"""What a CPU can show of the paths for CUDA: which device they name, that they never wait, and that their script runs."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import torch

from sightline.embedding import graphs
from sightline.embedding.models import load_spec
from sightline.embedding.operators import TorchOperators
from sightline.embedding.packed_encoder import PackedEncoder

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[1]


def test_graphs_are_captured_beside_other_threads(make_model, monkeypatch):
    """On a stream of their own device, warmed up on the same one, and without forbidding other threads to allocate."""
    used = []

    class Stream:
        def __init__(self, device):
            self.device = device

        def wait_stream(self, other):
            pass

    def capture(graph, **options):
        used.append(options)
        return nullcontext()

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: used.append(stream) or nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    forward = PackedEncoder(load_spec(make_model("qwen3")), CPU, "float32")._forward
    made = graphs.Graphs(forward, TorchOperators(), CPU)
    for tokens in (32, 64):
        assert made._capture(tokens) is not None
    first, options, second, others = used
    assert first is second
    assert options == others == {"pool": (0, 1), "stream": first, "capture_error_mode": "thread_local"}
