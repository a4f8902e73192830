"""How the subspaces of A and B approach those of the last checkpoint."""

from __future__ import annotations

from matplotlib.axes import Axes

from asym_analysis.alignment.trajectories import Trajectories
from asym_analysis.plots.style import COLORS, DASHES, MARKERS, axes_or_new, legend_below, styled

__all__ = ["plot_trajectories"]


def plot_trajectories(followed: Trajectories, ax: Axes | None = None, *, to: str = "to_last") -> Axes:
    """Draw the overlap of every checkpoint with the last (or first) one, median over modules.

    Parameters
    ----------
    followed
        From `checkpoint_trajectories`, of one run or of several.
    ax
        Where to draw; a new figure of one column's width if None.
    to
        "to_last" or "to_first": with which checkpoint.

    Returns
    -------
    Axes
        A line for each factor (and run), and the level of random subspaces.

    Examples
    --------
    >>> import torch
    >>> from asym_analysis import Adapter, AdapterSet, checkpoint_trajectories
    >>> A, B = torch.eye(2, 16), torch.eye(8, 2)
    >>> saved = [Adapter.from_factors({"q": (A, B.roll(i, 0))}, name=str(i)) for i in range(3)]
    >>> plot_trajectories(checkpoint_trajectories(AdapterSet(saved, {"step": [0, 5, 10]}))).get_xlabel()
    'step'
    """
    frame = followed.frame
    several = frame["run"].nunique() > 1
    with styled():
        ax = axes_or_new(ax)
        for (run, factor), rows in frame.groupby(["run", "factor"], sort=False, observed=True):
            middle = rows.groupby("step")[to].median()
            label = f"{run}, {factor}" if several else str(factor)
            ax.plot(middle.index, middle, marker=MARKERS[str(factor)], markersize=3.5, color=COLORS[str(factor)],
                    linestyle=DASHES[str(factor)], label=label)  # fmt: skip
        ax.axhline(frame["null_mean"].mean(), color=COLORS["null"], linewidth=1.2, label="random subspaces")
        ax.set_ylim(0, 1.03)
        ax.set_xlabel("step")
        ax.set_ylabel(f"overlap with the {'last' if to == 'to_last' else 'first'} checkpoint")
        legend_below(ax)
    return ax
