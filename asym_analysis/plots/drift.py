"""How far factors moved from their initialization, layer by layer."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from asym_analysis.alignment.drift import InitializationDrift
from asym_analysis.plots.style import SERIES, SHAPES, axes_or_new, legend_below, styled

__all__ = ["plot_drift"]


def plot_drift(drift: InitializationDrift, ax: Axes | None = None) -> Axes:
    """Draw the relative distance of the factors from their initialization by layer.

    Parameters
    ----------
    drift : InitializationDrift
        What `initialization_drift` returned, of one adapter or several.
    ax : Axes, optional
        Where to draw; a new figure of one column's width if None.

    Returns
    -------
    Axes
        One adapter: a line for each projection, with two standard errors where the distance was inferred; a triangle
        pointing down is an upper limit. Several adapters: a line for each, the median over its projections. Where a
        line stands for several modules of a layer, it is their median, and the band holds 80 % of them. Modules of
        which nothing is known are left out.

    Examples
    --------
    >>> import torch
    >>> from asym_analysis import Adapter, initialization_drift
    >>> A, B = torch.eye(2, 8), torch.eye(4, 2)
    >>> drift = initialization_drift(Adapter.from_factors({"q": (1.5 * A, B)}), Adapter.from_factors({"q": (A, 0 * B)}))
    >>> plot_drift(drift).get_ylabel()
    '‖F − F₀‖ / ‖F₀‖'
    """
    frame = drift.frame[drift.frame.value.notna() | drift.frame.upper.notna()]
    several = len(frame.adapter.unique()) > 1
    key = "adapter" if several else "projection"
    with styled():
        ax = axes_or_new(ax)
        for index, (name, rows) in enumerate(frame.groupby(key, sort=False)):
            look = {"color": SERIES[index % len(SERIES)], "marker": SHAPES[index % len(SHAPES)]}
            for factor, part in rows.groupby("factor"):
                label = str(name) if len(rows.factor.unique()) == 1 else f"{name}, {factor}"
                _draw_series(ax, part, label, look | {"linestyle": "--" if factor == "B" else "-"})
        ax.set_ylim(bottom=0)
        ax.set_xlabel("layer")
        ax.set_ylabel("‖F − F₀‖ / ‖F₀‖")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        if frame.empty:
            ax.text(0.5, 0.5, "cannot tell", transform=ax.transAxes, ha="center", va="center")
            return ax
        legend_below(ax, title=None if several else "factor " + "/".join(sorted(frame.factor.unique())))
    return ax


def _draw_series(ax: Axes, rows: pd.DataFrame, label: str, look: dict[str, Any]) -> None:
    layer = rows.layer.astype("Float64").fillna(-1).astype(float)
    known = rows.value.notna()
    if layer[known].duplicated().any():
        by_layer = rows.value[known].groupby(layer[known])
        middle = by_layer.median()
        ax.plot(middle.index, middle, markersize=3, label=label, **look)
        low, high = by_layer.quantile(0.1), by_layer.quantile(0.9)
        ax.fill_between(middle.index, low, high, color=look["color"], alpha=0.15, linewidth=0)
        return
    error = 2 * rows.std_error[known].fillna(0)
    ax.errorbar(layer[known], rows.value[known], yerr=error, markersize=3, elinewidth=0.8, label=label, **look)
    ax.plot(layer[~known], rows.upper[~known], marker="v", markersize=4, linestyle="", color=look["color"])
