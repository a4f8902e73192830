"""What A and B did while a run trained: how far they moved, and how much of their subspaces stayed."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from asym_analysis.finetuning.training_record import TrainingRecord
from asym_analysis.plots.style import COLORS, DASHES, DOUBLE_COLUMN, MARKERS, legend_below, styled

__all__ = ["plot_training"]

#: Column of the right panel -> what its lines are called, and of which factor.
_OVERLAPS = {
    "to_initial": "row space of A, with its initialization",
    "to_previous": "column space of B, with the record before",
}


def plot_training(record: TrainingRecord, ax: Axes | None = None) -> Axes | Figure:
    """Draw how far A and B moved in the course of a run, and how much of their subspaces stayed.

    Parameters
    ----------
    record
        From `AsymmetryCallback.result`, or `FinetuneRun.training_record`.
    ax
        Where to draw the movement alone; a figure of two panels if None.

    Returns
    -------
    Figure or Axes
        Lines are medians over modules, bands their quartiles. A factor that was zero at first has no relative
        distance: its norm is drawn, as a share of its norm at the end.

    Examples
    --------
    >>> import pandas as pd
    >>> rows = [(step, 0.0, "q", 0, "q", "A", step / 9, 1.0, 1 - step / 9, 0.9, 2.0) for step in (3, 6)]
    >>> columns = ["step", "epoch", "module", "layer", "projection", "factor", "value", "norm", "to_initial"]
    >>> frame = pd.DataFrame(rows, columns=[*columns, "to_previous", "effective_rank"])
    >>> plot_training(TrainingRecord(frame, {})).axes[0].get_xlabel()
    'step'
    """
    with styled():
        if ax is not None:
            _draw_movement(ax, record.frame)
            return ax
        figure, (left, right) = plt.subplots(1, 2, figsize=(DOUBLE_COLUMN, 2.9), layout="constrained")
        _draw_movement(left, record.frame)
        for (column, label), factor in zip(_OVERLAPS.items(), ("A", "B"), strict=True):
            _line(right, record.frame[record.frame["factor"] == factor], column, factor, label)
        right.set_ylim(0, 1.03)
        right.set_xlabel("step")
        right.set_ylabel("overlap (1: unchanged)")
        right.set_title("what stayed of the subspaces")
        legend_below(right)
        return figure


def _draw_movement(ax: Axes, frame: pd.DataFrame) -> None:
    for factor, rows in frame.groupby("factor", sort=True):
        name = str(factor)
        if rows["value"].isna().all():
            last = rows[rows["step"] == rows["step"].max()].set_index("module")["norm"]
            shares = rows["norm"] / rows["module"].map(last)
            _line(ax, rows.assign(share=shares), "share", name, f"{name}: norm, relative to its last (it was zero)")
        else:
            _line(ax, rows, "value", name, f"{name}: distance from its initialization, relative")
    ax.set_ylim(bottom=0)
    ax.set_xlabel("step")
    ax.set_ylabel("movement")
    ax.set_title("how far the factors moved")
    legend_below(ax)


def _line(ax: Axes, rows: pd.DataFrame, column: str, factor: str, label: str) -> None:
    by_step = rows.dropna(subset=[column]).groupby("step")[column]
    low, middle, high = (by_step.quantile(q) for q in (0.25, 0.5, 0.75))
    if middle.empty:
        return
    ax.plot(middle.index, middle, marker=MARKERS[factor], markersize=3.5, color=COLORS[factor],
            linestyle=DASHES[factor], label=label)  # fmt: skip
    ax.fill_between(middle.index, low, high, color=COLORS[factor], alpha=0.15, linewidth=0)
