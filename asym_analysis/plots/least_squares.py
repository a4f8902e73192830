"""Least-squares theory drawn through simulated losses."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from asym_analysis.plots.style import COLORS, axes_or_new, styled

__all__ = ["plot_least_squares"]

_WAYS = {"A": ("A tuned", "s"), "B": ("B tuned", "o"), "both": ("both tuned", "D")}
_LABELS = {
    "rank": "rank r",
    "d_in": "input dimension $d_{in}$",
    "d_out": "output dimension $d_{out}$",
    "exponent": "exponent a of the input spectrum $i^{-a}$",
    "alignment": "alignment b of the update, $m_i \\propto s_i^b$",
    "samples": "training samples n",
    "noise_variance": "noise variance",
}


def plot_least_squares(table: pd.DataFrame, x: str = "rank", ax: Axes | None = None) -> Axes:
    """Theory as lines, with its stated error as a band, through simulated losses with three standard errors.

    Parameters
    ----------
    table
        From `compare_theory` (x="rank"), `sweep` (x = the swept quantity) or `compare_finite_samples` (x="samples"):
        columns `tuned, theory, stated_error, loss, standard_error` and `x`.
    x
        Column along the horizontal axis; ranks, dimensions and sample sizes are drawn on a logarithmic scale.
    ax
        Where to draw; a new figure when omitted.

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
    >>> table = compare_theory(LeastSquaresProblem(torch.eye(8), torch.ones(8)), [1, 2, 4], draws=20)
    >>> plot_least_squares(table).get_xlabel()
    'rank r'
    """
    missing = {x, "tuned", "theory", "stated_error", "loss", "standard_error"} - set(table.columns)
    if missing:
        raise ValueError(f"the table has no column {sorted(missing)}; give one from compare_theory or sweep")
    with styled():
        ax = axes_or_new(ax)
        for way, (label, marker) in _WAYS.items():
            rows = table[table["tuned"] == way].sort_values(x)
            if rows.empty:
                continue
            color = COLORS[way]
            ax.plot(rows[x], rows["theory"], color=color, zorder=2)
            low, high = rows["theory"] - rows["stated_error"], rows["theory"] + rows["stated_error"]
            ax.fill_between(rows[x], low, high, color=color, alpha=0.2, linewidth=0, zorder=1)
            ax.errorbar(
                rows[x],
                rows["loss"],
                yerr=3 * rows["standard_error"],
                fmt=marker,
                color=color,
                markersize=4,
                markerfacecolor="white",
                capsize=2,
                linewidth=1,
                label=label,
                zorder=3,
            )
        if x in ("rank", "d_in", "d_out", "samples"):
            ax.set_xscale("log", base=2)
            ticks = sorted(table[x].unique())
            ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            ax.minorticks_off()
        ax.set_xlabel(_LABELS.get(x, x))
        ax.set_ylabel("expected loss on new data")
        # Above the axes: no place inside is free of lines for every table.
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, columnspacing=1.2, handletextpad=0.2)
    return ax
