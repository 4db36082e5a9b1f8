"""packed batches -> attention: each text of a packed batch attends to itself only. The hook is transformers' AttentionInterface.

A packed batch is one row of tokens, texts back to back, `cu_seq_lens` (num_texts + 1) saying where each begins. On CUDA in half
precision `torch.nn.attention.varlen` attends them in one call; everywhere else equal lengths that lie side by side share one
`scaled_dot_product_attention`. What this function doesn't understand it refuses: ignoring an argument would be a silent wrong
answer.
"""

from __future__ import annotations

import inspect
import threading
from functools import cache
from itertools import groupby, pairwise
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

NAME = "sightline_packed"

# Arguments of attention functions that don't change the result without a cache, a mask or training.
_HARMLESS = {
    "position_ids",
    "use_cache",
    "cache_position",
    "deterministic",
    "output_attentions",
    "dropout",
}

_counter = threading.local()


def register() -> None:
    """Make `NAME` known to transformers. Doing it twice is fine."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)


class count_calls:  # in lower case, because it reads as a statement
    """Count the calls of `packed_attention` in this thread: `with count_calls() as calls: ...; calls.total`."""

    total = 0

    def __enter__(self) -> count_calls:
        _counter.active = self
        return self

    def __exit__(self, *exception: object) -> None:
        _counter.active = None


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
    max_length_q: int | None = None,
    max_length_k: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention within each text of a packed batch.

    *Shapes:* query `(1, heads, tokens, head_dim)`, key and value `(1, kv_heads, tokens, head_dim)` ->
    `(1, tokens, heads, head_dim)`.
    A window keeps keys with `|i - j| < sliding_window` (and `i >= j` if causal).

    Raises:
        ValueError: A mask, no `cu_seq_lens_q`, or an argument that isn't understood.
    """
    if getattr(_counter, "active", None) is not None:
        _counter.active.total += 1
    _refuse_unknown(attention_mask, cu_seq_lens_q, others)
    assert cu_seq_lens_q is not None
    causal = bool(module.is_causal if is_causal is None else is_causal)
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        return _varlen(query, key, value, cu_seq_lens_q, int(max_length_q or 0), scaling, causal, sliding_window), None
    return _grouped(query, key, value, cu_seq_lens_q.tolist(), scaling, causal, sliding_window), None


def _refuse_unknown(attention_mask: Tensor | None, cu_seq_lens: Tensor | None, others: dict[str, Any]) -> None:
    unknown = sorted(name for name, value in others.items() if name not in _HARMLESS and value is not None)
    if unknown:
        raise ValueError(f"packed attention doesn't know {', '.join(unknown)}")
    if others.get("output_attentions"):
        raise ValueError("packed attention gives no attention weights")
    if attention_mask is not None or cu_seq_lens is None:
        raise ValueError("packed attention takes cu_seq_lens and no mask")


def _grouped(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_lens: list[int], scaling: float | None, causal: bool, window: int | None
) -> Tensor:
    """One call for each run of equal lengths. *Shape:* `(1, tokens, heads, head_dim)`."""
    tokens_first = [tensor.transpose(1, 2)[0] for tensor in (query, key, value)]
    result = torch.empty((1, query.shape[2], query.shape[1], value.shape[3]), dtype=query.dtype, device=query.device)
    gqa = query.shape[1] != key.shape[1]
    lengths = [end - start for start, end in pairwise(cu_seq_lens)]
    start = 0
    for length, run in groupby(lengths):
        count = sum(1 for _ in run)
        end = start + count * length
        queries, keys, values = (_by_text(tensor[start:end], count, length).transpose(1, 2) for tensor in tokens_first)
        windowed = window is not None and length > window
        mask = _window_mask(length, window, causal, query.device) if windowed and window is not None else None
        attended = scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask,
            is_causal=causal and mask is None and length > 1,
            scale=scaling,
            enable_gqa=gqa,
        )
        _by_text(result[0, start:end], count, length).copy_(attended.transpose(1, 2))
        start = end
    return result


def _by_text(tokens: Tensor, count: int, length: int) -> Tensor:
    """A view of texts of equal length. *Shapes:* `(count * length, ...)` -> `(count, length, ...)`."""
    texts: Tensor = tokens.unflatten(0, (count, length))  # type: ignore[no-untyped-call]
    return texts


def _window_mask(length: int, window: int, causal: bool, device: torch.device) -> Tensor:
    """True where a key is seen. *Shape:* `(length, length)`."""
    position = torch.arange(length, device=device)
    distance = position[:, None] - position[None, :]
    seen = distance.abs() < window
    return seen & (distance >= 0) if causal else seen


def _varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_lens: Tensor,
    longest: int,
    scaling: float | None,
    causal: bool,
    window: int | None,
) -> Tensor:
    """torch's variable-length attention. *Shape:* `(1, tokens, heads, head_dim)`."""
    from torch.nn.attention.varlen import varlen_attn

    known = _varlen_arguments()
    query, key, value = (tensor.transpose(1, 2)[0] for tensor in (query, key, value))
    options: dict[str, Any] = {"num_splits": 1}  # the same bits whatever else is in the batch
    if query.shape[1] != key.shape[1]:
        if "enable_gqa" in known:
            options["enable_gqa"] = True
        else:
            key, value = (tensor.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for tensor in (key, value))
    if scaling is not None and "scale" not in known:
        query = query * (scaling * query.shape[-1] ** 0.5)  # the kernel divides by sqrt(head_dim) by itself
    options["scale"] = scaling
    reach = -1 if window is None else window - 1
    if "window_size" in known:
        options["window_size"] = (reach, 0 if causal else reach)
    elif window is not None:
        raise ValueError("this torch release has no windows in variable-length attention")
    options["is_causal"] = causal
    options = {name: option for name, option in options.items() if name in known}
    # A pair only where auxiliary results are asked for.
    attended = cast(Tensor, varlen_attn(query, key, value, cu_seq_lens, cu_seq_lens, longest, longest, **options))
    return attended[None]


@cache
def _varlen_arguments() -> frozenset[str]:
    """Keywords of this torch release's `varlen_attn`; they differ between 2.10 and 2.13."""
    from torch.nn.attention.varlen import varlen_attn

    return frozenset(inspect.signature(varlen_attn).parameters)
