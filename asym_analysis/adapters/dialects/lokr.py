"""LoKr: the Kronecker product of two matrices, factored without forming it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from asym_analysis.adapters.dialects.factors import whole
from asym_analysis.adapters.dialects.tucker import fold_core

__all__ = ["KroneckerPair"]


@dataclass(frozen=True)
class KroneckerPair:
    """w1 (x) w2, either of them given whole or as a product: kron(B1 A1, B2 A2) = kron(B1, B2) · kron(A1, A2).

    The rank is the product of the two, or the smaller side of the update where that is less; a matrix that is given
    whole counts with its smaller side. Nothing is approximated (Yeh et al., 2024, LyCORIS, section 3). A convolution's
    w2 (d_out, channels, height, width) is taken as the matrix (d_out, channels x height x width), and a Tucker core t2
    is folded into w2_b first.

    PEFT gives a one-dimensional convolution a whole three-dimensional w2 and reshapes what `torch.kron` makes of it,
    which is no Kronecker product of matrices; that update is kept as it is.

    Examples
    --------
    >>> A, B = KroneckerPair()({"w1": torch.tensor([[2.0, 3.0]]), "w2_a": torch.ones(4, 1), "w2_b": torch.ones(1, 5)})
    >>> A.shape, B.shape, (B @ A)[0].tolist()
    (torch.Size([1, 10]), torch.Size([4, 1]), [2.0, 2.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0, 3.0, 3.0])
    """

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (A, B)."""
        w2 = tensors.get("w2")
        A1, B1 = whole(tensors["w1"]) if "w1" in tensors else (tensors["w1_b"], tensors["w1_a"])
        if w2 is not None and w2.ndim == 3:
            return whole(torch.einsum("lm,kns->klnms", B1 @ A1, w2).reshape(B1.shape[0] * w2.shape[0], -1))
        if w2 is not None:
            A2, B2 = whole(w2.flatten(1))
        elif "t2" in tensors:
            A2, B2 = fold_core(tensors["t2"], tensors["w2_b"]), tensors["w2_a"].mT
        else:
            A2, B2 = tensors["w2_b"], tensors["w2_a"]
        if A1.shape[0] * A2.shape[0] > min(B1.shape[0] * B2.shape[0], A1.shape[1] * A2.shape[1]):
            return whole(_kron(B1 @ A1, B2 @ A2))
        return _kron(A1, A2), _kron(B1, B2)


def _kron(left: Tensor, right: Tensor) -> Tensor:
    # Not torch.kron, which fails on a transposed matrix of one row or column.
    product = torch.einsum("ij,kl->ikjl", left, right)
    return product.reshape(left.shape[0] * right.shape[0], -1)
