"""Many runs from one config file, resumable, with one table of their results."""

from __future__ import annotations

import itertools
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pandas as pd

from asym_analysis.atomic import replacing
from asym_analysis.errors import AdapterError
from asym_analysis.finetuning.config import FinetuneConfig
from asym_analysis.finetuning.train import METRICS, finetune

__all__ = ["PlannedRun", "read_sweep", "results_table", "run_sweep", "shipped_configs"]


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep: its name (also its folder), its settings, and what else the table says of it."""

    name: str
    config: FinetuneConfig
    labels: Mapping[str, Any]


def shipped_configs() -> dict[str, str]:
    """Name -> text of the config files that come with the package."""
    folder = files("asym_analysis.finetuning") / "configs"
    with as_file(folder) as path:
        return {file.stem: file.read_text(encoding="utf-8") for file in sorted(path.glob("*.toml"))}


def read_sweep(source: str | Path, *, data: str | Path | None = None) -> list[PlannedRun]:
    """Read a config file, or a shipped config by its name, into the runs that it plans.

    A file has a table `settings` (see `FinetuneConfig`; the task is `settings.task`), and may have `[[runs]]`, each
    with a name, labels under `labels`, and the settings in which it differs, and `[grid]`, whose lists are combined
    with every run. Dots lead into tables: `"task.name" = ["MRPC", "RTE"]`.

    Parameters
    ----------
    source
        A path, or the name of a shipped config.
    data
        Overrides the task's `data_folder`.

    Raises
    ------
    AdapterError
        If the file is absent, is no TOML or plans a run that cannot be made.
    """
    text, folder = _text(source)
    try:
        plan = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise AdapterError(f"{source} is no TOML file: {error}") from error
    unknown = set(plan) - {"settings", "runs", "grid"}
    if unknown:
        raise AdapterError(f"{source} has no use for {', '.join(sorted(unknown))}; it takes settings, runs and grid")
    runs = []
    for name, changes, labels in _combinations(plan):
        settings = json.loads(json.dumps(plan.get("settings", {})))
        for key, value in changes.items():
            _put(settings, key, value)
        if data is not None:
            _put(settings, "task.data_folder", str(Path(data).expanduser().resolve()))
        try:
            runs.append(PlannedRun(name, FinetuneConfig.from_mapping(settings, folder=folder), labels))
        except AdapterError as error:
            raise AdapterError(f"{source}, run {name}: {error}") from error
    names = [run.name for run in runs]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise AdapterError(f"{source} names more than one run {', '.join(doubled)}")
    return runs


def run_sweep(runs: list[PlannedRun], folder: str | Path, *, progress: bool = False) -> pd.DataFrame:
    """Run what is not finished yet, and write `runs.csv` after each run.

    An interrupted sweep goes on where it stopped: finished runs are kept, and an unfinished one resumes.

    Parameters
    ----------
    runs
        From `read_sweep`.
    folder
        Each run gets a folder of its name in it.
    progress
        Show a bar over the runs.

    Returns
    -------
    DataFrame
        See `results_table`.
    """
    from tqdm.auto import tqdm

    folder = Path(folder)
    for run in (bar := tqdm(runs, disable=not progress, unit="run")):
        bar.set_postfix_str(run.name)
        if not (folder / run.name / METRICS).exists():
            finetune(run.config, folder / run.name)
        with replacing(folder / "runs.csv") as part:
            results_table(runs, folder).to_csv(part, index=False)
    return results_table(runs, folder)


def results_table(runs: list[PlannedRun], folder: str | Path) -> pd.DataFrame:
    """One row a finished run: name, labels, task, variant, seeds, rank, steps, learning rate and what it scored."""
    rows = []
    for run in runs:
        path = Path(folder) / run.name / METRICS
        if path.exists():
            rows.append(_row(run, json.loads(path.read_text(encoding="utf-8"))))
    return pd.DataFrame(rows)


def _row(run: PlannedRun, metrics: dict[str, Any]) -> dict[str, Any]:
    config = run.config
    first = {
        "name": run.name,
        **run.labels,
        "task": config.task.name,
        "variant": config.variant,
        "seed": config.seed,
        "init_seed": config.factor_seed,
        "rank": config.rank,
        "steps": metrics["steps"],
        "learning_rate": config.learning_rate,
        "metric": metrics["metric"],
        "value": metrics["value"],
        "baseline": metrics["baseline"],
    }
    return first | {key: value for key, value in metrics.items() if key not in first}


def _text(source: str | Path) -> tuple[str, Path]:
    path = Path(source)
    if path.is_file():
        return path.read_text(encoding="utf-8"), path.parent
    shipped = shipped_configs()
    if str(source) in shipped:
        return shipped[str(source)], Path()
    raise AdapterError(f"there is no file {source}, and no shipped config of that name; shipped: {', '.join(shipped)}")


def _combinations(plan: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, changed settings and labels of every run: the listed runs times the grid."""
    grid = plan.get("grid", {})
    for listed in plan.get("runs", [{}]):
        changes = dict(listed)
        name, labels = changes.pop("name", ""), changes.pop("labels", {})
        for values in itertools.product(*grid.values()):
            point = dict(zip(grid, values, strict=True))
            parts = [name, *(f"{key.split('.')[-1]}-{value}".replace(" ", "_") for key, value in point.items())]
            yield "-".join(part for part in parts if part) or "run", changes | point, labels


def _put(settings: dict[str, Any], key: str, value: Any) -> None:
    *tables, last = key.split(".")
    for table in tables:
        settings = settings.setdefault(table, {})
    settings[last] = value
