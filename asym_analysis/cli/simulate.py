"""`asym simulate`: the least-squares models, theory beside simulation."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asym_analysis.cli.console import (
    DONE,
    JsonFlag,
    OutOption,
    fail,
    progress_wanted,
    say,
    say_drawn,
    show_frame,
    write_frame,
    write_json,
)

if TYPE_CHECKING:
    import pandas as pd

    from asym_analysis.least_squares import LeastSquaresProblem

__all__ = ["register"]


class Spectrum(StrEnum):
    """Input spectra that the command can make."""

    ISOTROPIC = "isotropic"
    POWER_LAW = "power-law"
    EXPONENTIAL = "exponential"
    SPIKED = "spiked"
    LOW_RANK = "low-rank"


_SHOWN = {
    "setting": "setting",
    "samples": "samples",
    "tuned": "tuned",
    "rank": "rank",
    "theory": "theory",
    "stated_error": "± stated",
    "loss": "simulated",
    "simulated": "simulated",
    "standard_error": "± s.e.",
    "z": "z",
    "agrees": "agrees",
}


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("simulate")(simulate)


def simulate(
    d_in: Annotated[int, typer.Option(min=1, help="Number of inputs.")] = 128,
    d_out: Annotated[int, typer.Option(min=1, help="Number of outputs.")] = 128,
    spectrum: Annotated[Spectrum, typer.Option(help="Input spectrum.")] = Spectrum.POWER_LAW,
    parameter: Annotated[
        float | None,
        typer.Option(help="Of the spectrum: exponent (1), rate (0.1), height of four spikes (10) or rank (d_in / 4)."),
    ] = None,
    alignment: Annotated[
        float,
        typer.Option(help="Signal in input component i is the spectrum to this power; 1: update blind to inputs."),
    ] = 1.0,
    noise_variance: Annotated[float, typer.Option(min=0.0, help="Of every output.")] = 0.0,
    rank: Annotated[str, typer.Option(help="Ranks, separated by commas.")] = "2,4,8,16",
    tuned: Annotated[
        str | None, typer.Option(help="Factors to tune, separated by commas: A, B, both. All; with --samples A,B.")
    ] = None,
    samples: Annotated[
        str | None,
        typer.Option(help="Training-set sizes, separated by commas: losses after fitting, at the first rank."),
    ] = None,
    draws: Annotated[int, typer.Option(min=2, help="Random frozen factors.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of all random numbers; the same seed gives the same table.")] = 0,
    device: Annotated[str, typer.Option(help="Where to multiply: cpu, cuda, ...")] = "cpu",
    validate: Annotated[
        bool, typer.Option("--validate", help="Ignore the problem: check every closed form in its regimes (20 s).")
    ] = False,
    figure: Annotated[Path | None, typer.Option(help="Draw it there too, .svg and .png (suffix not needed).")] = None,
    as_json: JsonFlag = False,
    out: OutOption = None,
) -> int:
    """Which factor is better frozen? Expected losses of a least-squares model, and simulated ones beside them.

    With --validate the exit code is 1 if any setting disagrees by more than its stated error and three standard errors.
    """
    if validate:
        return _validate(draws, seed, as_json, out)
    from asym_analysis.least_squares import asymmetry_index, compare_finite_samples, compare_theory, win_probability

    ranks = _integers("--rank", rank)
    sizes = None if samples is None else _integers("--samples", samples)
    if sizes is not None:
        ranks = ranks[:1]
    ways = [way.strip() for way in (tuned or ("A,B,both" if sizes is None else "A,B")).split(",")]
    try:
        problem = _problem(d_in, d_out, spectrum, parameter, alignment, noise_variance, seed)
        if sizes is None:
            table = compare_theory(problem, ranks, tuned=ways, draws=draws, seed=seed, device=device)  # type: ignore[arg-type]
        else:
            table = compare_finite_samples(problem, ranks[0], sizes, tuned=ways, draws=draws, seed=seed)  # type: ignore[arg-type]
        index = {r: asymmetry_index(problem, r) for r in ranks}
        wins = {r: win_probability(problem, r) for r in ranks}
    except (ValueError, RuntimeError, AssertionError) as error:  # torch asserts that a device exists
        fail(str(error).splitlines()[0])
    if figure is not None:
        _draw(table, "rank" if sizes is None else "samples", figure)
    _deliver(table, as_json, out, f"least squares, {spectrum.value} inputs, d_in {d_in}, d_out {d_out}")
    if not as_json:
        for r in ranks:
            say(
                f"rank {r}: tuning B gains {index[r]:.3g} times what tuning A gains, "
                f"and wins with probability {wins[r]:.3g}"
            )
    return DONE


def _validate(draws: int, seed: int, as_json: bool, out: Path | None) -> int:
    from asym_analysis.least_squares import validate

    table = validate(draws, seed, progress=say if progress_wanted() else None)
    _deliver(table, as_json, out, "closed forms against simulation")
    agreeing = int(table["agrees"].sum())
    verdict = f"{agreeing} of {len(table)} settings agree within their stated error and three standard errors"
    if agreeing < len(table):
        fail(verdict)
    say(verdict)
    return DONE


def _problem(
    d_in: int,
    d_out: int,
    spectrum: Spectrum,
    parameter: float | None,
    alignment: float,
    noise_variance: float,
    seed: int,
) -> LeastSquaresProblem:
    from asym_analysis.least_squares import exponential, isotropic, low_rank, power_law, spiked, synthetic_problem

    if spectrum is Spectrum.ISOTROPIC:
        values = isotropic(d_in)
    elif spectrum is Spectrum.POWER_LAW:
        values = power_law(d_in, 1.0 if parameter is None else parameter)
    elif spectrum is Spectrum.EXPONENTIAL:
        values = exponential(d_in, 0.1 if parameter is None else parameter)
    elif spectrum is Spectrum.SPIKED:
        values = spiked(d_in, min(4, d_in), 10.0 if parameter is None else parameter)
    else:
        values = low_rank(d_in, max(1, d_in // 4) if parameter is None else int(parameter))
    return synthetic_problem(values, d_out, alignment=alignment, noise_variance=noise_variance, seed=seed)


def _integers(option: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        fail(f"{option} {text!r}: give whole numbers separated by commas, such as 2,4,8")


def _deliver(table: pd.DataFrame, as_json: bool, out: Path | None, title: str) -> None:
    if out is not None:
        write_frame(table, out)
        say(f"wrote {len(table)} rows to {out}")
    if as_json:
        write_json(table.to_dict("records"))
    else:
        shown = table[[name for name in _SHOWN if name in table]].rename(columns=_SHOWN)
        show_frame(shown, title=title, most_rows=200)


def _draw(table: pd.DataFrame, x: str, figure: Path) -> None:
    from asym_analysis.plots.least_squares import plot_least_squares
    from asym_analysis.plots.style import save_figure

    stem = figure.with_suffix("") if figure.suffix in (".svg", ".png") else figure
    paths = save_figure(plot_least_squares(table, x), stem)
    say_drawn(paths)
