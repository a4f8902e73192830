"""Every closed form against Monte Carlo, in one table: what `asym simulate --validate` prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from asym_analysis.least_squares.comparison import agreement, compare_theory, summarize_agreement
from asym_analysis.least_squares.finite_sample import compare_finite_samples
from asym_analysis.least_squares.problem import LeastSquaresProblem
from asym_analysis.least_squares.similarity import (
    first_step_similarity,
    simulate_first_step_similarity,
    simulate_trained_similarity,
    trained_similarity,
)
from asym_analysis.least_squares.spectra import (
    exponential,
    isotropic,
    low_rank,
    power_law,
    problem_from_energy,
    spiked,
    synthetic_problem,
)
from asym_analysis.results import TableResult, settings_of
from asym_analysis.vocabulary import Factor, whole

__all__ = ["Validation", "validate"]

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
    "difference",
    "tolerance",
    "z",
    "agrees",
]


@dataclass(frozen=True, eq=False, repr=False)
class Validation(TableResult):
    """Every closed form beside its simulation.

    Attributes
    ----------
    frame
        `quantity` ("loss", "loss after n samples", "similarity"), `setting, tuned, rank, method, theory, stated_error,
        simulated, standard_error, difference, tolerance, z, agrees`. A setting agrees when theory and simulation differ
        by at most the tolerance: the stated error plus three Monte-Carlo standard errors, plus rounding.
    settings
        `draws`, `seed` and versions.
    """

    _plot: ClassVar[str | None] = "least_squares:plot_validation"

    def summary(self) -> pd.DataFrame:
        """How many settings agree.

        Returns
        -------
        DataFrame
            One row a quantity: `quantity, settings` (how many), `agree` (how many of them), `largest_z`.
        """
        return summarize_agreement(self.frame, "quantity")


def validate(draws: int = 2000, seed: int = 0, *, progress: bool = False) -> Validation:
    """Theory and simulation in more than forty settings.

    Parameters
    ----------
    draws : int, default 2000
        Random factors for each population setting; finite-sample settings use a quarter, similarities a fifth.
    seed : int, default 0
        Of all random numbers; the same seed gives the same table.
    progress : bool, default False
        Show a progress bar.

    Returns
    -------
    Validation
        With the columns listed there.

    Raises
    ------
    ValueError
        If `draws` is below 2 or `seed` is negative.

    Examples
    --------
    >>> validate(draws=50).summary().columns.tolist()
    ['quantity', 'settings', 'agree', 'largest_z']
    """
    draws, seed = whole(draws, "draws", least=2), whole(seed, "seed", least=0)
    groups: dict[str, Callable[[], Iterator[pd.DataFrame]]] = {
        "population losses": lambda: _population(draws, seed),
        "finite samples": lambda: _finite_samples(max(50, draws // 4), seed),
        "similarities": lambda: _similarities(max(50, draws // 5), seed),
    }
    tables = []
    with tqdm(groups.items(), disable=not progress) as bar:
        for name, group in bar:
            bar.set_description(name)
            tables += list(group())
    return Validation(pd.concat(tables, ignore_index=True)[_COLUMNS], settings_of(draws=draws, seed=seed))


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
        table = compare_theory(problem, ranks, draws=draws, seed=seed, tuned=("A", "B")).frame
        joint = compare_theory(problem, ranks[-1:], draws=10, seed=seed, tuned="both").frame
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
        table = compare_finite_samples(problem, 4, sizes, draws=draws, seed=seed).frame
        names = [f"{setting}, n = {count}" for count in table["samples"]]
        yield table.rename(columns={"loss": "simulated"}).assign(quantity="loss after n samples", setting=names)
    for update_rank in (2, 4):
        problem = synthetic_problem(power_law(24, 0.5), 16, noise_variance=0.002, delta_rank=update_rank)
        table = compare_finite_samples(
            problem, 4, [500, 2000], tuned="both", draws=max(20, draws // 5), seed=seed
        ).frame
        names = [f"update of rank {update_rank}, n = {count}" for count in table["samples"]]
        yield table.rename(columns={"loss": "simulated"}).assign(quantity="loss after n samples", setting=names)


def _similarities(pairs: int, seed: int) -> Iterator[pd.DataFrame]:
    for exponent in (0.5, 1.0, 1.5):
        gradient = np.diag(power_law(128, exponent))
        for rank in (4, 8):
            overlaps = simulate_first_step_similarity(gradient, rank, pairs, seed)
            theory = first_step_similarity(gradient, rank)
            plain = first_step_similarity(gradient, rank, corrected=False)
            setting = f"gradient spectrum i^-{exponent}, B after one step"
            yield _similarity(setting, "B", rank, theory, abs(plain - theory) / 2, overlaps)
    problem = synthetic_problem(power_law(48, 1.0), 40)
    gradients = {"B": problem.delta @ problem.covariance, "A": problem.delta.T}
    trained: Factor
    for trained in ("A", "B"):
        overlaps = simulate_trained_similarity(problem, 4, trained, pairs, seed)
        theory = trained_similarity(problem, 4, trained)
        plain = first_step_similarity(gradients[trained], 4, corrected=False)
        setting = f"power law 1, {trained} fully trained"
        yield _similarity(setting, trained, 4, theory, abs(plain - theory) / 2, overlaps)


def _similarity(
    setting: str, tuned: Factor, rank: int, theory: float, stated: float, overlaps: np.ndarray
) -> pd.DataFrame:
    error, simulated = float(overlaps.std(ddof=1)) / len(overlaps) ** 0.5, float(overlaps.mean())
    row = {
        "quantity": "similarity",
        "setting": setting,
        "tuned": tuned,
        "rank": rank,
        "method": "deterministic equivalent",
        "theory": theory,
        "stated_error": stated,
        "simulated": simulated,
        "standard_error": error,
    }
    return pd.DataFrame([row | agreement(simulated, theory, stated, error, len(overlaps))])


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
