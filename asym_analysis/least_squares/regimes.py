"""Which factor is better frozen: a map over the input spectrum and the alignment of the update with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from asym_analysis.least_squares.arguments import whole_numbers
from asym_analysis.least_squares.problem import LeastSquaresProblem
from asym_analysis.least_squares.simulation import simulate
from asym_analysis.least_squares.spectra import power_law, synthetic_problem
from asym_analysis.least_squares.theory import asymmetry_index, expected_loss, win_probability
from asym_analysis.least_squares.wins import share_of_wins
from asym_analysis.results import TableResult, settings_of
from asym_analysis.vocabulary import Factor, finite, whole

__all__ = ["RegimeMap", "StrategyComparison", "compare_strategies", "regime_map", "simulated_win_probability"]

_FACTORS: tuple[Factor, Factor] = ("B", "A")


@dataclass(frozen=True, eq=False, repr=False)
class RegimeMap(TableResult):
    """Which factor is better frozen, over exponents of the spectrum and alignments of the update.

    Attributes
    ----------
    frame
        One row a cell: `exponent, alignment, d_in, d_out, rank, draws`; `theory_index` (above 1 freezing A wins),
        `index` simulated with its `standard_error`; `theory_win_probability` and `win_probability`, the share of pairs
        of draws in which freezing A is at least as good.
    settings
        The arguments, and versions.
    """

    _plot: ClassVar[str | None] = "regimes:plot_regimes"

    def summary(self) -> pd.DataFrame:
        """One row for the whole map.

        Returns
        -------
        DataFrame
            `cells, freeze_A_wins` (share of cells, simulated), `winner_predicted` (share of cells where theory names
            the simulated winner).
        """
        wins, predicted = self.frame["index"] > 1, self.frame["theory_index"] > 1
        return pd.DataFrame(
            {
                "cells": [len(wins)],
                "freeze_A_wins": [float(wins.mean())],
                "winner_predicted": [float((wins == predicted).mean())],
            }
        )


@dataclass(frozen=True, eq=False, repr=False)
class StrategyComparison(TableResult):
    """Expected gain of each choice of trained and frozen factors, at several ranks.

    Attributes
    ----------
    frame
        `strategy, rank, parameters, gain_fraction`. Strategies: "joint" (both trained, also what either oracle
        reaches), "random A", "random B", "principal A" (the top input components, no labels), and "random A, rank 2r",
        which on a square weight trains as many parameters as "joint".
    settings
        The arguments, and versions.
    """

    _plot: ClassVar[str | None] = "regimes:plot_strategies"


def regime_map(
    d_in: int,
    d_out: int,
    rank: int,
    *,
    exponents: Sequence[float],
    alignments: Sequence[float],
    draws: int = 200,
    seed: int = 0,
) -> RegimeMap:
    """Simulated and predicted winners over power-law spectra s_i = i^-exponent and updates with m_i ~ s_i^alignment.

    Parameters
    ----------
    d_in, d_out, rank : int
        Shape and rank of the update.
    exponents : sequence of float
        Of the input spectrum.
    alignments : sequence of float
        1 is an update that knows nothing of the inputs, 0 equal signal in every component, below 0 one hidden where
        the inputs vary least.
    draws, seed : int, optional
        Random frozen factors for each cell and factor, and the seed.

    Returns
    -------
    RegimeMap
        One row a cell, with the columns listed there.

    Raises
    ------
    ValueError
        If a number is out of range, or no cell is asked for.

    Notes
    -----
    For a square weight the boundary is at alignment 0 (equal signal in every component) for every exponent.

    References
    ----------
    docs/theory.md, section 6.7.

    Examples
    --------
    >>> table = regime_map(16, 16, 2, exponents=[1.0], alignments=[-1.0, 1.0], draws=50).frame
    >>> (table.theory_index > 1).tolist(), (table["index"] > 1).tolist()
    ([False, True], [False, True])
    """
    exponents = [finite(exponent, "exponents") for exponent in exponents]
    alignments = [finite(alignment, "alignments") for alignment in alignments]
    draws, seed = whole(draws, "draws", least=2), whole(seed, "seed", least=0)
    if not exponents or not alignments:
        raise ValueError("the map is empty: give at least one exponent and one alignment")
    rows = []
    for exponent in exponents:
        for alignment in alignments:
            problem = synthetic_problem(power_law(d_in, exponent), d_out, alignment=alignment, seed=seed)
            gain_B, gain_A = (
                simulate(problem, rank, tuned, draws, seed).frame["gain"].to_numpy() for tuned in _FACTORS
            )
            index = gain_B.mean() / gain_A.mean()
            relative = [gains.std(ddof=1) / gains.mean() / math.sqrt(draws) for gains in (gain_B, gain_A)]
            rows.append(
                {
                    "exponent": float(exponent),
                    "alignment": float(alignment),
                    "d_in": d_in,
                    "d_out": d_out,
                    "rank": rank,
                    "draws": draws,
                    "theory_index": asymmetry_index(problem, rank),
                    "index": float(index),
                    "standard_error": float(index * math.hypot(*relative)),
                    "theory_win_probability": win_probability(problem, rank),
                    "win_probability": share_of_wins(gain_B, gain_A)[0],
                }
            )
    settings = settings_of(
        d_in=d_in, d_out=d_out, rank=rank, exponents=exponents, alignments=alignments, draws=draws, seed=seed
    )
    return RegimeMap(pd.DataFrame(rows), settings)


def simulated_win_probability(
    problem: LeastSquaresProblem, rank: int, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Share of pairs in which freezing a random A is at least as good as freezing a random B, and its standard error.

    All draws x draws pairs count; ties count one half. The standard error is that of the Mann-Whitney statistic with
    each of its two samples' variability.

    Parameters
    ----------
    problem, rank, draws, seed : LeastSquaresProblem or int, optional
        As in `simulate`.

    Returns
    -------
    tuple
        The share, and its standard error.

    Raises
    ------
    ValueError
        If the problem has no signal, the rank is not possible, or a number is out of range.

    Examples
    --------
    >>> import torch
    >>> share, error = simulated_win_probability(LeastSquaresProblem(torch.eye(8), torch.ones(8)), 2, 100, seed=0)
    >>> share, error
    (0.5, 0.0)
    """
    if problem.signal <= 0:
        raise ValueError("the problem has no signal, so neither factor gains anything")
    whole(draws, "draws", least=2)
    gain_B, gain_A = (simulate(problem, rank, tuned, draws, seed).frame["gain"].to_numpy() for tuned in _FACTORS)
    return share_of_wins(gain_B / problem.signal, gain_A / problem.signal)


def compare_strategies(problem: LeastSquaresProblem, ranks: int | Sequence[int]) -> StrategyComparison:
    """Expected gain of each choice of trained and frozen factors, as a part of the signal.

    Parameters
    ----------
    problem : LeastSquaresProblem
        The least-squares problem.
    ranks : int or sequence of int
        Of the update, one or several.

    Returns
    -------
    StrategyComparison
        `strategy, rank, parameters, gain_fraction`; the strategies are listed there.

    Raises
    ------
    ValueError
        If a rank is not possible, or the problem has no signal.

    References
    ----------
    docs/theory.md, sections 1.2 (i), 6.1 and 6.3.

    Examples
    --------
    >>> import torch
    >>> table = compare_strategies(LeastSquaresProblem(torch.eye(4), torch.ones(4)), 1).frame
    >>> dict(zip(table.strategy, table.gain_fraction.tolist()))["random A, rank 2r"]
    0.5
    """
    if problem.signal <= 0:
        raise ValueError("the problem has no signal, so no strategy gains anything")
    ranks = whole_numbers(ranks, "ranks")
    rows: list[dict[str, Any]] = []
    for rank in ranks:
        principal = float(problem.signal_energy[:rank].sum()) / problem.signal
        choices = {
            "joint": (rank * (problem.d_in + problem.d_out), expected_loss(problem, rank, "both").gain_fraction),
            "random A": (rank * problem.d_out, expected_loss(problem, rank, "B").gain_fraction),
            "random B": (rank * problem.d_in, expected_loss(problem, rank, "A").gain_fraction),
            "principal A": (rank * problem.d_out, principal),
        }
        if 2 * rank <= problem.d_in:
            wider = expected_loss(problem, 2 * rank, "B").gain_fraction
            choices["random A, rank 2r"] = (2 * rank * problem.d_out, wider)
        rows += [
            {"strategy": name, "rank": rank, "parameters": parameters, "gain_fraction": gain}
            for name, (parameters, gain) in choices.items()
        ]
    return StrategyComparison(pd.DataFrame(rows), settings_of(problem=problem.description, ranks=ranks))
