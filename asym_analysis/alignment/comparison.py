"""The result of comparing adapters: every pair, module and factor, with what chance and initialization explain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy.sparse.csgraph import connected_components

from asym_analysis._deprecated import warn
from asym_analysis.adapters.module_names import place
from asym_analysis.adapters.runs import runs_of_sources
from asym_analysis.alignment.contrasts import Contrast, Correction, contrast_pairs, is_listed
from asym_analysis.alignment.nulls import NullTable
from asym_analysis.codec import decode, encode
from asym_analysis.results import Result
from asym_analysis.subspaces.measures import measure_named

__all__ = ["SubspaceComparison"]

EQUAL = 1e-5  # distance from the value of equal adapters up to which two are copies
LEVEL = 0.01  # of the share of significant values in the summary


@dataclass(frozen=True, eq=False)
class SubspaceComparison(Result):
    """Similarity of every pair of adapters, in every module and factor.

    Attributes
    ----------
    adapters
        One row an adapter: its name and whatever is known of it (task, seed, rank, step, ...).
    modules, factors, measure
        What was compared, and how.
    values
        Module x factor x pair, pairs i < j in the order of `numpy.triu_indices(n, 1)`. NaN where an adapter lacks the
        module or the factor is zero.
    ranks
        Numerical ranks, module x factor x adapter; -1 where the adapter lacks the module, 0 for a zero factor.
    shapes
        Module x 2: d_out and d_in.
    spectra
        Module x factor x adapter x index: singular values, zero beyond the rank; without columns for measures that do
        not see them.
    initialization_marks
        Module x pair: 1 where both were initialized from the same A, or the same B, 0 where that is ruled out, -1
        where it is unknown. The rule is the one of `asym_analysis.adapters.initialization`.
    settings
        Arguments and versions.
    frame
        One row a module, factor and pair. Columns:

        - adapter_i, adapter_j, module, layer, projection, factor, measure
        - value: NaN where a factor is zero
        - null_mean, null_std: of the null distribution, independent random directions; where the measure sees singular
          values, it keeps each adapter's own
        - p_value: probability under it of a value at least as similar; missing, as all of these, for "pwcca" of stored
          factors, whose rows count each for itself
        - least_p: the smallest p-value that it can give; a p_value equal to it means "below"
        - rank_i, rank_j: numerical ranks
        - same_initialization: in this module; missing where that is unknown
        - haar_mean, haar_std: of the null distribution with equal singular values, where the measure sees them
    """

    adapters: pd.DataFrame
    modules: tuple[str, ...]
    factors: tuple[str, ...]
    measure: str
    values: Float[np.ndarray, "modules factors pairs"]
    ranks: Int[np.ndarray, "modules factors adapters"]
    shapes: Int[np.ndarray, "modules 2"]
    spectra: Float[np.ndarray, "modules factors adapters k"]
    initialization_marks: Int[np.ndarray, "modules pairs"]
    settings: Mapping[str, Any]
    _plot: ClassVar[str | None] = "alignment:plot_subspace_alignment"

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters, in order."""
        return tuple(self.adapters["name"])

    @cached_property
    def pairs(self) -> tuple[Int[np.ndarray, "pairs"], Int[np.ndarray, "pairs"]]:
        """Indices i and j of every pair, i < j."""
        first, second = np.triu_indices(len(self.adapters), 1)
        return first, second

    @property
    def same_start(self) -> Int[np.ndarray, "modules pairs"]:
        """Deprecated name of `initialization_marks`."""
        warn("SubspaceComparison.same_start", "initialization_marks")
        return self.initialization_marks

    @cached_property
    def same_initialization(self) -> Bool[np.ndarray, "pairs"]:
        """True for pairs that share their initialization in at least half of the modules where that is known."""
        told = (self.initialization_marks >= 0).sum(0)
        return (told > 0) & (2 * (self.initialization_marks == 1).sum(0) >= told)

    def labels(self, by: str) -> Int[np.ndarray, "adapters"]:
        """A number for each distinct value of a column of `adapters`, -1 where it is missing.

        "initialization" numbers the groups that are linked by a shared initialization, unless the table has such a
        column; it is missing for an adapter of which no other is known to share it or not.

        Returns
        -------
        array of int64, shape (adapters,)
            In the order of `adapters`.

        Raises
        ------
        ValueError
            If the table has no such column; the message lists those it has.
        """
        if by in self.adapters:
            return self.adapters[by].factorize()[0].astype(np.int64)
        if by == "initialization":
            linked = np.zeros((len(self.adapters),) * 2, dtype=bool)
            linked[self.pairs] = self.same_initialization
            numbers = connected_components(linked, directed=False)[1].astype(np.int64)
            told = (self.initialization_marks >= 0).any(0)
            known = np.isin(np.arange(len(numbers)), np.concatenate([index[told] for index in self.pairs]))
            return np.where(known, numbers, -1)
        has = ", ".join(str(column) for column in self.adapters if column != "name")
        raise ValueError(f"the adapters' table has no column {by!r}; it has: {has}, and initialization")

    def same(self, by: str) -> Bool[np.ndarray, "pairs"]:
        """True for pairs whose adapters agree in a column of `adapters`, or that share their "initialization".

        Returns
        -------
        array of bool, shape (pairs,)
            In the order of `pairs`; False where a label is missing.

        Raises
        ------
        ValueError
            If the table has no such column.
        """
        if by == "initialization" and by not in self.adapters:
            return self.same_initialization
        codes = self.labels(by)
        first, second = self.pairs
        return (codes[first] == codes[second]) & (codes[first] >= 0)

    def different(self, by: str) -> Bool[np.ndarray, "pairs"]:
        """True for pairs whose adapters are both labelled and differ; see `same`.

        Returns
        -------
        array of bool, shape (pairs,)
            In the order of `pairs`.

        Raises
        ------
        ValueError
            If the table has no such column.
        """
        if by == "initialization" and by not in self.adapters:
            return (self.initialization_marks >= 0).any(0) & ~self.same_initialization
        codes = self.labels(by)
        first, second = self.pairs
        return (codes[first] != codes[second]) & (codes[first] >= 0) & (codes[second] >= 0)

    def contrast(
        self,
        by: str = "task",
        *,
        within: str | None = None,
        resamples: int = 2000,
        confidence: float = 0.95,
        correction: Correction = "max-t",
        seed: int = 0,
    ) -> Contrast:
        """Contrast pairs of one task (seed, initialization, rank, step, ...) with pairs of two.

        Parameters
        ----------
        by : str, default "task"
            A column of `adapters`, or "initialization".
        within : str, optional
            Another of these: labels are permuted only among adapters that agree in it, and pairs that agree in it are
            contrasted with each other, pairs that do not with each other. With "initialization", what a shared
            initialization explains is not counted as an effect of `by`. Adapters of which it is missing are left out.
        resamples : int, default 2000
            Number of random permutations of the adapters' labels, where there are more groupings than this; where
            there are not, all are listed and p-values are exact.
        confidence : float, default 0.95
            Of the intervals, between 0 and 1.
        correction : {"max-t", "bh"}, default "max-t"
            Over the modules and factors: "max-t" for the family-wise error, "bh" for the false discovery rate.
        seed : int, default 0
            Of the random permutations.

        Returns
        -------
        Contrast
            See there for the columns.

        Raises
        ------
        ValueError
            If there is no such column, it puts all adapters in one group or each in its own, also within another, a
            value is infinite, two labelled adapters are copies of each other or checkpoints of one run (unless they are
            contrasted within runs), or an argument is out of range.
        """
        labels = self.labels(by)
        strata = np.zeros(len(labels), dtype=int) if within is None else self.labels(within)
        labels = np.where(strata >= 0, labels, -1)
        self._refuse_copies(labels)
        self._refuse_checkpoints(labels, strata)
        contrasted = partial(
            contrast_pairs,
            pairs=self.pairs,
            labels=labels,
            strata=strata,
            resamples=resamples,
            confidence=confidence,
            correction=correction,
            seed=seed,
        )
        values = np.array(self.values, dtype=np.float64)
        if "initialization" in {by, within} - set(self.adapters):
            values[..., ~(self.same("initialization") | self.different("initialization"))] = np.nan
        known = ~np.isnan(values)
        count = known.sum(0)
        averaged = np.divide(
            np.where(known, values, 0.0).sum(0), count, out=np.full(count.shape, np.nan), where=count > 0
        )
        over_modules = contrasted(averaged)
        over_modules.insert(0, "factor", list(self.factors))
        over_modules.insert(1, "module", "all")
        single = contrasted(values.reshape(-1, values.shape[-1]))
        single.insert(0, "factor", list(self.factors) * len(self.modules))
        single.insert(1, "module", [module for module in self.modules for _ in self.factors])
        settings = {
            **self.settings,
            "by": by,
            "within": within,
            "resamples": resamples,
            "exact": is_listed(labels, strata, resamples),
            "confidence": confidence,
            "correction": correction,
            "seed": seed,
        }
        return Contrast(pd.concat([over_modules, single], ignore_index=True), settings)

    @cached_property
    def nulls(self) -> NullTable:
        """The null distributions: with each adapter's own singular values, where the measure sees them."""
        measure = measure_named(self.measure)
        return NullTable(measure, self.factors, self.ranks, self.shapes, self.spectra, self.pairs)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row a module, factor and pair.

        See the class for the columns. Pairs of which one adapter lacks the module have no row.
        """
        return self._frame(range(len(self.modules)))

    def _frame(self, chosen: range) -> pd.DataFrame:
        """The rows of some modules, so that a long table can be written piece by piece."""
        first, second = self.pairs
        shape = (len(chosen), len(self.factors), len(first))
        rank_i, rank_j = (self.ranks[chosen.start : chosen.stop][..., index].reshape(-1) for index in self.pairs)
        present = (rank_i >= 0) & (rank_j >= 0)
        everything = bool(present.all())

        def rows(per_axis: np.ndarray, axis: int) -> np.ndarray:
            view = per_axis.reshape([-1 if a == axis else 1 for a in range(3)])
            flat = np.broadcast_to(view, shape).reshape(-1)
            return flat if everything else flat[present]

        def chunk(values: np.ndarray) -> np.ndarray:
            flat = values.reshape(-1)
            return flat if everything else flat[present]

        modules = self.modules[chosen.start : chosen.stop]
        places = [place(module) for module in self.modules]
        layers = pd.array([where["layer"] for where in places[chosen.start : chosen.stop]], dtype="Int64")
        projections = pd.Categorical(
            [where["projection"] for where in places[chosen.start : chosen.stop]],
            categories=list(dict.fromkeys(where["projection"] for where in places)),
        )
        values = np.asarray(self.values[chosen.start : chosen.stop], dtype=np.float64)
        null = self._null_columns(chosen, values)
        names = pd.Index(self.names)
        at = rows(np.arange(len(modules), dtype=np.int32), 0)
        columns = {
            "adapter_i": pd.Categorical.from_codes(rows(first.astype(np.int32), 2), categories=names),
            "adapter_j": pd.Categorical.from_codes(rows(second.astype(np.int32), 2), categories=names),
            "module": pd.Categorical.from_codes(at + chosen.start, categories=pd.Index(self.modules)),
            "layer": layers[at],
            "projection": projections[at],
            "factor": pd.Categorical.from_codes(
                rows(np.arange(len(self.factors), dtype=np.int8), 1), categories=pd.Index(self.factors)
            ),
            "measure": pd.Categorical.from_codes(np.zeros(len(at), dtype=np.int8), categories=pd.Index([self.measure])),
            "value": chunk(values),
            **{name: chunk(null[name]) for name in ("null_mean", "null_std", "p_value", "least_p")},
            "rank_i": rank_i if everything else rank_i[present],
            "rank_j": rank_j if everything else rank_j[present],
            "same_initialization": self._shared_column(chosen)[slice(None) if everything else present],
            **{name: chunk(null[name]) for name in null if name.startswith("haar")},
        }
        return pd.DataFrame(columns, copy=False)

    def _shared_column(self, chosen: range) -> pd.arrays.BooleanArray:
        """Marks of the modules, factor by factor, missing where they are unknown."""
        marks = np.repeat(self.initialization_marks[chosen.start : chosen.stop], len(self.factors), axis=0).reshape(-1)
        return pd.arrays.BooleanArray(marks == 1, marks < 0)

    def _null_columns(self, chosen: range, values: np.ndarray) -> dict[str, np.ndarray]:
        parts = [
            [self.nulls.columns(module, factor, values[at, factor]) for factor in range(len(self.factors))]
            for at, module in enumerate(chosen)
        ]
        return {name: np.stack([[part[name] for part in row] for row in parts]) for name in parts[0][0]}

    def _frames(self) -> Iterator[pd.DataFrame]:
        for index in range(len(self.modules)):
            yield self._frame(range(index, index + 1))

    def _fields(self, *, without_frame: bool = False) -> Any:
        if not without_frame:
            return encode(self)
        # In parquet the values stand in the table alone.
        light = copy(self)
        object.__setattr__(light, "values", str(self.values.dtype))
        return encode(light)

    @classmethod
    def _with_frame(cls, held: dict[str, Any], frame: pd.DataFrame) -> dict[str, Any]:
        ranks = decode(held["ranks"])
        first, second = (ranks[..., index] for index in np.triu_indices(ranks.shape[-1], 1))
        values = np.full(first.shape, np.nan, dtype=held["values"])
        values[(first >= 0) & (second >= 0)] = frame["value"]
        return {**held, "values": encode(values)}

    def summary(self) -> pd.DataFrame:
        """A and B against chance: all pairs, then same and different task where both occur, and same initialization.

        Pairs of which one adapter has no label are in no group. A pair that shares its initialization in some modules
        counts there among the same, elsewhere among the different; where it is unknown, among neither.

        Returns
        -------
        DataFrame
            Columns:

            - factor, pairs (which) and count (of pairs that have a module in common)
            - value, null_mean, null_std: means over pairs and modules of the frame's columns; an infinite value, which
              "martin" can have, makes the mean infinite
            - times_null: value over null_mean, missing where that mean is as good as zero
            - significant: share of the values with a p-value below 0.01; missing where for more than one in a hundred
              only "below" a larger one is known
        """
        groups: list[tuple[str, np.ndarray]] = [("all", np.ones(len(self.pairs[0]), dtype=bool))]
        for by in ("task", "initialization"):
            if by in self.adapters:
                same, different = self.same(by), self.different(by)
            elif by == "initialization":
                same, different = self.initialization_marks == 1, self.initialization_marks == 0
            else:
                continue
            # A shared initialization explains similarity: it is said of all pairs, too.
            if same.any() and (different.any() or by == "initialization"):
                groups.append((f"same {by}", same))
                if different.any():
                    groups.append((f"different {by}", different))
        shape = len(self.modules), len(self.pairs[0])
        masks = [np.broadcast_to(chosen, shape) for _, chosen in groups]
        records = []
        for row, factor in enumerate(self.factors):
            for (group, _), count, total in zip(groups, *self._totals(row, masks), strict=True):
                records.append((factor, group, count, *_averages(total)))
        columns = ["factor", "pairs", "count", "value", "null_mean", "null_std", "times_null", "significant"]
        return pd.DataFrame(records, columns=columns)

    def _totals(
        self, row: int, groups: list[Bool[np.ndarray, "modules pairs"]]
    ) -> tuple[list[int], Float[np.ndarray, "groups 6"]]:
        """Number of pairs with a value; of values the number, sums of value, null mean and deviation, significant ones.

        The last are those of which that is not known.
        """
        totals = np.zeros((len(groups), 6))
        compared = np.zeros((len(groups), len(self.pairs[0])), dtype=bool)
        for index in range(len(self.modules)):
            values = np.asarray(self.values[index, row], dtype=np.float64)
            null = self.nulls.columns(index, row, values)
            p_value, least = null["p_value"], null["least_p"]
            below = p_value <= least  # a p-value at its floor lies below
            unknown = np.isnan(p_value) | (below & (least > LEVEL))
            significant = (p_value < LEVEL) | (below & (least <= LEVEL))
            stacked = np.stack([values, null["null_mean"], null["null_std"], significant, unknown])
            known = ~np.isnan(values)
            for total, pairs, chosen in zip(totals, compared, groups, strict=True):
                pairs |= known & chosen[index]
                kept = stacked[:, known & chosen[index]]
                total += [kept.shape[1], *kept.sum(1)]
        return [int(count) for count in compared.sum(1)], totals

    def chance(self, factor: str) -> float:
        """Mean of the null distribution over all modules and pairs of one factor: what a picture marks as chance.

        Parameters
        ----------
        factor : str
            One of `factors`.

        Returns
        -------
        float
            NaN where no pair has a value.

        Raises
        ------
        ValueError
            If the factor was not compared.
        """
        row = self._row(factor)
        means = np.concatenate([self.nulls.means(index, row) for index in range(len(self.modules))])
        return float(np.nanmean(means)) if np.isfinite(means).any() else np.nan

    def _row(self, factor: str) -> int:
        if factor not in self.factors:
            raise ValueError(f"factor {factor!r} was not compared; these were: {', '.join(self.factors)}")
        return self.factors.index(factor)

    def matrix(self, factor: str, module: str | None = None) -> Float[np.ndarray, "adapters adapters"]:
        """Adapters x adapters, of one module or averaged over the modules that both have: what a heatmap draws.

        The diagonal holds what an adapter has with itself: 1 for similarities, 0 for distances.

        Returns
        -------
        array of float64, shape (adapters, adapters)
            Symmetric; NaN for pairs without a common module.

        Raises
        ------
        ValueError
            If the factor or the module was not compared.
        """
        row = self._row(factor)
        if module is not None and module not in self.modules:
            raise ValueError(f"module {module!r} was not compared; there are {len(self.modules)}: see .modules")
        chosen = slice(None) if module is None else [self.modules.index(module)]
        values = np.asarray(self.values[chosen, row], dtype=np.float64)
        known = ~np.isnan(values)
        total, count = np.where(known, values, 0.0).sum(0), known.sum(0)
        whole = np.zeros((len(self.adapters),) * 2)
        whole[self.pairs] = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
        whole += whole.T
        np.fill_diagonal(whole, 1.0 if measure_named(self.measure).larger_is_more_similar else 0.0)
        return whole

    def _refuse_copies(self, labels: Int[np.ndarray, "adapters"]) -> None:
        """Raise where two labelled adapters are one: copies are no independent runs, whatever permutations say.

        One factor alone may be equal without that, as a frozen A is.
        """
        if not any(set(both) <= set(self.factors) for both in (("A", "B"), ("right", "left"), ("update",))):
            return
        equal = 1.0 if measure_named(self.measure).larger_is_more_similar else 0.0
        apart = np.abs(np.asarray(self.values, dtype=np.float64) - equal)
        copies = (np.nan_to_num(apart).max((0, 1)) < EQUAL) & (~np.isnan(apart)).any((0, 1))
        first, second = self.pairs
        found = np.flatnonzero(copies & (labels[first] >= 0) & (labels[second] >= 0))
        if len(found):
            one, other = self.names[first[found[0]]], self.names[second[found[0]]]
            raise ValueError(
                f"{other} is a copy of {one}, and a copy is no further run: leave copies out "
                f"({len(found)} such pair{'s' if len(found) > 1 else ''})"
            )

    def _refuse_checkpoints(self, labels: Int[np.ndarray, "adapters"], strata: Int[np.ndarray, "adapters"]) -> None:
        """Raise where two labelled adapters are checkpoints of one run, unless each stratum is one run."""
        if "source" not in self.adapters:
            return
        paths = self.adapters["source"].where(self.adapters["source"].notna(), self.adapters["name"])
        runs = runs_of_sources(paths.astype(str))
        kept = pd.DataFrame({"name": self.names, "run": runs, "stratum": strata})[labels >= 0]
        several = kept[kept["run"].notna() & kept["run"].duplicated(keep=False)]
        if several.empty or (
            kept.groupby("run")["stratum"].nunique().eq(1).all()
            and kept.groupby("stratum")["run"].nunique(dropna=False).eq(1).all()
        ):
            return
        run, names = next(iter(several.groupby("run", sort=False)["name"]))
        raise ValueError(
            f"{' and '.join(names.head(2))} are checkpoints of one run, {run}, and a checkpoint is no further run: "
            "compare the last of each (asym compare --last), or contrast within a column that names the run"
        )

    def __len__(self) -> int:
        return int(self.values.size)

    def __repr__(self) -> str:
        return (
            f"SubspaceComparison({len(self.adapters)} adapters, {len(self.modules)} modules, "
            f"factors {'/'.join(self.factors)}, {self.measure})"
        )

    def _repr_html_(self) -> str:
        # The base class would build the whole frame only to count its rows.
        table = self.summary().to_html(index=False, border=0, float_format="{:.4g}".format)
        return f"<p><b>{self!r}</b></p>{table}"


def _averages(total: Float[np.ndarray, "6"]) -> tuple[float, float, float, float, float]:
    """Mean value, null mean and deviation, their ratio and the share of significant values."""
    count, *sums = total
    if count == 0:
        return (np.nan,) * 5
    value, mean, std, significant, unknown = (float(part / count) for part in sums)
    # Nothing is a multiple of a mean that is as good as zero.
    times = value / mean if abs(mean) > std / 10 else np.nan
    return value, mean, std, times, significant if unknown <= LEVEL else np.nan
