"""What each variant scored over its seeds, and how two variants differ, seed by seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from asym_analysis.errors import AdapterError
from asym_analysis.results import Result, versions

__all__ = ["VariantScores", "longest_runs", "score_variants"]

REQUIRED = ("run", "task", "variant", "seed", "rank", "learning_rate")


@dataclass(frozen=True, eq=False)
class VariantScores(Result):
    """One row a task and run of the plan: the mean over seeds, at the best learning rate where one was searched for.

    Columns: `task, run, variant, rank, trainable_parameters, learning_rate, rate_grid, rate_at_edge, metric, seeds,
    mean, standard_error, baseline` and `gain`, by how much the mean is better than the baseline (negative if worse).
    The standard error is over seeds alone: the development rows are the same for all.
    """

    frame: pd.DataFrame
    settings: Mapping[str, Any]
    runs: pd.DataFrame

    def summary(self) -> pd.DataFrame:
        """One row a run, a column a task: mean ± standard error."""
        pairs = zip(self.frame["mean"], self.frame["standard_error"], strict=True)
        cells = self.frame.assign(cell=[_cell(mean, error) for mean, error in pairs])
        table = cells.pivot_table(index="run", columns="task", values="cell", aggfunc="first")
        table = table.reindex(index=cells["run"].unique(), columns=cells["task"].unique())
        return table.rename_axis(columns=None).fillna("").reset_index()

    def contrast(self, first: str, second: str, *, confidence: float = 0.9) -> pd.DataFrame:
        """By how much the run `first` is better than `second`, one row a task that has both.

        Two runs of one seed share the start of the head and the order of the data, so differences are taken seed by
        seed, and their interval is Student's over seeds. Columns: `task, metric, first, second, seeds, difference,
        standard_error, low, high, outcome`; a positive difference means that `first` is better, whichever way the
        metric points, and `outcome` is "better" or "worse" where the interval leaves out zero, else "not told apart".

        Raises
        ------
        AdapterError
            If there is no run of that name.
        """
        for name in (first, second):
            if name not in set(self.runs["run"]):
                known = ", ".join(self.runs["run"].unique())
                raise AdapterError(f"there is no run {name}; the table has {known}")
        rows = []
        for task, members in self.runs.groupby("task", sort=False):
            values = members.pivot_table(index="seed", columns="run", values="score")
            values = values.reindex(columns=[first, second]).dropna()
            if len(values):
                difference = (values[first] - values[second]).to_numpy() * self._sign(members)
                named = {"task": task, "metric": members["metric"].iloc[0], "first": first, "second": second}
                rows.append(named | _interval(difference, confidence))
        return pd.DataFrame(rows)

    @staticmethod
    def _sign(members: pd.DataFrame) -> int:
        return -1 if members["lower_is_better"].iloc[0] else 1


def score_variants(
    runs: pd.DataFrame, *, metric: str | None = None, lower_is_better: bool | None = None
) -> VariantScores:
    """Summarize a table of runs by variant.

    Parameters
    ----------
    runs
        From `run_sweep` or its runs.csv; several tables may be concatenated. Rows whose `stage` is "search" are left
        out: only the runs at each variant's best learning rate are compared.
    metric
        The column to compare, "loss" or "train_accuracy" for instance; the deciding metric of each task if None.
    lower_is_better
        Of that column; as the task says if None.

    Returns
    -------
    VariantScores
        See there.

    Raises
    ------
    AdapterError
        If the table lacks a column, or has two runs of one task, run and seed.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"run": ["both", "both", "b-only", "b-only"], "task": "MRPC", "variant": "hB_0 A_rand",
    ...     "seed": [0, 1, 0, 1], "rank": 8, "learning_rate": 1e-3, "metric": "accuracy", "lower_is_better": False,
    ...     "value": [0.80, 0.82, 0.79, 0.81], "baseline": 0.68})
    >>> scores = score_variants(table)
    >>> scores.frame[["run", "mean", "standard_error", "gain"]].round(3).values.tolist()
    [['both', 0.81, 0.01, 0.13], ['b-only', 0.8, 0.01, 0.12]]
    >>> scores.contrast("both", "b-only")[["difference", "outcome"]].round(3).values.tolist()
    [[0.01, 'better']]
    """
    value = metric or "value"
    missing = [name for name in (*REQUIRED, value) if name not in runs]
    if missing:
        raise AdapterError(f"the table of runs lacks {', '.join(missing)}; give run_sweep's table, or its runs.csv")
    chosen = runs[runs["stage"] != "search"] if "stage" in runs else runs
    chosen = chosen[chosen[value].notna()].assign(score=lambda table: table[value].astype(float))
    if metric is not None:
        chosen = chosen.assign(metric=metric, baseline=float("nan"))
    if lower_is_better is not None:
        chosen = chosen.assign(lower_is_better=lower_is_better)
    doubled = chosen.duplicated(["task", "run", "seed"])
    if doubled.any():
        row = chosen[doubled].iloc[0]
        raise AdapterError(f"two runs are {row['run']} on {row['task']} with seed {row['seed']}; give each once")
    rows = [_row(str(task), str(run), members) for (task, run), members in chosen.groupby(["task", "run"], sort=False)]
    return VariantScores(pd.DataFrame(rows), {"metric": value, "versions": versions()}, chosen.reset_index(drop=True))


def longest_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Keep the runs that count: at the best learning rate, and of each task at its greatest length.

    Parameters
    ----------
    runs
        A table of runs.

    Returns
    -------
    DataFrame
        Rows whose `stage` is not "search" and, where the table has a column `length`, of each task's last length.
    """
    kept = runs[runs["stage"] != "search"] if "stage" in runs else runs
    if "length" not in kept:
        return kept
    size = kept["length"].map(_size)
    return kept[size == size.groupby(kept["task"]).transform("max")]


def _size(length: object) -> float:
    """The number in "5 epochs" or "500 steps"."""
    return float(str(length).split()[0]) if isinstance(length, str) else 0.0


def _row(task: str, run: str, members: pd.DataFrame) -> dict[str, Any]:
    first = members.iloc[0]
    score = members["score"].to_numpy()
    mean, count = float(score.mean()), len(score)
    kept = ("trainable_parameters", "rate_grid", "rate_at_edge")
    return {
        "task": task,
        "run": run,
        **{name: first[name] for name in ("variant", "rank", "learning_rate", "metric")},
        **{name: first[name] for name in kept if name in members},
        "seeds": count,
        "mean": mean,
        "standard_error": float(score.std(ddof=1) / np.sqrt(count)) if count > 1 else float("nan"),
        "baseline": first["baseline"],
        "gain": (mean - first["baseline"]) * VariantScores._sign(members),
    }


def _interval(difference: np.ndarray, confidence: float) -> dict[str, Any]:
    count, mean = len(difference), float(difference.mean())
    error = float(difference.std(ddof=1) / np.sqrt(count)) if count > 1 else float("nan")
    reach = float(stats.t.ppf((1 + confidence) / 2, count - 1)) * error if count > 1 else float("inf")
    low, high = mean - reach, mean + reach
    outcome = "better" if low > 0 else "worse" if high < 0 else "not told apart"
    return {"seeds": count, "difference": mean, "standard_error": error, "low": low, "high": high, "outcome": outcome}


def _cell(mean: float, error: float) -> str:
    return f"{mean:.3f}" if error != error else f"{mean:.3f} ± {error:.3f}"
