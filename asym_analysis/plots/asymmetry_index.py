"""The asymmetry index against the measured costs of freezing A and freezing B."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from scipy.stats import spearmanr

from asym_analysis.plots.style import COLORS, SERIES, SHAPES, axes_or_new, legend_below, styled
from asym_analysis.vocabulary import choose

__all__ = ["plot_asymmetry_index"]


def plot_asymmetry_index(table: pd.DataFrame, ax: Axes | None = None, *, kind: str = "inputs and outputs") -> Axes:
    """Draw the measured advantage of training B over training A against the index that predicts it.

    Parameters
    ----------
    table : DataFrame
        As `sample_predictions` gives it: family, task, module, kind, asymmetry_index, advantage, advantage_error.
    ax : Axes, optional
        Where to draw; a new figure of one column's width if None.
    kind : str, default "inputs and outputs"
        Which prediction to draw: one of the table's.

    Returns
    -------
    Axes
        A filled point is a whole model on one task, an open one a single module; bars are standard errors over seeds.
        Where the index is right, points lie in the lower left and the upper right quarter. The rank correlation stands
        below the points.

    Raises
    ------
    ValueError
        If the table has no such kind of prediction.

    Examples
    --------
    >>> from asym_analysis import sample_predictions
    >>> plot_asymmetry_index(sample_predictions()).get_xscale()
    'log'
    """
    choose(kind, table["kind"].unique(), "kind")
    drawn = table[(table["kind"] == kind) & table["advantage"].notna()]
    correlation = spearmanr(drawn["asymmetry_index"], drawn["advantage"])
    with styled():
        ax = axes_or_new(ax, height=2.8)
        ax.axhline(0, color=COLORS["null"], linewidth=0.8, zorder=0)
        ax.axvline(1, color=COLORS["null"], linewidth=0.8, zorder=0)
        for color, shape, (family, members) in zip(SERIES, SHAPES, drawn.groupby("family", sort=False), strict=False):
            for whole, part in members.groupby(members["module"] == "all"):
                ax.errorbar(
                    part["asymmetry_index"],
                    part["advantage"],
                    yerr=part["advantage_error"],
                    fmt=shape,
                    color=color,
                    markerfacecolor=color if whole else "white",
                    markersize=5 if whole else 3.5,
                    elinewidth=0.6,
                )
            ax.plot([], [], shape, color=color, markersize=4, label=family)
        if (drawn["module"] != "all").any():
            ax.plot([], [], "o", color=COLORS["null"], markersize=5, label="whole model")
            ax.plot([], [], "o", color=COLORS["null"], markerfacecolor="white", markersize=3.5, label="one module")
        lows, highs = (drawn["advantage"] + side * drawn["advantage_error"].fillna(0) for side in (-1, 1))
        span = float(highs.max() - lows.min()) or 1.0
        ax.set_ylim(lows.min() - 0.16 * span, highs.max() + 0.06 * span)  # room for the correlation below the points
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_xlabel("asymmetry index")
        ax.set_ylabel("log(loss A-only / loss B-only)")
        correlated = f"Spearman {correlation.statistic:.2f}, {len(drawn)} points"
        ax.annotate(correlated, (0.98, 0.02), xycoords="axes fraction", ha="right", va="bottom", fontsize=8,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
        legend_below(ax)
    return ax
