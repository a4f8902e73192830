"""The table that every bound comes in: what is guaranteed, of which predictor, with what certainty and assumptions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pandas as pd

from asym_analysis.results import Result
from asym_analysis.vocabulary import choose

__all__ = ["COLUMNS", "PREDICTORS", "BoundReport", "BoundRow", "Predictor", "Prior"]

#: The predictor that a bound is for. "adapter": the checkpoint as it is. "coded adapter": its quantized copy.
#: "Gibbs posterior": an adapter drawn anew for every prediction. "one draw": one adapter drawn once. "prior": the
#: prior's own adapter.
Predictor = Literal["adapter", "coded adapter", "Gibbs posterior", "one draw", "prior"]
PREDICTORS: tuple[Predictor, ...] = ("adapter", "coded adapter", "Gibbs posterior", "one draw", "prior")
#: Where the prior, or the receiver's knowledge, is centred: nothing to centre, zero, the recorded initialization, or
#: an adapter trained on other data.
Prior = Literal["none", "zero", "initialization", "data"]


@dataclass(frozen=True)
class BoundRow:
    """One bound.

    Attributes
    ----------
    rung
        Which step of the ladder: "parameter count", "description length", "coded", "gaussian", ...
    predictor
        The predictor that the bound is for: "adapter", "coded adapter", "Gibbs posterior", "one draw" or "prior".
    prior
        Where the prior is centred: "none", "zero", "initialization" or "data" (an adapter trained on other samples).
    tuned
        The factors that are taken as trained: "B", "A" or "both".
    applies
        True where these are the factors that this checkpoint's training changed.
    head
        True where the head and the other trained tensors outside the modules are charged.
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
        True if no better than the loss's largest value.
    kind
        "certificate", or "diagnostic" where an assumption is known to fail or cannot be known to hold.
    assumptions
        In words.
    charged
        What `nats` pays for, in words.
    note
        What was measured: levels, scales, errors.
    empirical_risk
        Training loss of the predictor, or an upper confidence bound on it.
    form
        Inequality that turns `nats` into the bound.
    """

    rung: str
    predictor: Predictor
    prior: Prior
    tuned: str
    applies: bool
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
    "rung", "predictor", "prior", "tuned", "applies", "head", "parameters", "bits", "nats", "form", "gap",
    "empirical_risk", "risk", "statement", "vacuous", "kind", "assumptions", "charged", "note",
)  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class BoundReport(Result):
    """Every bound on one checkpoint, one a row, with the settings that made them.

    Attributes
    ----------
    rows
        The bounds. `frame` has the same, a column for each attribute of `BoundRow`, and bits = nats/ln 2.
    settings
        Arguments, seeds and versions. `settings["headline"]` names the form whose rows hold together, where there is
        one: those rows may be compared after the fact.

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
    _plot: ClassVar[str | None] = "bounds:plot_bounds"

    @property
    def frame(self) -> pd.DataFrame:
        """One row a bound; columns as in `BoundRow`, and bits = nats/ln 2."""
        if not self.rows:
            return pd.DataFrame(columns=list(COLUMNS))
        frame = pd.DataFrame([vars(row) for row in self.rows])
        frame["bits"] = frame["nats"] / math.log(2)
        return frame.astype(dict.fromkeys(("gap", "risk", "empirical_risk"), float))[list(COLUMNS)]

    def summary(self) -> pd.DataFrame:
        """The rows for the factors that this checkpoint trained, tightest first, with the columns that fit a screen.

        Returns
        -------
        DataFrame
            Columns rung, predictor, prior, tuned, head, form, bits, gap, empirical_risk, risk, statement, vacuous,
            kind; those without any value are left out.
        """
        frame = self.frame
        columns = [
            "rung", "predictor", "prior", "tuned", "head", "form", "bits", "gap", "empirical_risk", "risk",
            "statement", "vacuous", "kind",
        ]  # fmt: skip
        shown = frame.loc[frame["applies"].astype(bool), columns]
        shown = shown.assign(order=shown["risk"].fillna(shown["gap"])).sort_values(["kind", "order"], kind="stable")
        return shown.drop(columns="order").dropna(axis=1, how="all").reset_index(drop=True)

    def best(self, kind: str = "certificate", *, predictor: Predictor | None = None) -> BoundRow | None:
        """The tightest row of one kind, among rows that may be compared after the fact.

        Parameters
        ----------
        kind : str, default "certificate"
            "certificate" or "diagnostic".
        predictor : {"adapter", "coded adapter", "Gibbs posterior", "one draw", "prior"}, optional
            The predictor that the row should be for. By default any, where the report's headline rows hold together
            (`certify`); the adapter itself where each row holds alone (`compute_bound`).

        Returns
        -------
        BoundRow or None
            The row with the lowest risk bound, or the lowest gap where no risk is bounded; None if there is none.

        Raises
        ------
        ValueError
            For an unknown kind or predictor.

        Notes
        -----
        Rows that hold alone, each with probability 1 - delta, are never compared with rows about another predictor
        or with rows that hold in expectation: the minimum over such rows holds for none of them.
        """
        choose(kind, ("certificate", "diagnostic"), "kind")
        headline = self.settings.get("headline")
        if predictor is None and headline is None:
            predictor = "adapter"
        if predictor is not None:
            choose(predictor, PREDICTORS, "predictor")
        rows = [
            row
            for row in self.rows
            if row.applies
            and row.kind == kind
            and headline in (None, row.form)
            and predictor in (None, row.predictor)
            and not (row.risk is row.gap is None)
        ]
        if headline is None and len({row.statement for row in rows}) > 1:
            first = rows[0].statement
            rows = [row for row in rows if row.statement == first]

        def order(row: BoundRow) -> tuple[bool, float]:
            value = row.risk if row.risk is not None else row.gap
            return row.risk is None, math.inf if value is None else value

        return min(rows, key=order, default=None)

    def __repr__(self) -> str:
        own = [row for row in self.rows if row.applies]
        sound = sum(not row.vacuous and row.kind == "certificate" for row in own)
        return f"BoundReport({len(self.rows)} bounds; of {len(own)} for this checkpoint {sound} certify something)"
