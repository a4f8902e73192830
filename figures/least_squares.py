"""Draw figures/least_squares and figures/regimes: python figures/least_squares.py [folder]."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from asym_analysis.least_squares import (
    compare_finite_samples,
    compare_theory,
    isotropic,
    power_law,
    regime_map,
    sweep,
    synthetic_problem,
)
from asym_analysis.plots.least_squares import theory_and_simulation
from asym_analysis.plots.style import DOUBLE_COLUMN, save_figure, styled


def draw_least_squares(folder: Path) -> None:
    """Theory through simulation, against rank, spectrum, dimension and training samples."""
    power = synthetic_problem(power_law(128, 1.0), 128)
    exponents = {a: synthetic_problem(power_law(128, a), 128) for a in np.linspace(0.0, 2.0, 9).tolist()}
    dimensions = {d: synthetic_problem(isotropic(d), 64) for d in (16, 32, 64, 128, 256)}
    noisy = synthetic_problem(isotropic(32), 32, noise_variance=0.03)
    tables = [
        (compare_theory(power, [1, 2, 4, 8, 16, 32], draws=400), "a  power law i$^{-1}$, 128 x 128"),
        (sweep("exponent", exponents, 8, draws=400), "b  rank 8, 128 x 128"),
        (sweep("d_in", dimensions, 8, draws=400), "c  isotropic, rank 8, 64 outputs"),
        (
            compare_finite_samples(noisy, 4, [10, 14, 20, 26, 38, 48, 64, 128, 256], draws=300),
            "d  isotropic, rank 4, 32 x 32",
        ),
    ]
    with styled():
        figure, axes = plt.subplots(2, 2, figsize=(DOUBLE_COLUMN, 5.0))
        for ax, (result, title) in zip(axes.flat, tables, strict=True):
            result.plot(ax)
            ax.get_legend().remove()
            ax.set_title(title, loc="left")
        axes[1, 1].set_xticks([16, 32, 64, 128, 256], ["16", "32", "64", "128", "256"])
        handles = [*axes[0, 0].get_legend_handles_labels()[0], *theory_and_simulation()]
        figure.legend(handles=handles, loc="outside upper center", ncols=5)
    save_figure(figure, folder / "least_squares")
    plt.close(figure)


def draw_regimes(folder: Path) -> None:
    """Who wins over spectrum and alignment, for a square weight and for one with more inputs than outputs."""
    exponents, alignments = np.linspace(0.1, 2.0, 15).tolist(), np.linspace(-1.0, 2.0, 16).tolist()
    shapes = [(64, 64), (128, 32)]
    maps = [regime_map(d_in, d_out, 4, exponents=exponents, alignments=alignments, draws=100) for d_in, d_out in shapes]
    limit = max(float(np.abs(np.log2(result.frame["index"])).max()) for result in maps)
    with styled():
        figure, axes = plt.subplots(1, 2, figsize=(DOUBLE_COLUMN, 3.3))
        for ax, result in zip(axes, maps, strict=True):
            result.plot(ax, limit=limit)
    save_figure(figure, folder / "regimes")
    plt.close(figure)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    draw_least_squares(target)
    draw_regimes(target)
