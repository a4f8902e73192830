"""Estimate a sweep before it starts: its runs, their steps, and hours from a few timed steps."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from asym_analysis.finetuning.config import FinetuneConfig
from asym_analysis.finetuning.plan import PlannedRun
from asym_analysis.finetuning.storage import is_finished
from asym_analysis.finetuning.train import finetune
from asym_analysis.results import TableResult, settings_of
from asym_analysis.vocabulary import whole

__all__ = ["SweepEstimate", "estimate_sweep", "planned_steps"]


@dataclass(frozen=True, eq=False, repr=False)
class SweepEstimate(TableResult):
    """One row a planned run.

    Columns: `name, stage, task, variant, rank, seed, steps, hours` (estimated, on this machine, as busy as it was then)
    and `finished`.
    """

    def summary(self) -> pd.DataFrame:
        """One row a task and stage: runs, steps and hours that are left."""
        left = self.frame[~self.frame["finished"]]
        table = left.groupby(["task", "stage"], sort=False).agg(
            runs=("name", "size"), steps=("steps", "sum"), hours=("hours", "sum")
        )
        return table.reset_index()


def planned_steps(config: FinetuneConfig, train_rows: int) -> int:
    """Count the updates of a run.

    Parameters
    ----------
    config
        The run's settings.
    train_rows
        Its number of training rows.

    Returns
    -------
    int
        `max_steps`, or `epochs` times the updates of one.
    """
    if config.max_steps is not None:
        return config.max_steps
    batches = math.ceil(train_rows / config.batch_size)
    return math.ceil(config.epochs * max(1, math.ceil(batches / config.gradient_accumulation)))


def estimate_sweep(runs: Iterable[PlannedRun], folder: str | Path | None = None, *, steps: int = 20) -> SweepEstimate:
    """Estimate the hours of a sweep from a few timed steps of each task and kind of run.

    Parameters
    ----------
    runs : iterable of PlannedRun
        From `read_sweep`.
    folder : path, optional
        As given to `run_sweep`: runs that are finished there are marked.
    steps : int, default 20
        Steps that are timed for each task with an adapter, and for each further kind of run ("frozen", "full").

    Returns
    -------
    SweepEstimate
        See there.

    Raises
    ------
    AdapterError
        If a run's model or data cannot be read.
    """
    whole(steps, "steps", least=1)
    timed: dict[tuple[str, ...], tuple[float, float, int]] = {}
    rows = []
    for run in runs:
        config = run.config
        kind = config.variant if config.parsed_variant is None else "adapter"
        key = (config.model, config.task.name, kind)
        if key not in timed:
            timed[key] = _timed(config, steps)
        step, scoring, train_rows = timed[key]
        count = planned_steps(config, train_rows)
        seconds = count * step + (config.curve_points + 1) * scoring
        row: dict[str, object] = {
            "name": run.name,
            "stage": run.stage,
            "task": config.task.name,
            "variant": config.variant,
        }
        row |= {"rank": config.rank, "seed": config.seed, "steps": count, "hours": seconds / 3600}
        rows.append(row | {"finished": folder is not None and is_finished(Path(folder) / run.name)})
    return SweepEstimate(pd.DataFrame(rows), settings_of(timed_steps=steps))


def _timed(config: FinetuneConfig, steps: int) -> tuple[float, float, int]:
    """Seconds a step, seconds to score all sets of rows, and the number of training rows."""
    with tempfile.TemporaryDirectory() as folder:
        metrics = finetune(replace(config, max_steps=steps, curve_points=0), Path(folder) / "timed").metrics
    return metrics["seconds"] / steps, metrics["scoring_seconds"], metrics["train_rows"]
