"""A smaller adapter at equal effect: which rank each module needs, from its singular values under inputs and loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from asym_analysis.adapters.load import as_adapter
from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.adapters.module_names import place
from asym_analysis.questions.common import Moments, factors_of, moment_of
from asym_analysis.results import Result, settings_of
from asym_analysis.subspaces import updates
from asym_analysis.vocabulary import whole

__all__ = ["RankAllocation", "allocate_rank"]


@dataclass(frozen=True, eq=False, repr=False)
class RankAllocation(Result):
    """The ranks that keep most of an adapter's energy at a total rank.

    Attributes
    ----------
    frame
        One row a module: module, layer, projection, rank (now), allocated, energy_kept (share of the module's energy
        in the kept directions), uniform_energy_kept (with the same rank in every module).
    curve
        One row a total rank, from 0 to all: budget, energy_kept (over all modules), uniform_energy_kept.
    settings
        budget, weighted_by_inputs, weighted_by_loss, adapter, versions.
    """

    frame: pd.DataFrame
    curve: pd.DataFrame
    settings: Mapping[str, Any]
    _plot: ClassVar[str | None] = "questions:plot_rank_allocation"

    @property
    def rank_pattern(self) -> dict[str, int]:
        """Module -> rank, as PEFT's `rank_pattern` and `Adapter.truncate` take it."""
        return {
            str(module): int(rank) for module, rank in zip(self.frame["module"], self.frame["allocated"], strict=True)
        }

    def summary(self) -> pd.DataFrame:
        """One row: budget, energy_kept and uniform_energy_kept at the budget.

        Returns
        -------
        DataFrame
            `budget, energy_kept, uniform_energy_kept`.
        """
        return self.curve[self.curve["budget"] == self.settings["budget"]].reset_index(drop=True)

    def __repr__(self) -> str:
        kept = self.summary()["energy_kept"].item()
        return f"RankAllocation(total rank {self.settings['budget']} keeps {kept:.1%} of the energy)"


def allocate_rank(
    adapter: Any,
    budget: int,
    *,
    moments: Moments | None = None,
    sensitivities: Moments | None = None,
) -> RankAllocation:
    """Share a total rank out over the modules: the globally largest singular values of G^(1/2) dW S^(1/2) stay.

    Parameters
    ----------
    adapter : Adapter or source
        An `Adapter`, or anything that `load_adapter` reads.
    budget : int
        Total rank: number of singular directions to keep over all modules.
    moments : mapping, optional
        Module -> second moment S of its inputs; without it S = I, and energy is that of the update itself.
    sensitivities : mapping, optional
        Module -> second moment G of the loss's gradient at its output; without it G = I.

    Returns
    -------
    RankAllocation
        The allocation is optimal in the total energy sum_m ||G_m^(1/2) (dW_m - dW'_m) S_m^(1/2)||^2 among all
        updates dW' of that total rank (Eckart and Young, module by module). It is compared with equal ranks.

    Raises
    ------
    ValueError
        If the budget is below 1.
    AdapterError
        If a module has no second moment though some are given.

    References
    ----------
    .. [1] Q. Zhang and others, AdaLoRA, arXiv 2303.10512, for budgets shared over modules.

    Examples
    --------
    >>> strong = (torch.eye(2, 4), 10 * torch.eye(3, 2))
    >>> weak = (torch.eye(2, 4), torch.eye(3, 2))
    >>> from asym_analysis import Adapter
    >>> allocate_rank(Adapter.from_factors({"strong": strong, "weak": weak}), 2).rank_pattern
    {'strong': 2, 'weak': 0}
    """
    read = as_adapter(adapter)
    budget = whole(budget, "budget", least=1)
    names = list(read)
    spectra = [_weighted_spectrum(read[m], m, moments, sensitivities).square().numpy() for m in names]
    owner = np.repeat(np.arange(len(names)), [len(s) for s in spectra])
    values = np.concatenate(spectra)
    order = np.argsort(-values, kind="stable")
    budget = min(budget, len(values))
    allocated = np.bincount(owner[order[:budget]], minlength=len(names))
    totals = np.array([s.sum() for s in spectra])
    everything = max(float(totals.sum()), np.finfo(float).tiny)
    uniform = _uniform_ranks(np.array([len(s) for s in spectra]), budget)
    curve = pd.DataFrame(
        {
            "budget": np.arange(len(values) + 1),
            "energy_kept": np.concatenate([[0.0], np.cumsum(values[order])]) / everything,
            "uniform_energy_kept": _uniform_curve(spectra) / everything,
        }
    )
    rows = [
        {
            **place(name),
            "rank": len(spectrum),
            "allocated": int(given),
            "energy_kept": float(spectrum[:given].sum() / total) if total else 1.0,
            "uniform_energy_kept": float(spectrum[:even].sum() / total) if total else 1.0,
        }
        for name, spectrum, given, even, total in zip(names, spectra, allocated, uniform, totals, strict=True)
    ]
    settings = settings_of(
        adapter=read.name, budget=budget, weighted_by_inputs=moments is not None,
        weighted_by_loss=sensitivities is not None,
    )  # fmt: skip
    return RankAllocation(pd.DataFrame(rows).astype({"layer": "Int64"}), curve, settings)


def _weighted_spectrum(update: LowRankUpdate, module: str, moments: Moments | None, felt: Moments | None) -> Tensor:
    A, B = factors_of(update)
    if moments is not None:
        A = A @ _root(moment_of(moments, module, update.d_in))
    if felt is not None:
        B = _root(moment_of(felt, module, update.d_out)) @ B
    return updates.singular_values(A, B)


def _root(moment: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(moment)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.mT


def _uniform_ranks(sizes: np.ndarray, budget: int) -> np.ndarray:
    """Equal ranks, one more in the first modules for what is left, none above a module's own."""
    ranks = np.zeros(len(sizes), dtype=int)
    left = budget
    while left > 0 and (ranks < sizes).any():
        for index in np.flatnonzero(ranks < sizes)[:left]:
            ranks[index] += 1
            left -= 1
    return ranks


def _uniform_curve(spectra: list[np.ndarray]) -> np.ndarray:
    """Energy kept when every module gets its next direction in turn."""
    longest = max((len(s) for s in spectra), default=0)
    rounds = [s[k] for k in range(longest) for s in spectra if k < len(s)]
    return np.concatenate([[0.0], np.cumsum(rounds)])
