"""The null distribution of every value in a comparison.

Measures of subspaces know only ranks and the dimension: one distribution for each combination that occurs. Measures
that see singular values have two: with each adapter's own singular values in random directions, and with equal ones
(Haar), which a strong leading direction exceeds by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from asym_analysis.chance.spectral import ReferenceNull
from asym_analysis.subspaces.measures import Measure

__all__ = ["NullTable"]

WIDTH = 0.2  # of a class, at least: factor by which the participation of its spectra differs, as a logarithm
TIGHT = 10  # dimensions below which the shape of the distribution depends on each spectrum
SAME = 1e-3  # largest difference of spectra, of norm 1, that are alike
COARSE = 0.05  # smallest p-value there, unless all spectra are alike
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
    references: dict[tuple[int, ...], ReferenceNull] = field(default_factory=dict)
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
            Arrays of one entry a pair, NaN where a factor is zero or missing: null_mean, null_std, p_value, least_p
            (the smallest p-value that the distribution can give), and where the measure sees singular values haar_mean
            and haar_std.
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
        """The pairs of each two classes: their reference distribution, its least p-value, and both sides' spectra."""
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
                self.references[key] = self.measure.null(first_kind, second_kind, *size)
            reference = self.references[key]
            alike = classes.alike[one] and (free or classes.alike[other])
            least = reference.least_p if alike or min(size) >= TIGHT else max(reference.least_p, COARSE)
            x = self._strengths(module, factor, left[chosen], len(first_kind))
            y = self._strengths(module, factor, right[chosen], len(second_kind))
            yield chosen, reference, least, x, y

    def _strengths(self, module: int, factor: int, adapters: np.ndarray, rank: int) -> Float[np.ndarray, "n k"]:
        if not self.measure.sees_strengths:
            return np.broadcast_to(1.0, (len(adapters), rank))
        return self.spectra[module, factor][adapters, :rank]

    def _equal(self, p: int, q: int, size: tuple[int, ...]) -> ReferenceNull:
        if (p, q, *size) not in self.haar:
            self.haar[p, q, *size] = self.measure.null(np.ones(p), np.ones(q), *size)
        return self.haar[p, q, *size]

    def _size(self, module: int, factor: int) -> tuple[int, ...]:
        d_out, d_in = (int(size) for size in self.shapes[module])
        name = self.factors[factor]
        return (d_in, d_out) if name == "update" else (d_in,) if name in ("A", "right") else (d_out,)

    @cached_property
    def _classes(self) -> _Classes:
        """Spectra of one rank are of one class where their participation, (sum s^2)^2 / sum s^4, is nearly the same."""
        labels = np.full(self.ranks.shape, -1)
        kinds: list[np.ndarray] = []
        alike: list[bool] = []
        for rank in np.unique(self.ranks[self.ranks > 0]):
            where = np.nonzero(self.ranks == rank)
            if not self.measure.sees_strengths:
                labels[where] = len(kinds)
                kinds.append(np.ones(int(rank)))
                alike.append(True)
                continue
            spectra = self.spectra[where][:, : int(rank)]
            spectra = spectra / np.linalg.norm(spectra, axis=1, keepdims=True)
            spread = -np.log((spectra**4).sum(1))
            low, width = spread.min(), float(np.ptp(spread))
            count = min(max(math.ceil(width / WIDTH), 1), self.measure.classes)
            bins = np.minimum(((spread - low) / max(width, 1e-9) * count).astype(int), count - 1)
            for one in np.unique(bins):
                members = np.flatnonzero(bins == one)
                middle = members[np.argsort(spread[members])[len(members) // 2]]
                labels[tuple(index[members] for index in where)] = len(kinds)
                kinds.append(spectra[middle])
                alike.append(bool(np.abs(spectra[members] - spectra[middle]).max() < SAME))
        return _Classes(labels, kinds, alike)


@dataclass(frozen=True)
class _Classes:
    """Classes of spectra: the label of each matrix, -1 for none, a spectrum for each label, and if all are that one."""

    labels: Int[np.ndarray, "modules factors adapters"]
    kinds: list[Float[np.ndarray, "_"]]
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
