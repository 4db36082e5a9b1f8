"""May this model's texts be packed? A check at load, because an architecture that leaks between texts doesn't say so.

Four parts, every one of which must pass; what fails takes the padded path, which is exact too:

1. the attention can be replaced, and ours is called once a layer;
2. our function understood every argument it was given (it refuses what it doesn't know);
3. of a pack A|B|C, replacing B by other tokens of the same length leaves A and C the same to the bit (no threshold: a leak
   so weak that a cosine wouldn't show it is found);
4. packed equals alone, with a text longer than the attention window. This finds wrong positions and windows, which 3 can't.
   The yardstick is the model's own noise: how far its two reference attentions are apart in the loaded number format.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sightline.embedding import attention

log = logging.getLogger(__name__)

_LENGTHS = (11, 7, 13)
# The longest window that is probed with a text beyond it; longer ones would cost minutes on a CPU.
_LONGEST_PROBE = 1024
_NOISE_FACTOR = 8.0
_FLOAT32_FLOOR = 1e-5


@dataclass(frozen=True, slots=True)
class Positions:
    """How a model numbers a text's tokens: from `first`, and with `still_id` (RoBERTa's padding id) the number of such a token is
    `first - 1` and the next one doesn't count it. A literal `<pad>` in a text makes the difference."""

    first: int = 0
    still_id: int | None = None

    def of(self, ids: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Positions of packed `ids`, beginning anew with each text. *Shape:* `(tokens,)`."""
        counted = np.ones_like(ids) if self.still_id is None else (ids != self.still_id).astype(np.int64)
        running = np.concatenate([[0], np.cumsum(counted)])
        starts = np.cumsum(lengths) - lengths
        positions: npt.NDArray[np.int64] = (running[1:] - np.repeat(running[starts], lengths)) * counted + self.first - 1
        return positions


@dataclass(frozen=True, slots=True)
class Packing:
    """The verdict: whether texts are packed, why not if not, and how their positions are numbered."""

    packs: bool
    reason: str
    positions: Positions = Positions()


@torch.inference_mode()
def check_packing(model: Any) -> Packing:
    """Decide for a loaded transformers model; leaves it with the attention that the verdict calls for."""
    reference = model.config._attn_implementation
    verdict = _verdict(model, reference)
    model.set_attn_implementation(attention.NAME if verdict.packs else reference)
    if not verdict.packs:
        log.info("texts are padded, not packed: %s", verdict.reason)
    return verdict


def forward_packed(
    model: Any, ids: npt.NDArray[np.int64], lengths: list[int], positions: Positions, device: torch.device
) -> Tensor:
    """One pass over packed texts. *Shapes:* ids `(tokens,)` -> hidden `(tokens, hidden)`."""
    counts = np.asarray(lengths, dtype=np.int64)
    cu_seq_lens = to_device(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32), device)
    longest = int(counts.max())
    output = model(
        input_ids=to_device(ids, device)[None],
        position_ids=to_device(positions.of(ids, counts), device)[None],
        attention_mask=None,
        cu_seq_lens_q=cu_seq_lens,
        cu_seq_lens_k=cu_seq_lens,
        max_length_q=longest,
        max_length_k=longest,
        **no_cache(model),
    )
    hidden: Tensor = output.last_hidden_state[0]
    return hidden


def no_cache(model: Any) -> dict[str, bool]:
    """`use_cache=False` where the forward takes it: a cache would switch packing off without a word."""
    return {"use_cache": False} if _takes(model, "use_cache") else {}


def _takes(model: Any, parameter: str) -> bool:
    kind: Any = type(model)
    return parameter in _forward_parameters(kind)


@cache
def _forward_parameters(model_class: Any) -> frozenset[str]:
    """Names of the forward's parameters; asked for at every pass, so looked up once a class."""
    return frozenset(inspect.signature(model_class.forward).parameters)


def to_device(array: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """Copy to `device`, from pinned memory on CUDA so that the host doesn't wait."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _verdict(model: Any, reference: str) -> Packing:
    if not _takes(model, "position_ids"):
        return Packing(False, "the model takes no position ids")
    if not model._can_set_attn_implementation():
        return Packing(False, "the model's attention can't be replaced")
    window = _window(model.config)
    lengths = list(_LENGTHS)
    if window is not None and window <= _LONGEST_PROBE:
        lengths[0] = window + 9
    texts = [_random_ids(model, length, seed) for seed, length in enumerate(lengths)]
    texts[0][3] = _pad_id(model)  # a padding id within a text shows whether it holds positions still
    positions, alone = _alone(model, texts)
    try:
        model.set_attn_implementation(attention.NAME)
        with attention.count_calls() as calls:
            packed = _pack(model, texts, positions)
        layers = _num_layers(model.config)
        if calls.total != layers:
            return Packing(False, f"attention was called {calls.total} times for {layers} layers")
        changed = _pack(model, [texts[0], _random_ids(model, lengths[1], seed=99), texts[2]], positions)
    except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
        return Packing(False, f"packed attention refused: {error}")
    if not (torch.equal(packed[0], changed[0]) and torch.equal(packed[2], changed[2])):
        return Packing(False, "texts of one pack see each other")
    tolerance = _tolerance(model, texts, alone, reference)
    distance = max(float((a.float() - b.float()).abs().max()) for a, b in zip(packed, alone, strict=True))
    if not distance <= tolerance:
        return Packing(False, f"packed and alone differ by {distance:.2g} (allowed {tolerance:.2g})")
    return Packing(True, "packed", positions)


def _pack(model: Any, texts: list[npt.NDArray[np.int64]], positions: Positions) -> list[Tensor]:
    lengths = [len(text) for text in texts]
    return list(torch.split(forward_packed(model, np.concatenate(texts), lengths, positions, _device(model)), lengths))


def _alone(model: Any, texts: list[npt.NDArray[np.int64]]) -> tuple[Positions, list[Tensor]]:
    """How positions are numbered, and the reference hidden states of each text by itself."""
    seen: list[Tensor] = []

    def note(_: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.extend(tensor for tensor in inputs if isinstance(tensor, Tensor) and not tensor.is_floating_point())

    hooks = [module.register_forward_pre_hook(note) for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    try:
        hidden = [_reference(model, texts[0])]
    finally:
        for hook in hooks:
            hook.remove()
    hidden += [_reference(model, text) for text in texts[1:]]
    return _positions(seen, texts[0], _pad_id(model)), hidden


def _positions(seen: list[Tensor], ids: npt.NDArray[np.int64], pad_id: int) -> Positions:
    """An embedding that was asked for k, k+1, k+2, ... numbers positions from k; none means rotary, from 0."""
    for asked in seen:
        row = asked.reshape(-1)[: len(ids)].cpu().numpy()
        for still_id in (None, pad_id):
            positions = Positions(int(row[0]), still_id)
            if np.array_equal(row, positions.of(ids, np.array([len(ids)]))):
                return positions
    return Positions()


def _reference(model: Any, text: npt.NDArray[np.int64]) -> Tensor:
    ids = to_device(text, _device(model))[None]
    hidden: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), **no_cache(model)).last_hidden_state[0]
    return hidden


def _tolerance(model: Any, texts: list[npt.NDArray[np.int64]], alone: list[Tensor], reference: str) -> float:
    scale = max(float(hidden.float().abs().max()) for hidden in alone)
    other = "eager" if reference != "eager" else "sdpa"
    try:
        model.set_attn_implementation(other)
        again = [_reference(model, text) for text in texts]
    except (ValueError, RuntimeError, ImportError):
        again = alone
    noise = max(float((a.float() - b.float()).abs().max()) for a, b in zip(alone, again, strict=True))
    floor = _FLOAT32_FLOOR if alone[0].dtype == torch.float32 else float(torch.finfo(alone[0].dtype).eps)
    return max(_NOISE_FACTOR * noise, floor * scale)


def _random_ids(model: Any, length: int, seed: int) -> npt.NDArray[np.int64]:
    """Ids from the upper half of the vocabulary, where no padding id lies; never consecutive for these seeds."""
    vocabulary = int(_text_config(model.config).vocab_size)
    return np.random.default_rng(seed).integers(vocabulary // 2, vocabulary, size=length)


def _pad_id(model: Any) -> int:
    return int(getattr(_text_config(model.config), "pad_token_id", None) or 0)


def _device(model: Any) -> torch.device:
    device: torch.device = next(model.parameters()).device
    return device


def _text_config(config: Any) -> Any:
    get: Callable[[], Any] | None = getattr(config, "get_text_config", None)
    return get() if get is not None else config


def _num_layers(config: Any) -> int:
    return int(_text_config(config).num_hidden_layers)


def _window(config: Any) -> int | None:
    """The widest attention window in tokens, or None. ModernBERT calls its `local_attention`."""
    config = _text_config(config)
    windows = [getattr(config, name, None) for name in ("sliding_window", "local_attention")]
    found = [int(window) for window in windows if isinstance(window, int) and window > 0]
    return max(found) if found else None
