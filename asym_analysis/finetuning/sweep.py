"""Many runs, planned before they start, resumable, with one table of their results."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from asym_analysis.atomic import replacing
from asym_analysis.errors import AdapterError
from asym_analysis.finetuning.digest import changed_inputs, inputs_of
from asym_analysis.finetuning.plan import PlannedRun
from asym_analysis.finetuning.progress import Reporter, as_reporter
from asym_analysis.finetuning.storage import INPUTS, is_finished, read_run
from asym_analysis.finetuning.train import finetune

__all__ = ["best_rate", "changed_runs", "results_table", "run_sweep"]

TABLE = "runs.csv"


def run_sweep(
    runs: list[PlannedRun],
    folder: str | Path,
    *,
    only: str = "",
    redo: bool = False,
    progress: bool | Reporter = False,
) -> pd.DataFrame:
    """Run what is planned and not finished yet, and write `runs.csv` after each run.

    An interrupted sweep goes on where it stopped: finished runs are kept, and an unfinished one resumes. Finished runs
    are first held against their present inputs: settings, data files and model.

    Parameters
    ----------
    runs : list of PlannedRun
        From `read_sweep`.
    folder : path
        Each run gets a folder of its name in it.
    only : str, default ""
        Run only the runs whose names contain this text; the table has the other finished runs as well.
    redo : bool, default False
        Train again the runs, finished or interrupted, whose inputs have changed, in place of refusing them.
    progress : bool or Reporter, default False
        True shows a bar a run; a function is called with a `TrainingState` after every step.

    Returns
    -------
    DataFrame
        See `results_table`.

    Raises
    ------
    AdapterError
        If a finished run was made from other inputs than it would be now; the message names the run and what changed.
        If the data of a run that is to be made cannot be used: before any run is made.
    """
    folder, reporter = Path(folder), as_reporter(progress)
    finished = _finished(runs, folder)
    for task in {id(run.config.task): run.config.task for run in runs if _wanted(run, only, finished)}.values():
        task.check()
    changed = {
        run.name: found for run in runs if run.name in finished and (found := _changes(run, runs, finished, folder))
    }
    if changed and not redo:
        name, found = next(iter(changed.items()))
        more = f", and {len(changed) - 1} more runs changed" if len(changed) > 1 else ""
        raise AdapterError(
            f"{folder / name} was finished from other inputs: {', '.join(found)}{more}; give another folder, or redo "
            "them (--redo)"
        )
    for name in changed:
        shutil.rmtree(folder / name)
        del finished[name]
    for run in runs:
        if only not in run.name:
            continue
        if run.name in finished:
            if not (redo and run.stage == "final" and _changes(run, runs, finished, folder)):
                continue
            shutil.rmtree(folder / run.name)  # its search, done again, found another rate
            del finished[run.name]
        at_rate = _at_rate(run, runs, finished)
        if at_rate is None:  # its search is left out by `only`
            continue
        if redo and _unfinished_of_others(folder / run.name, at_rate):
            shutil.rmtree(folder / run.name)
        finetune(at_rate.config, folder / run.name, progress=False if reporter is None else reporter)
        finished[run.name] = read_run(folder / run.name).metrics
        with replacing(folder / TABLE) as part:
            _table(runs, finished).to_csv(part, index=False)
    table = _table(runs, finished)
    if len(table):
        with replacing(folder / TABLE) as part:
            table.to_csv(part, index=False)
    return table


def results_table(runs: list[PlannedRun], folder: str | Path) -> pd.DataFrame:
    """Make the table of the finished runs of a sweep.

    Parameters
    ----------
    runs : list of PlannedRun
        From `read_sweep`.
    folder : path
        As given to `run_sweep`.

    Returns
    -------
    DataFrame
        One row a finished run: `name`, labels (`run`, `length`), `task, variant, target_modules, seed, init_seed, rank,
        steps, learning_rate, metric, value` (on the reported rows), `tune_value` (on the rows that tune), `baseline`
        (of a constant guess, or of the untrained model where no constant makes sense), `lower_is_better`, the other
        scores, `train_rows`, `seconds` and `cpu_seconds`, and the numbers that were trained. Of a search also `stage`
        ("search", or "final" for the runs that count), `rate_grid` and `rate_at_edge`: whether the best rate lies at an
        end of the grid, so that a wider grid might do better.

    Examples
    --------
    >>> from asym_analysis.finetuning import read_sweep
    >>> len(results_table(read_sweep("minilm-glue"), "a folder without finished runs"))
    0
    """
    return _table(runs, _finished(runs, Path(folder)))


def changed_runs(runs: list[PlannedRun], folder: str | Path) -> dict[str, list[str]]:
    """Find the finished runs that were made from other inputs than they would be now.

    Parameters
    ----------
    runs
        From `read_sweep`.
    folder
        As given to `run_sweep`.

    Returns
    -------
    dict
        Name of a run -> what changed, one entry a setting, a file or the model.
    """
    return _changed(runs, _finished(runs, Path(folder)), Path(folder))


def best_rate(group: str, runs: list[PlannedRun], finished: Mapping[str, dict[str, Any]]) -> float | None:
    """Find the best learning rate of a search by the rows that tune; None until all its runs are finished.

    A diverged run scores NaN and never wins.
    """
    searched = [run for run in runs if run.stage == "search" and run.group == group]
    if not searched or any(run.name not in finished for run in searched):
        return None
    sign = -1 if searched[0].config.task.lower_is_better else 1
    found = [(run, finished[run.name].get("tune_value")) for run in searched]
    scored = [(sign * value, run) for run, value in found if value is not None and value == value]
    return (max(scored, key=lambda pair: pair[0])[1] if scored else searched[0]).config.learning_rate


def _finished(runs: list[PlannedRun], folder: Path) -> dict[str, dict[str, Any]]:
    """Metrics of the finished runs, each read once."""
    return {run.name: read_run(folder / run.name).metrics for run in runs if is_finished(folder / run.name)}


def _wanted(run: PlannedRun, only: str, finished: Mapping[str, dict[str, Any]]) -> bool:
    return only in run.name and run.name not in finished


def _at_rate(run: PlannedRun, runs: list[PlannedRun], finished: Mapping[str, dict[str, Any]]) -> PlannedRun | None:
    """The run at the learning rate that it has to take; None where that is not known yet."""
    if run.stage != "final" or run.group is None:
        return run
    rate = best_rate(run.group, runs, finished)
    return None if rate is None else run.at(rate)


def _unfinished_of_others(folder: Path, run: PlannedRun) -> bool:
    """Whether a folder holds a run of other inputs that was interrupted."""
    if is_finished(folder) or not (folder / INPUTS).is_file():
        return False
    return bool(changed_inputs(json.loads((folder / INPUTS).read_text(encoding="utf-8")), inputs_of(run.config)))


def _changes(
    run: PlannedRun, runs: list[PlannedRun], finished: Mapping[str, dict[str, Any]], folder: Path
) -> list[str]:
    """What differs between the inputs of a finished run and those that it would have now."""
    stored = read_run(folder / run.name).inputs
    at_rate = _at_rate(run, runs, finished)
    if at_rate is None:
        at_rate = run.at(stored.get("settings", {}).get("learning_rate", run.config.learning_rate))
    return changed_inputs(stored, inputs_of(at_rate.config))


def _changed(runs: list[PlannedRun], finished: Mapping[str, dict[str, Any]], folder: Path) -> dict[str, list[str]]:
    checked = ((run.name, _changes(run, runs, finished, folder)) for run in runs if run.name in finished)
    return {name: found for name, found in checked if found}


def _table(runs: list[PlannedRun], finished: Mapping[str, dict[str, Any]]) -> pd.DataFrame:
    rows = []
    for run in runs:
        if run.name in finished:
            at_rate = _at_rate(run, runs, finished) or run
            rows.append(_row(at_rate, finished[run.name]))
    return pd.DataFrame(rows)


def _row(run: PlannedRun, metrics: Mapping[str, Any]) -> dict[str, Any]:
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
        "tune_value": metrics.get("tune_value"),
        "baseline": metrics["baseline"],
        "lower_is_better": config.task.lower_is_better,
    }
    if run.stage != "given":
        first |= {
            "stage": run.stage,
            "rate_grid": " ".join(f"{rate:g}" for rate in run.grid),
            "rate_at_edge": run.stage == "final" and config.learning_rate in (run.grid[0], run.grid[-1]),
        }
    return first | {key: value for key, value in metrics.items() if key not in first and key != "curve"}
