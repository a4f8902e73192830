"""Polar factors (F F^T)^{-1/2} F of many factors at once.

Their rows are orthonormal: the few directions along which a factor grew count no more than those where it still is what
it was.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Bool, Float

from asym_analysis.lazy_torch import Tensor, torch

__all__ = ["inverse_root", "polar", "row_grams", "stacked"]

LEAST_ENERGY, MOST_ENERGY = 1e-20, 1e20  # squared norms that float32 holds with room to spare


def stacked(factors: Sequence[Float[Tensor, "_ d"]]) -> Float[Tensor, "n rank d"]:
    """The factors in one float32 array, padded with zero rows; transposed ones stay in their own order in memory."""
    if len({factor.shape for factor in factors}) == 1:
        if all(factor.mT.is_contiguous() for factor in factors):
            return torch.stack([factor.mT for factor in factors]).mT.float()
        return torch.stack(list(factors)).float()
    rows = torch.zeros(len(factors), max(len(factor) for factor in factors), factors[0].shape[1])
    for at, factor in enumerate(factors):
        rows[at, : len(factor)] = factor
    return rows


def grams(
    rows: Float[Tensor, "n rank d"],
) -> tuple[Float[Tensor, "n rank rank"], Float[Tensor, "n rank d"]]:
    """F F^T of each factor, and the factors, scaled where the squares of their entries would leave float32's range."""
    gram = rows @ rows.mT
    energy = gram.diagonal(dim1=1, dim2=2).sum(1)
    if bool(((energy > LEAST_ENERGY) & (energy < MOST_ENERGY)).all()):
        return gram, rows
    largest = rows.abs().amax((1, 2), keepdim=True)
    rows = rows / torch.where(largest > 0, largest, 1.0)
    return rows @ rows.mT, rows


def row_grams(factors: Sequence[Float[Tensor, "rank d"]]) -> Float[Tensor, "n rank rank"]:
    """F F^T of each of several factors of one shape, which are not copied together."""
    gram = torch.stack([factor @ factor.mT for factor in factors]).float()
    energy = gram.diagonal(dim1=1, dim2=2).sum(1)
    if bool(((energy > LEAST_ENERGY) & (energy < MOST_ENERGY)).all()):
        return gram
    return grams(stacked(factors))[0]


def polar(factors: Float[Tensor, "n rank d"]) -> tuple[Float[Tensor, "n rank d"], Bool[Tensor, "n"]]:
    """(F F^T)^{-1/2} F of each factor, where directions without length stay out; and which factors are zero."""
    gram, factors = grams(factors)
    return inverse_root(gram) @ factors, gram.diagonal(dim1=1, dim2=2).sum(1) == 0


def inverse_root(gram: Float[Tensor, "n rank rank"]) -> Float[Tensor, "n rank rank"]:
    """G^{-1/2} of each positive semidefinite matrix, computed in float64; directions without length give zero.

    Parameters
    ----------
    gram
        n matrices.

    Returns
    -------
    Tensor
        Same shape and dtype.

    Examples
    --------
    >>> inverse_root(torch.diag(torch.tensor([4.0, 0.0]))[None])[0].tolist()
    [[0.5, 0.0], [0.0, 0.0]]
    """
    values, vectors = torch.linalg.eigh(gram.double())
    kept = values > 1e-10 * values[:, -1:].clamp_min(torch.finfo(torch.float64).tiny)
    inverse = torch.where(kept, values.clamp_min(torch.finfo(torch.float64).tiny).rsqrt(), 0.0)
    return ((vectors * inverse[:, None, :]) @ vectors.mT).to(gram)
