"""What is drawn of variants is what the tables hold."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy.stats import spearmanr

from asym_analysis import sample_predictions, sample_runs, score_variants
from asym_analysis.plots.asymmetry_index import plot_asymmetry_index
from asym_analysis.plots.variants import plot_learning_rates, plot_variants


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def test_every_gain_is_drawn_once_as_a_part_of_the_reference() -> None:
    scores = score_variants(sample_runs("decoder"))
    ax = plot_variants(scores)
    frame = scores.frame.set_index(["task", "run"])["gain"]
    expected = sorted(gain / frame[task, "lora-r8"] for (task, run), gain in frame.items() if run != "lora-r8")
    drawn = sorted(float(c.lines[0].get_xdata()[0]) for c in ax.containers)
    assert drawn == pytest.approx(expected)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert "lora-r8" not in labels  # but the line at 1 is
    assert labels[0] == "lora-r8, ± standard error"
    assert len(labels) == len(set(labels)) == scores.frame["run"].nunique()


def test_the_search_is_drawn_at_its_rates_and_the_best_is_filled() -> None:
    runs = sample_runs("decoder")
    ax = plot_learning_rates(runs, task="dialogue")
    table = runs[(runs["task"] == "dialogue") & (runs["seed"] == 0)]
    filled = [
        float(x)
        for line in ax.lines
        if line.get_marker() not in (None, "None", "") and line.get_markerfacecolor() != "white"
        for x in line.get_xdata()
    ]
    assert sorted(filled) == pytest.approx(sorted(table.loc[table["stage"] == "best", "learning_rate"]))
    with pytest.raises(ValueError, match="no learning rates were searched on poems"):
        plot_learning_rates(runs, task="poems")


def test_the_rank_correlation_in_the_figure_is_that_of_the_points() -> None:
    table = sample_predictions()
    ax = plot_asymmetry_index(table, kind="inputs")
    rows = table[(table["kind"] == "inputs") & table["advantage"].notna()]
    told = spearmanr(rows["asymmetry_index"], rows["advantage"]).statistic
    assert f"Spearman {told:.2f}, {len(rows)} points" in [text.get_text() for text in ax.texts]
    points = np.concatenate([container.lines[0].get_xdata() for container in ax.containers])
    assert sorted(points) == pytest.approx(sorted(rows["asymmetry_index"]))


def test_the_runs_of_a_family_are_given_by_its_name() -> None:
    assert set(sample_runs()["family"]) == {"encoder", "sequence to sequence", "decoder", "vision"}
    with pytest.raises(ValueError, match="there are decoder, encoder, sequence to sequence, vision"):
        sample_runs("recurrent")
