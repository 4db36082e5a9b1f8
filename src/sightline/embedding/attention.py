"""packed batches -> attention: each text of a packed batch attends to itself only. The hook is transformers' AttentionInterface.

A packed batch is one row of tokens, texts back to back, `cu_seq_lens` (num_texts + 1) saying where each begins. On CUDA in half
precision `torch.nn.attention.varlen` attends them in one call, on CPUs with bfloat16 units the kernel of `native.py`; everywhere
else equal lengths that lie side by side share one `scaled_dot_product_attention`. Hand-written forwards call `attend`. What
`packed_attention` doesn't understand it refuses: ignoring an argument would be a silent wrong answer.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Sequence
from functools import cache
from itertools import groupby
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sightline.embedding import native

log = logging.getLogger(__name__)

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
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key, value = (tensor.transpose(1, 2)[0] for tensor in (query, key, value))
    attended = attend(query, key, value, cu_seq_lens_q, None, int(max_length_q or 0), scale, causal, window=sliding_window)
    return attended[None], None


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    lengths: Sequence[int] | None,
    longest: int,
    scale: float,
    causal: bool,
    *,
    window: int | None = None,
    prefix: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Attention within each text by the quickest way that this device has.

    *Shapes:* query `(tokens, heads, width)`, key and value `(tokens, kv_heads, width)`, starts int32 `(num_texts + 1,)`, lengths
    the same on the host (None: asked of the device), keys and values of a prefix that every text sees in front of itself
    `(before, kv_heads, width)` -> `(tokens, heads, width)`.
    """
    if asks_no_lengths(query.device, query.dtype):
        return _varlen(query, key, value, starts, longest, scale, causal, window, prefix)
    kernels = native.kernels() if query.dtype == torch.bfloat16 and query.device.type == "cpu" else None
    if kernels is not None and query.shape[-1] in native.WIDTHS and query.stride(-1) == key.stride(-1) == value.stride(-1) == 1:
        return kernels.attend(query, key, value, starts, scale=scale, causal=causal, window=window, prefix=prefix)
    if lengths is None:
        lengths = starts.diff().tolist()
    return _grouped(query, key, value, lengths, scale, causal, window, prefix)


def asks_no_lengths(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `attend` reads where texts begin on the device only, so that a captured pass serves texts of any lengths."""
    return device.type == "cuda" and dtype in (torch.bfloat16, torch.float16) and _varlen_is_right(device, dtype)


def _refuse_unknown(attention_mask: Tensor | None, cu_seq_lens: Tensor | None, others: dict[str, Any]) -> None:
    unknown = sorted(name for name, value in others.items() if name not in _HARMLESS and value is not None)
    if unknown:
        raise ValueError(f"packed attention doesn't know {', '.join(unknown)}")
    if others.get("output_attentions"):
        raise ValueError("packed attention gives no attention weights")
    if attention_mask is not None or cu_seq_lens is None:
        raise ValueError("packed attention takes cu_seq_lens and no mask")


def _grouped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Sequence[int],
    scale: float,
    causal: bool,
    window: int | None,
    prefix: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """One call of `scaled_dot_product_attention` for each run of equal lengths. *Shapes:* as `attend`."""
    if sum(lengths) != len(query):  # what no text owns would stay unwritten
        raise ValueError(f"the texts have {sum(lengths)} tokens together, and there are {len(query)}")
    result = torch.empty((*query.shape[:2], value.shape[2]), dtype=query.dtype, device=query.device)
    gqa = query.shape[1] != key.shape[1]
    before = 0 if prefix is None else len(prefix[0])
    start = 0
    for length, run in groupby(lengths):
        count = sum(1 for _ in run)
        end = start + count * length
        queries, keys, values = (_by_text(tensor[start:end], count, length).transpose(1, 2) for tensor in (query, key, value))
        if prefix is not None:
            keys, values = (
                torch.cat([shared.transpose(0, 1).expand(count, -1, -1, -1), own], dim=2)
                for shared, own in zip(prefix, (keys, values), strict=True)
            )
        windowed = window is not None and before + length > window
        mask = _seen(length, before, window, causal, query.device) if windowed or (causal and before) else None
        attended = scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask,
            is_causal=causal and mask is None and length > 1,
            scale=scale,
            enable_gqa=gqa,
        )
        _by_text(result[start:end], count, length).copy_(attended.transpose(1, 2))
        start = end
    return result


def _by_text(tokens: Tensor, count: int, length: int) -> Tensor:
    """A view of texts of equal length. *Shapes:* `(count * length, ...)` -> `(count, length, ...)`."""
    texts: Tensor = tokens.unflatten(0, (count, length))  # type: ignore[no-untyped-call]
    return texts


def _seen(length: int, before: int, window: int | None, causal: bool, device: torch.device) -> Tensor:
    """True where a key is seen. *Shape:* `(length, before + length)`."""
    key = torch.arange(before + length, device=device)
    distance = key[before:, None] - key[None, :]
    seen = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    return seen if window is None else seen & (distance.abs() < window)


def _varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    longest: int,
    scale: float,
    causal: bool,
    window: int | None,
    prefix: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """torch's variable-length attention. *Shapes:* as `attend`."""
    from torch.nn.attention.varlen import varlen_attn

    known = _varlen_arguments()
    key_starts, longest_key = starts, longest
    if prefix is not None:  # the kernel aligns the last query with the last key
        before = len(prefix[0])
        key, value = (_behind_prefix(shared, own, starts) for shared, own in zip(prefix, (key, value), strict=True))
        key_starts = starts + before * torch.arange(len(starts), dtype=torch.int32, device=starts.device)
        longest_key = longest + before
    options: dict[str, Any] = {"num_splits": 1}  # the same bits whatever else is in the batch
    if query.shape[1] != key.shape[1]:
        if "enable_gqa" in known:
            options["enable_gqa"] = True
        else:
            key, value = (tensor.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for tensor in (key, value))
    if "scale" not in known:
        query = query * (scale * query.shape[-1] ** 0.5)  # the kernel divides by sqrt(width) by itself
    options["scale"] = scale
    reach = -1 if window is None else window - 1
    if "window_size" in known:
        options["window_size"] = (reach, 0 if causal else reach)
    elif window is not None:
        raise ValueError("this torch release has no windows in variable-length attention")
    options["is_causal"] = causal
    options = {name: option for name, option in options.items() if name in known}
    # A pair only where auxiliary results are asked for.
    return cast(Tensor, varlen_attn(query, key, value, starts, key_starts, longest, longest_key, **options))


def _behind_prefix(prefix: Tensor, own: Tensor, starts: Tensor) -> Tensor:
    """The prefix in front of each text. *Shapes:* `(before, ...)`, `(tokens, ...)` -> `(tokens + texts * before, ...)`."""
    before, tokens = len(prefix), len(own)
    lengths = starts.diff()
    text = torch.repeat_interleave(torch.arange(len(lengths), device=own.device), lengths, output_size=tokens)
    result = own.new_empty((tokens + len(lengths) * before, *own.shape[1:]))
    result[torch.arange(tokens, device=own.device) + (text + 1) * before] = own
    heads = starts[:-1].long() + before * torch.arange(len(lengths), device=own.device)
    result[(heads[:, None] + torch.arange(before, device=own.device)).flatten()] = prefix.repeat(len(lengths), 1, 1)
    return result


@cache
def _varlen_is_right(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether variable-length attention runs on this device and gives what plain attention gives in float32; tried once."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(24, 8, 64, generator=generator).to(device, dtype)
    query, key, value = torch.split(rows, [4, 2, 2], dim=1)
    starts = torch.tensor([0, 7, 24], dtype=torch.int32, device=device)
    expected = _grouped(query.float(), key.float(), value.float(), [7, 17], 0.1, True, None, None)
    try:
        distance = float((_varlen(query, key, value, starts, 17, 0.1, True, None).float() - expected).abs().max())
    except (RuntimeError, ImportError, ValueError, NotImplementedError) as error:
        log.warning("variable-length attention isn't there on %s, so texts are attended by groups: %s", device, error)
        return False
    if not distance <= 8 * torch.finfo(dtype).eps:
        log.warning("variable-length attention is %.2g off float32 on %s, so texts are attended by groups", distance, device)
        return False
    return True


@cache
def _varlen_arguments() -> frozenset[str]:
    """Keywords of this torch release's `varlen_attn`; they differ between 2.10 and 2.13."""
    from torch.nn.attention.varlen import varlen_attn

    return frozenset(inspect.signature(varlen_attn).parameters)
