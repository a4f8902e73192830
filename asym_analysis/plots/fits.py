"""Pictures of single fits: loss along training, what a noisy fit remembers, and outputs beyond least squares."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from asym_analysis.plots.least_squares import CHOICES, LABELS, simulated, theory_and_simulation
from asym_analysis.plots.style import COLORS, axes_or_new, styled

if TYPE_CHECKING:
    from asym_analysis.least_squares.dynamics import LossPath
    from asym_analysis.least_squares.noisy_information import InformationAndGap
    from asym_analysis.least_squares.nonlinear import NonlinearTraining

__all__ = ["plot_information", "plot_loss_path", "plot_nonlinear"]


def plot_loss_path(result: LossPath, ax: Axes | None = None, *, label: str | None = None) -> Axes:
    """Loss along training; call it again with the same axes to draw several paths.

    Parameters
    ----------
    result
        From `descent_path`, `alternating_path` or `chain_path`.
    ax
        Where to draw; a new figure when omitted.
    label
        For the legend; the trained factor when omitted.

    Returns
    -------
    Axes
        The axes drawn on.

    Examples
    --------
    >>> import torch
    >>> from asym_analysis.least_squares import LeastSquaresProblem, descent_path
    >>> problem = LeastSquaresProblem(torch.eye(2), torch.ones(2))
    >>> path = descent_path(problem, learning_rate=0.5, steps=3, B=torch.eye(2))
    >>> plot_loss_path(path).get_xlabel()
    'gradient step'
    """
    frame = result.frame
    trained = frame["tuned"].iloc[1:].unique()
    choice = str(trained[0]) if len(trained) == 1 else "both"
    with styled():
        ax = axes_or_new(ax)
        marker = "o" if len(frame) <= 30 else None
        ax.plot(
            frame["step"],
            frame["loss"],
            color=COLORS[choice],
            marker=marker,
            markersize=3,
            label=label or CHOICES[choice][0],
        )
        limit = float(result.settings.get("limit", np.inf))
        if np.isfinite(limit):
            ax.axhline(limit, color=COLORS["null"], linestyle=":", linewidth=1)
        ax.set(xlabel=str(result.settings["along"]), ylabel="expected loss on new data")
        ax.legend()
    return ax


def plot_information(result: InformationAndGap, ax: Axes | None = None) -> Axes:
    """The information bound as lines above the measured gap.

    Parameters
    ----------
    result
        From `information_against_gap`.
    ax
        Where to draw; a new figure when omitted.

    Returns
    -------
    Axes
        The axes drawn on, both scales logarithmic.

    Examples
    --------
    >>> import torch
    >>> from asym_analysis.least_squares import LeastSquaresProblem, information_against_gap
    >>> problem = LeastSquaresProblem(torch.eye(4), torch.ones(4), 1.0)
    >>> result = information_against_gap(problem, 2, [20, 40], noise_scale=0.1, clip=8.0, draws=20)
    >>> plot_information(result).get_xlabel()
    'training samples n'
    """
    frame = result.frame
    with styled():
        ax = axes_or_new(ax, width=4.4, height=2.8)
        handles = []
        for choice in CHOICES:
            rows = frame[frame["tuned"] == choice].sort_values("samples")
            if rows.empty:
                continue
            color = COLORS[choice]
            ax.plot(rows["samples"], rows["bound"], color=color)
            bars = simulated(ax, choice, rows["samples"], rows["gap"], rows["gap_standard_error"])
            handles.append(bars)
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ticks = sorted(frame["samples"].unique())
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        ax.set(xlabel=LABELS["samples"], ylabel="gap of the clipped loss")
        bound, gap = theory_and_simulation("measured gap, ± 3 s.e.")
        bound.set_label("bound from the information")
        ax.legend(handles=[*handles, bound, gap], loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return ax


def plot_nonlinear(result: NonlinearTraining, ax: Axes | None = None) -> Axes:
    """Part of the excess loss that training removed, one marker a draw, and the linear theory as a line.

    Parameters
    ----------
    result
        From `train_beyond_linear`.
    ax
        Where to draw; a new figure when omitted.

    Returns
    -------
    Axes
        The axes drawn on.

    Examples
    --------
    >>> import torch
    >>> from asym_analysis.least_squares import LeastSquaresProblem, train_beyond_linear
    >>> problem = LeastSquaresProblem(torch.eye(4), torch.ones(4))
    >>> result = train_beyond_linear(problem, 1, "softmax", samples=32, draws=2, steps=5)
    >>> [label.get_text() for label in plot_nonlinear(result).get_xticklabels()]
    ['A trained', 'B trained', 'both trained']
    """
    frame = result.frame
    present = [choice for choice in CHOICES if (frame["tuned"] == choice).any()]
    with styled():
        ax = axes_or_new(ax)
        for place, choice in enumerate(present):
            rows = frame[frame["tuned"] == choice]
            spread = place + np.linspace(-0.12, 0.12, len(rows)) * (len(rows) > 1)
            marker = CHOICES[choice][1]
            ax.plot(spread, rows["gain_fraction"], marker, color=COLORS[choice], markersize=4, markerfacecolor="white")
            ax.hlines(rows["linear_theory"].iloc[0], place - 0.3, place + 0.3, color=COLORS[choice])
        ax.set_xticks(range(len(present)), [CHOICES[choice][0] for choice in present])
        ax.set_ylabel("part of the excess loss removed")
        ax.set_xlabel(f"{frame['output'].iloc[0]} output, rank {frame['rank'].iloc[0]}")
        line, marks = theory_and_simulation("trained, one draw")
        line.set_label("linear theory")
        ax.legend(handles=[line, marks], loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return ax
