"""`asym finetune`: train the variants of an adapter, from a config file or a shipped config."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asym_analysis.cli.console import JsonFlag, progress_wanted, show_frame, write_json

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("finetune")(finetune)


def finetune(
    config: Annotated[str, typer.Argument(help="A TOML file, or a shipped config by name; 'list' names them.")],
    data: Annotated[Path | None, typer.Option("--data", help="The folder of the task's data.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Train this model instead of the config's.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Where the runs and their table runs.csv are written.")] = Path(
        "runs"
    ),
    only: Annotated[str, typer.Option("--only", help="Run only what has this text in its name.")] = "",
    json: JsonFlag = False,
) -> None:
    """Train every run that CONFIG plans and is not finished yet; an interrupted sweep goes on where it stopped.

    `asym finetune samples --data GLUE` trains the adapters that ship with the package.
    """
    from asym_analysis.finetuning.environment import prepare_training
    from asym_analysis.finetuning.plan import read_sweep, shipped_configs
    from asym_analysis.finetuning.sweep import run_sweep

    if config == "list":
        typer.echo("\n".join(shipped_configs()))
        return
    prepare_training()
    table = run_sweep(read_sweep(config, data=data, model=model), out, only=only, progress=progress_wanted())
    if json:
        write_json(table.to_dict(orient="records"))
    else:
        columns = [
            "name",
            "task",
            "variant",
            "seed",
            "init_seed",
            "steps",
            "learning_rate",
            "metric",
            "value",
            "baseline",
        ]
        show_frame(table[columns] if len(table) else table, title=f"{len(table)} runs in {out}")
