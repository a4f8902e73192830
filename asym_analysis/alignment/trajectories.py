"""Where training went: the checkpoints of a run against its first, its last and each other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import numpy as np
import pandas as pd

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.adapters.load import Source, as_adapters
from asym_analysis.adapters.module_names import place
from asym_analysis.alignment.comparison import SubspaceComparison
from asym_analysis.alignment.pairwise import compare_subspaces
from asym_analysis.errors import AdapterError
from asym_analysis.results import TableResult, settings_of

__all__ = ["Trajectories", "checkpoint_trajectories"]

COLUMNS = [
    "run", "step", "adapter", "module", "layer", "projection", "factor", "to_first", "to_last", "null_mean", "turned",
    "speed",
]  # fmt: skip


class Trajectories(TableResult):
    """How the subspaces of A and B moved from checkpoint to checkpoint.

    Attributes
    ----------
    frame
        One row a run, checkpoint, module and factor. Columns:

        - run, step, adapter, module, layer, projection, factor
        - to_first, to_last: overlap with the run's first and last checkpoint, 1 with itself
        - null_mean: of the overlap of random subspaces
        - turned: geodesic distance from the checkpoint before, in radians; missing for the first
        - speed: radians a step
    settings
        Columns, adapters, those that were left out (of no run, or alone in theirs) and versions.
    """

    _plot: ClassVar[str | None] = "trajectories:plot_trajectories"

    def summary(self) -> pd.DataFrame:
        """One row a run, checkpoint and factor: means over the modules.

        Returns
        -------
        DataFrame
            run, step, factor, to_first, to_last, null_mean, turned, speed.
        """
        means = self.frame.groupby(["run", "step", "factor"], sort=False, dropna=False)
        return means[["to_first", "to_last", "null_mean", "turned", "speed"]].mean().reset_index()


def checkpoint_trajectories(
    adapters: AdapterSet | Adapter | Source | Iterable[Adapter | Source],
    *,
    step: str = "step",
    run: str | None = None,
    progress: bool = False,
) -> Trajectories:
    """Follow the checkpoints of one run, or of several, through training.

    Parameters
    ----------
    adapters : AdapterSet, Adapter, source or iterable of these
        Checkpoints in any order: a set, or anything that `load_adapters` reads.
    step : str, default "step"
        Column of their table that orders them, a number of steps.
    run : str, optional
        Column that says which run a checkpoint belongs to; all belong to one by default.
    progress : bool, default False
        Show a bar, one step a module.

    Returns
    -------
    Trajectories
        See there for the columns.

    Raises
    ------
    AdapterError
        If a column is missing, a step is not a number or occurs twice in a run, or no run has two checkpoints.

    Examples
    --------
    >>> import torch
    >>> generator = torch.Generator().manual_seed(0)
    >>> A, B, move = (torch.randn(*shape, generator=generator) for shape in ((2, 32), (16, 2), (16, 2)))
    >>> saved = [Adapter.from_factors({"q": (A, B + 0.1 * t * move)}, name=f"at {t}") for t in (0, 5, 10)]
    >>> runs = AdapterSet(saved, {"step": [0, 5, 10]})
    >>> path = checkpoint_trajectories(runs).summary().query("factor == 'A'")
    >>> path.to_first.round(3).tolist(), path.speed.round(3).tolist()
    ([1.0, 1.0, 1.0], [nan, 0.0, 0.0])
    """
    checkpoints = as_adapters(adapters)
    steps = _steps(checkpoints.table, step)
    runs = pd.Series(0, index=steps.index) if run is None else _column(checkpoints.table, run)
    parts = []
    for name, members in runs.groupby(runs, sort=False).groups.items():
        order = steps[members].sort_values()
        if order.duplicated().any():
            raise AdapterError(f"two checkpoints of run {name} have {step} {order[order.duplicated()].iloc[0]:g}")
        if len(order) > 1:
            chosen = AdapterSet([checkpoints[int(i)] for i in order.index], checkpoints.table.loc[order.index])
            parts.append(_trajectory(name, chosen, order.to_numpy(), progress))
    if not parts:
        raise AdapterError(f"no run has two checkpoints: {len(checkpoints)} adapters in {runs.nunique()} runs")
    frame = pd.concat(parts, ignore_index=True)[COLUMNS].astype({"layer": "Int64"})
    left_out = [name for name in checkpoints.names if name not in set(frame["adapter"])]
    settings = settings_of(step=step, run=run, adapters=list(checkpoints.names), left_out=left_out)
    return Trajectories(frame, settings)


def _column(table: pd.DataFrame, name: str) -> pd.Series:
    if name not in table:
        raise AdapterError(f"the adapters' table has no column {name!r}; it has: {', '.join(map(str, table.columns))}")
    return table[name]


def _steps(table: pd.DataFrame, name: str) -> pd.Series:
    steps = pd.to_numeric(_column(table, name), errors="coerce")
    if steps.isna().any():
        raise AdapterError(f"{table.loc[steps.isna(), 'name'].iloc[0]} has no number in column {name!r}")
    return steps


def _trajectory(run: object, checkpoints: AdapterSet, steps: np.ndarray, progress: bool) -> pd.DataFrame:
    overlap = compare_subspaces(checkpoints, progress=progress)
    distance = compare_subspaces(checkpoints, measure="geodesic", progress=progress)
    count = len(checkpoints)
    rows = []
    for factor in overlap.factors:
        for module in overlap.modules:
            alike, apart = overlap.matrix(factor, module), distance.matrix(factor, module)
            turned = np.r_[np.nan, apart[np.arange(count - 1), np.arange(1, count)]]
            rows.append(
                pd.DataFrame(
                    {
                        "run": run,
                        "step": steps,
                        "adapter": checkpoints.names,
                        **place(module),
                        "factor": factor,
                        "to_first": alike[0],
                        "to_last": alike[-1],
                        "null_mean": _chance(overlap, factor, module),
                        "turned": turned,
                        "speed": turned / np.r_[np.nan, np.diff(steps)],
                    }
                )
            )
    return pd.concat(rows, ignore_index=True)


def _chance(overlap: SubspaceComparison, factor: str, module: str) -> float:
    mean = overlap.nulls.means(overlap.modules.index(module), overlap.factors.index(factor))
    return float(np.nanmean(mean)) if np.isfinite(mean).any() else np.nan
