"""Conditional mutual information on learners whose dependence on the coins is known, and on the digits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.datasets import load_digits

from asym_analysis.bounds.conditional import Supersample, conditional_information, train_on_supersamples
from asym_analysis.bounds.repeated import LowRankClassifier, low_rank_supersamples


def runs(rule: object, trainings: int, n: int = 30, supersamples: int = 3) -> list[Supersample]:
    """A learner given by a rule: wrong_outside(generator, shape) -> where a member left out is got wrong."""

    def train(number: int, coins: np.ndarray) -> np.ndarray:
        generator = np.random.default_rng([9, number])
        wrong = rule(generator, coins.shape)  # type: ignore[operator]
        return np.stack([coins & wrong, ~coins & wrong], axis=-1).astype(int)

    labels = np.zeros((n, 2), dtype=int)
    return train_on_supersamples(lambda number: labels, train, supersamples=supersamples, trainings=trainings)


def test_memorizing_learner_gives_the_whole_coin() -> None:
    table = conditional_information(runs(lambda g, shape: np.ones(shape, dtype=bool), 400)).frame.set_index(
        "information"
    )
    assert table["bound"].to_numpy() == pytest.approx(math.sqrt(2 * math.log(2)), abs=5e-3)
    assert (table["measured_gap"] == 1).all()


@pytest.mark.parametrize("risk", [0.1, 0.4])
def test_interpolating_learner_reveals_its_risk(risk: float) -> None:
    """Training loss 0 and errors at random outside: I(loss difference; coin) = risk ln 2 exactly."""
    table = conditional_information(runs(lambda g, shape: g.random(shape) < risk, 500)).frame.set_index("information")
    row = table.loc["loss difference"]
    assert row["interpolating_risk"] == pytest.approx(risk, abs=0.015)
    assert row["measured_gap"] == pytest.approx(risk, abs=0.015)
    assert row["bound"] > row["measured_gap"]
    assert np.isnan(table.loc["f", "interpolating_risk"])


@pytest.mark.parametrize("trainings", [30, 300])
def test_learner_without_memory_shows_only_the_floor(trainings: int) -> None:
    """Predictions at random: the plain bound is the spurious floor of docs/theory.md, the corrected one is not."""

    def train(number: int, coins: np.ndarray) -> np.ndarray:
        return np.random.default_rng([3, number]).integers(0, 2, (*coins.shape, 2))

    labels = np.zeros((300, 2), dtype=int)
    found = train_on_supersamples(lambda number: labels, train, supersamples=4, trainings=trainings)
    table = conditional_information(found).frame.set_index("information")
    expected = {30: (0.312, 0.240), 300: (0.094, 0.073)}[trainings]
    assert table.loc["f", "plain"] == pytest.approx(expected[0], rel=0.06)
    assert table.loc["loss difference", "plain"] == pytest.approx(expected[1], rel=0.08)
    assert table["plain"].to_numpy() == pytest.approx(table["floor"].to_numpy(), rel=0.05)
    assert (table["bound"] < 0.6 * table["floor"]).all()
    assert abs(table["measured_gap"]).max() < 0.02


def test_less_is_known_of_less() -> None:
    """Data processing: predictions tell at least what the losses tell, and these what their difference tells."""
    x, y = load_digits(return_X_y=True)
    x = ((x - x.mean(0)) / 8).astype(np.float32)
    model = LowRankClassifier(64, 10, rank=4, tuned="B", steps=40)
    found = low_rank_supersamples(model, x, y, pairs=40, supersamples=2, trainings=200)
    table = conditional_information(found).frame.set_index("information")
    assert table.loc["f", "plain"] >= table.loc["loss pair", "plain"] >= table.loc["loss difference", "plain"]
    assert table.loc["loss difference", "bound"] > table.loc["loss difference", "measured_gap"] > 0
    assert set(table["kind"]) == {"diagnostic"}


def test_same_seed_same_runs() -> None:
    x, y = load_digits(return_X_y=True)
    model = LowRankClassifier(64, 10, rank=2, tuned="both", steps=5)
    one, two = (
        low_rank_supersamples(model, x.astype(np.float32) / 8, y, pairs=5, supersamples=1, trainings=3, seed=2)[0]
        for _ in range(2)
    )
    assert np.array_equal(one.predictions, two.predictions)
    assert np.array_equal(one.coins, two.coins)


def test_nothing_given() -> None:
    with pytest.raises(ValueError, match="no supersample"):
        conditional_information([])
