"""Pictures of the questions asked of a checkpoint: measured values beside what chance gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from asym_analysis.plots.style import COLORS, SERIES, SHAPES, axes_or_new, legend_below, styled

if TYPE_CHECKING:
    from asym_analysis.questions import (
        AdapterClusters,
        BaseAlignment,
        ChainCoverage,
        Crowding,
        DirectionWorth,
        ExpertSharing,
        FactorMovement,
        GradientAlignment,
        InitializationStatistics,
        IntruderScaling,
        MeanAdapterBaseline,
        MergeCompensation,
        NullSpaceEnergy,
        ProjectionTerms,
        RankAllocation,
    )

__all__ = [
    "plot_base_alignment",
    "plot_chain",
    "plot_clusters",
    "plot_crowding",
    "plot_direction_worth",
    "plot_expert_sharing",
    "plot_factor_movement",
    "plot_gradient_alignment",
    "plot_initialization_split",
    "plot_intruder_scaling",
    "plot_mean_baseline",
    "plot_merge_compensation",
    "plot_null_space",
    "plot_projection_terms",
    "plot_rank_allocation",
]

Series = tuple[str, str, str | None]  # column, label, column of the chance level


def plot_null_space(result: NullSpaceEnergy, ax: Axes | None = None) -> Axes:
    """Draw the relative energy of A and of the update on general inputs, by projection; chance is 1.

    Parameters
    ----------
    result
        From `null_space_energy`.
    ax
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
    """
    frame = result.frame.assign(one=1.0)
    series: list[Series] = [("energy", "A", "one"), ("update_energy", "update", None)]
    return _by_group(frame, "projection", series, "energy on general inputs (random = 1)", ax)


def plot_base_alignment(result: BaseAlignment, ax: Axes | None = None) -> Axes:
    """Draw the overlaps of A and B with the leading singular directions of the base, by projection.

    Parameters
    ----------
    result
        From `base_alignment`.
    ax
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
    """
    series: list[Series] = [("A_top", "A", "A_null_mean"), ("B_top", "B", "B_null_mean")]
    return _by_group(result.frame, "projection", series, f"overlap with top {result.settings['k']} of W0", ax)


def plot_initialization_split(result: InitializationStatistics, ax: Axes | None = None) -> Axes:
    """Draw the share of the update that goes through the initial A, by projection; 1 where A was frozen.

    Parameters
    ----------
    result
        From `initialization_statistics`.
    ax
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
    """
    return _by_group(result.frame, "projection", [("initial_share", "through A0", None)], "share of the update", ax)


def plot_rank_allocation(result: RankAllocation, ax: Axes | None = None) -> Axes:
    """Draw the energy kept against the total rank, allocated and uniform.

    Parameters
    ----------
    result
        From `allocate_rank`.
    ax
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
    """
    with styled():
        ax = axes_or_new(ax)
        curve = result.curve
        ax.plot(curve["budget"], curve["energy_kept"], color=COLORS["B"], label="allocated")
        ax.plot(curve["budget"], curve["uniform_energy_kept"], "--", color=COLORS["null"], label="equal ranks")
        ax.axvline(result.settings["budget"], color=COLORS["theory"], linewidth=0.8, linestyle=":", label="budget")
        ax.set(xlabel="total rank", ylabel="energy kept", ylim=(0, 1.03))
        legend_below(ax)
    return ax


def plot_chain(result: ChainCoverage, ax: Axes | None = None) -> Axes:
    """Draw how much of each block lies inside the span of those before it, beside random blocks.

    Parameters
    ----------
    result
        From `chain_coverage`.
    ax
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
    """
    series: list[Series] = [("inside", "inside earlier blocks", "inside_null_mean")]
    return _by_group(result.frame[result.frame["block"] > 1], "block", series, "share of the block's A", ax)


def plot_factor_movement(result: FactorMovement, ax: Axes | None = None) -> Axes:
    """Draw the share of each interval's change that A made.

    Parameters
    ----------
    result
        From `factor_movement`.
    ax
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
    """
    return _by_group(result.frame, "second", [("A_share", "A's share", None)], "share of the update's change", ax)


def plot_merge_compensation(result: MergeCompensation, ax: Axes | None = None) -> Axes:
    """Draw the error of a merge as it is, with its best scale and of the best update, by projection.

    Parameters
    ----------
    result
        From `merge_compensation`.
    ax
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
    """
    series: list[Series] = [
        ("error", "merged", "error_orthogonal"),
        ("error_scaled", "merged and scaled", None),
        ("error_optimum", "best update", None),
    ]
    return _by_group(result.frame, "projection", series, "share of each adapter lost", ax)


def plot_crowding(result: Crowding, ax: Axes | None = None) -> Axes:
    """Draw how many adapters use each shared direction, beside independent random spaces.

    Parameters
    ----------
    result
        From `crowding`.
    ax
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
    """
    return _by_group(result.frame, "index", [("use", "adapters", "null_use")], "adapters that use the direction", ax)


def plot_projection_terms(result: ProjectionTerms, ax: Axes | None = None) -> Axes:
    """Draw each projection's share of the update and of the trained numbers, beside an even spread.

    Parameters
    ----------
    result
        From `projection_terms`.
    ax
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
    """
    series: list[Series] = [("update_share", "of ||ΔW||²", "even_share"), ("parameters_share", "of the numbers", None)]
    return _by_group(result.frame, "projection", series, "share", ax)


def plot_direction_worth(result: DirectionWorth, ax: Axes | None = None) -> Axes:
    """Draw the first-order effect of every rank-one part, in standard deviations of a random part.

    Parameters
    ----------
    result
        From `direction_worth`.
    ax
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
    """
    frame = result.frame.assign(zero=0.0)
    return _by_group(frame, "index", [("z", "effect on the loss", "zero")], "effect / spread of a random part", ax)


def plot_gradient_alignment(result: GradientAlignment, ax: Axes | None = None) -> Axes:
    """Draw the overlaps with the gradient's leading spaces, A and B, beside random spaces.

    Parameters
    ----------
    result
        From `gradient_alignment`.
    ax
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
    """
    return _by_group(result.frame, "factor", [("overlap", "overlap", "null_mean")], "overlap with the gradient", ax)


def plot_intruder_scaling(result: IntruderScaling, ax: Axes | None = None) -> Axes:
    """Draw what scaling the intruders keeps of the update and of the change on general inputs.

    Parameters
    ----------
    result
        From `intruder_scaling`.
    ax
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
    """
    summary = result.summary()
    with styled():
        ax = axes_or_new(ax)
        for index, (column, label) in enumerate(
            (
                ("task_kept", "update kept"),
                ("general_change", "change on general inputs"),
                ("uniform_change", "the same, whole update scaled"),
            )
        ):
            if summary[column].notna().any():
                ax.plot(summary["scale"], summary[column], marker=SHAPES[index], color=SERIES[index], label=label)
        ax.set(xlabel="scale of the intruders", ylabel="relative to scale 1")
        legend_below(ax)
    return ax


def plot_expert_sharing(result: ExpertSharing, ax: Axes | None = None) -> Axes:
    """Draw the experts' energy in a shared space against its dimension, A and B, beside random directions.

    Parameters
    ----------
    result
        From `expert_sharing`.
    ax
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
    """
    summary = result.summary()
    with styled():
        ax = axes_or_new(ax)
        for factor, marker in (("A", "s"), ("B", "o")):
            part = summary[summary["factor"] == factor]
            ax.plot(part["rank"], part["energy"], marker=marker, color=COLORS[factor], label=factor)
            label = f"{factor}, random directions"
            ax.plot(part["rank"], part["null_mean"], "--", marker=marker, color=COLORS["null"], label=label, zorder=0)
        ax.set(xlabel="dimension of the shared space", ylabel="energy inside", ylim=(0, 1.03))
        legend_below(ax)
    return ax


def plot_clusters(result: AdapterClusters, ax: Axes | None = None) -> Axes:
    """Draw the error of shared bases against the numbers stored, one point a number of clusters.

    Parameters
    ----------
    result
        From `clustered_diagonalization`.
    ax
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
    """
    sizes = result.sizes
    with styled():
        ax = axes_or_new(ax)
        ax.plot(sizes["ratio"], sizes["error"], marker="o", color=COLORS["B"], label="clusters")
        for row in sizes.itertuples():
            ax.annotate(str(row.clusters), (row.ratio, row.error), xytext=(4, 4), textcoords="offset points")
        ax.set(xlabel="numbers stored / numbers of the separate adapters", ylabel="relative squared error")
        legend_below(ax)
    return ax


def plot_mean_baseline(result: MeanAdapterBaseline, ax: Axes | None = None) -> Axes:
    """Draw how much of each adapter the mean of the others and their common space explain, beside a random space.

    Parameters
    ----------
    result
        From `mean_adapter_baseline`.
    ax
        Where to draw; a new figure by default.

    Returns
    -------
    Axes
    """
    series: list[Series] = [
        ("by_mean", "mean of the others", None),
        ("by_shared_space", "their common space", "random_share"),
    ]
    return _by_group(result.frame, "adapter", series, "share of the adapter", ax)


def _by_group(frame: pd.DataFrame, group: str, series: Sequence[Series], label: str, ax: Axes | None) -> Axes:
    """Points of every module in columns by group, medians as bars, chance as a grey line across each column."""
    names: list[Any] = list(dict.fromkeys(frame[group]))
    numbers = all(isinstance(name, int | np.integer) for name in names)
    if numbers:
        names = sorted(names)
    with styled():
        ax = axes_or_new(ax, height=2.4 + (0 if numbers else 0.05 * max(len(str(name)) for name in names)))
        width = 0.8 / len(series)
        chance = "chance"
        for index, (column, text, null) in enumerate(series):
            for position, name in enumerate(names):
                values = frame.loc[frame[group] == name, column].to_numpy(dtype=float)
                values = values[np.isfinite(values)]
                centre = position - 0.4 + width * (index + 0.5)
                spread = np.linspace(-0.3, 0.3, len(values)) * width if len(values) > 1 else np.zeros(len(values))
                first = position == 0
                ax.plot(
                    centre + spread, values, SHAPES[index], color=SERIES[index], markersize=3, alpha=0.6,
                    label=text if first else None,
                )  # fmt: skip
                if len(values):
                    ends = [centre - width / 3, centre + width / 3]
                    ax.plot(ends, [np.median(values)] * 2, color=SERIES[index], linewidth=2)
                if null is not None:
                    level = frame.loc[frame[group] == name, null].mean()
                    ends = [position - 0.42, position + 0.42]
                    ax.plot(ends, [level] * 2, color=COLORS["null"], linewidth=1.6, label=chance, zorder=0)
                    chance = "_nolegend_"
        slanted = not numbers and max(len(str(name)) for name in names) * len(names) > 30
        ax.set_xticks(
            range(len(names)), [str(name) for name in names], rotation=40 if slanted else 0,
            ha="right" if slanted else "center",
        )  # fmt: skip
        ax.set_ylabel(label)
        if numbers:
            ax.set_xlabel(group)
        legend_below(ax)
    return ax
