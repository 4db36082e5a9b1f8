"""A checkpoint's tensors by name, read from safetensors as they are asked for; nothing is left over without a word."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sightline.embedding.models import ModelSpec
from sightline.errors import ModelError


class Weights:
    """The tensors of a model folder: `with Weights(spec, device, dtype) as weights: weights.take("name")`.

    Names are told without what a head put in front of all of them ("bert.", "model.", "roberta.", ...).

    Raises:
        ModelError: A file is no safetensors file, or not whole.
    """

    def __init__(self, spec: ModelSpec, device: torch.device, dtype: torch.dtype, *, prefixes: Sequence[str]) -> None:
        self._device, self._dtype = device, dtype
        self._open = ExitStack()
        self._files: dict[str, tuple[Any, str]] = {}
        for path in spec.weights:
            try:
                self._add(path, prefixes)
            except (SafetensorError, OSError) as error:
                self._open.close()
                raise ModelError(f"{path} isn't a whole safetensors file ({error}). Fetch the model again.") from error
        self._left = set(self._files)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def __contains__(self, name: str) -> bool:
        return name in self._files

    @property
    def left(self) -> frozenset[str]:
        """Names that nobody took."""
        return frozenset(self._left)

    def take(self, name: str) -> Tensor:
        """A tensor in the wanted number format on the device.

        Raises:
            KeyError: There is none of that name.
        """
        file, stored = self._files[name]
        self._left.discard(name)
        tensor: Tensor = file.get_tensor(stored)
        return tensor.to(self._device, self._dtype, copy=True)  # a copy, because the file won't stay mapped

    def stack(self, *names: str) -> Tensor:
        """Several below one another: products with the same rows become one."""
        return torch.cat([self.take(name) for name in names])

    def maybe_stack(self, *names: str) -> Tensor | None:
        """As `stack`; None where none of them is there."""
        return self.stack(*names) if any(name in self for name in names) else None

    def _add(self, path: Path, prefixes: Sequence[str]) -> None:
        try:
            file = self._open.enter_context(safe_open(path, framework="pt"))
        except SafetensorError as error:
            raise ModelError(f"{path} is broken ({error}), as after an interrupted download. Fetch the model again.") from error
        for stored in file.keys():  # noqa: SIM118 - no dictionary: it can't be walked
            prefix = next((prefix for prefix in prefixes if stored.startswith(prefix)), "")
            self._files[stored.removeprefix(prefix)] = (file, stored)
