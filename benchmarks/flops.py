"""How much arithmetic a model's forward is, read off its config: pure counting, no clock and no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """The sizes of a transformer encoder that decide its arithmetic; embeddings, norms and activations are left out."""

    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    head_dim: int
    intermediate: int
    gated: bool
    causal: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape:
        """The sizes in a `config.json` of the families that the benchmark knows: BERT, XLM-R and Qwen3."""
        heads = config["num_attention_heads"]
        is_decoder = config["model_type"] == "qwen3"
        return cls(
            hidden=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=heads,
            key_value_heads=config.get("num_key_value_heads", heads),
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            intermediate=config["intermediate_size"],
            gated=is_decoder,
            causal=is_decoder,
        )

    @property
    def products(self) -> list[tuple[int, int]]:
        """`(in, out)` of a layer's matrices; those that read the same input count as one, as a fast engine runs them."""
        queries = self.heads * self.head_dim
        keys_and_values = 2 * self.key_value_heads * self.head_dim
        return [
            (self.hidden, queries + keys_and_values),
            (queries, self.hidden),
            (self.hidden, self.intermediate * (2 if self.gated else 1)),
            (self.intermediate, self.hidden),
        ]

    @property
    def linear_flops_per_token(self) -> int:
        """Two for each weight: a product and a sum."""
        return 2 * self.layers * sum(rows * columns for rows, columns in self.products)

    def attention_flops(self, length: int) -> int:
        """Of one text: scores and weighted sums, each `2 * length² * heads * head_dim` a layer, half of that when causal."""
        return 4 * length**2 * self.heads * self.head_dim * self.layers // (2 if self.causal else 1)

    def flops(self, lengths: Iterable[int]) -> int:
        """Of texts of so many tokens, without padding."""
        return sum(length * self.linear_flops_per_token + self.attention_flops(length) for length in lengths)
