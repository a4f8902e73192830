"""When does a chain of frozen-A blocks equal full training? Directions that the blocks of a chain cover together."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from asym_analysis.adapters.load import as_adapters
from asym_analysis.adapters.module_names import place
from asym_analysis.chance import overlap_null
from asym_analysis.errors import AdapterError
from asym_analysis.questions.common import factors_of, p_value_of, row_basis, table_of
from asym_analysis.results import TableResult, settings_of
from asym_analysis.subspaces import updates

__all__ = ["ChainCoverage", "FactorMovement", "chain_coverage", "factor_movement"]


class ChainCoverage(TableResult):
    """What the blocks of a chain cover of the input space, block by block.

    Attributes
    ----------
    frame
        One row a module and block:

        - module, layer, projection
        - block: number in the chain, from 1
        - union_rank: dimension of the span of A_1, ..., A_t; most_rank = min(r t, d_in), which random blocks reach
        - inside: share of A_t in the span of the blocks before it; inside_null_mean, inside_null_std of a random A_t,
          inside_p_value: probability of as much or more by chance
        - coverage_low, coverage_high: smallest and largest eigenvalue of the mean of the blocks' projectors, whose
          mean is r/d: how often the least and the most covered direction was trained
        - stable_rank: of the sum of the blocks' updates
    settings
        blocks, versions.
    """

    _plot: ClassVar[str | None] = "questions:plot_chain"

    def summary(self) -> pd.DataFrame:
        """Medians over the modules, one row a block.

        Returns
        -------
        DataFrame
            `block, union_rank, most_rank, inside, inside_null_mean, stable_rank`.
        """
        columns = ["union_rank", "most_rank", "inside", "inside_null_mean", "stable_rank"]
        return self.frame.groupby("block", sort=True)[columns].median().reset_index()


def chain_coverage(blocks: Any) -> ChainCoverage:
    """Measure how much of the input space a chain of adapters covers, against blocks drawn at random.

    Parameters
    ----------
    blocks : AdapterSet, sequence of Adapter, or sources
        The adapters in the order in which they were trained and merged: an `AdapterSet`, adapters, or sources.

    Returns
    -------
    ChainCoverage
        The least-squares twin, the expected loss after t random blocks, is `asym_analysis.least_squares.chain_path`.

    Raises
    ------
    AdapterError
        If fewer than two blocks are given, or a module differs in width between them.

    References
    ----------
    .. [1] RAC-LoRA: Randomized asymmetric chain of LoRA, arXiv 2410.08305.
    .. [2] docs/theory.md, section 4.2, for the null distribution.

    Examples
    --------
    >>> from asym_analysis import Adapter
    >>> rows = torch.eye(4)
    >>> one, two = (Adapter.from_factors({"q": (rows[i : i + 2], torch.ones(3, 2))}, name=str(i)) for i in (0, 2))
    >>> chain_coverage([one, two]).frame[["block", "union_rank", "inside"]].values.tolist()
    [[1.0, 2.0, nan], [2.0, 4.0, 0.0]]
    """
    chain = as_adapters(blocks)
    if len(chain) < 2:
        raise AdapterError("a chain needs at least two blocks")
    rows: list[dict[str, Any]] = []
    for module in chain.modules:
        held = [run[module] for run in chain if module in run]
        if len(held) < 2:
            continue
        if len({update.shape for update in held}) > 1:
            raise AdapterError(f"module {module}: the blocks have updates of different shapes")
        d = held[0].d_in
        span = torch.zeros(0, d, dtype=torch.float64)
        As, Bs, bases = [], [], []
        for number, update in enumerate(held, start=1):
            A, B = factors_of(update)
            As.append(A)
            Bs.append(B)
            basis = row_basis(A)
            inside, null = np.nan, None
            if len(span) and len(basis):
                null = overlap_null(len(basis), len(span), d)
                least = min(len(basis), len(span))
                total = (basis @ span.mT).square().sum().item()
                inside = total / len(basis)
            span = row_basis(torch.cat([span, basis]))
            bases.append(basis)
            # The eigenvalues of the mean of the projectors, from the bases laid below each other.
            values = torch.linalg.svdvals(torch.cat(bases)).square() / number
            strengths = updates.singular_values(torch.cat(As), torch.cat(Bs, dim=1)).square()
            rows.append(
                {
                    **place(module),
                    "block": number,
                    "union_rank": len(span),
                    "most_rank": min(sum(update.rank for update in held[:number]), d),
                    "inside": inside,
                    "inside_null_mean": np.nan if null is None else float(null.mean) * least / len(basis),
                    "inside_null_std": np.nan if null is None else float(null.std) * least / len(basis),
                    "inside_p_value": np.nan if null is None else p_value_of(null, total / least),
                    "coverage_low": values[-1].item() if len(values) == d else 0.0,
                    "coverage_high": values[0].item(),
                    "stable_rank": (strengths.sum() / strengths.max()).item() if strengths.max() > 0 else np.nan,
                }
            )
    return ChainCoverage(
        table_of(rows, {}, "coverage", "no module is in two or more of the blocks"),
        settings_of(blocks=list(chain.names)),
    )


class FactorMovement(TableResult):
    """Which factor moved between consecutive checkpoints of one run.

    Attributes
    ----------
    frame
        One row a module and interval:

        - module, layer, projection
        - first, second: names of the checkpoints
        - A_moved, B_moved: Frobenius norms of the changes of the factors, relative to the later factor
        - A_share: share of the update's change that A's change explains to first order,
          ||s B dA||^2 / (||s B dA||^2 + ||s dB A||^2); 0 where only B moved, 1 where only A moved
        - even_share: the same if both factors moved by the same relative distance; NaN where one did not move
        - A_turn, B_turn: one minus the overlap of the factor's row or column space with that before
    settings
        checkpoints, versions.
    """

    _plot: ClassVar[str | None] = "questions:plot_factor_movement"

    def summary(self) -> pd.DataFrame:
        """Medians over the modules, one row an interval.

        Returns
        -------
        DataFrame
            `first, second, A_moved, B_moved, A_share, even_share, A_turn, B_turn`.
        """
        columns = ["A_moved", "B_moved", "A_share", "even_share", "A_turn", "B_turn"]
        return self.frame.groupby(["first", "second"], sort=False)[columns].median().reset_index()


def factor_movement(checkpoints: Any) -> FactorMovement:
    """Say which factor moved when, over the checkpoints of a run: training in turn shows as shares of 0 and 1.

    Parameters
    ----------
    checkpoints : AdapterSet, sequence of Adapter, or sources
        The checkpoints in order: an `AdapterSet`, adapters, or sources such as a training run's folder.

    Returns
    -------
    FactorMovement
        Rows of modules that both checkpoints of an interval have, with equal shapes.

    Raises
    ------
    AdapterError
        If there are fewer than two checkpoints, or they share no module.

    References
    ----------
    .. [1] RoLoRA: Robust federated finetuning via alternating optimization, arXiv 2502.01755.
    .. [2] `asym_analysis.least_squares.alternating_path` is the closed form of training in turn.

    Examples
    --------
    >>> from asym_analysis import Adapter
    >>> A, B = torch.eye(2, 4), torch.eye(3, 2)
    >>> run = [Adapter.from_factors({"q": (A, k * B)}, name=str(k)) for k in (1, 2)]
    >>> factor_movement(run).frame[["A_moved", "B_moved", "A_share"]].values.tolist()
    [[0.0, 0.5, 0.0]]
    """
    run = as_adapters(checkpoints)
    if len(run) < 2:
        raise AdapterError("movement between checkpoints needs at least two of them")
    rows = []
    for before, after in zip(run, list(run)[1:], strict=False):
        for module in after:
            if module not in before or before[module].A.shape != after[module].A.shape:
                continue
            A0, B0 = factors_of(before[module])
            A, B = factors_of(after[module])
            dA, dB = A - A0, B - B0
            by_A, by_B = (updates.frobenius_norm(*pair).item() ** 2 for pair in ((dA, B), (A, dB)))
            rows.append(
                {
                    **place(module),
                    "first": before.name,
                    "second": after.name,
                    "A_moved": (A_moved := _ratio(dA, A)),
                    "B_moved": (B_moved := _ratio(dB, B)),
                    "A_share": by_A / (by_A + by_B) if by_A + by_B > 0 else np.nan,
                    "even_share": _even_share(by_A, by_B, A_moved, B_moved),
                    "A_turn": _turn(A0, A),
                    "B_turn": _turn(B0.mT, B.mT),
                }
            )
    return FactorMovement(
        table_of(rows, {}, "movement", "no module has one rank in two checkpoints in a row"),
        settings_of(checkpoints=list(run.names)),
    )


def _even_share(by_A: float, by_B: float, A_moved: float, B_moved: float) -> float:
    """A's share of the change if both factors had moved by the same relative distance."""
    if not (A_moved > 0 and B_moved > 0):
        return np.nan
    of_A, of_B = by_A / A_moved**2, by_B / B_moved**2
    return of_A / (of_A + of_B) if of_A + of_B > 0 else np.nan


def _turn(before: torch.Tensor, after: torch.Tensor) -> float:
    first, second = row_basis(before), row_basis(after)
    if not len(first) or not len(second):
        return np.nan
    return max(0.0, 1 - (first @ second.mT).square().sum().item() / min(len(first), len(second)))


def _ratio(change: torch.Tensor, whole: torch.Tensor) -> float:
    length = whole.norm().item()
    return change.norm().item() / length if length else np.nan
