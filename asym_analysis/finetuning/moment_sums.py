"""Sums of second moments by module, streamed over batches on the device where they arise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["MomentSums", "on_device_of"]


class MomentSums:
    """Sums of x x^T, of x and of how many, module by module, in float64 where the device has it."""

    def __init__(self, modules: Iterable[str]) -> None:
        self.counts = dict.fromkeys(modules, 0)
        self._products: dict[str, Tensor] = {}
        self._totals: dict[str, Tensor] = {}

    def add(self, module: str, rows: Float[Tensor, "rows width"]) -> None:
        """Add rows to a module's sums."""
        if rows.device.type != "mps":
            rows = rows.double()
        for sums, value in ((self._products, rows.T @ rows), (self._totals, rows.sum(0))):
            sums[module] = sums[module].add_(value) if module in sums else value
        self.counts[module] += len(rows)

    def unseen(self) -> list[str]:
        """Modules that no row was added to."""
        return [module for module, count in self.counts.items() if not count]

    def second_moment(self, module: str) -> Float[Tensor, "width width"]:
        """E[x x^T] on the CPU in float64."""
        return (self._products[module] / self.counts[module]).cpu().double()

    def mean(self, module: str) -> Float[Tensor, " width"]:
        """E[x] on the CPU in float64."""
        return (self._totals[module] / self.counts[module]).cpu().double()


def on_device_of(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    """A batch with its tensors where the model's first parameter lies."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
