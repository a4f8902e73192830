"""Which factor is better frozen: a map, and the gain of each strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from asym_analysis._deprecated import renamed_arguments
from asym_analysis.plots.style import COLORS, SINGLE_COLUMN, axes_or_new, legend_below, styled

if TYPE_CHECKING:
    from asym_analysis.least_squares.regimes import RegimeMap, StrategyComparison

__all__ = ["plot_regimes", "plot_strategies"]

_STRATEGIES = {
    "joint": ("both", "-", "both trained"),
    "principal A": ("accent", "-", "A frozen at principal components"),
    "random A": ("B", "-", "A frozen at random"),
    "random A, rank 2r": ("B", "--", "A frozen at random, rank 2r"),
    "random B": ("A", "-", "B frozen at random"),
}


@renamed_arguments(table="result")
def plot_regimes(result: RegimeMap | pd.DataFrame, ax: Axes | None = None, *, limit: float | None = None) -> Axes:
    """Which factor is better frozen over spectrum exponent and alignment: simulated colours, theory's boundary on top.

    Parameters
    ----------
    result : RegimeMap or DataFrame
        From `regime_map`, or its frame.
    ax : Axes, optional
        Where to draw; a new figure when omitted.
    limit : float, optional
        Largest log2 ratio of gains that the colours show, to give several maps one scale; the table's own when omitted.

    Returns
    -------
    Axes
        The axes drawn on, beside a colour bar of log2(gain with A frozen / gain with B frozen).

    Raises
    ------
    ValueError
        The table is not a full grid.

    Examples
    --------
    >>> from asym_analysis.least_squares import regime_map
    >>> table = regime_map(12, 12, 2, exponents=[0.5, 1.0], alignments=[-1.0, 1.0], draws=20)
    >>> plot_regimes(table).get_xlabel()
    'exponent a of the input spectrum $i^{-a}$'
    """
    table = result if isinstance(result, pd.DataFrame) else result.frame
    grid = table.pivot_table(index="alignment", columns="exponent", values=["index", "theory_index"])
    simulated, theory = np.log2(grid["index"].to_numpy()), np.log2(grid["theory_index"].to_numpy())
    if np.isnan(simulated).any():
        raise ValueError("the table is not a full grid of exponents and alignments; make it with regime_map")
    extreme = limit if limit is not None else max(1.0, float(np.abs(simulated).max()))
    exponents, alignments = grid["index"].columns.to_numpy(), grid.index.to_numpy()
    with styled():
        ax = axes_or_new(ax, width=SINGLE_COLUMN * 1.2, height=2.8)
        # Orange and purple stay apart under the common colour deficiencies, and the middle is white.
        mesh = ax.pcolormesh(
            exponents,
            alignments,
            simulated,
            cmap="PuOr_r",
            norm=TwoSlopeNorm(0.0, -extreme, extreme),
            shading="nearest",
            rasterized=True,
        )
        if theory.min() < 0 < theory.max():
            ax.contour(exponents, alignments, theory, levels=[0.0], colors="black", linewidths=1.6)
            legend_below(
                ax,
                handles=[Line2D([], [], color="black", linewidth=1.6, label="theory: equal gains")],
                labels=["theory: equal gains"],
            )
        _write_levels(ax, exponents, alignments, simulated, extreme)
        ax.set_xlabel("exponent a of the input spectrum $i^{-a}$")
        ax.set_ylabel("alignment b of the update, $m_i \\propto s_i^b$")
        first = table.iloc[0]
        ax.set_title(f"$d_{{in}}$ = {first['d_in']:.0f}, $d_{{out}}$ = {first['d_out']:.0f}, r = {first['rank']:.0f}")
        bar = plt.colorbar(mesh, ax=ax)
        bar.set_label("log$_2$ gain ratio, A frozen / B frozen")
    return ax


def _write_levels(ax: Axes, exponents: np.ndarray, alignments: np.ndarray, ratios: np.ndarray, extreme: float) -> None:
    """Thin lines with their signed values, dashed where B frozen wins: without colour both ends look the same."""
    if min(ratios.shape) < 2:
        return
    step = max(0.5, round(2 * extreme / 3) / 2)
    levels = [level for k in range(-3, 4) if k and ratios.min() < (level := k * step) < ratios.max()]
    if levels:
        styles = ["dashed" if level < 0 else "solid" for level in levels]
        lines = ax.contour(
            exponents, alignments, ratios, levels=levels, colors="0.25", linewidths=0.6, linestyles=styles
        )
        edge = withStroke(linewidth=1.5, foreground="white")
        for label in ax.clabel(lines, fmt="%+g", fontsize=6, colors="black"):
            label.set_path_effects([edge])


def plot_strategies(result: StrategyComparison, ax: Axes | None = None) -> Axes:
    """Expected gain of each strategy against rank.

    Parameters
    ----------
    result
        From `compare_strategies`.
    ax
        Where to draw; a new figure when omitted.

    Returns
    -------
    Axes
        The axes drawn on.

    Examples
    --------
    >>> import torch
    >>> from asym_analysis.least_squares import LeastSquaresProblem, compare_strategies
    >>> plot_strategies(compare_strategies(LeastSquaresProblem(torch.eye(4), torch.ones(4)), [1, 2])).get_xlabel()
    'rank r'
    """
    frame = result.frame
    with styled():
        ax = axes_or_new(ax, width=5.0)
        for name, (color, line, label) in _STRATEGIES.items():
            rows = frame[frame["strategy"] == name].sort_values("rank")
            if not rows.empty:
                ax.plot(rows["rank"], rows["gain_fraction"], line, color=COLORS[color], label=label)
        ticks = sorted(frame["rank"].unique())
        ax.set_xscale("log", base=2)
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        ax.set(xlabel="rank r", ylabel="part of the signal that is fitted", ylim=(0, 1.02))
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax
