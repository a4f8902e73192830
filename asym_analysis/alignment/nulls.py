"""The chance law of every value in a comparison.

Two kinds of chance. Measures of subspaces know only ranks and the dimension: one law for each combination that occurs.
Measures that see singular values have two laws: with each adapter's own singular values in random directions
(strength-matched), and with equal ones (Haar), which a strong leading direction exceeds by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Int

from asym_analysis.chance.null import Null
from asym_analysis.chance.overlap import strength_null
from asym_analysis.subspaces.measures import Measure

__all__ = ["NullTable"]

PerPair = Float[np.ndarray, "pairs"]


@dataclass(frozen=True, eq=False)
class NullTable:
    """Looks up the law of a value by what its two matrices are.

    Attributes
    ----------
    spreads
        (Tr C, Tr C^3) of each matrix's Gram operator, scaled to norm 1, where the law is to be strength-matched; NaN
        where only ranks count.
    """

    measure: Measure
    ranks: Int[np.ndarray, "modules factors adapters"]
    sizes: Int[np.ndarray, "modules factors"]
    spreads: Float[np.ndarray, "modules factors adapters 2"]
    pairs: tuple[Int[np.ndarray, "pairs"], Int[np.ndarray, "pairs"]]
    laws: dict[tuple[int, int, int], Null] = field(default_factory=dict)

    @property
    def strength_matched(self) -> bool:
        """True where the law depends on singular values."""
        return bool(np.isfinite(self.spreads).any())

    def equal_strengths(self) -> NullTable:
        """The Haar law: the same ranks, with equal singular values."""
        return replace(self, spreads=np.full_like(self.spreads, np.nan), laws={})

    def law(self, p: int, q: int, d: int) -> Null:
        """The law for ranks p and q in R^d, made once."""
        if (p, q, d) not in self.laws:
            self.laws[p, q, d] = self.measure.null(p, q, d)
        return self.laws[p, q, d]

    def moments(self, module: int, factor: int) -> tuple[PerPair, PerPair]:
        """Mean and standard deviation for every pair of one module and factor."""
        return self._per_pair(module, factor, lambda law, _: law.mean), self._per_pair(
            module, factor, lambda law, _: law.std
        )

    def critical_values(self, module: int, factor: int, level: float) -> PerPair:
        """The value that chance exceeds in similarity with probability `level`, for every pair."""
        return self._per_pair(module, factor, lambda law, _: law.critical_value(level))

    def p_values(self, module: int, factor: int, values: PerPair) -> PerPair:
        """Probability under chance of values at least as similar."""
        return self._per_pair(module, factor, lambda law, chosen: law.p_value(values[chosen]))

    def _per_pair(self, module: int, factor: int, of: Callable[[Null, slice | np.ndarray], object]) -> PerPair:
        found = np.full(len(self.pairs[0]), np.nan)
        for chosen, law in self._combinations(module, factor):
            found[chosen] = of(law, chosen)
        return found

    def _combinations(self, module: int, factor: int) -> list[tuple[slice | np.ndarray, Null]]:
        """The pairs of each law, with that law; pairs with a zero or missing factor have none."""
        ranks, size, spreads = self.ranks[module, factor], int(self.sizes[module, factor]), self.spreads[module, factor]
        if np.isfinite(spreads).any():
            if self.measure.kind != "update":
                return self._own_spectra(ranks, spreads, size - self.measure.centered)
            # The cosine's tail is that of as many equal singular values as the spread amounts to.
            ranks = np.where(ranks > 0, np.maximum(np.nan_to_num(spreads[:, 0]) ** 2 + 1e-3, 1), ranks).astype(int)
        distinct = np.unique(ranks)
        if len(distinct) == 1:
            rank = int(distinct[0])
            return [(slice(None), self.law(rank, rank, size))] if rank > 0 else []
        first, second = ranks[self.pairs[0]], ranks[self.pairs[1]]
        found: list[tuple[slice | np.ndarray, Null]] = []
        for p in distinct[distinct > 0]:
            for q in distinct[distinct > 0]:
                chosen = np.flatnonzero((first == p) & (second == q))
                if len(chosen):
                    found.append((chosen, self.law(int(p), int(q), size)))
        return found

    def _own_spectra(self, ranks: np.ndarray, spreads: np.ndarray, d: int) -> list[tuple[slice | np.ndarray, Null]]:
        chosen = np.flatnonzero((ranks[self.pairs[0]] > 0) & (ranks[self.pairs[1]] > 0))
        first, second = (spreads[index[chosen]] for index in self.pairs)
        return [(chosen, strength_null(first, second, d))] if len(chosen) else []
