"""Exact moments of quadratic forms under a uniformly random (Haar) subspace."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["captured_energy_moments", "expected_compression"]


def captured_energy_moments(
    gram_trace: float, gram_square_trace: float, dimension: int, rank: int
) -> tuple[float, float]:
    """Mean and variance of Tr[U^T K U], U uniform among orthonormal frames of shape (dimension, rank).

    Parameters
    ----------
    gram_trace, gram_square_trace
        Tr K and Tr K^2 of the symmetric matrix K.
    dimension, rank
        Of the space, and of the random subspace.

    Notes
    -----
    Theory notes, section 1.2 (e): mean (r/d) Tr K, variance 2 r (d-r) / (d (d-1) (d+2)) · [Tr K^2 - (Tr K)^2 / d].

    Examples
    --------
    >>> captured_energy_moments(4.0, 4.0, 4, 2)  # the identity: no variance
    (2.0, 0.0)
    """
    mean = rank / dimension * gram_trace
    if rank >= dimension:
        return mean, 0.0
    spread = max(0.0, gram_square_trace - gram_trace**2 / dimension)
    return mean, 2 * rank * (dimension - rank) / (dimension * (dimension - 1) * (dimension + 2)) * spread


def expected_compression(covariance: Float[Tensor, "d d"], rank: int) -> Float[Tensor, "d d"]:
    """E[P covariance P] for the projector P onto a uniformly random subspace of that rank.

    Against `delta`, its trace Tr[delta E[P covariance P] delta^T] is the mean of the lower bound that the paper's proof
    puts under the gain of freezing A.

    Notes
    -----
    Theory notes, section 1.2 (f): r / (d (d-1) (d+2)) · [(d (r+1) - 2) covariance + (d-r) Tr(covariance) I].

    Examples
    --------
    >>> expected_compression(torch.eye(3, dtype=torch.float64), 3).diagonal()
    tensor([1., 1., 1.], dtype=torch.float64)
    """
    d = len(covariance)
    if d == 1:
        return covariance.clone()
    identity = torch.eye(d, dtype=covariance.dtype, device=covariance.device)
    mixed = (d * (rank + 1) - 2) * covariance + (d - rank) * covariance.trace() * identity
    return rank / (d * (d - 1) * (d + 2)) * mixed
