"""What training only one factor keeps of what training both gains, task by task, and how that hangs on the rate."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from asym_analysis.finetuning.results.scores import VariantScores
from asym_analysis.finetuning.variants import Variant
from asym_analysis.plots.style import COLORS, axes_or_new, styled

__all__ = ["plot_learning_rates", "plot_variants"]

MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def plot_variants(scores: VariantScores, reference: str = "lora-r8", ax: Axes | None = None) -> Axes:
    """Draw what every run gains over the baseline, as a part of what a reference run gains.

    Parameters
    ----------
    scores
        From `score_variants`, with baselines.
    reference
        The run whose gain is 1.
    ax
        Where to draw; a new figure of one column's width, as high as the tasks need, if None.

    Returns
    -------
    Axes
        A row a task. Orange trains B, blue A, green both; bars are standard errors over seeds, and the grey band is
        that of the reference.

    Examples
    --------
    >>> from asym_analysis import sample_runs, score_variants
    >>> plot_variants(score_variants(sample_runs("decoder"))).get_xlabel()
    "part of lora-r8's gain"
    """
    frame = scores.frame
    gains = frame[frame["run"] == reference].set_index("task")
    tasks = [task for task in frame["task"].unique() if task in gains.index]
    runs = [run for run in frame["run"].unique() if run != reference]
    looks = _looks(frame[frame["run"] != reference])
    with styled():
        ax = axes_or_new(ax, height=0.6 + 0.16 * len(tasks) * (1 + len(runs) / 4))
        ax.axvline(1, color=COLORS["null"], linewidth=0.8, zorder=0)
        for row, task in enumerate(tasks):
            whole = gains.loc[task, "gain"]
            half = gains.loc[task, "standard_error"] / abs(whole)
            ax.fill_betweenx(
                [row - 0.42, row + 0.42], 1 - half, 1 + half, color=COLORS["null"], alpha=0.25, linewidth=0
            )
            members = frame[(frame["task"] == task) & (frame["run"] != reference)].set_index("run")
            for place, run in zip(np.linspace(-0.33, 0.33, len(runs)) if len(runs) > 1 else [0.0], runs, strict=True):
                if run in members.index:
                    _dot(ax, members.loc[run], whole, row + place, looks[run])
        for run in runs:
            color, marker = looks[run]
            ax.plot([], [], marker, color=color, markersize=4, label=run)
        ax.set_yticks(range(len(tasks)), tasks)
        ax.set_ylim(len(tasks) - 0.5, -0.5)
        ax.set_xlabel(f"part of {reference}'s gain")
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def plot_learning_rates(runs: pd.DataFrame, task: str, ax: Axes | None = None) -> Axes:
    """Draw what each variant scored at each learning rate of its search, on one task.

    Parameters
    ----------
    runs
        The table of a sweep with a search, from `run_sweep`, its runs.csv or `sample_runs`.
    task
        One of its tasks.
    ax
        Where to draw; a new figure of one column's width if None.

    Returns
    -------
    Axes
        A line a run, on the seed of the search; filled where the best rate is. The dashed line is the baseline.

    Examples
    --------
    >>> from asym_analysis import sample_runs
    >>> plot_learning_rates(sample_runs("decoder"), "dialogue").get_xscale()
    'log'
    """
    table = runs[(runs["task"] == task) & (runs["seed"] == runs.loc[runs["stage"] == "search", "seed"].min())]
    if table.empty:
        raise ValueError(f"no learning rates were searched on {task}; the table has {', '.join(runs['task'].unique())}")
    looks = _looks(table)
    with styled():
        ax = axes_or_new(ax)
        ax.axhline(table["baseline"].iloc[0], color=COLORS["null"], linestyle="--", linewidth=0.8)
        for run, members in table.sort_values("learning_rate").groupby("run", sort=False):
            color, marker = looks[str(run)]
            ax.plot(members["learning_rate"], members["value"], "-", color=color, linewidth=1)
            for best, part in members.groupby(members["stage"] == "best"):
                face = color if best else "white"
                ax.plot(part["learning_rate"], part["value"], marker, color=color, markerfacecolor=face, markersize=4.5)
            ax.plot([], [], marker, linestyle="-", color=color, markersize=4, label=run)
        ax.set_xscale("log")
        ax.set_xlabel("learning rate")
        ax.set_ylabel(str(table["metric"].iloc[0]).replace("_", " "))
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def _looks(frame: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Color and marker of every run: the color says which factor is trained."""
    found: dict[str, tuple[str, str]] = {}
    used: dict[str, int] = {}
    for run, variant in frame.drop_duplicates("run")[["run", "variant"]].itertuples(index=False):
        tuned = Variant.parse(variant).tuned
        place = used[tuned] = used.get(tuned, -1) + 1
        found[run] = (COLORS[tuned], MARKERS[place % len(MARKERS)])
    return found


def _dot(ax: Axes, row: pd.Series, whole: float, height: float, look: tuple[str, str]) -> None:
    color, marker = look
    error = row["standard_error"] / abs(whole)
    ax.errorbar(row["gain"] / whole, height, xerr=error, fmt=marker, color=color, markersize=3.5, elinewidth=0.8)
