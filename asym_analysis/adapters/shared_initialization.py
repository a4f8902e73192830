"""Which adapters were initialized from the same random factor, module by module."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.adapters.initialization import AGAINST, POOLED, marks
from asym_analysis.adapters.initialization_evidence import DEVIATIONS, GROWN, LEAST_COSINE, LEAST_RANK, Evidence
from asym_analysis.adapters.known_initializations import initial_squares, laws_by_module
from asym_analysis.adapters.load import as_adapters
from asym_analysis.adapters.module_evidence import module_evidence
from asym_analysis.adapters.module_names import place
from asym_analysis.adapters.random_factors import random_factors
from asym_analysis.results import Result, settings_of
from asym_analysis.vocabulary import FACTORS, Factor

__all__ = ["SharedInitialization", "shared_initialization"]

COLUMNS = ["adapter_i", "adapter_j", "module", "layer", "projection", "factor", "cosine", "null_std", "shared"]


@dataclass(frozen=True, eq=False)
class SharedInitialization(Result):
    """Which adapters share the initialization of a factor, module by module.

    The columns of `frame`, one row a pair, module and factor that was random in both: adapter_i, adapter_j, module,
    layer, projection, factor, cosine (of the polar factors' rows), null_std (its standard deviation between independent
    initializations that hardly moved), shared ("yes", "no" or "cannot tell"). "No" means ruled out: of pairs that share
    their initialization at most 5 % are told so. Where that power is missing, the answer is "cannot tell".

    Attributes
    ----------
    names
        The adapters, in order.
    cosines, marks
        (module, factor) -> adapters x adapters: the cosine (NaN where the factor was not random in both, or the sizes
        differ), and 1 where the initialization is shared, 0 where that is ruled out, -1 where it is unknown.
    sizes
        (module, factor) -> (rank of each adapter's factor, 0 where it has none to compare; d).
    settings
        How the test was made.
    """

    names: tuple[str, ...]
    cosines: Mapping[tuple[str, str], Float[np.ndarray, "adapters adapters"]]
    marks: Mapping[tuple[str, str], Int[np.ndarray, "adapters adapters"]]
    sizes: Mapping[tuple[str, str], tuple[tuple[int, ...], int]]
    settings: Mapping[str, Any]

    def shared(self, module: str, factor: str | None = None) -> Bool[np.ndarray, "adapters adapters"]:
        """True where two adapters share the initialization of A (factor="A") or B, by default of either.

        Parameters
        ----------
        module
            The module's name.
        factor
            "A" or "B"; either by default.
        """
        found = np.zeros((len(self.names),) * 2, dtype=bool)
        for name in FACTORS if factor is None else (factor,):
            if (module, name) in self.marks:
                found |= self.marks[module, name] == 1
        return found

    @cached_property
    def agreement(self) -> Float[np.ndarray, "adapters adapters"]:
        """Share of the modules and factors that two adapters share, among those where it is known."""
        same = np.zeros((len(self.names),) * 2)
        told = np.zeros_like(same)
        for mark in self.marks.values():
            told += mark >= 0
            same += mark == 1
        return np.divide(same, told, out=np.zeros_like(same), where=told > 0)

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Groups of two or more adapters, linked where they share at least half of the modules where it is known."""
        return self._components(self.agreement >= 0.5)

    def groups_of(self, module: str, factor: str | None = None) -> tuple[tuple[str, ...], ...]:
        """Groups of two or more adapters that share the initialization of one module.

        Parameters
        ----------
        module
            The module's name.
        factor
            "A" or "B"; either by default.
        """
        return self._components(self.shared(module, factor))

    def _components(self, linked: Bool[np.ndarray, "adapters adapters"]) -> tuple[tuple[str, ...], ...]:
        from scipy.sparse.csgraph import connected_components

        _, labels = connected_components(linked, directed=False)
        members = [
            [name for name, own in zip(self.names, labels, strict=True) if own == label] for label in set(labels)
        ]
        return tuple(
            sorted((tuple(group) for group in members if len(group) > 1), key=lambda g: self.names.index(g[0]))
        )

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row a pair, module and factor; the columns stand in the class's docstring."""
        upper = np.triu_indices(len(self.names), 1)
        names = np.asarray(self.names, dtype=object)
        words = np.asarray(["no", "yes", "cannot tell"], dtype=object)  # of 0, 1, -1
        parts = []
        for (module, factor), cosine in self.cosines.items():
            keep = np.isfinite(cosine[upper])
            first, second = upper[0][keep], upper[1][keep]
            ranks, size = np.asarray(self.sizes[module, factor][0]), self.sizes[module, factor][1]
            part = pd.DataFrame({"adapter_i": names[first], "adapter_j": names[second]}).assign(**place(module))
            part["factor"] = factor
            part["cosine"] = cosine[first, second].astype(float)
            part["null_std"] = (np.minimum(ranks[first], ranks[second]) * float(size)) ** -0.5
            part["shared"] = words[self.marks[module, factor][first, second]]
            parts.append(part)
        whole = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)
        return whole[COLUMNS].astype({"layer": "Int64"})

    def summary(self) -> pd.DataFrame:
        """One row a group of adapters that share the initialization of at least one module.

        Returns
        -------
        DataFrame
            adapters, count, modules (shared by at least two of them), of_modules (comparable between two of them), and
            least_share_of_modules, the least share on which a pair of them agrees.
        """
        rows = []
        linked = np.any([mark == 1 for mark in self.marks.values()], axis=0) if self.marks else np.zeros((0, 0), bool)
        for group in self._components(linked) if self.marks else ():
            members = np.ix_(*[[self.names.index(name) for name in group]] * 2)
            pairs = np.triu_indices(len(group), 1)
            shared = {module for (module, _), mark in self.marks.items() if (mark[members][pairs] == 1).any()}
            told = {module for (module, _), mark in self.marks.items() if (mark[members][pairs] >= 0).any()}
            least = self.agreement[members][pairs].min()
            rows.append((", ".join(group), len(group), len(shared), len(told), least))
        columns = ["adapters", "count", "modules", "of_modules", "least_share_of_modules"]
        return pd.DataFrame(rows, columns=columns)

    def __repr__(self) -> str:
        return f"SharedInitialization({len(self.names)} adapters, {len(self.groups)} groups)"


def shared_initialization(
    adapters: AdapterSet | str | os.PathLike[str] | Iterable[Adapter | str | os.PathLike[str]],
) -> SharedInitialization:
    """Find the adapters that share the random initialization of A (or B, where B was random), from the files alone.

    Recorded initial factors stand in for the trained ones where an adapter has them. The rule is the one of
    `asym_analysis.adapters.initialization`, which also says what it rests on. benchmarks/results/
    shared_initialization.csv holds its power and its false marks by rank, width and movement.

    Parameters
    ----------
    adapters : AdapterSet, path or iterable of Adapter or path
        The trained adapters, or anything that `load_adapters` reads.

    Returns
    -------
    SharedInitialization
        The marks of every module, and groups of adapters.

    Raises
    ------
    AdapterError
        If a path cannot be read.

    Examples
    --------
    >>> import torch
    >>> generator = torch.Generator().manual_seed(0)
    >>> start, other = torch.randn(2, 4, 64, generator=generator)
    >>> run = lambda name, A: Adapter.from_factors({"q": (A, torch.ones(16, 4))}, name=name)
    >>> shared_initialization([run("a", start), run("b", start), run("c", other)]).groups
    (('a', 'b'),)
    """
    runs = as_adapters(adapters)
    randomly = [random_factors(adapter) for adapter in runs]
    laws_of_each = [laws_by_module(adapter) for adapter in runs]
    cosines: dict[tuple[str, str], np.ndarray] = {}
    evidence: dict[Factor, dict[str, Evidence]] = {"A": {}, "B": {}}
    sizes: dict[tuple[str, str], tuple[tuple[int, ...], int]] = {}
    for module in runs.modules:
        held = {
            index: run.initial[module] if run.initial is not None and module in run.initial else run[module]
            for index, run in enumerate(runs)
            if module in run
        }
        factors_of = {index: randomly[index][module] for index in held}
        lengths: dict[int, Mapping[Factor, tuple[float, ...]]] = {
            index: initial_squares(laws_of_each[index](module), update.rank, update.d_in, update.d_out)
            for index, update in held.items()
        }
        for index, run in enumerate(runs):
            if run.initial is not None and module in run.initial and index in held:
                lengths[index] = {factor: (held[index].factor_norm(factor) ** 2,) for factor in FACTORS}
        for factor, (cosine, told) in module_evidence(held, factors_of, len(runs), initial=lengths).items():
            cosines[module, factor], evidence[factor][module] = cosine, told
            ranks = tuple(held[i].rank if factor in factors_of.get(i, ()) else 0 for i in range(len(runs)))
            largest = max((u.d_in if factor == "A" else u.d_out) for u in held.values())
            sizes[module, factor] = (ranks, largest)
    found: dict[tuple[str, str], np.ndarray] = {
        (module, factor): mark
        for factor, of_modules in evidence.items()
        if of_modules
        for module, mark in zip(of_modules, marks(list(of_modules.values())), strict=True)
    }
    settings = settings_of(
        null_standard_deviations=DEVIATIONS,
        pooled_standard_deviations=POOLED,
        standard_deviations_against=AGAINST,
        most_growth_of_the_squared_length=GROWN,
        least_cosine=LEAST_COSINE,
        least_rank_of_one_module=LEAST_RANK,
        random_factors={
            name: sorted({factor for factors in of_run.values() for factor in factors})
            for name, of_run in zip(runs.names, randomly, strict=True)
        },
        recorded=[name for name, run in zip(runs.names, runs, strict=True) if run.initial is not None],
    )
    return SharedInitialization(runs.names, cosines, {key: found[key] for key in cosines}, sizes, settings)
