"""Null distributions of similarities that see singular values: each matrix keeps its own, in random directions.

One reference distribution is sampled for two spectra, and serves all pairs of similar spectra: every pair gets a mean
and a standard deviation of its own, and takes over the standardized shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
from jaxtyping import Float
from scipy import special

from asym_analysis.chance.angles import random_cosines
from asym_analysis.chance.blocks import random_bases, random_blocks
from asym_analysis.chance.haar import rotated_trace_moments
from asym_analysis.chance.null import Null, Number
from asym_analysis.chance.overlap import overlap_null
from asym_analysis.chance.tabulated import LEAST, TabulatedNull

__all__ = [
    "ReferenceNull",
    "angle_reference",
    "cosine_reference",
    "debiased_reference",
    "fourth_moment",
    "overlap_reference",
    "procrustes_reference",
    "projection_weighted_reference",
    "regression_reference",
    "spectrum_itself",
    "third_moment",
    "trace_reference",
]

Spectrum = Float[np.ndarray, "_"]  # the k singular values of one matrix
Spectra = Float[np.ndarray, "n _"]  # of n matrices
Moments = Callable[[Spectra, Spectra], tuple[Number, Number]]

MANY = 2**14  # blocks of which a singular value decomposition is taken
FEW = 2**12  # the same for each pair of spectra, and of which distributions are mixed
WIDE = 64  # dimensions from which the limits of many dimensions hold
ROOMY = 16  # times both ranks: dimensions from which the overlap's Beta distribution is right down to LEAST
CELLS = 60  # of a mixture
TURNS = 4  # pairings of the sampled blocks of two spaces


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
    least_p: float = LEAST

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

    def bent(
        self, first: Spectrum, second: Spectrum, known: Sequence[tuple[Spectrum, Spectrum, Number]]
    ) -> ReferenceNull:
        """The same with means that a term in the squared distance from the two spectra takes near known ones.

        Parameters
        ----------
        first, second : Spectrum
            The spectra of this reference, of norm 1.
        known : sequence of tuple of (Spectrum, Spectrum, float)
            Other pairs of spectra, of norm 1, with their means.

        Returns
        -------
        ReferenceNull
            Itself where moments are exact.

        Examples
        --------
        >>> flat, steep = np.full(2, 0.5**0.5), np.array([1.0, 0.0])
        >>> reference = procrustes_reference(flat, flat, 40)
        >>> known = procrustes_reference(steep, steep, 40).null.mean
        >>> bent = reference.bent(flat, flat, [(steep, steep, known)]).between(steep[None], steep[None])
        >>> bool(abs(bent.mean[0] - known) < 1e-9)
        True
        """
        if self.moments is None:
            return self
        moments = self.moments

        def squared(x: Spectra, y: Spectra) -> Float[np.ndarray, "n"]:
            return ((x - first) ** 2).sum(-1) + ((y - second) ** 2).sum(-1)

        steps = np.array([float(squared(x[None], y[None])[0]) for x, y, _ in known])
        missed = np.array([float(mean - np.ravel(moments(x[None], y[None])[0])[0]) for x, y, mean in known])
        curve = float(steps @ missed / max(steps @ steps, 1e-300))

        def corrected(x: Spectra, y: Spectra) -> tuple[Number, Number]:
            mean, std = moments(x, y)
            return mean + curve * squared(x, y), std

        return replace(self, moments=corrected)


def third_moment(spectra: Spectra) -> Float[np.ndarray, "n 1"]:
    """What the skewness of sum c_i c'_j g_ij^2 has of c, the squares scaled to norm 1: log sum c_i^3.

    Parameters
    ----------
    spectra
        Singular values, shape (n, r), any scale.

    Returns
    -------
    array
        Shape (n, 1).

    Examples
    --------
    >>> third_moment(np.array([[1.0, 0.0], [1.0, 1.0]])).round(3).tolist()
    [[0.0], [-0.347]]
    """
    return np.log((_energy(spectra, 2) ** 3).sum(-1, keepdims=True))


def fourth_moment(spectra: Spectra) -> Float[np.ndarray, "n 1"]:
    """What the kurtosis of sum s_i s'_j g_ij h_ij has of s, of norm 1: log sum s_i^4.

    Parameters
    ----------
    spectra
        As for `third_moment`.

    Returns
    -------
    array
        Shape (n, 1).

    Examples
    --------
    >>> fourth_moment(np.array([[1.0, 0.0], [1.0, 1.0]])).round(3).tolist()
    [[0.0], [-0.693]]
    """
    return np.log((_unit(spectra) ** 4).sum(-1, keepdims=True))


def spectrum_itself(spectra: Spectra) -> Spectra:
    """The singular values, scaled to norm 1: where no one moment gives the shape of the distribution.

    Parameters
    ----------
    spectra
        As for `third_moment`.

    Returns
    -------
    array
        Shape (n, r).

    Examples
    --------
    >>> spectrum_itself(np.array([[3.0, 4.0]])).tolist()
    [[0.6, 0.8]]
    """
    return _unit(spectra)


def overlap_reference(first: Spectrum, second: Spectrum, d: int) -> ReferenceNull:
    """Overlap of random subspaces; see `overlap_null`. It is sampled in few dimensions.

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
    if min(small, other) <= 1 or d >= ROOMY * (small + other):
        return ReferenceNull(exact)
    cosines, weights, _ = random_cosines(p, q, d)
    samples = (cosines**2).sum(1) / min(p, q)
    table = TabulatedNull.of(samples, weights, moments=(float(exact.mean), float(exact.std)))
    return ReferenceNull(table, least_p=table.least_p)


def angle_reference(
    value: Callable[[Float[np.ndarray, "n k"]], Float[np.ndarray, "n"]],
    similar: bool,
    first: Spectrum,
    second: Spectrum,
    d: int,
    *,
    most: int = 2**14,
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
    most
        Number of draws, at most.

    Returns
    -------
    ReferenceNull
        Sampled; exact where one angle is free.
    """
    cosines, weights, exact = random_cosines(len(first), len(second), d, most)
    table = TabulatedNull.of(value(cosines), weights, larger_is_more_similar=similar, exact=exact)
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
    value: Callable[[Float[np.ndarray, "n p d"], Float[np.ndarray, "n q d"]], Float[np.ndarray, "n"]],
    first: Spectrum,
    second: Spectrum,
    d: int,
) -> ReferenceNull:
    """Debiased linear CKA, with coordinates as samples: mean 0, and the shape of `trace_reference`.

    Parameters
    ----------
    value
        Rows of n first and of n second matrices -> the value of each pair.
    first, second
        Singular values, shapes (p,) and (q,).
    d
        Dimension of the space.

    Returns
    -------
    ReferenceNull
        From 64 dimensions on with standard deviation (2 / (d (d - 3)))^(1/2); sampled in fewer.

    Notes
    -----
    The estimator is the inner product of two symmetric matrices, of which the second is turned at random, after a
    projection onto the d (d - 3) / 2 dimensions of matrices without diagonal and row sums.
    """
    if d < WIDE:
        large, small = sorted((first, second), key=len, reverse=True)
        x, y, weights = random_bases(len(large), len(small), d)
        table = TabulatedNull.of(value(large[:, None] * x, small[:, None] * y), weights)
        return ReferenceNull(table, least_p=table.least_p)
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
    squares, weights = _squares(len(c), len(other), d)
    table = TabulatedNull.of(squares @ np.outer(c, other).ravel(), weights, moments=_own(moments, first, second))
    return ReferenceNull(table, moments, table.least_p)


@lru_cache(maxsize=8)
def _squares(p: int, q: int, d: int) -> tuple[Float[np.ndarray, "n pq"], Float[np.ndarray, "n"]]:
    """Squared entries of every sampled block, and the blocks' weights."""
    blocks, weights = random_blocks(p, q, d)
    return np.square(blocks).reshape(len(blocks), p * q), weights


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
    std = (d_in * d_out) ** -0.5
    small, large = sorted((d_in, d_out))
    drawn, drawn_weights = random_blocks(len(s), len(t), small)
    if large < WIDE and min(len(s), len(t)) > 1:
        table = _sampled_cosines(s[:, None] * drawn * t, drawn_weights, large, std)
    else:
        table = _mixed_cosines(s[:, None] * drawn[:FEW] * t, drawn_weights[:FEW], large, std)
    return ReferenceNull(table, lambda x, y: (0.0, std), table.least_p)


def _sampled_cosines(
    terms: Float[np.ndarray, "n p q"], weights: Float[np.ndarray, "n"], d: int, std: float
) -> TabulatedNull:
    """Sum M_ij H_ij, with H a block of a random rotation of R^d, one of a few for each M."""
    others, other_weights = random_blocks(terms.shape[1], terms.shape[2], d)
    generator = np.random.default_rng(d)
    turns = [generator.permutation(len(terms)) for _ in range(TURNS)]
    samples = np.concatenate([np.einsum("nij,nij->n", terms, others[turn]) for turn in turns])
    return TabulatedNull.of(
        samples, np.concatenate([weights * other_weights[turn] for turn in turns]), moments=(0.0, std)
    )


def _mixed_cosines(
    terms: Float[np.ndarray, "n p q"], weights: Float[np.ndarray, "n"], d: int, std: float
) -> TabulatedNull:
    """The same, with the distribution over H of each M for itself: all of them together are a mixture.

    Of <M, H> the second and fourth moments are known, ||M||_F^2 / d and 3 [(d + 1) ||M||_F^4 - 2 ||M M^T||_F^2] /
    (d (d-1) (d+2)). A symmetric Beta distribution has them too, which is exact where M has rank 1.
    """
    square = np.einsum("nij,nij->n", terms, terms)
    fourth = np.square(terms @ terms.transpose(0, 2, 1)).sum((1, 2))
    kurtosis = 3 * d * (d + 1 - 2 * fourth / square**2) / ((d - 1) * (d + 2))
    # Cells of nearly one norm stand for their members.
    norm = np.sqrt(square)
    ends = np.geomspace(0.1 * norm.mean(), norm.max(), CELLS)
    cell = np.searchsorted(ends[:-1], norm)
    count = len(norm)
    mass, twice = (np.bincount(cell, values, CELLS) / count for values in (weights, weights**2))
    held = mass > 0
    of_cell = lambda values: np.bincount(cell, weights * values, CELLS)[held] / count / mass[held]  # noqa: E731
    freedom = np.clip(of_cell(kurtosis), 1.01, 3 - 1e-6)
    freedom = 2 * freedom / (3 - freedom)
    reach = np.sqrt(of_cell(square) / d * freedom)
    steps = np.concatenate([np.arange(0, 4, 0.08), np.geomspace(4, 60, 60)]) * std
    place = np.clip((1 + steps[:, None] / reach) / 2, 0, 1)
    more = special.betaincc((freedom - 1) / 2, (freedom - 1) / 2, place)
    mass, twice = mass[held], twice[held]
    tail = more @ mass - (mass.sum() - 1) * (more @ twice) / twice.sum()
    error = np.sqrt(np.maximum(more**2 @ twice - tail**2, 0.0) / count)
    known = tail > 1e-12
    both = np.concatenate([-steps[:0:-1], steps[known]])
    return TabulatedNull.of_tail(
        both,
        np.concatenate([1 - tail[:0:-1], tail[known]]),
        np.concatenate([error[:0:-1], error[known]]),
        moments=(0.0, std),
    )


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
    numerator, denominator, weights = _principal_weights(len(first), len(second), d)
    samples = (numerator @ first) / (denominator @ first)
    few = weights[:FEW] / weights[:FEW].sum()

    def moments(x: Spectra, _: Spectra) -> tuple[Number, Number]:
        distinct, place = np.unique(x, axis=0, return_inverse=True)
        values = (numerator[:FEW] @ distinct.T) / (denominator[:FEW] @ distinct.T)
        mean = few @ values
        std = np.sqrt(few @ (values - mean) ** 2)
        return mean[place.ravel()], std[place.ravel()]

    table = TabulatedNull.of(samples, weights, moments=_own(moments, first, second))
    return ReferenceNull(table, moments, table.least_p)


@lru_cache(maxsize=8)
def _principal_weights(
    p: int, q: int, d: int
) -> tuple[Float[np.ndarray, "n p"], Float[np.ndarray, "n p"], Float[np.ndarray, "n"]]:
    """sum_k |u_ik| cos_k and sum_k |u_ik| for every sampled block, and the blocks' weights."""
    drawn, weights = random_blocks(p, q, d)
    blocks, weights = drawn[:MANY], weights[:MANY]
    directions, cosines, _ = np.linalg.svd(blocks, full_matrices=False)
    shares = np.abs(directions)
    return np.einsum("nik,nk->ni", shares, np.minimum(cosines, 1.0)), shares.sum(-1), weights


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
    drawn, drawn_weights = random_blocks(len(s), len(t), d)
    blocks, weights = drawn[:FEW], drawn_weights[:FEW]
    left, values, right = np.linalg.svd(s[:, None] * blocks * t, full_matrices=False)
    angles = np.arccos(np.minimum(values.sum(-1), 1.0))
    shares = weights / weights.sum()
    middle = float(shares @ angles)
    variance = float(shares @ (angles - middle) ** 2)
    table = TabulatedNull.of(angles, weights, larger_is_more_similar=False, moments=(middle, variance**0.5))
    # The nuclear norm is sum_ij s_i G_ij t_j Q_ij with Q = U V^T, which does not change to first order.
    terms = blocks * (left @ right)
    slope = -1 / np.maximum(np.sin(angles), 1e-3)
    features = np.concatenate([(terms @ t), np.einsum("nij,i->nj", terms, s)], axis=1) * slope[:, None]
    center = shares @ features
    apart = features - center
    spread, joint = apart.T @ (shares[:, None] * apart), apart.T @ (shares * (angles - middle))

    def moments(x: Spectra, y: Spectra) -> tuple[Number, Number]:
        step = np.concatenate([x - s, y - t], axis=1)
        mean = middle + step @ center
        return mean, np.sqrt(np.maximum(variance + 2 * step @ joint + ((step @ spread) * step).sum(1), variance / 9))

    return ReferenceNull(table, moments, table.least_p)


def _unit(spectra: Spectra) -> Spectra:
    return spectra / np.linalg.norm(spectra, axis=-1, keepdims=True)


def _energy(spectra: Float[np.ndarray, "*n k"], order: int) -> Float[np.ndarray, "*n k"]:
    """Squares of singular values, scaled to have a norm of that order 1."""
    squares = spectra**2
    return squares / np.linalg.norm(squares, ord=order, axis=-1, keepdims=True)
