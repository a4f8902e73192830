"""The information in a noisy fit, against the joint Gaussian distribution of factor and outputs."""

from __future__ import annotations

import numpy as np
import pytest

from asym_analysis.chance import gaussian_channel_information


def test_against_the_joint_covariance() -> None:
    """I(W; Y | Z) from determinants of the joint Gaussian law of W and Y, output by output."""
    generator = np.random.default_rng(0)
    n, p, psi, tau = 12, 3, (0.7, 0.2), 0.3
    Z = generator.standard_normal((n, p))
    solve = np.linalg.pinv(Z)
    expected = 0.0
    for variance in psi:
        y = variance * np.eye(n)
        w = solve @ y @ solve.T + tau**2 * np.eye(p)
        joint = np.block([[w, solve @ y], [y @ solve.T, y]])
        expected += 0.5 * (np.linalg.slogdet(w)[1] + np.linalg.slogdet(y)[1] - np.linalg.slogdet(joint)[1])
    assert gaussian_channel_information(Z, np.array(psi), tau) == pytest.approx(expected, rel=1e-10)


def test_many_samples_give_the_dimensions_of_the_parameter_count() -> None:
    """With many samples, tuning B holds as d_out r and tuning A as r d_in (docs/theory.md, section 6.8)."""
    x = np.random.default_rng(1).standard_normal((20_000, 30))
    tuned_B = gaussian_channel_information(x[:, :4], np.ones(50), 1e-3**0.5)
    tuned_A = gaussian_channel_information(x, np.ones(4), 1e-3**0.5)
    assert tuned_B / tuned_A == pytest.approx(50 * 4 / (4 * 30), rel=0.02)


@pytest.mark.parametrize(
    ("features", "variances", "scale", "message"),
    [
        (np.ones((5, 2)), [1.0], 1.0, "linearly dependent"),
        (np.eye(2), [1.0], 0.0, "infinite"),
        (np.eye(2), [1.0], float("nan"), "infinite"),
        (np.eye(2), [-1.0], 1.0, "negative"),
        (np.ones((1, 2)), [1.0], 1.0, "cannot determine"),
    ],
)
def test_impossible_arguments(features: np.ndarray, variances: list[float], scale: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gaussian_channel_information(features, np.array(variances), scale)
