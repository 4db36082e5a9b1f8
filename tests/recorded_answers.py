"""What other servers answered when they refused texts: recorded by their users, who reported it; none was run here.

Each is the status, the body, and where it stands. Numbers and names are those of the reports.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Recorded:
    """One refusal.

    Args:
        server: Who refused.
        status: Of the HTTP response.
        body: Of the response, before it became JSON.
        source: The report.
    """

    server: str
    status: int
    body: dict[str, Any]
    source: str


# One text has more tokens than the server's model reads.
TEXT_TOO_LONG = (
    Recorded(
        "vLLM", 400,
        {
            "object": "error", "type": "BadRequestError", "param": None, "code": 400,
            "message": "This model's maximum context length is 512 tokens. However, you requested 2096 tokens in the input for "
            "embedding generation. Please reduce the length of the input.",
        },
        "https://github.com/modelscope/evalscope/issues/764",
    ),
    Recorded(
        "SGLang", 400,
        {
            "object": "error", "type": "BadRequestError", "param": None, "code": 400,
            "message": "The input (61709 tokens) is longer than the model's context length (40960 tokens).",
        },
        "https://github.com/QwenLM/Qwen3/issues/1321",
    ),
    Recorded(
        "Text Embeddings Inference", 413,
        {"error": "Input validation error: `inputs` must have less than 512 tokens. Given: 514", "error_type": "Validation"},
        "https://github.com/huggingface/text-embeddings-inference/issues/82",
    ),
    Recorded(
        "Text Embeddings Inference, by OpenAI's route", 413,
        {
            "message": "Input validation error: `inputs` must have less than 512 tokens. Given: 516", "code": 413,
            "type": "Validation",
        },
        "https://github.com/letta-ai/letta/issues/1453",
    ),
    Recorded(
        "Ollama", 400,
        {"error": "the input length exceeds the context length"},
        "https://github.com/nano-step/nano-brain/issues/208",
    ),
    Recorded(
        "llama.cpp", 500,
        {
            "error": {
                "code": 500, "message": "input is too large to process. increase the physical batch size", "type": "server_error",
            },
        },
        "https://github.com/ggml-org/llama.cpp/issues/11105",
    ),
    Recorded(
        "llama-box", 400,
        {
            "error": {
                "code": 400, "type": "invalid_request_error",
                "message": "Illegal param: prefill 744 tokens exceed n_ctx_per_seq, try increasing total context size, adjusting "
                "RoPE, enabling context shifting, reducing parallel or reducing prefill tokens",
            },
        },
        "https://github.com/gpustack/gpustack/issues/1845",
    ),
)  # fmt: skip

# Too many texts in one request, with how many it would take.
TOO_MANY_TEXTS = (
    (
        Recorded(
            "Text Embeddings Inference, by OpenAI's route", 422,
            {"message": "batch size 60 > maximum allowed batch size 32", "code": 422, "type": "Validation"},
            "https://github.com/Zoo-Code-Org/Zoo-Code/issues/335",
        ),
        32,
    ),
    (
        Recorded(
            "SiliconFlow", 413,
            {"code": 20042, "message": "input batch size 136 > maximum allowed batch size 64", "data": None},
            "https://github.com/apecloud/ApeRAG/issues/716",
        ),
        64,
    ),
    (
        Recorded(
            "DashScope", 400,
            {
                "error": {
                    "message": "<400> InternalError.Algo.InvalidParameter: Value error, batch size is invalid, it should not be "
                    "larger than 10.: input.contents",
                    "type": "InvalidParameter", "param": None, "code": "InvalidParameter",
                },
            },
            "https://github.com/memodb-io/memobase/issues/142",
        ),
        10,
    ),
)  # fmt: skip

# The model doesn't take `dimensions`.
NO_DIMENSIONS = (
    Recorded(
        "vLLM", 400,
        {
            "object": "error", "type": "BadRequestError", "param": None, "code": 400,
            "message": 'Model "Qwen3-Embedding-0.6B" does not support matryoshka representation, changing output dimensions will '
            "lead to poor results.",
        },
        "https://github.com/QwenLM/Qwen3-Embedding/issues/188",
    ),
    Recorded(
        "vLLM 0.7.2", 400,
        {
            "object": "error", "message": "dimensions is currently not supported", "type": "BadRequestError", "param": None,
            "code": 400,
        },
        "https://github.com/vllm-project/vllm/issues/15465",
    ),
)  # fmt: skip

# The vector of one text isn't finite.
NOT_FINITE = (
    Recorded(
        "Ollama", 500,
        {"error": "failed to encode response: json: unsupported value: NaN"},
        "https://github.com/hang-in/seCall/issues/5",
    ),
)  # fmt: skip
