"""How far factors moved from their initialization, layer by layer."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from asym_analysis.alignment.drift import InitializationDrift
from asym_analysis.plots.style import SERIES, axes_or_new, styled

__all__ = ["plot_drift"]

CROWDED = 5  # lines beyond which the legend stands beside the axes


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
        pointing down is an upper limit. Several adapters: a line for each, the median over its projections. Modules of
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
            color = SERIES[index % len(SERIES)]
            for factor, part in rows.groupby("factor"):
                label = str(name) if len(rows.factor.unique()) == 1 else f"{name}, {factor}"
                _draw_series(ax, part, color, label, dashed=factor == "B", median=several)
        ax.set_ylim(bottom=0)
        ax.set_xlabel("layer")
        ax.set_ylabel("‖F − F₀‖ / ‖F₀‖")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        if frame.empty:
            ax.text(0.5, 0.5, "cannot tell", transform=ax.transAxes, ha="center", va="center")
            return ax
        title = None if several else "factor " + "/".join(sorted(frame.factor.unique()))
        crowded = len(ax.get_legend_handles_labels()[0]) > CROWDED
        place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)} if crowded else {"loc": "best"}
        ax.legend(title=title, **place)
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
