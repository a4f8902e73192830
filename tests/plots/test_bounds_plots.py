"""What the figures of the bounds show is what the tables say."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex

from asym_analysis import compute_bound
from asym_analysis.adapters import Adapter, TensorSource
from asym_analysis.bounds.report import BoundReport
from asym_analysis.plots.bounds import plot_bounds, plot_certificates, plot_repeated_certificates
from asym_analysis.plots.style import COLORS, styled

mpl.use("Agg")


def report() -> BoundReport:
    made = Adapter.from_factors(
        {"q": (torch.randn(4, 64, generator=torch.Generator().manual_seed(0)), torch.ones(40, 4))}
    )
    extras = {"head": TensorSource((2, 64), "float32", lambda: torch.ones(2, 64))}
    return compute_bound(Adapter({"q": made.source("q")}, name="made", extras=extras), 5000)


def test_every_bound_is_a_marker_in_its_colour() -> None:
    found = report()
    with styled():
        ax = plot_bounds(found)
    markers = [line for line in ax.lines if line.get_marker() not in ("None", None, "")]
    assert sorted(float(line.get_xdata()[0]) for line in markers) == pytest.approx(sorted(found.frame["gap"]))
    for line in markers:
        rows = found.frame[np.isclose(found.frame["gap"], float(line.get_xdata()[0]), rtol=1e-12)]
        hollow = to_hex(line.get_markerfacecolor()) == "#ffffff"
        looks = {(COLORS[row.tuned].lower(), row.kind == "diagnostic") for row in rows.itertuples()}
        assert (to_hex(line.get_color()).lower(), hollow) in looks
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert "parameter count, head charged" in names
    assert len(set(names)) == len(names)
    plt.close("all")


def test_given_axes_are_drawn_on() -> None:
    _, ax = plt.subplots()
    assert plot_bounds(report(), ax) is ax
    plt.close("all")


def test_nothing_to_draw_is_said() -> None:
    with pytest.raises(ValueError, match="no bound"):
        plot_bounds(BoundReport([], {}))


def test_certificates_and_repeats() -> None:
    runs = pd.DataFrame(
        [
            {"tuned": tuned, "training_error": 0.1, "test_error": 0.12, "risk": risk}
            for tuned, risk in (("B", 0.2), ("B", 0.22), ("both", 0.3))
        ]
    )
    ax = plot_certificates(runs)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["B only", "A and B"]
    repeats = pd.DataFrame(
        [
            {"bound": "coded", "true_risk": 0.1, "certified": 0.3, "violated": False},
            {"bound": "no complexity", "true_risk": 0.2, "certified": 0.15, "violated": True},
        ]
    )
    ax = plot_repeated_certificates(repeats)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "coded: 0.0% violated",
        "uncharged: 100.0% violated",
        "true = certified; above: violated",
    ]
    plt.close("all")
