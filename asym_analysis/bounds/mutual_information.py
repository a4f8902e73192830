"""Estimate mutual information from samples, in nats, with a standard error and a statement of what it can tell.

Every value is an estimate: put into an upper bound on the generalization gap it gives a diagnostic, never a
certificate (docs/theory.md, section 5.10).
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike

from asym_analysis.bounds.estimators.discrete import is_whole, plug_in_estimate
from asym_analysis.bounds.estimators.gaussian import gaussian_estimate
from asym_analysis.bounds.estimators.nearest_neighbours import ksg_estimate
from asym_analysis.results import Result, settings_of
from asym_analysis.vocabulary import choose, whole

__all__ = ["METHODS", "MutualInformation", "estimate_mutual_information"]

METHODS = ("ksg", "gaussian", "plug-in")


@dataclass(frozen=True, eq=False)
class MutualInformation(Result):
    """An estimate of I(X; Y).

    Attributes
    ----------
    nats
        The estimate; it may be slightly negative where a bias was subtracted, and infinite where y determines x.
    standard_error
        Of the estimate, in nats, the estimator's bias included where it can be measured; infinite where the samples
        cannot tell.
    reliable
        False where the data break an assumption of the estimator, or put the value out of its reach.
    note
        The reason in one sentence, where `reliable` is False or something was assumed.
    settings
        method, samples, neighbours, seed and versions.

    Notes
    -----
    `frame` has one row: nats, standard_error, reliable, note, method, samples, kind (always "diagnostic").
    """

    nats: float
    standard_error: float
    reliable: bool
    note: str
    settings: Mapping[str, Any]

    @property
    def method(self) -> str:
        """The estimator: "ksg", "gaussian" or "plug-in"."""
        return str(self.settings["method"])

    @property
    def samples(self) -> int:
        """Number of pairs."""
        return int(self.settings["samples"])

    @property
    def frame(self) -> pd.DataFrame:
        """One row; columns as in the class's docstring."""
        row = {
            "nats": self.nats,
            "standard_error": self.standard_error,
            "reliable": self.reliable,
            "note": self.note,
            "method": self.method,
            "samples": self.samples,
            "kind": "diagnostic",
        }
        return pd.DataFrame([row])

    def __str__(self) -> str:
        value = f"{self.nats:.4g} ± {self.standard_error:.2g} nats ({self.method}, {self.samples} samples, diagnostic)"
        return f"{value}; {self.note}" if self.note else value

    __repr__ = __str__


def estimate_mutual_information(
    x: ArrayLike | torch.Tensor,
    y: ArrayLike | torch.Tensor,
    method: str = "ksg",
    *,
    neighbours: int = 3,
    seed: int = 0,
) -> MutualInformation:
    """Estimate I(X; Y) from n independent pairs.

    Parameters
    ----------
    x, y : array or tensor
        Shape (n,) or (n, dimension), finite numbers. For "plug-in" whole numbers of shape (n,).
    method : str, default "ksg"
        "ksg": nearest neighbours after each column is replaced by its normal scores; also for columns with ties.
        "gaussian": exact for jointly Gaussian pairs, with its bias removed. "plug-in": discrete values, with the
        Miller-Madow correction over occupied cells.
    neighbours : int, default 3
        Number of nearest neighbours of "ksg".
    seed : int, default 0
        Of the partitions and the calibration of "ksg".

    Returns
    -------
    MutualInformation
        The estimate with its standard error. `reliable` is False, and `note` says why, where the estimate cannot be
        trusted: continuous values for "gaussian" that are not Gaussian, too many cells for "plug-in", a dimension and
        dependence beyond what "ksg" resolves with n samples, copied rows.

    Raises
    ------
    ValueError
        For an unknown method, values that are not finite, arrays of different lengths, too few samples, or continuous
        values for "plug-in".

    References
    ----------
    .. [1] A. Kraskov, H. Stoegbauer, P. Grassberger, Estimating mutual information, Phys. Rev. E 69, 066138 (2004).
    .. [2] W. Gao, S. Kannan, S. Oh, P. Viswanath, Estimating mutual information for discrete-continuous mixtures,
       arXiv 1709.06212 (2017).
    .. [3] docs/theory.md, section 5.8 (the Miller-Madow correction) and section 5.10.

    Examples
    --------
    >>> generator = np.random.default_rng(0)
    >>> x = generator.standard_normal(2000)
    >>> y = 0.5 * x + 0.75**0.5 * generator.standard_normal(2000)
    >>> found = estimate_mutual_information(x, y, "gaussian")
    >>> abs(found.nats - 0.1438) < 3 * found.standard_error, found.reliable
    (True, True)
    """
    choose(method, METHODS, "method")
    neighbours = whole(neighbours, "neighbours", least=1)
    a, b = _columns(x, "x"), _columns(y, "y")
    if len(a) != len(b):
        raise ValueError(f"x has {len(a)} samples and y has {len(b)}: give one y for each x")
    if method == "plug-in":
        for name, part in (("x", a), ("y", b)):
            if part.shape[1] != 1 or not is_whole(part):
                raise ValueError(f"{name} is not one column of whole numbers: use method='ksg' for continuous values")
        # Which values are equal is all that counts; some lie beyond the range of 64-bit integers.
        found = plug_in_estimate(*(np.unique(part[:, 0], return_inverse=True)[1].reshape(-1) for part in (a, b)))
    elif method == "gaussian":
        found = gaussian_estimate(a, b)
    else:
        found = ksg_estimate(a, b, neighbours=neighbours, seed=seed)
    settings = settings_of(method=method, samples=len(a), neighbours=neighbours, seed=seed)
    return MutualInformation(found.nats, found.standard_error, found.reliable, found.note, settings)


def _columns(values: ArrayLike | torch.Tensor, name: str) -> Float[np.ndarray, "n d"]:
    given = np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values)
    if given.dtype.kind not in "biuf" and not _holds_numbers(given):
        raise ValueError(f"{name} holds {given.dtype}: give real numbers; classes in words become whole numbers first")
    if np.ma.is_masked(values):
        raise ValueError(f"{name} has masked samples: leave them out of both x and y")
    found = given.astype(np.float64)
    found = found.reshape(len(found), math.prod(found.shape[1:])) if found.ndim else found.reshape(1, 1)
    if found.shape[1] == 0:
        raise ValueError(f"{name} has no column")
    if not np.isfinite(found).all():
        raise ValueError(f"{name} holds NaN or infinity in {int((~np.isfinite(found)).any(1).sum())} of its samples")
    if len(found) < 4:
        raise ValueError(f"{name} has {len(found)} samples: an estimate needs at least 4")
    return found


def _holds_numbers(values: np.ndarray) -> bool:
    """Whether an array of objects, such as very large integers, holds real numbers."""
    return values.dtype == object and all(isinstance(value, numbers.Real) for value in values.ravel())
