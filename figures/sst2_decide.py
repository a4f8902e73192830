"""The figure of the experiment on which factor's training tightens the bound, from the table of benchmarks/sst2.

python figures/sst2_decide.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from asym_analysis.plots.style import COLORS, DOUBLE_COLUMN, save_figure, styled

mpl.use("Agg")

ARMS = ("none", "B r4", "A r4", "both r4", "both r2", "B r8", "both r4 from B")
PARTS = {
    "B_means": ("B, means", COLORS["B"], ""), "B_scales": ("B, noise", COLORS["B"], "////"),
    "A_means": ("A, means", COLORS["A"], "...."), "A_scales": ("A, noise", COLORS["A"], "xxxx"),
}  # fmt: skip


def decided(table: pd.DataFrame) -> plt.Figure:
    """Certified and true risk of every arm, and what the KL is spent on; a column for each sample size."""
    sizes = sorted(table["n"].unique())
    with styled():
        figure, axes = plt.subplots(
            2, len(sizes), figsize=(DOUBLE_COLUMN, 5.0), sharex=True, sharey="row", squeeze=False,
            gridspec_kw={"height_ratios": (3, 2)},
        )  # fmt: skip
        for (upper, lower), n in zip(axes.T, sizes, strict=True):
            part = table[table["n"] == n]
            _risks(part, upper)
            _spent(part, lower)
            seeds = part.loc[part["arm"] != "none"].groupby("arm")["seed"].nunique().max()
            upper.set_title(f"n = {n:,}, {seeds} seed{'s' * int(seeds > 1)}", fontsize=8)
        axes[0, 0].set_ylabel("error")
        axes[1, 0].set_ylabel("KL, nats")
        axes[0, -1].legend(fontsize=6, loc="upper right")
        axes[1, 0].legend(fontsize=6)
    return figure


def _risks(part: pd.DataFrame, ax: plt.Axes) -> None:
    for place, arm in enumerate(ARMS):
        rows = part[part["arm"] == arm]
        first = place == 1
        if arm == "none":
            ax.axhline(
                rows["risk"].mean(), color="0.6", linewidth=0.8, linestyle="--", label="certified, nothing trained"
            )
            rows = rows.assign(gibbs_true=rows["centre_true"])
        at = place + np.linspace(-0.12, 0.12, len(rows)) if len(rows) > 1 else np.full(len(rows), float(place))
        ax.plot(at, rows["risk"], "o", color=COLORS["both"], markersize=3.5, label="certified" if first else None)
        ax.plot(at, rows["gibbs_true"], "o", color="0.2", markersize=3.5, markerfacecolor="none",
                label="true, same predictor" if first else None)  # fmt: skip
        ax.plot(at, rows["hold_out"], "x", color="0.2", markersize=3.5,
                label="certified by hold-out, one adapter" if first else None)  # fmt: skip


def _spent(part: pd.DataFrame, ax: plt.Axes) -> None:
    means = part.groupby("arm")[list(PARTS)].mean().reindex(ARMS).fillna(0.0)
    below = np.zeros(len(ARMS))
    for column, (name, colour, hatch) in PARTS.items():
        ax.bar(range(len(ARMS)), means[column], bottom=below, color=colour, hatch=hatch, edgecolor="white",
               linewidth=0.3, label=name)  # fmt: skip
        below += means[column].to_numpy()
    ax.set_xticks(range(len(ARMS)), ARMS, rotation=60, ha="right", fontsize=6)


def main() -> None:
    """Read the table and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    results = Path(__file__).parents[1] / "benchmarks" / "results" / "sst2_decide.csv"
    parser.add_argument("--table", type=Path, default=results)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    chosen = parser.parse_args()
    table = pd.read_csv(chosen.table)
    save_figure(decided(table[table["arm"].isin(ARMS)]), chosen.out / "sst2_decide")


if __name__ == "__main__":
    main()
