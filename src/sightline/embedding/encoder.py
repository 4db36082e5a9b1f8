"""packed batches -> hidden states. The seam behind which the model runs.

There are two kinds of `Encoder`: `PackedEncoder` (`packed_encoder.py`) runs a forward pass of our own for the families that have
one, `TransformersEncoder` a stock transformers module for all others.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from torch import Tensor

from sightline.embedding import attention, loading, native
from sightline.embedding.batching import TokenBatch
from sightline.embedding.device import default_batch_tokens
from sightline.embedding.linear import prepack
from sightline.embedding.models import ModelSpec
from sightline.embedding.numa import own_memory
from sightline.embedding.packing import Packing, check_packing, forward_packed, no_cache, to_device
from sightline.errors import MissingExtra, ModelError, UsageError

log = logging.getLogger(__name__)

# Parts of a checkpoint's architecture that embedding doesn't use, so that random values in them do no harm.
_UNUSED_PARTS = ("pooler.", "lm_head.", "cls.", "classifier.")


class Encoder(Protocol):
    """What the engine needs of a model: whether it packs, and hidden states of a batch, `(at least sum(lengths), hidden)`, or of
    its tokens `rows` alone."""

    packing: Packing

    def hidden_states(self, batch: TokenBatch, rows: npt.NDArray[np.int64] | None = None) -> Tensor: ...


def load_encoder(
    spec: ModelSpec, device: torch.device, dtype: str, *, encoder: str, trust_remote_code: bool, pack: bool, deterministic: bool
) -> Encoder:
    """The quickest encoder that this model may have; `encoder="transformers"` asks for the stock module outright.

    Raises:
        ModelError: transformers can't load the model either.
    """
    if encoder == "auto" and pack and not trust_remote_code:
        from sightline.embedding.forward import Unsupported
        from sightline.embedding.packed_encoder import PackedEncoder

        try:
            return PackedEncoder(spec, device, dtype, deterministic=deterministic)
        except Unsupported as reason:
            if dtype == "int8":
                raise UsageError(f"dtype='int8' isn't there for {spec.name} ({reason}). Leave dtype out.") from reason
            log.info("%s runs as transformers' own module: %s", spec.name, reason)
    if dtype == "int8":
        raise UsageError("dtype='int8' needs the forward pass of our own: leave out encoder=, pack= and trust_remote_code=.")
    return TransformersEncoder(spec, device, dtype, trust_remote_code=trust_remote_code, pack=pack, deterministic=deterministic)


class TransformersEncoder:
    """A stock transformers module, packed where the check at load allows it and padded otherwise.

    Raises:
        ModelError: The weights don't fit the architecture, or the architecture isn't known.
    """

    def __init__(
        self,
        spec: ModelSpec,
        device: torch.device,
        dtype: str,
        *,
        trust_remote_code: bool = False,
        pack: bool = True,
        deterministic: bool = False,
    ) -> None:
        if device.type == "cpu" and dtype == "bfloat16":
            native.kernels(wait=deterministic)
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

    def hidden_states(self, batch: TokenBatch, rows: npt.NDArray[np.int64] | None = None) -> Tensor:
        """Hidden states of the texts back to back, `(tokens, hidden)`, or of the tokens `rows`."""
        hidden = self._packed(batch) if self.packing.packs else self._padded(batch)
        return hidden if rows is None else hidden[to_device(rows, self._device)]

    def _packed(self, batch: TokenBatch) -> Tensor:
        return forward_packed(self._model, *batch.filled(self._pad_id), self.packing.positions, self._device)

    def _padded(self, batch: TokenBatch) -> Tensor:
        lengths = np.asarray(batch.lengths)
        kept = np.arange(lengths.max())[None, :] < lengths[:, None]
        ids = np.full(kept.shape, self._pad_id, dtype=np.int64)
        ids[kept] = batch.ids
        mask = to_device(kept.astype(np.int64), self._device)
        output = self._model(input_ids=to_device(ids, self._device), attention_mask=mask, **no_cache(self._model))
        hidden: Tensor = output.last_hidden_state
        # By numbers from the host: a mask of the device would be waited for.
        return hidden.flatten(0, 1)[to_device(np.flatnonzero(kept), self._device)]


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
    except (ValueError, OSError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
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
