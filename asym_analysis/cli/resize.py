"""`asym resize`: an adapter of smaller rank, with what that keeps of every update."""

from __future__ import annotations

from typing import Annotated

import typer

from asym_analysis.cli.console import Table, fail, headings
from asym_analysis.cli.convert import (
    BaseOption,
    ComponentOption,
    FoldFlag,
    HeadsFlag,
    OverwriteFlag,
    TargetArgument,
    ToOption,
)
from asym_analysis.cli.deliver import Call
from asym_analysis.cli.inputs import arguments_checked, read_adapter
from asym_analysis.cli.options import AdapterArgument, command

__all__ = ["resize"]

_MODULES = headings("module | old_rank | rank: new rank | kept: energy kept")


@command("resize", reads="one")
def resize(
    call: Call,
    adapter: AdapterArgument,
    target: TargetArgument,
    rank: Annotated[int | None, typer.Option(min=1, help="Rank of every module.")] = None,
    energy: Annotated[float | None, typer.Option(help="Share of the squared norm that each module keeps.")] = None,
    budget: Annotated[int | None, typer.Option(min=1, help="Numbers in all, spent where they keep most.")] = None,
    to: ToOption = "peft",
    fold_scale: FoldFlag = False,
    component: ComponentOption = None,
    base: BaseOption = None,
    without_heads: HeadsFlag = False,
    overwrite: OverwriteFlag = False,
) -> int:
    """Keep the leading singular directions of every update, and write the smaller adapter."""
    import pandas as pd

    if sum(given is not None for given in (rank, energy, budget)) != 1:
        fail("give one of --rank, --energy and --budget")
    read = read_adapter(call, adapter)
    with arguments_checked():
        smaller = read.truncate(rank=rank, energy=energy, budget=budget)
        kept = smaller.without_extras() if without_heads else smaller
        path = kept.save(target, to, fold_scale=fold_scale, component=component, base=base, overwrite=overwrite)
    rows = []
    for module, update in read.items():
        whole, part = (each.singular_values().double().square().sum().item() for each in (update, smaller[module]))
        rows.append((module, update.rank, smaller[module].rank, part / whole if whole else 1.0))
    table = pd.DataFrame(rows, columns=["module", "old_rank", "rank", "kept"])
    before, after = (int((f["rank"] * (f["d_in"] + f["d_out"])).sum()) for f in (read.frame, smaller.frame))
    call.note(f"{before:,} numbers became {after:,}")
    below = "A row: the share of the update's squared norm that its leading directions keep."
    settings = {"written": str(path), "to": to, "rank": rank, "energy": energy, "budget": budget}
    return call.deliver(
        table, Table("modules", table, f"{read.name}, resized: {path}", _MODULES, below), settings=settings
    )
