"""`asym drift`: how far A and B moved from their start, also where that was not saved."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asym_analysis.cli.console import (
    DONE,
    PARTLY_REFUSED,
    JsonFlag,
    OutOption,
    fail,
    say_drawn,
    show_frame,
    write_json,
    write_result,
)
from asym_analysis.cli.inputs import PathsArgument, read_adapters

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("drift")(drift)


def drift(
    paths: PathsArgument = None,
    initial: Annotated[
        str | None, typer.Option(help="The initial factors: an adapter saved before the first step.")
    ] = None,
    figures: Annotated[Path | None, typer.Option(help="Folder for the figure.")] = None,
    as_json: JsonFlag = False,
    out: OutOption = None,
) -> int:
    """Measure how far each factor moved from its start: exactly where that is known, otherwise from the entries."""
    import pandas as pd

    from asym_analysis.adapters.load import load_adapter
    from asym_analysis.adapters.shared_initialization import shared_initialization
    from asym_analysis.alignment.drift import InitializationDrift, initialization_drift

    if not paths:
        fail("name an adapter, for example: asym drift runs/seed-0")
    read = read_adapters(paths)
    start = load_adapter(initial) if initial is not None else None
    parts = [
        initialization_drift(adapter, start).frame.assign(adapter=name)
        for name, adapter in zip(read.adapters.names, read.adapters, strict=True)
    ]
    settings = {"adapters": list(read.adapters.names), "initial": initial}
    result = InitializationDrift(pd.concat(parts, ignore_index=True), settings)
    groups = shared_initialization(read.adapters).summary() if len(read.adapters) > 1 else pd.DataFrame()
    write_result(result, out)
    if figures is not None:
        from asym_analysis.plots.drift import plot_drift
        from asym_analysis.plots.style import save_figure

        written = save_figure(plot_drift(result), figures / "drift")
        say_drawn(written)
    if as_json:
        write_json(
            {"summary": result.summary().to_dict("records"), "shared_initializations": groups.to_dict("records")}
        )
    else:
        show_frame(result.summary(), title="relative distance from the start")
        if not groups.empty:
            show_frame(groups, title="\nadapters that share the initialization of a factor")
    return DONE if read.complete else PARTLY_REFUSED
