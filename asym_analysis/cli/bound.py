"""`asym bound`: the ladder of generalization bounds on one checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asym_analysis.cli.console import (
    DONE,
    PARTLY_REFUSED,
    JsonFlag,
    OutOption,
    fail,
    progress_wanted,
    say,
    show_frame,
    write_json,
    write_result,
)

if TYPE_CHECKING:
    from asym_analysis.bounds.report import BoundReport

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("bound")(bound)


def bound(
    path: Annotated[str, typer.Argument(help="An adapter: a folder, a file, or a Hugging Face id.")],
    n: Annotated[int, typer.Option("--n", help="Number of training samples.")],
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
    figure: Annotated[Path | None, typer.Option(help="Also draw the ladder there: a stem for .svg and .png.")] = None,
    as_json: JsonFlag = False,
    out: OutOption = None,
) -> int:
    """Bound how far the loss on new data can exceed the training loss, from parameter count to Gaussian posterior."""
    from asym_analysis.adapters.load import load_adapter
    from asym_analysis.bounds.compute import RUNGS, compute_bound

    adapter = load_adapter(path)
    try:
        report = compute_bound(
            adapter,
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
            progress=progress_wanted(),
        )
    except ValueError as error:
        fail(str(error))
    write_result(report, out)
    if figure is not None:
        from asym_analysis.plots.bounds import plot_bounds
        from asym_analysis.plots.style import save_figure, styled

        with styled():
            drawn = plot_bounds(report).get_figure()
        save_figure(drawn, figure)  # type: ignore[arg-type]
    if as_json:
        write_json({"settings": report.settings, "rows": report.frame.to_dict(orient="records")})
    else:
        _show(report, repr(adapter))
    return DONE if adapter.coverage.complete else PARTLY_REFUSED


def _show(report: BoundReport, adapter: str) -> None:
    settings = report.settings
    say(adapter)
    say(f"trained: {settings['tuned']} ({settings['tuned_known_from']})")
    frame = report.frame
    columns = ["rung", "tuned", "head", "parameters", "bits", "gap", "risk", "statement", "vacuous", "kind", "note"]
    show_frame(frame[columns].dropna(axis=1, how="all"), title=f"Generalization gap, n = {settings['n_samples']:,}")
    count = frame[frame["rung"] == "parameter count"].set_index(["head", "tuned"])["gap"]
    for head in sorted(set(count.index.get_level_values(0))):
        which = "with the head" if head else "without a head"
        say(f"parameter count {which}: training both costs {count[head, 'both'] / count[head, 'B']:.3f} times B alone")
    if frame["vacuous"].all():
        say("every bound is vacuous: it allows the worst loss there is; see asym certify")
