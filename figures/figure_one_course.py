"""Draw figures/figure_one_course: how the paper's Figure 1 and its reversal come about, at three learning rates.

    python figures/figure_one_course.py measure RUNS [folder]
    python figures/figure_one_course.py draw [folder]

RUNS is the folder of `asym finetune figure-one`. The runs of one seed start from one random factor on every task, so
that all three panels of the paper (one task from several seeds, several tasks from one seed, and from several) are
pairs of the same runs: with A random and B zero at first (LoRA), and the reverse. The first writes the similarity of
every kind of pair and the movement after 2, 4, 8, ... steps as figure_one_course.csv; both draw it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes

from asym_analysis import Adapter, AdapterSet, SubspaceComparison, compare_subspaces, load_adapter
from asym_analysis.finetuning.storage import COURSE
from asym_analysis.plots.style import COLORS, DOUBLE_COLUMN, save_figure, styled

VARIANTS = {
    "hB_0 hA_Km": "A random, B zero at first",
    "hB_rand hA_0": "A zero, B random at first",
    "hB_0 A_rand": "B alone, A frozen",
    "B_rand hA_0": "A alone, B frozen",
}
DRAWN = tuple(VARIANTS.values())[:2]
KINDS = {"one task, several seeds": "-", "several tasks, one seed": "--", "several tasks, several seeds": ":"}

# Where there is no colour, the factors differ by their markers.
MARKS: dict[str, dict[str, Any]] = {"A": {"marker": "s", "markersize": 2.5}, "B": {"marker": "o", "markersize": 2.5}}


def kinds(comparison: SubspaceComparison) -> dict[str, np.ndarray]:
    """Which pairs are of each kind."""
    same_task, same_start = comparison.same("task"), comparison.same("seed")
    masks = (same_task & ~same_start, ~same_task & same_start, ~same_task & ~same_start)
    return dict(zip(KINDS, masks, strict=True))


def similarities(adapters: AdapterSet, *, less_initial: bool = False) -> Iterator[dict[str, Any]]:
    """Mean, lowest and highest overlap of each factor and kind of pair, with chance."""
    comparison = compare_subspaces(adapters, subtract_initial=less_initial)
    chance = comparison.frame.groupby("factor")["null_mean"].mean()
    for index, factor in enumerate(comparison.factors):
        values = comparison.values[:, index]  # noqa: PD011  (an array of ours, not pandas)
        if np.isnan(values).all():  # F - F0 of a frozen factor is zero, and has no directions
            continue
        for kind, chosen in kinds(comparison).items():
            each = np.nanmean(values[:, chosen], axis=0)
            yield {
                "factor": f"{factor} - {factor}0" if less_initial else factor,
                "pairs": kind,
                "number": int(chosen.sum()),
                "mean": float(each.mean()),
                "lowest": float(each.min()),
                "highest": float(each.max()),
                "chance": float(chance[factor]),
            }


def movement(adapter: Adapter, initial: Adapter, factor: str) -> float:
    """||F - F0|| / ||F0||, the median over the modules; NaN where F0 is zero."""
    moved = []
    for module in adapter:
        now, start = (getattr(each[module], factor).double() for each in (adapter, initial))
        length = torch.linalg.matrix_norm(start)
        moved.append(float(torch.linalg.matrix_norm(now - start) / length) if length > 0 else float("nan"))
    return float(np.median(moved))


def measure(folder: Path) -> pd.DataFrame:
    """The whole table: variants, rates, steps, factors and kinds of pairs."""
    table = pd.read_csv(folder / "runs.csv").sort_values(["task", "seed"])
    parts = []
    for (variant, rate), members in table.groupby(["variant", "learning_rate"], sort=False):
        if members["task"].nunique() < 2:  # not run far enough to have pairs of every kind
            continue
        finals = [load_adapter(folder / name) for name in members["name"]]
        labels = members[["task", "seed"]]
        kept = {int(path.name.split("-")[1]) for path in (folder / members["name"].iloc[0] / COURSE).iterdir()}
        steps = sorted(kept - {1})  # the warm-up's first step has learning rate zero
        stages = {
            step: [load_adapter(folder / name / COURSE / f"checkpoint-{step}") for name in members["name"]]
            for step in steps
        } | {int(members["steps"].iloc[0]): finals}
        known = {"direction": VARIANTS[str(variant)], "learning_rate": rate}
        for step, adapters in stages.items():
            starts = [adapter.initial for adapter in finals]
            moved = {
                f"moved_{factor}": float(
                    np.mean([movement(a, s, factor) for a, s in zip(adapters, starts, strict=True)])
                )  # type: ignore[arg-type]
                for factor in "AB"
            }
            parts += [known | {"step": step} | row | moved for row in similarities(named(adapters, labels))]
        last = {"step": int(members["steps"].iloc[0])}
        parts += [known | last | row for row in similarities(named(finals, labels), less_initial=True)]
    return pd.DataFrame(parts)


def named(adapters: list[Adapter], labels: pd.DataFrame) -> AdapterSet:
    """A set whose members are called by task and seed."""
    names = [f"{task} {seed}" for task, seed in zip(labels["task"], labels["seed"], strict=True)]
    return AdapterSet(adapters, labels.assign(name=names))


def draw_course(table: pd.DataFrame, target: Path) -> None:
    """Similarity and movement against steps: a row a direction, a column a rate."""
    table = table[table["factor"].isin(["A", "B"])]
    rates = sorted(table["learning_rate"].unique())
    factors = {words: factor for words, factor in zip(DRAWN, "AB", strict=True) if (table["direction"] == words).any()}
    with styled():
        figure, axes = plt.subplots(
            2 * len(factors),
            len(rates),
            figsize=(DOUBLE_COLUMN, 0.9 + 2.7 * len(factors)),
            sharex=True,
            sharey="row",
            height_ratios=[3, 1.3] * len(factors),
        )
        for row, (direction, factor) in enumerate(factors.items()):
            for column, rate in enumerate(rates):
                members = table[(table["direction"] == direction) & (table["learning_rate"] == rate)]
                _similarity(axes[2 * row, column], members)
                _movement(axes[2 * row + 1, column], members, factor)
                if row == 0:
                    axes[0, column].set_title(f"learning rate {rate:g}")
            axes[2 * row, 0].set_ylabel(f"{direction}\noverlap")
            axes[2 * row + 1, 0].set_ylabel(f"{factor} moved")
        for ax in axes[-1]:
            ax.set_xlabel("steps")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
    save_figure(figure, target / "figure_one_course")


def _similarity(ax: Axes, members: pd.DataFrame) -> None:
    for factor in "AB":
        rows = members[members["factor"] == factor].sort_values("step")
        for kind, line in KINDS.items():
            pairs = rows[rows["pairs"] == kind]
            ax.plot(
                pairs["step"], pairs["mean"], line, color=COLORS[factor], label=f"{factor}: {kind}", **MARKS[factor]
            )
        ax.axhline(rows["chance"].mean(), color=COLORS[factor], linewidth=0.6, alpha=0.5, label=f"{factor}: chance")
    ax.set_xscale("log", base=2)
    ax.set_ylim(0, 1.02)


def _movement(ax: Axes, members: pd.DataFrame, factor: str) -> None:
    rows = members[members[f"moved_{factor}"] > 0].drop_duplicates("step").sort_values("step")
    ax.plot(rows["step"], rows[f"moved_{factor}"], color=COLORS[factor], **MARKS[factor])
    ax.axhline(1, color=COLORS["null"], linewidth=0.8)
    ax.set_yscale("log")


def main() -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("measure")
    one.add_argument("runs", type=Path)
    for command in (one, commands.add_parser("draw")):
        command.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    path = options.folder / "figure_one_course.csv"
    if options.command == "measure":
        measure(options.runs).to_csv(path, index=False, float_format="%.4g")
    draw_course(pd.read_csv(path), options.folder)


if __name__ == "__main__":
    main()
