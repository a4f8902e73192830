"""Will merging these hurt, and what mends it? Energy that a merge loses, and directions that many adapters use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.adapters.load import as_adapters
from asym_analysis.adapters.module_names import place
from asym_analysis.errors import AdapterError
from asym_analysis.questions.common import by_projection, factors_of, row_basis, table_of
from asym_analysis.results import TableResult, settings_of
from asym_analysis.subspaces import updates
from asym_analysis.vocabulary import choose, whole

__all__ = ["Crowding", "MergeCompensation", "crowding", "merge_compensation"]


class MergeCompensation(TableResult):
    """What a weighted mean of adapters keeps of each, and the scale that restores it.

    Attributes
    ----------
    frame
        One row a module:

        - module, layer, projection, adapters
        - gap: sum of the merged update's singular values over the mean of the adapters' own sums
        - orthogonal_gap: the same if the adapters were orthogonal to each other, sum_i w_i ||dW_i||_* over the mean
        - scale: the number c that brings c · merged closest to the sum of the updates in Frobenius norm
        - error_before, error_after: ||sum - merged|| and ||sum - c · merged||, relative to ||sum||
        - retained_before, retained_after: mean over adapters of <merged, dW_i>/||dW_i||^2, without and with c
        - direction_cosine: mean over adapters of the largest |cosine| between the merged update's leading input
          direction and the adapter's; direction_null: r/d, of random directions, as mean square
    settings
        adapters, weights, versions.
    """

    _plot: ClassVar[str | None] = "questions:plot_merge_compensation"

    def summary(self) -> pd.DataFrame:
        """Medians over the modules of each projection.

        Returns
        -------
        DataFrame
            `projection`, then `gap, orthogonal_gap, scale, error_before, error_after, retained_before, retained_after`.
        """
        columns = ["gap", "orthogonal_gap", "scale", "error_before", "error_after", "retained_before", "retained_after"]
        return by_projection(self.frame, columns)


def merge_compensation(adapters: Any, weights: Sequence[float] | None = None) -> MergeCompensation:
    """Measure how much a merge of adapters shrinks each of them, and the scale that compensates.

    Parameters
    ----------
    adapters : AdapterSet, sequence of Adapter, or sources
        Two or more adapters of one base: an `AdapterSet`, adapters, or sources.
    weights : sequence of float, optional
        Weight of each update in the merge; by default 1/N each, the mean.

    Returns
    -------
    MergeCompensation
        The quantities are named by what they compute; they are not the coefficients of a published method.

    Raises
    ------
    AdapterError
        If fewer than two adapters share a module, or its shapes differ.
    ValueError
        If there is not one weight for each adapter.

    Examples
    --------
    >>> from asym_analysis import Adapter
    >>> pairs = [(torch.eye(4)[i : i + 1], torch.eye(3)[:, i : i + 1]) for i in range(2)]
    >>> runs = [Adapter.from_factors({"q": pair}, name=str(i)) for i, pair in enumerate(pairs)]
    >>> merge_compensation(runs).frame[["gap", "scale", "retained_before", "retained_after"]].values.tolist()
    [[1.0, 2.0, 0.5, 1.0]]
    """
    runs = as_adapters(adapters)
    shares = [1 / len(runs)] * len(runs) if weights is None else [float(weight) for weight in weights]
    if len(shares) != len(runs):
        raise ValueError(f"{len(shares)} weights for {len(runs)} adapters: give one each")
    rows = []
    for module in runs.modules:
        held = [(run[module], w) for run, w in zip(runs, shares, strict=True) if module in run]
        if len(held) > 1:
            rows.append({**place(module), "adapters": len(held), **_merge_row(module, held)})
    return MergeCompensation(table_of(rows, {}, "merging"), settings_of(adapters=list(runs.names), weights=shares))


def _merge_row(module: str, held: list[tuple[Any, float]]) -> dict[str, float]:
    if len({update.shape for update, _ in held}) > 1:
        raise AdapterError(f"module {module}: the updates have different shapes; adapters of one base are needed")
    pairs = [factors_of(update) for update, _ in held]
    A = torch.cat([a for a, _ in pairs])
    merged = torch.cat([w * b for (_, b), (_, w) in zip(pairs, held, strict=True)], dim=1)
    plain = torch.cat([b for _, b in pairs], dim=1)
    own = [updates.singular_values(a, b) for a, b in pairs]
    nuclear = np.array([s.sum().item() for s in own])
    norms = np.array([s.square().sum().item() for s in own])
    size = updates.inner_product(A, merged, A, merged).item()
    target = updates.inner_product(A, plain, A, plain).item()
    crossed = updates.inner_product(A, merged, A, plain).item()
    scale = crossed / size if size > 0 else np.nan
    inner = np.array([updates.inner_product(A, merged, a, b).item() for a, b in pairs])
    kept = np.mean(inner[norms > 0] / norms[norms > 0]) if (norms > 0).any() else np.nan
    _, _, Vh = updates.thin_svd(A, merged)
    cosines = [(row_basis(a) @ Vh[0]).norm().item() for a, _ in pairs]
    weights = np.array([w for _, w in held])
    return {
        "gap": updates.singular_values(A, merged).sum().item() / nuclear.mean() if nuclear.any() else np.nan,
        "orthogonal_gap": float(weights @ nuclear / nuclear.mean()) if nuclear.any() else np.nan,
        "scale": scale,
        "error_before": _relative(target - 2 * crossed + size, target),
        "error_after": _relative(target - crossed**2 / size if size > 0 else target, target),
        "retained_before": float(kept),
        "retained_after": float(kept * scale),
        "direction_cosine": float(np.mean(cosines)),
        "direction_null": float(np.mean([len(row_basis(a)) / a.shape[1] for a, _ in pairs])) ** 0.5,
    }


class Crowding(TableResult):
    """Output directions that many adapters use, against chance.

    Attributes
    ----------
    frame
        One row a module and shared direction, the most used first:

        - module, layer, projection, index
        - use: sum over the adapters of the squared cosine between the direction and the adapter's space: how many
          adapters use it
        - null_use: mean of the same for independent random spaces of the same dimensions; null_high: their 99 percent
          point
        - crowded: True where `use` exceeds `null_high`
        - damping: factor that brings the direction's use down to `null_high`; 1 where it is not crowded
    settings
        side, adapters, draws, seed, versions.
    """

    _plot: ClassVar[str | None] = "questions:plot_crowding"

    def summary(self) -> pd.DataFrame:
        """One row a projection: modules, crowded directions a module, and the largest use.

        Returns
        -------
        DataFrame
            `projection, modules, crowded, largest_use`.
        """
        grouped = self.frame.groupby("projection", sort=False)
        modules = grouped["module"].nunique()
        return pd.DataFrame(
            {"modules": modules, "crowded": grouped["crowded"].sum() / modules, "largest_use": grouped["use"].max()}
        ).reset_index()


def crowding(adapters: Any, *, side: str = "B", directions: int = 16, draws: int = 100, seed: int = 0) -> Crowding:
    """Count how many adapters use each output direction (or input direction), against independent random spaces.

    Parameters
    ----------
    adapters : AdapterSet, sequence of Adapter, or sources
        Two or more adapters of one base.
    side : str, default "B"
        "B" for output directions, "A" for input directions.
    directions : int, default 16
        The most used directions reported for each module.
    draws : int, default 100
        Random families for the null distribution.
    seed : int, default 0
        Of the draws.

    Returns
    -------
    Crowding
        Directions are the eigenvectors of the sum of the adapters' projectors.

    Raises
    ------
    AdapterError
        If fewer than two adapters share a module.
    ValueError
        For another side.

    Notes
    -----
    Damping is for a sum of adapters (weights of 1), not for their mean. With eight least-squares clients whose adapters
    share two output directions and agree there, the sum has 22 times the loss of no adapter, against 3.6 with private
    directions; damping the reported directions leaves 5.8, the best of twenty damped sets of random directions 15 to
    20, and one scale for the whole sum 7.8. The mean of the same adapters has 0.43, which damping raises to 0.51. Where
    the adapters share directions without agreeing, the sum loses no more than with private ones: `crowded` alone does
    not say that a merge fails, see `merge_interference` for agreement (tests/questions/test_crowding_validated.py).

    Examples
    --------
    >>> from asym_analysis import Adapter
    >>> draw = torch.Generator().manual_seed(0)
    >>> B = torch.randn(64, 2, generator=draw)
    >>> runs = [Adapter.from_factors({"q": (torch.randn(2, 32, generator=draw), B)}, name=str(i)) for i in range(4)]
    >>> crowding(runs, directions=2).frame[["use", "crowded"]].round(6).values.tolist()
    [[4.0, True], [4.0, True]]
    """
    choose(side, ("A", "B"), "side")
    whole(directions, "directions", least=1)
    whole(draws, "draws", least=20)
    runs = as_adapters(adapters)
    generator = torch.Generator().manual_seed(seed)
    nulls: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = {}
    rows = []
    for module in runs.modules:
        bases = _bases(runs, module, side)
        if len(bases) < 2:
            continue
        d, ranks = bases[0].shape[1], tuple(sorted(len(basis) for basis in bases))
        use = torch.linalg.svdvals(torch.cat(bases)).square().numpy()[:directions]
        if (d, *ranks) not in nulls:
            nulls[d, *ranks] = _random_use(d, ranks, len(use), draws, generator)
        mean, high = nulls[d, *ranks]
        for index, value in enumerate(use):
            crowded = bool(value > high[index])
            rows.append(
                {
                    **place(module), "index": index + 1, "use": float(value), "null_use": float(mean[index]),
                    "null_high": float(high[index]), "crowded": crowded,
                    "damping": float((high[index] / value) ** 0.5) if crowded else 1.0,
                }
            )  # fmt: skip
    settings = settings_of(side=side, adapters=list(runs.names), draws=draws, seed=seed)
    return Crowding(table_of(rows, {}, "crowding"), settings)


def _bases(runs: AdapterSet, module: str, side: str) -> list[Tensor]:
    found = []
    for run in runs:
        if module in run:
            A, B = factors_of(run[module])
            basis = row_basis(A if side == "A" else B.mT)
            if len(basis):
                found.append(basis)
    if len({basis.shape[1] for basis in found}) > 1:
        raise AdapterError(f"module {module}: the adapters have different widths; adapters of one base are needed")
    return found


def _random_use(
    d: int, ranks: tuple[int, ...], count: int, draws: int, generator: torch.Generator
) -> tuple[np.ndarray, np.ndarray]:
    found = []
    for _ in range(draws):
        drawn = [torch.linalg.qr(torch.randn(d, r, generator=generator, dtype=torch.float64))[0].mT for r in ranks]
        found.append(torch.linalg.svdvals(torch.cat(drawn)).square().numpy()[:count])
    stacked = np.stack(found)
    return stacked.mean(0), np.quantile(stacked, 0.99, axis=0)


def _relative(squared: float, whole: float) -> float:
    return (max(squared, 0.0) / whole) ** 0.5 if whole > 0 else np.nan
