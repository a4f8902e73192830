"""Corner blocks of random rotations: all that the similarity of two random low-rank matrices depends on.

Rotating two matrices together changes none of the similarities here. Of two random row spaces of R^d only the p x q
matrix of products of their orthonormal bases matters, and it is drawn without ever drawing the d coordinates: samples
in R^4096 cost what they do in R^20.

Similar pairs are rare, and p-values are about them. So most blocks are drawn from tilted distributions, under which
similar pairs are common, and each carries the weight that makes up for it (importance sampling with the balance
heuristic of Veach and Guibas 1995).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float
from scipy import optimize, special

__all__ = ["odds_ratio", "random_bases", "random_blocks", "sample_count"]

SEED = 20240226
MOST, LEAST = 2**16, 2**11
ENTRIES = 3 * 2**19  # of all sampled blocks of one shape
UNTILTED = 0.2  # share of the blocks that are drawn as they are
POWERS = ((0, 0), (1, 1), (3, 3), (2, 0), (0, 2))  # directions of the two subspaces are favoured as i^-power
LEVEL = 5e-4  # probability of the values that the tilted blocks are typical of

Tilt = tuple[Float[np.ndarray, "p"], int]


def sample_count(p: int, q: int) -> int:
    """Number of blocks that are drawn for ranks p and q: 65,536 for small ones, fewer for larger ones.

    Parameters
    ----------
    p, q
        Rows and columns of a block.

    Returns
    -------
    int
        From 2,048 to 65,536.

    Examples
    --------
    >>> sample_count(4, 4), sample_count(8, 8), sample_count(16, 16), sample_count(64, 64)
    (65536, 24576, 6144, 2048)
    """
    return min(max(ENTRIES // (p * q), LEAST if p * q > 1024 else 2 * LEAST), MOST)


def odds_ratio(p: float | int, q: float | int, d: int, level: float) -> float:
    """How many times as large as the mean the overlap of random subspaces is, in odds, with that probability.

    Parameters
    ----------
    p, q
        Dimensions of the subspaces, not necessarily whole.
    d
        Dimension of the space.
    level
        The probability.

    Returns
    -------
    float
        1 where the overlap is one point.

    Examples
    --------
    >>> round(odds_ratio(8, 8, 4096, 1e-3), 2)
    1.64
    """
    mean = p * q / d
    variance = 2 * mean * (d - p) * (d - q) / (d * (d - 1) * (d + 2))
    low, high = max(0.0, p + q - d), min(p, q)
    center = (mean - low) / (high - low)
    total = center * (1 - center) * (high - low) ** 2 / max(variance, 1e-300) - 1
    if not 0 < total < 1e12:
        return 1.0
    reached = min(float(special.betainccinv(center * total, (1 - center) * total, level)), 1 - 1e-9)
    return reached / (1 - reached) * (1 - center) / center


@lru_cache(maxsize=8)
def random_blocks(p: int, q: int, d: int) -> tuple[Float[np.ndarray, "n p q"], Float[np.ndarray, "n"]]:
    """Products U V^T of orthonormal bases of independent, uniformly distributed subspaces of R^d, with weights.

    Parameters
    ----------
    p, q
        Dimensions of the two subspaces, each at most d.
    d
        Dimension of the space.

    Returns
    -------
    tuple
        `sample_count(p, q)` blocks of shape (p, q), float64, and their weights, of mean 1: the mean of any function of
        the block is about that of the function times the weight. In random order, the same for the same arguments. Read
        only.

    Notes
    -----
    The first basis is fixed to the first p coordinates; the second has the rows of a Gaussian q x d matrix, made
    orthonormal one after another. Their d - p other coordinates are drawn up to a rotation (Bartlett 1933). Tilted
    blocks have the first p coordinates of the first m rows stretched, by 1 / sqrt(1 - t_i). With S = I - G_m^T diag(t)
    G_m, m x m, and delta_j the pivots of its Cholesky factorization, their density against untilted ones is prod_i (1 -
    t_i)^(m/2) prod_j delta_j^(-(d + m + 1 - 2j)/2): each row has an angular central Gaussian distribution (Chikuse
    1990) in the complement of those before.

    Examples
    --------
    >>> blocks, weights = random_blocks(2, 3, 10)
    >>> blocks.shape, bool(abs(((blocks**2).sum((1, 2)) * weights).mean() - 2 * 3 / 10) < 0.01)
    ((65536, 2, 3), True)
    """
    if q > p:
        transposed, weights = random_blocks(q, p, d)
        found = np.ascontiguousarray(transposed.transpose(0, 2, 1))
    else:
        frames, weights = _frames(p, q, d, sample_count(p, q))
        found = np.ascontiguousarray(frames[:, :p])
    found.flags.writeable = False
    weights.flags.writeable = False
    return found, weights


@lru_cache(maxsize=2)
def random_bases(
    p: int, q: int, d: int
) -> tuple[Float[np.ndarray, "n p d"], Float[np.ndarray, "n q d"], Float[np.ndarray, "n"]]:
    """Orthonormal bases of pairs of random subspaces in all d coordinates, with weights as in `random_blocks`.

    Parameters
    ----------
    p, q, d
        As there; p is at least q.

    Returns
    -------
    tuple
        Bases of the first and of the second subspaces, and the weights.

    Examples
    --------
    >>> first, second, weights = random_bases(3, 2, 8)
    >>> bool(abs(second @ second.transpose(0, 2, 1) - np.eye(2)).max() < 1e-12)
    True
    """
    count = min(sample_count(p, q), ENTRIES // (4 * d))
    frames, weights = _frames(p, q, d, count)
    generator = np.random.default_rng([SEED, p, q, d, 1])
    axes = np.linalg.qr(generator.standard_normal((count, d, frames.shape[1])))[0]
    return axes[:, :, :p].transpose(0, 2, 1), (axes @ frames).transpose(0, 2, 1), weights


def _frames(p: int, q: int, d: int, count: int) -> tuple[Float[np.ndarray, "n k q"], Float[np.ndarray, "n"]]:
    """Orthonormal bases of the second subspaces as columns, in coordinates of which the first p are the first one."""
    generator = np.random.default_rng([SEED, p, q, d])
    tilts = _tilts(p, q, d)
    each = int(count * (1 - UNTILTED) / len(tilts)) if tilts else 0
    shares = [count - each * len(tilts)] + [each] * len(tilts)
    known = generator.standard_normal((count, q, p))
    start = shares[0]
    for stretched, m in tilts:
        known[start : start + each, :m] /= np.sqrt(1 - stretched)
        start += each
    rows = np.concatenate([known, bartlett(generator, count, q, d - p)], axis=2)[generator.permutation(count)]
    frames = gram_schmidt(rows)
    density = np.full(count, shares[0] / count)
    for stretched, m in tilts:
        density += each / count * _density(frames[:, :p, :m], stretched, d)
    return frames, 1 / density


def gram_schmidt(rows: Float[np.ndarray, "n q k"]) -> Float[np.ndarray, "n k q"]:
    """The rows of each matrix as columns, made orthonormal one after another."""
    basis, upper = np.linalg.qr(rows.transpose(0, 2, 1))
    # Householder's choice of signs depends on the data; Gram-Schmidt's, a positive diagonal, does not.
    return basis * np.where(np.diagonal(upper, axis1=1, axis2=2) < 0, -1.0, 1.0)[:, None]


def bartlett(
    generator: np.random.Generator, count: int, rows: int, size: float | int
) -> Float[np.ndarray, "count rows k"]:
    """`rows` Gaussian vectors of R^size up to a common rotation; k = min(rows, size)."""
    if size <= rows and size == int(size):
        return generator.standard_normal((count, rows, int(size)))
    lower = np.tril(generator.standard_normal((count, rows, rows)), -1)
    freedom = size - np.arange(rows)
    lower[:, np.arange(rows), np.arange(rows)] = np.sqrt(generator.chisquare(freedom, (count, rows)))
    return lower


def _density(blocks: Float[np.ndarray, "n p m"], stretched: Float[np.ndarray, "p"], d: int) -> Float[np.ndarray, "n"]:
    """Of a tilted distribution of m columns against the uniform one."""
    m = blocks.shape[2]
    pivots = np.eye(m) - blocks.transpose(0, 2, 1) @ (stretched[:, None] * blocks)
    logs = np.log(pivots[:, 0]) if m == 1 else 2 * np.log(np.diagonal(np.linalg.cholesky(pivots), axis1=1, axis2=2))
    return np.exp(m / 2 * np.log1p(-stretched).sum() - logs @ (d + m - 1 - 2 * np.arange(m)) / 2)


def _tilts(p: int, q: int, d: int) -> list[Tilt]:
    """How much each of the p coordinates is stretched, and in how many of the q rows."""
    found: list[Tilt] = []
    for powers in POWERS[: 1 if max(p, q) == 1 else None]:
        first, second = (np.arange(1.0, k + 1) ** -float(power) for k, power in zip((p, q), powers, strict=True))
        effective = float(first.sum() ** 2 / (first**2).sum())
        m = max(1, round(float(second.sum() ** 2 / (second**2).sum())))
        ratio = odds_ratio(effective, m, d, LEVEL) if effective < d and m < d else 1.0
        if ratio > 1.01:
            found.append((_stretched(first, ratio), m))
    return found


def _stretched(favour: Float[np.ndarray, "p"], ratio: float) -> Float[np.ndarray, "p"]:
    """T = c · favour such that the favoured energy, sum favour / (1 - t), is `ratio` times what it is at t = 0."""
    excess = lambda c: float((favour / (1 - c * favour)).sum() - ratio * favour.sum())  # noqa: E731
    return optimize.brentq(excess, 0.0, 1 - 1e-12) * favour
