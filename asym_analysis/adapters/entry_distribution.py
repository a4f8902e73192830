"""Distance of a factor from an unsaved random initialization, inferred from the distribution of its entries.

Let F0 be the initial factor and F = c F0 + E with <E, F0> = 0, so that |F - F0|^2/|F0|^2 = (c - 1)^2 + |E|^2/|F0|^2.
Where the entries of F0 are independent and uniform on [-b, b] (PEFT's default for A has b = 1/sqrt(d_in)), two facts
hold for *any* E that does not depend on the single entries of F0, however its entries are distributed and whatever they
have to do with each other. With x = F/b and averages over the entries:

- the characteristic function of a uniform distribution is zero at k pi/c for k = 1, 2, ..., and so is that of x:
  mean cos(k pi x/c) = 0. This gives c, the place of the edge, and tests the fit: one unknown, several equations;
- mean g_c(x) = mean e^2, with g_c(x) = 4c (n |x| - c n^2) and n = floor((|x|/c + 1)/2): what lies beyond the edge tells
  the length of E. It is first order in |E|, where the variance of x is second order.

Both follow by averaging over the uniform entry: the mean of cos(t(u + e)) is cos(te) sin(ct)/(ct), and that of
g_c(u + e) is e^2. The first set of equations, which are uncorrelated and of variance 1/2 an entry, is solved by
Newton's method, each weighted by its slope in c. The standard error is that of the solution's influence function, added
to what the assumption on E leaves out: 10 percent of the value, and 4/sqrt(number of entries) of it, because a trained
E has fewer values of its own than entries (rows and neighbouring inputs move together); only rows and columns in which
the movement lies count.

Whether there is an edge at all is tested against every law that is a mixture of normal distributions around zero, of
any scales (normal, orthonormal, Xavier, Student's t, entries scaled row by row): there the characteristic function is
positive, and its logarithm, as a function of t^2, is convex (theorem of Schoenberg [1]_), hence
phi(t) >= phi(t/2)^4. At the zero of a uniform part it is far smaller.

Initializations without an edge give no value: mean(F^2) alone tells m^2 + 2 rho m, with rho unknown.

References
----------
.. [1] I. J. Schoenberg, Metric spaces and completely monotone functions, Annals of Mathematics 39 (1938), theorem 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from asym_analysis.adapters.entry_checks import effective_dtype, evenness, lopsided, unequal_scales, unfit
from asym_analysis.lazy_torch import Tensor
from asym_analysis.vocabulary import Factor

__all__ = ["EDGE_LAWS", "Movement", "infer_movements"]

EDGE_LAWS = frozenset({"kaiming_uniform"})  # laws whose entries are uniform: the only ones that tell a movement

LARGEST = 1.2  # movement above which the edge is gone: no value is given
MODEL_ERROR = 0.1  # of the value, added to the standard error
# Over the square root of the number of entries, of the value, added too: without it 2 of 345 modules of 60 trainings
# lay beyond four standard errors, both of fewer than 600 entries, of which .60 lay within one.
FEW_VALUES = 4.0
RESOLVED = 0.3  # largest sampling error, relative to the value, that is still given
DETECTED = 4.0  # sampling errors below which a movement is too small: of 300 untouched factors none exceeds it
# Stated errors by which the limit may lie above the value: the error of a value that a handful of entries beyond the
# edge give is too small, and so is the value. Of 17,888 simulated values 57 of the 61 beyond four errors were such.
APART = 5.0
USEFUL = 0.5  # largest upper limit that is given
EDGE_SEEN = 6.0  # standard deviations, all modules together, by which an edge must show where no law is recorded
EDGE_KEPT = 3.0  # the same where the law is recorded, and on the wrong side of zero in both cases
# Edges, in units of the recorded bound, that training reaches: .68 to 1.23 among those told in 60 trainings.
EDGE_PLACES = (0.6, 1.3)
MISFIT = 30.0  # chi-square of six equations with one unknown; p = 2e-5
MISFIT_OF_ALL = 6.0  # standard deviations of the sum over all modules
# |c - 1| over the movement above which, with no law recorded, another bound is as likely as a movement: in one module,
# and in the median of all, where 60 trainings have at most 0.26 and 0.15 (benchmarks/results/drift_trained.csv).
ALONG, ALONG_OF_ALL, ALONG_AT_LEAST = 0.3, 0.15, 0.02
ROUNDING = {"bfloat16": 2.0**-8, "float16": 2.0**-11}  # relative, of the stored entries

HARMONICS = 12
STANDS_OUT = 3.0  # times its variance: what of a slope's square is taken for noise
TESTED = 6
WIDTH, TOP = 0.004, 6.0  # of the bins of |x|
FINE = round(TOP / WIDTH)
TAIL = np.geomspace(TOP, 4000.0, 64)
CENTRES = np.concatenate([(np.arange(FINE) + 0.5) * WIDTH, TAIL])
LOBE = 1.43  # where the characteristic function of a uniform distribution is most negative, in its first zeros
STEPS = 15


@dataclass(frozen=True)
class Movement:
    """What the entries say of |F - F0|/|F0|.

    Attributes
    ----------
    value, std_error
        The estimate and its standard error; NaN where the movement is unknown.
    upper
        97.5 percent limit, also where `value` is NaN because the movement is too small; NaN where it says nothing.
    correlation
        Of F - F0 with F0: (c - 1)/value.
    note
        Why there is no estimate, or "".
    recognized
        True where the entries show the uniform law at its place.
    """

    value: float
    std_error: float
    upper: float
    correlation: float
    note: str
    recognized: bool = False


def infer_movements(
    factors: Sequence[Float[Tensor, "_ _"]],
    which: Factor = "A",
    *,
    recorded: bool = False,
    dtypes: Sequence[str] | None = None,
) -> list[Movement]:
    """Infer how far each module's factor moved from a uniform initialization.

    Parameters
    ----------
    factors
        A of every module of one adapter as (rank, d_in), or B^T as (rank, d_out): they decide together whether an edge
        is seen at all.
    which
        Which of the two it is; the bound is 1/sqrt(d_in) for A and 1/sqrt(rank) for B.
    recorded
        True where the file names the uniform law. Otherwise a value needs a clear edge at the place of that law.
    dtypes
        In which the file stores each factor; "float32" by default.

    Returns
    -------
    list of Movement
        In the order of `factors`.

    Examples
    --------
    >>> import torch
    >>> generator = torch.Generator().manual_seed(0)
    >>> start = (2 * torch.rand(8, 768, generator=generator) - 1) / 768**0.5
    >>> move = torch.randn(8, 768, generator=generator)
    >>> found = infer_movements([start + 0.1 * start.norm() * move / move.norm()])[0]
    >>> bool(abs(found.value - 0.1) < 2 * found.std_error), found.std_error < 0.02
    (True, True)
    >>> infer_movements([move / 768**0.5])[0].note
    'no edge of a uniform initialization is seen: the noise is of another distribution, or moved too far'
    """
    entries = [factor.detach().double().numpy() for factor in factors]
    stored = dtypes if dtypes is not None else ["float32"] * len(factors)
    names = [effective_dtype(values, dtype) for values, dtype in zip(entries, stored, strict=True)]
    notes = [unfit(values, dtype) for values, dtype in zip(entries, names, strict=True)]
    usable = [index for index, note in enumerate(notes) if not note]
    found = [_untold(note) for note in notes]
    if not usable:
        return found
    fits = _fit([_histogram(entries[index], which) for index in usable], recorded=recorded)
    general = _refused(fits, recorded)
    if not general and unequal_scales(
        [entries[i] for i in usable], [_bound(entries[i], which) for i in usable], fits.value, fits.edge
    ):
        general = "rows or columns were multiplied by different factors, which the entries cannot tell from a movement"
    for at, index in enumerate(usable):
        if general:
            found[index] = _untold(general)
        elif lopsided(entries[index], float(fits.value[at])):
            found[index] = _untold("the entries are not symmetric around zero, as a uniform initialization is")
        else:
            part = evenness(entries[index], _bound(entries[index], which) * float(fits.edge[at]))
            found[index] = _movement(fits, at, recorded, ROUNDING.get(names[index], 0.0), part)
    return found


def _untold(note: str, upper: float = math.nan, *, recognized: bool = False) -> Movement:
    return Movement(math.nan, math.nan, upper if upper <= USEFUL else math.nan, math.nan, note, recognized)


@dataclass(frozen=True)
class _Fits:
    """One entry a module: the edge c and its standard error, the movement and its own, and what tests them."""

    number: np.ndarray  # of entries
    edge: np.ndarray
    edge_error: np.ndarray
    value: np.ndarray
    error: np.ndarray
    upper: np.ndarray
    misfit: np.ndarray
    scores: tuple[float, float]  # of the edge, all modules together


def _refused(fits: _Fits, recorded: bool) -> str:
    """Why no module of the adapter can be told, or ""."""
    if min(fits.scores) > -(EDGE_KEPT if recorded else EDGE_SEEN):
        return "no edge of a uniform initialization is seen: the noise is of another distribution, or moved too far"
    count = len(fits.misfit)
    # Beyond its first zero the characteristic function is negative: positive, it is another law's, as of a sum of two.
    if max(fits.scores) > EDGE_KEPT:
        return "the entries do not fit a uniform initialization and a movement"
    if fits.misfit.sum() - (TESTED - 1) * count > MISFIT_OF_ALL * math.sqrt(2 * (TESTED - 1) * count):
        return "the entries do not fit a uniform initialization and a movement"
    middle = float(np.median(fits.edge))
    away = abs(middle - 1)
    if recorded and not EDGE_PLACES[0] < middle < EDGE_PLACES[1]:
        return (
            f"the edge lies at {middle:.3g} times the recorded bound: a rescaled factor, strong decay or a wrong "
            "record, which the entries cannot tell apart"
        )
    error = 1.25 * float(np.median(fits.edge_error)) / math.sqrt(count)
    most = max(3 * error, ALONG_AT_LEAST, ALONG_OF_ALL * float(np.median(fits.value)))
    if not recorded and away > most:
        return (
            f"the edge lies at {middle:.3g} times the bound 1/sqrt(fan-in): another bound, a rescaled factor or weight "
            "decay, which the entries cannot tell apart"
        )
    return ""


def _movement(fits: _Fits, at: int, recorded: bool, rounding: float, part: float) -> Movement:
    value, error, upper = float(fits.value[at]), float(fits.error[at]), float(fits.upper[at])
    along = float(fits.edge[at]) - 1
    if fits.misfit[at] > MISFIT:
        return _untold("the entries do not fit a uniform initialization and a movement")
    if value > LARGEST or not math.isfinite(value):
        return _untold(f"moved by more than {LARGEST:g} of its length: too far to tell how far")
    stated = math.hypot(error, MODEL_ERROR * value, FEW_VALUES / math.sqrt(part * float(fits.number[at])) * value)
    if value <= DETECTED * max(error, 2 * rounding) or upper > value + APART * stated:
        limit = max(upper, 2 * DETECTED * rounding)
        said = f": at most {limit:.2g}" if limit <= USEFUL else ""
        return _untold(f"too small to resolve{said}", limit, recognized=limit <= USEFUL)
    if error > RESOLVED * value:
        return _untold("the factor has too few entries to tell")
    if not recorded and abs(along) > 3 * fits.edge_error[at] and abs(along) > ALONG * value:
        return _untold("another bound, a rescaled factor or weight decay, which the entries cannot tell apart")
    return Movement(value, stated, value + 1.96 * stated, max(-1.0, min(1.0, along / value)), "", True)


def _bound(entries: Float[np.ndarray, "rank d"], which: str) -> float:
    return 1 / math.sqrt(entries.shape[1] if which == "A" else entries.shape[0])


def _histogram(entries: Float[np.ndarray, "rank d"], which: str) -> tuple[np.ndarray, np.ndarray]:
    """Counts of |x| in bins, and the mean of |x| in each."""
    x = np.abs(entries.reshape(-1)) / _bound(entries, which)
    near = x < TOP
    place = (np.where(near, x, 0.0) / WIDTH).astype(np.int64)
    if not near.all():
        place[~near] = FINE + np.searchsorted(TAIL, x[~near], side="right") - 1
    counts = np.bincount(place, minlength=len(CENTRES)).astype(float)
    sums = np.bincount(place, weights=x, minlength=len(CENTRES))
    return counts, np.divide(sums, counts, out=CENTRES.copy(), where=counts > 0)


def _fit(histograms: Sequence[tuple[np.ndarray, np.ndarray]], *, recorded: bool = False) -> _Fits:
    """Solve for the edge of every module, and read the movement beyond it."""
    counts, x = (np.stack(part) for part in zip(*histograms, strict=True))
    number = counts.sum(1, keepdims=True)
    share = counts / number
    edge = _first_zero(share)
    error = 0.7 / np.sqrt(number)
    length = np.sqrt(0.5 * (share * x**2)[:, :FINE].sum(1, keepdims=True) / number)
    for _ in range(STEPS):
        noise = np.pi / edge * length * np.arange(1, HARMONICS + 1)
        means, slopes, weights, weighted = _cosines(share, x, edge, noise)
        total = np.maximum((weights * slopes).sum(1, keepdims=True), 1e-12)
        step = np.clip(-edge * (weights * means).sum(1, keepdims=True) / total, -0.05 * edge, 0.05 * edge)
        edge = edge + step
        error = np.minimum(edge * np.sqrt(0.5 * (weights**2).sum(1, keepdims=True) / number) / total, 0.3)
        if np.abs(step).max() < 1e-4:
            break
    beyond = _beyond(x, edge)
    square = (share * beyond).sum(1, keepdims=True)
    value = np.sqrt((edge - 1) ** 2 + 3 * square)
    slope = square / edge - 4 * edge * (share * (2 * _turns(x, edge)) ** 2 / 4).sum(1, keepdims=True)
    influence = ((edge - 1) + 1.5 * slope) * (-edge * weighted / total) + 1.5 * (beyond - square)
    sampling = np.sqrt((share * influence**2).sum(1, keepdims=True) / number) / np.maximum(value, 1e-9)
    low = np.maximum(edge - 2 * np.maximum(error, 0.7 / np.sqrt(3 * number)), 0.05)
    upper = np.sqrt((np.abs(edge - 1) + 2 * error) ** 2 + 3 * (share * _beyond(x, low)).sum(1, keepdims=True))
    misfit = 2 * number[:, 0] * (means[:, :TESTED] ** 2).sum(1)
    return _Fits(
        number[:, 0],
        edge[:, 0],
        error[:, 0],
        value[:, 0],
        sampling[:, 0],
        np.maximum(upper, value + 1.96 * sampling)[:, 0],
        misfit,
        _edge_scores(share, x, float(np.median(edge)) if recorded else 1.0, number),
    )


def _cosines(
    share: np.ndarray, x: np.ndarray, edge: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Float[np.ndarray, "modules bins"]]:
    """Means of cos(k pi x/edge) for k = 1, 2, ..., edge times their slopes in it, weights, and the weighted cosines.

    The best weights are the slopes; those that do not stand out of their noise are shrunk to zero.
    """
    near, angle = share[:, :FINE], np.pi / edge * x[:, :FINE]
    cosine, sine = np.cos(angle), np.sin(angle)
    turned = near * angle
    before, now, before_sine, now_sine = np.ones_like(cosine), cosine, np.zeros_like(sine), sine
    means, slopes, weights = (np.empty(noise.shape) for _ in range(3))
    weighted = np.zeros(share.shape)  # entries far out count zero
    for index in range(noise.shape[1]):
        means[:, index] = (near * now).sum(1)
        slope = np.clip((index + 1) * (turned * now_sine).sum(1), -1, 1)
        slopes[:, index] = slope
        weights[:, index] = slope * np.clip(1 - STANDS_OUT * noise[:, index] ** 2 / np.maximum(slope**2, 1e-12), 0, 1)
        weighted[:, :FINE] += weights[:, index : index + 1] * now
        before, now = now, 2 * cosine * now - before
        before_sine, now_sine = now_sine, 2 * cosine * now_sine - before_sine
    return means, slopes, weights, weighted


def _turns(x: np.ndarray, edge: np.ndarray) -> np.ndarray:
    return np.floor((x / edge + 1) / 2)


def _beyond(x: np.ndarray, edge: np.ndarray) -> np.ndarray:
    """g_c(x): its mean is that of e^2."""
    turns = _turns(x, edge)
    return 4 * edge * (turns * x - edge * turns**2)


@lru_cache(maxsize=1)
def _zero_table() -> tuple[np.ndarray, np.ndarray]:
    times = np.linspace(0.25 * np.pi, 4 * np.pi, 300)
    table = np.cos(np.outer(CENTRES, times))
    table[FINE:] = 0
    return times, table


def _first_zero(share: np.ndarray) -> Float[np.ndarray, "modules 1"]:
    """The edge to begin with: pi over the first zero of the characteristic function; 1 where there is none."""
    times, table = _zero_table()
    values = share @ table
    negative = values < 0
    after = np.maximum(negative.argmax(1), 1)
    row = np.arange(len(share))
    left, right = values[row, after - 1], values[row, after]
    fall = np.where(left > right, left - right, 1.0)
    zero = times[after - 1] + (times[after] - times[after - 1]) * left / fall
    return np.where(negative.any(1), np.pi / np.maximum(zero, times[0]), 1.0)[:, None]


def _edge_scores(share: np.ndarray, x: np.ndarray, edge: float, number: np.ndarray) -> tuple[float, float]:
    """Standard deviations by which phi(pi/c) exceeds phi(pi/2c)^4, and phi beyond its first zero exceeds 0.

    Neither is negative for a mixture of normal laws; both are for a uniform part. The place c is one for all modules:
    the one that was solved for in each would make a zero of the noise.
    """
    near, x = share[:, :FINE], x[:, :FINE]
    half, whole, lobe = (np.cos(factor * np.pi / edge * x) for factor in (0.5, 1.0, LOBE))
    low = (near * half).sum(1, keepdims=True)
    scores = []
    for excess, term in (
        ((near * whole).sum(1, keepdims=True) - low**4, whole - 4 * low**3 * half),
        ((near * lobe).sum(1, keepdims=True), lobe),
    ):
        mean = (near * term).sum(1, keepdims=True)
        variance = ((near * term**2).sum(1, keepdims=True) - mean**2) / number
        scores.append(float(excess.sum() / math.sqrt(max(variance.sum(), 1e-300))))
    return scores[0], scores[1]
