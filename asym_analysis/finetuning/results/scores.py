"""What each variant scored over its seeds, and how two variants differ, seed by seed and row by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from asym_analysis.errors import AdapterError
from asym_analysis.finetuning.results.rows import Outcomes, resampled_scores, row_weights
from asym_analysis.finetuning.results.statistics import Difference
from asym_analysis.results import TableResult, settings_of
from asym_analysis.vocabulary import finite, whole

__all__ = ["Arm", "VariantScores", "longest_runs", "score_variants"]

ROUNDING = 1e-12  # of the scores, below which differences that differ do so by rounding
LOWER = ("loss", "perplexity", "error", "nll", "bits")
HIGHER = ("accuracy", "f1", "pearson", "spearman", "correlation", "matthews", "exact", "bleu", "rouge")
NO = {"false": False, "0": False, "0.0": False}
REQUIRED = ("task", "variant", "rank", "seed", "learning_rate")
CELL = ["task", "length", "target_modules", "variant", "rank"]
PLACE = ["task", "length", "target_modules"]
KEPT = (
    "run",
    "trainable_parameters",
    "adapter_parameters",
    "head_parameters",
    "train_rows",
    "rate_grid",
    "rate_at_edge",
)


class Arm(NamedTuple):
    """A variant at a rank: what is compared, whatever the runs are called.

    Attributes
    ----------
    variant
        In the notation of `Variant.parse`, or "frozen" or "full".
    rank
        Rank of the adapters.
    """

    variant: str
    rank: int

    def __str__(self) -> str:
        return self.variant if self.variant in ("frozen", "full") else f"{self.variant}, rank {self.rank}"


@dataclass(frozen=True, eq=False, repr=False)
class VariantScores(TableResult):
    """One row a task, length, choice of modules, variant and rank: the mean over seeds at the best learning rate.

    Columns: `task, length, target_modules, run, variant, rank`; numbers trained and the learning rate with its grid, as
    far as the table of runs has them; `metric, seeds, mean, standard_error` (over seeds alone); `baseline`, the score
    of the frozen model; `baseline_of`, where that comes from: "frozen run" (the frozen model with a trained head),
    "pretrained model" (which has no head to train) or "constant guess"; and `gain`, by how much the mean is better
    than the baseline.

    Attributes
    ----------
    frame
        The table.
    settings
        Arguments and versions.
    runs
        The runs that were scored, one a row, with `score`.
    outcomes
        Name of a run -> what was kept of its rows; empty where rows were not given.
    """

    _plot = "variants:plot_variants"
    runs: pd.DataFrame
    outcomes: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    def summary(self) -> pd.DataFrame:
        """One row a run, a column a task (with its length and modules where there are several): mean ± error.

        Returns
        -------
        DataFrame
            `run`, and one column of text for each task.
        """
        frame = self.frame
        columns = frame["task"].astype(str)
        for name in ("length", "target_modules"):
            if (frame.drop_duplicates(["task", name])["task"].value_counts() > 1).any():
                columns = columns + ", " + frame[name].astype(str)
        pairs = zip(frame["mean"], frame["standard_error"], strict=True)
        cells = frame.assign(cell=[_cell(mean, error) for mean, error in pairs], column=columns)
        table = cells.pivot_table(index="run", columns="column", values="cell", aggfunc="first")
        table = table.reindex(index=cells["run"].unique(), columns=cells["column"].unique())
        return table.rename_axis(columns=None).fillna("").reset_index()

    def arm(self, name: str | tuple[str, int]) -> Arm:
        """The variant and rank of a run by its name, or an arm as it is.

        Returns
        -------
        Arm
            The variant and rank.

        Raises
        ------
        AdapterError
            If there is no such run, or the name stands for several variants.
        """
        arms = set(zip(self.runs["variant"], self.runs["rank"], strict=True))
        if isinstance(name, tuple):
            if tuple(name) not in arms:
                raise AdapterError(f"there is no run of {Arm(*name)}; the table has {_listed(arms)}")
            return Arm(*name)
        members = self.runs[self.runs["run"] == name]
        found = set(zip(members["variant"], members["rank"], strict=True))
        if len(found) != 1:
            what = f"there is no run {name}" if not found else f"runs {name} are of several variants"
            raise AdapterError(f"{what}; the table has {', '.join(map(str, self.runs['run'].unique()))}")
        return Arm(*found.pop())

    def contrast(
        self,
        first: str | tuple[str, int],
        second: str | tuple[str, int],
        *,
        confidence: float = 0.95,
        resamples: int = 1000,
        seed: int = 0,
    ) -> pd.DataFrame:
        """By how much `first` is better than `second`, one row a task, length and choice of modules that has both.

        Two runs of one seed share the head's initial values and the order of the data, so differences are taken seed by
        seed; their error over the development rows is that of resampled rows, the same for both runs and all seeds.

        Parameters
        ----------
        first, second : str or tuple of (str, int)
            Names of runs, or pairs of variant and rank.
        confidence : float, default 0.95
            Of the intervals.
        resamples : int, default 1000
            Of the rows, where they were kept.
        seed : int, default 0
            Of the resamples.

        Returns
        -------
        DataFrame
            `task, length, target_modules, metric, first, second, seeds, difference, seed_error, row_error,
            standard_error, low, high, outcome`. A positive difference means that `first` is better, whichever way the
            metric points; `outcome` is "better" or "worse" where the interval leaves out zero, else "no difference
            found".

        Raises
        ------
        AdapterError
            If there is no such run.
        """
        finite(confidence, "confidence", above=0, below=1)
        whole(resamples, "resamples", least=2)
        arms = (self.arm(first), self.arm(second))
        rows = []
        for place, members in self.runs.groupby(PLACE, sort=False, dropna=False):
            found = self._difference(members, arms, resamples, seed)
            if found is None:
                continue
            low, high = found.interval(confidence)
            outcome = "better" if low > 0 else "worse" if high < 0 else "no difference found"
            row = dict(zip(PLACE, place, strict=True))
            row |= {"metric": members["metric"].iloc[0], "first": str(arms[0]), "second": str(arms[1])}
            row |= {"seeds": found.seeds, "difference": found.mean, "seed_error": found.seed_error}
            row |= {"row_error": found.row_error, "standard_error": found.error, "low": low, "high": high}
            rows.append(row | {"outcome": outcome})
        return pd.DataFrame(rows)

    def _difference(self, members: pd.DataFrame, arms: tuple[Arm, Arm], resamples: int, seed: int) -> Difference | None:
        """The paired difference of two arms on one task, in the direction in which more is better."""
        parts = []
        for arm in arms:
            chosen = members[(members["variant"] == arm.variant) & (members["rank"] == arm.rank)]
            parts.append(chosen.drop_duplicates("seed").set_index("seed"))
        common = parts[0].index.intersection(parts[1].index)
        if not len(common):
            return None
        sign = _sign(members)
        scores = [part.loc[common, "score"].to_numpy(dtype=float) for part in parts]
        values = sign * (scores[0] - scores[1])
        names = [part.loc[common, "name"].astype(str).tolist() for part in parts]
        error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
        if error <= ROUNDING * np.abs(scores).max():
            error = 0.0
        rows = self._row_error(str(members["metric"].iloc[0]), names, resamples, seed)
        return Difference(float(values.mean()), error, rows, len(values))

    def _row_error(self, metric: str, names: list[list[str]], resamples: int, seed: int) -> float:
        """The standard error over rows of the mean difference over seeds; 0 where rows were not kept."""
        if any(name not in self.outcomes for part in names for name in part):
            return 0.0
        tuning = self.outcomes[names[0][0]]["tuning"]
        chosen = ~tuning if self.settings["reported"] == "half" else np.ones_like(tuning)
        weights = row_weights(int(chosen.sum()), resamples, seed)
        means = [
            np.mean([resampled_scores(metric, self.outcomes[name], weights, chosen) for name in part], axis=0)
            for part in names
        ]
        return float(np.std(means[0] - means[1], ddof=1))


def score_variants(
    runs: pd.DataFrame,
    *,
    metric: str | None = None,
    lower_is_better: bool | None = None,
    outcomes: Mapping[str, Outcomes] | None = None,
    reported: str = "half",
) -> VariantScores:
    """Summarize a table of runs by variant and rank.

    Parameters
    ----------
    runs : DataFrame
        From `run_sweep` or its runs.csv; several tables may be concatenated. Rows whose `stage` is "search" are left
        out, and so are runs on the seed that tuned.
    metric : str, optional
        The column to compare, "loss" or "train_accuracy" for instance; the deciding metric of each task if None.
    lower_is_better : bool, optional
        Of that column. If None, as the task says of its own metric; of `metric`, as its name does ("loss" and
        "perplexity" are better when lower, "accuracy", "f1" and correlations when higher).
    outcomes : mapping of str to Outcomes, optional
        From `read_outcomes`: what was kept of every development row, for errors over rows.
    reported : str, default "half"
        "half" or "all": the rows on which scores were computed, as the runs' settings say.

    Returns
    -------
    VariantScores
        See there.

    Raises
    ------
    AdapterError
        If the table lacks a column, has two runs of one task, variant, rank and seed, one task in two metrics or
        directions, or a metric of which it does not say whether lower is better.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"run": ["both", "both", "b-only", "b-only"], "task": "MRPC",
    ...     "variant": ["hB_0 hA_Km"] * 2 + ["hB_0 A_rand"] * 2,
    ...     "seed": [1, 2, 1, 2], "rank": 8, "learning_rate": 1e-3, "metric": "accuracy", "lower_is_better": False,
    ...     "value": [0.80, 0.82, 0.79, 0.81], "baseline": 0.68})
    >>> scores = score_variants(table)
    >>> scores.frame[["run", "mean", "standard_error", "gain"]].round(3).values.tolist()
    [['both', 0.81, 0.01, 0.13], ['b-only', 0.8, 0.01, 0.12]]
    >>> scores.contrast("both", "b-only")[["difference", "outcome"]].round(3).values.tolist()  # both seeds alike
    [[0.01, 'no difference found']]
    """
    value = metric or "value"
    missing = [name for name in (*REQUIRED, value) if name not in runs]
    if missing:
        raise AdapterError(f"the table of runs lacks {', '.join(missing)}; give run_sweep's table, or its runs.csv")
    chosen = _reported(_completed(runs))
    chosen = chosen.assign(score=chosen[value].astype(float))
    scored = np.isfinite(chosen["score"])
    unscored, chosen = chosen[~scored], chosen[scored]
    if metric is not None:
        chosen = chosen.assign(metric=metric, baseline=float("nan"))
    if metric is not None and lower_is_better is None:
        lower_is_better = _lower_by_name(metric)
    directions = chosen["lower_is_better"] if "lower_is_better" in chosen else pd.Series(np.nan, index=chosen.index)
    directions = directions if lower_is_better is None else pd.Series(lower_is_better, index=chosen.index)
    chosen = chosen.assign(lower_is_better=_directions(directions, chosen))
    for place, members in chosen.groupby("task", sort=False):
        if len(members[["metric", "lower_is_better"]].drop_duplicates()) > 1:
            raise AdapterError(f"{place} is scored in two metrics or directions: give each task one")
    doubled = chosen.duplicated([*CELL, "seed"])
    if doubled.any():
        row = chosen[doubled].iloc[0]
        raise AdapterError(
            f"two runs are {Arm(row['variant'], row['rank'])} on {row['task']} with seed {row['seed']}; give each once"
        )
    chosen = chosen.reset_index(drop=True)
    rows = [_row(members, chosen) for _, members in chosen.groupby(CELL, sort=False, dropna=False)]
    given = {name: dict(kept) for name, kept in (outcomes or {}).items()}
    left_out = unscored[["task", "variant", "rank", "seed"]].to_dict(orient="records")
    settings = settings_of(metric=value, reported=reported, rows_kept=bool(given), without_score=left_out)
    return VariantScores(pd.DataFrame(rows), settings, chosen, given if metric is None else {})


def _lower_by_name(metric: str) -> bool:
    """Whether lower is better of a column that is asked for by name.

    Raises
    ------
    AdapterError
        If the name does not tell.
    """
    for names, lower in ((LOWER, True), (HIGHER, False)):
        if any(name in metric.lower() for name in names):
            return lower
    raise AdapterError(f"nothing says whether lower {metric} is better: give lower_is_better")


def _directions(told: pd.Series, runs: pd.DataFrame) -> list[bool]:
    """The column as booleans, which a CSV file may hold as text.

    Raises
    ------
    AdapterError
        If a run does not say whether lower is better.
    """
    known = told.astype(str).str.strip().str.lower().map({"true": True, "1": True, "1.0": True} | NO)
    if known.isna().any():
        row = runs[known.isna()].iloc[0]
        raise AdapterError(
            f"nothing says whether lower {row['metric']} is better on {row['task']}: give lower_is_better"
        )
    return known.astype(bool).tolist()


def longest_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Keep the runs that count: at the best learning rate, and of each task at its greatest length.

    Parameters
    ----------
    runs : DataFrame
        A table of runs.

    Returns
    -------
    DataFrame
        Rows whose `stage` is not "search" and, where the table has a column `length`, of each task's last length.

    Examples
    --------
    >>> table = pd.DataFrame({"task": "MRPC", "length": ["1 epochs", "3 epochs"], "value": [0.8, 0.9]})
    >>> longest_runs(table)["value"].tolist()
    [0.9]
    """
    kept = runs[runs["stage"] != "search"] if "stage" in runs else runs
    if "length" not in kept:
        return kept
    size = kept["length"].map(length_size)
    return kept[size == size.groupby(kept["task"]).transform("max")]


def length_size(length: object) -> float:
    """The number in "5 epochs" or "500 steps"; 0 where no length is named."""
    return float(length.split()[0]) if isinstance(length, str) and length else 0.0


def _completed(runs: pd.DataFrame) -> pd.DataFrame:
    """With the columns that older or single tables lack."""
    added: dict[str, Any] = {}
    for name, default in (("length", ""), ("target_modules", ""), ("baseline_of", "unknown")):
        added[name] = runs[name].astype(object).fillna(default) if name in runs else default
    table = runs.assign(**added)
    names = [str(Arm(variant, rank)) for variant, rank in zip(table["variant"], table["rank"], strict=True)]
    table["run"] = table["run"].fillna(pd.Series(names, index=table.index)) if "run" in table else names
    table["name"] = table["name"] if "name" in table else [f"run {i}" for i in range(len(table))]
    table["baseline"] = table["baseline"] if "baseline" in table else float("nan")
    return table


def _reported(runs: pd.DataFrame) -> pd.DataFrame:
    """Without the search, and without runs on the seed whose score chose the rate."""
    if "stage" not in runs:
        return runs
    searched = runs[runs["stage"] == "search"]
    tuned = set(zip(searched["task"], searched["run"], searched["seed"], strict=True))
    keys = zip(runs["task"], runs["run"], runs["seed"], strict=True)
    return runs[(runs["stage"] != "search") & ~pd.Series([key in tuned for key in keys], index=runs.index)]


def _row(members: pd.DataFrame, runs: pd.DataFrame) -> dict[str, Any]:
    first = members.iloc[0]
    score = members["score"].to_numpy()
    mean, count = float(score.mean()), len(score)
    baseline, source = _baseline(first, runs)
    return {
        **{name: first[name] for name in ("task", "length", "target_modules", "run", "variant", "rank")},
        **{name: first[name] for name in KEPT if name in members},
        **{name: first[name] for name in ("learning_rate", "metric")},
        "seeds": count,
        "mean": mean,
        "standard_error": float(score.std(ddof=1) / np.sqrt(count)) if count > 1 else float("nan"),
        "baseline": baseline,
        "baseline_of": source,
        "gain": (mean - baseline) * _sign(members),
    }


def _baseline(first: pd.Series, runs: pd.DataFrame) -> tuple[float, str]:
    """The score of the frozen run of the same task, at the same length if there is one; else the table's own."""
    frozen = runs[(runs["variant"] == "frozen") & (runs["task"] == first["task"])]
    same = frozen[frozen["length"] == first["length"]]
    frozen = same if len(same) else frozen
    if len(frozen):
        return float(frozen["score"].mean()), "frozen run"
    return float(first["baseline"]), str(first["baseline_of"])


def _sign(members: pd.DataFrame) -> int:
    return -1 if members["lower_is_better"].iloc[0] else 1


def _listed(arms: set[tuple[str, int]]) -> str:
    return "; ".join(str(Arm(*arm)) for arm in sorted(arms))


def _cell(mean: float, error: float) -> str:
    return f"{mean:.3f}" if error != error else f"{mean:.3f} ± {error:.3f}"
