"""The map of which factor is better frozen."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.lines import Line2D

from asym_analysis.plots.style import SINGLE_COLUMN, axes_or_new, styled

__all__ = ["plot_regimes"]


def plot_regimes(table: pd.DataFrame, ax: Axes | None = None, *, limit: float | None = None) -> Axes:
    """Who wins over spectrum exponent and alignment: simulated colours, the theoretical boundary drawn over them.

    Parameters
    ----------
    table
        From `regime_map`: columns `exponent, alignment, index, theory_index`.
    ax
        Where to draw; a new figure when omitted.
    limit
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
            ax.legend(
                handles=[Line2D([], [], color="black", linewidth=1.6, label="theory: equal gains")],
                loc="lower left",
                frameon=True,
                framealpha=0.9,
            )
        ax.set_xlabel("exponent a of the input spectrum $i^{-a}$")
        ax.set_ylabel("alignment b of the update, $m_i \\propto s_i^b$")
        first = table.iloc[0]
        ax.set_title(f"$d_{{in}}$ = {first['d_in']:.0f}, $d_{{out}}$ = {first['d_out']:.0f}, r = {first['rank']:.0f}")
        bar = plt.colorbar(mesh, ax=ax)
        bar.set_label("log$_2$ gain ratio, A frozen / B frozen")
    return ax
