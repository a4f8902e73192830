"""How far factors moved from their start, layer by layer."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from asym_analysis.alignment.drift import InitializationDrift
from asym_analysis.plots.style import SERIES, axes_or_new, styled

__all__ = ["plot_drift"]


def plot_drift(drift: InitializationDrift, ax: Axes | None = None) -> Axes:
    """Draw the relative distance of the factors from their start by layer.

    Parameters
    ----------
    drift
        What `initialization_drift` returned, of one adapter or with the frames of several put together.
    ax
        Where to draw; a new figure of one column's width if None.

    Returns
    -------
    Axes
        One adapter: a line for each projection, with two standard errors where the distance was inferred; a triangle
        pointing down is an upper limit. Several adapters: a line for each, the median over its projections.

    Examples
    --------
    >>> import torch
    >>> from asym_analysis import Adapter, initialization_drift
    >>> A, B = torch.eye(2, 8), torch.eye(4, 2)
    >>> drift = initialization_drift(Adapter.from_factors({"q": (1.5 * A, B)}), Adapter.from_factors({"q": (A, 0 * B)}))
    >>> plot_drift(drift).get_ylabel()
    'relative distance from the start'
    """
    frame = drift.frame[drift.frame.value.notna() | drift.frame.upper.notna()]
    several = len(frame.adapter.unique()) > 1
    key = "adapter" if several else "projection"
    with styled():
        ax = axes_or_new(ax)
        for index, (name, rows) in enumerate(frame.groupby(key, sort=False)):
            color = SERIES[index % len(SERIES)]
            for factor, part in rows.groupby("factor"):
                label = str(name) if len(rows.factor.unique()) == 1 else f"{name}, {factor}"
                _draw_series(ax, part, color, label, dashed=factor == "B", median=several)
        ax.set_ylim(bottom=0)
        ax.set_xlabel("layer")
        ax.set_ylabel("relative distance from the start")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend(loc="best", title=None if several else "factor " + "/".join(sorted(frame.factor.unique())))
    return ax


def _draw_series(ax: Axes, rows: pd.DataFrame, color: str, label: str, *, dashed: bool, median: bool) -> None:
    layer = rows.layer.astype("Float64").fillna(-1).astype(float)
    told = rows.value.notna()
    style: dict[str, Any] = {"color": color, "linestyle": "--" if dashed else "-"}
    if median:
        middle = rows.value.groupby(layer).median().dropna()
        ax.plot(middle.index, middle, marker="o", markersize=3, label=label, **style)
        return
    error = 2 * rows.std_error[told].fillna(0)
    ax.errorbar(
        layer[told], rows.value[told], yerr=error, marker="o", markersize=3, elinewidth=0.8, label=label, **style
    )
    ax.plot(layer[~told], rows.upper[~told], marker="v", markersize=4, linestyle="", color=color)
