"""`asym simulate`: the least-squares models, theory beside simulation."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asym_analysis.cli.console import INPUT_ERROR, Table, fail, headings
from asym_analysis.cli.deliver import Call, frame_of
from asym_analysis.cli.inputs import arguments_checked
from asym_analysis.cli.options import command

if TYPE_CHECKING:
    from asym_analysis.least_squares import LeastSquaresProblem

__all__ = ["simulate"]


class Spectrum(StrEnum):
    """Input spectra that the command can make."""

    ISOTROPIC = "isotropic"
    POWER_LAW = "power-law"
    EXPONENTIAL = "exponential"
    SPIKED = "spiked"
    LOW_RANK = "low-rank"


_SHOWN = headings(
    "setting | samples | tuned: trained | rank | theory | stated_error: ± stated | loss: simulated | "
    "simulated | standard_error: ± s.e. | z | agrees"
)


_MEANING = (
    "A row: the expected loss after training those factors, by theory, and its mean over random frozen factors; z: "
    "their difference in standard errors."
)


@command("simulate", reads="none", draws=True)
def simulate(
    call: Call,
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
        str | None, typer.Option(help="Trained factors, separated by commas: A, B, both. All; with --samples A,B.")
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
) -> int:
    """Which factor is better frozen? Expected losses of a least-squares model, and simulated ones beside them.

    With --validate the exit code is 1 if any setting disagrees by more than its stated error and three standard errors.
    """
    if validate:
        return _validate(call, draws, seed)
    from asym_analysis.least_squares import asymmetry_index, compare_finite_samples, compare_theory, win_probability

    ranks = _integers("--rank", rank)
    sizes = None if samples is None else _integers("--samples", samples)
    if sizes is not None:
        ranks = ranks[:1]
    factors: Any = [part.strip() for part in (tuned or ("A,B,both" if sizes is None else "A,B")).split(",")]
    with arguments_checked():
        try:
            problem = _problem(d_in, d_out, spectrum, parameter, alignment, noise_variance, seed)
            if sizes is None:
                found = compare_theory(problem, ranks, tuned=factors, draws=draws, seed=seed, device=device)
            else:
                found = compare_finite_samples(problem, ranks[0], sizes, tuned=factors, draws=draws, seed=seed)
            index = {r: asymmetry_index(problem, r) for r in ranks}
            wins = {r: win_probability(problem, r) for r in ranks}
        except (RuntimeError, AssertionError) as error:  # torch asserts that a device exists
            fail(str(error).splitlines()[0])
    for r in ranks:
        call.note(
            f"rank {r}: training B gains {index[r]:.3g} times what training A gains, and wins with probability "
            f"{wins[r]:.3g}"
        )
    frame = frame_of(found)

    title = f"least squares, {spectrum.value} inputs, d_in {d_in}, d_out {d_out}"
    table = Table("losses", frame, title, _SHOWN, _MEANING, most_rows=200)
    return call.deliver(found, table, figures={"least_squares": found.plot})


def _validate(call: Call, draws: int, seed: int) -> int:
    from asym_analysis.least_squares import validate

    found = validate(draws, seed, progress=call.progress)
    frame = frame_of(found)
    agreeing = int(frame["agrees"].sum())
    verdict = f"{agreeing} of {len(frame)} settings agree within their stated error and three standard errors"
    call.note(verdict)
    table = Table("losses", frame, "closed forms against simulation", _SHOWN, most_rows=200)
    code = call.deliver(found, table, figures={"validation": found.plot})
    return INPUT_ERROR if agreeing < len(frame) else code


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
