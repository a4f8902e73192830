"""From an error measured on the training set and a complexity in nats to a certified risk: PAC-Bayes in four forms.

All losses lie in [0, 1]. `nats` is KL(posterior || prior), or the length of a prefix-free code times ln 2 for one coded
hypothesis. The prior, or the code, is fixed before the data are seen. docs/theory.md, section 5.5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import MappingProxyType

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq, minimize_scalar

__all__ = [
    "RISK_FORMS",
    "binary_kl",
    "catoni_risk",
    "chernoff_risk",
    "convexity_risk",
    "kl_inverse",
    "kl_inverse_risk",
    "mcallester_risk",
    "sampled_mean_upper_bound",
]


def binary_kl(q: float, p: float) -> float:
    """KL divergence, in nats, of a coin with heads probability q from one with p.

    Examples
    --------
    >>> round(binary_kl(0.5, 0.75), 6)
    0.143841
    >>> binary_kl(0.0, 1.0)
    inf
    """
    if not (0.0 <= q <= 1.0 and 0.0 <= p <= 1.0):
        raise ValueError(f"q = {q} and p = {p} must be probabilities, in [0, 1]")
    heads = 0.0 if q == 0.0 else math.inf if p == 0.0 else q * math.log(q / p)
    tails = 0.0 if q == 1.0 else math.inf if p == 1.0 else (1.0 - q) * (math.log1p(-q) - math.log1p(-p))
    return max(heads + tails, 0.0)


def kl_inverse(q: float, nats: float) -> float:
    """The largest p with binary_kl(q, p) at most `nats`.

    Examples
    --------
    >>> round(kl_inverse(0.0, 0.1), 6) == round(1 - math.exp(-0.1), 6)
    True
    >>> kl_inverse(0.3, 0.0)
    0.3
    """
    if not 0.0 <= q <= 1.0 or math.isnan(nats) or nats < 0.0:
        raise ValueError(f"kl_inverse needs q in [0, 1] and nats at least 0, not q = {q} and nats = {nats}")
    if nats == 0.0 or q == 1.0:
        return q
    if q == 0.0:
        return -math.expm1(-nats)
    largest = math.nextafter(1.0, 0.0)
    if binary_kl(q, largest) <= nats:
        return 1.0
    return float(brentq(lambda p: binary_kl(q, p) - nats, q, largest, xtol=1e-300, rtol=1e-15, maxiter=2000))


def kl_inverse_risk(empirical: float, nats: float, n_samples: int, confidence: float = 0.95) -> float:
    """Seeger's bound with Maurer's constant: kl(empirical || risk) <= (nats + ln(2 sqrt(n)/delta))/n, inverted.

    Parameters
    ----------
    empirical
        Mean loss on the training sample; of the posterior, not of its centre.
    nats
        Complexity.
    n_samples
        Size of the training sample.
    confidence
        1 - delta.

    Raises
    ------
    ValueError
        If an argument lies outside its range.

    Examples
    --------
    >>> round(kl_inverse_risk(0.05, nats=1000.0, n_samples=50_000), 6)
    0.106058
    """
    return kl_inverse(empirical, _maurer(empirical, nats, n_samples, confidence) / n_samples)


def chernoff_risk(empirical: float, nats: float, n_samples: int, confidence: float = 0.95) -> float:
    """The bound for one coded hypothesis: kl(empirical || risk) <= (nats + ln(1/delta))/n, inverted.

    Chernoff's bound for each hypothesis, and a union bound with weights 2^-bits over a prefix-free code. It needs no
    ln(2 sqrt(n)), but holds for a deterministic hypothesis only (Langford 2005).

    Examples
    --------
    >>> chernoff_risk(0.05, 1000.0, 50_000) < kl_inverse_risk(0.05, 1000.0, 50_000)
    True
    """
    delta = _checked(empirical, nats, n_samples, confidence)
    return kl_inverse(empirical, (nats - math.log(delta)) / n_samples)


def mcallester_risk(empirical: float, nats: float, n_samples: int, confidence: float = 0.95) -> float:
    """McAllester's square-root form: empirical + sqrt((nats + ln(n/delta))/(2n - 1)); it may exceed 1.

    Examples
    --------
    >>> round(mcallester_risk(0.05, nats=1000.0, n_samples=50_000), 6)
    0.150689
    """
    delta = _checked(empirical, nats, n_samples, confidence)
    return empirical + math.sqrt((nats + math.log(n_samples / delta)) / (2 * n_samples - 1))


def catoni_risk(empirical: float, nats: float, n_samples: int, confidence: float = 0.95) -> float:
    """Catoni's bound with its free parameter optimized and paid for; at most 1.

    With alpha = 1.0001 and every gamma > 1 at once (Catoni 2007; docs/theory.md, section 5.5):
    risk <= [1 - exp(-gamma empirical/n - alpha (nats + ln(1/delta) + 2 ln(2 + ln gamma/ln alpha))/n)]
    / (1 - exp(-gamma/n)). The logarithm that grows with gamma is what optimizing gamma costs; published code that
    optimizes the bound of a fixed gamma without it reports a number that is no bound.

    Examples
    --------
    >>> round(catoni_risk(0.05, nats=1000.0, n_samples=50_000), 6)
    0.106637
    """
    delta = _checked(empirical, nats, n_samples, confidence)
    alpha = 1.0001

    def bound(log_gamma: float) -> float:
        gamma = math.exp(log_gamma)
        paid = alpha * (nats - math.log(delta) + 2 * math.log(2 + log_gamma / math.log(alpha)))
        return math.expm1(-(gamma * empirical + paid) / n_samples) / math.expm1(-gamma / n_samples)

    grid = np.linspace(1e-9, math.log(n_samples) + 12, 200)
    best = int(np.argmin([bound(value) for value in grid]))
    bracket = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    found = minimize_scalar(bound, bounds=bracket, method="bounded", options={"xatol": 1e-10})
    # Every gamma > 1 is valid, so an optimizer that stops early gives a looser bound, never a wrong one.
    return min(1.0, bound(grid[best]), float(found.fun))


def convexity_risk(empirical: float, nats: float, n_samples: int, confidence: float = 0.95) -> float:
    """The convexity form: empirical/(1 - l/2) + c/(n l (1 - l/2)) at its best l, with c = nats + ln(2 sqrt(n)/delta).

    Thiemann, Igel, Wintenberger and Seldin 2017: it holds for all l in (0, 2) at once, so that the best
    one costs nothing more. It may exceed 1.

    Examples
    --------
    >>> round(convexity_risk(0.05, nats=1000.0, n_samples=50_000), 6)
    0.119431
    """
    charge = _maurer(empirical, nats, n_samples, confidence)
    best = 2.0 / (math.sqrt(2.0 * n_samples * empirical / charge + 1.0) + 1.0)
    return empirical / (1.0 - best / 2.0) + charge / (n_samples * best * (1.0 - best / 2.0))


RISK_FORMS: MappingProxyType[str, Callable[[float, float, int, float], float]] = MappingProxyType(
    {
        "kl-inverse": kl_inverse_risk,
        "Catoni": catoni_risk,
        "convexity": convexity_risk,
        "McAllester": mcallester_risk,
    }
)


def sampled_mean_upper_bound(values: Sequence[float] | Float[np.ndarray, "m"], confidence: float) -> float:
    """An upper confidence bound on the mean of independent values in [0, 1], tight where they vary little.

    A bettor who stakes the fraction lambda of her wealth on "the mean is below p" has wealth
    prod(1 + lambda (p - value)) after all values, whose expectation is at most 1 if the mean is p or more; p is
    refused where the mean wealth over a fixed grid of lambda reaches 1/delta (Markov's inequality; Waudby-Smith and
    Ramdas 2024). The values need not share one mean: by the inequality of arithmetic and geometric means the bound
    then holds for the average of their means. Far tighter than Hoeffding where each value is itself an average.

    Raises
    ------
    ValueError
        If no value is given, or one lies outside [0, 1].

    Examples
    --------
    >>> round(sampled_mean_upper_bound([0.2] * 1000, 0.99), 3)
    0.207
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.size == 0 or not ((x >= 0) & (x <= 1)).all():
        raise ValueError("the values must be a non-empty list of numbers in [0, 1]")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    # 1 + lambda (p - value) stays positive for every p and value in [0, 1] while lambda < 1.
    stakes = np.concatenate([np.geomspace(1e-3, 0.5, 14), [0.7, 0.9, 0.999]])
    needed = -math.log(1.0 - confidence) + math.log(len(stakes))
    distinct, counts = np.unique(x, return_counts=True)

    def log_wealth(p: float) -> float:
        each = np.log1p(stakes[:, None] * (p - distinct)[None, :]) @ counts
        peak = each.max()
        return float(peak + math.log(np.exp(each - peak).sum()) - needed)

    if log_wealth(1.0) < 0.0:
        return 1.0
    return float(brentq(log_wealth, float(x.mean()), 1.0, xtol=1e-12))


def _checked(empirical: float, nats: float, n_samples: int, confidence: float) -> float:
    """Delta, after every argument was found in its range."""
    if not 0.0 <= empirical <= 1.0:
        raise ValueError(f"the empirical risk {empirical} is not in [0, 1]: divide the loss by its range")
    if math.isnan(nats) or nats < 0.0:
        raise ValueError(f"a complexity of {nats} nats is impossible")
    if n_samples < 1:
        raise ValueError(f"n_samples must be at least 1, not {n_samples}")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    return 1.0 - confidence


def _maurer(empirical: float, nats: float, n_samples: int, confidence: float) -> float:
    delta = _checked(empirical, nats, n_samples, confidence)
    return nats + math.log(2.0 * math.sqrt(n_samples) / delta)
