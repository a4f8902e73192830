"""The leading singular vectors of W0 + dW: which of them no singular vector of W0 resembles."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from asym_analysis.alignment.intruders import IntruderDimensions
from asym_analysis.plots.style import COLORS, axes_or_new, legend_below, styled

__all__ = ["plot_intruders"]


def plot_intruders(found: IntruderDimensions, ax: Axes | None = None) -> Axes:
    """Draw the largest cosine of every leading singular vector with the base weight's, all modules.

    Parameters
    ----------
    found : IntruderDimensions
        What `intruder_dimensions` returned.
    ax : Axes, optional
        Where to draw; a new figure of one column's width if None.

    Returns
    -------
    Axes
        One point a module and vector, intruders coloured, with the threshold and the level of a random direction.

    Examples
    --------
    >>> import torch
    >>> from asym_analysis import Adapter, intruder_dimensions
    >>> adapter = Adapter.from_factors({"q": (torch.eye(1, 8), torch.ones(8, 1))})
    >>> plot_intruders(intruder_dimensions(adapter, {"q.weight": torch.eye(8)}, top_k=2)).get_xlabel()
    'singular vector of W0 + ΔW, strongest first'
    """
    frame = found.frame
    # Points of one index are spread sideways, in the order of the modules, so that all of them are seen.
    place = frame.module.astype("category").cat.codes.to_numpy()
    x = frame["index"].to_numpy() + 0.6 * ((place + 0.5) / (place.max() + 1) - 0.5)
    intruder = frame.intruder.to_numpy(dtype=bool)
    with styled():
        ax = axes_or_new(ax)
        looks = ((~intruder, COLORS["A"], ".", "found in W0"), (intruder, COLORS["B"], "x", "intruder"))
        for chosen, color, shape, label in looks:
            text = f"{label}: {int(chosen.sum())}"
            ax.plot(x[chosen], frame.largest_cosine[chosen], shape, color=color, markersize=4, alpha=0.8, label=text)
        threshold = found.settings["threshold"]
        ax.axhline(threshold, color=COLORS["theory"], linewidth=0.8, linestyle="--", label=f"threshold {threshold:g}")
        ax.axhline(
            found.modules.random_level.mean(), color=COLORS["null"], linewidth=1.2, label="random direction", zorder=0
        )
        ax.set_ylim(0, 1.03)
        most = int(frame["index"].max())
        ax.set_xticks(np.arange(1, most + 1, max(1, most // 10)))
        ax.set_xlabel("singular vector of W0 + ΔW, strongest first")
        ax.set_ylabel("largest |cosine| in W0")
        legend_below(ax)
    return ax
