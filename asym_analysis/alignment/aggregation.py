"""What is lost when adapters are averaged or added: error of averaging the factors, and interference before merging."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.adapters.load import Source
from asym_analysis.adapters.module_names import place
from asym_analysis.alignment.shapes import common_shape, sharing_adapters
from asym_analysis.errors import AdapterError
from asym_analysis.results import TableResult, settings_of
from asym_analysis.subspaces import updates

__all__ = ["AggregationError", "MergeInterference", "aggregation_error", "merge_interference"]


class AggregationError(TableResult):
    """What averaging the factors of adapters loses.

    Attributes
    ----------
    frame
        One row a module. Columns:

        - module, layer, projection
        - adapters: number of adapters that have the module
        - update_norm: ||mean(B_i A_i)||_F
        - both_averaged: ||mean(B_i A_i) - mean(B) mean(A)||_F / update_norm
        - shared_A: root mean square over the adapters of ||B_i (mean A - A_i)||_F / ||B_i A_i||_F, where A is averaged
          and B kept (FedSA-LoRA); adapters whose update is zero are left out
        - shared_B: its mirror, ||(mean B - B_i) A_i||_F / ||B_i A_i||_F
    settings
        Names of the adapters, and versions.
    """

    def summary(self) -> pd.DataFrame:
        """Medians over the modules, one row a projection.

        Returns
        -------
        DataFrame
            projection, update_norm, both_averaged, shared_A, shared_B.
        """
        return _medians(self.frame, ["projection"])


class MergeInterference(TableResult):
    """How adapters disturb each other in the sum of their updates.

    Attributes
    ----------
    frame
        One row a module and adapter. Columns:

        - adapter, module, layer, projection
        - norm: ||dW_i||_F
        - cosine: of dW_i and the merged sum
        - retained: <merged, dW_i> / ||dW_i||^2 (1: intact, below: cancelled, above: reinforced)
        - on_own_inputs: ||(merged - dW_i) P_i||_F / ||dW_i||_F with P_i the projector on the row space of dW_i, the
          relative change of the response to the inputs that adapter i reads
        - energy_ratio: ||merged||^2 / sum w_i^2 ||dW_i||^2 (1: orthogonal updates; below: they cancel)
    settings
        Names of the adapters, weights and versions.
    """

    def summary(self) -> pd.DataFrame:
        """Medians over the modules, one row an adapter and projection.

        Returns
        -------
        DataFrame
            adapter, projection, norm, cosine, retained, on_own_inputs, energy_ratio.
        """
        return _medians(self.frame, ["adapter", "projection"])


def _medians(frame: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    numbers = [c for c in frame.select_dtypes("number").columns if c not in ("layer", "adapters")]
    return frame.groupby(keys, sort=False)[numbers].median().reset_index()


def aggregation_error(adapters: AdapterSet | Adapter | Source | Iterable[Adapter | Source]) -> AggregationError:
    """Measure what federated averaging loses when it averages A and B instead of the updates.

    mean(B_i A_i) - mean(B) mean(A) = mean((B_i - mean B)(A_i - mean A)), with the scaling of each adapter folded into
    its B. It vanishes when all A_i agree, as in FFA-LoRA (frozen A), whatever B became (docs/theory.md, section 3).

    Parameters
    ----------
    adapters : AdapterSet, Adapter, source or iterable of these
        Adapters of one rank, or anything that `load_adapters` reads.

    Returns
    -------
    AggregationError
        One row a module; see there for the columns.

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
    runs = sharing_adapters(adapters)
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
                "shared_A": _root_mean_square(updates.frobenius_norm(mean_A - As, Bs), each),
                "shared_B": _root_mean_square(updates.frobenius_norm(As, mean_B - Bs), each),
            }
        )
    frame = pd.DataFrame(rows).astype({"layer": "Int64"})
    return AggregationError(frame, settings_of(adapters=list(runs.names)))


def merge_interference(
    adapters: AdapterSet | Adapter | Source | Iterable[Adapter | Source], weights: Sequence[float] | None = None
) -> MergeInterference:
    """Measure how adapters would disturb each other in the sum of their updates, before anything is merged.

    Parameters
    ----------
    adapters : AdapterSet, Adapter, source or iterable of these
        Adapters, or anything that `load_adapters` reads; ranks may differ.
    weights : sequence of float, optional
        Weight of each update in the sum; 1 by default.

    Returns
    -------
    MergeInterference
        One row a module and adapter; see there for the columns.

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
    runs = sharing_adapters(adapters)
    shares = [1.0] * len(runs) if weights is None else [float(weight) for weight in weights]
    if len(shares) != len(runs):
        raise ValueError(f"{len(shares)} weights for {len(runs)} adapters: give one each")
    rows = []
    for module in runs.modules:
        held = [(name, run[module], w) for name, run, w in zip(runs.names, runs, shares, strict=True) if module in run]
        common_shape(module, {name: update.shape for name, update, _ in held})
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
    return MergeInterference(frame, settings_of(adapters=list(runs.names), weights=shares))


def _stacked(runs: AdapterSet, module: str) -> tuple[Tensor, Tensor]:
    by_name = {name: run[module] for name, run in zip(runs.names, runs, strict=True) if module in run}
    common_shape(module, {name: update.shape for name, update in by_name.items()})
    held = list(by_name.values())
    ranks = sorted({update.rank for update in held})
    if len(ranks) > 1:
        raise AdapterError(f"module {module}: ranks {ranks} differ, so that the factors have no mean; compare one rank")
    return (
        torch.stack([update.A.double() for update in held]),
        torch.stack([update.scaling * update.B.double() for update in held]),
    )


def _sum_norm(As: Tensor, Bs: Tensor) -> float:
    """||sum_i B_i A_i||_F from the factors laid side by side."""
    return updates.frobenius_norm(As.flatten(0, 1), Bs.permute(1, 0, 2).flatten(1)).item()


def _root_mean_square(errors: Tensor, norms: Tensor) -> float:
    """Root mean square of relative errors; an update of zero has none."""
    known = norms > 0
    return (errors[known] / norms[known]).square().mean().sqrt().item() if bool(known.any()) else np.nan


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else np.nan
