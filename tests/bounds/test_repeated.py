"""The bounds hold over repeated training, and what ignores complexity does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from asym_analysis.bounds.repeated import (
    LowRankClassifier,
    gaussian_classes,
    low_rank_factors,
    repeated_certificates,
    summarize_repeats,
    train_low_rank,
)

DRAW = gaussian_classes(20, 3, separation=2.5)


@pytest.mark.parametrize("tuned", ["B", "both"])
def test_share_of_violated_certificates(tuned: str) -> None:
    """20 of the trainings that benchmarks/bounds_hold.py does by hundreds, at delta = .1."""
    table = repeated_certificates(
        LowRankClassifier(20, 3, rank=2, tuned=tuned), DRAW, n_samples=100, repeats=20, confidence=0.9,
        levels=(2,), relative_noise=(0.5,), draws=5, fresh=4000,
    )  # fmt: skip
    summary = summarize_repeats(table).set_index("bound")
    assert (summary["repeats"] == 20).all()
    for bound in ("coded", "gaussian"):
        # At most delta, with three standard deviations of a share of 20.
        assert summary.loc[bound, "violated"] <= 0.1 + 3 * np.sqrt(0.09 / 20)
        assert summary.loc[bound, "certified"] > summary.loc[bound, "true_risk"]
    # In expectation: the bound lies above the mean gap that is really there.
    count = summary.loc["parameter count"]
    assert count["gap_bound"] > count["mean_gap"] + 3 * count["gap_error"]
    assert count["mean_gap"] > 0


def test_each_certificate_stands_beside_the_true_risk_of_its_own_predictor() -> None:
    """Many levels in place of the adapter's own values change little: no other predictor has the same true risk."""
    model, draw = LowRankClassifier(6, 3, rank=2, tuned="B"), gaussian_classes(6, 3, separation=2.0)
    options: dict[str, Any] = {"levels": (65,), "relative_noise": (0.01,), "draws": 3, "fresh": 4000}
    options["prior_samples"] = 30
    table = repeated_certificates(model, draw, n_samples=80, repeats=2, **options).set_index(["repeat", "bound"])
    for repeat in range(2):
        own = table.loc[(repeat, "no complexity"), "true_risk"]
        for bound in ("coded", "gaussian", "one draw"):
            assert table.loc[(repeat, bound), "true_risk"] == pytest.approx(own, abs=0.01)
        prior = train_low_rank(model, *(part[None] for part in draw(30, 1 + 2 + repeat)))[0]
        x, y = draw(4000, 0)
        wrong = (x @ prior["classifier"].delta().numpy().T).argmax(1) != y
        assert table.loc[(repeat, "hold-out"), "true_risk"] == pytest.approx(wrong.mean(), abs=1e-3)


def test_ignoring_complexity_is_caught() -> None:
    """60 features, 40 samples: the training error says little, and a bound that charges nothing fails often."""
    model = LowRankClassifier(60, 3, rank=2, tuned="both", steps=300)
    table = repeated_certificates(
        model, gaussian_classes(60, 3, separation=2.0), n_samples=40, repeats=20, confidence=0.9,
        levels=(2,), relative_noise=(1.0,), draws=3, fresh=3000,
    )  # fmt: skip
    shares = summarize_repeats(table).set_index("bound")["violated"]
    assert shares["no complexity"] > 0.5
    assert shares["coded"] == shares["gaussian"] == 0


@pytest.mark.parametrize("tuned", ["B", "A", "both"])
def test_training_is_gradient_descent_on_the_right_factors(tuned: str) -> None:
    """One step against autograd, and what is frozen stays."""
    model = LowRankClassifier(20, 3, rank=2, tuned=tuned, steps=1, rate=0.5)
    x, y = DRAW(50, 1)
    A, B = low_rank_factors(model, x[None], y[None])
    start_a, start_b = (factor.requires_grad_() for factor in model.start())
    loss = torch.nn.functional.cross_entropy(torch.from_numpy(x) @ start_a.mT @ start_b.mT, torch.from_numpy(y))
    grad_a, grad_b = torch.autograd.grad(loss, (start_a, start_b))
    step = 0.05
    assert torch.allclose(A[0], start_a - step * grad_a * (tuned != "B"), atol=1e-6)
    assert torch.allclose(B[0], start_b - step * grad_b * (tuned != "A"), atol=1e-6)


def test_runs_do_not_touch_each_other() -> None:
    model = LowRankClassifier(20, 3, rank=2, tuned="both", steps=20)
    samples = [DRAW(60, seed) for seed in range(3)]
    together = train_low_rank(model, np.stack([x for x, _ in samples]), np.stack([y for _, y in samples]))
    alone = train_low_rank(model, samples[1][0][None], samples[1][1][None])[0]
    assert torch.allclose(together[1]["classifier"].B, alone["classifier"].B, atol=1e-5)
