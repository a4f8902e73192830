"""The null distribution of every value in a comparison.

Measures of subspaces know only ranks and the dimension: one distribution for each combination that occurs. Measures
that see singular values have two: with each adapter's own singular values in random directions, and with equal ones
(Haar), which a strong leading direction exceeds by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from asym_analysis.chance.spectral import ReferenceNull, spectrum_itself
from asym_analysis.chance.tabulated import TabulatedNull
from asym_analysis.subspaces.measures import Measure

__all__ = ["NullTable"]

NEAR = 0.1  # distance of shapes up to which spectra are of one class
SAME = 1e-5  # largest difference of spectra, of norm 1, that are alike
# p-values at which the distribution of a class is held to its members', and the factors by which it may give less.
CHECKED = ((0.05, 1.3), (0.01, 1.5), (1e-3, 2.0), (1e-4, 2.0), (1e-5, 2.0), (1e-6, 2.0))
ROOMY = 64  # dimensions from which the end of the longer tail tells for both
UNKNOWN = 0.5  # smallest p-value where it fails the first of them
PerPair = Float[np.ndarray, "pairs"]
Chosen = slice | Int[np.ndarray, "chosen"]


@dataclass(frozen=True, eq=False)
class NullTable:
    """Looks up the null distribution of a value by what its two matrices are.

    Attributes
    ----------
    measure
        What was measured.
    factors
        Names of the factors, in order.
    ranks
        Module x factor x adapter; 0 for a zero factor, -1 where the adapter lacks the module.
    shapes
        Module x 2: d_out and d_in.
    spectra
        Module x factor x adapter x index: singular values, where the distribution depends on them.
    pairs
        Indices i and j of every pair.
    """

    measure: Measure
    factors: tuple[str, ...]
    ranks: Int[np.ndarray, "modules factors adapters"]
    shapes: Int[np.ndarray, "modules 2"]
    spectra: Float[np.ndarray, "modules factors adapters k"]
    pairs: tuple[Int[np.ndarray, "pairs"], Int[np.ndarray, "pairs"]]
    references: dict[tuple[int, ...], tuple[ReferenceNull, float]] = field(default_factory=dict)
    haar: dict[tuple[int, ...], ReferenceNull] = field(default_factory=dict)

    def columns(self, module: int, factor: int, values: PerPair) -> dict[str, PerPair]:
        """The null distribution of every pair of one module and factor.

        Parameters
        ----------
        module, factor
            Indices.
        values
            The value of every pair.

        Returns
        -------
        dict
            Arrays of one entry a pair: null_mean, null_std, p_value, least_p (the smallest p-value that is given), and
            where the measure sees singular values haar_mean and haar_std. NaN where a factor is zero or missing, or
            where each of its rows counts for itself.
        """
        names = ["null_mean", "null_std", "p_value", "least_p"]
        names += ["haar_mean", "haar_std"] if self.measure.sees_strengths else []
        found = {name: np.full(len(self.pairs[0]), np.nan) for name in names}
        for chosen, reference, least, first, second in self._combinations(module, factor):
            null = reference.between(first, second)
            found["null_mean"][chosen], found["null_std"][chosen] = null.mean, null.std
            p_value = np.maximum(null.p_value(values[chosen]), least)
            found["p_value"][chosen] = p_value
            found["least_p"][chosen] = np.where(np.isnan(p_value), np.nan, least)
            if self.measure.sees_strengths:
                equal = self._equal(first.shape[1], second.shape[1], self._size(module, factor)).null
                found["haar_mean"][chosen], found["haar_std"][chosen] = equal.mean, equal.std
        return found

    def means(self, module: int, factor: int) -> PerPair:
        """Mean of the null distribution for every pair of one module and factor.

        Parameters
        ----------
        module, factor
            Indices.

        Returns
        -------
        array
            One entry a pair; NaN where a factor is zero or missing.
        """
        found = np.full(len(self.pairs[0]), np.nan)
        for chosen, reference, _, first, second in self._combinations(module, factor):
            found[chosen] = reference.between(first, second).mean
        return found

    def _combinations(
        self, module: int, factor: int
    ) -> Iterator[tuple[Chosen, ReferenceNull, float, Float[np.ndarray, "n p"], Float[np.ndarray, "n q"]]]:
        """The pairs of each two classes: their reference distribution, its least p-value, and both sides' spectra.

        None where the measure sees more than singular values: how the rows of a stored factor are mixed.
        """
        if "orthogonal" not in self.measure.invariances and self.factors[factor] in ("A", "B"):
            return
        classes = self._classes
        own = classes.labels[module, factor]
        size = self._size(module, factor)
        left, right = self.pairs
        first, second = own[left], own[right]
        if "symmetric" in self.measure.invariances:  # one distribution serves both orders
            swapped = first > second
            left, right = np.where(swapped, right, left), np.where(swapped, left, right)
            first, second = own[left], own[right]
        for chosen, one, other in _runs(first, second):
            first_kind, second_kind = classes.kinds[one], classes.kinds[other]
            # Where Y counts by its row space alone, its rank is all there is to know of it.
            free = "gauge of y" in self.measure.invariances
            key = (one, -len(second_kind) if free else other, *sorted(size))
            if key not in self.references:
                self.references[key] = self._held(one, other, free, size)
            reference, least = self.references[key]
            x = self._strengths(module, factor, left[chosen], first_kind, classes.alike[one])
            y = self._strengths(module, factor, right[chosen], second_kind, classes.alike[other])
            yield chosen, reference, least, x, y

    def _strengths(
        self, module: int, factor: int, adapters: np.ndarray, kind: np.ndarray, alike: bool
    ) -> Float[np.ndarray, "n k"]:
        if alike:  # to the last digit: near the end of a distribution rounding counts
            return np.broadcast_to(kind, (len(adapters), len(kind)))
        return self.spectra[module, factor][adapters, : len(kind)]

    def _equal(self, p: int, q: int, size: tuple[int, ...]) -> ReferenceNull:
        if (p, q, *size) not in self.haar:
            self.haar[p, q, *size] = self.measure.null(np.ones(p), np.ones(q), *size)
        return self.haar[p, q, *size]

    def _size(self, module: int, factor: int) -> tuple[int, ...]:
        d_out, d_in = (int(size) for size in self.shapes[module])
        name = self.factors[factor]
        return (d_in, d_out) if name == "update" else (d_in,) if name in ("A", "right") else (d_out,)

    def _held(self, one: int, other: int, free: bool, size: tuple[int, ...]) -> tuple[ReferenceNull, float]:
        """The distribution of two classes, and the p-value down to which it is that of the members at their ends.

        Where the moments of other spectra are known to first order, these members bend them.
        """
        classes, measure = self._classes, self.measure
        first, second = classes.kinds[one], np.ones(len(classes.kinds[other])) if free else classes.kinds[other]
        reference = measure.null(first, second, *size)
        if classes.alike[one] and (free or classes.alike[other]):
            return reference, reference.least_p
        others = (second, second) if free else classes.ends[other]
        pairs = list(zip(classes.ends[one], others, strict=True))
        if min(size) >= ROOMY and measure.shape is not spectrum_itself:
            pairs = pairs[:1]
        laws = [measure.null(x, y, *size).null for x, y in pairs]
        own = [(x, y, law) for (x, y), law in zip(pairs, laws, strict=True) if isinstance(law, TabulatedNull)]
        if measure.shape is spectrum_itself and not free:
            reference = reference.bent(first, second, [(x, y, law.mean) for x, y, law in own])
        return reference, _floor(reference, own)

    @cached_property
    def _classes(self) -> _Classes:
        """Spectra of one rank are of one class where the shape of the distribution is nearly the same."""
        labels = np.full(self.ranks.shape, -1)
        kinds: list[np.ndarray] = []
        ends: list[tuple[np.ndarray, np.ndarray]] = []
        alike: list[bool] = []
        for rank in np.unique(self.ranks[self.ranks > 0]):
            where = np.nonzero(self.ranks == rank)
            if not self.measure.sees_strengths:
                labels[where] = len(kinds)
                kinds.append(np.ones(int(rank)))
                ends.append((kinds[-1], kinds[-1]))
                alike.append(True)
                continue
            spectra = self.spectra[where][:, : int(rank)]
            spectra = spectra / np.linalg.norm(spectra, axis=1, keepdims=True)
            shapes = self.measure.shape(spectra)
            bins = _nearest_centers(shapes, self.measure.classes)
            for one in np.unique(bins):
                members = np.flatnonzero(bins == one)
                middle = members[_distance(shapes[members], shapes[members].mean(0)).argmin()]
                labels[tuple(index[members] for index in where)] = len(kinds)
                kinds.append(spectra[middle])
                alike.append(bool(np.abs(spectra[members] - spectra[middle]).max() < SAME))
                # A moment: where it is largest the tail is longest.
                order = shapes[members, 0] if shapes.shape[1] == 1 else _distance(shapes[members], shapes[middle])
                far = members[order.argmax()]
                opposite = members[_distance(shapes[members], shapes[far]).argmax()]
                ends.append((spectra[far], spectra[opposite]))
        return _Classes(labels, kinds, ends, alike)


def _floor(reference: ReferenceNull, own: list[tuple[np.ndarray, np.ndarray, TabulatedNull]]) -> float:
    """The smallest p-value down to which a distribution is near enough to those of other spectra."""
    least = max([reference.least_p, *(law.least_p for _, _, law in own)])
    floor = UNKNOWN
    for level, factor in ((max(level, least), factor) for level, factor in CHECKED):
        for x, y, law in own:
            value = np.array([law.critical_value(level)])
            if reference.between(x[None], y[None]).p_value(value)[0] < level / factor:
                return floor
        floor = level
    return floor


def _distance(shapes: Float[np.ndarray, "n k"], center: Float[np.ndarray, "k"]) -> Float[np.ndarray, "n"]:
    return np.linalg.norm(shapes - center, axis=1)


def _nearest_centers(shapes: Float[np.ndarray, "n k"], most: int) -> Int[np.ndarray, "n"]:
    """Which center is nearest to each: the next center is what is farthest from those before (Gonzalez 1985)."""
    nearest = np.zeros(len(shapes), dtype=int)
    apart = _distance(shapes, shapes[_distance(shapes, shapes.mean(0)).argmin()])
    for one in range(1, most):
        far = int(apart.argmax())
        if apart[far] < NEAR:
            break
        closer = _distance(shapes, shapes[far])
        nearest[closer < apart] = one
        apart = np.minimum(apart, closer)
    return nearest


@dataclass(frozen=True)
class _Classes:
    """Classes of spectra: the label of each matrix, -1 for none; of each label a spectrum, its ends, if all agree.

    The first end is that of the longest tail, where the shape tells which one that is.
    """

    labels: Int[np.ndarray, "modules factors adapters"]
    kinds: list[Float[np.ndarray, "_"]]
    ends: list[tuple[Float[np.ndarray, "_"], Float[np.ndarray, "_"]]]
    alike: list[bool]


def _runs(first: Int[np.ndarray, "pairs"], second: Int[np.ndarray, "pairs"]) -> Iterator[tuple[Chosen, int, int]]:
    """The places of each combination of two labels, without those of which one is negative."""
    if len(first) and first.min() == first.max() >= 0 and second.min() == second.max() >= 0:
        yield slice(None), int(first[0]), int(second[0])
        return
    codes = np.where((first < 0) | (second < 0), -1, first * (second.max(initial=0) + 1) + second)
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-2))
    for chosen in np.split(order, starts[1:]):
        if len(chosen) and codes[chosen[0]] >= 0:
            yield chosen, int(first[chosen[0]]), int(second[chosen[0]])
