"""Updates that are formed from the base weight: they have no smaller factors than the update itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from asym_analysis.adapters.factorizations.pairs import whole

__all__ = ["BlockAffine", "GatedSum", "HadamardOfBase", "SparsePair"]


@dataclass(frozen=True)
class GatedSum:
    """GLoRA's W0 o A + B, where A and B are low-rank matrices, columns or numbers.

    Parts: W0 (d_out, d_in), and for A and B each either ``A.Xd`` (d_out, rank) and ``A.Xu`` (rank, d_in), or ``A.X``
    of shape (d_out, 1) or (1,) (Chavan et al., 2023).

    Examples
    --------
    >>> import torch
    >>> parts = {"W0": torch.tensor([[1.0, 2.0]]), "A.X": torch.tensor([3.0]), "B.X": torch.tensor([10.0])}
    >>> A, B = GatedSum()(parts)
    >>> (B @ A).tolist()
    [[13.0, 16.0]]
    """

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (A, B), one of which is the identity."""
        W0 = tensors["W0"]
        return whole(W0 * _path(tensors, "A") + _path(tensors, "B").expand_as(W0))


@dataclass(frozen=True)
class HadamardOfBase:
    """HiRA's W0 o (B·A) (Huang et al., 2025). Parts: W0 (d_out, d_in), A (rank, d_in), B (d_out, rank).

    Examples
    --------
    >>> import torch
    >>> A, B = HadamardOfBase()({"W0": torch.tensor([[2.0, 3.0]]), "A": torch.ones(1, 2), "B": torch.ones(1, 1)})
    >>> (B @ A).tolist()
    [[2.0, 3.0]]
    """

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (A, B), one of which is the identity."""
        product = tensors["B"].flatten(1) @ tensors["A"].flatten(1)
        if product.shape != tensors["W0"].shape:
            raise ValueError(f"a base weight of shape {tuple(tensors['W0'].shape)} for {tuple(product.shape)}")
        return whole(tensors["W0"] * product)


@dataclass(frozen=True)
class BlockAffine:
    """MiSS's "bat": each r x r block w of W0 changes by (w + I)·b, b being that of its row of blocks.

    Parts: W0 (d_out, d_in), block (d_out / r, r, r); sides of W0 are multiples of r (Kang and Yin, 2025, and
    PEFT's `MissLinear`).

    Examples
    --------
    >>> import torch
    >>> A, B = BlockAffine()({"W0": torch.tensor([[1.0, 2.0]]), "block": torch.tensor([[[10.0]]])})
    >>> (B @ A).tolist()
    [[20.0, 30.0]]
    """

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (A, B), one of which is the identity."""
        W0, block = tensors["W0"], tensors["block"]
        rows, r, _ = block.shape
        blocks = W0.reshape(rows, r, -1, r).permute(2, 0, 1, 3)
        return whole((blocks @ block + block).permute(1, 2, 0, 3).reshape(W0.shape))


@dataclass(frozen=True)
class SparsePair:
    """Super-Tuning's Supra: some entries of the weight, and scale times a low-rank pair.

    Parts: values (n), indices (n) into the weight read row by row, A (rank, d_in), B (d_out, rank) (PEFT's
    `SupertuningLayer`).

    Examples
    --------
    >>> import torch
    >>> parts = {"values": torch.tensor([5.0]), "indices": torch.tensor([1])}
    >>> A, B = SparsePair(scale=2.0)(parts | {"A": torch.ones(1, 2), "B": torch.ones(1, 1)})
    >>> (B @ A).tolist()
    [[2.0, 7.0]]
    """

    scale: float

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (A, B), one of which is the identity."""
        dense = self.scale * (tensors["B"] @ tensors["A"])
        flat = dense.reshape(-1).scatter_add(0, tensors["indices"].long(), tensors["values"])
        return whole(flat.reshape(dense.shape))


def _path(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if f"{name}.X" in tensors:
        return tensors[f"{name}.X"]
    return tensors[f"{name}.Xd"] @ tensors[f"{name}.Xu"]
