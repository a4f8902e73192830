"""How far each factor moved from its initialization: measured where that is known, otherwise inferred."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
from torch import Tensor

from asym_analysis._deprecated import renamed_arguments
from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.adapter_set import AdapterSet
from asym_analysis.adapters.entry_distribution import EDGE_LAWS, Movement, infer_movements
from asym_analysis.adapters.factors_from_svd import lost_initialization
from asym_analysis.adapters.known_initializations import KnownLaws, laws_by_module
from asym_analysis.adapters.load import as_adapter, as_adapters
from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.adapters.module_names import place
from asym_analysis.adapters.random_factors import random_factors
from asym_analysis.errors import AdapterError
from asym_analysis.results import TableResult, settings_of
from asym_analysis.vocabulary import FACTORS, Factor

__all__ = ["InitializationDrift", "initialization_drift"]

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
    "verdict",
    "scheme",
    "norm",
    "initial_norm",
    "reason",
]
MEASURED, INFERRED, ZERO, FROZEN, UNTOLD = "measured", "inferred", "recorded zero", "frozen", "cannot tell"
ASSUMED_ZERO = "zero by default"


@dataclass(frozen=True, eq=False, repr=False)
class InitializationDrift(TableResult):
    """Relative distance of each factor from its initialization.

    The columns of `frame`, one row an adapter, module and factor:

    - adapter, module, layer, projection, factor;
    - value: ||F - F0||_F / ||F0||_F; NaN where it is unknown, or F0 is zero;
    - std_error: of an inferred value;
    - upper: 97.5 percent limit, of an inferred value or of a movement that is too small to resolve;
    - correlation: of F - F0 with F0;
    - verdict: "measured" (the initial factors are known), "inferred" (from the distribution of the entries), "recorded
      zero" (the file, or the library that wrote it, says that F0 is zero: the norm of F is what it moved), "zero by
      default" (the same by PEFT's default, where no config says that it was taken: PiSSA and others begin elsewhere),
      "frozen" (the file says that F was not trained), or "cannot tell";
    - scheme: the law of F0, a name of `adapters.known_initializations.LAWS`, where it is recorded or was recognized;
    - norm: ||F||_F;
    - initial_norm: ||F0||_F, where it is known;
    - reason: what the verdict rests on, or why there is no value.

    Attributes
    ----------
    frame
        The table.
    settings
        Arguments and versions.
    """

    _plot: ClassVar[str | None] = "drift:plot_drift"

    def summary(self) -> pd.DataFrame:
        """One row an adapter and factor.

        Returns
        -------
        DataFrame
            adapter, factor, modules, known (number of modules with a value), median, lower_quartile, upper_quartile and
            median_std_error of the value, verdict (all that occur, the most frequent first), scheme, reason (of the
            most frequent verdict).
        """
        rows = []
        for (adapter, factor), part in self.frame.groupby(["adapter", "factor"], sort=False):
            known = part.value.dropna()
            verdicts = part.verdict.value_counts(sort=True).index
            reasons = part.reason[part.verdict == verdicts[0]].value_counts().index
            rows.append(
                {
                    "adapter": adapter,
                    "factor": factor,
                    "modules": len(part),
                    "known": len(known),
                    "median": known.median(),
                    "lower_quartile": known.quantile(0.25),
                    "upper_quartile": known.quantile(0.75),
                    "median_std_error": part.std_error.median(),
                    "verdict": "/".join(verdicts),
                    "scheme": "/".join(sorted(part.scheme.dropna().unique())) or None,
                    "reason": reasons[0],
                }
            )
        return pd.DataFrame(rows)


@renamed_arguments(adapter="adapters")
def initialization_drift(
    adapters: AdapterSet | Adapter | str | os.PathLike[str] | Iterable[Adapter | str | os.PathLike[str]],
    initial: Adapter | str | os.PathLike[str] | None = None,
) -> InitializationDrift:
    """Measure how far each factor moved from its initialization.

    What is known comes first: initial factors that were given or recorded make the distance exact, a factor that was
    not trained has not moved, and one that was zero at first has no relative distance. PEFT's config says which it was,
    elsewhere the library that wrote the file (`adapters.known_initializations` has the list and its sources).
    Otherwise the movement is inferred from the distribution of the entries of a factor that was drawn from a uniform
    law; see `asym_analysis.adapters.entry_distribution` for what that rests on. Everything else is "cannot tell", with
    the reason. benchmarks/results/drift_simulated.csv and drift_trained.csv hold inferred values against true ones.

    Parameters
    ----------
    adapters : AdapterSet, Adapter, path or iterable of these
        A trained adapter or several, or anything that `load_adapters` reads.
    initial : Adapter or path, optional
        The initial factors of all of them, or where `load_adapter` finds them; by default those that each adapter
        recorded, if any.

    Returns
    -------
    InitializationDrift
        One row an adapter, module and factor.

    Raises
    ------
    AdapterError
        If `initial` lacks a module or has another shape there, or a path cannot be read.

    Examples
    --------
    >>> import torch
    >>> A, B = torch.eye(2, 8), torch.eye(4, 2)
    >>> start = Adapter.from_factors({"q": (A, 0 * B)})
    >>> drift = initialization_drift(Adapter.from_factors({"q": (1.5 * A, B)}), start)
    >>> drift.frame[["factor", "value", "verdict"]].values.tolist()
    [['A', 0.5, 'measured'], ['B', nan, 'recorded zero']]
    """
    runs = as_adapters(adapters)
    given = None if initial is None else as_adapter(initial)
    rows: list[dict[str, Any]] = []
    for name, adapter in zip(runs.names, runs, strict=True):
        start = given if given is not None else adapter.initial
        found = _measured_rows(adapter, start) if start is not None else _inferred_rows(adapter)
        rows.extend({"adapter": name} | row for row in found)
    frame = pd.DataFrame(rows, columns=COLUMNS).astype({"layer": "Int64"})
    settings = settings_of(
        adapters=list(runs.names),
        initial=None if given is None else given.name,
        recorded=[name for name, run in zip(runs.names, runs, strict=True) if run.initial is not None],
    )
    return InitializationDrift(frame, settings)


def _measured_rows(adapter: Adapter, initial: Adapter) -> Iterator[dict[str, Any]]:
    for module in adapter:
        update, start = adapter[module], initial[module]
        for factor in FACTORS:
            now, then = _factor(update, factor).double(), _factor(start, factor).double()
            if now.shape != then.shape:
                raise AdapterError(
                    f"{adapter.name}, module {module}: {factor} has shape {tuple(now.shape)} and "
                    f"its initialization {tuple(then.shape)}"
                )
            moved, length = now - then, then.norm().item()
            distance = moved.norm().item()
            row = _row(module, factor, now) | {"initial_norm": length}
            if length == 0:
                yield row | {
                    "verdict": ZERO,
                    "scheme": "zero",
                    "reason": "initialized at zero: its norm is the movement",
                }
                continue
            correlation = (moved * then).sum().item() / (distance * length) if distance else math.nan
            yield row | {
                "value": distance / length,
                "correlation": correlation,
                "verdict": MEASURED,
                "reason": "the initial factor is known",
            }


def _inferred_rows(adapter: Adapter) -> Iterator[dict[str, Any]]:
    randomly = random_factors(adapter)
    updates = {module: adapter[module] for module in adapter}
    laws = laws_by_module(adapter)
    known = {module: laws(module) for module in updates}
    lost = _lost(updates)
    inferred = _inferences(adapter, updates, randomly, known, lost)
    for module, update in updates.items():
        trained = adapter.source(module).trained
        for factor in FACTORS:
            row = _row(module, factor, _factor(update, factor))
            if trained is not None and factor not in trained:
                yield row | {"value": 0.0, "std_error": 0.0, "verdict": FROZEN, "reason": "the file says it was frozen"}
            elif factor not in randomly[module]:
                yield row | ({"reason": lost[module]} if lost[module] else _zero(known[module]))
            else:
                yield row | inferred[module, factor]


def _lost(updates: Mapping[str, LowRankUpdate]) -> dict[str, str]:
    """Why each module cannot hold its initialization, or "". Most modules speak for all: a file is made in one way."""
    reasons = {module: lost_initialization(update) for module, update in updates.items()}
    found = Counter(reason for reason in reasons.values() if reason).most_common(1)
    most = found[0][0] if found and 2 * sum(map(bool, reasons.values())) > len(reasons) else ""
    return {module: reason or (most and f"in most modules {most}") for module, reason in reasons.items()}


def _zero(known: KnownLaws | None) -> dict[str, Any]:
    if known is None:
        reason = (
            "nothing records the initialization; if it was zero, the norm is the movement: give the initial factors"
        )
        return {"reason": reason}
    verdict, scheme = (ASSUMED_ZERO, None) if known.assumed else (ZERO, "zero")
    return {"verdict": verdict, "scheme": scheme, "reason": f"initialized at zero by {known.source}"}


def _inferences(
    adapter: Adapter,
    updates: Mapping[str, LowRankUpdate],
    randomly: Mapping[str, frozenset[Factor]],
    known: Mapping[str, KnownLaws | None],
    lost: Mapping[str, str],
) -> dict[tuple[str, Factor], dict[str, Any]]:
    """What can be said of the factors that were random, all modules of one recorded law together."""
    found: dict[tuple[str, Factor], dict[str, Any]] = {}
    groups: dict[tuple[Factor, bool], list[str]] = {}
    for module in updates:
        for factor in randomly[module]:
            reason = lost[module] or _unknowable(factor, known[module])
            if reason:
                laws = known[module]
                scheme = laws.law(factor) if laws is not None and laws.recorded else None
                found[module, factor] = {"reason": reason, "scheme": scheme}
            else:
                laws = known[module]
                groups.setdefault((factor, laws is not None and laws.recorded), []).append(module)
    for (factor, recorded), modules in groups.items():
        values = [_factor(updates[module], factor) for module in modules]
        dtypes = [adapter.source(module).dtype for module in modules]
        movements = infer_movements(values, factor, recorded=recorded, dtypes=dtypes)
        for module, movement in zip(modules, movements, strict=True):
            found[module, factor] = _told(movement, recorded)
    return found


def _unknowable(factor: Factor, known: KnownLaws | None) -> str:
    """Why the entries cannot tell the movement, whatever they are, or ""."""
    if known is None or not known.recorded or known.law(factor) in EDGE_LAWS:
        return ""
    if known.law(factor) == "weights":
        return f"{known.source}: computed from the base weights or from data; give the initial factors"
    if known.law(factor) == "composed":
        return f"{known.source}: that is not the law of this factor, which several tensors or blocks make up"
    return f"{known.source}: a distribution without an edge does not show how far it moved; give the initial factors"


def _told(movement: Movement, recorded: bool) -> dict[str, Any]:
    scheme = "kaiming_uniform" if recorded or movement.recognized else None
    facts = {"upper": movement.upper, "scheme": scheme, "reason": movement.note}
    if movement.note:
        return facts
    return facts | {
        "value": movement.value,
        "std_error": movement.std_error,
        "correlation": movement.correlation,
        "verdict": INFERRED,
        "reason": f"inferred from the edge of the {'recorded' if recorded else 'recognized'} uniform distribution",
    }


def _factor(update: LowRankUpdate, factor: str) -> Tensor:
    return update.A if factor == "A" else update.B.mT


def _row(module: str, factor: str, values: Tensor) -> dict[str, Any]:
    return {
        **place(module),
        "factor": factor,
        "value": math.nan,
        "std_error": math.nan,
        "upper": math.nan,
        "correlation": math.nan,
        "verdict": UNTOLD,
        "scheme": None,
        "norm": values.double().norm().item(),
        "initial_norm": math.nan,
        "reason": "",
    }
