"""The chance law of every value in a comparison: one law for each combination of ranks and dimension that occurs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from asym_analysis.subspaces.measures import Measure
from asym_analysis.subspaces.null import Null

__all__ = ["NullTable", "null_table"]


@dataclass(frozen=True, eq=False)
class NullTable:
    """Looks up the law of a value by the ranks of its two matrices and the dimension they live in."""

    measure: Measure
    ranks: Int[np.ndarray, "modules factors adapters"]
    sizes: Int[np.ndarray, "modules factors"]
    pairs: tuple[Int[np.ndarray, "pairs"], Int[np.ndarray, "pairs"]]
    laws: dict[tuple[int, int, int], Null] = field(default_factory=dict)

    def law(self, p: int, q: int, d: int) -> Null:
        """The law for ranks p and q in R^d, made once."""
        if (p, q, d) not in self.laws:
            self.laws[p, q, d] = self.measure.null(p, q, d)
        return self.laws[p, q, d]

    def of_module(
        self, module: int, factor: int, level: float
    ) -> tuple[Float[np.ndarray, "pairs"], Float[np.ndarray, "pairs"], Float[np.ndarray, "pairs"]]:
        """Mean, standard deviation and critical value of every pair of one module and factor."""
        return tuple(  # type: ignore[return-value]
            self._per_pair(module, factor, of)
            for of in (lambda law: law.mean, lambda law: law.std, lambda law: law.critical_value(level))
        )

    def of_modules(
        self, modules: range, values: Float[np.ndarray, "chosen factors pairs"]
    ) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
        """Mean, standard deviation and p-value of every value of some modules."""
        mean, std, p_value = (np.full(values.shape, np.nan) for _ in range(3))
        for at, module in enumerate(modules):
            for factor in range(values.shape[1]):
                for chosen, law in self._combinations(module, factor):
                    place = (at, factor, chosen)
                    mean[place], std[place] = law.mean, law.std
                    p_value[place] = law.p_value(values[place])
        return mean, std, p_value

    def _per_pair(self, module: int, factor: int, of: Callable[[Null], float]) -> np.ndarray:
        found = np.full(len(self.pairs[0]), np.nan)
        for chosen, law in self._combinations(module, factor):
            found[chosen] = of(law)
        return found

    def _combinations(self, module: int, factor: int) -> list[tuple[slice | np.ndarray, Null]]:
        """The pairs of each combination of ranks, with their law; pairs with a zero or missing factor have none."""
        ranks, size = self.ranks[module, factor], int(self.sizes[module, factor])
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


def null_table(
    measure: Measure,
    ranks: Int[np.ndarray, "modules factors adapters"],
    sizes: Int[np.ndarray, "modules factors"],
    pairs: tuple[Int[np.ndarray, "pairs"], Int[np.ndarray, "pairs"]],
) -> NullTable:
    """The table of laws of one comparison."""
    return NullTable(measure, ranks, sizes, pairs)
