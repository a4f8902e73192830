"""`asym share`: whether adapters could share one A or one B, be averaged, or be merged."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asym_analysis.cli.console import Table, headings
from asym_analysis.cli.deliver import Call
from asym_analysis.cli.inputs import arguments_checked, read_adapter, read_adapters
from asym_analysis.cli.options import PathsArgument, command

if TYPE_CHECKING:
    from asym_analysis.adapters.adapter import Adapter
    from asym_analysis.adapters.adapter_set import AdapterSet
    from asym_analysis.alignment.shared_energy import SharedEnergy
    from asym_analysis.results import Result

__all__ = ["share"]


class Question(StrEnum):
    """What is asked of the adapters."""

    energy = "energy"
    bases = "bases"
    averaging = "averaging"
    merging = "merging"


_COLUMNS = {
    Question.energy: headings("quantity | rank: dimension | energy | null_mean: chance"),
    Question.bases: headings("adapter | mean_error | largest_error"),
    Question.averaging: headings(
        "projection | both_averaged: A and B averaged | shared_A: A averaged, own B | "
        "shared_B: B averaged, own A | update_norm: ‖mean ΔW‖"
    ),
    Question.merging: headings(
        "adapter | projection | retained | on_own_inputs: change on own inputs | cosine: cosine with sum | "
        "energy_ratio: energy of sum | norm: ‖ΔW‖"
    ),
}
_MEANING = {
    Question.energy: "A row: the share of one quantity's squared norm inside the best common subspace of that "
    "dimension; inputs, outputs: the directions that ΔW reads and writes; minus A0: without the "
    "initialization; chance: vectors of the same lengths in random directions.",
    Question.bases: "A row: error of one pair of bases for all adapters, as a share of the squared norm of dW.",
    Question.averaging: "A row: median relative error over the modules of a projection, if factors are averaged and "
    "not updates; 0 is exact.",
    Question.merging: "A row: medians over modules, in the sum of all updates. Retained: 1 is intact, less is "
    "cancelled. Change on own inputs: relative change of the output on what this adapter reads. Energy of sum: 1 is "
    "orthogonal.",
}


@command("share", draws=True)
def share(
    call: Call,
    paths: PathsArgument = None,
    question: Annotated[
        Question,
        typer.Option(
            help="energy: in one common subspace of A or B, with and without the initialization. bases: one pair of "
            "bases for all (joint diagonalization). averaging: error of averaging the factors. merging: interference "
            "in the sum."
        ),
    ] = Question.energy,
    rank: Annotated[int, typer.Option(help="Columns of the shared bases, or dimension of the subspace.")] = 16,
    diagonal: Annotated[bool, typer.Option("--diagonal", help="Diagonal cores in joint diagonalization.")] = False,
    initial: Annotated[str | None, typer.Option(help="The common initialization of A, where it is known.")] = None,
) -> int:
    """Measure what adapters of one base model have in common, and what sharing would cost."""
    adapters = read_adapters(call, paths, least=2)
    with arguments_checked():
        start = read_adapter(call, initial) if initial is not None else None
        result = _answer(adapters, question, rank, diagonal, start)
    title = f"{question}, {len(adapters)} adapters, {len(adapters.modules)} shared modules"

    def sharing() -> Any:
        from asym_analysis.plots.sharing import plot_sharing

        return plot_sharing(_energy(adapters, rank, start))

    table = Table("summary", result.summary(), title, _COLUMNS[question], _MEANING[question])
    drawn = "sharing:plot_sharing" if question is Question.energy else sharing
    return call.deliver(result, table, figures={"sharing": drawn})


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
    from asym_analysis.vocabulary import whole

    most = whole(rank, "--rank", least=1)
    return shared_energy(
        adapters, sorted({min(2**power, most) for power in range(most.bit_length() + 1)}), initial=start
    )
