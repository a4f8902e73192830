"""From an amount of information, in nats, to a generalization gap.

The gap is the expected loss on a new sample less the mean loss on the n training samples. The loss is
sigma-sub-Gaussian under the data's distribution for every hypothesis; one with values in an interval of length c is
c/2-sub-Gaussian (Hoeffding's lemma). docs/theory.md, sections 5.1 to 5.5 and 5.8.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

__all__ = [
    "bit_budget",
    "conditional_gap",
    "individual_sample_gap",
    "mutual_information_gap",
    "occam_gap",
    "pac_bayes_gap",
]


def mutual_information_gap(nats: float, n_samples: int, sub_gaussian: float = 0.5) -> float:
    """Bound on |expected gap| from I(hypothesis; sample): sqrt(2 sigma^2 I/n) (Xu and Raginsky 2017).

    Examples
    --------
    >>> mutual_information_gap(50.0, n_samples=100)
    0.5
    """
    _check(nats, n_samples, sub_gaussian)
    return sub_gaussian * math.sqrt(2.0 * nats / n_samples)


def individual_sample_gap(nats: Float[np.ndarray, "n"], sub_gaussian: float = 0.5) -> float:
    """Bound on |expected gap| from I(hypothesis; Z_i) for each training sample: mean of sqrt(2 sigma^2 I_i).

    Bu, Zou and Veeravalli 2020 for a loss that is sub-Gaussian under the product of the marginals of
    hypothesis and sample, as every bounded loss is. Never above `mutual_information_gap` of I(hypothesis; sample),
    which is at least the sum of the I_i when samples are independent.

    Examples
    --------
    >>> float(individual_sample_gap(np.full(100, 0.5))) == mutual_information_gap(50.0, n_samples=100)
    True
    """
    each = np.asarray(nats, dtype=np.float64)
    for value in (float(each.min()), float(each.max())):
        _check(value, each.size, sub_gaussian)
    return float(sub_gaussian * np.sqrt(2.0 * each).mean())


def conditional_gap(nats: float, n_samples: int) -> float:
    """Bound on |expected gap| from I(hypothesis; U | supersample), loss in [0, 1]: sqrt(2 I/n).

    Steinke and Zakynthinou 2020. U chooses the training half of n pairs, so that I is at most n ln 2 and
    the bound at most 1.18.

    Examples
    --------
    >>> round(conditional_gap(100 * math.log(2), n_samples=100), 2)
    1.18
    """
    _check(nats, n_samples, 1.0)
    return math.sqrt(2.0 * nats / n_samples)


def occam_gap(nats: float, n_samples: int, sub_gaussian: float = 0.5, confidence: float = 0.95) -> float:
    """Bound on the gap of one coded hypothesis: sigma sqrt(2 (nats + ln(1/delta))/n), with probability 1 - delta.

    `nats` is the length of its prefix-free code times ln 2: a union bound with weights 2^-bits over sub-Gaussian tails.

    Examples
    --------
    >>> round(occam_gap(1000 * math.log(2), n_samples=50_000), 4)
    0.0834
    """
    _check(nats, n_samples, sub_gaussian)
    return sub_gaussian * math.sqrt(2.0 * (nats - math.log(_delta(confidence))) / n_samples)


def pac_bayes_gap(nats: float, n_samples: int, sub_gaussian: float = 0.5, confidence: float = 0.95) -> float:
    """Bound on the gap of a posterior: sigma sqrt(2 (KL + ln(sqrt(n)/delta))/(n - 1)), with probability 1 - delta.

    The mean of n sub-Gaussian losses has E exp((n - 1) gap^2/(2 sigma^2)) <= sqrt(n); Donsker and Varadhan's
    inequality moves this from the prior to the posterior (Hellstrom and Durisi 2020).

    Raises
    ------
    ValueError
        For fewer than two samples, too.

    Examples
    --------
    >>> occam_gap(100.0, 1000) < pac_bayes_gap(100.0, 1000)
    True
    """
    _check(nats, n_samples, sub_gaussian)
    if n_samples < 2:
        raise ValueError("this bound needs at least two samples")
    charge = nats + 0.5 * math.log(n_samples) - math.log(_delta(confidence))
    return sub_gaussian * math.sqrt(2.0 * charge / (n_samples - 1))


def bit_budget(gap: float, n_samples: int, sub_gaussian: float = 0.5) -> float:
    """How many bits a hypothesis may hold for its expected gap to stay below `gap`: n gap^2/(2 sigma^2 ln 2).

    Examples
    --------
    >>> round(bit_budget(1.0, n_samples=2490))
    7185
    """
    _check(gap, n_samples, sub_gaussian)
    return n_samples * gap**2 / (2.0 * sub_gaussian**2 * math.log(2.0))


def _check(nats: float, n_samples: int, sub_gaussian: float) -> None:
    if math.isnan(nats) or nats < 0.0:
        raise ValueError(f"information of {nats} nats is impossible")
    if n_samples < 1:
        raise ValueError(f"n_samples must be at least 1, not {n_samples}")
    if not sub_gaussian > 0.0:
        raise ValueError(f"sub_gaussian must be positive, not {sub_gaussian}")


def _delta(confidence: float) -> float:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    return 1.0 - confidence
