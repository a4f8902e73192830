"""What the least-squares figures show is what their tables say."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.container import ErrorbarContainer

mpl.use("Agg")

import matplotlib.pyplot as plt

from asym_analysis.least_squares import (
    Validation,
    compare_finite_samples,
    compare_theory,
    descent_path,
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
    result = compare_theory(synthetic_problem(power_law(16, 1.0), 12), [4, 1, 2], draws=60)
    ax, table = result.plot(), result.frame
    bars = [container for container in ax.containers if isinstance(container, ErrorbarContainer)]
    assert [bar.get_label() for bar in bars] == ["A trained", "B trained", "both trained"]
    rows = table[table.tuned == "B"].sort_values("rank")
    points = bars[1].lines[0]
    np.testing.assert_array_equal(points.get_xdata(orig=False), [1, 2, 4])
    np.testing.assert_allclose(points.get_ydata(orig=False), rows.loss)
    segments = bars[1].lines[2][0].get_segments()
    np.testing.assert_allclose([s[1, 1] - s[0, 1] for s in segments], 6 * rows.standard_error)
    drawn = [line.get_ydata(orig=False).tolist() for line in ax.lines]
    assert drawn.count(rows.theory.tolist()) == 1
    assert ax.get_xscale() == "log"
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == ["A trained", "B trained", "both trained", "theory", "simulated, ± 3 s.e."]
    line, marker = ax.get_legend().legend_handles[-2:]
    assert (line.get_linestyle(), line.get_marker()) == ("-", "None")
    assert (marker.get_linestyle(), marker.get_marker()) == ("None", "o")
    assert ax.figure.get_layout_engine().__class__.__name__ == "ConstrainedLayoutEngine"


def test_other_quantities_go_along_the_axis() -> None:
    result = compare_finite_samples(synthetic_problem(isotropic(8), 6, noise_variance=0.1), 2, [16, 32], draws=20)
    _, ax = plt.subplots()
    assert plot_least_squares(result, ax) is ax
    assert ax.get_xlabel() == "training samples n"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["16", "32"]
    with pytest.raises(ValueError, match="exponent"):
        plot_least_squares(result, x="exponent")


def test_the_map_shows_the_simulated_ratios_and_the_boundary() -> None:
    result = regime_map(16, 16, 2, exponents=[0.5, 1.0, 1.5], alignments=[-1.0, 1.0], draws=40)
    ax, table = result.plot(), result.frame
    mesh = ax.collections[0]
    expected = np.log2(table.sort_values(["alignment", "exponent"])["index"].to_numpy())
    np.testing.assert_allclose(np.asarray(mesh.get_array()).ravel(), expected)
    low, high = mesh.get_clim()
    assert low == -high  # white is a tie
    # Between an alignment of minus one and of one the winner changes, for every exponent.
    heights = np.concatenate([path.vertices for path in ax.collections[1].get_paths()])[:, 1]
    assert -1 < heights.min() <= heights.max() < 1
    # Without colour the signs still show: levels are written with theirs.
    written = {text.get_text() for text in ax.texts}
    assert {sign for sign, *_ in written} == {"+", "-"}
    assert all(table["index"].min() < 2.0 ** float(text) < table["index"].max() for text in written)
    assert "$d_{in}$ = 16" in ax.get_title()


def test_a_map_with_holes_is_refused() -> None:
    table = regime_map(8, 8, 2, exponents=[0.5, 1.0], alignments=[-1.0, 1.0], draws=10).frame
    with pytest.raises(ValueError, match="full grid"):
        plot_regimes(table.iloc[:3])


def test_validation_shows_what_disagrees() -> None:
    rows = [
        {"quantity": "loss", "difference": 0.05, "tolerance": 0.1},
        {"quantity": "similarity", "difference": 0.6, "tolerance": 0.3},
    ]
    ax = Validation(pd.DataFrame(rows), {}).plot()
    points = {line.get_label(): line.get_ydata() for line in ax.lines}
    assert points["loss"] == pytest.approx([0.5], abs=1e-6)
    assert points["similarity"] == pytest.approx([2.0], abs=1e-6)


def test_paths_end_at_their_limit() -> None:
    path = descent_path(synthetic_problem(isotropic(4), 4), learning_rate=0.5, steps=20, B=torch.eye(4)[:, :2])
    ax = path.plot(label="B frozen")
    drawn, limit = ax.lines
    np.testing.assert_allclose(drawn.get_ydata(), path.frame.loss)
    assert limit.get_ydata()[0] == pytest.approx(path.frame.loss.iloc[-1], rel=1e-5)
    assert ax.get_legend().get_texts()[0].get_text() == "B frozen"
