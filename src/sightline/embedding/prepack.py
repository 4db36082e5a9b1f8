"""Weights of linear layers in the layout that oneDNN multiplies with, laid out once at load instead of at every call.

For bfloat16 on a CPU only; float32 keeps torch's own path, bit for bit. The operators are private to torch, so they are tried
on each layer before they are trusted: where one is missing or gives something else, the layer stays as it is.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

_PROBE_ROWS = 16


class PrepackedLinear(nn.Module):
    """`nn.Linear` for inference over a weight in oneDNN's layout. *Shapes:* `(..., in)` -> `(..., out)`."""

    def __init__(self, packed: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        # Not parameters: an opaque layout can't be saved, moved or converted.
        self._packed, self.bias = packed, bias

    def forward(self, rows: Tensor) -> Tensor:
        """Multiply with the packed weight and add the bias."""
        result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self._packed, self.bias, "none", [], "")
        return result


@torch.inference_mode()
def prepack(model: nn.Module, rows: int) -> int:
    """Replace the bfloat16 linear layers of a model on the CPU; returns how many. `rows` is the usual number of tokens a pass."""
    replaced = 0
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear and layer.weight.dtype == torch.bfloat16 and layer.weight.device.type == "cpu":
                packed = _packed(layer, rows)
                if packed is None:
                    return replaced
                setattr(parent, name, packed)
                replaced += 1
    return replaced


def _packed(layer: nn.Linear, rows: int) -> PrepackedLinear | None:
    try:
        packed = PrepackedLinear(_reorder(layer.weight.detach(), rows), None if layer.bias is None else layer.bias.detach())
        probe = torch.randn(_PROBE_ROWS, layer.in_features, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
        expected, found = layer(probe).float(), packed(probe).float()
    except (AttributeError, RuntimeError, NotImplementedError) as error:
        log.info("linear layers stay in torch's own layout: %s", error)
        return None
    # Both round to bfloat16 after summing in float32, in another order.
    if not torch.allclose(found, expected, rtol=2**-7, atol=2**-7 * float(expected.abs().max())):
        log.info("linear layers stay in torch's own layout: oneDNN's gives other results here")
        return None
    return packed


def _reorder(weight: Tensor, rows: int) -> Any:
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)
