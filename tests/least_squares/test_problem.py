"""Lemmas 4.1 and 4.2 and the reduced-rank optimum against brute force (T1, T2)."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

from asym_analysis.least_squares import LeastSquaresProblem, low_rank, power_law, synthetic_problem


def random_problem(seed: int, d_out: int = 7, d_in: int = 9, noise: float = 0.3) -> LeastSquaresProblem:
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((d_in, d_in))
    return LeastSquaresProblem(rng.standard_normal((d_out, d_in)), root @ root.T / d_in, noise)


def brute_force_loss(problem: LeastSquaresProblem, update: np.ndarray) -> float:
    residual = problem.delta.numpy() - update
    return problem.d_out * problem.noise_variance + float(np.trace(residual @ problem.covariance.numpy() @ residual.T))


@given(st.integers(0, 10_000), st.integers(1, 6))
def test_frozen_A_equals_brute_force_least_squares(seed: int, rank: int) -> None:
    problem = random_problem(seed)
    Q = np.random.default_rng(seed + 1).standard_normal((rank, problem.d_in))
    fit = problem.freeze_A(Q)
    root = scipy.linalg.sqrtm(problem.covariance.numpy()).real
    # min over B of |(delta - B Q) root|^2, solved as an ordinary least-squares problem in B^T
    B = scipy.linalg.lstsq((Q @ root).T, (problem.delta.numpy() @ root).T)[0].T
    assert fit.loss == pytest.approx(brute_force_loss(problem, B @ Q), rel=1e-10)
    np.testing.assert_allclose(fit.B.numpy(), B, rtol=1e-6, atol=1e-8)
    assert fit.loss == pytest.approx(problem.loss(fit.update), rel=1e-10)
    assert fit.loss == pytest.approx(brute_force_loss(problem, fit.update.numpy()), rel=1e-10)


@given(st.integers(0, 10_000), st.integers(1, 6))
def test_frozen_B_equals_brute_force_least_squares(seed: int, rank: int) -> None:
    problem = random_problem(seed)
    U = np.random.default_rng(seed + 1).standard_normal((problem.d_out, rank))
    fit = problem.freeze_B(U)
    root = scipy.linalg.sqrtm(problem.covariance.numpy()).real
    A = scipy.linalg.lstsq(U, problem.delta.numpy() @ root)[0] @ np.linalg.inv(root)
    assert fit.loss == pytest.approx(brute_force_loss(problem, U @ A), rel=1e-10)
    assert fit.loss == pytest.approx(problem.loss(fit.update), rel=1e-10)


@given(st.integers(0, 10_000))
def test_the_papers_formulas_hold_for_orthonormal_factors(seed: int) -> None:
    problem = random_problem(seed)
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((9, 3)))[0].T
    U = np.linalg.qr(rng.standard_normal((7, 3)))[0]
    delta, sigma = problem.delta.numpy(), problem.covariance.numpy()
    base = 7 * 0.3 + np.trace(delta @ sigma @ delta.T)
    B_star = delta @ sigma @ Q.T @ np.linalg.inv(Q @ sigma @ Q.T)
    lemma_1 = base - np.trace(Q @ sigma @ delta.T @ delta @ sigma @ Q.T @ np.linalg.inv(Q @ sigma @ Q.T))
    lemma_2 = base - np.trace(U.T @ delta @ sigma @ delta.T @ U)
    assert problem.freeze_A(Q).loss == pytest.approx(lemma_1, rel=1e-10)
    np.testing.assert_allclose(problem.freeze_A(Q).B.numpy(), B_star, rtol=1e-7, atol=1e-9)
    assert problem.freeze_B(U).loss == pytest.approx(lemma_2, rel=1e-10)
    np.testing.assert_allclose(problem.freeze_B(U).A.numpy(), U.T @ delta, rtol=1e-10, atol=1e-12)


@given(st.integers(0, 10_000), st.sampled_from(["A", "B", "joint"]))
def test_perturbations_never_lower_the_loss(seed: int, which: str) -> None:
    problem = random_problem(seed)
    rng = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64)  # noqa: E731
    if which == "A":
        fit = problem.freeze_A(normal(3, 9))
    elif which == "B":
        fit = problem.freeze_B(normal(7, 3))
    else:
        fit = problem.joint(3)
    for size in (1e-3, 1e-1):
        A = fit.A if which == "A" else fit.A + size * normal(3, 9)
        B = fit.B if which == "B" else fit.B + size * normal(7, 3)
        assert problem.loss(B @ A) >= fit.loss * (1 - 1e-12)


@given(st.integers(0, 10_000))
def test_only_the_row_space_of_A_matters(seed: int) -> None:
    problem = random_problem(seed)
    rng = np.random.default_rng(seed)
    Q, gauge = rng.standard_normal((3, 9)), rng.standard_normal((3, 3)) + 3 * np.eye(3)
    plain, mixed = problem.freeze_A(Q), problem.freeze_A(gauge @ Q)
    np.testing.assert_allclose(plain.update.numpy(), mixed.update.numpy(), atol=1e-8)
    assert plain.loss == pytest.approx(mixed.loss, rel=1e-10)


def test_a_scaled_frozen_B_needs_the_pseudo_inverse() -> None:
    problem = random_problem(3)
    U = np.random.default_rng(0).standard_normal((7, 3)) * 2
    naive = problem.loss(torch.from_numpy(U @ (U.T @ problem.delta.numpy())))
    assert naive > 10 * problem.freeze_B(U).loss


@given(st.integers(0, 10_000), st.integers(1, 7))
def test_reduced_rank_optimum_bounds_both_frozen_losses(seed: int, rank: int) -> None:
    problem = random_problem(seed)
    rng = np.random.default_rng(seed)
    root = scipy.linalg.sqrtm(problem.covariance.numpy()).real
    tail = np.linalg.svd(problem.delta.numpy() @ root, compute_uv=False)[rank:]
    fit = problem.joint(rank)
    assert fit.loss == pytest.approx(7 * 0.3 + (tail**2).sum(), rel=1e-9)
    assert fit.loss == pytest.approx(problem.loss(fit.update), rel=1e-9)
    assert fit.loss <= problem.freeze_A(rng.standard_normal((rank, 9))).loss * (1 + 1e-12)
    assert fit.loss <= problem.freeze_B(rng.standard_normal((7, rank))).loss * (1 + 1e-12)


def test_either_one_sided_oracle_attains_the_optimum() -> None:
    problem = random_problem(5)
    best = problem.joint(3)
    assert problem.freeze_A(best.A).loss == pytest.approx(best.loss, rel=1e-10)
    assert problem.freeze_B(best.B).loss == pytest.approx(best.loss, rel=1e-10)


def test_principal_A_gains_the_energy_of_the_first_components() -> None:
    problem = random_problem(6)
    fit = problem.freeze_A(problem.principal_A(4))
    assert fit.gain == pytest.approx(float(problem.signal_energy[:4].sum()), rel=1e-10)


def test_inputs_on_a_small_subspace_are_fitted_without_loss() -> None:
    problem = synthetic_problem(low_rank(30, 5), 20)
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.standard_normal((30, 6)))[0].T
    assert np.linalg.cond(Q @ problem.covariance.numpy() @ Q.T) > 1e12  # the lemma's inverse does not exist
    fit = problem.freeze_A(Q)
    assert fit.loss == pytest.approx(0.0, abs=1e-12)
    assert problem.loss(fit.update) == pytest.approx(0.0, abs=1e-12)
    assert problem.joint(5).loss == pytest.approx(0.0, abs=1e-12)
    # An A in the null space of the inputs gains nothing and stays finite.
    blind = problem.freeze_A(problem.eigenvectors[:, 10:14].T)
    assert blind.gain == pytest.approx(0.0, abs=1e-12)
    assert bool(blind.B.isfinite().all())


@pytest.mark.parametrize("offset_scale", [0.0, 1.0])
@pytest.mark.parametrize("mean_scale", [0.0, 1.0])
def test_frozen_bias_and_shifted_inputs_match_regression_on_the_moments(offset_scale: float, mean_scale: float) -> None:
    base = random_problem(11)
    rng = np.random.default_rng(1)
    mean, offset = mean_scale * rng.standard_normal(9), offset_scale * rng.standard_normal(7)
    problem = LeastSquaresProblem.with_frozen_bias(base.delta, base.covariance, 0.3, mean=mean, bias_offset=offset)
    delta = base.delta.numpy()
    S = base.covariance.numpy() + np.outer(mean, mean)
    cross = delta @ S + np.outer(offset, mean)  # E[(delta x + offset) x^T]
    Q, U = rng.standard_normal((3, 9)), np.linalg.qr(rng.standard_normal((7, 3)))[0]
    B_star = cross @ Q.T @ np.linalg.inv(Q @ S @ Q.T)
    A_star = U.T @ (delta + np.outer(offset, np.linalg.solve(S, mean)))
    np.testing.assert_allclose(problem.freeze_A(Q).B.numpy(), B_star, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(problem.freeze_B(U).A.numpy(), A_star, rtol=1e-7, atol=1e-9)

    def expected_loss(update: np.ndarray) -> float:
        kernel = delta - update
        shift = kernel @ mean + offset
        return 7 * 0.3 + np.trace(kernel @ base.covariance.numpy() @ kernel.T) + shift @ shift

    for fit in (problem.freeze_A(Q), problem.freeze_B(U), problem.joint(2)):
        assert fit.loss == pytest.approx(expected_loss(fit.update.numpy()), rel=1e-9)


def test_best_A_sees_the_inputs_only_through_a_wrong_bias() -> None:
    rng = np.random.default_rng(0)
    delta, U = rng.standard_normal((4, 5)), np.linalg.qr(rng.standard_normal((4, 2)))[0]
    narrow, wide = power_law(5, 0.0), power_law(5, 2.0)
    one, other = (LeastSquaresProblem(delta, spectrum).freeze_B(U).A for spectrum in (narrow, wide))
    assert torch.equal(one, other)
    shift = {"mean": np.ones(5), "bias_offset": np.ones(4)}
    one, other = (
        LeastSquaresProblem.with_frozen_bias(delta, np.diag(spectrum), 0.0, **shift).freeze_B(U).A
        for spectrum in (narrow, wide)
    )
    assert not torch.allclose(one, other)


def test_float32_and_numpy_and_torch_inputs_agree_in_float64() -> None:
    delta = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    one = LeastSquaresProblem(delta, np.eye(4, dtype=np.float32))
    other = LeastSquaresProblem(torch.from_numpy(delta), torch.ones(4))
    assert one.delta.dtype == torch.float64
    assert one.signal == other.signal == pytest.approx(float((delta.astype(np.float64) ** 2).sum()), rel=1e-14)


@pytest.mark.parametrize(
    ("delta", "covariance", "noise", "message"),
    [
        (np.ones((2, 2)), np.array([[1.0, 1.0], [0.0, 1.0]]), 0.0, "not symmetric"),
        (np.ones((2, 2)), np.diag([1.0, -1.0]), 0.0, "negative eigenvalue"),
        (np.array([[np.nan, 0.0]]), np.eye(2), 0.0, "NaN"),
        (np.ones((2, 2)), np.eye(2), -1.0, "noise_variance is -1.0"),
    ],
)
def test_wrong_problems_are_refused(delta: np.ndarray, covariance: np.ndarray, noise: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LeastSquaresProblem(delta, covariance, noise)


def test_shapes_that_do_not_fit_are_refused() -> None:
    # Without the test suite's shape checks the package's own sentence says it; with them the checker does.
    with pytest.raises((ValueError, TypeError), match=r"takes 3 inputs|Type-check error"):
        LeastSquaresProblem(np.ones((2, 3)), np.eye(2))


def test_wrong_factors_and_ranks_are_refused() -> None:
    problem = random_problem(0)
    with pytest.raises(ValueError, match="8 columns"):
        problem.freeze_A(np.ones((2, 8)))
    with pytest.raises(ValueError, match="6 rows"):
        problem.freeze_B(np.ones((6, 2)))
    with pytest.raises(ValueError, match="is 8: give a whole number"):
        problem.joint(8)
