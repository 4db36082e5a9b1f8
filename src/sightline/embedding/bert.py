"""The forward pass of BERT and its kin: BERT, RoBERTa, XLM-RoBERTa, CamemBERT, DistilBERT. Equal to transformers by tests.

    embeddings: words + positions (+ types), layer norm
    each layer: query, key and value in one product; attention; add and norm; feed forward; add and norm
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sightline.embedding.forward import Unsupported
from sightline.embedding.linear import ACTIVATIONS, Linear, MakeLinear
from sightline.embedding.operators import Norm, Operators, Pack, Prefix
from sightline.embedding.packing import Positions
from sightline.embedding.weights import Weights


@dataclass(frozen=True, slots=True)
class _Names:
    """What a checkpoint calls its parts; `{}` is the number of a layer."""

    layer: str
    query: str
    key: str
    value: str
    out: str
    attention_norm: str
    inner: str
    outer: str
    outer_norm: str


_BERT = _Names(
    "encoder.layer.{}.", "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
    "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm",
)  # fmt: skip
_DISTILBERT = _Names(
    "transformer.layer.{}.", "attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "sa_layer_norm",
    "ffn.lin1", "ffn.lin2", "output_layer_norm",
)  # fmt: skip
# config.json's words in DistilBERT -> in BERT.
_DISTILBERT_KEYS = {
    "dim": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads", "activation": "hidden_act",
}  # fmt: skip

MODEL_TYPES = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert")
PREFIXES = ("bert.", "roberta.", "distilbert.")
# Of a checkpoint, what embedding doesn't use: heads, and indices that older versions stored.
UNUSED = ("pooler.", "cls.", "lm_head.", "classifier.", "embeddings.position_ids", "vocab_", "qa_outputs.")


@dataclass(frozen=True, slots=True)
class _Layer:
    query_key_value: Linear
    out: Linear
    attention_norm: Norm
    inner: Linear
    outer: Linear
    outer_norm: Norm


class BertForward:
    """BERT over packed texts.

    Raises:
        Unsupported: The configuration asks for something that isn't written here.
    """

    causal = False

    def __init__(self, config: Mapping[str, Any], weights: Weights, make: MakeLinear) -> None:
        config = _checked(config)
        kind = config["model_type"]
        self._heads = int(config["num_attention_heads"])
        self._activation = str(config.get("hidden_act", "gelu"))
        epsilon = 1e-12 if kind == "distilbert" else float(config.get("layer_norm_eps", 1e-12))
        padding = int(config.get("pad_token_id", 1))
        offset = kind in ("roberta", "xlm-roberta", "camembert")
        self.positions = Positions(padding + 1, padding) if offset else Positions()
        self._words = weights.take("embeddings.word_embeddings.weight")
        self._positions = weights.take("embeddings.position_embeddings.weight")
        types = "embeddings.token_type_embeddings.weight"
        if types in weights:
            self._positions = self._positions + weights.take(types)[0]  # every token is of the first type
        self._norm = _norm(weights, "embeddings.LayerNorm", epsilon)
        names = _DISTILBERT if kind == "distilbert" else _BERT
        count = int(config["num_hidden_layers"])
        self._layers = [_layer(weights, names, names.layer.format(number), epsilon, make) for number in range(count)]

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
        dtype = dtype or self._words.dtype
        words, positions = self._words[pack.ids].to(dtype), self._positions[pack.positions].to(dtype)
        states = operators.add_and_layer_norm(words, positions, self._norm)
        for layer in self._layers:
            states = self._run(layer, states, pack, operators, rows if layer is self._layers[-1] else None)
        return states

    def _run(self, layer: _Layer, states: Tensor, pack: Pack, operators: Operators, rows: Tensor | None) -> Tensor:
        heads = layer.query_key_value(states).view(len(states), 3, self._heads, -1)
        query, key, value = heads.unbind(1)
        attended = operators.attend(query, key, value, pack, scale=query.shape[-1] ** -0.5, causal=False).flatten(1)
        if rows is not None:  # nothing after the last attention mixes tokens
            attended, states = attended[rows], states[rows]
        states = operators.add_and_layer_norm(layer.out(attended), states, layer.attention_norm)
        inner = layer.inner(states, self._activation)
        return operators.add_and_layer_norm(layer.outer(inner), states, layer.outer_norm)


def _checked(config: Mapping[str, Any]) -> Mapping[str, Any]:
    config = {_DISTILBERT_KEYS.get(key, key) if config.get("model_type") == "distilbert" else key: config[key] for key in config}
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise Unsupported(f"position_embedding_type {config['position_embedding_type']!r}")
    if config.get("is_decoder") or config.get("add_cross_attention"):
        raise Unsupported("a decoder")
    if config.get("hidden_act", "gelu") not in ACTIVATIONS:
        raise Unsupported(f"the activation {config['hidden_act']!r}")
    return config


def _layer(weights: Weights, names: _Names, at: str, epsilon: float, make: MakeLinear) -> _Layer:
    three = (names.query, names.key, names.value)
    return _Layer(
        make(weights.stack(*(f"{at}{n}.weight" for n in three)), weights.stack(*(f"{at}{n}.bias" for n in three))),
        _linear(weights, at + names.out, make),
        _norm(weights, at + names.attention_norm, epsilon),
        _linear(weights, at + names.inner, make),
        _linear(weights, at + names.outer, make),
        _norm(weights, at + names.outer_norm, epsilon),
    )


def _linear(weights: Weights, name: str, make: MakeLinear) -> Linear:
    return make(weights.take(f"{name}.weight"), weights.take(f"{name}.bias"))


def _norm(weights: Weights, name: str, epsilon: float) -> Norm:
    weight, bias = ("gamma", "beta") if f"{name}.gamma" in weights else ("weight", "bias")  # the first until 2019
    return Norm(weights.take(f"{name}.{weight}"), weights.take(f"{name}.{bias}"), epsilon)
