"""The asymmetry index of a sweep's own adapters, beside what freezing each factor cost in fact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from asym_analysis.adapters.load import load_adapter
from asym_analysis.errors import AdapterError
from asym_analysis.finetuning.config import FinetuneConfig, model_source
from asym_analysis.finetuning.plan import PlannedRun
from asym_analysis.finetuning.sweep import results_table
from asym_analysis.finetuning.train import pretrained_model
from asym_analysis.prediction.asymmetry import predict_asymmetry
from asym_analysis.prediction.input_moments import input_covariances
from asym_analysis.prediction.output_sensitivities import output_sensitivities

__all__ = ["advantages", "predict_sweep", "task_batches", "with_followers"]

KINDS: dict[str, dict[str, Any]] = {"inputs": {}, "centred inputs": {"centred": True}, "inputs and outputs": {}}


def predict_sweep(
    runs: list[PlannedRun], folder: str | Path, *, reference: str = "lora-r8", rows: int = 512
) -> pd.DataFrame:
    """Predict, from the runs of a sweep that train both factors, what freezing either would keep.

    Parameters
    ----------
    runs, folder
        As given to `run_sweep`, which has finished.
    reference
        The run, by its name in the plan, whose adapters stand for the change that each task asks for.
    rows
        Development rows whose inputs are measured, in the pretrained model.

    Returns
    -------
    DataFrame
        A row a task, seed, module and `kind` of prediction, with the columns of `AsymmetryPrediction`; the module "all"
        weights the modules by their signal. The kinds: "inputs", from the inputs' second moments as in the paper's
        model; "centred inputs", without their mean; and "inputs and outputs", with the loss's sensitivity as well.

    Raises
    ------
    AdapterError
        If no run of that name has finished.
    """
    table = results_table(runs, folder)
    chosen = table[(table["run"] == reference) & (table.get("stage", "best") == "best")] if len(table) else table
    if chosen.empty:
        raise AdapterError(f"{folder}: no finished run {reference} at its best learning rate; run the sweep first")
    configs = {run.config.task.name: run.config for run in with_followers(runs)}
    parts = []
    for task, members in chosen.groupby("task", sort=False):
        adapters = {
            seed: load_adapter(Path(folder) / name) for name, seed in zip(members["name"], members["seed"], strict=True)
        }
        config, modules = configs[str(task)], list(next(iter(adapters.values())))
        model, batches = pretrained_model(config), list(task_batches(config, rows=rows))
        covariances = input_covariances(model, batches, modules)
        felt = output_sensitivities(model, batches, modules)
        for seed, adapter in adapters.items():
            for kind, options in KINDS.items():
                sensitivities = felt if kind == "inputs and outputs" else None
                prediction = predict_asymmetry(adapter, covariances, sensitivities, **options)
                frame = pd.concat([prediction.frame, pd.DataFrame([{"module": "all", **prediction.overall()}])])
                parts.append(frame.assign(task=task, seed=seed, kind=kind))
    return pd.concat(parts, ignore_index=True)


def advantages(runs: pd.DataFrame, *, first: str = "b-only-r8", second: str = "a-only-r8") -> pd.DataFrame:
    """By how much one run's development loss is below another's, on a scale that all tasks share.

    Parameters
    ----------
    runs
        The table of a sweep; where its runs adapt one module each, every module is taken for itself.
    first, second
        Runs of the plan.

    Returns
    -------
    DataFrame
        `task, target_modules, advantage, advantage_error`: log(loss of second / loss of first), mean and standard error
        over common seeds; positive where `first` is better.
    """
    best = runs[(runs["stage"] != "search") & runs["run"].isin([first, second])]
    keys = ["task", "target_modules"]
    losses = best.pivot_table(index=[*keys, "seed"], columns="run", values="loss")[[first, second]].dropna()
    ratio = pd.Series(np.log(losses[second] / losses[first]))
    table = ratio.groupby(level=keys, sort=False).agg(["mean", "sem"]).reset_index()
    return table.rename(columns={"mean": "advantage", "sem": "advantage_error"})


def task_batches(config: FinetuneConfig, *, rows: int = 512) -> Iterator[dict[str, Tensor]]:
    """The first development rows of a run's task as its model takes them, labels included."""
    source, options = model_source(config.model)
    processor = config.task.processor(source, **options)
    data = config.task.data(processor).dev
    collate = config.task.collator(processor)
    size, whole = 2 * config.batch_size, min(rows, len(data))
    for first in range(0, whole, size):
        chosen = [data[i] for i in range(first, min(first + size, whole))]
        batch = collate([{key: value for key, value in row.items() if key != "length"} for row in chosen])
        yield {key: value for key, value in batch.items() if isinstance(value, Tensor)}


def with_followers(runs: list[PlannedRun]) -> list[PlannedRun]:
    """The planned runs, and those that take over the rate of another task's search."""
    return [*runs, *(other for run in runs if run.search is not None for other in run.search.elsewhere)]
