"""How an adapter's updates spend their rank."""

from __future__ import annotations

from matplotlib.axes import Axes

from asym_analysis.alignment.spectra import AdapterSpectra
from asym_analysis.plots.style import COLORS, SERIES, SHAPES, axes_or_new, legend_below, styled

__all__ = ["plot_spectra"]


def plot_spectra(spectra: AdapterSpectra, ax: Axes | None = None) -> Axes:
    """Draw the energy of the updates' leading singular directions, by projection.

    Parameters
    ----------
    spectra : AdapterSpectra
        What `adapter_spectra` returned.
    ax : Axes, optional
        Where to draw; a new figure of one column's width if None.

    Returns
    -------
    Axes
        The cumulative share of the squared singular values: median over the modules of a projection and its 10 to
        90 % range, and in how many directions 90 % of it lies. The grey line is a flat spectrum of the adapter's rank.

    Examples
    --------
    >>> import torch
    >>> from asym_analysis import Adapter, adapter_spectra
    >>> plot_spectra(adapter_spectra(Adapter.from_factors({"q": (torch.eye(2, 8), torch.eye(4, 2))}))).get_xlabel()
    'singular directions of ΔW, strongest first'
    """
    values = spectra.singular_values
    with styled():
        ax = axes_or_new(ax)
        for index, (projection, rows) in enumerate(values.groupby("projection", sort=False)):
            color = SERIES[index % len(SERIES)]
            at = rows.groupby("index").cumulative
            middle, low, high = at.median(), at.quantile(0.1), at.quantile(0.9)
            ax.fill_between(middle.index, low, high, color=color, alpha=0.15, linewidth=0)
            needed = spectra.frame[spectra.frame.projection == projection].rank_90.median()
            label = f"{projection} (90 % in {needed:.0f})"
            shape = SHAPES[index % len(SHAPES)]
            ax.plot(middle.index, middle, color=color, marker=shape, markersize=3, label=label)
        most = int(values["index"].max())
        ax.plot(
            range(1, most + 1),
            [i / most for i in range(1, most + 1)],
            color=COLORS["null"],
            linewidth=1,
            zorder=0,
            label="flat spectrum",
        )
        ax.set_ylim(0, 1.03)
        ax.set_xticks(range(1, most + 1, max(1, most // 8)))
        ax.set_xlabel("singular directions of ΔW, strongest first")
        ax.set_ylabel("share of ||ΔW||²")
        legend_below(ax)
    return ax
