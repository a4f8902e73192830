"""Is a shared subspace more than the mean? Each adapter against the mean of the others and their common space."""

from __future__ import annotations

from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor

from asym_analysis.adapters.load import as_adapters
from asym_analysis.adapters.module_names import place
from asym_analysis.alignment.shapes import common_shape
from asym_analysis.errors import AdapterError
from asym_analysis.questions.common import factors_of, row_basis, table_of, unit
from asym_analysis.results import TableResult, settings_of
from asym_analysis.subspaces import updates
from asym_analysis.vocabulary import whole

__all__ = ["MeanAdapterBaseline", "mean_adapter_baseline"]


class MeanAdapterBaseline(TableResult):
    """How much of each adapter the mean of the others already explains, beside the best common space.

    Attributes
    ----------
    frame
        One row a module and adapter:

        - adapter, module, layer, projection
        - by_mean: share of ||dW_i||^2 along the mean of the other adapters' updates (one direction)
        - by_mean_space: share within the row and column spaces of that mean, cut to `rank`
        - by_shared_space: share within the `rank` leading common input directions of the others
        - random_share: of a random space of that dimension, rank/d_in, or less where the others span less than `rank`
        - noise_edge: largest eigenvalue that independent random adapters would show, over the number of adapters
          (Marchenko and Pastur)
        - top_eigenvalue: the largest eigenvalue of the mean of the adapters' input projectors
    settings
        rank, adapters, versions.
    """

    _plot: ClassVar[str | None] = "questions:plot_mean_baseline"

    def summary(self) -> pd.DataFrame:
        """Medians over the modules, one row an adapter.

        Returns
        -------
        DataFrame
            `adapter, by_mean, by_mean_space, by_shared_space, random_share, top_eigenvalue, noise_edge`.
        """
        columns = ["by_mean", "by_mean_space", "by_shared_space", "random_share", "top_eigenvalue", "noise_edge"]
        return self.frame.groupby("adapter", sort=False)[columns].median().reset_index()


def mean_adapter_baseline(adapters: Any, rank: int = 8) -> MeanAdapterBaseline:
    """Hold every shared-subspace claim against the mean of the other adapters, and against random adapters.

    Parameters
    ----------
    adapters : AdapterSet, sequence of Adapter, or sources
        Three or more adapters of one base.
    rank : int, default 8
        Dimension of the spaces.

    Returns
    -------
    MeanAdapterBaseline
        Leave-one-out: an adapter never helps to explain itself.

    Raises
    ------
    AdapterError
        If there are fewer than three adapters.

    References
    ----------
    .. [1] The universal weight subspace hypothesis, arXiv 2512.05117.
    .. [2] docs/theory.md, section 4.2; V. Marchenko, L. Pastur, Math. USSR Sbornik 1, 457 (1967).

    Examples
    --------
    >>> from asym_analysis import Adapter
    >>> A, B = torch.eye(2, 8), torch.eye(6, 2)
    >>> runs = [Adapter.from_factors({"q": (A, B)}, name=str(i)) for i in range(3)]
    >>> mean_adapter_baseline(runs, 2).frame[["by_mean", "by_shared_space"]].round(6).values.tolist()[0]
    [1.0, 1.0]
    """
    runs = as_adapters(adapters)
    if len(runs) < 3:
        raise AdapterError("a leave-one-out mean needs at least three adapters")
    rank = whole(rank, "rank", least=1)
    rows = []
    for module in runs.modules:
        held = [(name, factors_of(run[module])) for name, run in zip(runs.names, runs, strict=True) if module in run]
        if len(held) < 3:
            continue
        common_shape(module, {name: (len(B), A.shape[1]) for name, (A, B) in held})
        bases = [row_basis(A) for _, (A, _) in held]
        d = bases[0].shape[1]
        top = torch.linalg.svdvals(torch.cat(bases)).square()[0].item() / len(held)
        ratio = sum(len(basis) for basis in bases) / d
        edge = (1 + ratio**0.5) ** 2 / len(held)
        for index, (name, (A, B)) in enumerate(held):
            others = [pair for j, (_, pair) in enumerate(held) if j != index]
            rows.append(
                {
                    "adapter": name, **place(module), **_explained(A, B, others, rank),
                    "noise_edge": min(edge, 1.0), "top_eigenvalue": top,
                }
            )  # fmt: skip
    return MeanAdapterBaseline(
        table_of(rows, {}, "the mean's share", "no module is in three or more of the adapters"),
        settings_of(rank=rank, adapters=list(runs.names)),
    )


def _explained(A: Tensor, B: Tensor, others: list[tuple[Tensor, Tensor]], rank: int) -> dict[str, float]:
    energy = updates.inner_product(A, B, A, B).item()
    if energy <= 0:
        return dict.fromkeys(("by_mean", "by_mean_space", "by_shared_space", "random_share"), float("nan"))
    A_mean, B_mean = torch.cat([a for a, _ in others]), torch.cat([b for _, b in others], dim=1) / len(others)
    size = updates.inner_product(A_mean, B_mean, A_mean, B_mean).item()
    along = updates.inner_product(A, B, A_mean, B_mean).item() ** 2 / size if size > 0 else 0.0
    U, _, Vh = updates.thin_svd(A_mean, B_mean)
    inside = ((U[:, :rank].mT @ B) @ (A @ Vh[:rank].mT)).square().sum().item()
    scaled = torch.cat([unit(a) for a, _ in others])
    shared = torch.linalg.svd(scaled, full_matrices=False).Vh[:rank]
    common = updates.frobenius_norm(A @ shared.mT @ shared, B).item() ** 2
    return {
        "by_mean": along / energy, "by_mean_space": inside / energy, "by_shared_space": common / energy,
        "random_share": len(shared) / A.shape[1],
    }  # fmt: skip
