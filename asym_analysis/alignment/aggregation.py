"""What is lost when adapters are averaged or added: error of averaging the factors, and interference before merging."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.adapters.module_names import place
from asym_analysis.errors import AdapterError
from asym_analysis.results import Result, versions
from asym_analysis.subspaces import updates

__all__ = ["Aggregation", "aggregation_error", "merge_interference"]


@dataclass(frozen=True, eq=False)
class Aggregation(Result):
    """A table of what averaging or adding adapters does, with the settings it was made with."""

    frame: pd.DataFrame
    settings: Mapping[str, Any]

    def summary(self) -> pd.DataFrame:
        """Medians over the modules, one row a projection (and an adapter, where rows belong to one)."""
        keys = [key for key in ("adapter", "projection") if key in self.frame]
        numbers = [c for c in self.frame.select_dtypes("number").columns if c not in ("layer", "adapters")]
        return self.frame.groupby(keys, sort=False)[numbers].median().reset_index()


def aggregation_error(adapters: AdapterSet | Iterable[Adapter]) -> Aggregation:
    """Measure what federated averaging loses when it averages A and B instead of the updates.

    mean(B_i A_i) - mean(B) mean(A) = mean((B_i - mean B)(A_i - mean A)), with the scaling of each adapter folded into
    its B. It vanishes when all A_i agree, as in FFA-LoRA (frozen A), whatever B became (docs/theory.md, section 3).

    Returns
    -------
    Aggregation
        One row a module: `adapters`, `update_norm` = ||mean(B_i A_i)||_F, and three relative errors: `both_averaged` =
        ||mean(B_i A_i) - mean(B) mean(A)||_F / update_norm; `shared_A` and `shared_B`, root mean square over the
        adapters of ||B_i (mean A - A_i)||_F / ||B_i A_i||_F (FedSA-LoRA: A averaged, B kept) and of its mirror.

    Raises
    ------
    AdapterError
        If the ranks or shapes of a module differ between adapters: their factors have no mean.

    Examples
    --------
    >>> A, B = torch.eye(2, 8), torch.eye(4, 2)
    >>> runs = [Adapter.from_factors({"q": (A, (i + 1) * B)}, name=str(i)) for i in range(3)]
    >>> aggregation_error(runs).frame.both_averaged.tolist()
    [0.0]
    """
    runs = adapters if isinstance(adapters, AdapterSet) else AdapterSet(adapters)
    rows = []
    for module in runs.modules:
        As, Bs = _stacked(runs, module)
        mean_A, mean_B = As.mean(0), Bs.mean(0)
        each = updates.frobenius_norm(As, Bs)
        mean_norm = _sum_norm(As, Bs) / len(As)
        rows.append(
            {
                **place(module),
                "adapters": len(As),
                "update_norm": mean_norm,
                "both_averaged": _ratio(_sum_norm(As - mean_A, Bs - mean_B) / len(As), mean_norm),
                "shared_A": _root_mean_square(updates.frobenius_norm(mean_A - As, Bs) / each),
                "shared_B": _root_mean_square(updates.frobenius_norm(As, mean_B - Bs) / each),
            }
        )
    frame = pd.DataFrame(rows).astype({"layer": "Int64"})
    return Aggregation(frame, {"adapters": list(runs.names), "versions": versions()})


def merge_interference(adapters: AdapterSet | Iterable[Adapter], weights: Sequence[float] | None = None) -> Aggregation:
    """Measure how adapters would disturb each other in the sum of their updates, before anything is merged.

    Parameters
    ----------
    adapters
        Two or more adapters; ranks may differ.
    weights
        Weight of each update in the sum; 1 by default.

    Returns
    -------
    Aggregation
        One row a module and adapter: `norm` = ||dW_i||_F; `cosine` of dW_i and the merged sum; `retained` =
        <merged, dW_i> / ||dW_i||^2 (1: intact, below: cancelled, above: reinforced); `on_own_inputs` =
        ||(merged - dW_i) P_i||_F / ||dW_i||_F with P_i the projector on the row space of dW_i, the relative change of
        the response to the inputs that adapter i reads; and `energy_ratio` = ||merged||^2 / sum w_i^2 ||dW_i||^2
        (1: orthogonal updates; below: they cancel).

    Raises
    ------
    AdapterError
        If the shapes of a module differ between adapters.
    ValueError
        If there is not one weight for each adapter.

    Examples
    --------
    >>> A, B = torch.eye(2, 8), torch.eye(4, 2)
    >>> twins = [Adapter.from_factors({"q": (A, sign * B)}, name=n) for n, sign in (("plus", 1), ("minus", -1))]
    >>> merge_interference(twins).frame[["retained", "on_own_inputs", "energy_ratio"]].values.tolist()
    [[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]
    """
    runs = adapters if isinstance(adapters, AdapterSet) else AdapterSet(adapters)
    shares = [1.0] * len(runs) if weights is None else [float(weight) for weight in weights]
    if len(shares) != len(runs):
        raise ValueError(f"{len(shares)} weights for {len(runs)} adapters: give one each")
    rows = []
    for module in runs.modules:
        held = [(name, run[module], w) for name, run, w in zip(runs.names, runs, shares, strict=True) if module in run]
        _same_shape(module, [update for _, update, _ in held])
        A_all = torch.cat([update.A.double() for _, update, _ in held])
        B_all = torch.cat([w * update.scaling * update.B.double() for _, update, w in held], dim=1)
        merged = updates.frobenius_norm(A_all, B_all).item()
        norms = [
            abs(update.scaling) * updates.frobenius_norm(update.A.double(), update.B.double()).item()
            for _, update, _ in held
        ]
        apart = sum((w * norm) ** 2 for (_, _, w), norm in zip(held, norms, strict=True))
        for (name, update, _), norm in zip(held, norms, strict=True):
            A, B = update.A.double(), update.scaling * update.B.double()
            inner = updates.inner_product(A_all, B_all, A, B).item()
            _, _, right = updates.thin_svd(A, B)
            difference = B_all @ (A_all @ right.mT) - B @ (A @ right.mT)
            rows.append(
                {
                    "adapter": name,
                    **place(module),
                    "norm": norm,
                    "cosine": _ratio(inner, merged * norm),
                    "retained": _ratio(inner, norm**2),
                    "on_own_inputs": _ratio(difference.norm().item(), norm),
                    "energy_ratio": _ratio(merged**2, apart),
                }
            )
    frame = pd.DataFrame(rows).astype({"layer": "Int64"})
    return Aggregation(frame, {"adapters": list(runs.names), "weights": shares, "versions": versions()})


def _stacked(runs: AdapterSet, module: str) -> tuple[Tensor, Tensor]:
    held = [run[module] for run in runs if module in run]
    _same_shape(module, held)
    ranks = sorted({update.rank for update in held})
    if len(ranks) > 1:
        raise AdapterError(f"module {module}: ranks {ranks} differ, so that the factors have no mean; compare one rank")
    return (
        torch.stack([update.A.double() for update in held]),
        torch.stack([update.scaling * update.B.double() for update in held]),
    )


def _same_shape(module: str, held: Sequence[LowRankUpdate]) -> None:
    shapes = sorted({update.shape for update in held})
    if len(shapes) > 1:
        raise AdapterError(f"module {module}: updates have shapes {shapes}; adapters of one base model are needed")


def _sum_norm(As: Tensor, Bs: Tensor) -> float:
    """||sum_i B_i A_i||_F from the factors laid side by side."""
    return updates.frobenius_norm(As.flatten(0, 1), Bs.permute(1, 0, 2).flatten(1)).item()


def _root_mean_square(values: Tensor) -> float:
    return values.square().mean().sqrt().item()


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else np.nan
