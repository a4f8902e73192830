"""How much of the gain of LoRA one trained factor keeps, task by task, and its dependence on the learning rate."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from asym_analysis.errors import AdapterError
from asym_analysis.finetuning.results.kept import KeptGains
from asym_analysis.finetuning.results.scores import VariantScores, longest_runs
from asym_analysis.finetuning.variants import Variant
from asym_analysis.plots.style import COLORS, axes_or_new, legend_below, styled

__all__ = ["plot_kept_gains", "plot_learning_rates", "plot_variants"]

LORA = "hB_0 hA_Km"
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def plot_variants(
    scores: VariantScores, ax: Axes | None = None, *, reference: str | tuple[str, int] | None = None
) -> Axes:
    """Draw how much of a reference run's gain over the frozen model each other run keeps.

    Parameters
    ----------
    scores : VariantScores
        From `score_variants`, with baselines; of each task the greatest length is drawn.
    ax : Axes, optional
        Where to draw; a new figure of one column's width, as high as the tasks need, if None.
    reference : str or tuple of (str, int), optional
        The run whose gain is 1, by name or as variant and rank; LoRA at the smallest rank if None.

    Returns
    -------
    Axes
        A row a task. Orange trains B, blue A, green both; bars are standard errors over seeds, and the grey band is
        that of the reference.

    Raises
    ------
    AdapterError
        If the scores have no such run.

    Examples
    --------
    >>> from asym_analysis import sample_runs, score_variants
    >>> plot_variants(score_variants(sample_runs("decoder"))).get_xlabel()
    'kept part of the gain of lora-r8'
    """
    arm = scores.arm(_lora(scores) if reference is None else reference)
    frame = longest_runs(scores.frame)
    frame = frame[frame["variant"] != "frozen"]
    is_reference = (frame["variant"] == arm.variant) & (frame["rank"] == arm.rank)
    gains = frame[is_reference].drop_duplicates("task").set_index("task")
    others = frame[~is_reference]
    tasks = [task for task in frame["task"].unique() if task in gains.index]
    runs = list(others["run"].unique())
    looks = _looks(others)
    label = gains["run"].iloc[0]
    with styled():
        ax = axes_or_new(ax, height=0.6 + 0.16 * len(tasks) * (1 + len(runs) / 4))
        ax.axvline(1, color=COLORS["null"], linewidth=0.8, zorder=0, label=f"{label}, ± standard error")
        for row, task in enumerate(tasks):
            gain = gains.loc[task, "gain"]
            half = gains.loc[task, "standard_error"] / abs(gain)
            ax.fill_betweenx(
                [row - 0.42, row + 0.42], 1 - half, 1 + half, color=COLORS["null"], alpha=0.25, linewidth=0
            )
            members = others[others["task"] == task].drop_duplicates("run").set_index("run")
            for place, run in zip(np.linspace(-0.33, 0.33, len(runs)) if len(runs) > 1 else [0.0], runs, strict=True):
                if run in members.index:
                    _dot(ax, members.loc[run], gain, row + place, looks[run])
        for run in runs:
            color, marker = looks[run]
            ax.plot([], [], marker, color=color, markersize=4, label=run)
        ax.set_yticks(range(len(tasks)), tasks)
        ax.set_ylim(len(tasks) - 0.5, -0.5)
        ax.set_xlabel(f"kept part of the gain of {label}")
        legend_below(ax)
    return ax


def _lora(scores: VariantScores) -> tuple[str, int]:
    """LoRA at the smallest rank that was run."""
    ranks = scores.frame.loc[scores.frame["variant"] == LORA, "rank"]
    if ranks.empty:
        raise AdapterError(f"the scores have no run of {LORA}, which trains both factors; name another reference")
    return LORA, int(ranks.min())


def plot_kept_gains(kept: KeptGains, ax: Axes | None = None) -> Axes:
    """Draw the kept part of LoRA's gain against trained numbers per datum.

    Parameters
    ----------
    kept
        From `kept_gains`.
    ax
        Where to draw; a new figure of one column's width if None.

    Returns
    -------
    Axes
        Orange trains B, blue A. Filled after each task's longest training, open after shorter ones; bars are the
        table's intervals, and the grey line is LoRA. Rows where LoRA's own gain is not clear are left out.
    """
    frame = kept.frame[kept.frame["clear"]]
    longest = set(longest_runs(frame).index)
    looks = _looks(frame.assign(run=frame["variant"]))
    with styled():
        ax = axes_or_new(ax, height=2.6)
        ax.axhline(1, color=COLORS["null"], linewidth=0.8, zorder=0, label="LoRA")
        for index, row in frame.iterrows():
            color, marker = looks[row["variant"]]
            bars = [[row["kept"] - row["low"]], [row["high"] - row["kept"]]]
            face = color if index in longest else "white"
            ax.errorbar(
                [row["numbers_per_datum"]],
                [row["kept"]],
                yerr=bars,
                fmt=marker,
                color=color,
                markerfacecolor=face,
                markersize=4,
                elinewidth=0.7,
            )
        for variant, (color, marker) in looks.items():
            ax.plot([], [], marker, color=color, markersize=4, label=_in_words(variant))
        if len(longest) < len(frame):
            _explain_faces(ax, "longest training", "shorter training")
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_xlabel("trained numbers per datum")
        ax.set_ylabel("kept part of LoRA's gain")
        legend_below(ax)
    return ax


def plot_learning_rates(runs: pd.DataFrame, ax: Axes | None = None, *, task: str | None = None) -> Axes:
    """Draw what each variant scored at each learning rate of its search, on one task.

    Parameters
    ----------
    runs : DataFrame
        The table of a sweep with a search, from `run_sweep`, its runs.csv or `sample_runs`.
    ax : Axes, optional
        Where to draw; a new figure of one column's width if None.
    task : str, optional
        One of its tasks; the first that was searched if None.

    Returns
    -------
    Axes
        A line a run, on the seed of the search; filled where the best rate is. The dashed line is the
        score before training, or that of a constant guess.

    Raises
    ------
    ValueError
        If no rates were searched on that task.

    Examples
    --------
    >>> from asym_analysis import sample_runs
    >>> plot_learning_rates(sample_runs("decoder"), task="dialogue").get_xscale()
    'log'
    """
    searched = runs[runs["stage"] == "search"] if "stage" in runs else runs[:0]
    if task is None and len(searched):
        task = str(searched["task"].iloc[0])
    seed = searched.loc[searched["task"] == task, "seed"].min()
    table = runs[(runs["task"] == task) & (runs["seed"] == seed)]
    if table.empty:
        raise ValueError(f"no learning rates were searched on {task}; the table has {', '.join(runs['task'].unique())}")
    score = table["tune_value"] if "tune_value" in table else table["value"]
    sign = -1 if table["lower_is_better"].iloc[0] else 1
    table = table.assign(drawn=score, best=(sign * score).groupby(table["run"]).transform("max") == sign * score)
    looks = _looks(table)
    with styled():
        ax = axes_or_new(ax)
        before = str(table["baseline_of"].iloc[0]) if "baseline_of" in table else "before training"
        ax.axhline(table["baseline"].iloc[0], color=COLORS["null"], linestyle="--", linewidth=0.8, label=before)
        for run, members in table.sort_values("learning_rate").groupby("run", sort=False):
            color, marker = looks[str(run)]
            ax.plot(members["learning_rate"], members["drawn"], "-", color=color, linewidth=1)
            for best, part in members.groupby("best"):
                face = color if best else "white"
                ax.plot(part["learning_rate"], part["drawn"], marker, color=color, markerfacecolor=face, markersize=4.5)
            ax.plot([], [], marker, linestyle="-", color=color, markersize=4, label=run)
        _explain_faces(ax, "best rate of a run", "other rates")
        ax.set_xscale("log")
        ax.set_xlabel("learning rate")
        ax.set_ylabel(str(table["metric"].iloc[0]).replace("_", " "))
        legend_below(ax)
    return ax


def _explain_faces(ax: Axes, filled: str, open_: str) -> None:
    """Say in the legend what filled and open markers are."""
    for label, face in ((filled, COLORS["null"]), (open_, "white")):
        ax.plot([], [], "o", color=COLORS["null"], markerfacecolor=face, markersize=4, label=label)


def _in_words(variant: str) -> str:
    """Which factor a variant trains, and how the other is initialized; its notation where it trains both."""
    read = None if variant in ("frozen", "full") else Variant.parse(variant)
    if read is None or read.tuned == "both":
        return variant
    other, factor = ("A", read.A) if read.tuned == "B" else ("B", read.B)
    return f"{read.tuned} trained, {other} {factor.initialization.replace('_', ' ')}"


def _looks(frame: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Color and marker of every run: the color is that of the trained factors, the marker its own."""
    found: dict[str, tuple[str, str]] = {}
    for run, variant in frame.drop_duplicates("run")[["run", "variant"]].itertuples(index=False):
        tuned = "null" if variant in ("frozen", "full") else Variant.parse(variant).tuned
        found[run] = (COLORS[tuned], MARKERS[len(found) % len(MARKERS)])
    return found


def _dot(ax: Axes, row: pd.Series, whole: float, height: float, look: tuple[str, str]) -> None:
    color, marker = look
    error = row["standard_error"] / abs(whole)
    ax.errorbar(row["gain"] / whole, height, xerr=error, fmt=marker, color=color, markersize=3.5, elinewidth=0.8)
