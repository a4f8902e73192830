"""Input spectra, and updates aligned with them as wished: the ingredients of synthetic problems."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from asym_analysis.least_squares.problem import LeastSquaresProblem

__all__ = [
    "covariance_from_data",
    "exponential",
    "isotropic",
    "low_rank",
    "power_law",
    "problem_from_energy",
    "spiked",
    "synthetic_problem",
]


def isotropic(d_in: int) -> Float[np.ndarray, " d_in"]:
    """All eigenvalues one."""
    return np.ones(d_in)


def power_law(d_in: int, exponent: float | int) -> Float[np.ndarray, " d_in"]:
    """Eigenvalues i^-exponent, i = 1 .. d_in: what language and image features look like.

    Examples
    --------
    >>> power_law(4, 1.0)
    array([1.        , 0.5       , 0.33333333, 0.25      ])
    """
    return np.arange(1, d_in + 1, dtype=np.float64) ** -exponent


def exponential(d_in: int, rate: float | int) -> Float[np.ndarray, " d_in"]:
    """Eigenvalues exp(-rate (i - 1)), i = 1 .. d_in."""
    return np.exp(-rate * np.arange(d_in))


def spiked(d_in: int, spikes: int, height: float | int) -> Float[np.ndarray, " d_in"]:
    """The first `spikes` eigenvalues equal `height`, all others one."""
    return np.where(np.arange(d_in) < spikes, height, 1.0)


def low_rank(d_in: int, rank: int) -> Float[np.ndarray, " d_in"]:
    """The first `rank` eigenvalues one, all others zero: inputs on a subspace."""
    return np.where(np.arange(d_in) < rank, 1.0, 0.0)


def covariance_from_data(inputs: Float[np.ndarray, "samples d_in"]) -> Float[np.ndarray, "d_in d_in"]:
    """Covariance of measured inputs about their mean (divided by the number of samples).

    Raises
    ------
    ValueError
        Fewer than two samples.
    """
    if len(inputs) < 2:
        raise ValueError(f"{len(inputs)} samples give no covariance; give at least two")
    centred = inputs - inputs.mean(0)
    return centred.T @ centred / len(inputs)


def synthetic_problem(
    spectrum: Float[np.ndarray, " d_in"],
    d_out: int,
    *,
    alignment: float | int = 1.0,
    delta_rank: int | None = None,
    noise_variance: float | int = 0.0,
    seed: int = 0,
) -> LeastSquaresProblem:
    """A problem whose signal energy follows the spectrum to a power: m_i proportional to spectrum_i^alignment.

    Parameters
    ----------
    spectrum
        Eigenvalues of the input covariance, shape (d_in,).
    d_out
        Number of outputs.
    alignment
        1 is an update that knows nothing of the inputs (i.i.d. entries); above 1 it leans towards directions of high
        variance; 0 is equal energy in each; below 0 it hides where the inputs vary least.
    delta_rank
        Rank of the update; full when omitted.
    noise_variance, seed
        Of the outputs; and of the random directions of the update and of the input principal components.

    Notes
    -----
    The signal is normalized to one. Theory notes, section 6.7 (axes a and b).

    Examples
    --------
    >>> problem = synthetic_problem(power_law(64, 1.0), 32, alignment=0.0)
    >>> bool(problem.signal_energy.std() < 1e-12), round(problem.signal, 12)
    (True, 1.0)
    """
    energy = np.zeros_like(spectrum)
    support = spectrum > 0
    energy[support] = spectrum[support] ** alignment
    return problem_from_energy(
        spectrum, energy / energy.sum(), d_out, delta_rank=delta_rank, noise_variance=noise_variance, seed=seed
    )


def problem_from_energy(
    spectrum: Float[np.ndarray, " d_in"],
    energy: ArrayLike,
    d_out: int,
    *,
    delta_rank: int | None = None,
    noise_variance: float | int = 0.0,
    seed: int = 0,
) -> LeastSquaresProblem:
    """A problem with given signal energies m_i: random output directions, random input principal components.

    Parameters
    ----------
    spectrum
        Eigenvalues of the input covariance, shape (d_in,).
    energy
        The loss that lies in each input principal component, shape (d_in,); where the spectrum is zero it is zero.
    d_out, delta_rank, noise_variance, seed
        As in `synthetic_problem`.

    Raises
    ------
    ValueError
        An energy is negative, or lies where the inputs do not vary.
    """
    wanted = np.asarray(energy, dtype=np.float64)
    if wanted.shape != spectrum.shape or (wanted < 0).any() or wanted[spectrum <= 0].any():
        raise ValueError("give one energy for each eigenvalue, none negative, zero where the eigenvalue is zero")
    rng = np.random.default_rng(seed)
    d_in = len(spectrum)
    if delta_rank is None:
        directions = rng.standard_normal((d_out, d_in))
    else:
        directions = rng.standard_normal((d_out, delta_rank)) @ rng.standard_normal((delta_rank, d_in))
    directions /= np.linalg.norm(directions, axis=0)
    roots = np.zeros(d_in)
    support = spectrum > 0
    roots[support] = np.sqrt(wanted[support] / spectrum[support])
    rotation, upper = np.linalg.qr(rng.standard_normal((d_in, d_in)))
    rotation *= np.sign(np.diag(upper))
    covariance = (rotation * spectrum) @ rotation.T
    return LeastSquaresProblem((directions * roots) @ rotation.T, (covariance + covariance.T) / 2, noise_variance)
