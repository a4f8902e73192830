"""`asym compare`: how similar A and B are over all pairs of adapters, against chance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asym_analysis.cli.console import DONE, Table, define, fail, headings
from asym_analysis.cli.deliver import Call
from asym_analysis.cli.inputs import arguments_checked, read_adapters
from asym_analysis.cli.options import PathsArgument, command

if TYPE_CHECKING:
    import pandas as pd

    from asym_analysis.alignment.comparison import SubspaceComparison

__all__ = ["compare"]

_SUMMARY = headings(
    "factor | pairs | value: mean | null_mean: chance | times_null: times chance | "
    "significant: share p < .01 | count: number of pairs | null_std: sd of chance"
)
_CONTRAST = headings("factor | same | different | difference | low | high | p_value: p | least_p")


@command("compare", draws=True)
def compare(
    call: Call,
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
        bool, typer.Option("--subtract-initial", help="Compare A - A0 and B - B0: what training added.")
    ] = False,
    store: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps every finished module: an interrupted comparison continues from there."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="Where to multiply: cpu, cuda, mps.")] = None,
    list_measures: Annotated[bool, typer.Option("--list-measures", help="Name every measure and exit.")] = False,
) -> int:
    """Compare the subspaces of A and of B over all pairs of adapters and all modules, against random subspaces."""
    if not paths and not list_measures:
        read_adapters(call, paths, least=2)
    from asym_analysis.subspaces.sources import SOURCES

    if list_measures:
        define(SOURCES)
        return DONE
    if measure not in SOURCES:
        fail(f"no measure is called {measure!r}; the measures are {', '.join(SOURCES)}")
    from asym_analysis.alignment.pairwise import compare_subspaces

    adapters = read_adapters(call, paths, least=2)
    with arguments_checked():
        comparison = compare_subspaces(
            adapters,
            factors=tuple(part.strip() for part in factors.split(",")) if factors else None,
            measure=measure,
            subtract_initial=subtract_initial,
            device=device,
            store=store,
            progress=call.progress,
        )
        contrast = comparison.contrast(by=by) if by is not None else None
    if not adapters.missing.empty:
        count = adapters.missing["module"].nunique()
        call.note(f"{count} modules are missing in some adapters and were compared where both adapters have them")
    title = f"{measure} of {len(adapters)} adapters, {len(adapters.modules)} shared modules, against random subspaces"
    facts = _what_differs(adapters.table)
    tables = [
        Table("adapters", facts, "adapters", most_rows=20, shown=len(facts.columns) > 1),
        Table("summary", comparison.summary(), title, _SUMMARY, _meaning(measure, comparison)),
    ]
    if contrast is not None:
        below = (
            "Low and high bound the difference at 95 %, by leaving out one adapter at a time; p permutes their labels, "
            "and least p is the smallest that this number of adapters can give."
        )
        tables.append(Table("contrast", contrast.summary(), f"same against different {by}", _CONTRAST, below))

    figures = {"similarity": "heatmap:plot_similarity", "alignment_by_layer": "alignment:plot_subspace_alignment"}
    return call.deliver(comparison, *tables, figures=figures)


def _meaning(measure: str, comparison: SubspaceComparison) -> str:
    meaning = (
        f"A row: the mean {measure} of one factor over pairs of adapters and modules; chance: its mean between random "
        "subspaces of the same sizes."
    )
    shared, pairs = int(comparison.same_initialization.sum()), len(comparison.same_initialization)
    if not shared or comparison.settings["subtract_initial"]:
        return meaning
    return f"{meaning} {shared} of {pairs} pairs share their initialization, which is alike without being learned."


def _what_differs(table: pd.DataFrame) -> pd.DataFrame:
    """The adapters' names, and the columns in which they are not all alike."""
    others = [column for column in table if column not in ("name", "source", "sha256")]
    return table[["name", *(column for column in others if len(set(table[column].astype(str))) > 1)]]
