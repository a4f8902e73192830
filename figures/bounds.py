"""The figure of the repeated trainings, from the table of benchmarks/bounds_hold.py.

python figures/bounds.py --results results
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd

from asym_analysis.plots.bounds import plot_repeated_certificates
from asym_analysis.plots.style import DOUBLE_COLUMN, save_figure, styled

mpl.use("Agg")

NAMES = {"B": "B only", "A": "A only", "both": "A and B"}
SETTINGS = {"easy": "much data", "prior": "little data,\nprior from\nother samples"}


def repeated(table: pd.DataFrame) -> plt.Figure:
    """True against certified risk: a row of panels for each setting, a column for each trained factor."""
    with styled():
        figure, axes = plt.subplots(len(SETTINGS), 3, figsize=(DOUBLE_COLUMN, 6.6), sharex="row", sharey="row")
        for row, (setting, title) in zip(axes, SETTINGS.items(), strict=True):
            part = table[table["setting"] == setting]
            for ax, (tuned, name) in zip(row, NAMES.items(), strict=True):
                plot_repeated_certificates(part[part["tuned"] == tuned], ax)
                ax.set_xlim(0, 1.02)
                ax.set_ylim(0, 1.15 * float(part["true_risk"].max()))
                ax.text(0.98, 0.03, f"{name}\n{title}", ha="right", va="bottom", transform=ax.transAxes, fontsize=7)
                ax.label_outer()
    return figure


def main() -> None:
    """Read the table and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True, help="folder with bounds_hold.csv")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    chosen = parser.parse_args()
    save_figure(repeated(pd.read_csv(chosen.results / "bounds_hold.csv")), chosen.out / "bounds_hold")


if __name__ == "__main__":
    main()
