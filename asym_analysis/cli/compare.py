"""`asym compare`: how similar A and B are over all pairs of adapters, against chance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asym_analysis.cli.console import (
    DONE,
    PARTLY_REFUSED,
    JsonFlag,
    OutOption,
    console,
    fail,
    progress_wanted,
    say,
    say_drawn,
    show_frame,
    write_json,
    write_result,
)
from asym_analysis.cli.inputs import MetadataOption, PathsArgument, read_adapters

if TYPE_CHECKING:
    import pandas as pd

    from asym_analysis.alignment.comparison import SubspaceComparison

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("compare")(compare)


def compare(
    paths: PathsArgument = None,
    measure: Annotated[str, typer.Option(help="A measure's name, as in `asym compare --list-measures`.")] = "overlap",
    factors: Annotated[
        str | None, typer.Option(help="Which factors to compare, separated by commas; the measure's own by default.")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(help="Contrast the pairs that agree in this column with those that do not: task, seed."),
    ] = None,
    subtract_initial: Annotated[
        bool, typer.Option("--subtract-initial", help="Compare A - A0 and B - B0: what training added to the start.")
    ] = False,
    store: Annotated[
        Path | None,
        typer.Option(
            help="Folder to keep every module in as it is done: an interrupted comparison goes on from there."
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="Where to multiply: cpu, cuda, mps.")] = None,
    figures: Annotated[Path | None, typer.Option(help="Folder for the heat maps and the figure by layer.")] = None,
    list_measures: Annotated[bool, typer.Option("--list-measures", help="Name every measure and end.")] = False,
    metadata: MetadataOption = None,
    as_json: JsonFlag = False,
    out: OutOption = None,
) -> int:
    """Compare the subspaces of A and of B over all pairs of adapters and all modules, against random subspaces."""
    from asym_analysis.subspaces.measures import MEASURES

    if list_measures:
        for name, declared in MEASURES.items():
            console.print(f"[bold]{name}[/]  {declared.source}", highlight=False)
        return DONE
    if not paths:
        fail("name at least two adapters, for example: asym compare runs/seed-*")
    if measure not in MEASURES:
        fail(f"no measure is called {measure!r}; the measures are {', '.join(MEASURES)}")
    from asym_analysis.alignment.pairwise import compare_subspaces

    read = read_adapters(paths, metadata)
    if len(read.adapters) < 2:
        fail(f"only {read.adapters.names[0]} could be read, and a comparison needs two adapters")
    try:
        comparison = compare_subspaces(
            read.adapters,
            factors=tuple(part.strip() for part in factors.split(",")) if factors else None,
            measure=measure,
            subtract_initial=subtract_initial,
            device=device,
            store=store,
            progress=progress_wanted(),
        )
        contrast = comparison.contrast(by=by) if by is not None else None
    except ValueError as error:
        fail(str(error))
    write_result(comparison, out)
    if figures is not None:
        _draw(comparison, figures)
    if as_json:
        summary = {"summary": comparison.summary().to_dict("records"), "settings": comparison.settings}
        write_json(summary | ({"contrast": contrast.frame.to_dict("records")} if contrast is not None else {}))
    else:
        title = f"{len(read.adapters)} adapters, {len(read.adapters.modules)} shared modules"
        show_frame(_what_differs(read.adapters.table), title=title)
        show_frame(comparison.summary(), title=f"\n{measure} against random subspaces")
        if contrast is not None:
            show_frame(contrast.summary(), title=f"\nsame against different {by}")
    if not read.adapters.missing.empty:
        say(f"{len(read.adapters.missing)} modules are missing in some adapters and were compared where both have them")
    return DONE if read.complete else PARTLY_REFUSED


def _what_differs(table: pd.DataFrame) -> pd.DataFrame:
    """The adapters' names, and the columns in which they are not all alike."""
    others = [column for column in table if column not in ("name", "source", "sha256")]
    return table[["name", *(column for column in others if len(table[column].unique()) > 1)]]


def _draw(comparison: SubspaceComparison, folder: Path) -> None:
    from asym_analysis.plots.alignment import plot_subspace_alignment
    from asym_analysis.plots.heatmap import plot_figure_one
    from asym_analysis.plots.style import save_figure

    written = [
        *save_figure(plot_figure_one({"": comparison}), folder / "similarity"),
        *save_figure(plot_subspace_alignment(comparison), folder / "alignment_by_layer"),
    ]
    say_drawn(written)
