"""Orthonormal bases of row spaces, with the numerical rank decided by a stated tolerance.

Subspaces are kept as rows throughout: `A` of an adapter as it stands, `B` transposed. A basis of a lower rank than its
shape is padded with zero rows, which leave every Gram matrix, and so every angle, as it is.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["numerical_rank", "orthonormal_coordinates", "orthonormal_rows", "rank_tolerance", "scaled"]

BENIGN = 16.0  # squared condition number up to which F F^T in float32 gives a basis as exact as QR does
LEAST_SQUARE = 1e-30  # of a singular value; smaller ones are beyond what float32 holds of F F^T
LEAST_ENERGY = 1e-15  # squared norm from which, up to its inverse, the rows need no scaling
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
    # One fast pass settles most: the largest entry lies between the norm and the root mean square.
    norm = torch.linalg.vector_norm(matrices, dim=(-2, -1))
    least = 2.0 ** -(NEAR_ONE + 1) * math.sqrt(matrices.shape[-2] * matrices.shape[-1])
    if bool(((norm >= least) & (norm < 2.0**NEAR_ONE)).all()):
        return matrices
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

    The basis of independent rows is their polar factor; see `orthonormal_coordinates`.

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
    rows: Float[Tensor, "n rank d"], tolerance: float | None = None, *, rescale: bool = False
) -> tuple[Float[Tensor, "n k d"], Int[Tensor, "n"], Float[Tensor, "n rank k"]]:
    """Orthonormal bases as `orthonormal_rows` gives them, and the matrices' coordinates in them.

    The basis of a matrix F of independent rows is its polar factor (F F^T)^{-1/2} F, so that the coordinates are the
    symmetric root of F F^T. In float32 it is computed from F F^T where that is well conditioned: as exact as by
    Householder QR there, and several times faster. Otherwise from QR.

    Parameters
    ----------
    rows
        n matrices whose rows span the subspaces.
    tolerance
        Relative to the largest singular value; `rank_tolerance` by default.
    rescale
        Multiply matrices by powers of two first, as `scaled` does, where squares of entries may leave the range; the
        coordinates are those of the multiplied matrices.

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
    if rows.dtype != torch.float32 or rows.shape[-2] > rows.shape[-1] or tolerance**2 * BENIGN > 1:
        return _by_qr(scaled(rows) if rescale else rows, tolerance)
    gram = (rows @ rows.mT).double()
    if rescale:
        energy = gram.diagonal(dim1=-2, dim2=-1).sum(-1)
        if not bool(((energy > LEAST_ENERGY) & (energy < 1 / LEAST_ENERGY)).all()):
            rows = scaled(rows)
            gram = (rows @ rows.mT).double()
    squares, vectors = torch.linalg.eigh(torch.where(gram.isfinite().all(-1).all(-1)[:, None, None], gram, 0.0))
    benign = (squares[:, -1] < BENIGN * squares[:, 0]) & (squares[:, 0] > LEAST_SQUARE)
    if not bool(benign.any()):
        return _by_qr(rows, tolerance)
    root = squares.clamp_min(LEAST_SQUARE).sqrt()[:, None, :]
    basis = ((vectors / root) @ vectors.mT).to(rows) @ rows
    coordinates = ((vectors * root) @ vectors.mT).to(rows)
    rank = torch.full(rows.shape[:1], rows.shape[-2], dtype=torch.int64, device=rows.device)
    if not bool(benign.all()):
        others = (~benign).nonzero()[:, 0]
        basis[others], rank[others], coordinates[others] = _by_qr(rows[others], tolerance)
    return basis, rank, coordinates


def _by_qr(rows: Tensor, tolerance: float) -> tuple[Tensor, Tensor, Tensor]:
    """The same by Householder QR and the singular values of its triangular factor, at any condition number."""
    q, upper = torch.linalg.qr(rows.mT)
    left, singular, right = torch.linalg.svd(upper.mT.double(), full_matrices=False)
    rank = numerical_rank(singular, tolerance)
    kept = torch.arange(singular.shape[-1], device=rows.device) < rank[:, None]
    # left @ right belongs to the polar factor; where the rank is lower, singular directions take its place.
    turned = torch.diag_embed(kept.to(left))
    if rows.shape[-2] <= rows.shape[-1]:
        full = (rank == rows.shape[-2])[:, None, None]
        turned = torch.where(full, left, turned)
    basis = (turned @ right).to(rows) @ q.mT
    return basis, rank, (left * singular[:, None, :] @ turned.mT).to(rows)
