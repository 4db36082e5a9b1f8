"""ONNX Runtime: the model exported and its matrices quantised to int8 as its documentation says; runs in `.venv-openvino`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy.typing as npt

PACKAGES = ("onnxruntime", "onnx", "torch", "transformers", "tokenizers")


def export(settings: dict[str, Any]) -> None:
    """Export in float32, then quantise weights to int8 (activations are quantised while it runs)."""
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from benchmarks.sides.padded import Pooled

    example = torch.ones((2, 9), dtype=torch.int64), torch.ones((2, 9), dtype=torch.int64)
    full = Path(settings["exported"]) / "full.onnx"
    names = ["input_ids", "attention_mask"]
    free = {name: {0: "batch", 1: "length"} for name in names}
    with torch.inference_mode():
        torch.onnx.export(
            Pooled(settings["folder"], "float32", "eager"), example, full, input_names=names, output_names=["vectors"],
            dynamic_axes={**free, "vectors": {0: "batch"}}, dynamo=False, opset_version=17,
        )  # fmt: skip
    # Gemm and MatMul only: a quantised embedding table saves memory, not time, and costs accuracy.
    quantize_dynamic(
        full, Path(settings["exported"]) / "int8.onnx", weight_type=QuantType.QInt8, per_channel=True,
        op_types_to_quantize=["MatMul", "Gemm"],
    )  # fmt: skip


def load(settings: dict[str, Any]) -> Callable[[list[str], int], npt.NDArray[Any]]:
    """The session, on as many threads as there are cores."""
    import onnxruntime

    from benchmarks.sides.padded import embedder

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    path = Path(settings["exported"]) / f"{settings['weights']}.onnx"
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return embedder(settings["folder"], lambda ids, mask: session.run(None, {"input_ids": ids, "attention_mask": mask})[0])
