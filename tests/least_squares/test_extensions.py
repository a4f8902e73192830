"""Dynamics, similarity across seeds (T10), mutual information, regimes and non-linear outputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from asym_analysis.least_squares import (
    LeastSquaresProblem,
    covariance_from_data,
    descent_path,
    expected_loss,
    first_step_similarity,
    information_against_gap,
    initialization_scales,
    isotropic,
    low_rank,
    noisy_fit_information,
    power_law,
    problem_from_energy,
    regime_map,
    simulate_first_step_similarity,
    synthetic_problem,
    train_beyond_linear,
    trained_similarity,
)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestDynamics:
    @pytest.mark.parametrize("frozen", ["A", "B"])
    def test_the_path_is_that_of_gradient_descent(self, frozen: str) -> None:
        problem = synthetic_problem(power_law(9, 1.0), 7, noise_variance=0.1)
        A, B = normal(0, 3, 9), normal(1, 7, 3)
        path = descent_path(problem, learning_rate=0.05, steps=12, **{frozen: A if frozen == "A" else B})
        free = torch.zeros_like(B if frozen == "A" else A).requires_grad_()
        losses = []
        for _ in range(13):
            update = free @ A if frozen == "A" else B @ free
            residual = problem.delta - update
            half = 0.5 * torch.trace(residual @ problem.covariance @ residual.T)
            losses.append(problem.irreducible + 2 * float(half.detach()))
            (gradient,) = torch.autograd.grad(half, free)
            free = (free - 0.05 * gradient).detach().requires_grad_()
        np.testing.assert_allclose(path.frame.loss, losses, rtol=1e-10)
        assert set(path.frame.tuned) == {"B" if frozen == "A" else "A"}
        assert path.frame.gain_fraction[0] == pytest.approx(0.0, abs=1e-12)

    def test_the_path_ends_at_the_lemmas_loss(self) -> None:
        problem = synthetic_problem(power_law(9, 0.5), 7, noise_variance=0.1)
        A, B = normal(0, 3, 9), torch.linalg.qr(normal(1, 7, 3))[0]
        for path, fit in (
            (descent_path(problem, learning_rate=0.1, steps=20_000, A=A), problem.freeze_A(A)),
            (descent_path(problem, learning_rate=0.5, steps=20_000, B=B), problem.freeze_B(B)),
        ):
            assert path.frame.loss.iloc[-1] == pytest.approx(fit.loss)
            assert path.settings["limit"] == pytest.approx(fit.loss)

    def test_a_scaled_factor_is_a_scaled_learning_rate(self) -> None:
        problem = synthetic_problem(power_law(9, 1.0), 7)
        B = torch.linalg.qr(normal(1, 7, 3))[0]
        scaled = descent_path(problem, learning_rate=0.01, steps=10, B=4 * B).frame.loss
        plain = descent_path(problem, learning_rate=0.16, steps=10, B=B).frame.loss
        np.testing.assert_allclose(scaled, plain, rtol=1e-12)

    def test_a_rate_that_diverges_has_no_limit(self) -> None:
        problem = LeastSquaresProblem(torch.eye(2), torch.ones(2))
        path = descent_path(problem, learning_rate=2.5, steps=3, B=torch.eye(2))
        assert path.settings["limit"] == math.inf
        assert path.frame.loss.is_monotonic_increasing

    def test_scales_are_those_of_torchs_initialization(self) -> None:
        table = initialization_scales(1024, 8).frame.set_index(["factor", "initialization"])
        A, B = torch.empty(8, 1024), torch.empty(1024, 8)
        generator = torch.Generator().manual_seed(0)
        torch.nn.init.kaiming_uniform_(A, a=math.sqrt(5), generator=generator)
        torch.nn.init.kaiming_uniform_(B, a=math.sqrt(5), generator=generator)
        assert float(A.norm(dim=1).mean()) == pytest.approx(table.norm["A", "kaiming"], rel=0.02)
        assert float(B.norm(dim=0).mean()) == pytest.approx(table.norm["B", "kaiming"], rel=0.02)
        assert table.gradient_descent_multiplier["B", "kaiming"] == pytest.approx(42.7, abs=0.05)
        assert table.adam_multiplier["B", "kaiming"] == pytest.approx(6.53, abs=0.005)

    def test_one_factor_must_be_frozen(self) -> None:
        problem = synthetic_problem(isotropic(4), 4)
        with pytest.raises(ValueError, match="either A or B"):
            descent_path(problem, learning_rate=0.1, steps=1)
        with pytest.raises(ValueError, match="either A or B"):
            descent_path(problem, learning_rate=0.1, steps=1, A=torch.eye(4), B=torch.eye(4))


class TestSimilarity:
    @pytest.mark.parametrize(
        ("exponent", "theory", "measured"), [(0.5, 0.1576, 0.1515), (1.0, 0.4761, 0.4625), (1.5, 0.646, 0.629)]
    )
    def test_first_step(self, exponent: float, theory: float, measured: float) -> None:  # T10
        gradient = np.diag(power_law(256, exponent))
        assert first_step_similarity(gradient, 8, corrected=False) == pytest.approx(theory, abs=6e-4)
        overlaps = simulate_first_step_similarity(gradient, 8, 150, seed=0)
        error = overlaps.std() / 150**0.5
        assert overlaps.mean() == pytest.approx(measured, abs=4 * error + 1e-3)
        assert abs(overlaps.mean() - first_step_similarity(gradient, 8)) < 3 * error + 0.005

    def test_flat_gradients_leave_chance(self) -> None:
        assert first_step_similarity(np.eye(64), 8) == pytest.approx(8 / 64, rel=1e-10)

    def test_two_tasks_overlap_by_their_gradients(self) -> None:
        rng = np.random.default_rng(0)
        spectrum = power_law(64, 1.0)
        turn = np.linalg.qr(rng.standard_normal((64, 64)))[0]
        one, other = np.diag(spectrum), turn @ np.diag(spectrum)
        same, different = first_step_similarity(one, 4), first_step_similarity(one, 4, other=other)
        assert first_step_similarity(one, 4, other=one) == pytest.approx(same, rel=1e-9)
        overlaps = []
        for _ in range(300):
            bases = [np.linalg.qr(g @ rng.standard_normal((64, 4)))[0] for g in (one, other)]
            overlaps.append((bases[0].T @ bases[1]).__pow__(2).sum() / 4)
        assert abs(np.mean(overlaps) - different) < 3 * np.std(overlaps) / 300**0.5 + 0.003
        assert different < same / 3

    def test_trained_B_keeps_its_first_column_space_and_trained_A_does_not(self) -> None:
        problem = synthetic_problem(power_law(48, 1.0), 48)
        gradient = problem.delta @ problem.covariance
        one, other = normal(0, 3, 48), normal(1, 48, 3)
        fitted, first = problem.freeze_A(one).B, gradient @ one.T
        assert np.linalg.matrix_rank(torch.cat([fitted, first], 1).numpy(), tol=1e-9) == 3
        fitted, first = problem.freeze_B(other).A.T, gradient.T @ other
        assert np.linalg.matrix_rank(torch.cat([fitted, first], 1).numpy(), tol=1e-9) == 6
        # A flat update: trained A falls back to chance, while after one step it showed the inputs.
        assert trained_similarity(problem, 3, "A") < 0.6 * first_step_similarity(gradient.T, 3)
        assert trained_similarity(problem, 3, "B") == first_step_similarity(gradient, 3)

    def test_trained_similarity_against_fits(self) -> None:
        problem = synthetic_problem(power_law(40, 1.0), 30)
        for tuned in ("A", "B"):
            overlaps = []
            for pair in range(150):
                if tuned == "B":
                    bases = [problem.freeze_A(normal(2 * pair + k, 3, 40)).B for k in (0, 1)]
                else:
                    bases = [problem.freeze_B(normal(2 * pair + k, 30, 3)).A.T for k in (0, 1)]
                one, other = (torch.linalg.qr(basis)[0] for basis in bases)
                overlaps.append(float((one.T @ other).square().sum()) / 3)
            error = np.std(overlaps) / 150**0.5
            assert abs(np.mean(overlaps) - trained_similarity(problem, 3, tuned)) < 3 * error + 0.006

    def test_a_rank_that_the_gradient_cannot_fill_leaves_B_no_choice(self) -> None:
        assert first_step_similarity(np.diag([1.0, 0.7, 0.0]), 3) == pytest.approx(1.0, abs=1e-12)


class TestInformation:
    @pytest.mark.parametrize("tuned", ["A", "B"])
    def test_against_the_joint_gaussian_of_outputs_and_noisy_factor(self, tuned: str) -> None:
        problem = synthetic_problem(power_law(5, 1.0), 4, noise_variance=0.2)
        X = (normal(0, 9, 5) * problem.eigenvalues.sqrt()) @ problem.eigenvectors.T
        noise_scale = 0.3
        if tuned == "B":
            frozen = normal(1, 2, 5)
            Z = (X @ frozen.T).numpy()
            residual = (problem.delta - problem.freeze_A(frozen).update).numpy()
            output = residual @ problem.covariance.numpy() @ residual.T + 0.2 * np.eye(4)
            data_covariance = np.kron(output, np.eye(9))  # of vec(y) given Z, outputs outermost
            fit = np.kron(np.eye(4), np.linalg.pinv(Z))
        else:
            frozen = torch.linalg.qr(normal(1, 4, 2))[0]
            data_covariance = 0.2 * np.eye(36)
            fit = np.kron(frozen.numpy().T, np.linalg.pinv(X.numpy()))
        factor_covariance = fit @ data_covariance @ fit.T + noise_scale**2 * np.eye(len(fit))
        cross = data_covariance @ fit.T
        joint = np.block([[data_covariance, cross], [cross.T, factor_covariance]])
        expected = 0.5 * (
            np.linalg.slogdet(data_covariance)[1]
            + np.linalg.slogdet(factor_covariance)[1]
            - np.linalg.slogdet(joint)[1]
        )
        assert noisy_fit_information(problem, X, frozen, tuned, noise_scale) == pytest.approx(expected, rel=1e-8)

    def test_equal_output_variances_give_the_notes_formula(self) -> None:
        problem = LeastSquaresProblem(np.zeros((4, 5)), np.eye(5), 0.2)
        X, A = normal(0, 9, 5), normal(1, 2, 5)
        gram = (X @ A.T).T @ (X @ A.T)
        formula = 4 / 2 * float(torch.linalg.slogdet(torch.eye(2) + 0.2 / 0.09 * torch.linalg.inv(gram))[1])
        assert noisy_fit_information(problem, X, A, "B", 0.3) == pytest.approx(formula, rel=1e-10)

    def test_the_bound_covers_the_gap_and_both_shrink(self) -> None:
        problem = synthetic_problem(power_law(12, 1.0), 12, noise_variance=0.05)
        table = information_against_gap(problem, 2, [30, 240], noise_scale=0.05, clip=3.0, draws=80).frame
        assert (table.gap + 3 * table.gap_standard_error < table.bound).all()
        assert (table.gap > 3 * table.gap_standard_error).all()
        for _, rows in table.groupby("tuned"):
            assert rows.sort_values("samples").bound.is_monotonic_decreasing
        assert (table.parameters == 24).all()

    def test_no_noise_is_infinite_information(self) -> None:
        problem = synthetic_problem(isotropic(3), 3, noise_variance=1.0)
        with pytest.raises(ValueError, match="infinite"):
            noisy_fit_information(problem, np.eye(3), np.eye(3), "A", 0.0)
        with pytest.raises(ValueError, match="cannot determine"):
            noisy_fit_information(problem, np.ones((2, 3)), np.eye(3), "A", 1.0)


class TestRegimes:
    def test_theory_and_simulation_agree_on_the_winner(self) -> None:
        table = regime_map(32, 32, 4, exponents=[0.5, 1.0, 1.5], alignments=[-1.0, -0.5, 0.5, 1.0], draws=200).frame
        assert ((table["index"] > 1) == (table.theory_index > 1)).all()
        assert ((table.alignment > 0) == (table.theory_index > 1)).all()
        z = (table["index"] - table.theory_index) / table.standard_error
        assert (z.abs() < 4).all()
        assert (table.win_probability - table.theory_win_probability).abs().max() < 0.08

    def test_more_inputs_than_outputs_move_the_boundary(self) -> None:
        table = regime_map(64, 16, 4, exponents=[0.25, 1.5], alignments=[1.0], draws=50).frame
        assert (table.theory_index > 1).tolist() == [False, True]


class TestGenerators:
    @pytest.mark.parametrize("alignment", [-1.0, 0.0, 2.0])
    def test_energies_follow_the_spectrum_to_the_power(self, alignment: float) -> None:
        spectrum = power_law(12, 1.0)
        problem = synthetic_problem(spectrum, 7, alignment=alignment)
        np.testing.assert_allclose(problem.eigenvalues.numpy(), spectrum, rtol=1e-10)
        expected = spectrum**alignment / (spectrum**alignment).sum()
        np.testing.assert_allclose(problem.signal_energy.numpy(), expected, rtol=1e-8)

    def test_rank_of_update_and_of_inputs(self) -> None:
        assert int((synthetic_problem(power_law(12, 1.0), 9, delta_rank=2).singular_values > 1e-9).sum()) == 2
        assert synthetic_problem(low_rank(12, 5), 9).covariance_rank == 5

    def test_covariance_of_data(self) -> None:
        data = np.random.default_rng(0).standard_normal((50, 4)) + 3
        np.testing.assert_allclose(covariance_from_data(data), np.cov(data.T, bias=True), rtol=1e-12)
        with pytest.raises(ValueError, match="at least two"):
            covariance_from_data(data[:1])

    def test_energy_where_inputs_do_not_vary_is_refused(self) -> None:
        with pytest.raises(ValueError, match="zero where"):
            problem_from_energy(np.array([1.0, 0.0]), [0.5, 0.5], 3)


class TestBeyondLinear:
    def test_training_the_linear_output_meets_the_theory(self) -> None:
        problem = synthetic_problem(power_law(10, 1.0), 8)
        table = train_beyond_linear(problem, 2, "linear", samples=300, draws=12, steps=150).frame
        means = table.groupby("tuned").gain_fraction.agg(["mean", "sem"])
        for tuned, (mean, error) in means.iterrows():
            reference = expected_loss(problem, 2, tuned).gain_fraction
            assert abs(mean - reference) < 3.5 * error + 0.04, tuned

    @pytest.mark.parametrize("output", ["logistic", "softmax", "two-layer"])
    @pytest.mark.parametrize("alignment", [2.0, -1.5])
    def test_the_winner_is_the_linear_theorys(self, output: str, alignment: float) -> None:
        problem = synthetic_problem(power_law(12, 1.0), 12, alignment=alignment)
        table = train_beyond_linear(problem, 2, output, tuned=["A", "B"], samples=256, draws=24, steps=120).frame
        means = table.groupby("tuned")[["gain_fraction", "linear_theory"]].mean()
        assert (means.gain_fraction["B"] > means.gain_fraction["A"]) == (alignment > 0)
        assert (means.linear_theory["B"] > means.linear_theory["A"]) == (alignment > 0)

    def test_strong_updates_leave_the_linear_regime(self) -> None:
        problem = synthetic_problem(power_law(12, 1.0), 12)

        def gains(output: str, strength: float) -> np.ndarray:
            result = train_beyond_linear(
                problem, 2, output, tuned=["A", "B"], strength=strength, samples=400, draws=6, steps=200
            )
            return result.summary().gain_fraction.to_numpy()

        linear = gains("linear", 2.0)
        assert np.abs(gains("logistic", 0.05) - linear).max() < 0.003
        assert np.abs(gains("logistic", 2.0) - linear).max() > 0.02
        assert np.abs(gains("softmax", 2.0) - gains("softmax", 0.05)).max() > 0.04

    def test_seeds(self) -> None:
        problem = synthetic_problem(power_law(6, 1.0), 5)
        one, two = (train_beyond_linear(problem, 2, "softmax", samples=64, draws=2, steps=5).frame for _ in range(2))
        assert one.equals(two)
