"""The figure of the repeated trainings, from the table of benchmarks/bounds_hold.py.

python figures/bounds.py --results results
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from asym_analysis.plots.bounds import plot_repeated_certificates
from asym_analysis.plots.style import DOUBLE_COLUMN, save_figure, styled

mpl.use("Agg")

NAMES = {"B": "B only", "A": "A only", "both": "A and B"}
SETTINGS = {"easy": "much data", "prior": "little data, trained prior"}


def repeated(table: pd.DataFrame) -> plt.Figure:
    """True against certified risk: a row of panels for each setting, a column for each trained factor."""
    with styled():
        figure, axes = plt.subplots(len(SETTINGS), 3, figsize=(DOUBLE_COLUMN, 5.4), sharex=True, sharey="row")
        named: dict[str, Any] = {}
        for row, (setting, title) in zip(axes, SETTINGS.items(), strict=True):
            part = table[table["setting"] == setting]
            for ax, (tuned, name) in zip(row, NAMES.items(), strict=True):
                plot_repeated_certificates(part[part["tuned"] == tuned], ax)
                ax.set_xlim(0, 1.02)
                ax.set_ylim(0, 1.15 * float(part["true_risk"].max()))
                named |= _one_legend_for_all(ax, f"{name}, {title}")
                ax.label_outer()
        figure.legend(named.values(), named, loc="outside lower center", ncols=3)
    return figure


def _one_legend_for_all(ax: Axes, name: str) -> dict[str, Any]:
    """Take a panel's legend away; its title says instead which series has violations."""
    handles, labels = ax.get_legend_handles_labels()
    ax.get_legend().remove()
    rates = [
        label.removesuffix(" violated") for label in labels if label.endswith("violated") and ": 0.0%" not in label
    ]
    rates = [rate for rate in rates if not rate.startswith("true")]
    ax.set_title(f"{name}\nviolated: {', '.join(rates).replace(':', '')}", fontsize=7)
    return {
        label if label.startswith("true") else label.split(":")[0]: h for h, label in zip(handles, labels, strict=True)
    }


def main() -> None:
    """Read the table and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True, help="folder with bounds_hold.csv")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    chosen = parser.parse_args()
    save_figure(repeated(pd.read_csv(chosen.results / "bounds_hold.csv")), chosen.out / "bounds_hold")


if __name__ == "__main__":
    main()
