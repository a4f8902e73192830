"""Draw the bounds: the ladder on one checkpoint, certificates beside what was measured, repeated training."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from asym_analysis.bounds.report import BoundReport
from asym_analysis.plots.style import COLORS, DOUBLE_COLUMN, SINGLE_COLUMN, axes_or_new

__all__ = ["plot_bounds", "plot_certificates", "plot_repeated_certificates"]

_NAMES = {"B": "B only", "A": "A only", "both": "A and B"}
_OFFSETS = {"B": -0.22, "A": 0.0, "both": 0.22}
_MARKERS = {"B": "o", "A": "s", "both": "D"}


def plot_bounds(report: BoundReport, ax: Axes | None = None) -> Axes:
    """The ladder: a bound on the gap for each rung, head in or out, and set of tuned factors, on a logarithmic axis.

    Filled markers are certificates, open ones diagnostics. In the shaded region the bound allows every loss.

    Parameters
    ----------
    report : BoundReport
        From `compute_bound`.
    ax : Axes, optional
        Axes to draw on; a new double-column figure without it.

    Returns
    -------
    Axes
        The axes.

    Raises
    ------
    ValueError
        If the report has no row with a gap.

    Examples
    --------
    >>> import torch
    >>> from asym_analysis import Adapter, compute_bound
    >>> adapter = Adapter.from_factors({"q": (torch.randn(2, 64), torch.randn(64, 2))})
    >>> plot_bounds(compute_bound(adapter, n_samples=10_000)).get_xlabel()
    'bound on the generalization gap (loss units)'
    """
    frame = report.frame.dropna(subset=["gap"])
    if frame.empty:
        raise ValueError("the report holds no bound on a gap")
    rows = list(dict.fromkeys(zip(frame["rung"], frame["head"], strict=True)))
    both_heads = len(set(frame["head"])) > 1
    ax = axes_or_new(ax, width=DOUBLE_COLUMN, height=0.9 + 0.36 * len(rows))
    ceiling = 2 * float(report.settings.get("sub_gaussian", 0.5))
    for position, (rung, head) in enumerate(rows):
        part = frame[(frame["rung"] == rung) & (frame["head"] == head)]
        for row in part.itertuples():
            color = COLORS[str(row.tuned)]
            sound = row.kind == "certificate"
            ax.plot(
                row.gap, position + _OFFSETS[str(row.tuned)], _MARKERS[str(row.tuned)], color=color,
                markerfacecolor=color if sound else "white", markersize=5.5, clip_on=False, zorder=3,
            )  # fmt: skip
    low, high = frame["gap"].min() / 2, max(frame["gap"].max() * 2, 2 * ceiling)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlim(low, high)
    ax.axvspan(ceiling, high, color=COLORS["null"], alpha=0.15, linewidth=0)
    ax.axvline(ceiling, color=COLORS["null"], linewidth=0.8)
    ax.text(
        ceiling, -0.75, " vacuous", color="0.35", fontsize=8, va="center", ha="left" if ceiling < high / 3 else "right"
    )
    names = [rung + (", head charged" if head else ", head free" if both_heads else "") for rung, head in rows]
    ax.set_yticks(range(len(rows)), names)
    ax.set_ylim(len(rows) - 0.5, -1.0)
    ax.grid(axis="y", color="0.93", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.set_xlabel("bound on the generalization gap (loss units)")
    shown = [tuned for tuned in _NAMES if (frame["tuned"] == tuned).any()]
    handles = [Line2D([], [], color=COLORS[t], marker=_MARKERS[t], linestyle="none", markersize=5.5) for t in shown]
    handles += [
        Line2D([], [], color="0.3", marker="o", linestyle="none", markersize=5.5),
        Line2D([], [], color="0.3", marker="o", linestyle="none", markersize=5.5, markerfacecolor="white"),
    ]
    labels = [*(_NAMES[t] for t in shown), "certificate", "diagnostic"]
    ax.legend(handles, labels, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=5, columnspacing=1.2, handletextpad=0.2)
    return ax


def plot_certificates(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Training error, test error and certified risk for B only, A only and both: one dot a seed, a bar at the mean.

    Parameters
    ----------
    table
        One row a run: tuned, training_error, test_error, risk (certified).
    ax
        Axes to draw on; a new single-column figure without it.

    Examples
    --------
    >>> row = {"tuned": "B", "training_error": 0.1, "test_error": 0.12, "risk": 0.2}
    >>> plot_certificates(pd.DataFrame([row])).get_ylabel()
    'error'
    """
    columns = {"training_error": "training", "test_error": "test", "risk": "certified"}
    ax = axes_or_new(ax, width=SINGLE_COLUMN, height=2.6)
    shown = [tuned for tuned in _NAMES if (table["tuned"] == tuned).any()]
    for place, column in enumerate(columns):
        for tuned in shown:
            values = table.loc[table["tuned"] == tuned, column]
            x = place + 1.1 * _OFFSETS[tuned]
            ax.plot([x] * len(values), values, _MARKERS[tuned], color=COLORS[tuned], markersize=4, alpha=0.7, zorder=3)
            ax.hlines(values.mean(), x - 0.09, x + 0.09, color=COLORS[tuned], linewidth=2)
    ax.set_xticks(range(3), list(columns.values()))
    ax.set_xlim(-0.5, 2.5)
    ax.set_ylim(0, 1.08 * float(table[list(columns)].max().max()))
    ax.set_ylabel("error")
    handles = [Line2D([], [], color=COLORS[t], marker=_MARKERS[t], linestyle="none", markersize=4) for t in shown]
    ax.legend(handles, [_NAMES[t] for t in shown], loc="lower right", handletextpad=0.2)
    return ax


def plot_repeated_certificates(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """True against certified risk of each repeated training; a dot above the diagonal is a violated bound.

    "Uncharged" is what one would certify if the data had chosen nothing: it is no bound.

    Parameters
    ----------
    table
        From `repeated_certificates`; the rows of its methods and of "no complexity" are drawn.
    ax
        Axes to draw on; a new single-column figure without it.

    Examples
    --------
    >>> row = {"bound": "coded", "true_risk": 0.1, "certified": 0.3, "violated": False}
    >>> plot_repeated_certificates(pd.DataFrame([row])).get_ylabel()
    'true risk'
    """
    styles = {
        "coded": (COLORS["right"], "o", "coded"),
        "gaussian": (COLORS["accent"], "s", "Gibbs"),
        "one draw": (COLORS["A"], "^", "one draw"),
        "hold-out": (COLORS["B"], "D", "hold-out"),
        "no complexity": (COLORS["null"], "x", "uncharged"),
    }
    ax = axes_or_new(ax, width=SINGLE_COLUMN, height=3.0)
    for bound, (color, marker, name) in styles.items():
        part = table[table["bound"] == bound]
        if len(part):
            label = f"{name}: {part['violated'].mean():.1%} violated"
            ax.plot(part["certified"], part["true_risk"], marker, color=color, markersize=3, alpha=0.7, label=label)
    drawn = table[table["bound"].isin(styles)]
    high = 1.05 * float(drawn[["certified", "true_risk"]].max().max())
    ax.plot([0, high], [0, high], color=COLORS["theory"], linewidth=0.8, label="true = certified; above: violated")
    ax.set_xlim(0, high)
    ax.set_ylim(0, 1.3 * float(drawn["true_risk"].max()))
    ax.set_xlabel("certified risk")
    ax.set_ylabel("true risk")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.2)
    return ax
