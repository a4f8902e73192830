"""Null distributions of similarities that see singular values: each matrix keeps its own, in random directions.

One reference distribution is sampled for two spectra, and serves all pairs of similar spectra: every pair gets a mean
and a standard deviation of its own, and takes over the standardized shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from jaxtyping import Float

from asym_analysis.chance.blocks import haar_blocks, haar_cosines
from asym_analysis.chance.haar import rotated_trace_moments
from asym_analysis.chance.null import Null, Number
from asym_analysis.chance.overlap import ProductNull, StrengthNull, overlap_null
from asym_analysis.chance.tabulated import TabulatedNull

__all__ = [
    "ReferenceNull",
    "angle_reference",
    "cosine_reference",
    "debiased_reference",
    "overlap_reference",
    "procrustes_reference",
    "projection_weighted_reference",
    "regression_reference",
    "trace_reference",
]

Spectrum = Float[np.ndarray, "_"]  # the k singular values of one matrix
Spectra = Float[np.ndarray, "n _"]  # of n matrices
Moments = Callable[[Spectra, Spectra], tuple[Number, Number]]

FEW = 2**13  # blocks of which a singular value decomposition is taken for each pair of spectra
WIDE = 64  # dimensions from which the limits of many dimensions hold for the tail


@dataclass(frozen=True, eq=False)
class ReferenceNull:
    """The null distribution of one similarity for two spectra, and for pairs of spectra that resemble them.

    Attributes
    ----------
    null
        For the two spectra themselves.
    moments
        Singular values of n first and of n second matrices -> mean and standard deviation of each pair; None where
        only the ranks count.
    least_p
        The smallest p-value that is given.
    """

    null: Null
    moments: Moments | None = None
    least_p: float = 1e-6

    def between(self, first: Spectra, second: Spectra) -> Null:
        """The null distribution for n pairs of spectra.

        Parameters
        ----------
        first, second : Spectra
            Singular values of the first and of the second matrix of each pair, shapes (n, p) and (n, q), any scale.

        Returns
        -------
        Null
            With one mean and one standard deviation for each pair, where these depend on the spectra.
        """
        if self.moments is None or not isinstance(self.null, TabulatedNull):
            return self.null
        return self.null.moved(*self.moments(_unit(first), _unit(second)))


def overlap_reference(first: Spectrum, second: Spectrum, d: int) -> ReferenceNull:
    """Overlap of random subspaces; see `overlap_null`. Its tail is sampled in few dimensions.

    Parameters
    ----------
    first, second
        Singular values, shapes (p,) and (q,), of which only the numbers p and q count.
    d
        Dimension of the space.

    Returns
    -------
    ReferenceNull
        With the exact mean and standard deviation.
    """
    p, q = len(first), len(second)
    exact = overlap_null(p, q, d)
    # Subspaces that must meet do so in p + q - d dimensions; beyond these they are like their complements.
    small, other = (p, q) if p + q <= d else (d - p, d - q)
    if min(small, other) <= 1 or d >= 2 * (small + other):
        return ReferenceNull(exact)
    samples = np.einsum("nij,nij->n", *(haar_blocks(p, q, d),) * 2) / min(p, q)
    moments = float(exact.mean), float(exact.std)
    table = TabulatedNull.of(samples, exact.low, exact.high, reference=exact, moments=moments)
    return ReferenceNull(table, least_p=table.least_p)


def angle_reference(
    value: Callable[[Float[np.ndarray, "n k"]], Float[np.ndarray, "n"]],
    similar: bool,
    first: Spectrum,
    second: Spectrum,
    d: int,
) -> ReferenceNull:
    """A function of the principal angles of random subspaces.

    Parameters
    ----------
    value
        Cosines of the principal angles of n pairs, descending -> n values.
    similar
        Whether larger values are more similar.
    first, second
        Singular values, of which only the numbers count.
    d
        Dimension of the space.

    Returns
    -------
    ReferenceNull
        Sampled.
    """
    p, q = len(first), len(second)
    if max(p, q) == d:  # one subspace is the whole space
        return _sampled(np.full(100, value(np.ones((1, min(p, q))))[0]), 0.0, 1.0, similar)
    ends = value(np.array([[1.0] * min(p, q), [1e-12] * min(p, q)]))
    samples = value(haar_cosines(p, q, d))
    return _sampled(samples, min(*ends, samples.min()), max(*ends, samples.max()), similar)


def _sampled(samples: Float[np.ndarray, "n"], low: float, high: float, similar: bool) -> ReferenceNull:
    table = TabulatedNull.of(samples, float(low), float(high), larger_is_more_similar=similar)
    return ReferenceNull(table, least_p=table.least_p)


def trace_reference(first: Spectrum, second: Spectrum, d: int) -> ReferenceNull:
    """Tr(C C') / (||C||_F ||C'||_F) with C = X^T X and C' = Y^T Y.

    Parameters
    ----------
    first, second
        Singular values of X and Y, shapes (p,) and (q,).
    d
        Dimension of the space.

    Returns
    -------
    ReferenceNull
        With exact means and standard deviations.

    References
    ----------
    docs/theory.md, sections 1.2 (e) and 4.2.
    """
    moments = partial(_trace_moments, d=d)
    return _of_traces(_energy(first, 2), _energy(second, 2), d, moments, first, second)


def _trace_moments(first: Spectra, second: Spectra, d: int) -> tuple[Number, Number]:
    ones = np.ones(len(first))
    mean, variance = rotated_trace_moments(_energy(first, 2).sum(-1), ones, _energy(second, 2).sum(-1), ones, d)
    return mean, np.sqrt(variance)


def regression_reference(first: Spectrum, second: Spectrum, d: int) -> ReferenceNull:
    """||P_Y X||_F^2 / ||X||_F^2 with P_Y the projector on the row space of Y.

    Parameters
    ----------
    first, second
        Singular values of X, shape (p,), and of Y, shape (q,), of which only the number counts.
    d
        Dimension of the space.

    Returns
    -------
    ReferenceNull
        With exact means and standard deviations.

    References
    ----------
    docs/theory.md, section 1.2 (e).
    """
    moments = partial(_regression_moments, d=d)
    return _of_traces(_energy(first, 1), np.ones(len(second)), d, moments, first, second)


def _regression_moments(first: Spectra, second: Spectra, d: int) -> tuple[Number, Number]:
    shares = _energy(first, 1)
    rank = float(second.shape[-1])
    mean, variance = rotated_trace_moments(np.ones(len(first)), (shares**2).sum(-1), rank, rank, d)
    return mean, np.sqrt(variance)


def debiased_reference(
    sampled: Callable[[Spectrum, Spectrum, int], Float[np.ndarray, "n"]], first: Spectrum, second: Spectrum, d: int
) -> ReferenceNull:
    """Debiased linear CKA, with coordinates as samples: mean 0, and the shape of `trace_reference`.

    Parameters
    ----------
    sampled
        Draws values in all d coordinates, for few dimensions.
    first, second
        Singular values, shapes (p,) and (q,).
    d
        Dimension of the space.

    Returns
    -------
    ReferenceNull
        From 64 dimensions on with standard deviation (2 / (d (d - 3)))^(1/2).

    Notes
    -----
    The estimator is the inner product of two symmetric matrices, of which the second is turned at random, after a
    projection onto the d (d - 3) / 2 dimensions of matrices without diagonal and row sums.
    """
    if d < WIDE:
        return _sampled(sampled(first, second, d), -1.0, 1.0, True)
    std = (2.0 / (d * (d - 3))) ** 0.5
    law = _of_traces(_energy(first, 2), _energy(second, 2), d, partial(_trace_moments, d=d), first, second)
    assert isinstance(law.null, TabulatedNull)
    return ReferenceNull(law.null.moved(0.0, std), lambda x, y: (0.0, std), law.least_p)


def _own(moments: Moments, first: Spectrum, second: Spectrum) -> tuple[float, float]:
    """Mean and standard deviation of one pair."""
    mean, std = moments(_unit(first[None]), _unit(second[None]))
    return float(np.ravel(mean)[0]), float(np.ravel(std)[0])


def _of_traces(
    c: Spectrum, other: Spectrum, d: int, moments: Moments, first: Spectrum, second: Spectrum
) -> ReferenceNull:
    """Sum c_i G_ij^2 c'_j over the block G of a random rotation."""
    samples = np.einsum("nij,i,j->n", haar_blocks(len(c), len(other), d) ** 2, c, other, optimize=True)
    mean, std = _own(moments, first, second)
    tail = StrengthNull(mean, std, 8**0.5 * _power(c) * _power(other)) if d >= WIDE and std > 0 else None
    low = 0.0 if len(c) + len(other) <= d else float(samples.min())
    high = float(np.sort(c)[::-1][: len(other)] @ np.sort(other)[::-1][: len(c)])
    high = max(high, float(samples.max()))
    table = TabulatedNull.of(samples, low, high, reference=tail, moments=(mean, std))
    return ReferenceNull(table, moments, table.least_p)


def _power(c: Spectrum) -> float:
    return float((c**3).sum() / (c**2).sum() ** 1.5)


def cosine_reference(first: Spectrum, second: Spectrum, d_in: int, d_out: int) -> ReferenceNull:
    """Cosine of two updates: mean 0, variance 1 / (d_in d_out), exactly.

    Parameters
    ----------
    first, second
        Singular values, shapes (p,) and (q,).
    d_in, d_out
        Shape of the update.

    Returns
    -------
    ReferenceNull
        With the exact standard deviation.

    References
    ----------
    docs/theory.md, section 4.2.
    """
    s, t = (_unit(values[None])[0] for values in (first, second))
    inputs, outputs = haar_blocks(len(s), len(t), d_in), haar_blocks(len(s), len(t), d_out, stream=1)
    samples = np.einsum("nij,nij,i,j->n", inputs, outputs, s, t, optimize=True)
    std = (d_in * d_out) ** -0.5
    terms = max(1, round(1 / float((s**4).sum() * (t**4).sum())))
    table = TabulatedNull.of(
        samples, -1.0, 1.0, reference=ProductNull(std, terms) if d_in * d_out >= WIDE else None, moments=(0.0, std)
    )
    return ReferenceNull(table, lambda x, y: (0.0, std), table.least_p)


def projection_weighted_reference(first: Spectrum, second: Spectrum, d: int) -> ReferenceNull:
    """Sum w_k cos_k / sum w_k with w_k = sum_i s_i |u_ik|, u_k the principal directions in X's singular vectors.

    Parameters
    ----------
    first, second
        Singular values of X, shape (p,), and of Y, shape (q,), of which only the number counts.
    d
        Dimension of the space.

    Returns
    -------
    ReferenceNull
        Sampled; means and standard deviations of other spectra are those of the same samples.
    """
    numerator, denominator = _principal_weights(len(first), len(second), d)
    samples = (numerator @ first) / (denominator @ first)
    table = TabulatedNull.of(samples, float(samples.min()) * 0.5, 1.0)

    def moments(x: Spectra, _: Spectra) -> tuple[Number, Number]:
        distinct, place = np.unique(x, axis=0, return_inverse=True)
        found = np.empty((len(distinct), 2))
        for index, spectrum in enumerate(distinct):
            values = (numerator[:FEW] @ spectrum) / (denominator[:FEW] @ spectrum)
            found[index] = values.mean(), values.std()
        return found[place.ravel(), 0], found[place.ravel(), 1]

    return ReferenceNull(table, moments, table.least_p)


@lru_cache(maxsize=16)
def _principal_weights(p: int, q: int, d: int) -> tuple[Float[np.ndarray, "n p"], Float[np.ndarray, "n p"]]:
    """sum_k |u_ik| cos_k and sum_k |u_ik| for every sampled block."""
    directions, cosines, _ = np.linalg.svd(haar_blocks(p, q, d), full_matrices=False)
    weights = np.abs(directions)
    return np.einsum("nik,nk->ni", weights, np.minimum(cosines, 1.0)), weights.sum(-1)


def procrustes_reference(first: Spectrum, second: Spectrum, d: int) -> ReferenceNull:
    """The angle arccos(||S G S'||_*) with S and S' diagonal of norm 1 and G a block of a random rotation.

    Parameters
    ----------
    first, second
        Singular values, shapes (p,) and (q,).
    d
        Dimension of the space.

    Returns
    -------
    ReferenceNull
        Sampled; means and standard deviations of other spectra to first order in the difference of the spectra.
    """
    s, t = (_unit(values[None])[0] for values in (first, second))
    blocks = haar_blocks(len(s), len(t), d)[:FEW]
    left, values, right = np.linalg.svd(s[:, None] * blocks * t, full_matrices=False)
    cosines = np.minimum(values.sum(-1), 1.0)
    angles = np.arccos(cosines)
    table = TabulatedNull.of(angles, 0.0, np.pi / 2, larger_is_more_similar=False)
    # The nuclear norm is sum_ij s_i G_ij t_j Q_ij with Q = U V^T, which does not change to first order.
    terms = blocks * (left @ right)
    slope = -1 / np.maximum(np.sin(angles), 1e-3)
    features = np.concatenate([(terms @ t), np.einsum("nij,i->nj", terms, s)], axis=1) * slope[:, None]
    center, spread = features.mean(0), np.cov(features, rowvar=False)
    joint = (features - center).T @ (angles - angles.mean()) / len(angles)
    variance = float(angles.var())

    def moments(x: Spectra, y: Spectra) -> tuple[Number, Number]:
        step = np.concatenate([x - s, y - t], axis=1)
        mean = angles.mean() + step @ center
        return mean, np.sqrt(np.maximum(variance + 2 * step @ joint + ((step @ spread) * step).sum(1), variance / 9))

    return ReferenceNull(table, moments, table.least_p)


def _unit(spectra: Spectra) -> Spectra:
    return spectra / np.linalg.norm(spectra, axis=-1, keepdims=True)


def _energy(spectra: Float[np.ndarray, "*n k"], order: int) -> Float[np.ndarray, "*n k"]:
    """Squares of singular values, scaled to have a norm of that order 1."""
    squares = spectra**2
    return squares / np.linalg.norm(squares, ord=order, axis=-1, keepdims=True)
