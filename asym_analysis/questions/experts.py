"""One A for all experts? Energy of a mixture's experts in one shared space, and what sharing would save."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from asym_analysis.adapters.load import as_adapters
from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.adapters.module_names import place
from asym_analysis.alignment.shapes import common_shape
from asym_analysis.errors import AdapterError
from asym_analysis.questions.common import cumulative_energies, factors_of, table_of, turned, unit
from asym_analysis.results import TableResult, settings_of
from asym_analysis.vocabulary import whole

__all__ = ["ExpertSharing", "expert_sharing"]

# Experts as modules of their own (experts.3.up_proj), or as slices of one parameter (experts.up_proj.3).
EXPERT = re.compile(
    r"^(?P<before>.*\bexperts?)\.(?:(?P<number>\d+)\.(?P<after>.+)|(?P<parameter>\w+)\.(?P<slice>\d+))$"
)


class ExpertSharing(TableResult):
    """Energy of the experts' factors in one shared space.

    Attributes
    ----------
    frame
        One row a group of experts, factor and rank:

        - group: the experts' common name, or the module; layer, projection; experts: their number
        - factor: "A" (row spaces) or "B" (column spaces)
        - rank: dimension k of the shared space
        - energy: share of the experts' energy, each scaled to 1, in their best common space of that dimension
        - null_mean, null_std: of random directions with each expert's own singular values
        - parameters, shared_parameters: numbers of the separate factors, and of one shared factor of width k with an
          r x k core for each expert
    settings
        draws, seed, adapters, versions.
    """

    _plot: ClassVar[str | None] = "questions:plot_expert_sharing"

    def summary(self) -> pd.DataFrame:
        """Medians over the groups, one row a factor and rank.

        Returns
        -------
        DataFrame
            `factor, rank, energy, null_mean, parameters, shared_parameters`.
        """
        columns = ["energy", "null_mean", "parameters", "shared_parameters"]
        return self.frame.groupby(["factor", "rank"], sort=False)[columns].median().reset_index()


def expert_sharing(
    adapter: Any, ranks: tuple[int, ...] = (4, 8, 16), *, draws: int = 20, seed: int = 0
) -> ExpertSharing:
    """Measure how much of the experts of one adapter, or of several adapters, lies in a space that they could share.

    Parameters
    ----------
    adapter : Adapter, AdapterSet, sequence of Adapter, or source
        An adapter of a mixture of experts: modules named `...experts.N.name`, or `...experts.name.N` where the model
        keeps all experts in one parameter; or several adapters of one base, each of which counts as an expert.
    ranks : tuple of int, optional
        Dimensions of the shared space.
    draws : int, default 20
        Random families for the null distribution.
    seed : int, default 0
        Of the draws.

    Returns
    -------
    ExpertSharing
        With the numbers that sharing would save.

    Raises
    ------
    AdapterError
        If no two modules are experts of one place, or their shapes differ.

    References
    ----------
    .. [1] MALoRA: Mixture of asymmetric low-rank adaptation, arXiv 2410.22782.
    .. [2] HydraLoRA, arXiv 2404.19245.

    Examples
    --------
    >>> from asym_analysis import Adapter
    >>> A = torch.eye(2, 8)
    >>> modules = {f"layers.0.experts.{i}.up": (A, torch.randn(6, 2)) for i in range(3)}
    >>> found = expert_sharing(Adapter.from_factors(modules), (2,), draws=5).frame
    >>> found.loc[found.factor == "A", "energy"].round(6).tolist()
    [1.0]
    """
    runs = as_adapters(adapter)
    whole(draws, "draws", least=2)
    widths = [whole(rank, "ranks", least=1) for rank in ranks]
    if not widths:
        raise ValueError("ranks is empty: give the dimensions of the shared space")
    groups = _experts(runs[0]) if len(runs) == 1 else {m: [run[m] for run in runs if m in run] for m in runs.modules}
    if not groups:
        raise AdapterError(f"{runs[0].name} has no experts: no two modules are named ...experts.N...")
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for name, members in groups.items():
        common_shape(name, {f"expert {i}": update.shape for i, update in enumerate(members)})
        for factor in ("A", "B"):
            pairs = [factors_of(update) for update in members]
            scaled = [unit(a if factor == "A" else b.mT) for a, b in pairs]
            if not any(part.any() for part in scaled):
                continue
            d, own = scaled[0].shape[1], sum(part.numel() for part in scaled)
            energies = cumulative_energies(scaled)
            nulls = np.stack([cumulative_energies([turned(part, generator) for part in scaled]) for _ in range(draws)])
            for rank in widths:
                k = min(rank, len(energies))
                rows.append(
                    {
                        "group": name, **{key: place(name)[key] for key in ("layer", "projection")},
                        "experts": len(members), "factor": factor, "rank": rank, "energy": energies[k - 1],
                        "null_mean": nulls[:, k - 1].mean(), "null_std": nulls[:, k - 1].std(ddof=1),
                        "parameters": own, "shared_parameters": k * d + sum(len(part) * k for part in scaled),
                    }
                )  # fmt: skip
    return ExpertSharing(
        table_of(rows, {}, "sharing", "every update is zero"),
        settings_of(adapters=list(runs.names), draws=draws, seed=seed),
    )


def _experts(adapter: Adapter) -> dict[str, list[LowRankUpdate]]:
    """The updates of an adapter's experts by the experts' common name."""
    groups: dict[str, list[LowRankUpdate]] = defaultdict(list)
    for module in adapter:
        match = EXPERT.match(module)
        if match:
            own = f"*.{match['after']}" if match["after"] else f"{match['parameter']}.*"
            groups[f"{match['before']}.{own}"].append(adapter[module])
    return {name: members for name, members in groups.items() if len(members) > 1}
