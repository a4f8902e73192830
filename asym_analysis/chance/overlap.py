"""How similar independent random subspaces and updates are: exact moments, and tails that match them.

The overlap of two independent, uniformly distributed subspaces of dimensions p and q in R^d has exact moments. Its tail
is that of a Beta distribution with the same two moments: exact for p = q = 1, and within a few per cent of the
simulated 99% point elsewhere (docs/theory.md, section 4.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float
from scipy import special

from asym_analysis.chance.haar import captured_energy_moments
from asym_analysis.chance.null import BetaNull, Number

__all__ = [
    "ProductNull",
    "StrengthNull",
    "overlap_null",
]


def overlap_null(p: int, q: int, d: int) -> BetaNull:
    """The overlap, T / min(p, q) with T the sum of squared cosines, between random subspaces of R^d.

    Parameters
    ----------
    p, q : int
        Dimensions of the two subspaces.
    d : int
        Dimension of the space.

    Returns
    -------
    BetaNull
        With the exact moments E T = pq/d and Var T = 2pq(d-p)(d-q) / (d^2 (d-1)(d+2)); its support starts at p + q - d
        where the two subspaces must meet.

    Raises
    ------
    ValueError
        If p or q is not between 1 and d.

    References
    ----------
    docs/theory.md, section 4.2.

    Examples
    --------
    >>> null = overlap_null(8, 8, 1024)
    >>> round(null.mean, 7), round(null.std, 6)
    (0.0078125, 0.00137)
    """
    if not (1 <= p <= d and 1 <= q <= d):
        raise ValueError(f"subspaces of dimensions {p} and {q} do not exist in R^{d}: both must be from 1 to {d}")
    least = min(p, q)
    # T is the energy that a random subspace of dimension p captures of the projector onto the other.
    mean, variance = captured_energy_moments(float(q), float(q), d, p)
    return BetaNull(mean=mean / least, std=variance**0.5 / least, low=max(0, p + q - d) / least)


@dataclass(frozen=True)
class StrengthNull:
    """The null distribution of Tr(C C') / (||C||_F ||C'||_F) in random directions, C and C' keeping their eigenvalues.

    The tail is that of a shifted gamma variable with the skewness of the
    weighted sum of squares to which the value tends as d grows (Pearson's type III).

    Attributes
    ----------
    mean, std, skewness
        Numbers, or arrays of shape (n,).
    """

    mean: Number
    std: Number
    skewness: Number

    def p_value(self, values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """Probability of a value at least as large.

        Parameters
        ----------
        values : float array of shape (n,)
            Shape (n,).

        Returns
        -------
        array
            Shape (n,); NaN where the value is.
        """
        shape = 4 / np.asarray(self.skewness) ** 2
        steps = shape + (values - self.mean) / np.maximum(self.std, 1e-150) * np.sqrt(shape)
        return np.where(np.isnan(values), np.nan, special.gammaincc(shape, np.maximum(np.nan_to_num(steps), 0.0)))


@dataclass(frozen=True)
class ProductNull:
    """The null distribution of the cosine of two updates in independent random directions.

    Its mean is 0 and its variance 1/(d_in d_out), exactly. sqrt(d_in d_out) times the cosine of updates of equal
    singular values, ranks p and q, tends to a sum of p q products of independent normal variables over sqrt(p q): a
    normal variable whose variance is chi-squared with p q degrees of freedom over p q. At rank 1 its tails are far
    longer than a normal variable's.

    Attributes
    ----------
    std
        Standard deviation, (d_in d_out)^(-1/2).
    terms
        p q.
    mean
        0.

    Examples
    --------
    >>> null = ProductNull(std=0.01, terms=64)
    >>> float(null.p_value(np.array([0.0]))[0]), bool(null.p_value(np.array([0.03]))[0] > 0.00135)
    (0.5, True)
    """

    std: float
    terms: int
    mean: float = 0.0

    def p_value(self, values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """Probability of a cosine at least as large.

        Parameters
        ----------
        values : float array of shape (n,)
            Shape (n,).

        Returns
        -------
        array
            Shape (n,); NaN where the value is.
        """
        spreads, weights = _normal_mixture(self.terms)
        return (weights * special.ndtr(-values[..., None] / (spreads * self.std))).sum(-1)


@lru_cache(maxsize=4096)
def _normal_mixture(terms: int) -> tuple[Float[np.ndarray, "nodes"], Float[np.ndarray, "nodes"]]:
    """Standard deviations and weights of the normal variables: Gauss-Legendre nodes over the variance's quantiles."""
    nodes, weights = np.polynomial.legendre.leggauss(64)
    return np.sqrt(special.chdtri(terms, (1 - nodes) / 2) / terms), weights / 2
