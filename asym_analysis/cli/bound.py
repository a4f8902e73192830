"""`asym bound`: the ladder of generalization bounds on one checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from asym_analysis.cli.console import Table
from asym_analysis.cli.deliver import Call
from asym_analysis.cli.inputs import arguments_checked, read_adapter
from asym_analysis.cli.options import AdapterArgument, command

if TYPE_CHECKING:
    from asym_analysis.adapters.adapter import Adapter
    from asym_analysis.bounds.report import BoundReport

__all__ = ["bound"]

_ROWS = {
    "rung": "rung",
    "predictor": "of the",
    "tuned": "trained",
    "head": "head charged",
    "gap": "gap at most",
    "vacuous": "vacuous",
    "risk": "risk at most",
    "kind": "kind",
    "bits": "bits",
    "parameters": "numbers",
    "statement": "holds",
    "note": "note",
}

_PARAMETRIZATIONS = {
    "method": "method",
    "parameters": "numbers",
    "gap": "gap at most",
    "relative": "over LoRA's",
    "vacuous": "vacuous",
    "reference": "paper",
    "formula": "numbers of one module",
}


@command("bound", reads="one", draws=True)
def bound(
    call: Call,
    adapter: AdapterArgument,
    n: Annotated[int, typer.Option("--n", min=1, help="Number of training samples.")],
    tuned: Annotated[str, typer.Option(help="Factors that were trained: B, A, both, or auto.")] = "auto",
    bits: Annotated[float | None, typer.Option(help="Bits of one entry; by default the file's dtype.")] = None,
    sub_gaussian: Annotated[float, typer.Option(help="Half the range of the loss.")] = 0.5,
    empirical_risk: Annotated[float | None, typer.Option(help="Training loss, to bound the risk too.")] = None,
    mutual_information: Annotated[float | None, typer.Option(help="I(factors; data) in nats, if known.")] = None,
    confidence: Annotated[float, typer.Option(help="1 - delta of the bounds that hold with probability.")] = 0.95,
    rungs: Annotated[str | None, typer.Option(help="Rungs to compute, separated by commas; all by default.")] = None,
    levels: Annotated[int, typer.Option(help="Levels of the quantizer of the description length.")] = 16,
    relative_noise: Annotated[float, typer.Option(help="Noise of the Gaussian posterior, over the update.")] = 1.0,
    head: Annotated[bool, typer.Option(help="Also charge the trained tensors that belong to no module.")] = True,
    parametrizations: Annotated[
        bool, typer.Option("--parametrizations", help="Also compare other parametrizations of the same rank.")
    ] = False,
    diagnostics: Annotated[
        bool, typer.Option("--diagnostics", help="Also show rows whose assumptions are not known to hold.")
    ] = False,
) -> int:
    """Bound how far the loss on new data can exceed the training loss, from parameter count to Gaussian posterior."""
    from asym_analysis.bounds.compute import RUNGS, compute_bound

    read = read_adapter(call, adapter)
    with arguments_checked():
        report = compute_bound(
            read,
            n,
            tuned=tuned,
            bits=bits,
            sub_gaussian=sub_gaussian,
            include_head=head,
            mutual_information=mutual_information,
            empirical_risk=empirical_risk,
            confidence=confidence,
            rungs=RUNGS if rungs is None else tuple(part.strip() for part in rungs.split(",")),
            levels=levels,
            relative_noise=relative_noise,
            progress=call.progress,
        )
    _note(call, report)
    frame = report.frame.sort_values("gap", kind="stable", ignore_index=True)
    certificates = frame[frame["kind"] == "certificate"]
    if not diagnostics and not certificates.empty and len(certificates) < len(frame):
        call.note(f"{len(frame) - len(certificates)} diagnostic rows are not shown; --diagnostics shows them")
    shown = certificates if not diagnostics and not certificates.empty else frame
    title = f"{read.name}: bounds on the generalization gap, n = {n:,}, the tightest first"
    below = (
        "A row: one bound on expected minus training loss, for the factors that were trained; vacuous: no better than "
        "the loss's own range."
    )
    return call.deliver(
        report,
        Table("bounds", frame, shown=False),
        Table("shown", shown.dropna(axis=1, how="all"), title, _ROWS, below),
        *([_parametrizations(call, read, n, bits, sub_gaussian)] if parametrizations else []),
        figures={"bounds": "bounds:plot_bounds"},
    )


def _parametrizations(call: Call, adapter: Adapter, n: int, bits: float | None, sub_gaussian: float) -> Table:
    """The count bound of each parametrization on the adapter's modules, at its largest rank."""
    from asym_analysis.bounds.parametrizations import compare_parametrizations

    rank, width = max(adapter.ranks), 16 if bits is None else bits
    if len(adapter.ranks) > 1:
        call.note(f"the modules have ranks {min(adapter.ranks)} to {rank}: parametrizations are compared at {rank}")
    frame = compare_parametrizations(adapter, rank, n, bits=width, sub_gaussian=sub_gaussian).frame
    title = f"the same {len(adapter)} modules at rank {rank}, {width:g} bits a number, fewest numbers first"
    below = "A row: a way to train an update of this rank, and its count bound, which holds in expectation."
    return Table("parametrizations", frame, title, _PARAMETRIZATIONS, below, most_rows=len(frame))


def _note(call: Call, report: BoundReport) -> None:
    settings, frame = report.settings, report.frame
    call.note(f"trained: {settings['tuned']} ({settings['tuned_known_from']})")
    count = frame[frame["rung"] == "parameter count"].set_index(["head", "tuned"])["gap"]
    for head in sorted(set(count.index.get_level_values(0))):
        if (head, "B") not in count.index:
            continue  # the adapter trains no factor of that name
        which = "with the head" if head else "without a head"
        ratio = count[head, "both"] / count[head, "B"]
        call.note(f"parameter count {which}: training both costs {ratio:.3f} times B alone")
    if frame["vacuous"].all():
        call.note("every bound is vacuous: it allows the worst loss there is; see asym certify")
