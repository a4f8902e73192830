"""Who wins where: a map over the input spectrum and the alignment of the update with it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from asym_analysis.least_squares.problem import LeastSquaresProblem
from asym_analysis.least_squares.simulation import simulate
from asym_analysis.least_squares.spectra import power_law, synthetic_problem
from asym_analysis.least_squares.theory import asymmetry_index, expected_loss, win_probability

__all__ = ["compare_strategies", "regime_map", "simulated_win_probability"]


def regime_map(
    d_in: int,
    d_out: int,
    rank: int,
    *,
    exponents: Sequence[float],
    alignments: Sequence[float],
    draws: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """Simulated and predicted winners over power-law spectra s_i = i^-exponent and updates with m_i ~ s_i^alignment.

    Returns
    -------
    DataFrame
        One row a cell: `exponent, alignment, d_in, d_out, rank, draws`; `theory_index` (above 1 freezing A wins),
        `index` simulated with its `standard_error`; `theory_win_probability` and `win_probability`, the share of pairs
        of draws in which freezing A is at least as good.

    Notes
    -----
    Theory notes, section 6.7. For a square weight the boundary is at alignment 0 (equal signal in every component) for
    every exponent; an update that knows nothing of the inputs has alignment 1.

    Examples
    --------
    >>> table = regime_map(16, 16, 2, exponents=[1.0], alignments=[-1.0, 1.0], draws=50)
    >>> (table.theory_index > 1).tolist(), (table["index"] > 1).tolist()
    ([False, True], [False, True])
    """
    rows = []
    for exponent in exponents:
        for alignment in alignments:
            problem = synthetic_problem(power_law(d_in, exponent), d_out, alignment=alignment, seed=seed)
            gain_B, gain_A = (simulate(problem, rank, way, draws, seed).frame["gain"].to_numpy() for way in ("B", "A"))
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
                    "win_probability": _share_of_wins(gain_B, gain_A)[0],
                }
            )
    return pd.DataFrame(rows)


def simulated_win_probability(problem: LeastSquaresProblem, rank: int, draws: int, seed: int) -> tuple[float, float]:
    """Share of pairs in which freezing a random A is at least as good as freezing a random B, and its standard error.

    All draws x draws pairs count; ties count one half. The standard error is that of the Mann-Whitney statistic with
    each of its two samples' variability.

    Examples
    --------
    >>> import torch
    >>> share, error = simulated_win_probability(LeastSquaresProblem(torch.eye(8), torch.ones(8)), 2, 100, seed=0)
    >>> share, error
    (0.5, 0.0)
    """
    gain_B, gain_A = (simulate(problem, rank, way, draws, seed).frame["gain"].to_numpy() for way in ("B", "A"))
    return _share_of_wins(gain_B / problem.signal, gain_A / problem.signal)


def compare_strategies(problem: LeastSquaresProblem, ranks: Sequence[int]) -> pd.DataFrame:
    """Population gain of every way to train at each rank, frozen factors chosen at random and not.

    Returns
    -------
    DataFrame
        `strategy, rank, parameters, gain_fraction`. Strategies: "joint" (both trained, also what either oracle
        reaches), "random A", "random B", "principal A" (the top input components, no labels), and "random A, rank 2r",
        which on a square weight trains as many parameters as "joint".

    Notes
    -----
    Theory notes, sections 1.2 (i), 6.1 and 6.3.

    Examples
    --------
    >>> import torch
    >>> table = compare_strategies(LeastSquaresProblem(torch.eye(4), torch.ones(4)), [1])
    >>> dict(zip(table.strategy, table.gain_fraction.tolist()))["random A, rank 2r"]
    0.5
    """
    rows = []
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
    return pd.DataFrame(rows)


def _ranks(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    below, through = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    return (below + through) / 2


def _share_of_wins(gain_B: np.ndarray, gain_A: np.ndarray) -> tuple[float, float]:
    # Gains equal up to rounding are ties: where both are certain, rounding would decide.
    gain_B, gain_A = gain_B.round(10), gain_A.round(10)
    wins_of_B = _ranks(np.sort(gain_A), gain_B) / len(gain_A)
    losses_of_A = 1 - _ranks(np.sort(gain_B), gain_A) / len(gain_B)
    error = math.sqrt((wins_of_B.var() + losses_of_A.var()) / len(gain_A))
    return float(wins_of_B.mean()), error
