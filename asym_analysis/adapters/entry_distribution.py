"""How far a factor moved from a random start that nobody saved, told from the distribution of its entries.

Let F0 be the start and F = F0 + D. Where the entries of F0 are known to be uniform on [-b, b], as in PEFT's default
(b = 1/sqrt(d_in) for A), those of F are uniform ones blurred by the entries of D: mass appears beyond the sharp edge at
b, in proportion to |D| itself and not to its square, which shows a movement of a few percent that the variance of F
cannot show. The model has three unknowns: the relative movement m = |D|/|F0|; the correlation rho of D with F0,
<D, F0>/(|D||F0|), which stretches the uniform part to [-(1 + rho m) b, (1 + rho m) b], or shrinks it as weight decay
does; and how unevenly the rest of D is spread over the entries. Movement is given as its posterior mean and standard
deviation, with m uniform, rho normal around 0 with standard deviation 0.25, and eight shapes equally likely (the
variance's part is that of docs/theory.md, section 1.5: |A - A0|/|A0| ~ sqrt(3 d_in var(A) - 1) for rho = 0).

For starts without an edge (Gaussian, orthonormal) only the mean square is left:
mean(F^2)/mean(F0^2) - 1 = m^2 + 2 rho m. Small movements stay hidden there, and the answer is then an upper limit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy.interpolate import RectBivariateSpline
from scipy.special import logsumexp, ndtr
from torch import Tensor

__all__ = ["Movement", "identify_start", "infer_movement"]

CORRELATION_SPREAD = (
    0.25  # of rho before the entries are seen; benchmarks/drift_validation.csv has 0.16 over 608 modules
)
RESOLVED = 0.4  # largest standard error, relative to the estimate, that is still given; nor is less than 0.008
NEGLIGIBLE = 30.0  # nats below the best shape at which another is left out
CLEAR = 5.0  # nats by which all modules together must prefer a uniform start that no config records
PRUNED = 0.01  # share of exact zeros, which neither a random start nor training gives
CONTRADICTED = 0.01  # nats an entry by which noise alone may explain the entries better than a recorded uniform start

# Shapes that the entries of D may have, each of unit variance: (share of the entries, distance of their two centres
# from zero, standard deviation around them). Adam's first steps, nearly equal in size, give the first, which is
# expected of small movements alone, and later ones the second; gradients that live on few inputs give the last five.
FEW_STEPS = 0.2  # movement at which the first shape has lost half a nat
SHAPES = (
    ((1.0, math.sqrt(0.75), 0.5),),
    ((1.0, math.sqrt(0.5), math.sqrt(0.5)),),
    ((1.0, 0.0, 1.0),),
    *(
        ((share, 0.0, math.sqrt(energy / share)), (1 - share, 0.0, math.sqrt((1 - energy) / (1 - share))))
        for share, energy in ((0.5, 0.8), (0.2, 0.8), (0.1, 0.92), (0.05, 0.8), (0.02, 0.95))
    ),
)
MOVEMENTS = np.geomspace(0.004, 5.0, 64)
CORRELATIONS = np.linspace(-0.8, 0.8, 27)
FINE_MOVEMENTS = np.geomspace(0.004, 5.0, 1200)
FINE_CORRELATIONS = np.linspace(-0.8, 0.8, 161)
EDGES = np.unique(
    np.concatenate(
        [np.linspace(0, 0.8, 21), np.linspace(0.8, 1.2, 241), np.linspace(1.2, 2, 41), np.geomspace(2, 60, 30)]
    )
)
SCALES = np.geomspace(0.05, 20, 200)

_FROM_WEIGHTS = ("pissa", "olora", "mica", "loftq", "eva", "corda", "lora_ga")


@dataclass(frozen=True)
class Movement:
    """What the entries say of |F - F0|/|F0|.

    Attributes
    ----------
    value, std_error
        Posterior mean and standard deviation; NaN where the movement cannot be told.
    upper
        97.5 percent quantile, also where `value` is NaN for a movement too small to resolve; NaN without a scheme.
    correlation
        Posterior mean of the correlation of the movement with the start.
    note
        Why there is no estimate, or "".
    """

    value: float
    std_error: float
    upper: float
    correlation: float
    note: str


def identify_start(
    factors: Sequence[Float[Tensor, "_ _"]], which: Literal["A", "B"] = "A", recorded: Any = None
) -> tuple[str | None, str]:
    """Name the scheme from which the factors of an adapter's modules began, or say why it cannot be told.

    Parameters
    ----------
    factors
        A of every module as (rank, d_in), or B^T as (rank, d_out).
    which
        Which of the two it is; the scale of its start depends on it.
    recorded
        PEFT's `init_lora_weights`, where the config gives it. None: the entries of all modules together decide.

    Returns
    -------
    scheme, note
        One of "kaiming_uniform", "gaussian" (standard deviation 1/rank), "orthonormal", "peft_orthogonal",
        "standard_normal", and ""; or None and the reason.

    Examples
    --------
    >>> import torch
    >>> start = torch.randn(8, 256, generator=torch.Generator().manual_seed(0)) / 8
    >>> identify_start([start])
    ('gaussian', '')
    >>> identify_start([start], recorded="pissa_niter_4")[1]
    'pissa_niter_4 starts from the base weights or from data: give the initial factors'
    """
    entries = [factor.detach().double().numpy() for factor in factors]
    entries = [values for values in entries if values.any()]
    name = str(recorded).lower() if recorded is not None else ""
    if not entries:
        return None, "the factor is zero: it did not begin at random"
    if name.startswith(_FROM_WEIGHTS):
        return None, f"{name} starts from the base weights or from data: give the initial factors"
    if name == "false":
        return None, "init_lora_weights=False leaves the start to the user: give the initial factors"
    if name in ("gaussian", "orthogonal"):
        return {"gaussian": "gaussian", "orthogonal": "peft_orthogonal"}[name], ""
    if name == "true" and which == "B":
        return "standard_normal", ""  # of an embedding, the only B that PEFT's default draws
    zeros = sum(int((values == 0).sum()) for values in entries) / sum(values.size for values in entries)
    if zeros > PRUNED:
        return None, f"{zeros:.0%} of the entries are exactly zero: the factor was pruned, and holds no start"
    preference = sum(_edge_preference(values, _bound(values, which)) for values in entries)
    if name == "true":
        contradicted = preference < -CONTRADICTED * sum(values.size for values in entries)
        return (None, _CONTRADICTION) if contradicted else ("kaiming_uniform", "")
    if preference > CLEAR:
        return "kaiming_uniform", ""
    if all(_nearly_orthonormal(values) for values in entries):
        return "orthonormal", ""
    if all(_nearly_gaussian(values) for values in entries):
        return "gaussian", ""
    return None, "the entries fit no known scheme: give the initial factors"


def infer_movement(
    factor: Float[Tensor, "rank d"], scheme: str = "kaiming_uniform", which: Literal["A", "B"] = "A"
) -> Movement:
    """Infer the relative distance of a factor from its random start.

    Parameters
    ----------
    factor
        A as (rank, d_in) or B^T as (rank, d_out): the factor that began at random.
    scheme
        What `identify_start` named.
    which
        Which of the two factors it is.

    Returns
    -------
    Movement
        Its standard error is a posterior standard deviation under the model of this module's docstring.

    Examples
    --------
    >>> import torch
    >>> generator = torch.Generator().manual_seed(0)
    >>> start = (2 * torch.rand(8, 768, generator=generator) - 1) / 768**0.5
    >>> move = torch.randn(8, 768, generator=generator)
    >>> found = infer_movement(start + 0.1 * start.norm() * move / move.norm())
    >>> bool(abs(found.value - 0.1) < 3 * found.std_error), found.std_error < 0.02
    (True, True)
    """
    entries = factor.detach().double().numpy()
    rank, size = entries.shape
    if scheme == "kaiming_uniform":
        bound = _bound(entries, which)
        excess = 3 * float((entries**2).mean()) / bound**2 - 1
        # Squares of uniform entries vary by 0.8 of their mean squared. The bins know part of this already: it counts
        # for a quarter, enough to hold the length of a movement whose entries have none of the shapes.
        sampling = 2 * math.sqrt(0.8 / entries.size) * (1 + excess)
        return _movement(_from_edges(_bins(entries, bound)) + _square_misfit(excess, sampling))
    # Expected mean square of the start's entries, and how much the start's own mean square varies around it.
    expected, sampling = {
        "gaussian": (rank**-2.0, math.sqrt(2 / entries.size)),
        "standard_normal": (1.0, math.sqrt(2 / entries.size)),
        "orthonormal": (1 / size, 0.0),
        "peft_orthogonal": (1 / 200, math.sqrt(4 / entries.size)),
    }[scheme]
    excess = float((entries**2).mean()) / expected - 1
    return _movement(_log_prior() + _square_misfit(excess, sampling * (1 + abs(excess)) + 1e-3))


_CONTRADICTION = "the entries contradict the recorded uniform start: give the initial factors"


def _bound(entries: np.ndarray, which: str) -> float:
    """Kaiming's bound 1/sqrt(fan_in): A reads d_in numbers, B reads rank."""
    return 1 / math.sqrt(entries.shape[1] if which == "A" else entries.shape[0])


def _movement(log_density: Float[np.ndarray, "m rho"]) -> Movement:
    """Posterior mean, deviation and upper limit from a log density over FINE_MOVEMENTS x FINE_CORRELATIONS."""
    weight = np.exp(log_density - logsumexp(log_density))
    of_m, of_rho = weight.sum(1), weight.sum(0)
    mean = float(of_m @ FINE_MOVEMENTS)
    spread = math.sqrt(max(float(of_m @ (FINE_MOVEMENTS - mean) ** 2), 0.0))
    upper = float(FINE_MOVEMENTS[min(int(np.searchsorted(np.cumsum(of_m), 0.975)), len(of_m) - 1)])
    if upper > 0.98 * FINE_MOVEMENTS[-1]:
        return Movement(math.nan, math.nan, math.nan, math.nan, "moved too far: nothing of the start is left to see")
    lower = float(FINE_MOVEMENTS[int(np.searchsorted(np.cumsum(of_m), 0.025))])
    if spread > RESOLVED * mean or lower < 2 * FINE_MOVEMENTS[0]:
        return Movement(math.nan, math.nan, upper, math.nan, f"too small to resolve: at most {upper:.2g}")
    return Movement(mean, spread, upper, float(of_rho @ FINE_CORRELATIONS), "")


def _log_prior() -> Float[np.ndarray, "m rho"]:
    """Of m, uniform, so that a geometric grid weighs it by m, and of rho, normal."""
    return np.log(FINE_MOVEMENTS)[:, None] - 0.5 * (FINE_CORRELATIONS / CORRELATION_SPREAD)[None, :] ** 2


@lru_cache(maxsize=1)
def _log_probabilities() -> Float[np.ndarray, "shape m rho bins"]:
    """Log probability of each bin of |F|/b for every shape, movement and correlation of the coarse grids."""
    m, rho = MOVEMENTS[:, None], CORRELATIONS[None, :]
    half_width = np.maximum(1 + rho * m, 1e-3)[..., None]
    deviation = (m * np.sqrt((1 - rho**2) / 3))[..., None]
    return np.stack([_log_bins(shape, half_width, deviation) for shape in SHAPES])


def _log_bins(shape: Sequence[tuple[float, float, float]], half_width: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Log probabilities that |U + deviation N| falls in the bins, U uniform on [-half_width, half_width]."""
    below = sum(
        share * _blurred(sign * centre * deviation, half_width, scale * deviation) / 2
        for share, centre, scale in shape
        for sign in (-1, 1)
    )
    return np.log(np.maximum(np.diff(below, axis=-1, append=1.0), 1e-12))


def _blurred(centre: np.ndarray, half_width: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """P(|U + N| <= edge) for every edge, with U uniform on [-half_width, half_width] and N normal."""

    def integral(z: np.ndarray) -> np.ndarray:  # of the normal distribution function
        return z * ndtr(z) + np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)

    def below(edges: np.ndarray) -> np.ndarray:
        upper, lower = (edges - centre + half_width) / deviation, (edges - centre - half_width) / deviation
        return deviation / (2 * half_width) * (integral(upper) - integral(lower))

    return below(EDGES) - below(-EDGES)


def _bins(entries: np.ndarray, bound: float) -> np.ndarray:
    return np.histogram(np.abs(entries) / bound, np.append(EDGES, np.inf))[0].astype(float)


def _from_edges(counts: Float[np.ndarray, "bins"]) -> Float[np.ndarray, "m rho"]:
    """Log posterior density of a uniform start, from the bins alone."""
    likelihoods = _log_probabilities() @ counts
    best = likelihoods.max(axis=(1, 2))
    grids = []
    for index in np.flatnonzero(best > best.max() - NEGLIGIBLE):
        spline = RectBivariateSpline(np.log(MOVEMENTS), CORRELATIONS, likelihoods[index])
        grids.append(spline(np.log(FINE_MOVEMENTS), FINE_CORRELATIONS))
        if index == 0:
            grids[-1] -= 0.5 * (FINE_MOVEMENTS[:, None] / FEW_STEPS) ** 2
    return logsumexp(np.stack(grids), axis=0) - math.log(len(SHAPES)) + _log_prior()


def _edge_preference(entries: np.ndarray, bound: float) -> float:
    """Nats by which a blurred uniform distribution of the known width explains the entries better than noise alone.

    On the coarse grids, which may pass by the best fit of the uniform and so understate it, never overstate.
    """
    counts = _bins(entries, bound)
    prior = np.log(MOVEMENTS)[:, None] - 0.5 * (CORRELATIONS / CORRELATION_SPREAD) ** 2
    joint = _log_probabilities() @ counts + (prior - logsumexp(prior))
    return float(logsumexp(joint)) - math.log(len(SHAPES)) - _noise_evidence(counts)


def _noise_evidence(counts: np.ndarray) -> float:
    """Log evidence, on the same bins, of entries without a uniform part, of any scale, in the same shapes."""
    table = _log_noise() @ counts
    return float(logsumexp(table) - math.log(table.size))


@lru_cache(maxsize=1)
def _log_noise() -> Float[np.ndarray, "shape scale bins"]:
    # A uniform part far narrower than the noise leaves the noise alone.
    return np.stack([_log_bins(shape, np.asarray(1e-3), SCALES[:, None]) for shape in SHAPES])


def _square_misfit(excess: float, sampling: float) -> Float[np.ndarray, "m rho"]:
    """Log likelihood of mean(F^2)/E mean(F0^2) - 1 = m^2 + 2 rho m, whatever the shape; F0's own length varies."""
    m, rho = FINE_MOVEMENTS[:, None], FINE_CORRELATIONS[None, :]
    return -0.5 * ((excess - m**2 - 2 * rho * m) / sampling) ** 2


def _nearly_orthonormal(entries: np.ndarray) -> bool:
    """Independent rows have cosines of 1/sqrt(d); orthonormal ones keep smaller ones while they have hardly moved."""
    rank, size = entries.shape
    lengths = np.linalg.norm(entries, axis=1)
    crossed = (entries @ entries.T / np.outer(lengths, lengths))[np.triu_indices(rank, 1)]
    close = rank > 2 and math.sqrt((crossed**2).mean()) < 0.5 / math.sqrt(size)
    return close and abs(float((lengths**2).mean()) - 1) < 0.5


def _nearly_gaussian(entries: np.ndarray) -> bool:
    """No excess kurtosis, and nearly the mean square 1/rank^2: a larger movement would look like any other noise."""
    square = float((entries**2).mean())
    kurtosis = float((entries**4).mean()) / square**2 - 3
    excess = square * entries.shape[0] ** 2 - 1
    return abs(kurtosis) < 5 * math.sqrt(24 / entries.size) and abs(excess) < 0.3 + 5 * math.sqrt(2 / entries.size)
