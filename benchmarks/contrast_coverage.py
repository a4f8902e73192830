"""Coverage of the 95 % intervals of contrasts, and how often their p-values reject where there is no effect.

Four models of dependent pairs: additive adapter effects, effects that multiply, overlaps of simulated subspaces whose
adapters lean to their task's directions with unequal strength, and effects that multiply with tails of Student's t with
2 degrees. Writes benchmarks/results/contrast_coverage.csv: design, model, coverage (missing without an interval), width
(mean, in standard deviations of the difference), rejected (share of p-values at most .05 without any effect),
least_p.

    python benchmarks/contrast_coverage.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from asym_analysis.alignment.contrasts import contrast_pairs

DESIGNS = {
    "2 v 2": (2, 2),
    "3 v 3": (3, 3),
    "4 v 4": (4, 4),
    "3 tasks x 3": (3, 3, 3),
    "4 tasks x 2": (2, 2, 2, 2),
    "5 + 1 + 1 + 1": (5, 1, 1, 1),
    "6 + 2": (6, 2),
    "2 + 20": (2, 20),
    "2 + 8 x 1": (2, 1, 1, 1, 1, 1, 1, 1, 1),
}
Model = Callable[[np.random.Generator, np.ndarray, tuple[np.ndarray, np.ndarray], bool], np.ndarray]


def additive(generator: np.random.Generator, labels: np.ndarray, pairs: tuple, effect: bool) -> np.ndarray:
    own = generator.normal(size=len(labels))
    noise = 0.3 * generator.normal(size=len(pairs[0]))
    return own[pairs[0]] + own[pairs[1]] + noise + effect * (labels[pairs[0]] == labels[pairs[1]])


def multiplying(generator: np.random.Generator, labels: np.ndarray, pairs: tuple, effect: bool) -> np.ndarray:
    own = np.exp(0.4 * generator.normal(size=len(labels)))
    noise = 0.1 * generator.normal(size=len(pairs[0]))
    strength = own[pairs[0]] * own[pairs[1]]
    return strength * (0.3 + effect * (labels[pairs[0]] == labels[pairs[1]])) + noise


def subspaces(generator: np.random.Generator, labels: np.ndarray, pairs: tuple, effect: bool) -> np.ndarray:
    d, rank = 96, 4
    tasks = generator.normal(size=(labels.max() + 1, d, rank))
    strength = np.exp(0.5 * generator.normal(size=len(labels)))[:, None, None]
    bases = np.linalg.qr(effect * strength * tasks[labels] + generator.normal(size=(len(labels), d, rank)))[0]
    return np.linalg.norm(bases[pairs[0]].transpose(0, 2, 1) @ bases[pairs[1]], axis=(1, 2)) ** 2 / rank


def heavy(generator: np.random.Generator, labels: np.ndarray, pairs: tuple, effect: bool) -> np.ndarray:
    own = np.exp(0.3 * generator.standard_t(2, size=len(labels)).clip(-8, 8))
    noise = 0.1 * generator.standard_t(2, size=len(pairs[0]))
    return own[pairs[0]] * own[pairs[1]] * (0.3 + effect * (labels[pairs[0]] == labels[pairs[1]])) + noise


MODELS: dict[str, Model] = {
    "additive": additive,
    "multiplying": multiplying,
    "subspaces": subspaces,
    "heavy": heavy,
}


def cell(name: str, groups: tuple[int, ...], model: str, trials: int) -> dict[str, object]:
    generator = np.random.default_rng([len(name), trials, *groups, list(MODELS).index(model)])
    labels = np.repeat(np.arange(len(groups)), groups)
    pairs = np.triu_indices(len(labels), 1)
    same = labels[pairs[0]] == labels[pairs[1]]
    draw = MODELS[model]

    def stacked(count: int, effect: bool) -> np.ndarray:
        return np.stack([draw(generator, labels, pairs, effect) for _ in range(count)])

    reference = stacked(10 * trials, True)
    differences = reference[:, same].mean(1) - reference[:, ~same].mean(1)
    table = contrast_pairs(stacked(trials, True), pairs, labels, resamples=999)
    null = contrast_pairs(stacked(trials, False), pairs, labels, resamples=999)
    given = table.low.notna()
    covered = ((table.low <= differences.mean()) & (differences.mean() <= table.high))[given]
    return {
        "design": name,
        "model": model,
        "trials": trials,
        "coverage": round(float(covered.mean()), 3) if given.any() else np.nan,
        "width": round(float((table.high - table.low).mean() / differences.std()), 2),
        "rejected": round(float((null.p_value <= 0.05).mean()), 3),
        "least_p": round(float(table.least_p[0]), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "contrast_coverage.csv")
    options = parser.parse_args()
    rows = [cell(name, groups, model, options.trials) for name, groups in DESIGNS.items() for model in MODELS]
    table = pd.DataFrame(rows)
    table.to_csv(options.out, index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
