"""Draw figures/placed_starts: what a frozen factor keeps of LoRA's gain, by how it was drawn or placed.

    python figures/placed_starts.py [folder]

The runs are those of `asym finetune placed-starts`, and the kept shares those of benchmarks/placed_starts.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from asym_analysis.plots.style import COLORS, DOUBLE_COLUMN, MARKERS, save_figure, styled
from asym_analysis.samples import sample_sweep

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from placed_starts import CONFIG, LORA, RESULTS, per_variant

# How the frozen factor was initialized, in the order of the picture: the end of a run's name -> words.
STARTS = {
    "rand": "orthonormal",
    "Km": "Kaiming",
    "N": "Gaussian",
    "E": "coordinates",
    "V": "weight, first",
    "U": "weight, first",
    "V-last": "weight, last",
    "U-last": "weight, last",
    "X": "inputs or outputs, first",
    "Y": "inputs or outputs, first",
    "X-last": "inputs or outputs, last",
    "Y-last": "inputs or outputs, last",
    "null": "inputs of stories, last",
    "G": "first gradient",
}
SIDES = {"B": "A frozen, B trained", "A": "B frozen, A trained"}


def draw_by_start(ax: Axes, table: pd.DataFrame) -> None:
    """A row for each way to initialize the frozen factor."""
    run = {STARTS[name.split("-only-")[1]] for name in table.index if "-only-" in name}
    places = {words: row for row, words in enumerate(words for words in dict.fromkeys(STARTS.values()) if words in run)}
    for tuned, words in SIDES.items():
        members = table[table["tuned"] == tuned]
        rows = [places[STARTS[run.split("-only-")[1]]] + (0.15 if tuned == "A" else -0.15) for run in members.index]
        errors = members["loss_error"] / members["lora_gain"]
        ax.errorbar(
            members["kept_gain"], rows, xerr=errors, fmt=MARKERS[tuned], color=COLORS[tuned], markersize=4, label=words
        )
    ax.axvline(1, color=COLORS["null"], linewidth=0.8)
    ax.set_yticks(list(places.values()), list(places))
    ax.invert_yaxis()
    ax.set_xlabel("kept part of LoRA's gain")


def draw_scatter(ax: Axes, table: pd.DataFrame, x: str, y: str, labels: tuple[str, str]) -> None:
    """One dot a variant."""
    for tuned in SIDES:
        members = table[table["tuned"] == tuned]
        ax.plot(members[x], members[y], MARKERS[tuned], color=COLORS[tuned], markersize=4)
    ax.set_xlabel(labels[0])
    ax.set_ylabel(labels[1])


def main() -> None:
    """Draw the three panels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent)
    folder = parser.parse_args().folder
    table = per_variant(pd.read_csv(RESULTS), sample_sweep(CONFIG)[0])
    with styled():
        figure, axes = plt.subplots(1, 3, figsize=(DOUBLE_COLUMN + 1, 3.0), width_ratios=[1.5, 1, 1])
        draw_by_start(axes[0], table)
        draw_scatter(
            axes[1], table, "kept_share", "kept_gain", ("share of LoRA's update kept", "kept part of LoRA's gain")
        )
        draw_scatter(
            axes[2], table, "kept_gain", "forgotten", ("kept part of LoRA's gain", "loss on stories, rise in nats")
        )
        lora = table.loc[LORA]
        axes[2].plot(lora["kept_gain"], lora["forgotten"], MARKERS["both"], color=COLORS["both"], label="LoRA")
        handles = [handle for ax in (axes[0], axes[2]) for handle in ax.get_legend_handles_labels()[0]]
        figure.legend(handles, [*SIDES.values(), "LoRA"], loc="outside lower center", ncols=3)
    save_figure(figure, folder / "placed_starts")
    plt.close("all")


if __name__ == "__main__":
    main()
