"""Every closed form against Monte Carlo, in one table: what `asym simulate --validate` prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from asym_analysis.least_squares.finite_sample import compare_finite_samples
from asym_analysis.least_squares.problem import LeastSquaresProblem
from asym_analysis.least_squares.similarity import first_step_similarity, simulate_first_step_similarity
from asym_analysis.least_squares.simulation import compare_theory
from asym_analysis.least_squares.spectra import (
    exponential,
    isotropic,
    low_rank,
    power_law,
    problem_from_energy,
    spiked,
    synthetic_problem,
)

__all__ = ["validate"]

_COLUMNS = [
    "quantity",
    "setting",
    "tuned",
    "rank",
    "method",
    "theory",
    "stated_error",
    "simulated",
    "standard_error",
    "z",
    "agrees",
]


def validate(draws: int = 2000, seed: int = 0, *, progress: Callable[[str], None] | None = None) -> pd.DataFrame:
    """Theory and simulation in more than forty settings spread over the regimes.

    Parameters
    ----------
    draws
        Random factors for each population setting; finite-sample settings use a quarter, similarities a fifth.
    seed
        Of all random numbers; the same seed gives the same table.
    progress
        Called with a sentence before each group of settings.

    Returns
    -------
    DataFrame
        `quantity` ("loss", "loss after n samples", "similarity of B"), `setting, tuned, rank, method, theory,
        stated_error, simulated, standard_error, z, agrees`. A setting agrees when theory and simulation differ by at
        most the stated error plus three Monte-Carlo standard errors.
    """
    groups: dict[str, Callable[[], Iterator[pd.DataFrame]]] = {
        "population losses": lambda: _population(draws, seed),
        "finite samples": lambda: _finite_samples(max(50, draws // 4), seed),
        "similarities": lambda: _similarities(max(50, draws // 5), seed),
    }
    tables = []
    for name, group in groups.items():
        if progress is not None:
            progress(f"{name} ...")
        tables += list(group())
    return pd.concat(tables, ignore_index=True)[_COLUMNS]


def _population(draws: int, seed: int) -> Iterator[pd.DataFrame]:
    problems: list[tuple[str, LeastSquaresProblem, list[int]]] = [
        ("isotropic, square", synthetic_problem(isotropic(48), 48, noise_variance=0.01), [4]),
        ("isotropic, d_in = 4 d_out", synthetic_problem(isotropic(96), 24), [4]),
        ("isotropic, d_out = 4 d_in", synthetic_problem(isotropic(24), 96), [4]),
        ("isotropic, rank-one update", synthetic_problem(isotropic(48), 48, delta_rank=1), [4]),
        ("power law 0.5, update blind to the inputs", synthetic_problem(power_law(96, 0.5), 64), [1, 8]),
        ("power law 1, update blind to the inputs", synthetic_problem(power_law(128, 1.0), 128), [1, 2, 8, 32]),
        ("power law 1.5, update blind to the inputs", synthetic_problem(power_law(96, 1.5), 64), [2, 8]),
        ("power law 2, update blind to the inputs", synthetic_problem(power_law(96, 2.0), 64), [1, 4]),
        ("power law 1, equal energies", synthetic_problem(power_law(96, 1.0), 96, alignment=0.0), [8]),
        ("power law 1, update against the inputs", synthetic_problem(power_law(96, 1.0), 96, alignment=-1.0), [2, 8]),
        ("power law 1, update along the inputs", synthetic_problem(power_law(96, 1.0), 64, alignment=2.0), [4]),
        ("power law 1, bottom half only", _bottom_half(), [4]),
        ("power law 1, rank-two update", synthetic_problem(power_law(96, 1.0), 64, delta_rank=2), [4]),
        ("four spikes of 10", synthetic_problem(spiked(96, 4, 10.0), 64), [2, 8]),
        ("exponential 0.2", synthetic_problem(exponential(64, 0.2), 64), [4]),
        ("inputs of rank 5", synthetic_problem(low_rank(40, 5), 30, noise_variance=0.02), [3, 6]),
        ("wrong frozen bias, shifted inputs", _shifted(), [4]),
    ]
    for setting, problem, ranks in problems:
        table = compare_theory(problem, ranks, draws=draws, seed=seed, tuned=("A", "B"))
        joint = compare_theory(problem, ranks[-1:], draws=10, seed=seed, tuned=("both",))
        yield (
            pd.concat([table, joint], ignore_index=True)
            .rename(columns={"loss": "simulated"})
            .assign(quantity="loss", setting=setting)
        )


def _finite_samples(draws: int, seed: int) -> Iterator[pd.DataFrame]:
    isotropic_problem = synthetic_problem(isotropic(30), 20, noise_variance=0.05)
    graded = synthetic_problem(power_law(30, 1.0), 20, noise_variance=0.05)
    for setting, problem, sizes in (
        ("isotropic", isotropic_problem, [15, 60, 120]),
        ("power law 1", graded, [15, 60, 120]),
    ):
        table = compare_finite_samples(problem, 4, sizes, draws=draws, seed=seed)
        names = [f"{setting}, n = {count}" for count in table["samples"]]
        yield table.rename(columns={"loss": "simulated"}).assign(quantity="loss after n samples", setting=names)


def _similarities(pairs: int, seed: int) -> Iterator[pd.DataFrame]:
    for exponent in (0.5, 1.0, 1.5):
        gradient = np.diag(power_law(128, exponent))
        for rank in (4, 8):
            overlaps = simulate_first_step_similarity(gradient, rank, pairs, seed)
            theory = first_step_similarity(gradient, rank)
            plain = first_step_similarity(gradient, rank, corrected=False)
            error = float(overlaps.std(ddof=1)) / len(overlaps) ** 0.5
            difference = float(overlaps.mean()) - theory
            stated = abs(plain - theory) / 2
            yield pd.DataFrame(
                {
                    "quantity": ["similarity of B"],
                    "setting": [f"gradient spectrum i^-{exponent}, after one step"],
                    "tuned": ["B"],
                    "rank": [rank],
                    "method": ["deterministic equivalent"],
                    "theory": [theory],
                    "stated_error": [stated],
                    "simulated": [float(overlaps.mean())],
                    "standard_error": [error],
                    "z": [difference / error],
                    "agrees": [abs(difference) <= stated + 3 * error],
                }
            )


def _bottom_half() -> LeastSquaresProblem:
    spectrum = power_law(96, 1.0)
    return problem_from_energy(spectrum, np.where(np.arange(96) < 48, 0.0, spectrum), 96)


def _shifted() -> LeastSquaresProblem:
    plain = synthetic_problem(power_law(48, 1.0), 32, noise_variance=0.01)
    rng = np.random.default_rng(1)
    return LeastSquaresProblem.with_frozen_bias(
        plain.delta,
        plain.covariance,
        plain.noise_variance,
        mean=rng.standard_normal(48) * 0.2,
        bias_offset=rng.standard_normal(32) * 0.2,
    )
