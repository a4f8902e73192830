"""What the least-squares figures show is what their tables say."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer

mpl.use("Agg")

import matplotlib.pyplot as plt

from asym_analysis.least_squares import (
    compare_finite_samples,
    compare_theory,
    isotropic,
    power_law,
    regime_map,
    synthetic_problem,
)
from asym_analysis.plots.least_squares import plot_least_squares
from asym_analysis.plots.regimes import plot_regimes


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def test_points_lines_and_bars_are_those_of_the_table() -> None:
    table = compare_theory(synthetic_problem(power_law(16, 1.0), 12), [4, 1, 2], draws=60)
    ax = plot_least_squares(table)
    bars = [container for container in ax.containers if isinstance(container, ErrorbarContainer)]
    assert [bar.get_label() for bar in bars] == ["A tuned", "B tuned", "both tuned"]
    rows = table[table.tuned == "B"].sort_values("rank")
    points = bars[1].lines[0]
    np.testing.assert_array_equal(points.get_xdata(orig=False), [1, 2, 4])
    np.testing.assert_allclose(points.get_ydata(orig=False), rows.loss)
    segments = bars[1].lines[2][0].get_segments()
    np.testing.assert_allclose([s[1, 1] - s[0, 1] for s in segments], 6 * rows.standard_error)
    drawn = [line.get_ydata(orig=False).tolist() for line in ax.lines]
    assert drawn.count(rows.theory.tolist()) == 1
    assert ax.get_xscale() == "log"


def test_other_quantities_go_along_the_axis() -> None:
    table = compare_finite_samples(synthetic_problem(isotropic(8), 6, noise_variance=0.1), 2, [16, 32], draws=20)
    _, ax = plt.subplots()
    assert plot_least_squares(table, "samples", ax) is ax
    assert ax.get_xlabel() == "training samples n"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["16", "32"]
    with pytest.raises(ValueError, match="exponent"):
        plot_least_squares(table, "exponent")


def test_the_map_shows_the_simulated_ratios_and_the_boundary() -> None:
    table = regime_map(16, 16, 2, exponents=[0.5, 1.0, 1.5], alignments=[-1.0, 1.0], draws=40)
    ax = plot_regimes(table)
    mesh = ax.collections[0]
    expected = np.log2(table.sort_values(["alignment", "exponent"])["index"].to_numpy())
    np.testing.assert_allclose(np.asarray(mesh.get_array()).ravel(), expected)
    low, high = mesh.get_clim()
    assert low == -high  # white is a tie
    # Between an alignment of minus one and of one the winner changes, for every exponent.
    heights = np.concatenate([path.vertices for path in ax.collections[1].get_paths()])[:, 1]
    assert -1 < heights.min() <= heights.max() < 1
    assert "$d_{in}$ = 16" in ax.get_title()


def test_a_map_with_holes_is_refused() -> None:
    table = regime_map(8, 8, 2, exponents=[0.5, 1.0], alignments=[-1.0, 1.0], draws=10)
    with pytest.raises(ValueError, match="full grid"):
        plot_regimes(table.iloc[:3])
