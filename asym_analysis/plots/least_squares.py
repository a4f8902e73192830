"""Least-squares theory drawn through simulated losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from asym_analysis._deprecated import former_order, renamed_arguments
from asym_analysis.plots.style import COLORS, axes_or_new, styled

if TYPE_CHECKING:
    from asym_analysis.least_squares.comparison import TheoryComparison
    from asym_analysis.least_squares.validation import Validation

__all__ = ["CHOICES", "LABELS", "plot_least_squares", "plot_validation", "simulated", "theory_and_simulation"]

CHOICES = {"A": ("A trained", "s"), "B": ("B trained", "o"), "both": ("both trained", "D")}
LABELS = {
    "rank": "rank r",
    "d_in": "input dimension $d_{in}$",
    "d_out": "output dimension $d_{out}$",
    "exponent": "exponent a of the input spectrum $i^{-a}$",
    "alignment": "alignment b of the update, $m_i \\propto s_i^b$",
    "samples": "training samples n",
    "blocks": "blocks of the chain",
    "noise_variance": "noise variance",
}


@former_order("x", "ax")
@renamed_arguments(table="result")
def plot_least_squares(
    result: TheoryComparison | pd.DataFrame, ax: Axes | None = None, *, x: str | None = None
) -> Axes:
    """Theory as lines, with its stated error as a band, through simulated losses with three standard errors.

    Parameters
    ----------
    result : TheoryComparison or DataFrame
        From `compare_theory`, `sweep` or `compare_finite_samples`; or its frame, or several joined.
    ax : Axes, optional
        Where to draw; a new figure when omitted.
    x : str, optional
        Column along the horizontal axis; what the result varies when omitted. Ranks, dimensions and sample sizes are
        drawn on a logarithmic scale.

    Returns
    -------
    Axes
        The axes drawn on.

    Raises
    ------
    ValueError
        The table lacks one of the columns.

    Examples
    --------
    >>> import torch
    >>> from asym_analysis.least_squares import LeastSquaresProblem, compare_theory
    >>> problem = LeastSquaresProblem(torch.eye(8), torch.ones(8))
    >>> plot_least_squares(compare_theory(problem, [1, 2, 4], draws=20)).get_xlabel()
    'rank r'
    """
    if isinstance(result, pd.DataFrame):
        table, x = result, x or "rank"
    else:
        table, x = result.frame, x or str(result.settings["along"])
    missing = {x, "tuned", "theory", "stated_error", "loss", "standard_error"} - set(table)
    if missing:
        raise ValueError(f"the table has no column {sorted(missing)}; give one from compare_theory or sweep")
    with styled():
        ax = axes_or_new(ax, width=4.4, height=2.8)
        handles = []
        for choice in CHOICES:
            rows = table[table["tuned"] == choice].sort_values(x)
            if rows.empty:
                continue
            color = COLORS[choice]
            ax.plot(rows[x], rows["theory"], color=color, zorder=2)
            low, high = rows["theory"] - rows["stated_error"], rows["theory"] + rows["stated_error"]
            ax.fill_between(rows[x], low, high, color=color, alpha=0.2, linewidth=0, zorder=1)
            bars = simulated(ax, choice, rows[x], rows["loss"], rows["standard_error"])
            handles.append(bars)
        if x in ("rank", "d_in", "d_out", "samples"):
            ax.set_xscale("log", base=2)
            ticks = sorted(table[x].unique())
            ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            ax.minorticks_off()
        elif x == "blocks":
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel(LABELS.get(x, x))
        ax.set_ylabel("expected loss on new data")
        # Above the axes: no place inside is free of lines for every table.
        ax.legend(
            handles=[*handles, *theory_and_simulation()],
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            ncols=3,
            columnspacing=1.2,
            handletextpad=0.4,
        )
    return ax


def simulated(ax: Axes, choice: str, x: pd.Series, values: pd.Series, standard_errors: pd.Series) -> ErrorbarContainer:
    """Hollow markers of one choice of trained factors, with bars of three standard errors.

    Parameters
    ----------
    ax
        Where to draw.
    choice
        A key of `CHOICES`.
    x, values, standard_errors
        One entry a marker.

    Returns
    -------
    ErrorbarContainer
        For the legend.
    """
    label, marker = CHOICES[choice]
    return ax.errorbar(
        x, values, yerr=3 * standard_errors, fmt=marker, color=COLORS[choice], markersize=4, markerfacecolor="white",
        capsize=2, linewidth=1, label=label, zorder=3,
    )  # fmt: skip


def theory_and_simulation(bars: str = "simulated, ± 3 s.e.") -> list[Line2D]:
    """Legend entries that say what a line and what a marker is.

    Parameters
    ----------
    bars
        What the markers show.

    Returns
    -------
    list
        Two handles, in grey.
    """
    grey = COLORS["null"]
    return [
        Line2D([], [], color=grey, label="theory"),
        Line2D([], [], color=grey, linestyle="", marker="o", markersize=4, markerfacecolor="white", label=bars),
    ]


def plot_validation(result: Validation, ax: Axes | None = None) -> Axes:
    """Difference between simulation and theory of every setting, in units of what is allowed.

    Parameters
    ----------
    result
        From `validate`.
    ax
        Where to draw; a new figure when omitted.

    Returns
    -------
    Axes
        The axes drawn on; settings outside the band from -1 to 1 disagree.

    Examples
    --------
    >>> from asym_analysis.least_squares import Validation
    >>> frame = pd.DataFrame({"quantity": ["loss"], "difference": [0.05], "tolerance": [0.1]})
    >>> plot_validation(Validation(frame, {})).get_xlabel()
    'setting'
    """
    frame = result.frame
    scaled = frame["difference"] / frame["tolerance"]
    with styled():
        ax = axes_or_new(ax)
        ax.axhspan(-1, 1, color=COLORS["null"], alpha=0.25, linewidth=0, label="tolerance")
        ax.axhline(0, color=COLORS["null"], linewidth=0.8)
        for quantity, marker in zip(frame["quantity"].unique(), "osD", strict=False):
            chosen = np.flatnonzero(frame["quantity"] == quantity)
            ax.plot(chosen, scaled.to_numpy()[chosen], marker, markersize=3, label=quantity)
        ax.set(xlabel="setting", ylabel="difference / tolerance")
        ax.set_ylim(-max(1.2, 1.1 * scaled.abs().max()), max(1.2, 1.1 * scaled.abs().max()))
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, columnspacing=1.2, handletextpad=0.4)
    return ax
