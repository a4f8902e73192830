"""Pairs with a trained diagonal between the factors: AdaLoRA's singular values, KaSA's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

__all__ = ["DiagonalPair"]


@dataclass(frozen=True)
class DiagonalPair:
    """B · diag(E) · A, the diagonal taken into A.

    AdaLoRA (Zhang et al., 2023, equation 3) trains E as singular values and zeroes those that it prunes.

    Examples
    --------
    >>> import torch
    >>> A, B = DiagonalPair()({"A": torch.ones(2, 3), "E": torch.tensor([[2.0], [0.0]]), "B": torch.ones(1, 2)})
    >>> A.tolist()
    [[2.0, 2.0, 2.0], [0.0, 0.0, 0.0]]
    """

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (diag(E) · A, B)."""
        A = tensors["A"].flatten(1)
        return tensors["E"].reshape(A.shape[0], 1) * A, tensors["B"].flatten(1)
