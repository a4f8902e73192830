"""LoHa: the entrywise product of two low-rank matrices, which is itself low rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from asym_analysis.adapters.dialects.factors import whole
from asym_analysis.adapters.dialects.tucker import fold_core

__all__ = ["HadamardPair"]


@dataclass(frozen=True)
class HadamardPair:
    """(w1_a · w1_b) o (w2_a · w2_b), whose factors are Khatri-Rao products.

    Row i of B is the Kronecker product of rows i of w1_a and w2_a, column j of A that of columns j of w1_b and w2_b
    (Hyeon-Woo, Ye-Bin and Oh, 2022, FedPara, proposition 1). With Tucker cores t1 and t2, of shape (r, r, height,
    width), w1_a and w2_a are (r, d_out) and each core is folded into its w_b first. The rank is r x r, or the smaller
    side of the update where that is less; then one of the factors is the identity.

    Examples
    --------
    >>> parts = {"w1_a": [[1.0, 2.0]], "w1_b": [[3.0], [4.0]], "w2_a": [[5.0]], "w2_b": [[6.0]]}
    >>> A, B = HadamardPair()({part: torch.tensor(values) for part, values in parts.items()})
    >>> (B @ A).item()  # (1x3 + 2x4) x (5x6)
    330.0
    """

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (A, B)."""
        left, right = _factors(tensors, "1"), _factors(tensors, "2")
        if left[0].shape[0] * right[0].shape[0] > min(left[0].shape[1], left[1].shape[0]):
            return whole((left[1] @ left[0]) * (right[1] @ right[0]))
        A = torch.einsum("pi,qi->pqi", left[0], right[0]).flatten(0, 1)
        B = torch.einsum("op,oq->opq", left[1], right[1]).flatten(1)
        return A, B


def _factors(tensors: Mapping[str, Tensor], which: str) -> tuple[Tensor, Tensor]:
    w_a, w_b, core = tensors[f"w{which}_a"], tensors[f"w{which}_b"], tensors.get(f"t{which}")
    if core is None:
        return w_b, w_a
    return fold_core(core, w_b), w_a.mT
