"""OpenVINO: the model converted directly, run with bfloat16 as the inference precision; runs in `.venv-openvino`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

PACKAGES = ("openvino", "torch", "transformers", "tokenizers")


def export(settings: dict[str, Any]) -> None:
    """Convert the model, pooling included, with free batch size and length."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # it waits 20 s for a network
    import openvino
    import torch

    from benchmarks.sides.padded import Pooled

    example = {"input_ids": torch.ones((2, 9), dtype=torch.int64), "attention_mask": torch.ones((2, 9), dtype=torch.int64)}
    example["attention_mask"][1, 6:] = 0
    free = openvino.PartialShape([-1, -1])
    with torch.inference_mode():
        model = openvino.convert_model(
            Pooled(settings["folder"], "float32"), example_input=example,
            input=[("input_ids", free, openvino.Type.i64), ("attention_mask", free, openvino.Type.i64)],
        )  # fmt: skip
    openvino.save_model(model, Path(settings["exported"]) / "model.xml", compress_to_fp16=False)


def load(settings: dict[str, Any]) -> Callable[[list[str], int], npt.NDArray[Any]]:
    """The compiled model: requests beside each other where the hint asks for throughput, and a text alone with the other hint."""
    import openvino

    from benchmarks.sides.padded import Batches

    compiled = _compiled(settings, settings["hint"])
    queue, alone = openvino.AsyncInferQueue(compiled), cache(lambda: _compiled(settings, "LATENCY"))
    batches, width = Batches(settings["folder"]), compiled.output(0).partial_shape[1].get_length()

    def embed(texts: list[str], batch: int) -> npt.NDArray[Any]:
        if len(texts) == 1:
            _, ids, mask = next(batches.of(texts, 1))
            return alone()({"input_ids": ids, "attention_mask": mask})[0]  # type: ignore[no-any-return]
        vectors = np.empty((len(texts), width), dtype=np.float32)
        queue.set_callback(lambda request, rows: vectors.__setitem__(rows, request.get_output_tensor(0).data))
        for rows, ids, mask in batches.of(texts, batch or 32):
            queue.start_async({"input_ids": ids, "attention_mask": mask}, rows)
        queue.wait_all()
        return vectors

    return embed


def _compiled(settings: dict[str, Any], hint: str) -> Any:
    import openvino

    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = {
        "INFERENCE_PRECISION_HINT": settings["precision"], "PERFORMANCE_HINT": hint, "INFERENCE_NUM_THREADS": str(threads),
        "ENABLE_CPU_PINNING": "NO",
    }  # fmt: skip
    return openvino.Core().compile_model(Path(settings["exported"]) / "model.xml", "CPU", given)
