"""Pairs of two matrices: plain, with a diagonal between them, normalized, or reading means of inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from asym_analysis.lazy_torch import Tensor, torch

__all__ = [
    "DiagonalPair",
    "InnerPair",
    "NormalizedPair",
    "Pair",
    "PooledPair",
    "RoutedPair",
    "TiledPair",
    "whole",
]


@dataclass(frozen=True)
class Pair:
    """The plain pair: A of shape (rank, d_in, ...), B of shape (d_out, rank, 1, ...); or either of them transposed.

    Examples
    --------
    >>> A, B = Pair(a_transposed=True, b_transposed=True)({"A": torch.ones(3, 1), "B": torch.ones(1, 2)})
    >>> A.shape, B.shape
    (torch.Size([1, 3]), torch.Size([2, 1]))
    """

    a_transposed: bool = False
    b_transposed: bool = False

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (A, B)."""
        A, B = tensors["A"], tensors["B"]
        return A.mT if self.a_transposed else A.flatten(1), B.mT if self.b_transposed else B.flatten(1)

    def shapes(self, A: tuple[int, ...], B: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of the factors that matrices of these shapes give."""
        return A[::-1] if self.a_transposed else A, B[::-1] if self.b_transposed else B


@dataclass(frozen=True)
class DiagonalPair:
    """B · diag(E) · A, the diagonal taken into A; or B · E · A, where E is a matrix.

    AdaLoRA (Zhang et al., 2023, equation 3) trains E as singular values and zeroes those that it prunes; the code of
    Zhu et al. (2024) has a matrix E.

    Examples
    --------
    >>> import torch
    >>> A, B = DiagonalPair()({"A": torch.ones(2, 3), "E": torch.tensor([[2.0], [0.0]]), "B": torch.ones(1, 2)})
    >>> A.tolist()
    [[2.0, 2.0, 2.0], [0.0, 0.0, 0.0]]
    """

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (diag(E) · A, B), or (E · A, B)."""
        A, E = tensors["A"].flatten(1), tensors["E"]
        middle = E @ A if E.shape == (A.shape[0], A.shape[0]) else E.reshape(A.shape[0], 1) * A
        return middle, tensors["B"].flatten(1)


@dataclass(frozen=True)
class InnerPair:
    """B · R · A with a trained matrix R (rank, rank) between frozen factors, taken into A: LoRA-XS.

    Bałazy et al. (2024). Parts: A (rank, d_in), R, B (d_out, rank).

    Examples
    --------
    >>> A, B = InnerPair()({"A": torch.ones(1, 3), "R": torch.tensor([[2.0]]), "B": torch.ones(2, 1)})
    >>> A.tolist()
    [[2.0, 2.0, 2.0]]
    """

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (R · A, B)."""
        return tensors["R"] @ tensors["A"].flatten(1), tensors["B"].flatten(1)


@dataclass(frozen=True)
class RoutedPair:
    """Lily with a single B, whose router then always chooses it: A (rank, d_in), B (rank, d_out).

    Examples
    --------
    >>> A, B = RoutedPair()({"A": torch.ones(1, 3), "B": torch.ones(1, 2)})
    >>> A.shape, B.shape
    (torch.Size([1, 3]), torch.Size([2, 1]))
    """

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (A, B^T)."""
        return tensors["A"], tensors["B"].mT


@dataclass(frozen=True)
class TiledPair:
    """MiSS: one block (rank, d_out / copies) for all inputs, of which input j reads row j modulo the rank.

    A is the identity repeated over the inputs (Kang and Yin, 2025, and PEFT's `MissLinear`).

    Examples
    --------
    >>> A, B = TiledPair(d_in=3)({"block": torch.tensor([[1.0], [5.0]])})
    >>> (B @ A).tolist()
    [[1.0, 5.0, 1.0]]
    """

    d_in: int
    copies: int = 1

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (A, B)."""
        block = tensors["block"]
        rank = block.shape[0]
        eye = torch.eye(rank, dtype=block.dtype, device=block.device)
        return eye.repeat(1, -(-self.d_in // rank))[:, : self.d_in], block.repeat(1, self.copies).mT


@dataclass(frozen=True)
class NormalizedPair:
    """B · diag(strength / (rank ||A_i|| ||B_i||)) · A · diag(norms), taken into A.

    Bini, Girrbach and Akata (2025), equation 4. `norms` are those of the base weight's columns, which PEFT saves.
    Parts: A (rank, d_in), B (d_out, rank), strength (1), norms (d_in).

    Examples
    --------
    >>> import torch
    >>> parts = {"A": torch.tensor([[3.0, 4.0]]), "B": torch.tensor([[2.0]]), "strength": torch.tensor([5.0])}
    >>> A, B = NormalizedPair()(parts | {"norms": torch.ones(2)})
    >>> (B @ A).tolist()
    [[3.0, 4.0]]
    """

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (A with all factors of scale, B)."""
        A, B = tensors["A"], tensors["B"]
        norms_of_A, norms_of_B = A.norm(dim=1).clamp(min=1e-4), B.norm(dim=0).clamp(min=1e-4)
        diagonal = tensors["strength"].reshape(1) / A.shape[0] / (norms_of_A * norms_of_B)
        return diagonal[:, None] * A * tensors["norms"], B


@dataclass(frozen=True)
class PooledPair:
    """A pair whose A (rank, d_in / group) reads the mean of each group of inputs, times the number of groups.

    As a matrix on the inputs themselves, each column of A is repeated over its group and divided by the group's size
    (Xu et al., 2024, section 3.3; PEFT's `QALoraLinearVariant`).

    Examples
    --------
    >>> import torch
    >>> A, B = PooledPair(group=2)({"A": torch.tensor([[1.0, 3.0]]), "B": torch.ones(1, 1)})
    >>> A.tolist()
    [[1.0, 1.0, 3.0, 3.0]]
    """

    group: int

    def __call__(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (A on the inputs themselves, B)."""
        A = tensors["A"]
        return A.repeat_interleave(self.group, dim=1) * (A.shape[1] / self.group), tensors["B"]


def whole(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """(A, B) of a matrix that is given whole: one of them is the identity on its smaller side.

    Examples
    --------
    >>> A, B = whole(torch.ones(2, 5))
    >>> A.shape, B.tolist()
    (torch.Size([2, 5]), [[1.0, 0.0], [0.0, 1.0]])
    """
    rows, columns = matrix.shape
    eye = torch.eye(min(rows, columns), dtype=matrix.dtype, device=matrix.device)
    return (matrix, eye) if rows <= columns else (eye, matrix)
