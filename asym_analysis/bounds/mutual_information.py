"""Estimates of mutual information from samples, in nats, each with a standard error.

Every one of them is an estimate, or a lower bound: put into an upper bound on the generalization gap it gives a
diagnostic, never a certificate. Theory notes, section 5.10.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from scipy.special import digamma

__all__ = [
    "MutualInformation",
    "estimate_mutual_information",
    "gaussian_information",
    "ksg_information",
    "plug_in_information",
]


@dataclass(frozen=True)
class MutualInformation:
    """An estimate of I(X; Y).

    Attributes
    ----------
    nats
        The estimate; it may be slightly negative where a bias was subtracted.
    standard_error
        Of the estimate, by the jackknife over ten blocks of samples (closed form where the method has one).
    method
        "gaussian", "ksg" or "plug-in".
    samples
        Number of pairs.
    kind
        Always "diagnostic".
    """

    nats: float
    standard_error: float
    method: str
    samples: int
    kind: str = "diagnostic"

    def __str__(self) -> str:
        return f"{self.nats:.4g} +- {self.standard_error:.2g} nats ({self.method}, {self.samples} samples, diagnostic)"


def estimate_mutual_information(
    x: Float[np.ndarray, "n ..."] | Int[np.ndarray, "n"],
    y: Float[np.ndarray, "m ..."] | Int[np.ndarray, "m"],
    method: str = "ksg",
    *,
    neighbours: int = 3,
) -> MutualInformation:
    """Estimate I(X; Y) from n independent pairs.

    Parameters
    ----------
    x, y
        Shape (n,) or (n, dimension); for "plug-in" integers of shape (n,).
    method
        "gaussian": exact for jointly Gaussian pairs, a lower bound on the truth for Gaussian marginals, bias removed.
        "ksg": Kraskov, Stoegbauer and Grassberger's first nearest-neighbour estimate, for a few dimensions; biased low
        for strong dependence. "plug-in": of discrete values, with Miller and Madow's correction.
    neighbours
        k of "ksg".

    Raises
    ------
    ValueError
        For an unknown method, arrays of different lengths, or too few samples.

    Examples
    --------
    >>> generator = np.random.default_rng(0)
    >>> x = generator.standard_normal(2000)
    >>> y = 0.5 * x + math.sqrt(0.75) * generator.standard_normal(2000)
    >>> found = estimate_mutual_information(x, y, "gaussian")
    >>> abs(found.nats - 0.1438) < 3 * found.standard_error
    True
    """
    if len(x) != len(y):
        raise ValueError(f"{len(x)} values of x and {len(y)} of y are no pairs")
    if method == "plug-in":
        return plug_in_information(x, y)
    if method not in ("gaussian", "ksg"):
        raise ValueError(f"no estimator is called {method!r}; there are 'gaussian', 'ksg' and 'plug-in'")
    a, b = (np.asarray(part, dtype=np.float64).reshape(len(part), -1) for part in (x, y))
    if method == "gaussian":
        return gaussian_information(a, b)
    return ksg_information(a, b, neighbours=neighbours)


def gaussian_information(x: Float[np.ndarray, "n p"], y: Float[np.ndarray, "n q"]) -> MutualInformation:
    """-1/2 sum ln(1 - rho_i^2) over the canonical correlations, less its expectation's bias.

    ln det of a sample covariance of m = n - 1 degrees of freedom exceeds ln det of the true one, on average, by
    sum_i digamma((m - i + 1)/2) - ln(m/2), whatever that one is; so the bias of 1/2 (ln det S_x + ln det S_y - ln det
    S_xy) is known exactly, about p q/(2 n).

    Examples
    --------
    >>> generator = np.random.default_rng(0)
    >>> found = gaussian_information(generator.standard_normal((200, 5)), generator.standard_normal((200, 5)))
    >>> abs(found.nats) < 0.1
    True
    """
    n, p = x.shape
    q = y.shape[1]
    if n < p + q + 2:
        raise ValueError(f"{n} samples are too few for {p} and {q} dimensions: take at least {p + q + 2}")

    def estimate(a: Float[np.ndarray, "m p"], b: Float[np.ndarray, "m q"]) -> float:
        qa, qb = (np.linalg.qr(part - part.mean(axis=0))[0] for part in (a, b))
        rho = np.clip(np.linalg.svd(qa.T @ qb, compute_uv=False), 0.0, 1.0 - 1e-15)
        return float(-0.5 * np.log1p(-(rho**2)).sum() - _gaussian_bias(len(a), a.shape[1], b.shape[1]))

    return MutualInformation(estimate(x, y), _jackknife(estimate, x, y, p + q + 3), "gaussian", n)


def ksg_information(
    x: Float[np.ndarray, "n p"], y: Float[np.ndarray, "n q"], *, neighbours: int = 3
) -> MutualInformation:
    """Kraskov, Stoegbauer and Grassberger 2004, first estimator: psi(k) + psi(n) - mean(psi(n_x + 1) + psi(n_y + 1)).

    Each coordinate is standardized first, which changes the estimate but not the truth.

    Examples
    --------
    >>> generator = np.random.default_rng(1)
    >>> x, y = generator.standard_normal((2, 1000, 1))
    >>> abs(ksg_information(x, y).nats) < 0.1
    True
    """
    if len(x) <= neighbours + 1:
        raise ValueError(f"{len(x)} samples are too few for {neighbours} neighbours")
    a, b = (part / np.maximum(part.std(axis=0), 1e-300) for part in (x, y))

    def each(a: Float[np.ndarray, "m p"], b: Float[np.ndarray, "m q"]) -> Float[np.ndarray, "m"]:
        joint = np.hstack([a, b])
        distance = np.asarray(cKDTree(joint).query(joint, k=neighbours + 1, p=np.inf)[0])[:, -1]
        inside = np.nextafter(distance, 0)  # strictly nearer than the k-th neighbour
        counts = [cKDTree(part).query_ball_point(part, inside, p=np.inf, return_length=True) - 1 for part in (a, b)]
        terms = digamma(np.asarray(counts[0]) + 1.0) + digamma(np.asarray(counts[1]) + 1.0)
        return digamma(neighbours) + digamma(len(a)) - terms

    local = each(a, b)
    error = _jackknife(lambda a, b: float(each(a, b).mean()), a, b, 2 * neighbours + 2)
    return MutualInformation(float(local.mean()), error, "ksg", len(x))


def plug_in_information(x: Int[np.ndarray, "n"], y: Int[np.ndarray, "n"]) -> MutualInformation:
    """Mutual information of the table of counts, less Miller and Madow's bias (|X| - 1)(|Y| - 1)/(2n).

    |X| and |Y| count the values that occur. The standard error is the delta method's.

    Examples
    --------
    >>> x = np.array([0, 0, 1, 1] * 50)
    >>> round(plug_in_information(x, x).nats, 3)
    0.691
    """
    table = count_table(np.asarray(x), np.asarray(y))
    n = int(table.sum())
    joint = table / n
    outer = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    seen = joint > 0
    log_ratio = np.log(joint[seen] / outer[seen])
    nats = float(joint[seen] @ log_ratio)
    bias = (table.shape[0] - 1) * (table.shape[1] - 1) / (2 * n)
    variance = max(float(joint[seen] @ log_ratio**2) - nats**2, 0.0) / n
    return MutualInformation(nats - bias, math.sqrt(variance), "plug-in", n)


def count_table(x: Int[np.ndarray, "n"], y: Int[np.ndarray, "n"]) -> Int[np.ndarray, "rows columns"]:
    """How often each pair of values occurs; values that never occur have no row or column."""
    if len(x) == 0 or len(x) != len(y):
        raise ValueError("a table of counts needs at least one pair, and as many x as y")
    rows, columns = np.unique(x, return_inverse=True)[1], np.unique(y, return_inverse=True)[1]
    table = np.zeros((rows.max() + 1, columns.max() + 1), dtype=np.int64)
    np.add.at(table, (rows, columns), 1)
    return table


def _gaussian_bias(n: int, p: int, q: int) -> float:
    m = n - 1

    def excess(size: int) -> float:
        return float(digamma((m - np.arange(size)) / 2).sum() - size * math.log(m / 2))

    return 0.5 * (excess(p) + excess(q) - excess(p + q))


def _jackknife(
    estimate: Callable[[np.ndarray, np.ndarray], float],
    x: Float[np.ndarray, "n p"],
    y: Float[np.ndarray, "n q"],
    least: int,
) -> float:
    """Standard error from leaving out each of ten blocks; infinite where the rest would be too few."""
    blocks = np.array_split(np.arange(len(x)), min(10, len(x)))
    if len(x) - len(blocks[0]) < least:
        return math.inf
    left = [estimate(np.delete(x, block, axis=0), np.delete(y, block, axis=0)) for block in blocks]
    count = len(blocks)
    return float(math.sqrt((count - 1) / count * np.square(np.array(left) - np.mean(left)).sum()))
