"""How much of many adapters lies in one common subspace, with and without the shared initialization.

Adapters with the same initial A0 share its rows whatever they learned. The energy of A alone then shows a common
subspace that training had no part in; the energies of A - A0, and of the updates B(A - A0), do not (docs/theory.md,
section 3, on the confound of shared initializations).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.adapters.initialization import same_initialization
from asym_analysis.adapters.load import Source, as_adapter
from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.adapters.module_names import place
from asym_analysis.alignment.shapes import common_shape, sharing_adapters
from asym_analysis.alignment.side_by_side import one_torch_thread
from asym_analysis.errors import AdapterError
from asym_analysis.results import TableResult, settings_of
from asym_analysis.subspaces import updates
from asym_analysis.vocabulary import whole

__all__ = ["SharedEnergy", "shared_energy"]


class SharedEnergy(TableResult):
    """Share of the adapters' energy in their best common subspace.

    Attributes
    ----------
    frame
        One row a module, quantity and rank. Columns:

        - module, layer, projection
        - quantity: "A", "B", "A - A0", "A - mean", "inputs", "outputs" or "inputs - A0"; see `shared_energy`
        - rank: dimension k of the common subspace
        - adapters: number of adapters that count
        - energy: from 0 to 1
        - null_mean, null_std: of the same with the directions of every adapter drawn at random and its singular values
          kept
    settings
        Names of the adapters, arguments and versions.
    """

    _plot: ClassVar[str | None] = "sharing:plot_sharing"

    def summary(self) -> pd.DataFrame:
        """Medians over the modules: one row a quantity and rank.

        Returns
        -------
        DataFrame
            quantity, rank, energy, null_mean.
        """
        grouped = self.frame.groupby(["quantity", "rank"], sort=False)[["energy", "null_mean"]]
        return grouped.median().reset_index()


def shared_energy(
    adapters: AdapterSet | Adapter | Source | Iterable[Adapter | Source],
    ranks: Sequence[int] = (1, 4, 16),
    *,
    initial: Adapter | AdapterSet | Source | None = None,
    draws: int = 20,
    seed: int = 0,
) -> SharedEnergy:
    """Measure how much of the adapters lies in one common subspace, for A, for B and for the updates.

    For matrices X_i (rows are directions, each scaled to Frobenius norm 1) the energy at rank k is the sum of the k
    largest eigenvalues of sum_i X_i^T X_i over its trace. The quantities:

    - "A", "B": rows of A, columns of B, as they stand;
    - "A - A0": rows of A without the initial A, where it is known: `initial`, or what each adapter recorded;
    - "A - mean": rows of A without their mean over the adapters, where all share an unknown initialization A0. This
      takes away whatever all learned alike as well: a lower bound;
    - "inputs", "outputs": row and column space of the updates, weighted by their singular values, free of gauge;
    - "inputs - A0": the same of B(A - A0).

    Parameters
    ----------
    adapters : AdapterSet, Adapter, source or iterable of these
        Two or more, or anything that `load_adapters` reads. "A - mean" needs one rank.
    ranks : sequence of int, optional
        The k, each at least 1.
    initial : Adapter, AdapterSet or source, optional
        The common initial factors, where they are known and the adapters did not record them.
    draws : int, default 20
        Draws of the null distribution, at least two.
    seed : int, default 0
        Of the draws.

    Returns
    -------
    SharedEnergy
        See there for the columns.

    Raises
    ------
    AdapterError
        If there are fewer than two adapters, they share no module, shapes differ, or fewer than two updates of every
        module are different from zero.
    ValueError
        If a rank is below 1, or there are fewer than two draws.

    Examples
    --------
    >>> start = torch.eye(2, 64)
    >>> runs = [Adapter.from_factors({"q": (start, torch.eye(32, 2).roll(2 * i, 0))}, name=str(i)) for i in range(4)]
    >>> shared_energy(runs, ranks=[2]).frame[["quantity", "energy"]].values.tolist()[:2]
    [['A', 1.0], ['B', 0.25]]
    """
    ranks = [whole(rank, "ranks", least=1) for rank in ranks]
    draws, seed = whole(draws, "draws", least=2), whole(seed, "seed", least=0)
    runs = sharing_adapters(adapters, least=2)
    with one_torch_thread():
        rows = list(_rows(runs, ranks, as_adapter(initial) if initial is not None else None, draws, seed))
    if not rows:
        raise AdapterError("no module has an update that is not zero in two adapters: there is nothing to share")
    settings = settings_of(adapters=list(runs.names), ranks=ranks, draws=draws, seed=seed)
    return SharedEnergy(pd.DataFrame(rows).astype({"layer": "Int64"}), settings)


def _rows(
    runs: AdapterSet, ranks: Sequence[int], initial: Adapter | None, draws: int, seed: int
) -> Iterator[dict[str, Any]]:
    generator = torch.Generator().manual_seed(seed)
    for module in runs.modules:
        members = {name: run for name, run in zip(runs.names, runs, strict=True) if module in run}
        held = [(run[module], _initial_A(run, initial, module)) for run in members.values()]
        common_shape(module, {name: update.shape for name, (update, _) in zip(members, held, strict=True)})
        for quantity, parts in _quantities(held).items():
            units = [part / part.norm() for part in parts if part.any()]
            if len(units) < 2:
                continue
            energies = _energies(units)
            null = torch.stack([_energies(_redirected(units, generator)) for _ in range(draws)])
            for k in ranks:
                at = min(k, len(energies)) - 1
                yield {
                    **place(module),
                    "quantity": quantity,
                    "rank": k,
                    "adapters": len(units),
                    "energy": energies[at].item(),
                    "null_mean": null[:, at].mean().item(),
                    "null_std": null[:, at].std().item(),
                }


def _initial_A(run: Adapter, initial: Adapter | None, module: str) -> Tensor | None:
    source = initial if initial is not None else run.initial
    return None if source is None or module not in source else source[module].A.double()


def _quantities(held: list[tuple[LowRankUpdate, Tensor | None]]) -> dict[str, list[Tensor]]:
    As = [update.A.double() for update, _ in held]
    Bs = [update.B.double() for update, _ in held]
    initial = [first for _, first in held if first is not None]
    found = {"A": As, "B": [B.mT for B in Bs]}
    spectra = [updates.thin_svd(A, B) for A, B in zip(As, Bs, strict=True)]
    if len(initial) == len(As):
        moved = [A - first for A, first in zip(As, initial, strict=True)]
        found["A - A0"] = moved
        learned = [updates.thin_svd(change, B) for change, B in zip(moved, Bs, strict=True)]
        found["inputs - A0"] = [S[:, None] * Vh for _, S, Vh in learned]
    elif len({A.shape for A in As}) == 1 and bool((same_initialization(As) == 1).all()):
        mean = torch.stack(As).mean(0)
        found["A - mean"] = [A - mean for A in As]
    found["inputs"] = [S[:, None] * Vh for _, S, Vh in spectra]
    found["outputs"] = [S[:, None] * U.mT for U, S, _ in spectra]
    return found


def _energies(units: list[Tensor]) -> Float[Tensor, "k"]:
    """Cumulative share of the eigenvalues of sum_i X_i^T X_i, from the smaller Gram matrix of the stacked rows."""
    stacked = torch.cat(units)
    gram = stacked @ stacked.mT if stacked.shape[0] <= stacked.shape[1] else stacked.mT @ stacked
    values = torch.linalg.eigvalsh(gram).flip(0).clamp_min(0)
    return (values / values.sum()).cumsum(0)


def _redirected(units: list[Tensor], generator: torch.Generator) -> list[Tensor]:
    """The same singular values along random orthonormal directions."""
    drawn = []
    for part in units:
        values = torch.linalg.svdvals(part)
        noise = torch.randn(part.shape[1], len(values), generator=generator, dtype=part.dtype)
        drawn.append(values[:, None] * torch.linalg.qr(noise).Q.mT)
    return drawn
