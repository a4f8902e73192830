"""Which positions of a batch are real: those that count in the statistics of a module's inputs and outputs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn

__all__ = ["RealPositions"]

# Keys and values of cross-attention are part of the decoder but take the encoder's positions as input.
FED_BY_ENCODER = re.compile(r"(encoder_attn|EncDecAttention|crossattention|cross_attn)\W.*\b(k|v|key|value)(_proj)?$")


@dataclass(frozen=True, eq=False)
class RealPositions:
    """The unpadded positions of one batch, of the inputs and, in an encoder-decoder model, of the decoder.

    Parameters
    ----------
    inputs
        From the batch's `attention_mask`; None if it has none.
    decoder
        From its `decoder_attention_mask`, or its labels that are not -100; None in other models.
    """

    inputs: Bool[Tensor, "batch positions"] | None
    decoder: Bool[Tensor, "batch positions"] | None

    @classmethod
    def of_batch(cls, batch: Mapping[str, Any], model: nn.Module) -> RealPositions:
        """Read them from the keyword arguments of a model."""
        mask, decoder = batch.get("attention_mask"), None
        if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            decoder, labels = batch.get("decoder_attention_mask"), batch.get("labels")
            if decoder is None and isinstance(labels, Tensor):
                decoder = labels != -100
        return cls(mask.bool() if isinstance(mask, Tensor) else None, decoder.bool() if decoder is not None else None)

    def select(self, module: str, value: Tensor) -> Tensor:
        """Values of the real positions, one position after another.

        Parameters
        ----------
        module
            The module's name, which says whether it decodes.
        value
            Shape (batch, positions, ...).

        Returns
        -------
        Tensor
            Shape (real positions, ...); all positions where no mask has the value's shape.
        """
        decodes = self.decoder is not None and "decoder" in module and not FED_BY_ENCODER.search(module)
        mask = self.decoder if decodes else self.inputs
        if mask is not None and mask.shape == value.shape[:2]:
            return value[mask]
        return value.flatten(0, 1)

    def rows(self, module: str, value: Tensor) -> Float[Tensor, "real width"]:
        """A module's input or output, shape (..., width), one real position a row."""
        value = value.detach().float()
        return self.select(module, value) if value.dim() == 3 else value.reshape(-1, value.shape[-1])
