"""Sums of second moments and of token counts, streamed over batches on the device where they arise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from asym_analysis.errors import AdapterError

__all__ = ["MomentSum", "TokenCount", "loss_of", "on_device_of"]


class MomentSum:
    """Sums of x x^T, of x and of how many, in float64 where the device has it."""

    def __init__(self) -> None:
        self.count = 0
        self._product: Tensor | None = None
        self._total: Tensor | None = None

    def add(self, rows: Float[Tensor, "rows width"]) -> None:
        """Add rows to the sums."""
        if rows.device.type != "mps":
            rows = rows.double()
        product, total = rows.T @ rows, rows.sum(0)
        self._product = product if self._product is None else self._product.add_(product)
        self._total = total if self._total is None else self._total.add_(total)
        self.count += len(rows)

    def second_moment(self) -> Float[Tensor, "width width"]:
        """E[x x^T] on the CPU in float64."""
        assert self._product is not None
        return (self._product / self.count).cpu().double()

    def mean(self) -> Float[Tensor, " width"]:
        """E[x] on the CPU in float64."""
        assert self._total is not None
        return (self._total / self.count).cpu().double()


class TokenCount:
    """How often each row of an embedding was looked up."""

    def __init__(self, tokens: int) -> None:
        self.count = 0
        self._counts = torch.zeros(tokens, dtype=torch.int64)

    def add(self, ids: Int[Tensor, " positions"]) -> None:
        """Add token ids to the counts."""
        self._counts += torch.bincount(ids.cpu(), minlength=len(self._counts))
        self.count += len(ids)

    def frequencies(self) -> Float[Tensor, " tokens"]:
        """The fraction of the positions at which each token stood, float64."""
        return self._counts.double() / self.count


def on_device_of(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    """A batch with its tensors where the model's first parameter lies."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}


def loss_of(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """The loss that a model gives for a labelled batch, placed where its first parameter lies.

    Raises
    ------
    AdapterError
        If the model gives none.
    """
    loss: Tensor | None = getattr(model(**on_device_of(model, batch)), "loss", None)
    if loss is None:
        raise AdapterError("the model gave no loss; put the labels into the batches")
    return loss
