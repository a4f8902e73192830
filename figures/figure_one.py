"""Draw figures/figure_one, the paper's Figure 1 and its reversal, and write the means as figures/figure_one.csv.

    python figures/figure_one.py RUNS [folder] [--rate 4e-3]

RUNS is the folder of `asym finetune figure-one-encoder`. The runs of one seed start from one random factor on every
task, so that all three panels of the paper (one task from several seeds, several tasks from one seed, and from several)
are pairs of the same runs: with A random and B zero at first (LoRA), and the reverse.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from asym_analysis import AdapterSet, SubspaceComparison, compare_subspaces, load_adapter
from asym_analysis.plots.heatmap import plot_figure_one
from asym_analysis.plots.style import save_figure

DIRECTIONS = {"hB_0 hA_Km": "A random, B zero at first", "hB_rand hA_0": "A zero, B random at first"}
KINDS = ("one task, several seeds", "several tasks, one seed", "several tasks, several seeds")


def runs_of(folder: Path, variant: str, rate: float) -> AdapterSet:
    """The runs of a variant at one learning rate, seed by seed, in order of task."""
    table = pd.read_csv(folder / "runs.csv").query("variant == @variant and learning_rate == @rate")
    table = table.sort_values(["task", "seed"], ignore_index=True)
    adapters = [load_adapter(folder / name) for name in table["name"]]
    names = [f"{task} {seed}" for task, seed in zip(table["task"], table["seed"], strict=True)]
    return AdapterSet(adapters, table[["task", "seed"]].assign(name=names))


def means(comparison: SubspaceComparison, direction: str) -> pd.DataFrame:
    """Mean overlap of A and of B for each kind of pair, with chance."""
    same_task, same_start = comparison.same("task"), comparison.same("seed")
    masks = (same_task & ~same_start, ~same_task & same_start, ~same_task & ~same_start)
    kinds = dict(zip(KINDS, masks, strict=True))
    rows = []
    for index, factor in enumerate(comparison.factors):
        values = comparison.values[:, index]  # noqa: PD011  (an array of ours, not pandas)
        for kind, chosen in kinds.items():
            each = values[:, chosen].mean(axis=0)
            row = {"direction": direction, "factor": factor, "pairs": kind, "number": int(chosen.sum())}
            rows.append(row | {"mean": float(each.mean()), "lowest": float(each.min()), "highest": float(each.max())})
    return pd.DataFrame(rows)


def main() -> None:
    """Compare, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent)
    parser.add_argument("--rate", type=float, default=4e-3)
    options = parser.parse_args()
    comparisons, tables = {}, []
    for variant, direction in DIRECTIONS.items():
        chosen = runs_of(options.runs, variant, options.rate)
        comparisons[direction] = compare_subspaces(chosen)
        tables.append(means(comparisons[direction], direction))
        moved = compare_subspaces(chosen, subtract_initial=True)
        tables.append(means(moved, direction).replace({"factor": {"A": "A - A0", "B": "B - B0"}}))
    table = pd.concat(tables, ignore_index=True)
    chance = [comparison.frame["null_mean"].mean() for comparison in comparisons.values()]
    table.assign(chance=np.mean(chance)).to_csv(options.folder / "figure_one.csv", index=False, float_format="%.4g")
    save_figure(plot_figure_one(comparisons), options.folder / "figure_one")


if __name__ == "__main__":
    main()
