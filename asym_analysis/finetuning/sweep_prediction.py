"""The asymmetry index of a sweep's own adapters, beside what freezing each factor cost in fact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from asym_analysis.adapters.load import load_adapter
from asym_analysis.errors import AdapterError
from asym_analysis.finetuning.models import pretrained_model, task_batches
from asym_analysis.finetuning.plan import PlannedRun
from asym_analysis.finetuning.results.scores import longest_runs
from asym_analysis.finetuning.sweep import results_table
from asym_analysis.prediction.asymmetry import predict_asymmetry
from asym_analysis.prediction.input_moments import input_covariances
from asym_analysis.prediction.output_sensitivities import output_sensitivities

__all__ = ["advantages", "predict_sweep"]

KINDS: dict[str, dict[str, Any]] = {"inputs": {}, "centred inputs": {"centred": True}, "inputs and outputs": {}}


def predict_sweep(
    runs: list[PlannedRun], folder: str | Path, *, variant: str = "hB_0 hA_Km", rank: int = 8, rows: int = 512
) -> pd.DataFrame:
    """Predict, from the runs of a sweep that train both factors, what freezing either would keep.

    Parameters
    ----------
    runs, folder : list of PlannedRun or path
        As given to `run_sweep`, which has finished.
    variant, rank : str or int, optional
        Of the runs whose adapters stand for the change that each task asks for.
    rows : int, default 512
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
        If no run of that variant and rank has finished.
    """
    table = results_table(runs, folder)
    chosen = longest_runs(table).query("variant == @variant and rank == @rank") if len(table) else table
    if chosen.empty:
        raise AdapterError(
            f"{folder}: no finished run of variant {variant} and rank {rank} at its best learning rate; run the sweep "
            "first"
        )
    configs = {run.config.task.name: run.config for run in runs}
    parts = []
    for task, members in chosen.groupby("task", sort=False):
        adapters = {
            seed: load_adapter(Path(folder) / name) for name, seed in zip(members["name"], members["seed"], strict=True)
        }
        config, modules = configs[str(task)], list(next(iter(adapters.values())))
        model, batches = pretrained_model(config), list(task_batches(config, rows=rows))
        covariances = input_covariances(model, batches, modules)
        measured = output_sensitivities(model, batches, modules)
        for seed, adapter in adapters.items():
            for kind, options in KINDS.items():
                sensitivities = measured if kind == "inputs and outputs" else None
                prediction = predict_asymmetry(adapter, covariances, sensitivities, **options)
                frame = pd.concat([prediction.frame, pd.DataFrame([{"module": "all", **prediction.overall()}])])
                parts.append(frame.assign(task=task, seed=seed, kind=kind))
    return pd.concat(parts, ignore_index=True)


def advantages(
    runs: pd.DataFrame, *, first: str = "hB_0 A_rand", second: str = "B_rand hA_0", rank: int = 8
) -> pd.DataFrame:
    """By how much one variant's development loss is below another's, on a scale that all tasks share.

    Parameters
    ----------
    runs
        The table of a sweep; where its runs adapt one module each, every module is taken for itself.
    first, second
        The two variants.
    rank
        Their rank.

    Returns
    -------
    DataFrame
        `task, target_modules, advantage, advantage_error`: log(loss of second / loss of first), mean and standard error
        over common seeds; positive where `first` is better.
    """
    final = longest_runs(runs).query("rank == @rank and variant in [@first, @second]")
    keys = ["task", "target_modules"]
    losses = final.pivot_table(index=[*keys, "seed"], columns="variant", values="loss")[[first, second]].dropna()
    ratio = pd.Series(np.log(losses[second] / losses[first]))
    table = ratio.groupby(level=keys, sort=False).agg(["mean", "sem"]).reset_index()
    return table.rename(columns={"mean": "advantage", "sem": "advantage_error"})
