"""`asym finetune`: train the variants of an adapter, from a config file or a shipped config."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asym_analysis.cli.console import DONE, Table, fail, output
from asym_analysis.cli.deliver import SUFFIXES, Call
from asym_analysis.cli.inputs import arguments_checked
from asym_analysis.cli.options import command

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
) -> int:
    """Train every run that CONFIG plans and is not finished yet; an interrupted sweep continues.

    `asym finetune samples --data GLUE` trains the adapters that ship with the package.
    """
    from asym_analysis.finetuning.environment import prepare_training
    from asym_analysis.finetuning.plan import read_sweep, shipped_configs
    from asym_analysis.finetuning.sweep import run_sweep

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
    prepare_training()
    with arguments_checked():
        table = run_sweep(read_sweep(config, data=data, model=model), runs, only=only, progress=call.progress)
    return call.deliver(table, Table("runs", table, f"{len(table)} runs in {runs}", _RUNS))


def _copy(name: str | None, shipped: dict[str, str]) -> int:
    if name not in shipped:
        fail(f"there is no shipped config {name or ''}; the names are {', '.join(shipped)}")
    path = Path(f"{name}.toml")
    if path.exists():
        fail(f"{path} exists: remove or rename it first")
    path.write_text(shipped[name], encoding="utf-8")
    output().print(f"wrote {path}; train it with: asym finetune {path}")
    return DONE
