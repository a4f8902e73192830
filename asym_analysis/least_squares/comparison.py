"""Simulated losses with the theory beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from scipy.stats import norm
from scipy.stats import t as student_t

from asym_analysis._deprecated import FormerTable
from asym_analysis.least_squares.arguments import TunedChoice, each_tuned, whole_numbers
from asym_analysis.least_squares.problem import LeastSquaresProblem
from asym_analysis.least_squares.simulation import simulate
from asym_analysis.least_squares.theory import expected_loss
from asym_analysis.results import TableResult, settings_of
from asym_analysis.vocabulary import TUNED, whole

__all__ = ["TheoryComparison", "agreement", "compare_theory", "sweep"]

_JOINT_DRAWS = 20


@dataclass(frozen=True, eq=False, repr=False)
class TheoryComparison(FormerTable, TableResult):
    """Simulated losses with the theory beside them, one row for each setting and choice of trained factors.

    Attributes
    ----------
    frame
        Columns: what varies (`settings["along"]`: `rank`, `samples` or the swept quantity); `tuned, rank, draws, seed`;
        `theory, stated_error, method` as in `ExpectedLoss`; `loss` (simulated mean); `standard_error` (from the draws,
        or from the theory's deviation where that is larger); `difference` (loss - theory); `tolerance` (stated error
        plus three standard errors, more with few draws, plus rounding); `z` (difference over the standard error; NaN
        where nothing is random); `agrees` (difference within tolerance). `compare_theory` and `sweep` add
        `theory_deviation`, `theory_gain_fraction`, `standard_deviation` and `gain_fraction`.
    settings
        `along`, the arguments, and versions.
    """

    _plot: ClassVar[str | None] = "least_squares:plot_least_squares"

    def summary(self) -> pd.DataFrame:
        """How well theory and simulation agree.

        Returns
        -------
        DataFrame
            One row for each choice of trained factors: `tuned, settings` (how many), `agree` (how many of them),
            `largest_z`.
        """
        return summarize_agreement(self.frame, "tuned")


def compare_theory(
    problem: LeastSquaresProblem,
    ranks: int | Sequence[int],
    *,
    tuned: TunedChoice = ("A", "B", "both"),
    draws: int = 1000,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> TheoryComparison:
    """Simulated losses with the theory beside them, one row for each rank and choice of trained factors.

    Parameters
    ----------
    problem : LeastSquaresProblem
        The least-squares problem.
    ranks : int or sequence of int
        Of the update, one or several.
    tuned : {"B", "A", "both"} or sequence of these, optional
        The trained factors: "A", "B", "both" or several of them. "both" takes at most 20 draws: all end in the same
        optimum.
    draws, seed, device : int or device or str, optional
        As in `simulate`.

    Returns
    -------
    TheoryComparison
        With the columns listed there. For "both" a difference of 1e-4 of the signal still agrees, since the rounds of
        alternating least squares stop.

    Raises
    ------
    ValueError
        A rank is not possible, `tuned` is misspelled, or a number is out of range.

    Examples
    --------
    >>> problem = LeastSquaresProblem(torch.diag(torch.arange(1.0, 9.0)), torch.arange(1.0, 9.0), 0.1)
    >>> comparison = compare_theory(problem, [1, 2], draws=200)
    >>> comparison, bool(comparison.frame.agrees.all())
    (TheoryComparison(6 rows: tuned, rank, ...), True)
    """
    ranks, choices = whole_numbers(ranks, "ranks"), each_tuned(tuned)
    draws, seed = whole(draws, "draws", least=2), whole(seed, "seed", least=0)
    rows: list[dict[str, Any]] = []
    for rank in ranks:
        for choice in choices:
            expected = expected_loss(problem, rank, choice)
            enough = min(draws, _JOINT_DRAWS) if choice == "both" else draws
            simulated = simulate(problem, rank, choice, enough, seed, device=device).summary()
            row: dict[str, Any] = {str(name): value for name, value in simulated.iloc[0].items()}
            rounding = 1e-9 * (problem.signal + problem.irreducible)
            if choice == "both" or row["standard_error"] < rounding:
                row["standard_error"] = 0.0  # nothing is random here but rounding
            elif math.isfinite(expected.standard_deviation):
                # A few draws can lie close together by chance.
                row["standard_error"] = max(row["standard_error"], expected.standard_deviation / math.sqrt(enough))
            slack = rounding + (1e-4 * problem.signal if choice == "both" else 0.0)
            rows.append(
                row
                | {
                    "theory": expected.mean,
                    "stated_error": expected.error,
                    "theory_deviation": expected.standard_deviation,
                    "theory_gain_fraction": expected.gain_fraction,
                    "method": expected.method,
                }
                | agreement(row["loss"], expected.mean, expected.error, row["standard_error"], enough, slack)
            )
    settings = settings_of(
        along="rank", problem=problem.description, ranks=ranks, tuned=list(choices), draws=draws, seed=seed
    )
    return TheoryComparison(pd.DataFrame(rows), settings)


def sweep(
    parameter: str,
    problems: Mapping[float | int, LeastSquaresProblem],
    rank: int,
    *,
    tuned: TunedChoice = TUNED,
    draws: int = 1000,
    seed: int = 0,
) -> TheoryComparison:
    """`compare_theory` at one rank over several problems, with the varied quantity as a first column.

    Parameters
    ----------
    parameter : str
        Name of the varied quantity, which becomes a column: "exponent", "d_in", "alignment", ...
    problems : mapping of float or int to LeastSquaresProblem
        One problem for each of its values.
    rank, tuned, draws, seed : int or {"B", "A", "both"} or sequence of these, optional
        As in `compare_theory`.

    Returns
    -------
    TheoryComparison
        With `parameter` as first column.

    Raises
    ------
    ValueError
        No problem is given, or as in `compare_theory`.

    Examples
    --------
    >>> problems = {d: LeastSquaresProblem(torch.eye(d), torch.ones(d)) for d in (4, 8)}
    >>> sweep("d_in", problems, 2, tuned=["B"], draws=20).frame[["d_in", "theory"]].values.tolist()
    [[4.0, 2.0], [8.0, 6.0]]
    """
    if not problems:
        raise ValueError(f"problems is empty: give one problem for each value of {parameter}")
    choices = each_tuned(tuned)
    tables = [
        compare_theory(problem, rank, tuned=choices, draws=draws, seed=seed).frame.assign(**{parameter: value})
        for value, problem in problems.items()
    ]
    table = pd.concat(tables, ignore_index=True)
    settings = settings_of(
        along=parameter,
        problems=[{parameter: value} | problem.description for value, problem in problems.items()],
        rank=rank,
        tuned=list(choices),
        draws=draws,
        seed=seed,
    )
    return TheoryComparison(table[[parameter, *(name for name in table if name != parameter)]], settings)


def agreement(
    measured: float, theory: float, stated_error: float, standard_error: float, draws: int, slack: float = 0.0
) -> dict[str, Any]:
    """Compare a simulated mean with its theory.

    Parameters
    ----------
    measured, theory
        The two values.
    stated_error, standard_error
        Of the theory, and of the simulated mean.
    draws
        Number of draws that the mean is over and that the standard error is estimated from.
    slack
        What may be lost to rounding.

    Returns
    -------
    dict
        `difference`; `tolerance`, the stated error plus three standard errors (more of them with few draws, as the
        t distribution has it) plus the slack; `z`, the difference over the standard error (NaN where that is zero);
        `agrees`, whether the difference is within the tolerance.

    Examples
    --------
    >>> agreement(1.5, 1.0, 0.0, 0.25, draws=1000)["agrees"], agreement(1.8, 1.0, 0.0, 0.25, draws=1000)["agrees"]
    (True, False)
    """
    difference = measured - theory
    errors = float(student_t.isf(norm.sf(3), draws - 1))
    tolerance = stated_error + errors * standard_error + slack
    return {
        "difference": difference,
        "tolerance": tolerance,
        "z": difference / standard_error if standard_error > 0 else math.nan,
        "agrees": bool(abs(difference) <= tolerance),
    }


def summarize_agreement(frame: pd.DataFrame, by: str) -> pd.DataFrame:
    """Count the settings that agree, in groups.

    Parameters
    ----------
    frame
        With columns `agrees`, `z` and `by`.
    by
        The column to group by.

    Returns
    -------
    DataFrame
        `by, settings` (how many), `agree` (how many of them), `largest_z` (by absolute value).
    """
    grouped = frame.assign(size=np.abs(frame["z"])).groupby(by, sort=False)
    return grouped.agg(settings=("agrees", "size"), agree=("agrees", "sum"), largest_z=("size", "max")).reset_index()
