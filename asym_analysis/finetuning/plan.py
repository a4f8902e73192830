"""A config file read into all the runs that it plans, those at a rate still to be found among them."""

from __future__ import annotations

import copy
import itertools
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from asym_analysis.errors import AdapterError
from asym_analysis.finetuning.config import FinetuneConfig
from asym_analysis.finetuning.settings import Rate, Seed, read_settings
from asym_analysis.finetuning.shipped import config_text
from asym_analysis.finetuning.tasks import TASKS

__all__ = ["PlannedRun", "read_sweep"]

Stage = Literal["given", "search", "final"]


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep.

    Parameters
    ----------
    name : str
        Also the name of its folder.
    config : FinetuneConfig
        Its settings. The learning rate of a final run is the one that the search finds.
    labels : mapping
        Further columns of the table. Where a listed run is multiplied, by tasks, a grid, lengths or a search, the label
        `run` keeps its own name.
    stage : {"given", "search", "final"}, default "given"
        "given": at a given learning rate. "search": tries a learning rate on the tuning seed. "final": at the best
        learning rate of the runs of its group.
    group : str, optional
        The name of the search that a run belongs to, or whose best rate it takes over; None for given runs.
    grid : tuple of float, optional
        The learning rates of that search.
    """

    name: str
    config: FinetuneConfig
    labels: Mapping[str, Any]
    stage: Stage = "given"
    group: str | None = None
    grid: tuple[float, ...] = ()

    def at(self, learning_rate: float) -> PlannedRun:
        """The run at another learning rate, which is the head's where nothing else is trained.

        Returns
        -------
        PlannedRun
            A copy with that learning rate.
        """
        config = replace(self.config, learning_rate=learning_rate)
        if config.variant == "frozen":
            config = replace(config, head_learning_rate=None)
        return replace(self, config=config)


class _Listed(BaseModel):
    """An entry of [[runs]] or [[tasks]]: its name, labels, own rates, and the settings in which it differs."""

    model_config = ConfigDict(extra="allow")
    name: str = ""
    rates: Annotated[list[Rate], Field(min_length=1)] | None = None
    labels: dict[str, str | int | float | bool] = Field(default_factory=dict)

    @property
    def changes(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class _Search(BaseModel):
    """The learning rates that are tried, on which seed, and the seeds that are reported."""

    model_config = ConfigDict(extra="forbid")
    learning_rate: Annotated[list[Rate], Field(min_length=1)]
    seed: Seed = 0
    seeds: Annotated[list[Seed], Field(min_length=1)]
    task: str | None = None


class _Plan(BaseModel):
    """The tables of a config file."""

    model_config = ConfigDict(extra="forbid")
    settings: dict[str, Any] = Field(default_factory=dict)
    runs: list[_Listed] = Field(default_factory=lambda: [_Listed()])
    tasks: list[_Listed] = Field(default_factory=lambda: [_Listed()])
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)
    lengths: dict[Literal["epochs", "max_steps"], Annotated[list[Rate], Field(min_length=2)]] = Field(
        default_factory=dict
    )
    search: _Search | None = None

    @property
    def multiplied(self) -> bool:
        return any(name in self.model_fields_set for name in ("tasks", "grid", "lengths", "search"))


def read_sweep(source: str | Path, *, data: str | Path | None = None, model: str | None = None) -> list[PlannedRun]:
    """Read a config file, or a shipped config by its name, into all the runs that it plans.

    A file has a table `settings` (see `FinetuneConfig`; the task is `settings.task`), and may have

    - `[[runs]]`: each with a name, `labels` for the table, `rates` in place of those of the search, and the settings
      in which it differs;
    - `[[tasks]]`: the same, combined with every run (whose own rates come first);
    - `[grid]`: lists of settings, combined with each other and with every run and task;
    - `[lengths]`: a list of `epochs` or `max_steps`, shortest first: every run is made at each length;
    - `[search]`: a list `learning_rate` that is tried on `seed` at the longest length, and the `seeds` on which each
      best one is run at every length and reported. The tuning seed is not among them. With the name of a `task` the
      rates are tried on that one alone, and the others take over its best.

    Dots lead into tables: `"task.dataset" = ["MRPC", "RTE"]`.

    Parameters
    ----------
    source : path
        A path, or the name of a shipped config.
    data : path, optional
        Replaces the task's `data_folder`; a file replaces its `train_file` too.
    model : str, optional
        Replaces the model of every run.

    Returns
    -------
    list of PlannedRun
        In the order in which they are run: a search before the final runs that take over its rate.

    Raises
    ------
    AdapterError
        If the file is absent, is not TOML or plans a run that cannot be made; the message names the setting.

    Examples
    --------
    >>> runs = read_sweep("minilm-glue")
    >>> runs[0].name, runs[0].stage
    ('frozen-CoLA-rate-0.001-seed-0', 'search')
    """
    text, folder = config_text(source)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise AdapterError(f"{source} is not a TOML file: {error}") from error
    try:
        plan: _Plan = read_settings(_Plan, values, where="", known=_Plan.model_fields)
        runs = [
            PlannedRun(name, _config(name, settings, folder, data, model), labels, grid=rates)
            for rates, name, settings, labels in _combinations(plan)
        ]
        runs = list(_planned(runs, plan))
    except AdapterError as error:
        raise AdapterError(f"{source}: {error}") from None
    names = [run.name for run in runs]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise AdapterError(f"{source} gives the same name to several runs: {', '.join(doubled)}")
    return runs


def _config(
    name: str, settings: dict[str, Any], folder: Path | None, data: str | Path | None, model: str | None
) -> FinetuneConfig:
    if model is not None:
        settings["model"] = model
    if data is not None:
        path = Path(data).expanduser().resolve()
        if path.is_file():
            kind = settings.get("task", {}).get("kind")
            if kind in TASKS and "train_file" not in TASKS[kind].__dataclass_fields__:  # type: ignore[attr-defined]
                raise AdapterError(f"--data {data} is a file, and a task of kind {kind!r} reads a folder")
            _put(settings, "task.train_file", path.name)
            path = path.parent
        _put(settings, "task.data_folder", str(path))
    try:
        return FinetuneConfig.from_mapping(settings, folder=folder)
    except AdapterError as error:
        raise AdapterError(f"run {name}: {error}") from None


def _combinations(plan: _Plan) -> Iterator[tuple[tuple[float, ...], str, dict[str, Any], dict[str, Any]]]:
    """Own rates, name, settings and labels of every run: the listed runs times the listed tasks times the grid."""
    for listed, task in itertools.product(plan.runs, plan.tasks):
        labels: dict[str, Any] = {"run": listed.name} if listed.name and plan.multiplied else {}
        labels |= listed.labels | task.labels
        rates = tuple(listed.rates or task.rates or ())
        for values in itertools.product(*plan.grid.values()):
            point = dict(zip(plan.grid, values, strict=True))
            parts = [listed.name, task.name, *(_written(key, value) for key, value in point.items())]
            settings = copy.deepcopy(plan.settings)
            for key, value in (listed.changes | task.changes | point).items():
                _put(settings, key, value)
            yield rates, "-".join(part for part in parts if part) or "run", settings, labels


def _written(key: str, value: Any) -> str:
    """How a point of the grid appears in a run's name, which is also a folder."""
    if isinstance(value, str):
        return value.replace(" ", "_")
    if isinstance(value, list):
        return "+".join(map(str, value))
    return f"{key.split('.')[-1]}-{value:g}" if isinstance(value, float) else f"{key.split('.')[-1]}-{value}"


def _put(settings: dict[str, Any], key: str, value: Any) -> None:
    *tables, last = key.split(".")
    for table in tables:
        settings = settings.setdefault(table, {})
    settings[last] = value


@dataclass(frozen=True)
class _Length:
    """One training length: the setting that decides it, and how names and tables call it."""

    setting: str | None = None
    value: float = field(default=0.0)

    def of(self, run: PlannedRun) -> PlannedRun:
        if self.setting is None:
            return run
        changes: dict[str, Any] = {self.setting: int(self.value) if self.setting == "max_steps" else self.value}
        config = replace(run.config, **changes)
        labels = {**run.labels, "length": f"{self.value:g} {'steps' if self.setting == 'max_steps' else 'epochs'}"}
        return replace(run, config=config, labels=labels)

    @property
    def suffix(self) -> str:
        return "" if self.setting is None else f"-{self.setting.removeprefix('max_')}-{self.value:g}"


def _planned(runs: list[PlannedRun], plan: _Plan) -> Iterator[PlannedRun]:
    lengths = _lengths(plan)
    # A frozen model without a head has nothing to train: one run says what it scores.
    still = [run for run in runs if run.config.variant == "frozen" and not run.config.task.has_head]
    yield from still
    runs = [run for run in runs if run not in still]
    if plan.search is None:
        yield from (
            replace(long, name=run.name + each.suffix) for run in runs for each in lengths for long in [each.of(run)]
        )
        return
    search = plan.search
    if search.seed in search.seeds:
        raise AdapterError(
            f"search.seeds holds the tuning seed {search.seed}, whose score chose the rate; report other seeds"
        )
    for head, *others in _shared_searches(runs, plan):
        grid = tuple(sorted(head.grid or search.learning_rate))
        searched = replace(lengths[-1].of(head), stage="search", group=head.name, grid=grid)
        for rate in grid:
            run = replace(searched, config=replace(searched.config, seed=search.seed)).at(rate)
            yield replace(run, name=f"{head.name}-rate-{rate:g}-seed-{search.seed}")
        for run, length, seed in itertools.product([head, *others], lengths, search.seeds):
            final = replace(length.of(run), stage="final", group=head.name, grid=grid)
            final = replace(final, config=replace(final.config, seed=seed)).at(grid[0])
            yield replace(final, name=f"{run.name}-best{length.suffix}-seed-{seed}")


def _lengths(plan: _Plan) -> list[_Length]:
    if len(plan.lengths) > 1:
        raise AdapterError("lengths has both epochs and max_steps; give one of them")
    for setting, values in plan.lengths.items():
        if values != sorted(set(values)) or (setting == "max_steps" and any(value != int(value) for value in values)):
            raise AdapterError(f"lengths.{setting} is {values!r}: give rising numbers, whole ones for steps")
        return [_Length(setting, value) for value in values]
    return [_Length()]


def _shared_searches(groups: list[PlannedRun], plan: _Plan) -> Iterator[list[PlannedRun]]:
    """Runs that share one search, the one that is searched on first: alone unless the search names a task."""
    assert plan.search is not None
    wanted, names = plan.search.task, [task.name for task in plan.tasks]
    if wanted is None:
        yield from ([group] for group in groups)
        return
    if wanted not in names or plan.grid or len(groups) % len(names):
        raise AdapterError(f"search.task is {wanted!r}, which must be one of [[tasks]] in a plan without a grid")
    for first in range(0, len(groups), len(names)):
        own = groups[first : first + len(names)]
        head = own.pop(names.index(wanted))
        yield [head, *own]
