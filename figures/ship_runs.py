"""Make the finished table of a sweep the one that ships with the package.

    python figures/ship_runs.py CONFIG RUNS [--data DATA] [--model MODEL] [--only TEXT ...] [--complete]

RUNS is the folder of `asym finetune CONFIG --runs RUNS`. Every chosen run has to be finished, from the settings, data
and model that it would have now; with --complete those variants on a task are chosen whose runs are all finished.
Writes to asym_analysis/samples/sweeps/CONFIG: runs.csv, the table; curves.csv, the
scores in the course of each run; and rows.npz, what every development row of the final runs got.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

import asym_analysis
from asym_analysis.atomic import replacing
from asym_analysis.finetuning.plan import PlannedRun, read_sweep
from asym_analysis.finetuning.storage import is_finished, read_run
from asym_analysis.finetuning.sweep import changed_runs, results_table


def ship(runs: list[PlannedRun], folder: Path, target: Path) -> pd.DataFrame:
    """Write the three files of a sweep; see the module.

    Parameters
    ----------
    runs
        The runs that ship, searches included.
    folder
        Where they are.
    target
        Where the files are written.

    Returns
    -------
    DataFrame
        The table.
    """
    unfinished = [run.name for run in runs if not is_finished(folder / run.name)]
    if unfinished:
        raise SystemExit(f"{len(unfinished)} of {len(runs)} runs are not finished, {unfinished[0]} among them")
    if changed := changed_runs(runs, folder):
        name, found = next(iter(changed.items()))
        raise SystemExit(f"{name} was finished from other inputs: {', '.join(found)}")
    table = results_table(runs, folder)
    stored = {run.name: read_run(folder / run.name) for run in runs}
    curves = [entry | {"name": name} for name, run in stored.items() for entry in run.metrics["curve"]]
    arrays = {
        f"{run.name}/{key}": values if values.dtype == bool else values.astype(np.float32)
        for run in runs
        if run.stage != "search"
        for key, values in stored[run.name].outcomes().items()
    }
    target.mkdir(parents=True, exist_ok=True)
    with replacing(target / "runs.csv") as part:
        table.to_csv(part, index=False, float_format="%.6g")
    with replacing(target / "curves.csv") as part:
        columns = ["name", "step", "epoch", "loss", "value", "tune_value"]
        pd.DataFrame(curves).reindex(columns=columns).to_csv(part, index=False, float_format="%.5g")
    with replacing(target / "rows.npz") as part, open(part, "wb") as file:
        np.savez_compressed(file, **arrays)
    return table


def complete(runs: list[PlannedRun], folder: Path) -> list[PlannedRun]:
    """The runs of the groups, a variant on a task each, that are finished whole: searches and reported seeds.

    Parameters
    ----------
    runs
        Of a sweep.
    folder
        Where they are.

    Returns
    -------
    list of PlannedRun
        In their order.
    """
    unfinished = {run.group or run.name for run in runs if not is_finished(folder / run.name)}
    return [run for run in runs if (run.group or run.name) not in unfinished]


def main() -> None:
    """Read the plan, choose and ship."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("runs", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--only", nargs="*", default=[""])
    parser.add_argument("--complete", action="store_true")
    options = parser.parse_args()
    planned = read_sweep(options.config, data=options.data, model=options.model)
    chosen = [run for run in planned if any(text in run.name for text in options.only)]
    chosen = complete(chosen, options.runs) if options.complete else chosen
    target = Path(asym_analysis.__file__).parent / "samples" / "sweeps" / Path(options.config).stem
    table = ship(chosen, options.runs, target)
    sys.stdout.write(f"wrote {len(table)} runs to {target}\n")


if __name__ == "__main__":
    main()
