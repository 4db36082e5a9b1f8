"""packed batches -> hidden states. The seam behind which the model runs.

`Encoder` has room for two kinds: `TransformersEncoder` runs a stock transformers module; a hand-written forward of a model family
implements the same two members.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sightline.embedding import attention, loading
from sightline.embedding.device import default_batch_tokens
from sightline.embedding.models import ModelSpec
from sightline.embedding.numa import own_memory
from sightline.embedding.packing import Packing, check_packing, forward_packed, no_cache, to_device
from sightline.embedding.prepack import prepack
from sightline.errors import MissingExtra, ModelError

# Parts of a checkpoint's architecture that embedding doesn't use, so that random values in them do no harm.
_UNUSED_PARTS = ("pooler.", "lm_head.", "cls.", "classifier.")


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Token ids back to back, int64 `(tokens,)`, and how many belong to each text; `filler` more follow the last text."""

    ids: npt.NDArray[np.int64]
    lengths: list[int]
    filler: int = 0


class Encoder(Protocol):
    """What the engine needs of a model: whether it packs, and hidden states `(at least sum(lengths), hidden)` of a batch."""

    packing: Packing

    def hidden_states(self, batch: TokenBatch) -> Tensor: ...


class TransformersEncoder:
    """A stock transformers module, packed where the check at load allows it and padded otherwise.

    Raises:
        ModelError: The weights don't fit the architecture, or the architecture isn't known.
    """

    def __init__(
        self, spec: ModelSpec, device: torch.device, dtype: str, *, trust_remote_code: bool = False, pack: bool = True
    ) -> None:
        with loading.alone():
            model = load_model(spec, dtype, trust_remote_code=trust_remote_code)
        self._model = model.to(device)
        self._device = device
        self._pad_id = int(spec.config.get("pad_token_id") or 0)
        attention.register()
        self.packing = check_packing(self._model) if pack else Packing(False, "packing was switched off")
        if self.packing.packs and device.type == "cpu":
            prepack(self._model, rows=default_batch_tokens(device))
        if device.type == "cpu" and device.index is not None:
            own_memory(self._model)

    def hidden_states(self, batch: TokenBatch) -> Tensor:
        """Hidden states of the texts back to back, `(tokens, hidden)`."""
        return self._packed(batch) if self.packing.packs else self._padded(batch)

    def _packed(self, batch: TokenBatch) -> Tensor:
        lengths = batch.lengths + _pieces(batch.filler)
        ids = np.concatenate([batch.ids, np.full(batch.filler, self._pad_id, dtype=np.int64)]) if batch.filler else batch.ids
        return forward_packed(self._model, ids, lengths, self.packing.positions, self._device)

    def _padded(self, batch: TokenBatch) -> Tensor:
        lengths = np.asarray(batch.lengths)
        kept = np.arange(lengths.max())[None, :] < lengths[:, None]
        ids = np.full(kept.shape, self._pad_id, dtype=np.int64)
        ids[kept] = batch.ids
        mask = to_device(kept.astype(np.int64), self._device)
        output = self._model(input_ids=to_device(ids, self._device), attention_mask=mask, **no_cache(self._model))
        hidden: Tensor = output.last_hidden_state
        return hidden[mask.bool()]


def _pieces(filler: int, longest: int = 64) -> list[int]:
    """Filler as short texts of its own: cheap to attend, and out of everybody's sight."""
    return [min(longest, filler - start) for start in range(0, filler, longest)]


def load_model(spec: ModelSpec, dtype: str, *, trust_remote_code: bool) -> Any:
    """The transformers module with its weights on the CPU, ready for inference; nothing random is left in a part that is used."""
    try:
        from transformers import AutoConfig
    except ImportError as error:
        raise MissingExtra("The embedding engine", package="transformers", extra="local") from error
    try:
        with _quiet():
            config = AutoConfig.from_pretrained(spec.folder, trust_remote_code=trust_remote_code)
            model, report = _auto_class(config).from_pretrained(
                spec.folder,
                config=config,
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
            )
    except (ValueError, OSError, RuntimeError, KeyError, ImportError) as error:
        raise ModelError(
            f"transformers can't load {spec.folder} (model_type {spec.config.get('model_type')!r}): {str(error).splitlines()[0]} "
            + ("" if trust_remote_code else "If its code ships with the model and you trust it, pass trust_remote_code=True.")
        ) from error
    unused = [f".{part}" for part in _UNUSED_PARTS]
    missing = [name for name in report["missing_keys"] if not any(part in f".{name}" for part in unused)]
    if missing:
        raise ModelError(
            f"{spec.folder}: the weights lack {len(missing)} tensors of the architecture, e.g. {sorted(missing)[0]!r}. "
            "Fetch the whole model."
        )
    return model.eval()


def _auto_class(config: Any) -> Any:
    """AutoModel; for an encoder-decoder such as T5 the class that is its encoder alone."""
    from transformers import AutoModel, AutoModelForTextEncoding

    encoders: Any = AutoModelForTextEncoding._model_mapping
    is_half = type(config) in encoders and encoders[type(config)].__name__.endswith("EncoderModel")
    return AutoModelForTextEncoding if is_half else AutoModel


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar and no load report on the user's terminal; transformers' settings are put back."""
    from transformers.utils import logging as untyped_logging

    transformers_logging: Any = untyped_logging
    bar, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bar:
            transformers_logging.enable_progress_bar()
