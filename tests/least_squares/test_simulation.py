"""Batched simulation against one fit at a time, its reproducibility, and the validation table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from asym_analysis.least_squares import (
    LeastSquaresProblem,
    compare_theory,
    exponential,
    isotropic,
    low_rank,
    power_law,
    simulate,
    spiked,
    sweep,
    synthetic_problem,
    validate,
)
from asym_analysis.least_squares.comparison import agreement

PROBLEMS = {
    "power law": synthetic_problem(power_law(20, 1.0), 14, noise_variance=0.1),
    "low-rank update": synthetic_problem(power_law(20, 1.0), 14, delta_rank=2),
    "wide": synthetic_problem(isotropic(20), 6),
    "steep": synthetic_problem(exponential(20, 2.5), 14),
    "inputs on a subspace": synthetic_problem(low_rank(20, 8), 14),
}


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("tuned", ["A", "B"])
def test_batched_losses_have_the_law_of_single_fits(name: str, tuned: str) -> None:
    problem = PROBLEMS[name]
    rng = np.random.default_rng(5)
    single = []
    for _ in range(400):
        if tuned == "B":
            single.append(problem.freeze_A(np.linalg.qr(rng.standard_normal((20, 3)))[0].T).loss)
        else:
            single.append(problem.freeze_B(np.linalg.qr(rng.standard_normal((problem.d_out, 3)))[0]).loss)
    batched = simulate(problem, 3, tuned, 4000, seed=1).frame["loss"]
    assert stats.ks_2samp(single, batched).pvalue > 1e-3


@pytest.mark.parametrize("tuned", ["A", "B"])
def test_batched_losses_equal_single_fits_of_the_same_sketches(tuned: str) -> None:
    problem = PROBLEMS["power law"]
    frame = simulate(problem, 3, tuned, 5, seed=4).frame
    rng = np.random.default_rng([4, 0 if tuned == "A" else 1])
    if tuned == "B":
        # the sketches are drawn in the basis of the input components
        sketches = rng.standard_normal((5, 3, 20)) @ problem.eigenvectors.numpy().T
        single = [problem.freeze_A(Q).loss for Q in sketches]
    else:
        left = np.linalg.svd(problem.weighted_delta.numpy())[0]
        single = [problem.freeze_B(left @ sketch.T).loss for sketch in rng.standard_normal((5, 3, 14))]
    np.testing.assert_allclose(frame["loss"], single, rtol=1e-10)


def test_graded_spectra_keep_their_digits() -> None:
    # Eigenvalues over fourteen decades: the Gram matrix of a sketch is singular to rounding, its QR is not.
    problem = LeastSquaresProblem(np.diag(10.0 ** np.arange(0, 8)), 10.0 ** (-2.0 * np.arange(0, 8)))
    rng = np.random.default_rng([0, 1])
    single = [problem.freeze_A(Q).gain for Q in rng.standard_normal((4, 4, 8)) @ problem.eigenvectors.numpy().T]
    np.testing.assert_allclose(simulate(problem, 4, "B", 4, seed=0).frame["gain"], single, rtol=1e-6)


def test_the_same_seed_gives_the_same_table_and_another_seed_another() -> None:
    problem = PROBLEMS["power law"]
    for tuned in ("A", "B", "both"):
        one, two = (simulate(problem, 2, tuned, 30, seed=7).frame for _ in range(2))
        pd.testing.assert_frame_equal(one, two)
        if tuned != "both":
            assert not np.allclose(one["loss"], simulate(problem, 2, tuned, 30, seed=8).frame["loss"])


def test_tuned_A_and_tuned_B_draw_independently() -> None:
    problem = synthetic_problem(isotropic(16), 16)
    one, other = (simulate(problem, 2, tuned, 2000, seed=0).frame["loss"] for tuned in ("A", "B"))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.08


def test_alternating_fits_reach_the_reduced_rank_optimum() -> None:
    for problem in PROBLEMS.values():
        losses = simulate(problem, 2, "both", 5, seed=0).frame["loss"]
        np.testing.assert_allclose(losses, problem.joint(2).loss, rtol=1e-3, atol=1e-9)
        assert (losses >= problem.joint(2).loss - 1e-12).all()


def test_summary_is_the_mean_and_its_standard_error() -> None:
    simulation = simulate(PROBLEMS["wide"], 2, "B", 50, seed=0)
    row = simulation.summary().iloc[0]
    assert row["loss"] == pytest.approx(simulation.frame["loss"].mean())
    assert row["standard_error"] == pytest.approx(simulation.frame["loss"].std(ddof=1) / 50**0.5)


def test_a_wrong_theory_would_be_noticed() -> None:
    problem = PROBLEMS["power law"]
    table = compare_theory(problem, [3], tuned=["B"], draws=2000).frame
    shifted = abs(table["loss"] - (table["theory"] + 0.05)) > table["stated_error"] + 3 * table["standard_error"]
    assert table.agrees.all()
    assert shifted.all()


def test_sweeps_carry_their_parameter() -> None:
    problems = {height: synthetic_problem(spiked(16, 2, height), 8) for height in (1.0, 30.0)}
    result = sweep("height", problems, 3, tuned="B", draws=500)
    table = result.frame
    assert result.settings["along"] == "height"
    assert table.columns[0] == "height"
    assert table.agrees.all()
    assert table.theory_gain_fraction[1] > table.theory_gain_fraction[0]


def test_validation_covers_forty_settings_and_all_agree() -> None:
    result = validate(draws=500, seed=3)
    table = result.frame
    assert result.summary().agree.sum() == len(table)
    settings = table[["quantity", "setting", "tuned", "rank"]].drop_duplicates()
    assert len(settings) >= 40
    failures = table[~table.agrees]
    assert failures.empty, failures.to_string()
    assert set(table.method) >= {"exact", "rank-one integral", "deterministic equivalent"}
    # A stated error that swallowed everything would show nothing: where there is one it is a few per cent at most.
    stated = table[(table.stated_error > 0) & (table.quantity == "loss")]
    assert (stated.stated_error / stated.theory).max() < 0.07


def test_wrong_requests_are_refused() -> None:
    problem = PROBLEMS["wide"]
    with pytest.raises(ValueError, match=r"rank \(with tuned='A'\) is 7: give a whole number"):
        simulate(problem, 7, "A", 10, seed=0)
    with pytest.raises(ValueError, match="draws is 0"):
        simulate(problem, 2, "A", 0, seed=0)


def test_a_few_draws_that_lie_close_together_by_chance_do_not_contradict_the_theory() -> None:
    problem = synthetic_problem(power_law(16, 1.0), 16)
    told = [compare_theory(problem, 2, tuned="A", draws=20, seed=seed).frame.agrees.item() for seed in range(60)]
    assert all(told)  # three plain standard errors of 20 draws were exceeded by one seed in sixty
    assert not agreement(0.9, 0.875, 0.0, 0.005, draws=400)["agrees"]
