"""`asym share`: whether adapters could share one A or one B, be averaged, or be merged."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from asym_analysis.adapters.adapter import Adapter
    from asym_analysis.adapters.adapter_set import AdapterSet
    from asym_analysis.alignment.shared_energy import SharedEnergy
    from asym_analysis.results import Result

__all__ = ["register"]


class Question(StrEnum):
    """What is asked of the adapters."""

    energy = "energy"
    bases = "bases"
    averaging = "averaging"
    merging = "merging"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("share")(share)


def share(
    paths: PathsArgument = None,
    question: Annotated[
        Question,
        typer.Option(
            help="energy: in one common subspace of A or B, with and without the start. bases: one pair of bases for "
            "all (joint diagonalization). averaging: error of averaging the factors. merging: interference in the sum."
        ),
    ] = Question.energy,
    rank: Annotated[int, typer.Option(help="Columns of the shared bases, or dimension of the subspace.")] = 16,
    diagonal: Annotated[bool, typer.Option("--diagonal", help="Diagonal cores in joint diagonalization.")] = False,
    initial: Annotated[str | None, typer.Option(help="The common start of A, where it is known.")] = None,
    figures: Annotated[Path | None, typer.Option(help="Folder for the figure of shared energy.")] = None,
    as_json: JsonFlag = False,
    out: OutOption = None,
) -> int:
    """Measure what adapters of one base model have in common, and what sharing would cost."""
    from asym_analysis.adapters.load import load_adapter

    if not paths:
        fail("name at least two adapters, for example: asym share runs/seed-*")
    read = read_adapters(paths)
    if len(read.adapters) < 2:
        fail(f"only {read.adapters.names[0]} could be read, and sharing needs two adapters")
    start = load_adapter(initial) if initial is not None else None
    try:
        result = _answer(read.adapters, question, rank, diagonal, start)
    except ValueError as error:
        fail(str(error))
    write_result(result, out)
    if figures is not None:
        from asym_analysis.alignment.shared_energy import SharedEnergy

        _draw(result if isinstance(result, SharedEnergy) else _energy(read.adapters, rank, start), figures)
    if as_json:
        write_json({"summary": result.summary().to_dict("records"), "settings": result.settings})
    else:
        title = f"{question}, {len(read.adapters)} adapters, {len(read.adapters.modules)} shared modules"
        show_frame(result.summary(), title=title)
    return DONE if read.complete else PARTLY_REFUSED


def _answer(adapters: AdapterSet, question: Question, rank: int, diagonal: bool, start: Adapter | None) -> Result:
    if question is Question.bases:
        from asym_analysis.alignment.sharing import joint_diagonalization

        return joint_diagonalization(adapters, rank, diagonal=diagonal)
    if question is Question.energy:
        return _energy(adapters, rank, start)
    from asym_analysis.alignment.aggregation import aggregation_error, merge_interference

    return aggregation_error(adapters) if question is Question.averaging else merge_interference(adapters)


def _energy(adapters: AdapterSet, rank: int, start: Adapter | None) -> SharedEnergy:
    from asym_analysis.alignment.shared_energy import shared_energy

    return shared_energy(adapters, _powers(rank), initial=start)


def _powers(rank: int) -> list[int]:
    if rank < 1:
        raise ValueError(f"--rank must be at least 1, not {rank}")
    return sorted({min(2**power, rank) for power in range(rank.bit_length() + 1)})


def _draw(energy: SharedEnergy, folder: Path) -> None:
    from asym_analysis.plots.sharing import plot_sharing
    from asym_analysis.plots.style import save_figure

    say_drawn(save_figure(plot_sharing(energy), folder / "sharing"))
