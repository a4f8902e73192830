"""`asym finetune`: train the variants of an adapter, from a config file or a shipped config."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asym_analysis.cli.console import DONE, Table, define, fail, headings, output, say
from asym_analysis.cli.deliver import SUFFIXES, Call
from asym_analysis.cli.inputs import arguments_checked
from asym_analysis.cli.options import command

if TYPE_CHECKING:
    from asym_analysis.finetuning.progress import TrainingState

__all__ = ["finetune"]

_RUNS = headings(
    "name: run | task | value: score | metric | baseline: before | variant | learning_rate | seed | init_seed | steps"
)


_PLAN = headings("name: run | steps | hours | finished | stage | task | variant | rank | seed")
MINUTE = 60.0


@command("finetune", reads="none", out="runs", draws=True)
def finetune(
    call: Call,
    config: Annotated[
        str, typer.Argument(help="A TOML file, or a shipped config by name; 'list' names them, 'copy' copies one.")
    ],
    name: Annotated[str | None, typer.Argument(help="After 'copy': the config to copy to the current folder.")] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="The task's data: a folder, or your own table, text or images.")
    ] = None,
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

    Your own data: `asym finetune own-texts --data reviews.csv --model MODEL`, own-language for plain text, own-images
    for folders of images; 'copy' writes such a config to edit. A finished run is kept as long as its settings, data and
    model are the same. --figures draws what A and B did in the course of each run.
    """
    from asym_analysis.finetuning.shipped import config_text, shipped_configs

    if config == "list":
        return _list(shipped_configs())
    if config == "copy":
        return _copy(name, shipped_configs())
    if name is not None:
        fail(f"{name}: one config at a time")
    config_text(config)  # a name that leads nowhere is told before the libraries are loaded, which takes seconds
    if data is not None and not data.exists():
        fail(f"there is no {data}: give the task's data with --data")
    if call.out is not None and call.out.suffix not in SUFFIXES:
        runs = call.out
        call.note(f"--out FOLDER is now --runs FOLDER: the runs are in {runs}/")
    call.tell(f"reading {config} and loading the training libraries ...")
    from asym_analysis.finetuning.environment import prepare_training
    from asym_analysis.finetuning.plan import read_sweep
    from asym_analysis.finetuning.storage import is_finished
    from asym_analysis.finetuning.sweep import run_sweep

    prepare_training()
    with arguments_checked():
        planned = read_sweep(config, data=data, model=model)
        if plan:
            from asym_analysis.finetuning.estimate import estimate_sweep

            found = estimate_sweep([run for run in planned if only in run.name], runs)
            hours = found.frame.loc[~found.frame["finished"], "hours"].sum()
            title = f"{len(found.frame)} planned runs, {found.frame['finished'].sum()} of them finished"
            left = f"{hours:.2g} hours are" if hours >= 1 else f"{max(1, round(60 * hours))} min are"
            below = f"About {left} left, at the pace of a few steps made just now."
            summary = Table("summary", found.summary(), "What is left", below=below)
            return call.deliver(found, Table("plan", found.frame, title, _PLAN), summary)
        chosen = [run for run in planned if only in run.name]
        if not chosen:
            fail(f"no run's name contains --only {only}; the names are {', '.join(run.name for run in planned)}")
        finished = sum(is_finished(runs / run.name) for run in chosen)
        loading = "; the next one loads model and data ..." if finished < len(chosen) else ""
        call.tell(f"{len(chosen)} runs in {runs}/, {finished} of them finished{loading}")
        progress = True if call.progress else False if call.quiet else _once_a_minute()
        table = run_sweep(planned, runs, only=only, redo=redo, progress=progress)
    below = "A row: a finished run; score: on held-out rows; before: a constant guess, or the model before training."
    table_shown = Table("runs", table, f"{len(table)} runs in {runs}", _RUNS, below)
    return call.deliver(table, table_shown, figures=_pictures(runs, list(table["name"]) if len(table) else []))


def _pictures(folder: Path, names: list[str]) -> dict[str, Callable[[], Any]]:
    """What draws each run that has a record of A and B."""
    from asym_analysis.finetuning.storage import read_run

    records = {name: read_run(folder / name).training_record() for name in names}
    return {f"training-{name}": record.plot for name, record in records.items() if record is not None}


def _once_a_minute() -> Callable[[TrainingState], None]:
    """A line at either end of a run, and one a minute between, where nobody watches a bar."""
    last = time.monotonic()

    def report(state: TrainingState) -> None:
        nonlocal last
        if state.step in (0, state.steps) or time.monotonic() - last >= MINUTE:
            last = time.monotonic()
            say(str(state))

    return report


def _list(shipped: dict[str, str]) -> int:
    from asym_analysis.finetuning.shipped import first_sentence

    define({name: first_sentence(text) for name, text in shipped.items()})
    typer.echo("\ncopy one to edit it: asym finetune copy own-texts")
    return DONE


def _copy(name: str | None, shipped: dict[str, str]) -> int:
    if name not in shipped:
        fail(f"there is no shipped config {name or ''}; the names are {', '.join(shipped)}")
    path = Path(f"{name}.toml")
    if path.exists():
        fail(f"{path} exists: remove or rename it first")
    path.write_text(shipped[name], encoding="utf-8")
    output().print(f"wrote {path}; train it with: asym finetune {path}")
    return DONE
