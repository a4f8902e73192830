"""`asym drift`: how far A and B moved from their initialization, also where that was not saved."""

from __future__ import annotations

from typing import Annotated

import typer

from asym_analysis.cli.console import Table, headings
from asym_analysis.cli.deliver import Call
from asym_analysis.cli.inputs import arguments_checked, read_adapter, read_adapters
from asym_analysis.cli.options import PathsArgument, command

__all__ = ["drift"]

_SUMMARY = headings(
    "adapter | factor | median | verdict | reason: how known | known | modules: of modules | "
    "lower_quartile | upper_quartile | scheme"
)


@command("drift", draws=True)
def drift(
    call: Call,
    paths: PathsArgument = None,
    initial: Annotated[
        str | None, typer.Option(help="The initial factors: an adapter saved before the first step.")
    ] = None,
) -> int:
    """Measure how far each factor moved from its initialization: exactly if that is known, else from the entries."""
    from asym_analysis.adapters.shared_initialization import shared_initialization
    from asym_analysis.alignment.drift import initialization_drift

    adapters = read_adapters(call, paths)
    with arguments_checked():
        result = initialization_drift(adapters, read_adapter(call, initial) if initial is not None else None)
    below = (
        "A row: ||F - F0||/||F0|| of one factor F, over the modules where it could be measured; a factor that was "
        "initialized at zero has no relative distance."
    )
    tables = [Table("summary", result.summary(), "relative distance from the initialization", _SUMMARY, below)]
    if len(adapters) > 1:
        shared = shared_initialization(adapters).summary()
        tables.append(Table("shared_initializations", shared, "adapters that share a random initialization"))
    return call.deliver(result, *tables, figures={"drift": "drift:plot_drift"})
