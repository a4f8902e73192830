"""Chance of a mean of many products of independent normal variables: cosines of unrelated updates, over modules."""

from __future__ import annotations

import numpy as np
from scipy import special

__all__ = ["probability_of_products"]


def probability_of_products(value: float, std: float, terms: int) -> float:
    """Probability that a sum of products of independent normal variables is at least a value.

    Given one factor of each product the sum is normal, with a variance that is chi-squared with as many degrees of
    freedom as there are products.

    Parameters
    ----------
    value
        The value.
    std
        Standard deviation of the sum.
    terms
        Number of products of equal size.

    Returns
    -------
    float
        Between 0 and 1.

    Examples
    --------
    >>> round(probability_of_products(0.0, 1.0, 4), 6)
    0.5
    >>> probability_of_products(4.0, 1.0, 1) > 20 * probability_of_products(4.0, 1.0, 100)
    True
    """
    nodes, weights = np.polynomial.legendre.leggauss(64)
    spreads = np.sqrt(special.chdtri(terms, (1 - nodes) / 2) / terms)
    return float((weights / 2 * special.ndtr(-value / (spreads * max(std, 1e-150)))).sum())
