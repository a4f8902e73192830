"""The information that a noisy least-squares fit carries about the outputs it was fitted to."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

__all__ = ["gaussian_channel_information"]


def gaussian_channel_information(
    features: Float[np.ndarray, "samples p"], output_variances: Float[np.ndarray, "outputs"], noise_scale: float | int
) -> float:
    """I(W; outputs | features) in nats, exactly, for least squares released with Gaussian noise.

    Parameters
    ----------
    features : float array of shape (samples, p)
        The regressors Z, shape (samples, p), of full column rank.
    output_variances : float array of shape (outputs,)
        Eigenvalues of the covariance over outputs of what the features leave unexplained, shape (outputs,); Gaussian.
    noise_scale : float or int
        Standard deviation tau of the noise added to every entry of W, the (outputs, p) coefficients.

    Returns
    -------
    float
        The sum over k of 1/2 ln det[I_p + (psi_k / tau^2) (Z^T Z)^-1].

    Raises
    ------
    ValueError
        If `noise_scale` is not positive, a variance is negative, or Z^T Z is singular.

    References
    ----------
    docs/theory.md, section 6.8.

    Examples
    --------
    >>> round(gaussian_channel_information(np.eye(2), np.ones(3), 1.0), 4)
    2.0794
    """
    if not (noise_scale > 0 and math.isfinite(noise_scale)):
        raise ValueError(f"noise_scale is {noise_scale}: without noise the information is infinite; give more than 0")
    if not (np.asarray(output_variances) >= 0).all():
        raise ValueError("output_variances holds a negative number or NaN; a variance is at least 0")
    if features.shape[0] < features.shape[1]:
        raise ValueError(f"{features.shape[0]} samples cannot determine {features.shape[1]} regressors")
    singular = np.linalg.svd(np.asarray(features, dtype=np.float64), compute_uv=False)
    if singular[-1] <= singular[0] * 1e-14:
        raise ValueError("the features are linearly dependent: least squares has no unique coefficients")
    ratios = np.asarray(output_variances)[:, None] / (noise_scale * singular[None, :]) ** 2
    return 0.5 * float(np.log1p(ratios).sum())
