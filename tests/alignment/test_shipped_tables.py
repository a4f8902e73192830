"""What the docs say of p-values, intervals, movements and marks, held to the tables that the benchmarks wrote."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def table(name: str) -> pd.DataFrame:
    return pd.read_csv(RESULTS / f"{name}.csv")


@pytest.mark.parametrize(
    ("level", "low", "high"), [("at_0.05", 0.81, 1.07), ("at_0.01", 0.72, 1.11), ("at_0.001", 0.64, 1.3)]
)
def test_p_values_keep_their_band(level: str, low: float, high: float) -> None:
    rates = table("null_calibration")[level].dropna()
    assert len(rates) > 380
    assert rates.between(low, high).all()


def test_p_values_of_one_in_ten_thousand_are_within_a_factor_of_two() -> None:
    rates = table("null_calibration")["at_0.0001"].dropna()
    assert len(rates) > 340
    assert rates.between(0.5, 2).mean() > 0.96
    assert rates.mean() == pytest.approx(1, abs=0.05)


def test_intervals_cover_and_null_contrasts_are_not_rejected() -> None:
    found = table("contrast_coverage")
    assert set(found.design) >= {"2 v 2", "3 v 3"}
    heavy = found.model == "heavy"
    assert found[~heavy].coverage.min() >= 0.9
    assert found[heavy].coverage.min() >= 0.78
    assert found.rejected.max() < 0.07
    assert found.set_index("design").least_p["3 v 3"].unique().tolist() == [0.1]


def test_inferred_movements_are_honest_with_the_scheme_hidden() -> None:
    simulated = table("drift_simulated")
    hidden = simulated[~simulated.recorded]
    assert hidden.initialization.nunique() >= 12
    assert hidden.movement.nunique() >= 5
    assert {1, 64} <= set(hidden["rank"])
    assert {64, 4096} <= set(hidden.width)
    assert hidden.dtype.nunique() == 3
    assert hidden.within_2.sum() / hidden.told.sum() > 0.93
    others = hidden[~hidden.own]
    assert others.named.sum() / others.modules.sum() < 0.01
    recorded = simulated[simulated.recorded]
    assert recorded.within_2.sum() / recorded.told.sum() > 0.97
    trained = table("drift_trained").dropna(subset=["value"])
    scores = (trained.value - trained.true).abs() / trained.std_error
    assert (scores[~trained.recorded] < 2).mean() > 0.93
    assert scores.max() < 4


def test_no_independent_pair_is_marked_and_small_movements_all_are() -> None:
    found = table("shared_initialization")
    assert (found[["false", "false_pairs", "false_svd"]] == 0).all(axis=None)
    pooled = found[found.modules == 24]
    assert (pooled[pooled.drift < 0.3].found == 1).all()
    assert (pooled[(pooled.drift < 1.3) & (pooled["rank"] >= 4)].found == 1).all()
