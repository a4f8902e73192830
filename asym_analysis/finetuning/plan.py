"""A config file read into the runs that it plans."""

from __future__ import annotations

import itertools
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from asym_analysis.errors import AdapterError
from asym_analysis.finetuning.config import FinetuneConfig

__all__ = ["PlannedRun", "RateSearch", "read_sweep", "shipped_configs"]


@dataclass(frozen=True)
class RateSearch:
    """The learning rates that a group of runs tries on one seed, and the seeds on which the best one is then run.

    `elsewhere` holds the runs of other tasks that take over the best rate without a search of their own.
    """

    group: str
    grid: tuple[float, ...]
    seed: int
    seeds: tuple[int, ...]
    elsewhere: tuple[PlannedRun, ...] = ()


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep: its name (also its folder), its settings, and what else the table says of it.

    Where a listed run is multiplied, by tasks, a grid or a search, the label `run` keeps its own name.

    `search` is None for runs at a given learning rate.
    """

    name: str
    config: FinetuneConfig
    labels: Mapping[str, Any]
    search: RateSearch | None = None

    def at(self, learning_rate: float, seed: int) -> PlannedRun:
        """The run of the same group at another learning rate and seed."""
        if self.search is None:
            raise ValueError(f"run {self.name} belongs to no search for a learning rate")
        config = replace(self.config, learning_rate=learning_rate, seed=seed)
        return replace(self, name=f"{self.search.group}-rate-{learning_rate:g}-seed-{seed}", config=config)


def shipped_configs() -> dict[str, str]:
    """Name -> text of the config files that come with the package."""
    folder = files("asym_analysis.finetuning") / "configs"
    with as_file(folder) as path:
        return {file.stem: file.read_text(encoding="utf-8") for file in sorted(path.glob("*.toml"))}


def read_sweep(source: str | Path, *, data: str | Path | None = None, model: str | None = None) -> list[PlannedRun]:
    """Read a config file, or a shipped config by its name, into the runs that it plans.

    A file has a table `settings` (see `FinetuneConfig`; the task is `settings.task`), and may have

    - `[[runs]]`: each with a name, `labels` for the table, and the settings in which it differs;
    - `[[tasks]]`: the same, combined with every run;
    - `[grid]`: lists of settings, combined with each other and with every run and task;
    - `[search]`: a list `learning_rate` that is tried on `seed`, and the `seeds` on which each best one is run. With
      the name of a `task` the rates are tried on that one alone, and the others take over its best.

    Dots lead into tables: `"task.dataset" = ["MRPC", "RTE"]`.

    Parameters
    ----------
    source
        A path, or the name of a shipped config.
    data
        Replaces the task's `data_folder`.
    model
        Replaces the model of every run.

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
    unknown = set(plan) - {"settings", "runs", "tasks", "grid", "search"}
    if unknown:
        raise AdapterError(
            f"{source}: unknown {', '.join(sorted(unknown))}; a config has settings, runs, tasks, grid and search"
        )
    runs = []
    for name, changes, labels in _combinations(plan):
        settings = json.loads(json.dumps(plan.get("settings", {})))
        for key, value in changes.items():
            _put(settings, key, value)
        if model is not None:
            settings["model"] = model
        if data is not None:
            _put(settings, "task.data_folder", str(Path(data).expanduser().resolve()))
        try:
            runs.append(PlannedRun(name, FinetuneConfig.from_mapping(settings, folder=folder), labels))
        except AdapterError as error:
            raise AdapterError(f"{source}, run {name}: {error}") from error
    if "search" in plan:
        try:
            runs = list(_searches(runs, plan))
        except AdapterError as error:
            raise AdapterError(f"{source}: {error}") from error
    names = [run.name for run in runs]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise AdapterError(f"{source} gives the same name to several runs: {', '.join(doubled)}")
    return runs


def _text(source: str | Path) -> tuple[str, Path]:
    path = Path(source)
    if path.is_file():
        return path.read_text(encoding="utf-8"), path.parent
    shipped = shipped_configs()
    if str(source) in shipped:
        return shipped[str(source)], Path()
    raise AdapterError(f"there is no file {source}, and no shipped config of that name; shipped: {', '.join(shipped)}")


def _combinations(plan: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, changed settings and labels of every run: the listed runs times the listed tasks times the grid."""
    grid = plan.get("grid", {})
    for listed, task in itertools.product(plan.get("runs", [{}]), plan.get("tasks", [{}])):
        changes = listed | task
        labels = listed.get("labels", {}) | task.get("labels", {})
        if "name" in listed and {"tasks", "grid", "search"} & set(plan):
            labels = {"run": listed["name"]} | labels
        for values in itertools.product(*grid.values()):
            point = dict(zip(grid, values, strict=True))
            parts = [
                listed.get("name", ""),
                task.get("name", ""),
                *(_written(key, value) for key, value in point.items()),
            ]
            settings = {key: value for key, value in changes.items() if key not in {"name", "labels"}}
            yield "-".join(part for part in parts if part) or "run", settings | point, labels


def _written(key: str, value: Any) -> str:
    """How a point of the grid appears in a run's name, which is also a folder."""
    if isinstance(value, str):
        return value.replace(" ", "_")
    if isinstance(value, list):
        return "+".join(map(str, value))
    return f"{key.split('.')[-1]}-{value}"


def _searches(runs: list[PlannedRun], plan: Mapping[str, Any]) -> Iterator[PlannedRun]:
    """The runs of every group's search: each learning rate on the one seed."""
    search = plan["search"]
    unknown = set(search) - {"learning_rate", "seed", "seeds", "task"}
    if unknown or not search.get("learning_rate"):
        raise AdapterError("the table search takes a list learning_rate, a seed, a list seeds and the name of a task")
    rates, seed = tuple(sorted(map(float, search["learning_rate"]))), int(search.get("seed", 0))
    seeds = tuple(search.get("seeds", [seed]))
    groups = [replace(run, search=RateSearch(run.name, rates, seed, seeds)) for run in runs]
    for head, *others in _shared_searches(groups, plan):
        group = replace(head, search=RateSearch(head.name, rates, seed, seeds, tuple(others)))
        yield from (group.at(rate, seed) for rate in rates)


def _shared_searches(groups: list[PlannedRun], plan: Mapping[str, Any]) -> Iterator[list[PlannedRun]]:
    """Groups that share one search, the one that is searched on first: alone unless the search names a task."""
    wanted, names = plan["search"].get("task"), [task.get("name", "") for task in plan.get("tasks", [])]
    if wanted is None:
        yield from ([group] for group in groups)
        return
    if wanted not in names or "grid" in plan:
        raise AdapterError(f"the search is on task {wanted}, which must be one of [[tasks]] in a plan without a grid")
    for first in range(0, len(groups), len(names)):
        own = groups[first : first + len(names)]
        head = own.pop(names.index(wanted))
        yield [head, *own]


def _put(settings: dict[str, Any], key: str, value: Any) -> None:
    *tables, last = key.split(".")
    for table in tables:
        settings = settings.setdefault(table, {})
    settings[last] = value
