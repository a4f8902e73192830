"""Do the standard errors of the mutual information estimates cover? Samplers whose information is known, drawn anew.

    python benchmarks/estimators.py --out benchmarks/results --repeats 200

Writes estimators.csv, one row a sampler: estimator, sampler, n, truth (nats), mean, sd (over repeats), standard_error
(mean of the finite ones), reliable (share of the repeats that the estimator itself does not warn of), covered (share of
those whose truth lies within two standard errors; empty where none is reliable), repeats, seconds.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.integrate import quad
from scipy.stats import norm

from asym_analysis.atomic import replacing
from asym_analysis.bounds.estimators.discrete import plug_in_estimate
from asym_analysis.bounds.estimators.estimate import Estimate
from asym_analysis.bounds.estimators.gaussian import gaussian_estimate
from asym_analysis.bounds.estimators.nearest_neighbours import ksg_estimate

Draw = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]


class Sampler(NamedTuple):
    """A law of pairs, the information between them in nats, and the estimator that is tried on it."""

    estimator: str
    name: str
    n: int
    truth: float
    draw: Draw


def gaussian(d: int, rho: float, n: int) -> tuple[Draw, float]:
    """d independent pairs of Gaussians of correlation rho."""

    def draw(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        x = generator.standard_normal((n, d))
        return x, rho * x + math.sqrt(1 - rho**2) * generator.standard_normal((n, d))

    return draw, -0.5 * d * math.log1p(-(rho**2))


def table(weights: np.ndarray, n: int) -> tuple[Draw, float]:
    """Pairs of cells of a joint table."""
    joint = np.asarray(weights, dtype=float) / np.sum(weights)
    ratio = joint / (joint.sum(1, keepdims=True) * joint.sum(0))
    seen = joint > 0

    def draw(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        found = np.unravel_index(generator.choice(joint.size, n, p=joint.ravel()), joint.shape)
        return found[0], found[1]

    return draw, float((joint[seen] * np.log(ratio[seen])).sum())


def classes_in_noise(n: int) -> tuple[Draw, float]:
    """One of three classes, and twice its number in unit noise."""
    mixture = quad(
        lambda t: -(lambda p: p * math.log(p))(float(np.mean(norm.pdf(t - np.array([0.0, 2.0, 4.0]))))), -8, 12
    )[0]

    def draw(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        which = generator.integers(0, 3, (n, 1)).astype(float)
        return which, 2 * which + generator.standard_normal((n, 1))

    return draw, mixture - 0.5 * math.log(2 * math.pi * math.e)


def samplers() -> Iterator[Sampler]:
    """All of them."""
    n = 600
    for d, rho in ((1, 0.0), (1, 0.5), (1, 0.9), (2, 0.6), (3, 0.3)):
        draw, truth = gaussian(d, rho, n)
        yield Sampler("ksg", f"Gaussian, d {d}, rho {rho}", n, truth, draw)
    bent, truth = gaussian(1, 0.8, n)
    yield Sampler(
        "ksg", "cube and exponential of rho .8", n, truth, lambda g: (lambda x, y: (x**3, np.exp(y)))(*bent(g))
    )
    yield Sampler("ksg", "independent uniform", n, 0.0, lambda g: (g.random((n, 1)), g.random((n, 1))))
    draw, truth = classes_in_noise(n)
    yield Sampler("ksg", "three classes in noise", n, truth, draw)
    yield Sampler(
        "ksg", "independent Poisson(3)", n, 0.0,
        lambda g: (g.poisson(3, (n, 1)).astype(float), g.poisson(3, (n, 1)).astype(float)),
    )  # fmt: skip
    yield Sampler(
        "ksg", "half zeros, independent", n, 0.0,
        lambda g: tuple(g.standard_normal((n, 1)) * g.integers(0, 2, (n, 1)) for _ in range(2)),
    )  # fmt: skip
    same = table(np.eye(5), n)
    yield Sampler("ksg", "x = y, 5 values", n, same[1], lambda g: tuple(v[:, None].astype(float) for v in same[0](g)))
    for name, weights, size in (
        ("independent, 2 x 2", np.ones((2, 2)), 100),
        ("independent, 5 x 5", np.ones((5, 5)), 200),
        ("weak, 3 x 3", np.ones((3, 3)) + 0.3 * np.eye(3), 500),
        ("noisy copy, 4 values", 3 * np.eye(4) + 0.5, 200),
        ("noisy copy, 10 values", 5 * np.eye(10) + 0.2, 1000),
        ("noisy copy, 50 values", 32.5 * np.eye(50) + 0.35, 5000),
        ("x = y, 4 values", np.eye(4), 50),
        ("independent, 100 x 100", np.ones((100, 100)), 500),
    ):
        draw, truth = table(weights, size)
        yield Sampler("plug-in", name, size, truth, draw)
    for d, rho in ((1, 0.0), (1, 0.5), (3, 0.9), (10, 0.5), (10, 0.9)):
        draw, truth = gaussian(d, rho, n)
        yield Sampler("gaussian", f"Gaussian, d {d}, rho {rho}", n, truth, draw)


def estimate(sampler: Sampler, seed: int) -> Estimate:
    """One estimate from fresh samples."""
    x, y = sampler.draw(np.random.default_rng([seed, 7]))
    if sampler.estimator == "ksg":
        return ksg_estimate(x, y, seed=seed)
    return (plug_in_estimate if sampler.estimator == "plug-in" else gaussian_estimate)(x, y)


def row(sampler: Sampler, repeats: int) -> dict[str, object]:
    """One row of the table."""
    before = time.perf_counter()
    found = [estimate(sampler, seed) for seed in range(repeats)]
    nats = np.array([one.nats for one in found])
    errors = np.array([one.standard_error for one in found])
    trusted = np.array([one.reliable for one in found]) & np.isfinite(errors)
    inside = np.abs(nats - sampler.truth) <= 2 * errors + 1e-12
    return {
        "estimator": sampler.estimator, "sampler": sampler.name, "n": sampler.n, "truth": sampler.truth,
        "mean": nats.mean(), "sd": nats.std(ddof=1),
        "standard_error": errors[np.isfinite(errors)].mean() if np.isfinite(errors).any() else math.inf,
        "reliable": trusted.mean(), "covered": inside[trusted].mean() if trusted.any() else math.nan,
        "repeats": repeats, "seconds": round(time.perf_counter() - before, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--repeats", type=int, default=200)
    chosen = parser.parse_args()
    rows = []
    for sampler in samplers():
        rows.append(row(sampler, chosen.repeats))
        print({key: round(v, 3) if isinstance(v, float) else v for key, v in rows[-1].items()}, flush=True)
        with replacing(chosen.out / "estimators.csv") as part:
            pd.DataFrame(rows).round(4).to_csv(part, index=False)


if __name__ == "__main__":
    main()
