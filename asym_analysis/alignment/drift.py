"""How far each factor moved from its start: exactly where the start is known, otherwise told from the entries."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
from torch import Tensor

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.entry_distribution import identify_start, infer_movement
from asym_analysis.adapters.initialization import random_factors
from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.adapters.module_names import place
from asym_analysis.errors import AdapterError
from asym_analysis.results import Result, versions

__all__ = ["InitializationDrift", "initialization_drift"]

Factor = Literal["A", "B"]
FACTORS: tuple[Factor, ...] = ("A", "B")
COLUMNS = [
    "adapter",
    "module",
    "layer",
    "projection",
    "factor",
    "value",
    "std_error",
    "upper",
    "correlation",
    "method",
    "scheme",
    "norm",
    "initial_norm",
    "note",
]


@dataclass(frozen=True, eq=False)
class InitializationDrift(Result):
    """Relative distance of each factor from its start.

    Attributes
    ----------
    frame
        One row a module and factor. `value` = ||F - F0||_F / ||F0||_F, NaN where it cannot be told or F0 is zero;
        `std_error` and `upper` (97.5 percent) where it was inferred; `correlation` of F - F0 with F0; `method`
        ("exact", "frozen", "inferred" or "none"); the `scheme` of the start; `norm` = ||F||_F; `initial_norm` =
        ||F0||_F where known; `note` says why there is no value.
    settings
        How it was made.
    """

    frame: pd.DataFrame
    settings: Mapping[str, Any]

    def summary(self) -> pd.DataFrame:
        """One row a factor: modules, for how many the movement could be told, its median and quartiles."""
        rows = []
        for (adapter, factor), part in self.frame.groupby(["adapter", "factor"], sort=False):
            told = part.value.dropna()
            rows.append(
                {
                    "adapter": adapter,
                    "factor": factor,
                    "modules": len(part),
                    "told": len(told),
                    "median": told.median(),
                    "lower_quartile": told.quantile(0.25),
                    "upper_quartile": told.quantile(0.75),
                    "median_std_error": part.std_error.median(),
                    "method": "/".join(part.method.unique()),
                    "scheme": "/".join(sorted(part.scheme.dropna().unique())) or None,
                    "note": next((note for note in part.note if note), ""),
                }
            )
        return pd.DataFrame(rows)


def initialization_drift(adapter: Adapter, initial: Adapter | None = None) -> InitializationDrift:
    """Measure how far each factor of an adapter moved from its initialization.

    With the initial factors the distance is exact. Without them it is inferred for the factor that began at random,
    from the distribution of its entries; see `asym_analysis.adapters.entry_distribution` for the model and its stated
    standard error. A factor that began at zero has no relative distance: its norm is what it moved.

    Parameters
    ----------
    adapter
        The trained adapter.
    initial
        The factors that training began from; by default those that the adapter recorded, if any.

    Raises
    ------
    AdapterError
        If `initial` lacks a module or has another shape there.

    Examples
    --------
    >>> import torch
    >>> A, B = torch.eye(2, 8), torch.eye(4, 2)
    >>> start = Adapter.from_factors({"q": (A, 0 * B)})
    >>> drift = initialization_drift(Adapter.from_factors({"q": (1.5 * A, B)}), start)
    >>> drift.frame[["factor", "value", "method"]].values.tolist()
    [['A', 0.5, 'exact'], ['B', nan, 'exact']]
    """
    initial = initial if initial is not None else adapter.initial
    rows = _exact_rows(adapter, initial) if initial is not None else _inferred_rows(adapter)
    frame = pd.DataFrame(rows, columns=COLUMNS).astype({"layer": "Int64"})
    settings = {"adapter": adapter.name, "start_known": initial is not None, "versions": versions()}
    return InitializationDrift(frame, settings)


def _exact_rows(adapter: Adapter, initial: Adapter) -> list[dict[str, Any]]:
    rows = []
    for module in adapter:
        update, start = adapter[module], initial[module]
        for factor in FACTORS:
            now, then = _factor(update, factor).double(), _factor(start, factor).double()
            if now.shape != then.shape:
                raise AdapterError(
                    f"{adapter.name}, module {module}: {factor} has shape {tuple(now.shape)} and "
                    f"its start {tuple(then.shape)}"
                )
            moved, length = now - then, then.norm().item()
            distance = moved.norm().item()
            row = _row(adapter, module, factor, now, method="exact") | {"initial_norm": length}
            if length == 0:
                row["note"] = "initialized at zero: its norm is the movement"
            else:
                row["value"] = distance / length
                row["correlation"] = (moved * then).sum().item() / (distance * length) if distance else math.nan
            rows.append(row)
    return rows


def _inferred_rows(adapter: Adapter) -> list[dict[str, Any]]:
    randomly = random_factors(adapter)
    updates = {module: adapter[module] for module in adapter}
    schemes = {
        factor: identify_start(
            [_factor(update, factor) for module, update in updates.items() if factor in randomly[module]],
            factor,
            adapter.metadata.get("init_lora_weights"),
        )
        for factor in FACTORS
        if any(factor in of_module for of_module in randomly.values())
    }
    rows = []
    for module, update in updates.items():
        trained = adapter.source(module).trained
        for factor in FACTORS:
            values = _factor(update, factor)
            row = _row(adapter, module, factor, values, method="none")
            if trained is not None and factor not in trained:
                row |= {"value": 0.0, "std_error": 0.0, "method": "frozen"}
            elif factor not in randomly[module]:
                row["note"] = "initialized at zero: its norm is the movement"
            else:
                row |= _inferred(values, factor, *schemes[factor])
            rows.append(row)
    return rows


def _inferred(values: Tensor, factor: Factor, scheme: str | None, note: str) -> dict[str, Any]:
    if scheme is None:
        return {"note": note}
    found = infer_movement(values, scheme, factor)
    facts = {"upper": found.upper, "scheme": scheme, "note": found.note}
    if found.note:
        return facts
    estimate = {"value": found.value, "std_error": found.std_error, "correlation": found.correlation}
    return facts | estimate | {"method": "inferred"}


def _factor(update: LowRankUpdate, factor: Factor) -> Tensor:
    return update.A if factor == "A" else update.B.mT


def _row(adapter: Adapter, module: str, factor: str, values: Tensor, *, method: str) -> dict[str, Any]:
    return {
        "adapter": adapter.name,
        **place(module),
        "factor": factor,
        "value": math.nan,
        "std_error": math.nan,
        "upper": math.nan,
        "correlation": math.nan,
        "method": method,
        "scheme": None,
        "norm": values.double().norm().item(),
        "initial_norm": math.nan,
        "note": "",
    }
