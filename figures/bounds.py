"""Figures of the bounds from the tables of benchmarks/sst2/run.py and benchmarks/bounds_hold.py.

python figures/bounds.py --results results
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd

from asym_analysis.plots.bounds import plot_certificates, plot_repeated_certificates
from asym_analysis.plots.style import DOUBLE_COLUMN, save_figure, styled

mpl.use("Agg")


def sst2(table: pd.DataFrame, rank: int) -> plt.Figure:
    """Certificates without and with a data-dependent prior: the best row of the headline form of each run."""
    chosen = table[(table["form"] == "kl-inverse") & (table["rank"] == rank)]
    with_prior = chosen["prior"] == "data"
    with styled():
        figure, axes = plt.subplots(1, 2, figsize=(DOUBLE_COLUMN, 2.6), sharey=True)
        for ax, part, title in (
            (axes[0], chosen[~with_prior], "prior at the initialization"),
            (axes[1], chosen[with_prior], "prior from the other half of the data"),
        ):
            best = part.loc[part.groupby(["tuned", "seed"])["risk"].idxmin()]
            plot_certificates(best, ax)
            ax.set_title(title)
        top = max(ax.get_ylim()[1] for ax in axes)
        axes[0].set_ylim(0, top)
        axes[1].set_ylabel("")
        axes[1].get_legend().remove()
    return figure


def repeated(table: pd.DataFrame) -> plt.Figure:
    """True against certified risk for the three ways of training."""
    names = {"B": "B only", "A": "A only", "both": "A and B"}
    with styled():
        figure, axes = plt.subplots(1, 3, figsize=(DOUBLE_COLUMN, 3.0), sharex=True, sharey=True)
        for ax, (tuned, name) in zip(axes, names.items(), strict=True):
            plot_repeated_certificates(table[table["tuned"] == tuned], ax)
            ax.set_xlim(0, 0.9)
            ax.set_ylim(0, 0.5)
            ax.text(0.88, 0.02, name, ha="right", va="bottom")
            ax.label_outer()
    return figure


def main() -> None:
    """Read the tables and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True, help="folder with the two tables")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--rank", type=int, default=8)
    chosen = parser.parse_args()
    save_figure(sst2(pd.read_csv(chosen.results / "certificates.csv"), chosen.rank), chosen.out / "bounds_sst2")
    save_figure(repeated(pd.read_csv(chosen.results / "bounds_hold.csv")), chosen.out / "bounds_hold")


if __name__ == "__main__":
    main()
