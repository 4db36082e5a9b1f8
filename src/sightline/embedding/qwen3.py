"""The forward pass of Qwen3 (Qwen3-Embedding among them). Equal to transformers by tests.

    each layer: norm; query, key and value in one product; norm and rotate queries and keys; attention; add and norm;
                gate and up in one product; silu and multiply; down; add
    last: norm
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sightline.embedding.forward import Unsupported
from sightline.embedding.linear import Linear, MakeLinear
from sightline.embedding.operators import Norm, Operators, Pack, Prefix, Rotation
from sightline.embedding.packing import Positions
from sightline.embedding.weights import Weights

MODEL_TYPES = ("qwen3",)
PREFIXES = ("model.",)
UNUSED = ("lm_head.",)


@dataclass(frozen=True, slots=True)
class _Layer:
    norm: Norm
    query_key_value: Linear
    rotation: Rotation
    out: Linear
    inner_norm: Norm
    gate_up: Linear
    down: Linear


class Qwen3Forward:
    """Qwen3 over packed texts.

    Raises:
        Unsupported: The configuration asks for something that isn't written here.
    """

    positions = Positions()

    def __init__(self, config: Mapping[str, Any], weights: Weights, make: MakeLinear) -> None:
        _check(config)
        self._heads, self._kv_heads = int(config["num_attention_heads"]), int(config["num_key_value_heads"])
        self._width = int(config.get("head_dim") or 128)
        self.causal = bool(config.get("is_causal", True))
        epsilon = float(config.get("rms_norm_eps", 1e-6))
        self._words = weights.take("embed_tokens.weight")
        positions = int(config.get("max_position_embeddings", 32768))
        tables = _rotary_tables(positions, self._width, _theta(config), self._words.device)
        self._layers = [
            self._layer(weights, f"layers.{number}.", epsilon, tables, make) for number in range(int(config["num_hidden_layers"]))
        ]
        self._norm = Norm(weights.take("norm.weight"), None, epsilon)

    @property
    def vocabulary(self) -> int:
        """How many token ids there are."""
        return len(self._words)

    def __call__(
        self,
        pack: Pack,
        operators: Operators,
        *,
        rows: Tensor | None = None,
        dtype: torch.dtype | None = None,
        prefix: list[Prefix] | None = None,
        keep: list[Prefix] | None = None,
    ) -> Tensor:
        """Hidden states `(tokens, hidden)`, or of `rows` alone. See `forward.Forward`."""
        added: Tensor | None = None
        states = self._words[pack.ids].to(dtype or self._words.dtype)
        for number, layer in enumerate(self._layers):
            normed, states = operators.add_and_rms_norm(states, added, layer.norm)
            attended = self._attend(layer, normed, pack, operators, prefix[number] if prefix is not None else None, keep)
            if rows is not None and layer is self._layers[-1]:  # nothing after the last attention mixes tokens
                attended, states = attended[rows], states[rows]
            normed, states = operators.add_and_rms_norm(layer.out(attended), states, layer.inner_norm)
            added = layer.down(operators.silu_and_multiply(layer.gate_up(normed)))
        return operators.add_and_rms_norm(states, added, self._norm)[0]

    def _attend(
        self, layer: _Layer, normed: Tensor, pack: Pack, operators: Operators, prefix: Prefix | None, keep: list[Prefix] | None
    ) -> Tensor:
        heads = layer.query_key_value(normed)
        operators.norm_and_rotate(heads, layer.rotation, pack.positions)
        heads = heads.view(len(heads), -1, self._width)
        query, key, value = torch.split(heads, [self._heads, self._kv_heads, self._kv_heads], dim=1)
        if keep is not None:
            keep.append((key.contiguous(), value.contiguous()))
        scale = self._width**-0.5
        return operators.attend(query, key, value, pack, scale=scale, causal=self.causal, prefix=prefix).flatten(1)

    def _layer(self, weights: Weights, at: str, epsilon: float, tables: tuple[Tensor, Tensor], make: MakeLinear) -> _Layer:
        three = [f"{at}self_attn.{name}_proj" for name in "qkv"]
        query_norm, key_norm = (Norm(weights.take(f"{at}self_attn.{name}_norm.weight"), None, epsilon) for name in "qk")
        return _Layer(
            Norm(weights.take(f"{at}input_layernorm.weight"), None, epsilon),
            make(weights.stack(*(f"{n}.weight" for n in three)), weights.maybe_stack(*(f"{n}.bias" for n in three))),
            Rotation(query_norm, key_norm, *tables, self._heads, self._kv_heads),
            make(weights.take(f"{at}self_attn.o_proj.weight"), weights.maybe_stack(f"{at}self_attn.o_proj.bias")),
            Norm(weights.take(f"{at}post_attention_layernorm.weight"), None, epsilon),
            make(weights.stack(f"{at}mlp.gate_proj.weight", f"{at}mlp.up_proj.weight"), None),
            make(weights.take(f"{at}mlp.down_proj.weight"), None),
        )


def _check(config: Mapping[str, Any]) -> None:
    if config.get("hidden_act", "silu") != "silu":
        raise Unsupported(f"the activation {config['hidden_act']!r}")
    if config.get("use_sliding_window") or "sliding_attention" in (config.get("layer_types") or ()):
        raise Unsupported("a sliding window")
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind != "default":
        raise Unsupported(f"rotary positions of type {kind!r}")
    if not _theta(config):
        raise Unsupported("no rope_theta")


def _theta(config: Mapping[str, Any]) -> float:
    """transformers 5 keeps it among the rotary parameters."""
    return float((config.get("rope_parameters") or {}).get("rope_theta") or config.get("rope_theta") or 0)


def _rotary_tables(positions: int, width: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float32 `(positions, width / 2)`; a pair of features for each frequency."""
    frequencies = 1.0 / theta ** (torch.arange(0, width, 2, dtype=torch.int64).float() / width)
    angles = torch.arange(positions).float()[:, None] * frequencies[None]
    return angles.cos().to(device), angles.sin().to(device)
