"""Do inputs look like independent Gaussian ones of a problem's covariance? The finite-sample formulas need that."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from asym_analysis.least_squares.problem import LeastSquaresProblem

__all__ = ["objection_to"]

DEVIATIONS = 4.0  # of a statistic under Gaussian inputs; two-sided p = 6e-5


def objection_to(
    inputs: Float[Tensor, "samples d_in"] | Float[np.ndarray, "samples d_in"], problem: LeastSquaresProblem
) -> str:
    """Say what speaks against independent Gaussian inputs of a problem's covariance.

    Parameters
    ----------
    inputs
        The samples' inputs, shape (samples, d_in).
    problem
        Whose covariance they should have.

    Returns
    -------
    str
        Empty where nothing does: repeated samples, values outside the covariance's range, lengths that differ too much
        or too little among samples (kurtosis as Mardia's [1]_, with the known covariance), neighbours that are alike.

    Raises
    ------
    ValueError
        If the shape does not fit, or a value is not finite.

    References
    ----------
    .. [1] K. V. Mardia, Measures of multivariate skewness and kurtosis with applications, Biometrika 57 (1970).

    Examples
    --------
    >>> problem = LeastSquaresProblem(torch.eye(2), torch.ones(2))
    >>> objection_to(torch.randn(50, 2, generator=torch.Generator().manual_seed(0)), problem)
    ''
    >>> objection_to(torch.ones(50, 2), problem)
    'samples repeat'
    """
    given = torch.as_tensor(inputs).to(problem.delta)
    if given.ndim != 2 or given.shape[1] != problem.d_in or not given.isfinite().all():
        raise ValueError(f"inputs have shape {tuple(given.shape)}; give finite numbers (samples, {problem.d_in})")
    if len(torch.unique(given, dim=0)) < len(given):
        return "samples repeat"
    turned = given @ problem.eigenvectors
    support = problem.eigenvalues > 0
    scale = float(problem.eigenvalues.max().clamp_min(1e-300)) ** 0.5
    if float(turned[:, ~support].abs().sum()) > 1e-6 * scale * given.numel():
        return "inputs lie outside the range of the covariance"
    whitened = turned[:, support] / problem.eigenvalues[support].sqrt()
    count, size = whitened.shape
    squares = whitened.square().sum(1)
    length = (float(squares.mean()) / size - 1) / math.sqrt(2 / (size * count))
    if abs(length) > DEVIATIONS:
        return "inputs have another covariance"
    kurtosis = (float(squares.square().mean()) - size * (size + 2)) / math.sqrt(
        8 * size * (size + 2) * (size + 3) / count
    )
    entries = (float((whitened**4).mean()) - 3) / math.sqrt(96 / (count * size))
    if max(abs(kurtosis), abs(entries)) > DEVIATIONS:
        return "inputs are not Gaussian: their fourth moment differs"
    if count > 2:
        alike = float((whitened[1:] * whitened[:-1]).sum()) / math.sqrt((count - 1) * size)
        if abs(alike) > DEVIATIONS:
            return "neighbouring samples are alike"
    return ""
