"""`asym finetune`: train the variants of an adapter, from a config file or a shipped config."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asym_analysis.cli.console import DONE, Table, fail, output, say
from asym_analysis.cli.deliver import SUFFIXES, Call
from asym_analysis.cli.inputs import arguments_checked
from asym_analysis.cli.options import command

if TYPE_CHECKING:
    from asym_analysis.finetuning.progress import TrainingState

__all__ = ["register"]

_RUNS = {
    "name": "run",
    "task": "task",
    "value": "score",
    "metric": "metric",
    "baseline": "before",
    "variant": "variant",
    "learning_rate": "learning rate",
    "seed": "seed",
    "init_seed": "init seed",
    "steps": "steps",
}


_PLAN = {
    "name": "run",
    "steps": "steps",
    "hours": "hours",
    "finished": "finished",
    "stage": "stage",
    "task": "task",
    "variant": "variant",
    "rank": "rank",
    "seed": "seed",
}
MINUTE = 60.0


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("finetune")(finetune)


@command("finetune", reads="none", out="runs")
def finetune(
    call: Call,
    config: Annotated[
        str, typer.Argument(help="A TOML file, or a shipped config by name; 'list' names them, 'copy' copies one.")
    ],
    name: Annotated[str | None, typer.Argument(help="After 'copy': the config to copy to the current folder.")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="The folder of the task's data.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Train this model instead of the config's.")] = None,
    runs: Annotated[Path, typer.Option("--runs", help="Folder of the runs and their table runs.csv.")] = Path("runs"),
    only: Annotated[str, typer.Option("--only", help="Only the runs whose name contains this text.")] = "",
    redo: Annotated[
        bool, typer.Option("--redo", help="Train again the finished runs whose settings, data or model changed.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Train nothing: list the runs, with hours estimated from a few steps.")
    ] = False,
) -> int:
    """Train every run that CONFIG plans and is not finished yet; an interrupted sweep continues.

    `asym finetune samples --data GLUE` trains the adapters that ship with the package. A finished run is kept as long
    as its settings, data and model are the same.
    """
    from asym_analysis.finetuning.shipped import shipped_configs

    if config == "list":
        output().print("\n".join(shipped_configs()))
        return DONE
    if config == "copy":
        return _copy(name, shipped_configs())
    if name is not None:
        fail(f"{name}: one config at a time")
    if call.out is not None and call.out.suffix not in SUFFIXES:
        runs = call.out
        call.note(f"--out FOLDER is now --runs FOLDER: the runs are in {runs}/")
    from asym_analysis.finetuning.environment import prepare_training
    from asym_analysis.finetuning.plan import read_sweep
    from asym_analysis.finetuning.sweep import run_sweep

    prepare_training()
    with arguments_checked():
        planned = read_sweep(config, data=data, model=model)
        if plan:
            from asym_analysis.finetuning.estimate import estimate_sweep

            found = estimate_sweep([run for run in planned if only in run.name], runs)
            hours = found.frame.loc[~found.frame["finished"], "hours"].sum()
            title = f"{len(found.frame)} planned runs, {found.frame['finished'].sum()} of them finished"
            below = f"About {hours:.2g} hours are left, at the pace of a few steps made just now."
            summary = Table("summary", found.summary(), "What is left", below=below)
            return call.deliver(found, Table("plan", found.frame, title, _PLAN), summary)
        progress = True if call.progress else _once_a_minute()
        table = run_sweep(planned, runs, only=only, redo=redo, progress=progress)
    return call.deliver(table, Table("runs", table, f"{len(table)} runs in {runs}", _RUNS))


def _once_a_minute() -> Callable[[TrainingState], None]:
    """A line a minute, and one at the end of each run, where nobody watches a bar."""
    last = [time.monotonic()]

    def report(state: TrainingState) -> None:
        if state.step == state.steps or time.monotonic() - last[0] >= MINUTE:
            last[0] = time.monotonic()
            say(str(state))

    return report


def _copy(name: str | None, shipped: dict[str, str]) -> int:
    if name not in shipped:
        fail(f"there is no shipped config {name or ''}; the names are {', '.join(shipped)}")
    path = Path(f"{name}.toml")
    if path.exists():
        fail(f"{path} exists: remove or rename it first")
    path.write_text(shipped[name], encoding="utf-8")
    output().print(f"wrote {path}; train it with: asym finetune {path}")
    return DONE
