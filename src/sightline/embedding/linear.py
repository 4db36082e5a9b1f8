"""Linear layers, with weights in the layout that oneDNN multiplies with where that helps: laid out once, not at every call.

That is for bfloat16 on a CPU only; float32 keeps torch's own path, bit for bit. The operators are private to torch, so they are
tried on each layer before they are trusted: where one is missing or gives something else, the layer stays as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, relu, silu

from sightline.embedding.native import Kernels

log = logging.getLogger(__name__)

_PROBE_ROWS = 16
# What config.json calls an activation: the function, and oneDNN's name and variant where its own is the same one.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": gelu,
    "gelu_new": lambda rows: gelu(rows, approximate="tanh"),
    "gelu_pytorch_tanh": lambda rows: gelu(rows, approximate="tanh"),
    "relu": relu,
    "silu": silu,
}
_FUSED = {"gelu": ("gelu", "none"), "relu": ("relu", "")}


class Linear:
    """`rows @ weight.T + bias`; the weight follows the rows' number format. *Shapes:* `(tokens, in)` -> `(tokens, out)`."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, rows: Tensor, activation: str | None = None) -> Tensor:
        """The product, and `activation` (a name in `ACTIVATIONS`) of it."""
        bias = None if self.bias is None else self.bias.to(rows.dtype)
        product = linear(rows, self.weight.to(rows.dtype), bias)
        return product if activation is None else ACTIVATIONS[activation](product)


MakeLinear = Callable[[Tensor, Tensor | None], Linear]


class PackedLinear(Linear):
    """The same over a weight in oneDNN's layout; bfloat16 on a CPU."""

    def __call__(self, rows: Tensor, activation: str | None = None) -> Tensor:
        """As `Linear`, the activation fused where oneDNN has it."""
        name, variant = _FUSED.get(activation or "", ("none", ""))
        product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, name, [], variant)
        return product if activation is None or name != "none" else ACTIVATIONS[activation](product)


class Int8Linear(Linear):
    """The same with int8 products, summed exactly: a scale for each column of the weight, and one for each row as it comes.

    A row's result depends on that row alone, to the bit.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, kernels: Kernels) -> None:
        self._kernels = kernels
        width, depth = weight.shape
        weight = weight.float()
        self._scales = (weight.abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
        whole = (weight / self._scales[:, None]).round().to(torch.int8)
        self._sums = whole.sum(1, dtype=torch.int32)
        self._weights = whole.view(width // 64, 64, depth // 4, 4).transpose(1, 2).contiguous()
        self._bias = torch.zeros(width) if bias is None else bias.float()

    def __call__(self, rows: Tensor, activation: str | None = None) -> Tensor:
        """As `Linear`, for bfloat16 rows."""
        gelu = activation == "gelu"
        product = self._kernels.linear_int8(rows, self._weights, self._scales, self._sums, self._bias, gelu=gelu)
        return product if activation is None or gelu else ACTIVATIONS[activation](product)


class PackedModule(nn.Module):
    """`PackedLinear` in the place of an `nn.Linear`."""

    def __init__(self, packed: PackedLinear) -> None:
        super().__init__()
        self._packed = packed  # not a parameter: an opaque layout can't be saved, moved or converted

    def forward(self, rows: Tensor) -> Tensor:
        """Multiply with the packed weight and add the bias."""
        return self._packed(rows)


def make_int8(weight: Tensor, bias: Tensor | None, kernels: Kernels) -> Linear:
    """A linear layer with int8 products; one whose sizes they aren't written for stays in bfloat16."""
    fits = weight.shape[0] % 64 == 0 and weight.shape[1] % 16 == 0
    return Int8Linear(weight, bias, kernels) if fits else Linear(weight, bias)


def make_linear(weight: Tensor, bias: Tensor | None, rows: int) -> Linear:
    """A linear layer in the best layout; `rows` is the usual number of tokens a pass."""
    plain = Linear(weight, bias)
    if weight.dtype != torch.bfloat16 or weight.device.type != "cpu":
        return plain
    return _packed(plain, rows) or plain


@torch.inference_mode()
def prepack(model: nn.Module, rows: int) -> int:
    """Replace the bfloat16 linear layers of a model on the CPU; returns how many. `rows` is the usual number of tokens a pass."""
    replaced = 0
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear:
                bias = None if layer.bias is None else layer.bias.detach()
                made = make_linear(layer.weight.detach(), bias, rows)
                if isinstance(made, PackedLinear):
                    setattr(parent, name, PackedModule(made))
                    replaced += 1
    return replaced


def _packed(plain: Linear, rows: int) -> PackedLinear | None:
    probe = torch.randn(_PROBE_ROWS, plain.weight.shape[1], generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    try:
        packed = PackedLinear(_reorder(plain.weight, rows), plain.bias)
        expected, found = plain(probe).float(), packed(probe).float()
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
