"""Input spectra, and updates aligned with them as wished: the ingredients of synthetic problems."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from asym_analysis.least_squares.problem import LeastSquaresProblem
from asym_analysis.vocabulary import finite, whole

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
    """All eigenvalues one.

    Parameters
    ----------
    d_in : int
        How many.

    Returns
    -------
    array
        Shape (d_in,), float64.

    Examples
    --------
    >>> isotropic(3).tolist()
    [1.0, 1.0, 1.0]
    """
    return np.ones(whole(d_in, "d_in", least=1))


def power_law(d_in: int, exponent: float | int) -> Float[np.ndarray, " d_in"]:
    """Eigenvalues i^-exponent, i = 1 .. d_in: roughly those of language and image features.

    Parameters
    ----------
    d_in, exponent : int or float
        How many eigenvalues, and how fast they fall.

    Returns
    -------
    array
        Shape (d_in,), float64.

    Examples
    --------
    >>> power_law(4, 1.0)
    array([1.        , 0.5       , 0.33333333, 0.25      ])
    """
    return np.arange(1, whole(d_in, "d_in", least=1) + 1, dtype=np.float64) ** -finite(exponent, "exponent")


def exponential(d_in: int, rate: float | int) -> Float[np.ndarray, " d_in"]:
    """Eigenvalues exp(-rate (i - 1)), i = 1 .. d_in.

    Parameters
    ----------
    d_in, rate : int or float
        How many eigenvalues, and how fast they fall.

    Returns
    -------
    array
        Shape (d_in,), float64.

    Examples
    --------
    >>> exponential(3, np.log(2)).round(6).tolist()
    [1.0, 0.5, 0.25]
    """
    return np.exp(-finite(rate, "rate") * np.arange(whole(d_in, "d_in", least=1)))


def spiked(d_in: int, spikes: int, height: float | int) -> Float[np.ndarray, " d_in"]:
    """The first `spikes` eigenvalues equal `height`, all others one.

    Parameters
    ----------
    d_in : int
        How many eigenvalues.
    spikes, height : int or float
        How many stand out, and their value, above 0.

    Returns
    -------
    array
        Shape (d_in,), float64.

    Examples
    --------
    >>> spiked(4, 1, 10.0).tolist()
    [10.0, 1.0, 1.0, 1.0]
    """
    order = np.arange(whole(d_in, "d_in", least=1))
    return np.where(order < whole(spikes, "spikes", least=0, most=d_in), finite(height, "height", above=0), 1.0)


def low_rank(d_in: int, rank: int) -> Float[np.ndarray, " d_in"]:
    """The first `rank` eigenvalues one, all others zero: inputs on a subspace.

    Parameters
    ----------
    d_in, rank : int
        How many eigenvalues, and how many of them are one.

    Returns
    -------
    array
        Shape (d_in,), float64.

    Examples
    --------
    >>> low_rank(4, 2).tolist()
    [1.0, 1.0, 0.0, 0.0]
    """
    order = np.arange(whole(d_in, "d_in", least=1))
    return np.where(order < whole(rank, "rank", least=1, most=d_in), 1.0, 0.0)


def covariance_from_data(inputs: Float[np.ndarray, "samples d_in"]) -> Float[np.ndarray, "d_in d_in"]:
    """Covariance of measured inputs about their mean (divided by the number of samples).

    Parameters
    ----------
    inputs : float array of shape (samples, d_in)
        Shape (samples, d_in).

    Returns
    -------
    array
        Shape (d_in, d_in).

    Raises
    ------
    ValueError
        Fewer than two samples, or values that are not finite.

    Examples
    --------
    >>> covariance_from_data(np.array([[1.0, 0.0], [-1.0, 0.0]])).tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """
    if len(inputs) < 2:
        raise ValueError(f"{len(inputs)} samples give no covariance; give at least two")
    if not np.isfinite(inputs).all():
        raise ValueError("inputs holds NaN or infinity")
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
    spectrum : float array of shape (d_in,)
        Eigenvalues of the input covariance, shape (d_in,).
    d_out : int
        Number of outputs.
    alignment : float or int, default 1.0
        1 is an update that knows nothing of the inputs (i.i.d. entries); above 1 it leans towards directions of high
        variance; 0 is equal energy in each; below 0 it hides where the inputs vary least.
    delta_rank : int, optional
        Rank of the update; full when omitted.
    noise_variance, seed : float or int, optional
        Of the outputs; and of the random directions of the update and of the input principal components.

    Returns
    -------
    LeastSquaresProblem
        Its signal is one.

    Raises
    ------
    ValueError
        The spectrum is not a vector of finite numbers of at least 0, one of them positive; or a number is out of range.

    References
    ----------
    docs/theory.md, section 6.7 (axes a and b).

    Examples
    --------
    >>> problem = synthetic_problem(power_law(64, 1.0), 32, alignment=0.0)
    >>> bool(problem.signal_energy.std() < 1e-12), round(problem.signal, 12)
    (True, 1.0)
    """
    _check_spectrum(spectrum)
    energy = np.zeros(len(spectrum))
    support = spectrum > 0
    energy[support] = spectrum[support] ** finite(alignment, "alignment")
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
    spectrum : float array of shape (d_in,)
        Eigenvalues of the input covariance, shape (d_in,).
    energy : array
        The loss that lies in each input principal component, shape (d_in,); where the spectrum is zero it is zero.
    d_out, delta_rank, noise_variance, seed : int or float, optional
        As in `synthetic_problem`.

    Returns
    -------
    LeastSquaresProblem
        With these eigenvalues and energies.

    Raises
    ------
    ValueError
        An energy is negative, or lies where the inputs do not vary; or a number is out of range.

    Examples
    --------
    >>> problem = problem_from_energy(np.array([4.0, 1.0]), [0.0, 3.0], d_out=2)
    >>> problem.signal_energy.numpy().round(12).tolist()
    [0.0, 3.0]
    """
    _check_spectrum(spectrum)
    wanted = np.asarray(energy, dtype=np.float64)
    if wanted.shape != spectrum.shape or not (wanted >= 0).all() or wanted[spectrum <= 0].any():
        raise ValueError("give one energy for each eigenvalue, none negative, zero where the eigenvalue is zero")
    rng = np.random.default_rng(whole(seed, "seed", least=0))
    d_in, d_out = len(spectrum), whole(d_out, "d_out", least=1)
    if delta_rank is None:
        directions = rng.standard_normal((d_out, d_in))
    else:
        delta_rank = whole(delta_rank, "delta_rank", least=1)
        directions = rng.standard_normal((d_out, delta_rank)) @ rng.standard_normal((delta_rank, d_in))
    directions /= np.linalg.norm(directions, axis=0)
    roots = np.zeros(d_in)
    support = spectrum > 0
    roots[support] = np.sqrt(wanted[support] / spectrum[support])
    rotation, upper = np.linalg.qr(rng.standard_normal((d_in, d_in)))
    rotation *= np.sign(np.diag(upper))
    covariance = (rotation * spectrum) @ rotation.T
    return LeastSquaresProblem((directions * roots) @ rotation.T, (covariance + covariance.T) / 2, noise_variance)


def _check_spectrum(spectrum: Float[np.ndarray, " d_in"]) -> None:
    if spectrum.ndim != 1 or not np.isfinite(spectrum).all() or (spectrum < 0).any() or not (spectrum > 0).any():
        raise ValueError("the spectrum must be a vector of finite numbers, none negative and one of them positive")
