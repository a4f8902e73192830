"""Many runs, resumable, with one table of their results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from asym_analysis.atomic import replacing
from asym_analysis.finetuning.plan import PlannedRun
from asym_analysis.finetuning.train import METRICS, finetune

__all__ = ["results_table", "run_sweep"]

TABLE = "runs.csv"


def run_sweep(runs: list[PlannedRun], folder: str | Path, *, only: str = "", progress: bool = False) -> pd.DataFrame:
    """Run what is not finished yet, and write `runs.csv` after each run.

    An interrupted sweep goes on where it stopped: finished runs are kept, and an unfinished one resumes. Where the
    learning rate is searched for, each group's best one is run on its seeds once the search is done.

    Parameters
    ----------
    runs
        From `read_sweep`.
    folder
        Each run gets a folder of its name in it.
    only
        Run only what has this text in its name; the table has the other finished runs as well.
    progress
        Show a bar over the runs.

    Returns
    -------
    DataFrame
        See `results_table`.
    """
    folder = Path(folder)
    _run_all([run for run in runs if only in run.name], runs, folder, progress)
    best = [run for run in _best_runs(runs, folder) if only in run.name]
    if best:
        _run_all(best, runs, folder, progress)
    return results_table(runs, folder)


def results_table(runs: list[PlannedRun], folder: str | Path) -> pd.DataFrame:
    """One row a finished run: name, labels, task, variant, seeds, rank, steps, learning rate and what it scored.

    `baseline` is the score of a constant guess, or of the untrained model where no constant makes sense.

    Of a search it also says the `stage` ("search", or "best" for the runs that count), the `rate_grid`, and whether the
    best rate lies at an end of the grid (`rate_at_edge`), so that a wider grid might do better.
    """
    folder = Path(folder)
    best = {run.name: run for run in _best_runs(runs, folder)}
    rows = []
    for run in {run.name: run for run in [*runs, *best.values()]}.values():
        path = folder / run.name / METRICS
        if path.exists():
            rows.append(_row(run, json.loads(path.read_text(encoding="utf-8")), best=run.name in best))
    return pd.DataFrame(rows)


def _run_all(todo: list[PlannedRun], runs: list[PlannedRun], folder: Path, progress: bool) -> None:
    from tqdm.auto import tqdm

    for run in (bar := tqdm(todo, disable=not progress, unit="run")):
        bar.set_postfix_str(run.name)
        if not (folder / run.name / METRICS).exists():
            finetune(run.config, folder / run.name)
        with replacing(folder / TABLE) as part:
            results_table(runs, folder).to_csv(part, index=False)


def _best_runs(runs: list[PlannedRun], folder: Path) -> list[PlannedRun]:
    """The runs at the best learning rate of every group whose search is finished, on all of the group's seeds."""
    groups: dict[str, list[PlannedRun]] = {}
    for run in runs:
        if run.search is not None:
            groups.setdefault(run.search.group, []).append(run)
    found = []
    for members in groups.values():
        paths = [folder / run.name / METRICS for run in members]
        search = members[0].search
        if search is None or not all(path.exists() for path in paths):
            continue
        sign = -1 if members[0].config.task.lower_is_better else 1
        stored = [json.loads(path.read_text(encoding="utf-8"))["value"] for path in paths]
        values = [sign * (float("nan") if value is None else value) for value in stored]
        # A diverged run scores NaN, and never wins.
        value_of = {i: value for i, value in enumerate(values) if value == value}
        best = members[max(value_of, key=value_of.__getitem__)] if value_of else members[0]
        rate = best.config.learning_rate
        found += [run.at(rate, seed) for run in (best, *search.elsewhere) for seed in search.seeds]
    return found


def _row(run: PlannedRun, metrics: dict[str, Any], *, best: bool) -> dict[str, Any]:
    config = run.config
    targets = config.target_modules
    first = {
        "name": run.name,
        **run.labels,
        "task": config.task.name,
        "variant": config.variant,
        "target_modules": targets if isinstance(targets, str) else " ".join(targets),
        "seed": config.seed,
        "init_seed": config.factor_seed,
        "rank": config.rank,
        "steps": metrics["steps"],
        "learning_rate": config.learning_rate,
        "metric": metrics["metric"],
        "value": metrics["value"],
        "baseline": metrics["baseline"],
        "lower_is_better": config.task.lower_is_better,
    }
    if run.search is not None:
        first |= {
            "stage": "best" if best else "search",
            "rate_grid": " ".join(f"{rate:g}" for rate in run.search.grid),
            "rate_at_edge": best and config.learning_rate in (run.search.grid[0], run.search.grid[-1]),
        }
    return first | {key: value for key, value in metrics.items() if key not in first}
