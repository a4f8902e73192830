"""`asym variants`: what each variant of a sweep scored, and whether the paper's claims hold on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asym_analysis.cli.console import Table, fail
from asym_analysis.cli.deliver import Call, frame_of
from asym_analysis.cli.inputs import arguments_checked
from asym_analysis.cli.options import command

__all__ = ["register"]


_CLAIMS = {
    "claim": "claim",
    "verdict": "verdict",
    "better": "better",
    "not_told_apart": "no difference found",
    "no_difference": "no difference found",
    "worse": "worse",
    "gain_ratio": "ratio of gains",
    "source": "in the paper",
}


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("variants")(variants)


@command("variants", reads="none")
def variants(
    call: Call,
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Tables runs.csv or folders of them; the shipped runs if none.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", help="Compare this column, such as loss, and not each task's metric.")
    ] = None,
    lower_is_better: Annotated[
        bool | None, typer.Option("--lower-is-better/--higher-is-better", help="Of --metric; the task's if absent.")
    ] = None,
) -> int:
    """Compare the variants of a sweep, each at its best learning rate, over seeds.

    Means are printed with standard errors over seeds, and the paper's claims are held against them.
    """
    import pandas as pd

    from asym_analysis.finetuning.results.claims import check_claims
    from asym_analysis.finetuning.results.scores import score_variants
    from asym_analysis.samples import sample_runs

    if runs:
        paths = [path / "runs.csv" if path.is_dir() else path for path in runs]
        absent = [path for path in paths if not path.is_file()]
        if absent:
            fail(f"there is no {absent[0]}; give the folder that `asym finetune --runs` wrote, or its runs.csv")
        table = pd.concat([pd.read_csv(path) for path in paths], ignore_index=True)
    else:
        table = sample_runs()
    with arguments_checked():
        scores = score_variants(table, metric=metric, lower_is_better=lower_is_better)
        claims = check_claims(scores)
    claims = frame_of(claims)
    tables = [Table("scores", scores.frame, shown=False), Table("claims", claims, shown=False)]
    for name, part in scores.frame.groupby("metric", sort=False):
        score = scores.summary()[["run", *part["task"].unique()]]
        made = (score.drop(columns="run") != "").any(axis=1)
        title = f"{name}: mean ± standard error over seeds"
        tables.append(Table(f"summary: {name}", score[made].replace("", None), title))
    edges = scores.frame[scores.frame["rate_at_edge"].astype(bool)] if "rate_at_edge" in scores.frame else None
    if edges is not None:
        title = "Best learning rate at an end of its grid: a wider one might do better"
        tables.append(Table("at_edge", edges[["task", "run", "learning_rate", "rate_grid"]], title))
    title = "The paper's claims on these runs: tasks where the first is better, no difference is found, it is worse"
    shown = claims.drop(columns=["first", "second"], errors="ignore")
    tables.append(Table("claims_shown", shown, title, _CLAIMS))
    return call.deliver(scores, *tables)
