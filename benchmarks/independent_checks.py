"""Every figure that an independent check of the geometry gave, measured again: one row each, with what it has to reach.

    python benchmarks/independent_checks.py

The oracles share no code with the package: 60-digit arithmetic, dense decompositions, brute-force fits, gradient
descent step by step, Monte Carlo from Gaussian matrices. The 60-digit formulas stand in the repository's tests.
benchmarks/results/independent_checks.csv has the rows. Takes two minutes of one core.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import mpmath
import numpy as np
import pandas as pd
import torch

from asym_analysis import Adapter, compare_subspaces
from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.alignment.aggregation import aggregation_error, merge_interference
from asym_analysis.alignment.intruders import leading_vectors
from asym_analysis.alignment.shared_energy import shared_energy
from asym_analysis.alignment.sharing import joint_diagonalization
from asym_analysis.alignment.weight_svd import weight_svd
from asym_analysis.least_squares import (
    LeastSquaresProblem,
    compare_finite_samples,
    compare_theory,
    descent_path,
    simulated_win_probability,
)
from asym_analysis.least_squares.spectra import exponential, isotropic, low_rank, power_law, spiked, synthetic_problem
from asym_analysis.least_squares.theory import win_probability
from asym_analysis.subspaces.measures import MEASURES

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
Row = tuple[str, int, str, str, float]  # quantity, cases, held to, what it has to reach, found


def digits() -> Iterator[Row]:
    sys.path.insert(0, str(ROOT))
    from tests.subspaces import test_measures_digits as exact

    for dtype, least in ((torch.float64, "1e-13"), (torch.float32, "1e-6")):
        largest, cases = 0.0, 0
        for kind in exact.KINDS:
            first, second = (rows.to(dtype) for rows in exact.inputs(kind))
            with mpmath.workdps(exact.DIGITS):
                x, y = exact.Exact(first), exact.Exact(second)
                condition = max(float(one.values[0] / one.values[-1]) for one in (x, y))  # noqa: PD011
                for name, formula in exact.FORMULAS.items():
                    if name == "pwcca" and kind in ("must meet", "as many rows as columns", "more rows than columns"):
                        continue
                    expected, found = float(formula(x, y)), float(MEASURES[name](first, second))
                    cases += 1
                    if np.isfinite(expected):
                        off = abs(found - expected) / max(abs(expected), 1) / max(1.0, min(condition, 1e4) / 10)
                        largest = max(largest, off)
        name = str(dtype).removeprefix("torch.")
        yield f"measures, {name}: largest difference", cases, "60-digit arithmetic", least, largest


def nulls() -> Iterator[Row]:
    """Mean and standard deviation of the null distribution against pairs of Gaussian matrices."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 3, 10), (4, 7, 10), (8, 8, 64), (5, 2, 6), (1, 1, 3), (4, 4, 4), (16, 8, 256))
    for name in ("overlap", "linear_cka", "rv", "weighted_overlap", "cosine"):
        measure, worst = MEASURES[name], 0.0
        for p, q, d in shapes:
            spectra = [torch.ones(p), torch.ones(q)]
            count = 90
            if name in ("rv", "cosine"):  # of what each adapter's own spectrum is known by
                if min(p, q) >= d:
                    continue
                ranks = [p if i % 2 else q for i in range(count)]
                runs = [
                    Adapter.from_factors(
                        {"q": (torch.randn(r, d, generator=generator), torch.randn(d + 3, r, generator=generator))},
                        name=str(i),
                    )
                    for i, r in enumerate(ranks)
                ]
                frame = compare_subspaces(runs, measure=name).frame
                scores = (frame.value - frame.null_mean) / frame.null_std
                worst = max(worst, abs(float(scores.mean())), abs(float(scores.std()) - 1))
                continue
            rows = [
                torch.linalg.qr(torch.randn(count, d, k, generator=generator, dtype=torch.float64))[0].mT
                for k in (p, q)
            ]
            values = measure.compare(measure.prepare(rows[0]), measure.prepare(rows[1])).numpy()
            null = measure.null(*(s.numpy() for s in spectra), d).null
            if float(null.std) < 1e-9:
                worst = max(worst, float(np.abs(values - null.mean).max()))
                continue
            worst = max(worst, abs(values.std() / float(null.std) - 1), abs(values.mean() - null.mean) / null.std)
        yield f"null of {name}: mean and deviation, in deviations", len(shapes), "Gaussian matrices", ".1", worst


def intruders() -> Iterator[Row]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((150, 150), (200, 120), (120, 200), (30, 20), (12, 9))
    worst, flags, cases = 0.0, 0, 0
    for rows, columns in shapes:
        for decay, rank, scaling in ((0.0, 4, -0.2), (0.5, 6, 0.3), (1.0, 8, 1.0)):
            scale = torch.arange(1, columns + 1, dtype=torch.float64) ** -decay
            weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64) * scale
            A = torch.randn(rank, columns, generator=generator, dtype=torch.float64)
            B = torch.randn(rows, rank, generator=generator, dtype=torch.float64)
            U, _, _ = np.linalg.svd(weight.numpy(), full_matrices=False)
            left, _, _ = np.linalg.svd((weight + scaling * B @ A).numpy(), full_matrices=False)
            cosines = np.abs(U.T @ left[:, :8]).max(0)
            _, vectors = leading_vectors(*weight_svd(weight), LowRankUpdate(A, B, scaling=scaling), 8)
            found = np.abs(vectors[: min(rows, columns)]).max(0)
            worst = max(worst, float(np.abs(found - cosines).max()))
            flags += int(((found < 0.5) != (cosines < 0.5)).sum())
            cases += 1
    yield "intruders: largest difference of a cosine", cases, "singular values of the whole sum", "3e-5", worst
    yield "intruders: flags that differ", cases * 8, "the same", "0", flags


def dense() -> Iterator[Row]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    runs = [Adapter.from_factors({"q": (draw(3, 20), draw(16, 3))}, scaling=1 + i, name=str(i)) for i in range(5)]
    deltas = torch.stack([run["q"].delta() for run in runs])
    As, Bs = torch.stack([run["q"].A for run in runs]), torch.stack([run["q"].scaling * run["q"].B for run in runs])
    mean = deltas.mean(0)
    found = aggregation_error(runs).frame.iloc[0]
    off = abs(found.both_averaged - float((mean - Bs.mean(0) @ As.mean(0)).norm() / mean.norm()))
    yield "aggregation_error", 5, "dense matrices", "1e-8", off
    weights = [1.0, 0.5, -0.3, 2.0, 1.0]
    merged = sum(w * d for w, d in zip(weights, deltas, strict=True))
    frame = merge_interference(runs, weights).frame
    expected = [float((merged * d).sum() / d.norm() / merged.norm()) for d in deltas]
    yield "merge_interference", 5, "dense matrices", "1e-8", float(np.abs(frame.cosine - expected).max())
    found = shared_energy(runs, [1, 3, 6], draws=2).frame.set_index(["quantity", "rank"]).energy
    off = 0.0
    for name, rows in (
        ("A", torch.cat([A / A.norm() for A in As])),
        ("inputs", torch.cat([d / d.norm() for d in deltas])),
    ):
        values = torch.linalg.svdvals(rows).square()
        off = max(off, *(abs(float(found[name, k]) - float(values[:k].sum() / values.sum())) for k in (1, 3, 6)))
    yield "shared_energy", 6, "dense singular values", "1e-8", off
    fit = joint_diagonalization(runs, 4).modules["q"]
    U, V = fit.U.numpy(), fit.V.numpy()
    targets = [(d / d.norm()).numpy() for d in deltas]
    errors = [np.linalg.norm(t - U @ (U.T @ t @ V) @ V.T) ** 2 for t in targets]
    off = float(np.abs(np.array(errors) - np.asarray(fit.errors)).max())
    yield "joint_diagonalization, its errors", 5, "dense matrices", "1e-8", off
    best = min(_restart(targets, 4, seed) for seed in range(6))
    yield "joint_diagonalization, error over the best of six restarts", 6, "own iterations", "1", sum(errors) / best
    falls = float(np.maximum(-np.diff(fit.history), 0).max())
    yield "joint_diagonalization, largest fall of the captured energy", len(fit.history), "-", "1e-9", falls


def _restart(targets: list[np.ndarray], rank: int, seed: int) -> float:
    """Sum of the errors of the best bases, by leading eigenvectors in turn from a random one."""
    rng = np.random.default_rng(seed)
    V = np.linalg.qr(rng.standard_normal((targets[0].shape[1], rank)))[0]
    for _ in range(500):
        U = np.linalg.eigh(sum(t @ V @ V.T @ t.T for t in targets))[1][:, -rank:]
        V = np.linalg.eigh(sum(t.T @ U @ U.T @ t for t in targets))[1][:, -rank:]
    return float(sum(1 - np.linalg.norm(U.T @ t @ V) ** 2 for t in targets))


def population() -> Iterator[Row]:
    cases = [
        (synthetic_problem(spiked(40, 2, 1e4), 20, seed=1), 4),
        (synthetic_problem(spiked(40, 5, 1e3), 20, seed=2), 4),
        (synthetic_problem(power_law(60, 4.0), 20, seed=3), 5),
        (synthetic_problem(power_law(60, 0.3), 90, seed=4), 5),
        (synthetic_problem(exponential(30, 0.5), 12, seed=5), 3),
        (synthetic_problem(isotropic(25), 10, seed=6), 4),
        (synthetic_problem(isotropic(8), 10, seed=7), 7),
        (synthetic_problem(power_law(3, 1.0), 5, seed=8), 2),
        (synthetic_problem(power_law(3, 1.0), 5, seed=9), 1),
        (synthetic_problem(low_rank(30, 6), 12, seed=10), 3),
        (synthetic_problem(low_rank(30, 6), 12, seed=11), 8),
        (synthetic_problem(power_law(30, 1.0), 12, delta_rank=1, seed=12), 3),
        (synthetic_problem(power_law(30, 1.0), 12, delta_rank=1, alignment=0.0, seed=13), 3),
        (synthetic_problem(power_law(30, 1.0), 12, delta_rank=2, noise_variance=0.5, seed=14), 3),
        (synthetic_problem(power_law(20, 2.0), 20, seed=15), 19),
        (synthetic_problem(power_law(100, 1.0), 6, seed=16), 5),
    ]
    rng = np.random.default_rng(17)
    delta, mean = rng.standard_normal((6, 12)), rng.standard_normal(12)
    shifted = LeastSquaresProblem.with_frozen_bias(
        delta, np.diag(power_law(12, 1.0)), 0.1, mean=mean, bias_offset=rng.standard_normal(6)
    )
    cases.append((shifted, 3))
    agree, total, wins = 0, 0, 0.0
    for place, (problem, rank) in enumerate(cases):
        frame = compare_theory(problem, rank, tuned=("A", "B"), draws=2000, seed=place).frame
        agree, total = agree + int(frame.agrees.sum()), total + len(frame)
        share, error = simulated_win_probability(problem, rank, 2000, seed=place)
        wins = max(wins, abs(win_probability(problem, rank) - share) - 2 * error)
    yield "population losses within the stated error and three standard errors", total, "draws", str(total), agree
    yield "win probability, largest difference beyond two standard errors", len(cases), "draws", ".013", wins


def samples() -> Iterator[Row]:
    agree, total = 0, 0
    for place, (kind, sizes) in enumerate(
        (
            (synthetic_problem(isotropic(30), 10, noise_variance=0.3, seed=1), [10, 20, 60]),
            (synthetic_problem(power_law(30, 1.0), 10, noise_variance=0.3, seed=2), [10, 60]),
            (synthetic_problem(low_rank(30, 8), 10, noise_variance=0.3, seed=3), [5, 12, 60]),
        )
    ):
        frame = compare_finite_samples(kind, 3, sizes, tuned=("A",), draws=400, seed=place).frame
        agree, total = agree + int(frame.agrees.sum()), total + len(frame)
        if place < 2:
            frame = compare_finite_samples(kind, 3, [40], tuned=("B",), draws=400, seed=place).frame
            agree, total = agree + int(frame.agrees.sum()), total + len(frame)
    yield "losses after n samples within the stated error and three standard errors", total, "fits", str(total), agree


def descent() -> Iterator[Row]:
    problem = synthetic_problem(power_law(12, 1.0), 8, noise_variance=0.2, seed=1)
    rng = np.random.default_rng(0)
    S, delta = problem.covariance.numpy(), problem.delta.numpy()
    for frozen in ("A", "B"):
        shape = (3, 12) if frozen == "A" else (8, 3)
        fixed = rng.standard_normal(shape) / 4
        moving = np.zeros((8, 3) if frozen == "A" else (3, 12))
        told = descent_path(problem, learning_rate=0.05, steps=60, **{frozen: torch.from_numpy(fixed)}).frame.loss
        losses = []
        for _ in range(61):
            left = delta - (moving @ fixed if frozen == "A" else fixed @ moving)
            losses.append(problem.irreducible + np.trace(left @ S @ left.T))
            moving += 0.05 * (left @ S @ fixed.T if frozen == "A" else fixed.T @ left @ S)
        off = float(np.abs(told.to_numpy() / np.array(losses) - 1).max())
        yield f"descent with {frozen} frozen: largest relative difference", 61, "gradient descent", "1e-12", off


def movements() -> Iterator[Row]:
    table = pd.read_csv(RESULTS / "drift_simulated.csv")
    recorded = table[table.recorded]
    share = recorded.within_2.sum() / recorded.told.sum()
    yield "movements with a record: share within two errors", int(recorded.told.sum()), "true movement", ".978", share
    trained = pd.read_csv(RESULTS / "drift_trained.csv").dropna(subset=["value"]).query("recorded")
    scores = ((trained.value - trained.true) / trained.std_error).abs()
    yield (
        "trained movements with a record: share beyond four errors",
        len(scores),
        "true movement",
        ".002",
        float((scores > 4).mean()),
    )


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for part in (digits, nulls, intruders, dense, population, samples, descent, movements):
        for row in part():
            rows.append(row)
            print(*row, sep="; ", flush=True)
    table = pd.DataFrame(rows, columns=["quantity", "cases", "held_to", "has_to_reach", "found"])
    table.to_csv(RESULTS / "independent_checks.csv", index=False, float_format="%.3g")


if __name__ == "__main__":
    main()
