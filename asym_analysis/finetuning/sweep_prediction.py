"""The asymmetry index of a sweep's own adapters, beside what freezing each factor cost in fact."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from asym_analysis.adapters.load import load_adapter
from asym_analysis.errors import AdapterError
from asym_analysis.finetuning.config import FinetuneConfig, model_source
from asym_analysis.finetuning.covariance import InputMoment, input_covariances
from asym_analysis.finetuning.plan import PlannedRun
from asym_analysis.finetuning.prediction import predict_asymmetry
from asym_analysis.finetuning.sweep import results_table

__all__ = ["predict_sweep", "task_covariances"]


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
        A row a task, seed and module, with the columns of `AsymmetryPrediction`, once from the inputs' second moments
        and once `centred`; and one with the module "all", which weights the modules by their signal.

    Raises
    ------
    AdapterError
        If no run of that name has finished.
    """
    table = results_table(runs, folder)
    chosen = table[(table["run"] == reference) & (table.get("stage", "best") == "best")] if len(table) else table
    if chosen.empty:
        raise AdapterError(f"{folder}: no finished run {reference} at its best learning rate; run the sweep first")
    configs = {run.config.task.name: run.config for run in _with_followers(runs)}
    parts = []
    for task, members in chosen.groupby("task", sort=False):
        adapters = {
            seed: load_adapter(Path(folder) / name) for name, seed in zip(members["name"], members["seed"], strict=True)
        }
        covariances = task_covariances(configs[str(task)], list(next(iter(adapters.values()))), rows=rows)
        for (seed, adapter), centred in itertools.product(adapters.items(), (False, True)):
            prediction = predict_asymmetry(adapter, covariances, centred=centred)
            frame = pd.concat([prediction.frame, pd.DataFrame([{"module": "all", **prediction.overall()}])])
            parts.append(frame.assign(task=task, seed=seed, centred=centred))
    return pd.concat(parts, ignore_index=True)


def task_covariances(config: FinetuneConfig, modules: Sequence[str], *, rows: int = 512) -> dict[str, InputMoment]:
    """The input moments of a run's modules, in its pretrained model, on the first development rows of its task."""
    source, options = model_source(config.model)
    processor = config.task.processor(source, **options)
    data = config.task.data(processor).dev
    collate = config.task.collator(processor)
    size = 2 * config.batch_size

    def batches() -> Any:
        for first in range(0, min(rows, len(data)), size):
            chosen = [data[i] for i in range(first, min(first + size, rows, len(data)))]
            batch = collate([{key: value for key, value in row.items() if key != "length"} for row in chosen])
            yield {key: value for key, value in batch.items() if isinstance(value, Tensor)}

    return input_covariances(config.task.model(source, **options), batches(), modules)


def _with_followers(runs: list[PlannedRun]) -> list[PlannedRun]:
    return [*runs, *(other for run in runs if run.search is not None for other in run.search.elsewhere)]
