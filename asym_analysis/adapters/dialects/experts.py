"""Updates of a stack of experts, kept in one pair of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

__all__ = ["FlatExpert", "StackedExpert"]


@dataclass(frozen=True)
class FlatExpert:
    """One expert of PEFT's `target_parameters`: A (experts x rank, d_in), B (d_out, rank x experts).

    A runs over experts first, B over experts last.

    Examples
    --------
    >>> import torch
    >>> A, B = FlatExpert(1, 2)({"A": torch.tensor([[1.0], [2.0]]), "B": torch.tensor([[3.0, 4.0]])})
    >>> A.item(), B.item()
    (2.0, 4.0)
    """

    expert: int
    experts: int

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the expert's (A, B)."""
        A, B = tensors["A"], tensors["B"]
        return (
            A.reshape(self.experts, -1, A.shape[-1])[self.expert],
            B.reshape(B.shape[0], -1, self.experts)[:, :, self.expert],
        )


@dataclass(frozen=True)
class StackedExpert:
    """One expert of a three-dimensional stack: A (experts, rank, d_in), B (experts, d_out, rank).

    A may also be (experts x rank, d_in), as older versions of mlx-lm have it.

    Examples
    --------
    >>> import torch
    >>> A, B = StackedExpert(1)({"A": torch.ones(2, 4, 3), "B": torch.ones(2, 5, 4)})
    >>> A.shape, B.shape
    (torch.Size([4, 3]), torch.Size([5, 4]))
    """

    expert: int

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the expert's (A, B)."""
        A, B = tensors["A"], tensors["B"]
        return A.reshape(B.shape[0], -1, A.shape[-1])[self.expert], B[self.expert]
