"""How similar A and B are between adapters, layer by layer, against what random subspaces would give."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from asym_analysis.alignment.comparison import SubspaceComparison
from asym_analysis.plots.style import COLORS, DASHES, MARKERS, axes_or_new, legend_below, styled

__all__ = ["plot_subspace_alignment"]


def plot_subspace_alignment(
    comparison: SubspaceComparison, ax: Axes | None = None, *, modules: Collection[str] | None = None
) -> Axes:
    """Draw the mean similarity of A and of B by layer, with its spread over pairs and the band of random subspaces.

    Parameters
    ----------
    comparison : SubspaceComparison
        What `compare_subspaces` returned.
    ax : Axes, optional
        Where to draw; a new figure of one column's width if None.
    modules : collection of str, optional
        Only these modules, such as those of the encoder; all by default.

    Returns
    -------
    Axes
        A line and its 10 to 90 % range over pairs for each factor, without the pairs that share the initialization
        unless most do. The grey band is the null's mean plus and minus two standard deviations of a single pair.
        Modules without a layer number stand at the right, as "other".

    Examples
    --------
    >>> from asym_analysis import compare_subspaces, sample_adapters
    >>> adapters = sample_adapters()
    >>> _ = plot_subspace_alignment(compare_subspaces(adapters.select(adapters.table["family"] == "one_task")))
    """
    frame = comparison.frame.dropna(subset=["value"])
    if modules is not None:
        frame = frame[frame["module"].isin(set(modules))]
    related = frame["same_initialization"].fillna(False).astype(bool)
    most = related.groupby(frame["factor"], observed=True).transform("mean") > 0.5
    frame = frame[~related | most]
    layers = frame["layer"].astype("Int64")
    numbered = sorted(layers.dropna().unique().tolist())
    position = {layer: index for index, layer in enumerate(numbered)}
    x = layers.map(position).astype("Float64").fillna(len(numbered)).astype(int)
    with styled():
        ax = axes_or_new(ax)
        _draw_null(ax, frame, x)
        for factor, rows in frame.groupby("factor", observed=True, sort=True):
            values = rows["value"].groupby(x.loc[rows.index])
            mean, low, high = values.mean(), values.quantile(0.1), values.quantile(0.9)
            color = COLORS.get(str(factor), COLORS["both"])
            ax.fill_between(mean.index, low, high, color=color, alpha=0.18, linewidth=0)
            marker, dashes = MARKERS.get(str(factor), "D"), DASHES.get(str(factor), "-")
            ax.plot(mean.index, mean, color=color, marker=marker, linestyle=dashes, markersize=3.5, label=str(factor))
        ticks = [*map(str, numbered), *(["other"] if layers.isna().any() else [])]
        step = max(1, len(ticks) // 12)
        ax.set_xticks(range(0, len(ticks), step), ticks[::step])
        ax.set_xlabel("layer")
        ax.set_ylabel(f"{comparison.measure} (log scale)")
        # A logarithmic axis: chance is a few hundredths where B is a few tenths, and both must be seen.
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.yaxis.set_minor_locator(NullLocator())
        legend_below(ax)
    return ax


def _draw_null(ax: Axes, frame: pd.DataFrame, x: pd.Series) -> None:
    null = frame[["null_mean", "null_std"]].groupby(x).mean().dropna()
    if null.empty:
        return
    low = np.maximum(null["null_mean"] - 2 * null["null_std"], null["null_mean"] / 4)
    high = null["null_mean"] + 2 * null["null_std"]
    ax.fill_between(null.index, low, high, color=COLORS["null"], alpha=0.45, linewidth=0, label="chance ± 2 sd")
