"""What the finite-sample predictions of the least-squares model say where their assumptions are broken.

    python benchmarks/least_squares_attacks.py

Inputs are assumed Gaussian and noise independent and of one variance. Each row breaks one of these, or takes a case at
the edge, and fits fresh samples. benchmarks/results/least_squares_attacks.csv has the predicted and the measured loss
above the noise, the stated error, and what the prediction says when it is shown the inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from asym_analysis.least_squares import LeastSquaresProblem, expected_finite_sample_loss

D_IN, D_OUT, RANK, DRAWS = 24, 12, 3, 600
RESULTS = Path(__file__).parent / "results" / "least_squares_attacks.csv"
Draw = Callable[[np.random.Generator, int, int], np.ndarray]


def gaussian(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    return rng.standard_normal((n, d))


def heavy(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    return rng.standard_t(3, (n, d)) / math.sqrt(3)


def radial(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    return rng.standard_normal((n, d)) / np.sqrt(rng.chisquare(3, (n, 1)))  # covariance 1: 3/(3-2) times 1/3


def signs(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    return rng.choice([-1.0, 1.0], (n, d))


def repeated(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    return np.repeat(rng.standard_normal((-(-n // 4), d)), 4, 0)[:n]


INPUTS: dict[str, Draw] = {
    "Gaussian": gaussian,
    "t with 3 degrees, entry by entry": heavy,
    "t with 3 degrees, sample by sample": radial,
    "signs": signs,
    "each sample four times": repeated,
}


def plain(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    return rng.standard_normal((len(x), D_OUT))


def along_outputs(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    return math.sqrt(0.1) * plain(rng, x) + math.sqrt(0.9) * rng.standard_normal((len(x), 1))


def along_samples(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    noise = plain(rng, x)
    for i in range(1, len(x)):
        noise[i] = 0.9 * noise[i - 1] + math.sqrt(1 - 0.81) * noise[i]
    return noise


def with_inputs(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    square = (x**2).sum(1, keepdims=True)
    return plain(rng, x) * np.sqrt(square / x.shape[1])


def heavy_noise(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    return rng.standard_t(5, (len(x), D_OUT)) / math.sqrt(5 / 3)


NOISES = {
    "plain": plain,
    "correlated over outputs": along_outputs,
    "correlated over samples": along_samples,
    "larger where inputs are": with_inputs,
    "t with 5 degrees": heavy_noise,
}


def problems() -> dict[str, LeastSquaresProblem]:
    rng = np.random.default_rng(0)
    delta = torch.from_numpy(rng.standard_normal((D_OUT, D_IN))) / math.sqrt(D_IN)
    low = torch.from_numpy(rng.standard_normal((D_OUT, 2)) @ rng.standard_normal((2, D_IN))) / math.sqrt(D_IN)
    falling = torch.arange(1, D_IN + 1, dtype=torch.float64) ** -1.0
    singular = falling * (torch.arange(D_IN) < 10)
    return {
        "full rank": LeastSquaresProblem(delta, falling, 0.05),
        "singular covariance": LeastSquaresProblem(delta, singular, 0.05),
        "update of rank 2": LeastSquaresProblem(low, falling, 0.05),
    }


def measured(
    problem: LeastSquaresProblem, tuned: str, n: int, inputs: Draw, noise: Callable[..., np.ndarray], seed: int
) -> tuple[float, float]:
    rng = np.random.default_rng([seed, n])
    roots = problem.eigenvalues.sqrt().numpy()
    slope = (problem.delta @ problem.eigenvectors).numpy()
    losses = []
    for _ in range(DRAWS):
        x = inputs(rng, n, D_IN) * roots
        y = x @ slope.T + math.sqrt(problem.noise_variance) * noise(rng, x / np.where(roots > 0, roots, 1))
        if tuned == "B":
            A = rng.standard_normal((RANK, D_IN))
            B = np.linalg.lstsq(x @ A.T, y, rcond=None)[0].T
        elif tuned == "A":
            B = np.linalg.qr(rng.standard_normal((D_OUT, RANK)))[0]
            A = np.linalg.lstsq(x, y @ B, rcond=None)[0].T
        else:
            full = np.linalg.lstsq(x, y, rcond=None)[0].T
            B = np.linalg.svd((x @ full.T).T, full_matrices=False)[0][:, :RANK]
            A = B.T @ full
        losses.append(float((((slope - B @ A) * roots) ** 2).sum()))
    return float(np.mean(losses)), float(np.std(losses) / math.sqrt(DRAWS))


def given(problem: LeastSquaresProblem, n: int, inputs: Draw) -> torch.Tensor:
    """One set of inputs, as a user would show them to the prediction."""
    drawn = torch.from_numpy(inputs(np.random.default_rng([1, n]), n, D_IN))
    return drawn * problem.eigenvalues.sqrt() @ problem.eigenvectors.T


def main() -> None:
    rows = []
    held = problems()
    loud = LeastSquaresProblem(held["full rank"].delta, held["full rank"].covariance, 1.0)
    settings = [("plain", name, "full rank") for name in INPUTS]
    settings += [(name, "Gaussian", "full rank") for name in NOISES if name != "plain"]
    settings += [("plain", "Gaussian", name) for name in ("singular covariance", "update of rank 2")]
    for noise, inputs, kind in settings:
        problem = loud if noise != "plain" else held[kind]  # so that its noise matters
        for tuned in ("B", "A", "both"):
            if tuned == "both" and kind != "update of rank 2":
                continue
            for n in (12, 60, 240):
                told = expected_finite_sample_loss(problem, RANK, n, tuned)  # type: ignore[arg-type]
                loss, error = measured(problem, tuned, n, INPUTS[inputs], NOISES[noise], len(rows))
                theory = told.mean - problem.irreducible
                off = abs(loss - theory) - told.error
                row = {"inputs": inputs, "noise": noise, "problem": kind, "tuned": tuned, "samples": n}
                row |= {"method": told.method, "predicted": theory, "stated_error": told.error, "measured": loss}
                shown = given(problem, n, INPUTS[inputs])
                with_inputs = expected_finite_sample_loss(problem, RANK, n, tuned, inputs=shown)  # type: ignore[arg-type]
                row |= {"told_with_inputs": with_inputs.objection or with_inputs.method}
                row |= {"standard_error": error, "ratio": loss / theory if math.isfinite(theory) else math.nan}
                rows.append(row | {"within": bool(off <= 3 * error) if math.isfinite(theory) else ""})
                print(*rows[-1].values(), sep="; ", flush=True)
    pd.DataFrame(rows).to_csv(RESULTS, index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
