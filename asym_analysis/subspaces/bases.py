"""Orthonormal bases of row spaces, with the numerical rank decided by a stated tolerance.

Subspaces are kept as rows throughout: `A` of an adapter as it stands, `B` transposed. A basis of a lower rank than its
shape is padded with zero rows, which leave every Gram matrix, and so every angle, as it is.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["numerical_rank", "orthonormal_coordinates", "orthonormal_rows", "rank_tolerance", "scaled"]

NEAR_ONE = 8  # powers of two by which the largest entry may differ from 1 without being scaled


def rank_tolerance(shape: tuple[int, int], dtype: torch.dtype) -> float:
    """Singular values at most this many times the largest count as zero: max(shape) times the dtype's epsilon.

    Examples
    --------
    >>> round(rank_tolerance((8, 1024), torch.float64) / 2.0**-52)
    1024
    """
    return max(shape) * torch.finfo(dtype).eps


def numerical_rank(singular_values: Float[Tensor, "*batch k"], tolerance: float) -> Int[Tensor, "*batch"]:
    """Number of singular values, in descending order, above `tolerance` times the largest; 0 for a zero matrix.

    Examples
    --------
    >>> numerical_rank(torch.tensor([[3.0, 1.0], [3.0, 1e-9], [0.0, 0.0]]), 1e-6).tolist()
    [2, 1, 0]
    """
    return (singular_values > tolerance * singular_values[..., :1]).sum(-1)


def scaled(matrices: Float[Tensor, "*batch rows columns"]) -> Float[Tensor, "*batch rows columns"]:
    """Matrices with largest entries near 1: each is multiplied by a power of two, which rounds nothing.

    Squares and fourth powers of entries neither overflow nor vanish then, in float32 too.

    Parameters
    ----------
    matrices
        Shape (..., rows, columns), float32 or float64.

    Returns
    -------
    Tensor
        The same where all largest entries are within 2^-8 and 2^8.

    Examples
    --------
    >>> scaled(torch.tensor([[[2.0**-100, 0.0]]])).tolist()
    [[[0.5, 0.0]]]
    """
    # Two passes, but no copy of the matrices as `abs` makes one.
    largest = torch.maximum(matrices.amax((-2, -1), keepdim=True), -matrices.amin((-2, -1), keepdim=True))
    power = torch.frexp(largest).exponent
    if bool((power.abs() <= NEAR_ONE).all()):
        return matrices
    # Two steps, for 2^-power itself may be out of range.
    half = torch.div(power, 2, rounding_mode="floor")
    return torch.ldexp(torch.ldexp(matrices, -half), half - power)


def orthonormal_rows(
    rows: Float[Tensor, "n rank d"], tolerance: float | None = None
) -> tuple[Float[Tensor, "n k d"], Int[Tensor, "n"]]:
    """Orthonormal bases of the row spaces of n matrices, and their numerical ranks.

    Householder QR where the rows are certainly independent, a singular value decomposition where they may not be.

    Parameters
    ----------
    rows
        n matrices whose rows span the subspaces.
    tolerance
        Relative to the largest singular value; `rank_tolerance` by default.

    Returns
    -------
    basis, rank
        k = min(rank, d) rows a matrix; the rows from the numerical rank on are zero.

    Examples
    --------
    >>> basis, rank = orthonormal_rows(torch.tensor([[[3.0, 0.0, 4.0], [6.0, 0.0, 8.0]]]))
    >>> rank.tolist(), basis[0].abs().tolist()
    ([1], [[0.6, 0.0, 0.8], [0.0, 0.0, 0.0]])
    """
    basis, rank, _ = orthonormal_coordinates(rows, tolerance)
    return basis, rank


def orthonormal_coordinates(
    rows: Float[Tensor, "n rank d"], tolerance: float | None = None
) -> tuple[Float[Tensor, "n k d"], Int[Tensor, "n"], Float[Tensor, "n rank k"]]:
    """Orthonormal bases as `orthonormal_rows` gives them, and the matrices' coordinates in them.

    Parameters
    ----------
    rows
        n matrices whose rows span the subspaces.
    tolerance
        Relative to the largest singular value; `rank_tolerance` by default.

    Returns
    -------
    basis, rank, coordinates
        coordinates @ basis is rows, up to directions within the tolerance.

    Examples
    --------
    >>> basis, _, coordinates = orthonormal_coordinates(torch.tensor([[[3.0, 0.0, 4.0], [0.0, 1.0, 0.0]]]))
    >>> (coordinates @ basis).round(decimals=5).abs().tolist()
    [[[3.0, 0.0, 4.0], [0.0, 1.0, 0.0]]]
    """
    if tolerance is None:
        tolerance = rank_tolerance((rows.shape[-2], rows.shape[-1]), rows.dtype)
    q, upper = torch.linalg.qr(rows.mT)
    basis, coordinates = q.mT.contiguous(), upper.mT
    rank = torch.full(rows.shape[:1], basis.shape[1], dtype=torch.int64, device=rows.device)
    doubtful = _perhaps_deficient(upper, tolerance).nonzero()[:, 0]
    if doubtful.numel():
        _, singular, vh = torch.linalg.svd(rows[doubtful], full_matrices=False)
        rank[doubtful] = numerical_rank(singular, tolerance)
        kept = torch.arange(basis.shape[1], device=rows.device) < rank[doubtful][:, None]
        basis[doubtful] = vh * kept[..., None]
        coordinates = coordinates.clone()
        coordinates[doubtful] = rows[doubtful] @ basis[doubtful].mT
    return basis, rank, coordinates


def _perhaps_deficient(upper: Tensor, tolerance: float) -> Tensor:
    """False only where 1/||R^-1||_F, a lower bound of the least singular value, is safely above the tolerance."""
    square = upper[..., : upper.shape[-2]]
    if square.shape != upper.shape:  # more rows than dimensions: dependent for certain, but perhaps of full rank d
        return torch.ones(upper.shape[:-2], dtype=torch.bool, device=upper.device)
    singular = square.diagonal(dim1=-2, dim2=-1) == 0
    safe = torch.where(singular[..., None].any(-2, keepdim=True), torch.eye(square.shape[-1]).to(square), square)
    inverse = torch.linalg.solve_triangular(safe, torch.eye(square.shape[-1]).to(square).expand_as(square), upper=True)
    least = 1 / torch.linalg.matrix_norm(inverse)
    doubtful = ~(least > 4 * tolerance * torch.linalg.matrix_norm(square))
    return doubtful | singular.any(-1)
