"""Principal angles of independent random subspaces, drawn so that similar pairs are common, with weights."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float
from scipy import special

from asym_analysis.chance.blocks import SEED, bartlett, gram_schmidt, odds_ratio, sample_count

__all__ = ["random_cosines"]

REPULSIONS = (0, 1, 3, 8)  # extra dimensions of the larger subspace: they push the smallest cosines away from 0
LEVELS = (1e-1, 1e-3, 1e-5)  # probabilities of the overlaps that the tilted angles are typical of
UNTILTED = 0.35  # share of the angles that are drawn as they are
STEP = 1e-2  # between the logarithms of the probabilities of a single angle


@lru_cache(maxsize=64)
def random_cosines(
    p: int, q: int, d: int, most: int = 2**14
) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, "n"], bool]:
    """Cosines of the principal angles of independent random subspaces of R^d, with weights.

    Parameters
    ----------
    p, q
        Dimensions of the two subspaces, each at most d.
    d
        Dimension of the space.
    most
        Number of draws, at most.

    Returns
    -------
    tuple
        Cosines of shape (n, min(p, q)), descending, float64; weights of mean 1, as in
        `asym_analysis.chance.blocks.random_blocks`; and True where they are no draws but the exact quantiles of the one
        angle that is free.

    Notes
    -----
    Subspaces that must meet do so in p + q - d directions; the other angles are those of their complements. With x =
    cos^2 of the k angles the density is prod x^((|p-q|-1)/2) (1-x)^((d-p-q-1)/2) prod |x_i - x_j|, whose constant is an
    integral of Selberg's (Forrester 2010, Log-gases and random matrices, chapter 4). So the weight of angles that were
    drawn with another |p - q| and d is known exactly.

    Examples
    --------
    >>> cosines, weights, exact = random_cosines(2, 2, 3)  # two planes of R^3 meet in a line
    >>> exact, bool(cosines[:, 0].min() == 1), bool(abs((cosines[:, 1] * weights).mean() - 0.5) < 1e-3)
    (True, True, True)
    """
    meeting = max(0, p + q - d)
    larger, k = max(p, q) if not meeting else d - min(p, q), min(p, q) - meeting
    exact = k == 1
    if k == 0:
        free, weights = np.empty((100, 0)), np.ones(100)
    elif exact:
        free, weights = _quantiles(larger, d)
    else:
        free, weights = _draws(larger, k, d, most)
    cosines = np.concatenate([np.ones((len(free), meeting)), free], axis=1)
    cosines.flags.writeable = False
    weights.flags.writeable = False
    return cosines, weights, exact or k == 0


def _quantiles(larger: int, d: int) -> tuple[Float[np.ndarray, "n 1"], Float[np.ndarray, "n"]]:
    """Of the cosine with a line: equal steps in the logarithm of the probability of more, and fine ones near 1."""
    ends = np.concatenate([[0.0], np.exp(np.arange(np.log(1e-9), np.log(0.01), STEP)), np.linspace(0.01, 1, 2000)])
    middle, widths = (ends[1:] + ends[:-1]) / 2, np.diff(ends)
    squares = special.betainccinv(larger / 2, (d - larger) / 2, middle)
    return np.sqrt(squares)[:, None], widths * len(widths)


def _draws(larger: int, k: int, d: int, most: int) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, "n"]]:
    ensembles = _ensembles(larger, k, d)
    count = min(sample_count(larger, k), most)
    each = int(count * (1 - UNTILTED) / (len(ensembles) - 1)) if len(ensembles) > 1 else 0
    shares = [count - each * (len(ensembles) - 1)] + [each] * (len(ensembles) - 1)
    generator = np.random.default_rng([SEED, larger, k, d, 2])
    parts = []
    for share, (extra, size) in zip(shares, ensembles, strict=True):
        known = generator.standard_normal((share, k, larger + extra))
        rows = np.concatenate([known, bartlett(generator, share, k, size - larger - extra)], axis=2)
        parts.append(np.linalg.svd(gram_schmidt(rows)[:, : larger + extra], compute_uv=False))
    cosines = np.clip(np.concatenate(parts)[generator.permutation(count)], 1e-150, 1 - 1e-16)
    near, far = 2 * np.log(cosines).sum(1), np.log1p(-(cosines**2)).sum(1)
    density = np.zeros(count)
    for share, (extra, size) in zip(shares, ensembles, strict=True):
        constant = _selberg(larger, k, d) - _selberg(larger + extra, k, size)
        density += share / count * np.exp(constant + extra / 2 * near + (size - extra - d) / 2 * far)
    return cosines, 1 / density


def _ensembles(larger: int, k: int, d: int) -> list[tuple[int, float | int]]:
    """Extra dimensions of the larger subspace, and the dimension of the space: none and d first."""
    found: list[tuple[int, float | int]] = [(0, d)]
    room = d - larger - k + 1
    for step, level in enumerate(LEVELS, start=1):
        odds = odds_ratio(larger, k, d, level) * larger / (d - larger)
        for extra in REPULSIONS:
            size = (larger + extra) * (1 + 1 / odds)
            found.append((extra, max(float(size), larger + extra + k - 1 + room * 0.4**step)))
    return list(dict.fromkeys(found))


def _selberg(larger: int, k: int, d: float | int) -> float:
    """Logarithm of the integral of the density over k squared cosines."""
    a, b, j = (larger - k + 1) / 2, (d - larger - k + 1) / 2, np.arange(k)
    logs = special.gammaln(a + j / 2) + special.gammaln(b + j / 2) - special.gammaln(a + b + (k + j - 1) / 2)
    return float((logs + special.gammaln(1 + (j + 1) / 2) - special.gammaln(1.5)).sum())
