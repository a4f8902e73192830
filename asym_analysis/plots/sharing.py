"""How much of many adapters lies in one common subspace, with and without their shared initialization."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes

from asym_analysis._deprecated import former_order
from asym_analysis.alignment.shared_energy import SharedEnergy
from asym_analysis.plots.style import COLORS, SHAPES, axes_or_new, legend_below, styled

__all__ = ["plot_sharing"]

LOOKS = {
    "A": ("A", "-"),
    "A - A0": ("A", "--"),
    "A - mean": ("A", ":"),
    "inputs": ("right", "-"),
    "inputs - A0": ("right", "--"),
    "B": ("B", "-"),
    "outputs": ("left", "-"),
}


@former_order("quantities", "ax")
def plot_sharing(energy: SharedEnergy, ax: Axes | None = None, *, quantities: list[str] | None = None) -> Axes:
    """Draw the energy in the best common subspace against its dimension, median over modules, with its null.

    Parameters
    ----------
    energy : SharedEnergy
        What `shared_energy` returned.
    ax : Axes, optional
        Where to draw; a new figure of one column's width if None.
    quantities : list of str, optional
        Which to draw, of `energy.frame.quantity`; all by default.

    Returns
    -------
    Axes
        A line a quantity; the grey line of the same dashes and markers is its null: the same strengths in random
        directions.

    Examples
    --------
    >>> import torch
    >>> from asym_analysis import Adapter, shared_energy
    >>> runs = [Adapter.from_factors({"q": (torch.eye(2, 16), torch.eye(16, 2).roll(i, 0))}) for i in range(3)]
    >>> plot_sharing(shared_energy(runs, ranks=[1, 2])).get_ylabel()
    'energy inside it'
    """
    table = energy.frame.groupby(["quantity", "rank"], sort=False)[["energy", "null_mean"]].median().reset_index()
    chosen = quantities if quantities is not None else list(dict.fromkeys(table.quantity))
    with styled():
        ax = axes_or_new(ax)
        for index, quantity in enumerate(chosen):
            rows = table[table.quantity == quantity].sort_values("rank")
            color, dashes = LOOKS[quantity]
            shape = SHAPES[index % len(SHAPES)]
            grey: dict[str, Any] = {"color": COLORS["null"], "linestyle": dashes, "linewidth": 1, "zorder": 0}
            ax.plot(rows["rank"], rows.null_mean, marker=shape, markersize=4, markerfacecolor="white", **grey)
            label = quantity.replace("A0", "A₀").replace(" - ", " \N{MINUS SIGN} ")
            ax.plot(rows["rank"], rows.energy, dashes, color=COLORS[color], marker=shape, markersize=3, label=label)
        ax.plot([], [], color=COLORS["null"], linewidth=1, label="random (same marker)")
        ranks = sorted(table["rank"].unique())
        ax.set_xscale("log", base=2)
        ax.set_xticks(ranks, [str(rank) for rank in ranks])
        ax.minorticks_off()
        ax.set_ylim(0, 1.03)
        ax.set_xlabel("dimension of the common subspace")
        ax.set_ylabel("energy inside it")
        legend_below(ax)
    return ax
