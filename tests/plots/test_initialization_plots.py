"""What the figures of drift, intruders, sharing and spectra show is what their tables hold."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from asym_analysis import (
    Adapter,
    adapter_spectra,
    initialization_drift,
    intruder_dimensions,
    shared_energy,
)
from asym_analysis.alignment.drift import InitializationDrift
from asym_analysis.plots.drift import plot_drift
from asym_analysis.plots.intruders import plot_intruders
from asym_analysis.plots.sharing import plot_sharing
from asym_analysis.plots.spectra import plot_spectra

mpl.use("Agg")


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def run(seed: int = 0, name: str = "run") -> tuple[Adapter, Adapter]:
    generator = torch.Generator().manual_seed(seed)
    factors, starts = {}, {}
    for layer in range(3):
        for projection in ("query", "value"):
            start = torch.randn(4, 48, generator=generator)
            A = start + 0.1 * (layer + 1) * torch.randn(4, 48, generator=generator)
            factors[f"layer.{layer}.{projection}"] = (A, torch.randn(40, 4, generator=generator))
            starts[f"layer.{layer}.{projection}"] = (start, torch.zeros(40, 4))
    initial = Adapter.from_factors(starts)
    return Adapter.from_factors(factors, name=name, initial=initial), initial


def test_drift_draws_a_line_for_each_projection() -> None:
    drift = initialization_drift(run()[0])
    ax = plot_drift(drift)
    of_query = drift.frame.query("factor == 'A' and projection == 'query'")
    np.testing.assert_allclose(np.asarray(ax.lines[0].get_ydata(), float), of_query.value.to_numpy(float))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["query", "value"]
    assert ax.get_ylim()[0] == 0


def test_drift_of_several_adapters_and_upper_limits() -> None:
    parts = [initialization_drift(run(seed, f"seed {seed}")[0]).frame for seed in range(3)]
    ax = plot_drift(InitializationDrift(pd.concat(parts), {}))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["seed 0", "seed 1", "seed 2"]
    limited = parts[0].query("factor == 'A'").assign(value=np.nan, upper=0.02)
    given = plt.subplots()[1]
    assert plot_drift(InitializationDrift(limited, {}), given) is given
    assert any((np.asarray(line.get_ydata()) == 0.02).all() for line in given.lines if len(line.get_xdata()))


def test_several_modules_of_a_layer_are_one_point_at_their_median() -> None:
    parts = [initialization_drift(run(seed)[0]).frame for seed in range(4)]
    pooled = pd.concat(parts).assign(adapter="all adapters")
    ax = plot_drift(InitializationDrift(pooled, {}))
    for line, projection in zip(ax.lines, ("query", "value"), strict=True):
        rows = pooled[(pooled.factor == "A") & (pooled.projection == projection)]
        expected = [np.median(rows.value[rows.layer == layer].to_numpy(float)) for layer in range(3)]
        np.testing.assert_allclose(np.asarray(line.get_ydata(), float), expected)
        assert list(line.get_xdata()) == [0, 1, 2]


def test_intruders_counts_what_the_table_marks() -> None:
    adapter, _ = run()
    generator = torch.Generator().manual_seed(1)
    base = {f"{module}.weight": torch.randn(40, 48, generator=generator) for module in adapter}
    found = intruder_dimensions(adapter, base, top_k=5)
    ax = plot_intruders(found)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels[1] == f"intruder: {int(found.frame.intruder.sum())}"
    assert sum(len(line.get_xdata()) for line in ax.lines[:2]) == len(found.frame)


def test_sharing_draws_energy_and_null() -> None:
    energy = shared_energy([run(seed)[0] for seed in range(3)], [1, 2, 4], draws=3)
    ax = plot_sharing(energy, quantities=["A", "A - A0"])
    drawn = next(line for line in ax.lines if line.get_label() == "A")
    expected = energy.frame.query("quantity == 'A'").groupby("rank").energy.median()
    np.testing.assert_allclose(drawn.get_ydata(), expected)
    assert [text.get_text() for text in ax.get_legend().get_texts()][-1] == "random (same marker)"


def test_spectra_reach_one() -> None:
    spectra = adapter_spectra(run()[0])
    ax = plot_spectra(spectra)
    for line in ax.lines[:2]:
        assert line.get_ydata()[-1] == pytest.approx(1)
    np.testing.assert_allclose(ax.lines[2].get_ydata(), [0.25, 0.5, 0.75, 1.0])
