"""Tucker cores: a convolution's kernel between the two factors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["TuckerPair", "fold_core"]


def fold_core(
    core: Float[Tensor, "rank inner *kernel"], down: Float[Tensor, "inner channels"]
) -> Float[Tensor, "rank flat"]:
    """Fold a core into the factor that reads the input: sum over j of core[i, j, ...] · down[j, c].

    The result has one column for each channel and kernel position, channels first, as a convolution's weight has.

    Examples
    --------
    >>> fold_core(torch.ones(2, 3, 1, 1), torch.ones(3, 4)).shape
    torch.Size([2, 4])
    """
    return torch.einsum("ij...,jc->ic...", core, down).flatten(1)


@dataclass(frozen=True)
class TuckerPair:
    """LoCon's convolution in three steps: B (d_out, rank), a core (rank, rank, height, width), A (rank, channels).

    Examples
    --------
    >>> A, B = TuckerPair()({"A": torch.ones(2, 3, 1, 1), "mid": torch.ones(2, 2, 3, 3), "B": torch.ones(5, 2, 1, 1)})
    >>> A.shape, B.shape
    (torch.Size([2, 27]), torch.Size([5, 2]))
    """

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (A with the core folded in, B)."""
        return fold_core(tensors["mid"], tensors["A"].flatten(1)), tensors["B"].flatten(1)
