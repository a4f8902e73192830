"""`asym variants`: what each variant of a sweep scored, and whether the paper's claims hold on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from asym_analysis.cli.console import Table, fail, headings
from asym_analysis.cli.deliver import Call
from asym_analysis.cli.inputs import arguments_checked
from asym_analysis.cli.options import command

__all__ = ["variants"]


_CLAIMS = headings(
    "claim | verdict | difference | low: from | high: to | effect: in the metric | seeds | tasks | "
    "reason: why undecided | seeds_needed: seeds it would take | agrees_with_paper: agrees with the paper"
)


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
    from asym_analysis.finetuning.results.rows import read_outcomes
    from asym_analysis.finetuning.results.scores import score_variants
    from asym_analysis.samples import sample_runs

    outcomes: dict[str, Any] = {}
    if runs:
        paths = [path / "runs.csv" if path.is_dir() else path for path in runs]
        absent = [path for path in paths if not path.is_file()]
        if absent:
            fail(f"there is no {absent[0]}; give the folder that `asym finetune --runs` wrote, or its runs.csv")
        tables_read = [pd.read_csv(path) for path in paths]
        for path, read in zip(paths, tables_read, strict=True):
            if "name" in read:
                outcomes |= read_outcomes(read, path.parent)
        table = pd.concat(tables_read, ignore_index=True)
    else:
        table = sample_runs()
    with arguments_checked():
        scores = score_variants(table, metric=metric, lower_is_better=lower_is_better, outcomes=outcomes)
        check = check_claims(scores)
    claims = check.frame
    tables = [Table("scores", scores.frame, shown=False), Table("claims", claims, shown=False)]
    tables.append(Table("contrasts", check.contrasts, shown=False))
    summary = scores.summary().rename(columns=str)
    for name, part in scores.frame.groupby("metric", sort=False):
        chosen = [
            c
            for c in summary
            if any(str(c) == task or str(c).startswith(f"{task}, ") for task in part["task"].unique())
        ]
        score = summary[["run", *chosen]]
        made = (score.drop(columns="run") != "").any(axis=1)
        title = f"{name}: mean ± standard error over seeds"
        tables.append(Table(f"summary: {name}", score[made].replace("", None), title))
    edges = scores.frame[scores.frame["rate_at_edge"].astype(bool)] if "rate_at_edge" in scores.frame else None
    if edges is not None:
        title = "Best learning rate at an end of its grid: a wider one might do better"
        tables.append(Table("at_edge", edges[["task", "run", "learning_rate", "rate_grid"]], title))
    below = (
        "A row: a claim. Differences are in parts of LoRA's gain over the frozen model, with 95 % intervals; a tenth "
        "of it is the margin: equivalent is within it with no difference found, slightly worse a difference within it."
    )
    families = list(claims.groupby("family", sort=False)) if len(claims) else []
    for family, part in families:
        last = below if family == families[-1][0] else ""
        title = "The paper's claims on these runs" + (f": {family!s}" if family else "")
        tables.append(Table(f"claims: {family}", part, title, _CLAIMS, last))
    return call.deliver(scores, *tables)
