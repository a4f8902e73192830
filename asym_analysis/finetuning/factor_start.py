"""How one factor of an adapter begins, and whether training moves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["FactorStart", "Initialization"]

Initialization = Literal["zero", "orthonormal", "kaiming", "gaussian", "singular", "last_singular"]


@dataclass(frozen=True)
class FactorStart:
    """How one factor begins, and whether training moves it.

    `initialization` is one of: "zero"; "orthonormal" (Haar, orthonormal rows of A or columns of B); "kaiming" (uniform,
    as `torch.nn.Linear` and PEFT start it); "gaussian" (rows of A or columns of B of expected squared norm 1);
    "singular" and "last_singular" (the first or last right singular vectors of the pretrained weight for A, left ones
    for B).
    """

    initialization: Initialization
    trained: bool
