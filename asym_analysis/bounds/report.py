"""The table that every bound comes in: what is guaranteed, with what certainty, and under which assumptions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from asym_analysis.results import Result

__all__ = ["COLUMNS", "BoundReport", "BoundRow"]


@dataclass(frozen=True)
class BoundRow:
    """One bound.

    Attributes
    ----------
    rung
        Which step of the ladder: "parameter count", "description length", ...
    tuned
        The factors that are taken as trained: "B", "A" or "both".
    regime
        True where these are the factors that this checkpoint's training changed.
    head
        True where the head and the other trained tensors are charged.
    parameters
        Number of trained entries charged.
    nats
        Complexity or information, with everything charged.
    gap
        Bound on expected loss minus training loss, in the units of the loss; None where only the risk is bounded.
    risk
        Bound on the expected loss; None where no training loss was given.
    statement
        "in expectation", or "with probability 0.95".
    vacuous
        True where the loss's own range says as much.
    kind
        "certificate", or "diagnostic" where an assumption is known to fail or cannot be known to hold.
    assumptions
        In words.
    charged
        What `nats` pays for, in words.
    note
        What was measured on the way: levels, scales, errors.
    """

    rung: str
    tuned: str
    regime: bool
    head: bool
    parameters: int
    nats: float
    gap: float | None
    risk: float | None
    statement: str
    vacuous: bool
    kind: str
    assumptions: str
    charged: str
    note: str = ""
    empirical_risk: float | None = None
    form: str = ""


COLUMNS = (
    "rung", "tuned", "regime", "head", "parameters", "bits", "nats", "form", "gap", "empirical_risk", "risk",
    "statement", "vacuous", "kind", "assumptions", "charged", "note",
)  # fmt: skip


@dataclass(frozen=True)
class BoundReport(Result):
    """Every bound on one checkpoint, one a row, with the settings that made them.

    Examples
    --------
    >>> import torch
    >>> from asym_analysis import Adapter, compute_bound
    >>> adapter = Adapter.from_factors({"q": (torch.randn(2, 64), torch.randn(64, 2))})
    >>> report = compute_bound(adapter, n_samples=10_000, rungs=("parameter count",))
    >>> report.frame[["tuned", "bits", "gap"]].round(3).to_dict("list")
    {'tuned': ['B', 'A', 'both'], 'bits': [4096.0, 4096.0, 8192.0], 'gap': [0.377, 0.377, 0.533]}
    """

    rows: Sequence[BoundRow] = field(repr=False)
    settings: Mapping[str, Any]

    @property
    def frame(self) -> pd.DataFrame:
        """One row a bound; columns as in `BoundRow`, and bits = nats/ln 2."""
        frame = pd.DataFrame([vars(row) for row in self.rows], columns=list(vars(self.rows[0])) if self.rows else None)
        if not self.rows:
            return pd.DataFrame(columns=list(COLUMNS))
        frame["bits"] = frame["nats"] / 0.6931471805599453
        numbers = ["gap", "risk", "empirical_risk"]
        return frame.astype(dict.fromkeys(numbers, float))[list(COLUMNS)]

    def summary(self) -> pd.DataFrame:
        """The rows of this checkpoint's own regime, with the columns that fit on a screen."""
        frame = self.frame
        columns = [
            "rung",
            "tuned",
            "head",
            "form",
            "bits",
            "gap",
            "empirical_risk",
            "risk",
            "statement",
            "vacuous",
            "kind",
        ]
        shown = frame.loc[frame["regime"], columns]
        return shown.dropna(axis=1, how="all").reset_index(drop=True)

    def best(self, kind: str = "certificate") -> BoundRow | None:
        """The row of that kind with the lowest risk bound (or gap, where no risk is bounded) in the own regime.

        Among rows of several forms only the report's headline form is looked at: its rows hold together. To take the
        best of rows that hold each alone fails with at most the sum of their probabilities.
        """
        headline = self.settings.get("headline")
        rows = [
            row
            for row in self.rows
            if row.regime and row.kind == kind and headline in (None, row.form) and not (row.risk is row.gap is None)
        ]

        def order(row: BoundRow) -> tuple[bool, float]:
            value = row.risk if row.risk is not None else row.gap
            return row.risk is None, math.inf if value is None else value

        return min(rows, key=order, default=None)

    def __repr__(self) -> str:
        own = [row for row in self.rows if row.regime]
        sound = sum(not row.vacuous and row.kind == "certificate" for row in own)
        return f"BoundReport({len(self.rows)} bounds; of {len(own)} for this checkpoint {sound} certify something)"
